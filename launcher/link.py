"""The link: numbered and acknowledged messages between the login side and a launcher, over any connection.

Both ends use this class. It does no I/O: it is given what arrives and a function that transmits, so that the
same code is tested against a connection that loses, repeats and breaks at random.

The rules:

- Each side numbers what it sends from 1, and keeps it until the other side has acknowledged it.
- The receiver delivers message n + 1 after message n and nothing else. What it has had already it drops;
  what comes too early it drops too, and asks for everything after n (RESEND).
- Every frame tells the last number received. A PING tells the last number sent as well: since one connection
  keeps the order, a PING that names more than was received proves a loss.
- The login side opens every connection by HELLO, and names it by an epoch that only grows. HELLO is said again
  until WELCOME answers; both tell what was received, and both ends send again what the other one lacks.
- Where the launcher makes the connections, it knocks on each until it hears HELLO.
- What is kept is bounded in bytes: `on_full(True)` asks whoever feeds the link to hold back, `on_full(False)`
  to go on. Nothing is ever dropped here.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from farkernel.launcher.protocol import Channel
from farkernel.launcher.sockets import Frames, size

PING_INTERVAL = 2.0
"""Seconds between two pings of the login side."""

SILENCE = 8.0
"""Seconds without a frame from the other side after which the one that connects makes a fresh connection."""

LIMIT = 64 * 2**20
"""Bytes kept unacknowledged before the link calls itself full."""

ACK_BYTES = 2**20
ACK_MESSAGES = 64
ACK_DELAY = 0.05
"""An acknowledgement goes by itself after so many bytes, messages or seconds, unless a message carries it."""


class Kind(enum.IntEnum):
    """What a frame is for."""

    DATA = 1
    ACK = 2
    PING = 3
    PONG = 4
    RESEND = 5
    HELLO = 6
    WELCOME = 7
    KNOCK = 8


class Header(NamedTuple):
    """The first frame of everything that goes over the link.

    :param kind: what it is for
    :param channel: DATA: a `Channel`; else 0
    :param kernel: DATA: the kernel's number on this launcher
    :param generation: DATA: which start of the kernel it belongs to; HELLO and WELCOME: the epoch
    :param number: DATA: its own number; else the last number sent
    :param received: the last number received
    """

    kind: int
    channel: int
    kernel: int
    generation: int
    number: int
    received: int


_HEADER = struct.Struct("!BBIIQQ")

# An enum's own look-up costs more than all the rest that is done for a message.
_KINDS = {int(kind) for kind in Kind}
_CHANNELS = {int(channel): channel for channel in Channel}


class LinkError(Exception):
    """The other side broke the rules of the link."""


def _unpack(frames: Frames) -> Header:
    data = bytes(frames[0]) if frames else b""
    if len(data) != _HEADER.size:
        raise LinkError(f"a header of {len(data)} bytes instead of {_HEADER.size}")
    header = Header(*_HEADER.unpack(data))
    if header.kind not in _KINDS or (header.kind == Kind.DATA and header.channel not in _CHANNELS):
        raise LinkError(f"a header of an unknown kind: {header}")
    return header


class _Kept(NamedTuple):
    header: Header
    frames: Frames
    size: int


class Outgoing:
    """What was sent and is not acknowledged yet."""

    def __init__(self) -> None:
        self.sent = 0
        self.bytes = 0
        self._kept: collections.deque[_Kept] = collections.deque()

    def add(self, channel: int, kernel: int, generation: int, frames: Frames) -> _Kept:
        """Number a message and keep it."""
        self.sent += 1
        kept = _Kept(Header(Kind.DATA, channel, kernel, generation, self.sent, 0), frames, size(frames))
        self._kept.append(kept)
        self.bytes += kept.size
        return kept

    def acknowledge(self, received: int) -> None:
        """Forget what the other side has."""
        if received > self.sent:
            raise LinkError(f"message {received} acknowledged, {self.sent} sent")
        while self._kept and self._kept[0].header.number <= received:
            self.bytes -= self._kept.popleft().size

    def __iter__(self) -> Iterator[_Kept]:
        return iter(self._kept)


class Incoming:
    """What has arrived, and how much of it the other side does not know of."""

    def __init__(self) -> None:
        self.received = 0
        self.unacknowledged = 0
        self.unacknowledged_bytes = 0

    def accept(self, number: int, size: int) -> bool:
        """Whether this is the next message; count it if so."""
        if number != self.received + 1:
            return False
        self.received = number
        self.unacknowledged += 1
        self.unacknowledged_bytes += size
        return True

    def acknowledged(self) -> int:
        """Note that what was received is being told now; return its number."""
        self.unacknowledged = self.unacknowledged_bytes = 0
        return self.received


class Link:
    """One end of a link.

    :param loop: where it runs; all methods are to be called in its thread
    :param transmit: puts frames on the present connection; what is lost there is sent again
    :param deliver: called once for every message, in order: `deliver(channel, kernel, generation, frames)`
    :param on_full: called with True when `limit` is reached, with False when half of it is free again
    :ivar heard: when the other side was last heard, on the loop's clock
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transmit: Callable[[Frames], object],
        deliver: Callable[[Channel, int, int, list[Any]], None],
        on_full: Callable[[bool], None] = lambda full: None,
        *,
        limit: int = LIMIT,
    ) -> None:
        self.connected = False
        self.heard = loop.time()
        self.full = False
        self.epoch = 0
        self._loop = loop
        self._transmit = transmit
        self._deliver = deliver
        self._on_full = on_full
        self._limit = limit
        self._outgoing = Outgoing()
        self._incoming = Incoming()
        self._ack_timer: asyncio.TimerHandle | None = None
        self._asked_for = -1

    # ---- sending ----

    def send(self, channel: Channel, kernel: int, generation: int, frames: Frames) -> None:
        """Send a message; it waits here for as long as there is no connection."""
        kept = self._outgoing.add(channel, kernel, generation, frames)
        if self.connected:
            self._transmit_kept(kept)
        self._look_at_limit()

    def ping(self) -> None:
        """Login side: ask the other one to say something, and tell it how far we are."""
        # An opening that was lost with its connection is said again: without one the data would wait for pings.
        self._control(Kind.PING if self.connected else Kind.HELLO)

    def hello(self) -> None:
        """Login side: open a fresh connection."""
        self.connected = False
        self.epoch += 1
        self._control(Kind.HELLO)

    def knock(self) -> None:
        """Launcher: ask for the opening of a fresh connection, until when nothing is sent on it."""
        self.connected = False
        self._control(Kind.KNOCK)

    def close(self) -> None:
        """Stop the timer."""
        if self._ack_timer:
            self._ack_timer.cancel()
            self._ack_timer = None

    def _transmit_kept(self, kept: _Kept) -> None:
        self._transmit([_HEADER.pack(*kept.header[:5], self._incoming.acknowledged()), *kept.frames])

    def _control(self, kind: Kind) -> None:
        received = self._incoming.acknowledged()
        self._transmit([_HEADER.pack(kind, 0, 0, self.epoch, self._outgoing.sent, received)])

    def _resend(self) -> None:
        for kept in list(self._outgoing):
            self._transmit_kept(kept)

    def _look_at_limit(self) -> None:
        full = self._outgoing.bytes > (self._limit // 2 if self.full else self._limit)
        if full != self.full:
            self.full = full
            self._on_full(full)

    # ---- receiving ----

    def receive(self, frames: list[Any]) -> None:
        """Take what arrived on the present connection.

        :raises LinkError: it is not of the link
        """
        header = _unpack(frames)
        self.heard = self._loop.time()
        self._outgoing.acknowledge(header.received)
        self._look_at_limit()
        if header.kind == Kind.DATA:
            self._receive_data(header, frames)
        else:
            self._receive_control(header)

    def _receive_data(self, header: Header, frames: list[Any]) -> None:
        if self._incoming.accept(header.number, size(frames)):
            self._deliver(_CHANNELS[header.channel], header.kernel, header.generation, frames[1:])
            self._acknowledge_soon()
        elif header.number > self._incoming.received and self._asked_for != self._incoming.received:
            self._ask_again()

    def _receive_control(self, header: Header) -> None:
        kind = header.kind
        if kind == Kind.KNOCK:
            self.hello()
        if kind == Kind.HELLO:
            self.epoch = header.generation
            self._control(Kind.WELCOME)
        if kind == Kind.HELLO or (kind == Kind.WELCOME and not self.connected):
            self.connected = True
            self._asked_for = -1
            self._resend()
        elif kind == Kind.RESEND:
            self._resend()
        elif kind == Kind.PING:
            self._control(Kind.PONG)
        if kind in {Kind.PING, Kind.PONG} and header.number > self._incoming.received:
            self._ask_again()

    def _ask_again(self) -> None:
        self._asked_for = self._incoming.received
        self._control(Kind.RESEND)

    # ---- acknowledging ----

    def _acknowledge_soon(self) -> None:
        incoming = self._incoming
        if incoming.unacknowledged >= ACK_MESSAGES or incoming.unacknowledged_bytes >= ACK_BYTES:
            self._control(Kind.ACK)
        elif self._ack_timer is None:
            self._ack_timer = self._loop.call_later(ACK_DELAY, self._acknowledge_now)

    def _acknowledge_now(self) -> None:
        self._ack_timer = None
        if self._incoming.unacknowledged and self.connected:
            self._control(Kind.ACK)
