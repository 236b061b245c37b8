"""The waiting room: answers on the front while there is no kernel yet.

It answers the server's own probes and the heartbeat, holds everything else, and shows in the cell that waits what
it waits for. When the kernel is up, what was held goes to it, in order.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

from farkernel.launcher import wire
from farkernel.launcher.protocol import Channel
from farkernel.launcher.sockets import Frames

_OUTPUTS = frozenset({"stream", "display_data", "execute_result", "error"})


class WaitingRoom:
    """Holds one kernel's requests.

    :param send: `send(channel, frames)` gives something to the clients
    :param show_queue: whether the waiting cell tells what it waits for
    :param language: of the kernel, for the answer to a probe
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
        self._held: list[tuple[Channel, wire.Message, Frames]] = []
        self._text = ""
        self._cell: wire.Message | None = None
        self._display_id = ""

    def take(self, channel: Channel, message: wire.Message, frames: Frames) -> bool:
        """Answer or hold a client's message; False when it is a probe, which is answered and done with."""
        # The server's own probes come from sockets without an identity; libzmq names those with a first byte of
        # zero. A front-end's question has to wait for the kernel's own answer: language, subshells, debugger.
        anonymous = bool(message.identities) and message.identities[0].startswith(b"\x00")
        if message.type == "kernel_info_request" and anonymous:
            self._answer_probe(channel, message)
            return False
        self._held.append((channel, message, frames))
        if self._cell is None:
            self._show()
        return True

    def tell(self, text: str) -> None:
        """Say what is being waited for; shown in the first cell that waits."""
        changed, self._text = text != self._text, text
        # Also keeps the server from taking the kernel for idle, and from asking it again and again.
        self._publish("status", {"execution_state": "busy"}, {})
        if changed or self._cell is None:
            self._show()

    def drop_cells(self) -> None:
        """Forget the cells that are held; whoever calls this answers them."""
        self._held = [held for held in self._held if held[1].type != "execute_request"]
        self.clear(wait=True)
        self._cell = None

    def open(self, text: str) -> Iterator[tuple[Channel, Frames]]:
        """The kernel is there: yield what was held, in order; the text goes when the cell has something to show."""
        self.tell(text)
        self.clear(wait=True)
        self._publish("status", {"execution_state": "idle"}, {})  # or a kernel that nobody asks stays busy
        held, self._held = self._held, []
        for channel, _, frames in held:
            yield channel, frames

    def clear(self, *, wait: bool) -> None:
        """Take the text out of the cell: now, or when its next output comes."""
        if self._cell:
            self._publish("clear_output", {"wait": wait}, self._cell.header)

    def watch_output(self, frames: Frames) -> bool:
        """Look at what the kernel publishes; False when nothing is left to watch for.

        A text that is to go with the next output would stay in a cell that has none: it goes before the cell's idle.
        """
        if self._cell is None:
            return False
        message = wire.parse(frames)
        if message is None or message.parent_id != self._cell.id:
            return True
        idle = message.type == "status" and message.content.get("execution_state") == "idle"
        if idle:
            self.clear(wait=False)
        if idle or message.type in _OUTPUTS:
            self._cell = None
        return self._cell is not None

    def _show(self) -> None:
        if not self._show_queue or not self._text:
            return
        kind = "update_display_data"
        if self._cell is None:
            self._cell = next((message for _, message, _ in self._held if _is_visible(message)), None)
            self._display_id = uuid.uuid4().hex
            kind = "display_data"
        if self._cell:
            content = {
                "data": {"text/plain": self._text},
                "metadata": {},
                "transient": {"display_id": self._display_id},
            }
            self._publish(kind, content, self._cell.header)

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
