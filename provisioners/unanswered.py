"""The requests that clients still wait for, and the answers that are given in a kernel's place.

A client that gets no reply to an execute_request shows the cell as running for ever. So whoever ends a kernel, or
finds that it has ended, answers what is open (Jupyter messaging spec, "Messages on the shell channel").
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from farkernel.launcher import wire
from farkernel.launcher.protocol import Channel
from farkernel.launcher.sockets import Frames

_REQUEST = "_request"
_OURS = b"farkernel"
"""The client that asks questions of our own; a reply to it reaches nobody."""

Lane = tuple[Channel, str]
"""What a kernel takes one after the other: a channel, and of shell one of its subshells."""

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
    def ours(self) -> bool:
        """Whether it is a question of our own."""
        return self.message.identities == [_OURS]

    @property
    def lane(self) -> Lane:
        """What it is taken in."""
        subshell = self.message.header.get("subshell_id")
        return self.channel, subshell if isinstance(subshell, str) else ""


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

    A kernel says nothing to requests that it does not know, such as a debugger's, nor to messages that want no reply.
    They count until something that it has taken after them has its reply; where nobody else asks, `ask` does.

    :ivar bytes: what is open takes in memory, here and at least once more on the way to the kernel
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._requests: dict[str, Request] = {}
        self._silent = itertools.count()
        self._unasked: set[Lane] = set()
        self._asked: set[Lane] = set()

    def sent(self, channel: Channel, message: wire.Message | None, size: int = 0) -> None:
        """Note a client's message, None if it is not one of Jupyter's; one that is repeated counts each time."""
        if message and is_request(message):
            before = self._requests.get(message.id)
            request = Request(channel, message, size + (before.size if before else 0))
        elif channel in {Channel.SHELL, Channel.CONTROL}:
            header = {"msg_id": f"\0{next(self._silent)}", "subshell_id": message and message.header.get("subshell_id")}
            request = Request(channel, wire.Message([], header, {}, b""), size)
        else:
            return  # an answer to the kernel's own question: the launcher keeps a few for it, and no more
        self._requests[request.message.id] = request
        self.bytes += size
        if not request.executes:
            self._unasked.add(request.lane)

    def ask(self, signer: wire.Signer) -> Iterator[tuple[Channel, list[bytes]]]:
        """Yield questions of our own, to go behind all that may be open for ever; one at a time for each lane."""
        for lane in self._unasked - self._asked:
            channel, subshell = lane
            header = signer.header("kernel_info_request") | ({"subshell_id": subshell} if subshell else {})
            question = Request(channel, wire.Message([_OURS], header, {}, b"{}"))
            self._requests[question.message.id] = question
            self._unasked.remove(lane)
            self._asked.add(lane)
            yield channel, signer.frames(header, {}, identities=[_OURS])

    def answered(self, channel: Channel, frames: Frames) -> None:
        """Note a reply."""
        if not self._requests:
            return
        message = wire.parse(frames)
        request = self._requests.get(message.parent_id) if message else None
        if request:
            self._forget([request, *self._passed_over(channel, request)])
            if request.ours:
                self._asked.discard(request.lane)

    def _passed_over(self, channel: Channel, answered: Request) -> Iterator[Request]:
        for request in self._requests.values():
            if request is answered:
                return
            if request.channel == channel and not request.executes and request.lane == answered.lane:
                yield request

    def _forget(self, requests: Iterable[Request]) -> None:
        for request in list(requests):
            del self._requests[request.message.id]
            self.bytes -= request.size
        if not self._requests:
            self._unasked.clear()

    def running(self) -> Request | None:
        """Return the execute_request that has waited longest, of those that show something: the cell that runs."""
        shown = (r for r in self._requests.values() if r.executes and not r.message.content.get("silent"))
        return next(shown, None)

    def take(self, which: Which = lambda message: True) -> list[Request]:
        """Return the requests that are open, oldest first, and forget them."""
        taken = [request for request in self._requests.values() if request.ours or which(request.message)]
        self._asked.clear()
        self._forget(taken)
        return [request for request in taken if is_request(request.message) and not request.ours]


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
