"""Why a user's ssh keys may not have been taken: certificates that are out of date, keys that nobody can use."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_private_key, load_ssh_public_identity

USUAL_KEYS = tuple(f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk"))
"""The files that count where none is named (ssh_config(5), IdentityFile)."""

_PUBLIC = re.compile(rb"(ssh|ecdsa|sk)-\S+ ")


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a key.

    :param what: part of a sentence
    :param hint: a sentence: what to do
    """

    what: str
    hint: str


def existing(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files that there are; ssh passes over the others, too."""
    return [path for path in (Path(name).expanduser() for name in paths) if path.is_file()]


def find_flaw(identities: Sequence[str], certificates: Sequence[str], *, passphrases: bool = True) -> Flaw | None:
    """Look at the user's keys and certificates, and return what keeps one from being used.

    :param identities: the files with keys that the configuration names (IdentityFile); the usual ones if there are none
    :param certificates: the same for certificates (CertificateFile)
    :param passphrases: whether a key with one is no use outside the agent, since nobody is asked for it
    """
    keys = existing(identities or USUAL_KEYS)
    beside = [key.with_name(f"{key.name}-cert.pub") for key in keys]
    flaws = [_of_certificate(path, time.time()) for path in existing(dict.fromkeys([*certificates, *map(str, beside)]))]
    flaws += [_of_key(path) for path in keys] if passphrases else []
    return next((flaw for flaw in flaws if flaw), None)


def _of_certificate(path: Path, now: float) -> Flaw | None:
    try:
        certificate = load_ssh_public_identity(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(certificate, SSHCertificate):
        return None
    if now >= certificate.valid_before:
        hint = f"Get a new one, the way you got this one (at NERSC: sshproxy); `ssh-keygen -L -f {path}` shows it."
        return Flaw(f"your certificate {path} has expired at {_when(certificate.valid_before)}", hint)
    if now < certificate.valid_after:
        hint = "See that the clock here is right, or wait."
        return Flaw(f"your certificate {path} is not valid before {_when(certificate.valid_after)}", hint)
    return None


def _of_key(path: Path) -> Flaw | None:
    try:
        load_ssh_private_key(path.read_bytes(), None)
    except TypeError:  # it has a passphrase, and none was given
        hint = f"Put it into the agent: `ssh-add {path}` (after `eval $(ssh-agent)`, if there is no agent)."
        return Flaw(f"your key {path} has a passphrase, and counts only while it is in the agent", hint)
    except OSError as error:
        return Flaw(f"your key {path} cannot be read ({error.strerror})", f"`ls -l {path}` shows whose it is.")
    except UnsupportedAlgorithm:
        return None
    except ValueError:
        if _PUBLIC.match(path.read_bytes()):  # of one that is in the agent
            return None
        hint = f"Put the right one there, or remove it; `ssh-keygen -y -f {path}` shows what is wrong with it."
        return Flaw(f"your key {path} is none that can be used", hint)
    return None


def _when(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"  # noqa: DTZ006 (shown to the user)
