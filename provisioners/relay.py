"""The login node's end of the streams that lead to a gateway from elsewhere (`streams`).

It listens at a unix socket beside the gateway's own. A stream whose connection is lost stays here, and with it the
gateway's websocket, until its client is back or has not been heard of for as long as it wants.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass

from farkernel.provisioners.streams import ENDED, VERSION, Answer, Broken, Carrier, Hello, Stream, encode

_LOOK = 1.0
"""Seconds between two looks at whether a client is there."""


@dataclass
class _Here:
    """A stream, and the task that has a connection carry it."""

    stream: Stream
    carrying: asyncio.Task[None] | None = None


class Relay:
    """Leads streams to a unix socket.

    :param path: where to listen; whoever can connect there can use the target
    :param target: the gateway's socket
    """

    def __init__(self, path: pathlib.Path, target: pathlib.Path) -> None:
        self._path = path
        self._target = target
        self._streams: dict[str, _Here] = {}
        self._watching: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        :raises OSError: that is not possible
        """
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        self._path.chmod(0o600)

    def close(self) -> None:
        """Listen no more."""
        self._server.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        carrier = Carrier(reader)
        with contextlib.suppress(Broken, OSError):
            hello = await carrier.hello()
            here = await self._find(hello)
            if isinstance(here, str):
                writer.write(encode(Answer(refused=here)))
            else:
                await self._attach(here, hello, carrier, writer)
        writer.close()

    async def _find(self, hello: Hello) -> _Here | str:
        """Return a stream, or why there is none."""
        if hello.version != VERSION:
            return f"the farkernel on the two sides speak versions {hello.version} and {VERSION} of their streams"
        if hello.stream in self._streams:
            return self._streams[hello.stream]
        if not hello.new:
            return ENDED
        try:
            reader, writer = await asyncio.open_unix_connection(self._target)
        except OSError as error:
            return f"the gateway does not answer: {error.strerror or error}"
        here = self._streams[hello.stream] = _Here(Stream(reader, writer))
        watching = asyncio.get_running_loop().create_task(self._watch(hello.stream, hello.away))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return here

    async def _attach(self, here: _Here, hello: Hello, carrier: Carrier, writer: StreamWriter) -> None:
        """Have this connection carry a stream, and none that it had before: nobody is at the other end of that."""
        while here.carrying:
            here.carrying.cancel()
            await asyncio.wait({here.carrying})
        here.carrying = asyncio.current_task()
        here.stream.heard = asyncio.get_running_loop().time()
        try:
            writer.write(encode(Answer(here.stream.received)))
            await here.stream.carry(carrier, writer, hello.received)
        except asyncio.CancelledError:
            pass  # another one carries it
        finally:
            here.carrying = None

    async def _watch(self, name: str, away: float) -> None:
        """End a stream when it is over, or its client is away for too long."""
        here, loop = self._streams[name], asyncio.get_running_loop()
        while not here.stream.finished() and loop.time() - here.stream.heard < away:
            await asyncio.sleep(_LOOK)
        if here.carrying and not here.stream.finished():
            here.carrying.cancel()
        await here.stream.close()
        del self._streams[name]
