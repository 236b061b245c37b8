"""A gateway on a login node, and a port of this machine that leads to it by ssh.

The port's connections are streams that go on when the ssh connection is lost (`streams`): no client notices more than
a pause. JupyterLab's gateway client would lose what was on its way in a websocket that breaks, and what is typed
until it has made another one, which it tries five times.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from farkernel.provisioners.errors import (
    ConnectFailed,
    FarkernelError,
    GatewayElsewhere,
    GatewayUnusable,
    LoginLost,
)
from farkernel.provisioners.process import Finished
from farkernel.provisioners.ssh import Connection, NothingThere, sockets_refused
from farkernel.provisioners.streams import ENDED, FAREWELL, VERSION, Broken, Carrier, Hello, Stream, encode

_LEAVE = 2.0
"""Seconds for the word that nobody comes back."""

_START = 120.0
"""Seconds for a gateway to start, or to end its kernels."""

_ANSWER = 15.0
"""Seconds for a gateway to answer the first question."""

_AWAY = 8 * 3600.0
"""A night."""

_AGAIN = 0.5
"""Seconds until a stream whose connection has broken is carried anew."""

_SAME = (
    "If that stays so, install the same farkernel here and there, and end the gateway, which goes on with what it was "
    "started with: `farkernel gateway --stop` there ends it, and its kernels."
)

_PLAIN = re.compile(r"[\w./~+@%-]+", re.ASCII)
"""A program's name that means the same to every shell."""

_USAGE = 2
"""The exit code of a farkernel that does not know an option."""

_BEGINS = "farkernel-begins"
"""What a login shell says when it comes to our command; what its start-up files print stands before it."""

_NOT_FOUND = 127
"""A shell's exit code for a command that there is not; csh(1) has only words."""


@dataclass(frozen=True)
class Gateway:
    """A gateway on a login node, as `farkernel gateway --background --json` tells it there.

    :param token: a secret
    :param started: whether it was started just now
    :param relay: where streams to it begin; empty if it listens at `url` instead
    """

    token: str
    pid: int
    version: str
    started: bool = False
    relay: str = ""
    url: str = ""


_GATEWAY = TypeAdapter(Gateway)


def listen(port: int) -> socket.socket:
    """Take a port of this machine's loopback.

    :param port: 0 for any
    :raises ConnectFailed: it cannot be had
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConnectFailed(
            f"Port {port} of this machine cannot be had.",
            said=error.strerror or str(error),
            hint="Name another, or leave --port out.",
        ) from error


class GatewayHost:
    """The user's gateway on a login node.

    :param command: the `farkernel` of that host
    :raises GatewayUnusable: no shell would take that command as it is
    """

    def __init__(self, connection: Connection, command: str) -> None:
        self._connection = connection
        self._command = command
        self._node = ""
        if not _PLAIN.fullmatch(command):
            raise GatewayUnusable(f"{command} is no name of a program for a shell.", hint="Give --farkernel a path.")

    async def find(self) -> Gateway:
        """Return the one that runs, or start one; nothing is left of one that is started in vain, or for nobody.

        :raises GatewayUnusable: it cannot be started, or is not what can be used, or the connection was lost
        """
        try:
            self._node = await self._connection.node()
            done = await self._run("gateway --background --json")
        except LoginLost as error:
            raise GatewayUnusable(
                f"The ssh connection to {self._connection.host} was lost before a gateway was found there.",
                said=error.said,
                hint="Start farkernel connect again.",
            ) from error
        gateway = _told(done.stdout)
        if gateway is None:
            raise self._explain(done)
        if not gateway.relay:
            if gateway.started:
                await self.stop(gateway)
            raise GatewayUnusable(
                f"Your gateway on {self._connection.host} listens at {gateway.url or 'an older socket'}.",
                hint=f"Use it as it is (`jupyter lab --gateway-url=…`), or end it: `{self._command} gateway --stop`.",
            )
        return gateway

    async def stop(self, gateway: Gateway) -> bool:
        """End a gateway, and its kernels.

        :return: False if it has ended before and another one is there now, which somebody else has started
        :raises LoginLost: the connection is lost
        :raises GatewayElsewhere: it leads to another host now
        :raises GatewayUnusable: the gateway does not end
        """
        await self.check()
        running = _told((await self._run("gateway --status --json")).stdout)
        if running and running.token != gateway.token:
            return False
        done = await self._run("gateway --stop")
        if done.returncode:
            raise self._explain(done)
        return True

    async def check(self) -> None:
        """See that the connection still leads to the gateway's host.

        :raises GatewayElsewhere: it does not
        :raises LoginLost: it is lost
        """
        now = await self._connection.node()
        if now and self._node and now != self._node:
            raise GatewayElsewhere(
                f"{self._connection.host} leads to {now} now, and your gateway is on {self._node}.",
                hint="It goes on there, with its kernels: start farkernel connect again with that host's own name. "
                f"`{self._command} gateway --stop` on {self._node} ends it.",
            )

    async def _run(self, words: str) -> Finished:
        """Have a login shell run a command: other commands of ssh may have another PATH than a login.

        :raises GatewayUnusable: the shell does not come to it, or it does not end
        """
        line = f"echo {_BEGINS}; exec {self._command} {words}\n"  # one line, which a start-up file has or has not read
        try:
            done = await self._connection.run(None, input=line.encode(), timeout=_START)
        except TimeoutError:
            raise GatewayUnusable(
                f"`{self._command} {words}` did not end within {_START:g} s on {self._connection.host}.",
                hint="Run it there, and see what it says.",
            ) from None
        before, begins, after = done.stdout.partition(_BEGINS)
        if not begins:
            raise GatewayUnusable(
                f"Your login shell on {self._connection.host} ended (exit code {done.returncode}) before it ran "
                f"{self._command}.",
                said=done.stderr.strip() or before,
                hint="See that no start-up file of yours there (~/.profile, ~/.bashrc and others) ends the shell, or "
                "reads from its standard input.",
            )
        return replace(done, stdout=after)

    def _explain(self, done: Finished) -> GatewayUnusable:
        host, command = self._connection.host, self._command
        words = done.stderr.strip()
        if done.returncode == _NOT_FOUND or "command not found" in words.lower():
            return GatewayUnusable(
                f"There is no {command} on {host}.",
                said=words,
                hint="Install it there (`pip install 'farkernel[gateway]'`), or say where it is: --farkernel PATH, as "
                "`which farkernel` shows it there.",
            )
        if done.returncode == _USAGE and "No such option" in words:
            return GatewayUnusable(
                f"The {command} on {host} is too old.", said=words, hint="Run `pip install --upgrade farkernel` there."
            )
        return GatewayUnusable(
            f"`{command} gateway` cannot be had on {host}.",
            said=words or f"It has ended with code {done.returncode}, and has said nothing.",
            hint="Run it there, and see what it says.",
        )


def _told(text: str) -> Gateway | None:
    """Return the gateway that a command tells of, if it does."""
    for line in reversed(text.splitlines()):  # what a wrapper of the user's prints stands before it
        with contextlib.suppress(ValidationError):
            return _GATEWAY.validate_json(line)
    return None


class Forward:
    """A port of this machine's loopback that leads to a gateway, over whatever happens to the ssh connection.

    :param host: where the gateway is
    :param relay: where streams to the gateway begin
    :param warn: takes a sentence for the user
    :param away: seconds that this machine may be away before the gateway takes its clients for gone
    :ivar ended: whether the gateway was found to have ended
    """

    def __init__(
        self,
        connection: Connection,
        host: GatewayHost,
        relay: str,
        warn: Callable[[str], None],
        *,
        away: float = _AWAY,
    ) -> None:
        self.port = 0
        self._connection = connection
        self._host = host
        self._relay = relay
        self._warn = warn
        self._away = away
        self.ended = False
        self._told: set[str] = set()
        self._attached: set[str] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def check(self) -> None:
        """See that streams can begin, by asking for one that the gateway cannot have.

        :raises LoginFailed: the host carries none
        :raises GatewayUnusable: the gateway refuses any, or does not answer
        """
        try:
            channel = await self._connection.connect_unix(self._relay)
        except NothingThere as error:
            raise sockets_refused(self._connection.host, self._relay) from error
        try:
            async with asyncio.timeout(_ANSWER):
                channel.write(encode(Hello(VERSION, secrets.token_hex(16), 0, self._away, new=False)))
                answer = await Carrier(channel).answer()
        except (OSError, Broken) as error:
            raise GatewayUnusable(
                f"The gateway on {self._connection.host} has not answered.",
                said=self._connection.trouble,
                hint=f"Start farkernel connect again. {_SAME}",
            ) from error
        finally:
            channel.close()
        if answer.refused not in {"", ENDED}:
            raise self._refused(answer.refused)

    async def start(self, port: socket.socket) -> None:
        """Take what comes to a port; see `listen`."""
        self._server = await asyncio.start_server(self._begin, sock=port)
        self.port = port.getsockname()[1]

    async def close(self) -> None:
        """Listen no more, and break what goes through it."""
        if self._server:
            self._server.close()
        for task in self._carrying:
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)

    def _begin(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Carry a client's connection until it has ended."""
        stream, name = Stream(reader, writer), secrets.token_hex(16)
        try:
            while not await self._carry(stream, name):
                await asyncio.sleep(_AGAIN)
        except NothingThere:
            self.ended = True
            self._tell(f"The gateway on {self._connection.host} has ended. Start farkernel connect again for another.")
            _refuse(stream, writer, f"The gateway on {self._connection.host} has ended.")
        except GatewayElsewhere as error:
            self._tell(str(error))
            _refuse(stream, writer, str(error))
        except LoginLost as error:  # that was told when it happened
            _refuse(stream, writer, str(error))
        except FarkernelError as error:
            if name not in self._attached:  # a new one may still begin
                self._tell(str(error))
            _refuse(stream, writer, str(error))
        finally:
            self._attached.discard(name)
            await stream.close()

    async def _carry(self, stream: Stream, name: str) -> bool:
        """Carry a stream as long as the ssh connection holds; return whether it has ended by itself.

        :raises NothingThere: there is no gateway any more
        :raises GatewayElsewhere: we are not on its host any more
        :raises FarkernelError: it cannot begin, or cannot go on
        """
        new, waits = name not in self._attached, bool(self._connection.trouble)
        try:
            await self._host.check()
            channel = await self._connection.connect_unix(self._relay)
        except LoginLost:
            if new and waits:  # in vain; what is lost only now may soon be there again
                raise
            return False
        try:
            carrier = Carrier(channel)
            channel.write(encode(Hello(VERSION, name, stream.received, self._away, new)))
            answer = await carrier.answer()
            if answer.refused:
                raise self._refused(answer.refused)
            self._attached.add(name)
            self._told.clear()
            await stream.carry(carrier, channel, answer.received)
        except (OSError, Broken):
            return False
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, TimeoutError):  # the gateway is not to wait for this client any more
                channel.write(FAREWELL)
                channel.close()
                await asyncio.wait_for(channel.closed(), _LEAVE)
            raise
        finally:
            channel.close()
        return True

    def _refused(self, why: str) -> GatewayUnusable:
        if why == ENDED:
            return GatewayUnusable(f"The gateway on {self._connection.host} has this connection no longer.")
        return GatewayUnusable(f"The gateway on {self._connection.host} refuses: {why}.", hint=_SAME)

    def _tell(self, words: str) -> None:
        """Say why nothing goes through any more; the same again only if something has gone through since."""
        if words not in self._told:
            self._told.add(words)
            self._warn(words)


def _refuse(stream: Stream, writer: StreamWriter, words: str) -> None:
    """Tell a client that it cannot be led to the gateway (RFC 9110, 15.6.4), unless it has had some of an answer."""
    if stream.received:
        return
    text = f"{words}\n".encode()
    writer.write(
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(text), text)
    )
