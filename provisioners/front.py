"""The front: the sockets that Jupyter clients connect to.

They are unix sockets in a 0700 directory. On a login node with many users a TCP port on loopback would let
every one of them read a kernel's output: iopub is signed, not authenticated.

The front lives as long as the kernel has its name: over restarts and over jobs. jupyter_client removes the files
`<ip>-<port>` at each restart, so those are links to the real sockets, made anew for every start.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable
from typing import Any

import zmq

from farkernel.launcher.private import PrivateDirectory
from farkernel.launcher.protocol import PORT_NAMES, Channel
from farkernel.launcher.sockets import Frames, send
from farkernel.provisioners.places import unusable
from farkernel.provisioners.replies import QUEUE, Replies

_LONGEST_TOPIC = 2**16
"""Bytes in a subscription, which are the only thing that iopub takes; a PUB keeps dozens of bytes for each."""

_PUBLIC, _REAL = "k", "r"
LONGEST_NAME = "r-5"
"""The longest name in a front's directory."""


def runtime_directory() -> pathlib.Path:
    """Return where sockets go: the user's runtime directory if it is there and private, or else /tmp.

    Source: XDG Base Directory Specification. platformdirs is of no use here: it falls back to a name below /tmp that
    somebody else may have made before.
    """
    candidate = pathlib.Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    with contextlib.suppress(OSError):
        status = candidate.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return candidate
    return pathlib.Path(tempfile.gettempdir())


class Front:
    """The five sockets of one kernel.

    :param on_request: `on_request(channel, frames)` takes what clients send
    :param on_behind: called with True when a client is behind with reading, with False when none is any more
    :raises DirectoryUnusable: the sockets cannot be made
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        on_request: Callable[[Channel, list[Any]], None],
        on_behind: Callable[[bool], None],
        base: pathlib.Path,
    ) -> None:
        with contextlib.ExitStack() as undo:
            try:
                self._directory = PrivateDirectory(base, LONGEST_NAME)
                undo.callback(self._directory.remove)
                self._sockets: dict[Channel, Replies] = {}
                for channel in (channel for channel in PORT_NAMES if channel != Channel.IOPUB):
                    self._sockets[channel] = self._bind(loop, context, channel, on_request)
                    undo.callback(self._sockets[channel].close)
                self._publisher = Publisher(loop, self._bound(context, Channel.IOPUB, zmq.PUB), on_behind)
                undo.callback(self._publisher.close, 0)
                self.renew()
            except (OSError, zmq.ZMQError) as error:
                why = error.strerror or str(error)
                raise unusable(str(base), why, host="this host", key="XDG_RUNTIME_DIR") from error
            undo.pop_all()

    @property
    def connection_info(self) -> dict[str, Any]:
        """What a connection file says of the sockets."""
        ports = {name: int(channel) for channel, name in PORT_NAMES.items()}
        return {"transport": "ipc", "ip": str(self._directory.path / _PUBLIC), **ports}

    def renew(self) -> None:
        """Make the names that jupyter_client removes at every restart."""
        for channel in PORT_NAMES:
            link = self._directory.path / f"{_PUBLIC}-{int(channel)}"
            link.unlink(missing_ok=True)
            link.symlink_to(f"{_REAL}-{int(channel)}")

    def send(self, channel: Channel, frames: Frames) -> None:
        """Send a kernel's message to the client that its identities name, or publish it."""
        if channel == Channel.IOPUB:
            self._publisher.send(frames)
        else:
            self._sockets[channel].send(frames)

    def hold_requests(self, hold: bool) -> None:
        """Leave requests with the clients, or go on; interrupts and shutdowns (control) always pass."""
        for channel in (Channel.SHELL, Channel.STDIN, Channel.HB):
            socket = self._sockets[channel]
            if hold:
                socket.pause()
            else:
                socket.resume()

    def close(self, linger: int = 1000) -> None:
        """Close the sockets; `linger` is the time in ms for what is still to be sent."""
        for socket in self._sockets.values():
            socket.close(linger)
        self._publisher.close(linger)
        self._directory.remove()

    def _bound(self, context: zmq.Context[Any], channel: Channel, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = context.socket(kind)
        if kind == zmq.ROUTER:
            socket.router_handover = True  # a tab that reconnects uses its identity again
            socket.rcvhwm = QUEUE  # what is left with the clients does not fill the memory here
        else:
            socket.maxmsgsize = _LONGEST_TOPIC
        socket.sndhwm = QUEUE
        socket.bind(f"ipc://{self._directory.path}/{_REAL}-{int(channel)}")
        return socket

    def _bind(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        channel: Channel,
        on_request: Callable[[Channel, list[Any]], None],
    ) -> Replies:
        socket = self._bound(context, channel, zmq.ROUTER)
        return Replies(loop, socket, functools.partial(on_request, channel))


class Publisher:
    """A PUB socket that gives a client time to read before it drops.

    A PUB socket drops at its high-water mark, 1000 messages by default, so that a burst of prints loses some. With
    ZMQ_XPUB_NODROP it refuses instead, and what it refuses waits here. A client that has not read anything for
    `patience` seconds, in which this process was not busy itself, is waited for no more: it loses messages, until it
    reads again, and the others do not. More than `limit` bytes never wait. The high-water mark counts messages,
    whatever their size: it is low, so that clients that do not read cannot fill the memory with large ones.

    :param on_behind: called with True when messages begin to wait, with False when none does any more
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: zmq.Socket[bytes],
        on_behind: Callable[[bool], None] = lambda behind: None,
        *,
        patience: float = 10.0,
        limit: int = 32 * 2**20,
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._on_behind = on_behind
        self._patience = patience
        self._limit = limit
        self._waiting: collections.deque[Frames] = collections.deque()
        self._bytes = 0
        self._unread = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closes: float | None = None
        socket.setsockopt(zmq.XPUB_NODROP, 1)

    def send(self, frames: Frames) -> None:
        """Publish a message, now or soon."""
        if self._closes is not None or (not self._waiting and self._try(frames)):
            return
        self._waiting.append(frames)
        self._bytes += sum(map(len, frames))
        if self._timer is None:
            self._timer = self._loop.call_later(_RETRY, self._retry)
            self._on_behind(True)

    def close(self, linger: int) -> None:
        """Publish what waits, and close: once clients have taken it, or after `linger` ms."""
        self._closes = self._loop.time() + linger / 1000
        if not (self._waiting and linger):
            self._close()

    def _close(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._socket.closed:
            return
        self._drop(len(self._waiting))
        self._socket.close(max(0, int(((self._closes or 0.0) - self._loop.time()) * 1000)))

    def _try(self, frames: Frames) -> bool:
        try:
            send(self._socket, frames)
        except zmq.Again:
            return False
        self._unread = 0.0
        return True

    def _retry(self) -> None:
        self._timer = None
        self._unread += _RETRY  # by the clock, a loop that was late would not give its clients that time
        while self._waiting and self._try(self._waiting[0]):
            self._remove_first()
        if self._bytes > self._limit:
            self._drop(len(self._waiting))
        elif self._unread > self._patience:
            self._drop(_RETRY_MESSAGES)  # not all at once: that would be too much for the others' queues
        if self._closes is not None and (not self._waiting or self._loop.time() > self._closes):
            self._close()
        elif self._waiting:
            self._timer = self._loop.call_later(_RETRY, self._retry)
        else:
            self._on_behind(False)

    def _drop(self, count: int) -> None:
        """Publish without regard for clients whose queues are full."""
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        for _ in range(min(count, len(self._waiting))):
            with contextlib.suppress(zmq.Again):
                send(self._socket, self._waiting[0])
            self._remove_first()
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _remove_first(self) -> None:
        self._bytes -= sum(map(len, self._waiting.popleft()))


_RETRY = 0.001
"""Seconds until a socket that was full is tried again."""

_RETRY_MESSAGES = 5
"""Messages that are then published without regard for a client that does not read."""
