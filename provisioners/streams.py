"""Byte streams that survive the connection which carries them.

Each end counts the bytes of either direction, and keeps what it has sent until the other end says that it has them. On
a fresh connection both tell how far they have come, and go on from there: whoever uses the stream notices a pause and
nothing else. The end of a direction counts as one byte more.

It begins with a `Hello` and an `Answer`, a line of JSON each. Then come frames: a kind, a number, and with DATA as many
bytes as the number says; ACK tells how many bytes have arrived; END and LEAVE have nothing. After LEAVE nobody
comes back to the stream.

Frames are read whatever the program does: acknowledgements come among the data, and a program that does not read may be
one that waits for room to write. What it has not taken is not acknowledged, so that the other end's limit bounds what
waits for it; with the connection it is forgotten, and comes again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import struct
from asyncio import StreamReader, StreamWriter
from dataclasses import asdict, dataclass
from json import dumps
from typing import Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

VERSION = 1

ENDED = "it has ended"
"""Why an end refuses a stream that is not new, and that it does not have."""

_DATA, _ACK, _END, _LEAVE = 1, 2, 3, 4
_FRAME = struct.Struct("!BQ")

FAREWELL = _FRAME.pack(_LEAVE, 0)
"""What ends a stream that is not over."""

_CHUNK = 2**16
LIMIT = 2**23
"""Bytes that an end keeps for the other one; then it reads no more."""

_ACK_BYTES = 2**18
"""An acknowledgement goes after so many bytes, ahead of what is to be sent, or when nothing else is."""

_HEARTBEAT = 20.0
"""Seconds between two frames where there is nothing to say."""

_PATIENCE = 5.0
"""Seconds that a program has to take what is left for it."""

_LONGEST = 2**12
"""Bytes of the longest line that begins a stream."""


class Broken(Exception):
    """The connection that carried a stream is gone, or what came on it is not of a stream."""


@dataclass(frozen=True)
class Hello:
    """Attaches to a stream.

    :param stream: its name, which nobody can guess
    :param received: how many bytes have arrived at this end
    :param away: seconds without a word from this end after which the stream ends
    :param new: begin it, unless it is there
    """

    version: int
    stream: str
    received: int
    away: float
    new: bool


@dataclass(frozen=True)
class Answer:
    """Answers a `Hello`.

    :param received: how many bytes have arrived at the other end
    :param refused: why there is no such stream; empty if there is
    """

    received: int = 0
    refused: str = ""


class Reads(Protocol):
    """What a stream arrives by."""

    async def read(self, most: int) -> bytes:
        """Read what there is, nothing at the end."""


class Writes(Protocol):
    """What a stream leaves by."""

    def write(self, data: bytes) -> None:
        """Send something."""

    async def drain(self) -> None:
        """Wait until there is room for more."""


T = TypeVar("T", Hello, Answer)
_HELLO, _ANSWER = TypeAdapter(Hello), TypeAdapter(Answer)


def encode(message: Hello | Answer) -> bytes:
    """Return a line."""
    return dumps(asdict(message)).encode() + b"\n"


class Carrier:
    """One connection that carries a stream, as its reader sees it."""

    def __init__(self, reader: Reads) -> None:
        self._reader = reader
        self._rest = b""

    async def some(self, most: int) -> bytes:
        """Read at least one byte.

        :raises Broken: the connection has ended
        """
        if not self._rest:
            try:
                self._rest = await self._reader.read(_CHUNK)
            except OSError as error:
                raise Broken(str(error)) from error
            if not self._rest:
                raise Broken("it has ended")
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    async def frame(self) -> tuple[int, int]:
        """Read a frame's kind and number; raises as `some`."""
        data = b""
        while len(data) < _FRAME.size:
            data += await self.some(_FRAME.size - len(data))
        kind, number = _FRAME.unpack(data)
        return kind, number

    async def hello(self) -> Hello:
        """Read what begins a stream; raises as `some`."""
        return await self._message(_HELLO)

    async def answer(self) -> Answer:
        """Read what answers it; raises as `some`."""
        return await self._message(_ANSWER)

    async def _message(self, adapter: TypeAdapter[T]) -> T:
        line = b""
        while not line.endswith(b"\n"):
            line += await self.some(1)
            if len(line) > _LONGEST:
                raise Broken("a line without end")
        try:
            return adapter.validate_json(line)
        except ValidationError as error:
            raise Broken("a line that means nothing") from error


class Stream:
    """One end of a stream, beside the program whose connection it is.

    :param reader: what comes from the program
    :param writer: what goes to it
    :ivar received: how many bytes of the other end's have arrived and gone to the program
    :ivar heard: when that was last heard of, on the loop's clock
    """

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.received = 0
        self.heard = asyncio.get_running_loop().time()
        self._reader = reader
        self._writer = writer
        self._kept: collections.deque[bytes] = collections.deque()
        self._acknowledged = 0  # where the first of these begins
        self._read = 0  # where the last one ends
        self._ended = [False, False]  # the program's own direction, the other one
        self._left = False
        self._acked = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._reading = asyncio.get_running_loop().create_task(self._take())

    def finished(self) -> bool:
        """Whether both directions have ended, and each end knows, or the other end has left."""
        all_has_arrived = self._acknowledged == self._read + 1 and self._acked == self.received
        return self._left or (all(self._ended) and all_has_arrived)

    async def close(self) -> None:
        """End the program's connection, whatever is still on its way."""
        self._reading.cancel()
        await asyncio.wait({self._reading})
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), _PATIENCE)
        self._writer.transport.abort()  # it may not read what is left for it

    async def _take(self) -> None:
        """Read from the program as long as there is room for it."""
        data = b"-"
        while data:
            while self._read - self._acknowledged >= LIMIT:
                self._room.clear()
                await self._room.wait()
            try:
                data = await self._reader.read(_CHUNK)
            except OSError:
                data = b""
            if data:
                self._kept.append(data)
                self._read += len(data)
            else:
                self._ended[0] = True
            self._news.set()

    async def carry(self, carrier: Carrier, writer: Writes, received: int) -> None:
        """Let a connection carry it, until it has ended.

        :param received: how many bytes the other end has
        :raises Broken: the connection has ended before
        """
        self._forget(received)
        tasks = [asyncio.ensure_future(self._send(writer)), asyncio.ensure_future(self._receive(carrier))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()

    async def _send(self, writer: Writes) -> None:
        try:
            sent, self._acked = self._acknowledged, -1
            while not self.finished():
                self._news.clear()
                for start, data in self._after(sent):
                    writer.write(_FRAME.pack(_DATA, len(data)) + data)
                    sent = start + len(data)
                    await writer.drain()
                    if self.received - self._acked >= _ACK_BYTES:
                        await self._acknowledge(writer)
                if self._ended[0] and sent == self._read:
                    writer.write(_FRAME.pack(_END, 0))
                    sent += 1
                await self._acknowledge(writer)
                if not self.finished() and sent >= self._read + self._ended[0]:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), _HEARTBEAT)
                        continue
                    self._acked = -1
            await writer.drain()
        except OSError as error:
            raise Broken(str(error)) from error

    def _after(self, sent: int) -> list[tuple[int, bytes]]:
        """Return what is kept from there on, and where it begins."""
        found, start = [], self._acknowledged
        for data in self._kept:
            if start + len(data) > sent:
                found.append((max(start, sent), data[max(sent - start, 0) :]))
            start += len(data)
        return found

    async def _acknowledge(self, writer: Writes) -> None:
        if self._acked != self.received:
            received = self.received
            writer.write(_FRAME.pack(_ACK, received))
            await writer.drain()
            self._acked = received

    def _forget(self, received: int) -> None:
        """Take note of what the other end has."""
        if not self._acknowledged <= received <= self._read + self._ended[0]:
            raise Broken(f"{received} bytes acknowledged")
        while self._kept and self._acknowledged + len(self._kept[0]) <= received:
            self._acknowledged += len(self._kept.popleft())
        if self._kept and received > self._acknowledged:
            self._kept[0] = self._kept[0][received - self._acknowledged :]
        self._acknowledged = received
        self._room.set()
        self._news.set()

    async def _receive(self, carrier: Carrier) -> None:
        loop = asyncio.get_running_loop()
        arrived = StreamReader()
        delivering = loop.create_task(self._deliver(arrived))
        over = False
        try:
            while not self.finished():
                kind, number = await carrier.frame()
                self.heard = loop.time()
                if kind == _DATA and not over:
                    await self._take_in(carrier, number, arrived)
                elif kind == _ACK:
                    self._forget(number)
                elif kind == _END and not over:
                    over = True
                    arrived.feed_eof()
                elif kind == _LEAVE:
                    arrived.feed_eof()
                    await asyncio.wait({delivering}, timeout=_PATIENCE)
                    self._left = True
                else:
                    raise Broken(f"a frame of the kind {kind}")
        finally:
            delivering.cancel()
            await asyncio.wait({delivering})

    async def _take_in(self, carrier: Carrier, size: int, arrived: StreamReader) -> None:
        while size:
            data = await carrier.some(size)
            size -= len(data)
            arrived.feed_data(data)

    async def _deliver(self, arrived: StreamReader) -> None:
        """Hand over to the program what has arrived, as it takes it; from an earlier connection nothing is left."""
        while data := await arrived.read(_CHUNK):
            self.received += len(data)
            self._news.set()
            with contextlib.suppress(OSError):  # a program that is gone reads no more; that has ended its direction
                self._writer.write(data)
                await self._writer.drain()
        if not self._ended[1]:
            self.received += 1
            self._ended[1] = True
            with contextlib.suppress(OSError, RuntimeError):
                self._writer.write_eof()
            self._news.set()
