"""The waiting room: answers on the front while there is no kernel yet.

It answers the server's own probes and the heartbeat, holds everything else, and shows in the cell that waits what
it waits for. When the kernel is up, what was held goes to it, in order.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from farkernel.launcher import wire
from farkernel.launcher.protocol import Channel
from farkernel.launcher.sockets import Frames, size
from farkernel.provisioners.unanswered import Which

_OUTPUTS = frozenset({"stream", "display_data", "execute_result", "error"})


@dataclass(frozen=True)
class _Cell:
    """A cell that shows what it waits for."""

    message: wire.Message
    display_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def answered_by(self, message: wire.Message) -> bool:
        return message.parent_id == self.message.id


class WaitingRoom:
    """Holds one kernel's requests.

    :param send: `send(channel, frames)` gives something to the clients
    :param show_queue: whether the waiting cell tells what it waits for
    :param language: of the kernel, for the answer to a probe
    :ivar bytes: what is held takes in memory
    """

    def __init__(
        self,
        signer: wire.Signer,
        send: Callable[[Channel, Frames], None],
        *,
        show_queue: bool,
        language: str,
    ) -> None:
        self._signer = signer
        self._send = send
        self._show_queue = show_queue
        self._language = language
        self.bytes = 0
        self._held: list[tuple[Channel, wire.Message, Frames]] = []
        self._text = ""
        self._shown: dict[str, _Cell] = {}

    def take(self, channel: Channel, message: wire.Message, frames: Frames) -> bool:
        """Answer or hold a client's message; False when it is a probe, which is answered and done with."""
        # The server's own probes come from sockets without an identity; libzmq names those with a first byte of
        # zero. A front-end's question has to wait for the kernel's own answer: language, subshells, debugger.
        anonymous = bool(message.identities) and message.identities[0].startswith(b"\x00")
        if message.type == "kernel_info_request" and anonymous:
            self._answer_probe(channel, message)
            return False
        self._held.append((channel, message, frames))
        self.bytes += size(frames)
        self._show_in([message])
        return True

    def tell(self, text: str) -> None:
        """Say what is being waited for; shown in the first cell that waits, of each client."""
        changed, self._text = text != self._text, text
        # Also keeps the server from taking the kernel for idle, and from asking it again and again.
        self._publish("status", {"execution_state": "busy"}, {})
        if changed:
            for cell in self._shown.values():
                self._display("update_display_data", cell)
        self._show_in(message for _, message, _ in self._held)

    def drop(self, which: Which) -> None:
        """Forget some of what is held; whoever calls this answers it."""
        self._held = [held for held in self._held if not which(held[1])]
        self.bytes = sum(size(frames) for _, _, frames in self._held)
        self.clear(wait=False)
        self._shown.clear()

    def open(self, text: str) -> Iterator[tuple[Channel, Frames]]:
        """The kernel is there: yield what was held, in order; the text goes when the cell has something to show."""
        self.tell(text)
        self.clear(wait=True)
        self._publish("status", {"execution_state": "idle"}, {})  # or a kernel that nobody asks stays busy
        held, self._held, self.bytes = self._held, [], 0
        for channel, _, frames in held:
            yield channel, frames

    def clear(self, *, wait: bool) -> None:
        """Take the text out of the cells: now, or when their next output comes."""
        for cell in self._shown.values():
            self._publish("clear_output", {"wait": wait}, cell.message.header)

    def watch_output(self, frames: Frames) -> bool:
        """Look at what the kernel publishes; False when nothing is left to watch for.

        A text that is to go with the next output would stay in a cell that has none: it goes before the cell's idle.
        """
        message = wire.parse(frames) if self._shown else None
        session = next((key for key, cell in self._shown.items() if message and cell.answered_by(message)), None)
        if message and session is not None:
            idle = message.type == "status" and message.content.get("execution_state") == "idle"
            if idle:
                self._publish("clear_output", {"wait": False}, self._shown[session].message.header)
            if idle or message.type in _OUTPUTS:
                del self._shown[session]
        return bool(self._shown)

    def _show_in(self, messages: Iterable[wire.Message]) -> None:
        """Show the text in the first cell of each client that has none yet."""
        if not self._show_queue or not self._text:
            return
        # A page that was loaded again is a client of its own: the cell of the old one is not on it any more.
        for message in messages:
            if message.session not in self._shown and _is_visible(message):
                cell = self._shown[message.session] = _Cell(message)
                self._display("display_data", cell)

    def _display(self, kind: str, cell: _Cell) -> None:
        content = {
            "data": {"text/plain": self._text.replace("; ", "\n")},  # a narrow page breaks long lines anywhere
            "metadata": {},
            "transient": {"display_id": cell.display_id},
        }
        self._publish(kind, content, cell.message.header)

    def _answer_probe(self, channel: Channel, message: wire.Message) -> None:
        self._publish("status", {"execution_state": "busy"}, message.header)
        content = {
            "status": "ok",
            "protocol_version": wire.PROTOCOL_VERSION,
            "implementation": "farkernel",
            "implementation_version": "",
            "language_info": {"name": self._language, "version": "", "mimetype": "text/plain", "file_extension": ""},
            "banner": "",
            "help_links": [],
        }
        reply = self._signer.message("kernel_info_reply", content, parent=message.header, identities=message.identities)
        self._send(channel, reply)
        self._publish("status", {"execution_state": "idle"}, message.header)

    def _publish(self, msg_type: str, content: dict[str, Any], parent: dict[str, Any]) -> None:
        self._send(Channel.IOPUB, self._signer.message(msg_type, content, parent=parent))


def _is_visible(message: wire.Message) -> bool:
    return message.type == "execute_request" and not message.content.get("silent", False)
