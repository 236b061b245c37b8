"""ssh: one connection to a host, made anew when it is lost. The one module that knows asyncssh.

The user's own configuration counts (ssh_config(5), as far as asyncssh reads it): names, ports, jump hosts, keys,
certificates and the agent. Nobody is asked for anything, and a host whose key is not in known_hosts is not talked to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh import SSHClientConnection, SSHClientConnectionOptions, SSHReader, SSHWriter

from farkernel.provisioners.errors import (
    ForwardingRefused,
    HostKeyChanged,
    HostKeyUnknown,
    HostNotFound,
    LoginDenied,
    LoginFailed,
    LoginLost,
)
from farkernel.provisioners.process import Finished

_CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_KNOWN_HOSTS_OF_ALL = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

_CONNECT_TIMEOUT = 30.0
"""Seconds for connection, key exchange and authentication."""

_KEEPALIVE, _MISSED = 5, 3
"""Seconds between two questions to the other side, and how many without an answer mean that it is gone."""

_SHORTEST, _LONGEST = 0.5, 30.0
"""Seconds between two attempts to connect anew."""

_CHANNEL = 15.0
"""Seconds for a connection to be back, and for a channel on it."""

_SESSIONS = 5
"""Commands at a time: sshd takes 10 on a connection (sshd_config(5), MaxSessions)."""

_CIPHER = "aes128-gcm@openssh.com"
"""Half as fast again as asyncssh's own choice."""

log = logging.getLogger("farkernel")


class NothingThere(Exception):
    """Nobody listens where a channel was to lead; the text is the host's."""


class Channel:
    """Bytes to and from something behind the host."""

    def __init__(self, reader: SSHReader[bytes], writer: SSHWriter[bytes]) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, most: int) -> bytes:
        """Read what there is, nothing at the end.

        :raises OSError: the connection was lost
        """
        return await self._read(self._reader.read(most))

    async def readline(self) -> bytes:
        """Read a line; raises as `read`."""
        return await self._read(self._reader.readline())

    async def _read(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        try:
            return await reading
        except asyncssh.Error as error:
            raise ConnectionError(str(error)) from error

    def write(self, data: bytes) -> None:
        """Send something; raises as `read`."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until there is room for more; raises as `read`."""
        try:
            await self._writer.drain()
        except asyncssh.Error as error:
            raise ConnectionError(str(error)) from error

    def close(self) -> None:
        """Close it in both directions."""
        self._writer.close()


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


class Connection:
    """A connection to `[user@]host`; belongs to one loop.

    :param login: user and host, as for ssh(1)
    :ivar times: how often it was made
    """

    def __init__(self, login: str) -> None:
        self.login = login
        self.lost_since: datetime | None = None
        self.why_lost = ""
        self.times = 0
        self._connection: SSHClientConnection | None = None
        self._up = asyncio.Event()
        self._opening = asyncio.Lock()
        self._sessions = asyncio.Semaphore(_SESSIONS)
        self._keeping: asyncio.Task[None] | None = None
        self._address: tuple[str, int] | None = None

    @property
    def host(self) -> str:
        """The host's name, for messages."""
        return self.login.rpartition("@")[2]

    @property
    def trouble(self) -> str:
        """Say since when it is lost; empty if it is not."""
        if self.lost_since is None:
            return ""
        why = f" ({self.why_lost})" if self.why_lost else ""
        return f"the ssh connection to {self.host} is lost since {self.lost_since:%H:%M:%S}{why}"

    async def open(self) -> None:
        """Make it, unless it is there or is being made anew.

        :raises LoginFailed: it cannot be made
        """
        async with self._opening:
            if self._keeping is None:
                await self._make()
                self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Close it; `open` makes it again."""
        async with self._opening:
            keeping, self._keeping = self._keeping, None
            if keeping:
                keeping.cancel()
                await asyncio.wait({keeping})
            self._up.clear()
            self.lost_since = None
            connection, self._connection = self._connection, None
            if connection:
                await _close(connection)

    # ---- what goes over it ----

    async def run(self, command: str, *, input: bytes, timeout: float) -> Finished:  # noqa: A002
        """Run a command.

        :param command: what the user's shell there is to run: words that every shell takes alike
        :raises TimeoutError: it did not end in time
        :raises LoginLost: the connection is lost
        """
        connection = await self._get()
        async with self._sessions:
            try:
                async with asyncio.timeout(timeout):
                    return await self._run(connection, command, input)
            except TimeoutError:
                raise
            except (OSError, asyncssh.Error) as error:
                raise self._lost(str(error)) from error

    async def _run(self, connection: SSHClientConnection, command: str, data: bytes) -> Finished:
        process = await connection.create_process(command, encoding=None)
        try:
            with contextlib.suppress(OSError):  # it may end without reading
                process.stdin.write(data)
                process.stdin.write_eof()
            done = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(OSError):  # it has ended just now, or the connection has
                    process.terminate()
            process.close()
        if process.returncode is None:
            raise self._lost("it broke while a command ran")
        return Finished(process.returncode, _text(done.stdout), _text(done.stderr))

    async def connect_tcp(self, address: str, port: int) -> Channel:
        """Connect to a TCP port that the host can connect to.

        :raises NothingThere: nobody listens there
        :raises LoginFailed: the connection is lost, or the host does not carry any
        """
        return await self._channel(lambda connection: connection.open_connection(address, port, encoding=None))

    async def connect_unix(self, path: str) -> Channel:
        """Connect to a unix socket of the host; raises as `connect_tcp`."""
        return await self._channel(lambda connection: connection.open_unix_connection(path, encoding=None))

    async def _channel(self, make: Callable[[SSHClientConnection], Any]) -> Channel:
        connection = await self._get()
        try:
            async with asyncio.timeout(_CHANNEL):
                reader, writer = await make(connection)
        except asyncssh.ChannelOpenError as error:
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                raise ForwardingRefused(
                    f"{self.host} lets you in by ssh and carries no connections to the nodes.",
                    said=error.reason,
                    hint="Its sshd_config has to allow that (AllowTcpForwarding, yes by default): ask the site's "
                    "support, or use another login node.",
                ) from error
            if error.code == asyncssh.OPEN_CONNECT_FAILED:
                raise NothingThere(error.reason) from error
            raise self._lost(error.reason) from error
        except (OSError, asyncssh.Error) as error:
            raise self._lost(str(error)) from error
        return Channel(reader, writer)

    async def _get(self) -> SSHClientConnection:
        """Return it; waits while it is being made anew."""
        try:
            async with asyncio.timeout(_CHANNEL):
                await self._up.wait()
        except TimeoutError:
            raise self._lost("") from None
        assert self._connection
        return self._connection

    def _lost(self, why: str) -> LoginLost:
        what = self.trouble or f"the ssh connection to {self.host} is lost"
        return LoginLost(f"{what[0].upper()}{what[1:]}.", said=why, hint="It is made anew as soon as that is possible.")

    # ---- its life ----

    async def _make(self) -> None:
        self._connection = await _connect(self.login, self._address)
        peer = self._connection.get_extra_info("peername")
        if peer:
            self._address = peer[:2]
        self.times += 1
        self.lost_since, self.why_lost = None, ""
        self._up.set()

    async def _keep(self) -> None:
        """Make it anew whenever it is lost."""
        while True:
            assert self._connection
            await self._connection.wait_closed()
            self._up.clear()
            self.lost_since = datetime.now()  # noqa: DTZ005 (shown to the user)
            log.warning("farkernel: %s", self.trouble)
            await self._make_anew()
            log.warning("farkernel: the ssh connection to %s is back", self.host)

    async def _make_anew(self) -> None:
        pause = 0.0
        while True:
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
            pause = min(max(2 * pause, _SHORTEST), _LONGEST)
            try:
                await self._make()
            except LoginFailed as error:
                self.why_lost = error.what.rstrip(".")
                # a login node's name may lead to any of several, and ours may be the one that is gone
                self._address = None if pause >= _LONGEST else self._address
                if isinstance(error, (LoginDenied, HostKeyChanged)):
                    pause = _LONGEST  # each attempt counts for who watches over failed logins
            else:
                return


async def _close(connection: SSHClientConnection) -> None:
    connection.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connection.wait_closed(), 1.0)
    connection.abort()


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""


# ---- making it ----


async def _connect(login: str, address: tuple[str, int] | None) -> SSHClientConnection:
    """Connect by way of the jump hosts that the user's configuration names.

    :param address: where the host was found before
    :raises LoginFailed: it cannot be had
    """
    hop = await asyncio.to_thread(_hop, login)
    via: SSHClientConnection | None = None
    jumps = hop.options.tunnel
    for jump in jumps.split(",") if isinstance(jumps, str) and jumps.lower() != "none" else ():
        via = await _hop_over(jump, via)
    try:
        return await _make_one(hop, via, None if via or hop.options.proxy_command else address)
    except LoginFailed:
        if via:
            await _close(via)
        raise


async def _hop_over(jump: str, via: SSHClientConnection | None) -> SSHClientConnection:
    name, _, port = jump.rpartition(":") if ":" in jump else (jump, "", "")
    if via is None and not port:
        return await _connect(name, None)
    hop = await asyncio.to_thread(_hop, name, int(port) if port.isdecimal() else None)
    try:
        return await _make_one(hop, via, None)
    except LoginFailed:
        if via:
            await _close(via)
        raise


def _hop(login: str, port: int | None = None) -> _Hop:
    """Read the user's configuration for a host.

    :raises LoginFailed: it does not make sense, or switches the check of host keys off
    """
    user, _, host = login.rpartition("@")
    given: dict[str, Any] = {
        "host": host,
        "config": _existing(_CONFIGS),
        "connect_timeout": _CONNECT_TIMEOUT,
        "login_timeout": _CONNECT_TIMEOUT,
        "keepalive_interval": _KEEPALIVE,
        "keepalive_count_max": _MISSED,
    }
    given |= {"username": user} if user else {}
    given |= {"port": port} if port else {}
    try:
        options = SSHClientConnectionOptions(**given)
        known = _known_hosts(host, options)
        more: dict[str, Any] = {"known_hosts": known or b""}
        if not options.config.get("Ciphers"):
            usual = [algorithm.decode() for algorithm in options.encryption_algs or ()]
            more["encryption_algs"] = [_CIPHER, *(name for name in usual if name != _CIPHER)]
        return _Hop(host, SSHClientConnectionOptions(**given, **more), known)
    except (OSError, ValueError) as error:  # asyncssh's own about configurations and keys are ValueErrors
        raise LoginFailed(
            f"There can be no ssh connection to {host}: your ssh configuration, or one of your keys, cannot be used.",
            said=str(error),
            hint=f"Correct ~/.ssh/config until `ssh {login} hostname` works; a key with a passphrase has to be in the "
            "agent.",
        ) from error


def _existing(paths: Sequence[str]) -> list[str]:
    return [str(path) for path in (Path(name).expanduser() for name in paths) if path.is_file()]


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


async def _make_one(hop: _Hop, via: SSHClientConnection | None, address: tuple[str, int] | None) -> SSHClientConnection:
    """Connect to one host.

    :param via: the connection that leads there
    """
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            sock = await _dial(address) if address else None
            more: dict[str, Any] = {"sock": sock} if sock else {"tunnel": via}
            place = (hop.name, hop.options.port)
            connection = await asyncssh.connect(*place, options=hop.options, **more)
    except (OSError, asyncssh.Error, ValueError) as error:
        raise await _explain(hop, error, direct=via is None and not hop.options.proxy_command) from error
    if via:
        connection.set_tunnel(via)  # it goes with the one that it carries
    return connection


async def _dial(address: tuple[str, int]) -> socket.socket | None:
    """Connect to where the host was before; None if nobody answers."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT / 2):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except OSError:
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


async def _explain(hop: _Hop, error: Exception, *, direct: bool) -> LoginFailed:
    """Give a failure its name.

    :param direct: whether the host can be asked without others in between
    """
    host, once = hop.name, f"`ssh {hop.options.username}@{hop.name}`"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
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
        return LoginDenied(
            f"{host} does not let {hop.options.username} in by ssh.",
            said=await _methods(hop, ask=direct),
            hint=f"See that {once} works without asking for anything: with a key in the agent, or a certificate that "
            "is valid.",
        )
    if isinstance(error, socket.gaierror):
        return HostNotFound(
            f"There is no host {hop.options.host}.",
            said=error.strerror or str(error),
            hint="Correct login in the kernelspec, or see that the network is there.",
        )
    if isinstance(error, TimeoutError):
        why = f"no answer within {_CONNECT_TIMEOUT:g} s"
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
        async with asyncio.timeout(_CONNECT_TIMEOUT if ask else 0):
            takes = await asyncssh.get_server_auth_methods(
                str(hop.options.host), hop.options.port, str(hop.options.username), config=None
            )
            return f"Tried: {tried}. It takes: {', '.join(takes)}."
    return f"Tried: {tried}."
