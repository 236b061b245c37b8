"""Logging in by ssh: the way to a host as the user's configuration has it, and why there is none.

The configuration counts (ssh_config(5), as far as asyncssh reads it): names, ports, jump hosts, keys, certificates and
the agent. A host whose key is not in known_hosts is not talked to.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncssh
from asyncssh import SSHClientConnection, SSHClientConnectionOptions

from farkernel.provisioners.errors import (
    HostKeyChanged,
    HostKeyUnknown,
    HostNotFound,
    LoginDenied,
    LoginFailed,
)
from farkernel.provisioners.ssh_keys import USUAL_KEYS, existing, find_flaw
from farkernel.provisioners.ssh_questions import CONNECT_TIMEOUT, Questions

_CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_KNOWN_HOSTS_OF_ALL = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

_KEEPALIVE, _MISSED = 5, 3
"""Seconds between two questions to the other side, and how many without an answer mean that it is gone."""

_WITH_PORT = re.compile(r"([^:]+):(\d+)")
"""A host and a port, as scp(1) and others have it, and an IPv6 address has not."""

_CIPHER = "aes128-gcm@openssh.com"
"""Half as fast again as asyncssh's own choice."""


@dataclass(frozen=True)
class _Hop:
    """One host on the way, as the user's configuration has it."""

    name: str
    options: SSHClientConnectionOptions
    known_hosts: list[str]

    @property
    def host(self) -> str:
        return str(self.options.host_key_alias or self.options.host)

    @property
    def address(self) -> str:
        return f"{self.options.host}:{self.options.port}"


async def connect(
    login: str, address: tuple[str, int] | None, questions: Questions, *, to: tuple[str, ...] = ()
) -> SSHClientConnection:
    """Connect by way of the jump hosts that the user's configuration names.

    :param address: where the host was found before
    :param to: where this one is a jump host to
    :raises LoginFailed: it cannot be had
    """
    if login in to:
        raise LoginFailed(
            f"There can be no ssh connection to {to[0]}: the way to {login} leads by {login} itself.",
            hint=f"Correct ProxyJump in ~/.ssh/config until `ssh {login} hostname` works.",
        )
    hop = await asyncio.to_thread(_hop, login, None, questions)
    via: SSHClientConnection | None = None
    jumps = hop.options.tunnel
    try:
        for jump in jumps.split(",") if isinstance(jumps, str) and jumps.lower() != "none" else ():
            via = await _hop_over(jump, via, questions, to=(*to, login))
        return await _make_one(hop, via, None if via or hop.options.proxy_command else address, questions)
    except BaseException:
        if via:
            await close(via)
        raise


async def _hop_over(
    jump: str, via: SSHClientConnection | None, questions: Questions, *, to: tuple[str, ...]
) -> SSHClientConnection:
    jump = jump.strip().removeprefix("ssh://")  # ssh_config(5), ProxyJump
    name, _, port = jump.rpartition(":") if ":" in jump else (jump, "", "")
    if via is None and not port:
        return await connect(name, None, questions, to=to)
    hop = await asyncio.to_thread(_hop, name, int(port) if port.isdecimal() else None, questions)
    return await _make_one(hop, via, None, questions)


def _hop(login: str, port: int | None, questions: Questions) -> _Hop:
    """Read the user's configuration for a host.

    :raises LoginFailed: it does not make sense, or switches the check of host keys off
    """
    user, at, host = login.rpartition("@")
    if not host or "/" in login or (at and not user):
        raise HostNotFound(f'There is no host "{login}".', hint="Write [user@]host, as for ssh.")
    if found := _WITH_PORT.fullmatch(host):
        name, number = found.groups()
        port_too = "" if number == "22" else f", and into ~/.ssh/config: Host {name}, and Port {number} below it"
        raise HostNotFound(
            f"There is no host {host}: a port is no part of its name.",
            hint=f"Write {login.removesuffix(f':{number}')}{port_too}.",
        )
    given: dict[str, Any] = {
        "host": host,
        "config": _existing(_CONFIGS),
        "connect_timeout": CONNECT_TIMEOUT,
        "keepalive_interval": _KEEPALIVE,
        "keepalive_count_max": _MISSED,
    }
    given |= {"username": user} if user else {}
    given |= {"port": port} if port else {}
    try:
        options = SSHClientConnectionOptions(**given, client_keys=None)
        known = _known_hosts(host, options)
        more: dict[str, Any] = {"known_hosts": known or b"", **_keys(options), **questions.options}
        if not options.config.get("Ciphers"):
            usual = [algorithm.decode() for algorithm in options.encryption_algs or ()]
            more["encryption_algs"] = [_CIPHER, *(name for name in usual if name != _CIPHER)]
        return _Hop(host, SSHClientConnectionOptions(**given, **more, client_factory=questions.client(host)), known)
    except (OSError, ValueError) as error:  # asyncssh's own about configurations and keys are ValueErrors
        raise LoginFailed(
            f"There can be no ssh connection to {host}: your ssh configuration, or a file of its, cannot be used.",
            said=str(error),
            hint=f"Correct ~/.ssh/config; where `ssh {login} hostname` works, write that place more plainly: farkernel "
            "reads less than ssh does.",
        ) from error


def _existing(paths: Sequence[str]) -> list[str]:
    return [str(path) for path in existing(paths)]


def _named(options: SSHClientConnectionOptions, key: str) -> Sequence[str]:
    return options.config.get(key, ())  # type: ignore[return-value]


def _keys(options: SSHClientConnectionOptions) -> dict[str, Any]:
    """Return the user's keys and certificates, without those that are not there or cannot be used, as ssh does.

    A key with a passphrase is left to the agent where nobody can be asked.
    """
    identities, certificates = _named(options, "IdentityFile"), _named(options, "CertificateFile")
    paths, only = _existing(identities or USUAL_KEYS), bool(options.config.get("IdentitiesOnly"))
    usable = [path for path in paths if _is_usable(path, only)]
    keys: dict[str, Any] = {}
    if identities or usable != paths:
        # asyncssh takes an empty list for the usual keys, and fails at the first of them that it cannot use
        keys = {"client_keys": usable or iter(()), "ignore_encrypted": True}
    return keys | ({"client_certs": _existing(certificates)} if certificates else {})


def _is_usable(path: str, only: bool) -> bool:
    """Whether asyncssh can do something with a key.

    :param only: whether a public key says which of the agent's counts (ssh_config(5), IdentitiesOnly)
    """
    try:
        asyncssh.load_keypairs(path, skip_public=only, ignore_encrypted=True)
    except (OSError, ValueError):
        return False
    return True


def _known_hosts(host: str, options: SSHClientConnectionOptions) -> list[str]:
    """Return the files with the keys of hosts (ssh_config(5), UserKnownHostsFile and GlobalKnownHostsFile)."""
    if options.known_hosts is None:
        raise LoginFailed(
            f"The ssh configuration for {host} says UserKnownHostsFile none: whoever answers would be believed.",
            hint="Remove that from ~/.ssh/config: farkernel sends no kernel to a host whose key it does not know.",
        )
    users: Sequence[str] = options.config.get("UserKnownHostsFile", _KNOWN_HOSTS)  # type: ignore[assignment]
    everybodys: Sequence[str] = options.config.get("GlobalKnownHostsFile", _KNOWN_HOSTS_OF_ALL)  # type: ignore[assignment]
    return _existing([*users, *everybodys])


async def _make_one(
    hop: _Hop, via: SSHClientConnection | None, address: tuple[str, int] | None, questions: Questions
) -> SSHClientConnection:
    """Connect to one host.

    :param via: the connection that leads there
    """
    try:
        async with questions.within(CONNECT_TIMEOUT):
            sock = await _dial(address) if address else None
            more: dict[str, Any] = {"sock": sock} if sock else {"tunnel": via}
            place = (hop.name, hop.options.port)
            connection = await asyncssh.connect(*place, options=hop.options, **more)
    except (OSError, asyncssh.Error, ValueError) as error:
        if questions.failed:
            raise questions.failed from error
        raise await _explain(
            hop, error, asked=questions.asked, direct=via is None and not hop.options.proxy_command
        ) from error
    if via:
        connection.set_tunnel(via)  # it goes with the one that it carries
    return connection


async def _dial(address: tuple[str, int]) -> socket.socket | None:
    """Connect to where the host was before; None if nobody answers."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT / 2):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except OSError:
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


async def answers(address: tuple[str, int] | None) -> bool:
    """Whether anybody takes a connection where the host was before."""
    sock = await _dial(address) if address else None
    if sock:
        sock.close()
    return sock is not None


async def _explain(hop: _Hop, error: Exception, *, asked: bool, direct: bool) -> LoginFailed:
    """Give a failure its name.

    :param asked: whether somebody was asked for a password, a code or a passphrase
    :param direct: whether the host can be asked without others in between
    """
    host, once = hop.name, f"`ssh {hop.options.username}@{hop.name}`"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        if "revoked" in str(error):
            return HostKeyChanged(
                f"{host} has a key that was revoked (@revoked in known_hosts): whoever answers may be somebody else.",
                said=str(error),
                hint="Do not log in there; ask the site's support.",
            )
        if await asyncio.to_thread(_is_known, hop):
            return HostKeyChanged(
                f"{host} has another key than known_hosts says: it is another host, or somebody is in between.",
                said=str(error),
                hint=f"If the site has announced a new key, remove the old one (`ssh-keygen -R {hop.host}`) and run "
                f"{once} once.",
            )
        return HostKeyUnknown(
            f"The key of {host} is in no known_hosts.",
            said=str(error),
            hint=f"Run {once} once, and compare the key that it shows with the one that the site has published.",
        )
    if isinstance(error, asyncssh.PermissionDenied):
        identities, certificates = _named(hop.options, "IdentityFile"), _named(hop.options, "CertificateFile")
        flaw = await asyncio.to_thread(find_flaw, identities, certificates, passphrases=not asked)
        once = f"{once} takes what you answer" if asked else f"{once} works without asking for anything"
        return LoginDenied(
            f"{host} does not let {hop.options.username} in by ssh{f': {flaw.what}' if flaw else ''}.",
            said=await _methods(hop, ask=direct),
            hint=flaw.hint
            if flaw
            else f"See that {once}"
            + (", and try again." if asked else ": with a key in the agent, or a certificate that is valid."),
        )
    if isinstance(error, socket.gaierror):
        return HostNotFound(
            f"There is no host {hop.options.host}.",
            said=error.strerror or str(error),
            hint="Correct its name (for a kernel: login in the kernelspec), or see that the network is there.",
        )
    if isinstance(error, TimeoutError):
        why = f"no answer within {CONNECT_TIMEOUT:g} s"
    else:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return LoginFailed(
        f"There is no ssh connection to {host} ({hop.address}): {why}.",
        hint=f"See that {once} works from here.",
    )


def _is_known(hop: _Hop) -> bool:
    port = hop.options.port if hop.options.port != 22 else None
    with contextlib.suppress(OSError, ValueError):
        return any(asyncssh.match_known_hosts(hop.known_hosts or b"", hop.host, "", port)[:2])
    return False


async def _methods(hop: _Hop, *, ask: bool) -> str:
    """Say what was tried, and what the host would take."""
    tried = (
        "the agent's keys, and those of ~/.ssh" if hop.options.agent_path else "the keys of ~/.ssh (there is no agent)"
    )
    with contextlib.suppress(OSError, asyncssh.Error, ValueError):
        async with asyncio.timeout(CONNECT_TIMEOUT if ask else 0):
            takes = await asyncssh.get_server_auth_methods(
                str(hop.options.host), hop.options.port, str(hop.options.username), config=None
            )
            return f"Tried: {tried}. It takes: {', '.join(takes)}."
    return f"Tried: {tried}."


async def close(connection: SSHClientConnection) -> None:
    """Close a connection; the other side has a second to take part."""
    connection.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connection.wait_closed(), 1.0)
    connection.abort()
