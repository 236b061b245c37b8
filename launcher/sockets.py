"""ZeroMQ sockets on an asyncio loop, without a task or a future per message.

A ZeroMQ socket's file descriptor says only that something *changed* (zmq_getsockopt(3), ZMQ_FD): after every
receive and every send the socket has to be asked again, or a message waits until the next one comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import zmq

Frames = Sequence[Any]
"""The frames of a message: `zmq.Frame` or bytes."""

# Plain numbers: an enum's `|` for every frame costs as much as the frame.
_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

BATCH = 64
"""Messages taken from one socket before the others get their turn."""


_FRAME = 256
"""Bytes that a frame takes in memory beside its content, about."""


def size(frames: Frames) -> int:
    """Return what a message takes in memory, for bounds that many small ones must not get around."""
    return sum(map(len, frames)) + _FRAME * len(frames)


def send(socket: zmq.Socket[bytes], frames: Frames) -> None:
    """Send a message without waiting; as `send_multipart`, with less work for each frame.

    :raises zmq.Again: the socket cannot take it now
    """
    for frame in frames[:-1]:
        socket.send(frame, _MORE, False)
    socket.send(frames[-1], _NOBLOCK, False)


def receive(socket: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """Receive a message without waiting; as `recv_multipart`, with less work for each frame.

    :raises zmq.Again: there is none
    """
    frame = socket.recv(_NOBLOCK, False)
    frames = [frame]
    while frame.more:
        frame = socket.recv(_NOBLOCK, False)
        frames.append(frame)
    return frames


class LoopSocket:
    """One ZeroMQ socket that calls `on_message(frames)` on the loop for every message.

    It belongs to the loop's thread: every method is to be called there.

    :ivar closed: whether `close` was called
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: zmq.Socket[bytes],
        on_message: Callable[[list[zmq.Frame]], None],
    ) -> None:
        self.socket = socket
        self._loop = loop
        self._on_message = on_message
        self._scheduled = False
        self._paused = False
        self.closed = False
        self._fd = socket.fileno()
        loop.add_reader(self._fd, self._drain)
        self._schedule()

    def send(self, frames: Frames) -> bool:
        """Send a message; False when the socket cannot take it now."""
        if self.closed:
            return False
        try:
            send(self.socket, frames)
        except zmq.Again:
            return False
        finally:
            self._look_again()
        return True

    def pause(self) -> None:
        """Leave messages where they are, so that the sender's high-water mark is felt."""
        if not self._paused and not self.closed:
            self._paused = True
            # The descriptor stays readable until somebody receives: watched, it would keep the loop busy.
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Go on reading."""
        if self._paused and not self.closed:
            self._paused = False
            self._loop.add_reader(self._fd, self._drain)
            self._schedule()

    def receive_all(self) -> None:
        """Take what is there at once, also while it is paused."""
        while not self.closed:
            try:
                frames = receive(self.socket)
            except zmq.Again:
                return
            self._on_message(frames)

    def close(self, linger: int = 0) -> None:
        """Close the socket; `linger` is the time in ms for what is still to be sent."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._fd)
            self.socket.close(linger)

    def _look_again(self) -> None:
        if not self._scheduled and not self.closed and cast("int", self.socket.get(_EVENTS)) & _POLLIN:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain_scheduled)

    def _drain_scheduled(self) -> None:
        self._scheduled = False
        self._drain()

    def _drain(self) -> None:
        try:
            for _ in range(BATCH):
                if self.closed or self._paused:
                    return
                try:
                    frames = receive(self.socket)
                except zmq.Again:
                    return
                self._on_message(frames)
        except BaseException:
            self._schedule()  # one bad message must not leave the others lying
            raise
        self._schedule()
