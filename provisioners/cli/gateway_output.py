"""What `farkernel gateway` keeps of a kernel's output for a client that is away or reads slowly.

jupyter_server gives a websocket whatever comes, and tornado keeps it until the client has read it; where the last
websocket of a kernel is closed, a list keeps it for the next one. Neither has an end. Here both are bounded: a client
that is too far behind gets no more output before it has caught up, and is then told how much is missing, in the cell.
Replies are never dropped. What ends with a websocket that breaks is kept for the same client, too, mere output told.

Nothing is left unread instead: other clients of the kernel would wait for this one, and then the kernel's own queue,
or the front, would drop a cell's end with its output, and tell nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager, ServerKernelManager
from traitlets import Bool, default

from farkernel.launcher import wire
from farkernel.launcher.sockets import Frames
from farkernel.provisioners.provisioner import FarkernelProvisioner
from farkernel.provisioners.replies import QUEUE

LIMIT = 64 * 2**20
"""Bytes that may wait for one client before output is dropped; `wire.patience` says how often as much for the rest."""

_MESSAGE = 3 * 2**10
"""Bytes that each message takes beside its content: tornado has a task for each, and it is known whose it is."""

_AGAIN = 10 * 2**20
"""Bytes of a message that is sent once more to a client that is back: what is larger may be why it has gone."""

Cell = tuple[str, dict[str, Any]]
"""The request that a message answers: its id and its header, both empty for none."""


def _cell(message: wire.Message | None) -> Cell:
    return (message.parent_id, message.parent) if message else ("", {})


class Losses:
    """Output that a client does not get, by the cell that it belongs to.

    :param why: ends the sentence that tells it
    """

    def __init__(self, why: str = f"this client was more than {LIMIT >> 20} MB behind with reading") -> None:
        self._why = why
        self._found: dict[str, tuple[int, dict[str, Any]]] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._found)

    def add(self, cell: Cell) -> None:
        """Count a message."""
        key, parent = cell
        self._found[key] = (self._found.get(key, (0, parent))[0] + 1, parent)

    def precede(self, frames: Frames) -> bool:
        """Whether they are to be told before this message of iopub: output of their cell that goes on, or its end.

        What may wait longer than output, a widget's messages for example, comes in between while output is dropped.
        """
        message = wire.parse(frames) if self._found else None
        if message is None or message.parent_id not in self._found:
            return False
        if message.type == "status":
            return message.content.get("execution_state") == "idle"
        return message.type == "error" or wire.patience(message) == 1

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what is to be told, and the request, without its content, whose cell it is to be told in."""
        found, self._found = self._found, {}  # "at least": what the launcher says of its own losses may be among it
        return [
            (f"farkernel: at least {count} messages of output are missing here: {self._why}.", {"header": parent})
            for count, parent in found.values()
        ]


class Kept(list[Any]):
    """The frames of a message that there was room for while the client was away; it is sent without asking again."""


class Room:
    """How far one client is behind.

    :ivar bytes: what waits for it
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._full = False

    def takes(self, frames: Frames) -> bool:
        """Whether a message of iopub may wait, too; where there was no room for output, half of it has to be free."""
        if self.bytes <= LIMIT // 2:
            self._full = False
        elif self.bytes > LIMIT:
            self._full = True
        if not self._full:
            return True
        patience = wire.patience(wire.parse(frames))
        return patience > 1 and self.bytes <= patience * LIMIT


class Unread:
    """What has been sent to a client, and not yet left for it.

    Of mere output only its cell is known: it is kept once, by tornado.
    """

    def __init__(self) -> None:
        self._found: dict[asyncio.Future[None], tuple[str, Frames, Cell]] = {}
        self._last: Cell = ("", {})

    def add(self, written: asyncio.Future[None], channel: str, frames: Frames, size: int) -> None:
        """Remember a message until it is written.

        :param size: its bytes as they are sent
        """
        message = wire.parse(frames)
        cell = _cell(message)
        if cell != self._last:  # one header for all the messages of a cell
            self._last = cell
        whole = size <= _AGAIN and (channel != "iopub" or wire.patience(message) > 1)
        self._found[written] = (channel, frames if whole else [], self._last)

    def remove(self, written: asyncio.Future[None]) -> None:
        """Forget a message that is written."""
        self._found.pop(written, None)

    def take(self) -> list[tuple[str, Any]]:
        """Return channels and messages, after `Losses` for what was not kept, as a `Backlog` has them."""
        losses, kept = Losses("the connection ended before this client had read them"), list[tuple[str, Any]]()
        for written, (channel, frames, cell) in self._found.items():
            if written.done() and not written.cancelled() and not written.exception():
                continue
            if frames:
                kept.append((channel, frames))
            else:
                losses.add(cell)
        self._found.clear()
        return [("iopub", losses), *kept]


class Connection(ZMQChannelsWebsocketConnection):
    """A client's websocket, which keeps a bounded amount of what the client has not read."""

    limit_rate = Bool(
        False, config=True, help="Whether to drop what is beyond iopub_msg_rate_limit and iopub_data_rate_limit."
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._room = Room()
        self._losses = Losses()
        self._unread = Unread()
        self._sending: tuple[str, Frames] | None = None

    @property
    def write_message(self) -> Callable[..., asyncio.Future[None]]:
        """What sends a message to the client."""
        return self._write

    def handle_outgoing_message(self, stream: Any, outgoing_msg: Any) -> None:
        """Send a kernel's message to the client, or count it where there is no room for it."""
        channel = getattr(stream, "channel", "")
        if isinstance(outgoing_msg, Losses):  # from a `Backlog`
            self._tell(outgoing_msg)
            return
        if channel == "iopub":  # a reply overtakes what is still to be dropped
            if not isinstance(outgoing_msg, Kept) and not self._room.takes(outgoing_msg):
                self._losses.add(_cell(wire.parse(outgoing_msg)))
                return
            if self._losses.precede(outgoing_msg):
                self._tell(self._losses)
        if not self._is_open():  # and about to be told so
            never = asyncio.get_running_loop().create_future()
            self._unread.add(never, channel, outgoing_msg, sum(map(len, outgoing_msg)))
            return
        self._sending = (channel, outgoing_msg)
        try:
            super().handle_outgoing_message(stream, outgoing_msg)
        finally:
            self._sending = None

    def disconnect(self) -> None:  # type: ignore[override]
        """Leave what the client has not read to the same client, if it comes back."""
        super().disconnect()  # type: ignore[no-untyped-call]
        left, self._losses = [*self._unread.take(), ("iopub", self._losses)], Losses()
        self.multi_kernel_manager.leave(self.kernel_id, self.session_key, left)

    def _write(self, message: bytes | str, binary: bool = False) -> asyncio.Future[None]:
        taken = len(message) + _MESSAGE
        written: asyncio.Future[None] = self.websocket_handler.write_message(message, binary=binary)
        self._room.bytes += taken
        if self._sending:
            self._unread.add(written, *self._sending, len(message))
        written.add_done_callback(lambda _: self._on_written(written, taken))
        return written

    def _on_written(self, written: asyncio.Future[None], taken: int) -> None:
        """Make room for more; a client that has read all need not wait for the next message to hear of a loss."""
        self._room.bytes -= taken
        if written.cancelled() or written.exception():  # the client has gone
            return
        self._unread.remove(written)
        if not self._room.bytes:
            self._tell(self._losses)

    def _is_open(self) -> bool:
        websocket = self.websocket_handler.ws_connection
        return websocket is not None and not websocket.is_closing()

    def _tell(self, losses: Losses) -> None:
        if not self._is_open():
            return
        for text, parent in losses.take():
            self.write_stderr(text, parent)  # type: ignore[no-untyped-call]


class Backlog(list[tuple[str, Any]]):
    """What jupyter_server keeps of a kernel that has no client: channels and messages, `Losses` where some were."""

    def __init__(self) -> None:
        super().__init__()
        self._room = Room()
        self._losses = Losses()

    def append(self, item: tuple[str, Any]) -> None:
        """Keep a message, or count it where there is no room for it."""
        channel, frames = item
        if isinstance(frames, Losses):
            if frames:
                super().append(item)
            return
        if channel == "iopub":
            if not self._room.takes(frames):
                if not self._losses:
                    super().append((channel, self._losses))
                self._losses.add(_cell(wire.parse(frames)))
                return
            if self._losses.precede(frames):
                self._losses = Losses()
        self._room.bytes += sum(map(len, frames)) + _MESSAGE
        super().append((channel, Kept(frames)))


class Kernel(ServerKernelManager):
    """One of the gateway's kernels."""

    def connect_iopub(self, identity: bytes | None = None) -> Any:
        """Return a stream of the kernel's output; one that farkernel carries waits in few places and is not lost."""
        stream = super().connect_iopub(identity)
        if isinstance(self.provisioner, FarkernelProvisioner):
            stream.socket.rcvhwm = QUEUE  # of messages, whatever their size
        return stream


class Kernels(AsyncMappingKernelManager):
    """The gateway's kernels."""

    @default("kernel_manager_class")
    def _default_kernel_manager_class(self) -> str:
        return f"{Kernel.__module__}.{Kernel.__name__}"

    def start_buffering(self, kernel_id: str, session_key: str, channels: dict[str, Any]) -> None:
        """Keep what a kernel says for the client that has just gone, within bounds."""
        super().start_buffering(kernel_id, session_key, channels)  # type: ignore[no-untyped-call]
        if kernel_id in self._kernel_buffers:  # not if jupyter_server is configured to keep nothing
            self._kernel_buffers[kernel_id]["buffer"] = Backlog()

    def leave(self, kernel_id: str, session_key: str, left: list[tuple[str, Any]]) -> None:
        """Keep what a client has left unread, too, if it was the last one."""
        kept = self._kernel_buffers.get(kernel_id, {})
        if kept.get("session_key") == session_key:
            for item in left:
                kept["buffer"].append(item)
