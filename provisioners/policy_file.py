"""Reads the site's policy, if it is what only root can have written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from farkernel.provisioners.errors import PolicyUnusable
from farkernel.provisioners.policy import POLICY, TELL_SUPPORT, parse_policy
from farkernel.provisioners.policy_check import InForce

_LONGEST = 2**20
"""Bytes of a policy at most."""

TRUSTED = "It and its directory have to be root's, and writable for nobody else."


@dataclass(frozen=True)
class Found:
    """What lies at the place of a policy.

    :param text: what the file says
    :param trouble: why it is not to be read, or not to be trusted; empty if it is
    """

    text: str = ""
    trouble: str = ""


def site_policy() -> InForce | None:
    """Return the policy of this host; None if the site has none.

    :raises PolicyUnusable: there is one, and it cannot be read, trusted or understood
    """
    return in_force(find_policy(POLICY), source=POLICY)


def in_force(found: Found | None, *, source: str) -> InForce | None:
    """Return the policy that was found; raises as `site_policy`."""
    if found is None:
        return None
    if found.trouble:
        raise PolicyUnusable(
            f"The policy of this site, {source}, cannot be used: {found.trouble}.",
            hint=f"{TRUSTED} {TELL_SUPPORT}",
        )
    return InForce(parse_policy(found.text, source=source), source)


def find_policy(path: str, *, owner: int = 0) -> Found | None:
    """Look at a policy and at its directory; None if there is none.

    :param owner: the user id that both have to have
    """
    directory = os.path.dirname(path)  # noqa: PTH120
    try:
        if trouble := _distrust(os.lstat(directory), owner, directory, stat.S_ISDIR):
            return Found(trouble=trouble)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
        return Found(trouble=why)
    try:
        if trouble := _distrust(os.fstat(file), owner, path, stat.S_ISREG):
            return Found(trouble=trouble)
        with os.fdopen(file, "rb", closefd=False) as opened:
            data = opened.read(_LONGEST + 1)
        return Found(trouble="it is too long") if len(data) > _LONGEST else Found(data.decode())
    except (OSError, UnicodeDecodeError) as error:
        return Found(trouble=str(error))
    finally:
        os.close(file)


def _distrust(status: os.stat_result, owner: int, path: str, is_it: Callable[[int], bool]) -> str:
    if not is_it(status.st_mode):
        return f"{path} is neither a plain file nor, above it, a plain directory"
    if status.st_uid != owner:
        return f"{path} belongs to user {status.st_uid}, not to root"
    if status.st_mode & 0o022:
        return f"{path} can be written by others than root (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""
