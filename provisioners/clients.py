"""The clients of one kernel, and what passes between them and it.

Everything that clients see is here: the front that they connect to, the waiting room that answers them while there is
no kernel, and the requests that somebody has to answer when there is none any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from farkernel.launcher import wire
from farkernel.launcher.endpoints import MAX_FRAME
from farkernel.launcher.protocol import Channel
from farkernel.launcher.sockets import Frames, size
from farkernel.provisioners.front import Front, runtime_directory
from farkernel.provisioners.unanswered import Problem, Request, Unanswered, answers, executes, is_request, is_work
from farkernel.provisioners.waiting import WaitingRoom

OPEN_LIMIT = 2 * MAX_FRAME
"""Bytes in the requests of one kernel that have no reply yet; more are refused, for they all lie in memory."""

_LONGEST_BEAT = 2**16
"""Bytes in a heartbeat; what is longer is none."""

_ALWAYS = frozenset({"interrupt_request", "shutdown_request"})
"""Requests that end what is too much: there is as much room again for them alone."""

_TOO_LARGE = Problem("RequestTooLarge", f"farkernel takes requests of up to {MAX_FRAME >> 20} MB")
_TOO_MANY = Problem(
    "TooManyRequests",
    f"requests of {OPEN_LIMIT >> 20} MB wait for this kernel: farkernel takes no more before it answers",
)

_UNSAID = 3
"""Lines that wait for a cell to be said in; older ones are no news any more."""


class Clients:
    """One kernel's clients; lives as long as the kernel has its name, over restarts and jobs.

    :param key: the key that messages are signed with
    :param show_queue: whether the waiting cell tells what it waits for
    :param to_kernel: `to_kernel(channel, frames)` passes a client's message on
    :param on_interrupt: called for an interrupt_request that comes while there is no kernel
    :param on_behind: called with True when a client is behind with reading, with False when none is any more
    :raises DirectoryUnusable: the sockets cannot be made
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        *,
        key: bytes,
        signature_scheme: str,
        show_queue: bool,
        language: str,
        to_kernel: Callable[[Channel, Frames], None],
        on_interrupt: Callable[[], None],
        on_behind: Callable[[bool], None],
    ) -> None:
        self._signer = wire.Signer(key, signature_scheme)
        self._signing = {"key": key, "signature_scheme": signature_scheme}
        self._show_queue = show_queue
        self._language = language
        self._to_kernel = to_kernel
        self._on_interrupt = on_interrupt
        self._unanswered = Unanswered()
        self._unsaid: deque[str] = deque(maxlen=_UNSAID)
        self._beating = False
        self._told_too_many = False
        self._held_back = False
        self._room: WaitingRoom | None = self._new_room()
        self._left_room: WaitingRoom | None = None
        self._front = Front(loop, context, self._on_request, on_behind, runtime_directory())

    @property
    def connection_info(self) -> dict[str, Any]:
        """What a connection file says."""
        return {**self._front.connection_info, **self._signing}

    def renew(self) -> None:
        """Make the names anew that jupyter_client removes at every restart."""
        self._front.renew()

    # ---- what the session tells ----

    def hold(self, *, beating: bool) -> None:
        """There is no kernel now: hold what is meant for the next one.

        :param beating: whether the heartbeat is answered: a kernel that is on its way is alive, a dead one is not
        """
        self._beating = beating
        if self._room is None:
            self._room = self._new_room()

    def tell(self, text: str) -> None:
        """Say in the cell that waits what it waits for."""
        if self._room:
            self._room.tell(text)

    def open(self, text: str) -> None:
        """The kernel is there: give it what was held."""
        room, self._room = self._room, None
        if room:
            self._left_room = room
            for channel, frames in room.open(text):
                self._to_kernel(channel, frames)

    def cancel_cells(self, problem: Problem) -> None:
        """Answer the cells that wait, the first with the problem; everything else goes on waiting."""
        if self._room:
            self._room.drop(executes)
        for number, request in enumerate(self._unanswered.take(executes)):
            self._answer(request, problem, aborted=number > 0)

    def forget_requests(self, problem: Problem) -> None:
        """Abort what was asked of a kernel that is gone: the next one must not do it."""
        if self._room:
            self._room.drop(is_work)
        for request in self._unanswered.take(is_work):
            self._answer(request, problem, aborted=True)

    def end_requests(self, problem: Problem, *, aborted: bool = False) -> None:
        """Answer everything that is open: nobody else will."""
        if self._room:
            self._room.clear(wait=not aborted)  # an error takes the text's place, an abort shows nothing
            self._room = self._new_room()
        for request in self._unanswered.take():
            self._answer(request, problem, aborted=aborted)

    def say(self, text: str) -> None:
        """Write a line to stderr in the cell that runs, or else in the next one that does."""
        if running := self._unanswered.running():
            self._write(f"farkernel: {text}\n", running.message)
        else:
            self._unsaid.append(text)

    def _write(self, text: str, cell: wire.Message) -> None:
        content = {"name": "stderr", "text": text}
        self._front.send(Channel.IOPUB, self._signer.message("stream", content, parent=cell.header))

    def hold_back(self, hold: bool) -> None:
        """Leave requests with the clients while the link is full."""
        self._held_back = hold
        self._front.hold_requests(hold)

    def close(self) -> None:
        """Close the front."""
        self._front.close()

    # ---- what passes ----

    def from_kernel(self, channel: Channel, frames: list[Any]) -> None:
        """Pass a kernel's message on to the clients."""
        if channel == Channel.IOPUB and self._left_room and not self._left_room.watch_output(frames):
            self._left_room = None
        self._front.send(channel, frames)
        # After the sending: taking a message apart takes as long as passing it on.
        if channel in {Channel.SHELL, Channel.CONTROL}:
            self._unanswered.answered(channel, frames)

    def _on_request(self, channel: Channel, frames: list[Any]) -> None:
        if channel == Channel.HB:
            self._on_heartbeat(frames)
            return
        problem = self._problem(frames)
        if self._room is None and self._unanswered.bytes > OPEN_LIMIT // 2:
            for where, question in self._unanswered.ask(self._signer):
                self._to_kernel(where, question)
        passes = self._room is None and problem is None and not self._held_back
        if passes:
            self._to_kernel(channel, frames)  # before it is taken apart, which takes as long as passing it on
        message = wire.parse(frames)
        if message is None:
            if passes:
                self._unanswered.sent(channel, None, size(frames))
        elif problem and not self._passes_always(problem, message):
            self._refuse(channel, message, problem)
        elif self._room is None:
            if not passes:
                self._to_kernel(channel, frames)
            self._unanswered.sent(channel, message, size(frames))
            self._say_what_is_unsaid()
        else:
            self._on_request_while_waiting(self._room, channel, message, frames)

    def _problem(self, frames: list[Any]) -> Problem | None:
        """Say why a message may not go further: memory is bounded, on both sides."""
        if max(map(len, frames)) > MAX_FRAME:
            return _TOO_LARGE
        held = self._room.bytes if self._room else 0
        if max(self._unanswered.bytes, held) + size(frames) > OPEN_LIMIT:
            return _TOO_MANY
        self._told_too_many = False
        return None

    def _passes_always(self, problem: Problem, message: wire.Message) -> bool:
        return problem is _TOO_MANY and message.type in _ALWAYS and self._unanswered.bytes < 2 * OPEN_LIMIT

    def _refuse(self, channel: Channel, message: wire.Message, problem: Problem) -> None:
        if is_request(message):
            self._answer(Request(channel, message), problem, aborted=False)
        elif not self._told_too_many:
            self._told_too_many = True  # what has no reply, such as a widget's message
            self.say(f"{problem.evalue}; a message of type {message.type} was dropped.")

    def _say_what_is_unsaid(self) -> None:
        running = self._unanswered.running() if self._unsaid else None
        while running and self._unsaid:
            self._write(f"farkernel: {self._unsaid.popleft()}\n", running.message)

    def _on_heartbeat(self, frames: list[Any]) -> None:
        if size(frames) > _LONGEST_BEAT:
            return
        if self._room is None:
            self._to_kernel(Channel.HB, frames)
        elif self._beating:
            self._front.send(Channel.HB, frames)

    def _on_request_while_waiting(
        self, room: WaitingRoom, channel: Channel, message: wire.Message, frames: list[Any]
    ) -> None:
        if message.type == "interrupt_request":
            self._on_interrupt()
            self._reply(channel, message, {"status": "ok"})
        elif message.type == "shutdown_request":
            # Jupyter tells the provisioner itself. Held, it would end the next kernel.
            self._reply(channel, message, {"status": "ok", "restart": bool(message.content.get("restart"))})
        elif room.take(channel, message, frames):
            self._unanswered.sent(channel, message, size(frames))

    def _reply(self, channel: Channel, message: wire.Message, content: dict[str, Any]) -> None:
        kind = message.type.removesuffix("_request") + "_reply"
        frames = self._signer.message(kind, content, parent=message.header, identities=message.identities)
        self._front.send(channel, frames)

    def _answer(self, request: Request, problem: Problem, *, aborted: bool) -> None:
        for channel, frames in answers(self._signer, request, problem, aborted=aborted):
            self._front.send(channel, frames)

    def _new_room(self) -> WaitingRoom:
        def send(channel: Channel, frames: Frames) -> None:
            self._front.send(channel, frames)

        return WaitingRoom(self._signer, send, show_queue=self._show_queue, language=self._language)
