"""The requests that clients still wait for, and the answers that are given in a kernel's place.

A client that gets no reply to an execute_request shows the cell as running for ever. So whoever ends a kernel, or
finds that it has ended, answers what is open (Jupyter messaging spec, "Messages on the shell channel").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from farkernel.launcher import wire
from farkernel.launcher.protocol import Channel
from farkernel.launcher.sockets import Frames

_REQUEST = "_request"

Which = Callable[[wire.Message], bool]
"""Chooses among requests."""


def is_request(message: wire.Message) -> bool:
    """Whether a message has a reply."""
    return message.type.endswith(_REQUEST)


def executes(message: wire.Message) -> bool:
    """Whether a request runs a cell."""
    return message.type == "execute_request"


def is_work(message: wire.Message) -> bool:
    """Whether a request means one kernel and no other; the question who is there may be answered by the next one."""
    return message.type != "kernel_info_request"


@dataclass(frozen=True)
class Request:
    """A request that has no reply yet."""

    channel: Channel
    message: wire.Message
    size: int = 0

    @property
    def executes(self) -> bool:
        """Whether it runs a cell."""
        return executes(self.message)

    @property
    def subshell(self) -> object:
        """Which of the kernel's subshells takes it."""
        return self.message.header.get("subshell_id")


@dataclass(frozen=True)
class Problem:
    """What a cell is told in place of its result; the names are those of an `error` message."""

    ename: str
    evalue: str
    lines: Sequence[str] = ()

    @property
    def content(self) -> dict[str, Any]:
        """The fields that an `error` message and a failed reply share."""
        # A front-end shows the traceback alone.
        return {"ename": self.ename, "evalue": self.evalue, "traceback": list(self.lines) or [self.evalue]}


class Unanswered:
    """Follows what passes between the clients and the kernel.

    :ivar bytes: what is open takes in memory, here and at least once more on the way to the kernel
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._requests: dict[str, Request] = {}

    def sent(self, channel: Channel, message: wire.Message, size: int = 0) -> None:
        """Note a client's message; one that is repeated counts each time."""
        if is_request(message):
            before = self._requests.get(message.id)
            self._requests[message.id] = Request(channel, message, size + (before.size if before else 0))
            self.bytes += size

    def answered(self, channel: Channel, frames: Frames) -> None:
        """Note a reply."""
        if not self._requests:
            return
        message = wire.parse(frames)
        request = self._requests.get(message.parent_id) if message else None
        if request:
            self._forget([request, *self._passed_over(channel, request)])

    def _passed_over(self, channel: Channel, answered: Request) -> Iterator[Request]:
        # A kernel says nothing to requests that it does not know, such as a debugger's. What it takes one after the
        # other it has taken: they must not count for ever.
        for request in self._requests.values():
            if request is answered:
                return
            if request.channel == channel and not request.executes and request.subshell == answered.subshell:
                yield request

    def _forget(self, requests: Iterable[Request]) -> None:
        for request in list(requests):
            del self._requests[request.message.id]
            self.bytes -= request.size

    def running(self) -> Request | None:
        """Return the execute_request that has waited longest, of those that show something: the cell that runs."""
        shown = (r for r in self._requests.values() if r.executes and not r.message.content.get("silent"))
        return next(shown, None)

    def take(self, which: Which = lambda message: True) -> list[Request]:
        """Return what is open, oldest first, and forget it."""
        taken = [request for request in self._requests.values() if which(request.message)]
        self._forget(taken)
        return taken


def answers(
    signer: wire.Signer, request: Request, problem: Problem, *, aborted: bool = False
) -> Iterator[tuple[Channel, list[bytes]]]:
    """Yield the messages that end a request: for a cell its error, its reply and its idle.

    :param aborted: the cell was never begun: a front-end takes its mark away and shows no error
    """
    header = request.message.header
    if request.executes and not aborted:
        yield Channel.IOPUB, signer.message("error", problem.content, parent=header)
    content = {"status": "aborted"} if aborted else {"status": "error", **problem.content}
    if request.executes:
        content |= {"execution_count": 0, "payload": [], "user_expressions": {}}
    yield (
        request.channel,
        signer.message(
            request.message.type.removesuffix(_REQUEST) + "_reply",
            content,
            parent=header,
            identities=request.message.identities,
        ),
    )
    yield Channel.IOPUB, signer.message("status", {"execution_state": "idle"}, parent=header)
