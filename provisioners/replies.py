"""The replies to a kernel's clients: one that is behind with reading loses none, and holds up no other."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable
from typing import Any

import zmq

from farkernel.launcher.sockets import Frames, LoopSocket

QUEUE = 32
"""Messages in ZeroMQ's queues to and from one client; it counts them whatever their size, so that they are few."""

_SOONEST, _LATEST = 0.001, 0.05
"""Seconds until a client that was behind is tried again; more from time to time while none of them reads."""

log = logging.getLogger("farkernel")


class _Queue:
    """What waits for one client."""

    def __init__(self) -> None:
        self.messages: collections.deque[Frames] = collections.deque()
        self.bytes = 0
        self.told = False

    def add(self, frames: Frames) -> None:
        self.messages.append(frames)
        self.bytes += _size(frames)

    def remove_first(self) -> None:
        self.bytes -= _size(self.messages.popleft())


class Replies:
    """A ROUTER socket that gives each client time to read.

    A ROUTER drops what is for a client whose queue is full, and says nothing. With ZMQ_ROUTER_MANDATORY it refuses
    instead (zmq_setsockopt(3)), and what it refuses waits here, in order and for each client by itself. Only what is
    for a client that is gone is dropped; and what is more than `limit` bytes for one, which is told in the log.

    :param on_message: takes what clients send
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: zmq.Socket[bytes],
        on_message: Callable[[list[Any]], None],
        *,
        limit: int = 32 * 2**20,
    ) -> None:
        socket.router_mandatory = True
        self._loop = loop
        self._socket = LoopSocket(loop, socket, on_message)
        self._limit = limit
        self._waiting: dict[bytes, _Queue] = {}
        self._delay = _SOONEST
        self._timer: asyncio.TimerHandle | None = None
        self._closes: float | None = None

    def send(self, frames: Frames) -> None:
        """Send a message to the client that its first frame names, now or soon."""
        if self._closes is not None:
            return
        # The first attempt is the usual case: nothing else is done for a client that reads.
        queue = self._waiting.get(bytes(frames[0])) if self._waiting else None
        if queue is None and self._try(frames):
            return
        if queue is None:
            queue = self._waiting[bytes(frames[0])] = _Queue()
        if queue.bytes + _size(frames) <= self._limit:
            queue.add(frames)
        elif not queue.told:
            queue.told = True
            log.warning("a client does not read its replies: what is more than %d MB is lost", self._limit >> 20)
        if self._timer is None:
            self._retry_in(_SOONEST)

    def pause(self) -> None:
        """Leave with the clients what they send."""
        self._socket.pause()

    def resume(self) -> None:
        """Take it again."""
        if self._closes is None:
            self._socket.resume()

    def close(self, linger: int = 0) -> None:
        """Take nothing any more, and close once everything is sent, or after `linger` ms."""
        if linger and self._waiting:
            self._socket.pause()
            self._closes = self._loop.time() + linger / 1000
            return
        if self._timer:
            self._timer.cancel()
        self._closes = 0.0
        self._socket.close(linger)

    def _try(self, frames: Frames) -> bool:
        """Whether nothing more is to be done for a message: it is sent, or there is nobody to send it to."""
        try:
            return self._socket.send(frames)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return True

    def _retry_in(self, delay: float) -> None:
        self._delay = delay
        self._timer = self._loop.call_later(delay, self._retry)

    def _retry(self) -> None:
        self._timer = None
        before = sum(len(queue.messages) for queue in self._waiting.values())
        for queue in self._waiting.values():
            while queue.messages and self._try(queue.messages[0]):
                queue.remove_first()
        self._waiting = {client: queue for client, queue in self._waiting.items() if queue.messages}
        after = sum(len(queue.messages) for queue in self._waiting.values())
        if self._closes is not None and (not after or self._loop.time() > self._closes):
            self._socket.close(max(0, int((self._closes - self._loop.time()) * 1000)))
        elif after:
            self._retry_in(_SOONEST if after < before else min(2 * self._delay, _LATEST))


def _size(frames: Frames) -> int:
    return sum(map(len, frames))
