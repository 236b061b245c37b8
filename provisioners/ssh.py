"""ssh: one connection to a host, made anew when it is lost, and what goes over it.

Nobody is asked for anything, unless there is a `Prompter`: then for what a host asks, and for the passphrases of keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import asyncssh
from asyncssh import SSHClientConnection, SSHReader, SSHWriter

from farkernel.provisioners.errors import ForwardingRefused, HostKeyChanged, LoginDenied, LoginFailed, LoginLost
from farkernel.provisioners.process import Finished
from farkernel.provisioners.ssh_login import answers, close, connect
from farkernel.provisioners.ssh_questions import Prompter, Questions

_SHORTEST, _LONGEST = 0.5, 30.0
"""Seconds between two attempts to connect anew."""

_CHANNEL = 15.0
"""Seconds for a connection to be back, and for a channel on it."""

_SESSIONS = 5
"""Commands at a time: sshd takes 10 on a connection (sshd_config(5), MaxSessions)."""

log = logging.getLogger("farkernel")


class NothingThere(Exception):
    """Nobody listens where a channel was to lead; the text is the host's."""


def forwarding_refused(host: str, where: str, settings: str) -> ForwardingRefused:
    """Return what is to be said of a host that does not let its users connect to something.

    :param settings: those of sshd_config(5) that may be the reason
    """
    return ForwardingRefused(
        f"{host} lets you in by ssh, and carries no connections to {where}.",
        hint=f"Its sshd_config has to allow that ({settings}), and so have the options of your key or certificate: ask "
        "the site's support, or use another login node.",
    )


def sockets_refused(host: str, path: str) -> ForwardingRefused:
    """Return the same of a unix socket of the user's own."""
    settings = "AllowTcpForwarding and AllowStreamLocalForwarding, both yes by default"
    return forwarding_refused(host, f"the unix socket {path} of your own", settings)


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

    async def closed(self) -> None:
        """Wait until the other side has taken all that was sent before `close`; raises as `read`."""
        try:
            await self._writer.wait_closed()
        except asyncssh.Error as error:
            raise ConnectionError(str(error)) from error


class Connection:
    """A connection to `[user@]host`; belongs to one loop.

    :param login: user and host, as for ssh(1)
    :param prompter: whom to ask; nobody by default
    :ivar times: how often it was made
    """

    def __init__(self, login: str, prompter: Prompter | None = None) -> None:
        self.login = login
        self._prompter = prompter
        self.lost_since: datetime | None = None
        self.why_lost = ""
        self.times = 0
        self._connection: SSHClientConnection | None = None
        self._up = asyncio.Event()
        self._opening = asyncio.Lock()
        self._sessions = asyncio.Semaphore(_SESSIONS)
        self._keeping: asyncio.Task[None] | None = None
        self._address: tuple[str, int] | None = None
        self._naming = asyncio.Lock()
        self._node = (0, "")

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
                await self._make(Questions(self._prompter, ""))
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
                await close(connection)

    async def node(self) -> str:
        """Return what the host calls itself: its name for ssh may lead to any of several, and to another one tomorrow.

        :return: empty if it does not say
        :raises LoginLost: the connection is lost
        """
        await self._get()
        async with self._naming:
            if self._node[0] != self.times:
                times = self.times
                try:
                    done = await self.run("echo; uname -n", input=b"", timeout=_CHANNEL)
                except TimeoutError:
                    return ""
                said = done.stdout.split()  # what the user's shell prints at its start stands before it
                self._node = (times, said[-1] if said and not done.returncode else "")
            return self._node[1]

    # ---- what goes over it ----

    async def run(self, command: str | None, *, input: bytes, timeout: float) -> Finished:  # noqa: A002
        """Run a command.

        :param command: what the user's shell there is to run: words that every shell takes alike. None for a login
            shell, which reads its commands from `input`
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

    async def _run(self, connection: SSHClientConnection, command: str | None, data: bytes) -> Finished:
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
        refused = forwarding_refused(self.host, "the nodes", "AllowTcpForwarding, yes by default")
        return await self._channel(lambda connection: connection.open_connection(address, port, encoding=None), refused)

    async def connect_unix(self, path: str) -> Channel:
        """Connect to a unix socket of the host; raises as `connect_tcp`.

        OpenSSH's server does not tell one that is not there from one that it does not lead to.
        """
        refused = sockets_refused(self.host, path)
        return await self._channel(lambda connection: connection.open_unix_connection(path, encoding=None), refused)

    async def _channel(self, make: Callable[[SSHClientConnection], Any], refused: ForwardingRefused) -> Channel:
        connection = await self._get()
        try:
            async with asyncio.timeout(_CHANNEL):
                reader, writer = await make(connection)
        except asyncssh.ChannelOpenError as error:
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                raise refused from error
            await asyncio.sleep(0)  # asyncssh says the same of a connection that is just being closed
            if error.code == asyncssh.OPEN_CONNECT_FAILED and not connection.is_closed():
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
        return LoginLost(f"{_capitalized(what)}.", said=why, hint="It is made anew as soon as that is possible.")

    # ---- its life ----

    async def _make(self, questions: Questions) -> None:
        self._connection = await connect(self.login, self._address, questions)
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
        pause, answered = 0.0, False
        while True:
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
            pause = min(max(2 * pause, _SHORTEST), _LONGEST)
            questions = Questions(self._prompter, f"{_capitalized(self.trouble)}. ")
            try:
                await self._make(questions)
            except LoginFailed as error:
                before, self.why_lost = self.why_lost, error.what.rstrip(".")
                if pause >= _LONGEST and not isinstance(error, LoginDenied):
                    answered_before, answered = answered, await answers(self._address)
                    if answered_before and answered:  # and it was not just coming up
                        self._address = None  # by its name it may be found elsewhere, or another one of several
                if isinstance(error, (LoginDenied, HostKeyChanged)):
                    pause = _LONGEST  # each attempt counts for who watches over failed logins
                    if self.why_lost != before and not questions.asked:  # it does not mend itself
                        log.warning("farkernel: %s", error)
                if self._prompter and questions.asked:
                    with contextlib.suppress(LoginDenied):
                        await self._prompter.again(str(error))
                        pause = 0.0
            else:
                return


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""
