"""Output that a kernel's own queue has dropped: the cell is told, and is given its idle if that is among it.

A kernel publishes on a socket that drops what is not taken from it in time (zmq_socket(7), ZMQ_PUB), and says so to
nobody. A cell whose idle was dropped would run for ever. That an idle will not come is proven by order, not by time: a
kernel takes the requests of one channel one after the other, and what it publishes keeps its order. So once it has
replied to a request, it is asked something on the same channel; when its idle for that has come, or the output of
another request that it was given later, the first one's was dropped.

What was dropped before an idle that arrives shows by the messages' numbers, where there are any (`numbering`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from farkernel.launcher import wire
from farkernel.launcher.numbering import QUEUE, Numbers
from farkernel.launcher.protocol import Channel
from farkernel.launcher.sockets import Frames

_PATIENCE = 2.0
"""Seconds that an idle may take after the reply until the kernel is asked, and between two looks."""

_NOTES = 1000
"""Requests of which anything is noted; the oldest are forgotten."""

_ATTEMPTS = 5
"""Questions about one request; a kernel that publishes nothing for any of them does not do so for questions."""

_LONGEST = 4096
"""Bytes of a header that is looked at; what is noted is bounded by it."""

_TEXT = (
    "farkernel: output is missing here: the kernel's own queue of {queue} messages was full, "
    "for they were not taken from it fast enough on its node{count}.\n"
)

V = TypeVar("V")


class _Lane(NamedTuple):
    """Where a kernel takes one request after the other."""

    channel: Channel
    subshell: str


@dataclasses.dataclass
class _Replied:
    """A request that has its reply, but not its idle.

    :param header: the request's
    :param since: when the reply came, on the loop's clock
    :param busy: whether its busy has come
    :param asked: how often the kernel was asked about it
    """

    lane: _Lane
    header: dict[str, Any]
    since: float
    busy: bool
    asked: int = 0


@dataclasses.dataclass
class _Question:
    """A question of ours to the kernel.

    :param requests: the requests that had their replies before
    :param replied: when its reply came
    :param heard: whether its idle has come
    """

    lane: _Lane
    requests: list[str]
    replied: float | None = None
    heard: bool = False


class Losses:
    """Follows what one start of a kernel says.

    :param ask: `ask(channel, frames)` sends it a question
    :param publish: takes what is said in its place
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        signer: wire.Signer,
        *,
        ask: Callable[[Channel, Frames], None],
        publish: Callable[[Frames], None],
    ) -> None:
        self._loop = loop
        self._signer = signer
        self._ask_kernel = ask
        self._publish = publish
        self._numbers = Numbers()
        self._states: dict[str, str] = {}  # of requests without a reply
        self._replied: dict[str, _Replied] = {}
        self._questions: dict[str, _Question] = {}
        self._with_idle: dict[str, None] = {}  # types of requests that have had one
        self._sent: dict[str, tuple[_Lane, int]] = {}  # requests, and their order
        self._order = itertools.count()
        self._latest: list[Any] = []
        self._cell: dict[str, Any] = {}  # the header of the last request that has shown its output
        self._looked_at = 0
        self._timer: asyncio.TimerHandle | None = None

    def sent(self, channel: Channel, frames: Frames) -> None:
        """Note a client's message, once it has gone to the kernel."""
        message = wire.parse(frames) if channel in {Channel.SHELL, Channel.CONTROL} else None
        if message and message.type.endswith("_request") and _is_small(message.header):
            _note(self._sent, message.id, (_lane(channel, message.header), next(self._order)))

    def count(self, channel: Channel) -> None:
        """Count a message that is only that: it answers somebody else's question."""
        if channel == Channel.IOPUB:
            self._numbers.published += 1
        elif channel != Channel.HB:
            self._numbers.others += 1

    def passed(self, channel: Channel, frames: list[Any]) -> bool:
        """Note a message before it goes on; whether it answers a question of ours, and goes nowhere."""
        if channel is Channel.IOPUB:
            self._numbers.published += 1
            self._latest = frames
            return _may_be_state(frames) and self._on_state(wire.parse(frames))
        self.count(channel)
        return channel in {Channel.SHELL, Channel.CONTROL} and self._on_reply(channel, wire.parse(frames))

    def close(self) -> None:
        """Look at nothing any more."""
        if self._timer:
            self._timer.cancel()

    # ---- what comes ----

    def _on_state(self, message: wire.Message | None) -> bool:
        if message is None or message.type != "status":
            return False
        self._numbers.at(message.id)
        request, idle = message.parent_id, message.content.get("execution_state") == "idle"
        if question := self._questions.get(request):
            question.heard |= idle
            self._conclude(request, question)
            return True
        if idle:
            self._on_idle(request, message.parent)
        elif request in self._replied:
            self._replied[request].busy = True
            self._look_soon()
        elif request:
            _note(self._states, request, "busy")
        return False

    def _on_idle(self, request: str, header: dict[str, Any]) -> None:
        cell = _is_cell(header)
        if cell:
            self._cell = header
            self._numbers.unsent += 1
        kind = wire.text(header, "msg_type")
        _note(self._with_idle, kind, None)
        if request not in self._sent:
            # Of a client that has not come by here: its reply went there.
            self._numbers.others += kind.endswith("_request")
        elif request not in self._replied:
            self._numbers.late.add(request)
        before = itertools.takewhile(lambda other: other != request, self._replied)
        # Of an older request that has no idle yet, it is not known where its output ends.
        if cell and self._numbers.surely and not any(self._awaits_idle(self._replied[other]) for other in before):
            self._say([header])
        self._states.pop(request, None)
        if self._replied.pop(request, None) is None and request:
            _note(self._states, request, "idle")

    def _on_reply(self, channel: Channel, message: wire.Message | None) -> bool:
        if message is None or not message.type.endswith("_reply"):
            return False
        request, now = message.parent_id, self._loop.time()
        if question := self._questions.get(request):
            question.replied = now
            self._conclude(request, question)
            return True
        self._numbers.late.discard(request)
        state = self._states.pop(request, "")
        if state != "idle" and _is_small(message.parent):
            lane = _lane(channel, message.parent)
            _note(self._replied, request, _Replied(lane, message.parent, now, busy=state == "busy"))
        self._look_soon()
        return False

    # ---- what does not come ----

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_PATIENCE, self._look)

    def _look(self) -> None:
        self._timer = None
        so_far = self._numbers.published + self._numbers.others
        quiet, self._looked_at = so_far == self._looked_at, so_far
        lanes = {replied.lane for replied in self._replied.values() if self._awaits_idle(replied)}
        if lanes and self._numbers.published >= QUEUE:
            self._give_up(self._overtaken())
            for lane in lanes:
                self._ask(lane)
        elif quiet:
            if self._numbers.surely:
                self._say([self._cell])
            self._numbers.rest()
            return
        self._look_soon()

    def _awaits_idle(self, replied: _Replied) -> bool:
        # Some kernels publish no states, or none for some requests.
        return replied.busy or wire.text(replied.header, "msg_type") in self._with_idle

    def _ask(self, lane: _Lane) -> None:
        late = self._loop.time() - _PATIENCE
        for question in self._questions.values():
            # One whose answers may still come; after a reply, all that is left to come may have been dropped too.
            if question.lane == lane and (question.replied is None or question.replied > late):
                return
        due = {name: replied for name, replied in self._replied.items() if replied.lane == lane}
        for name, replied in list(due.items()):
            if replied.since > late:
                del due[name]
            elif replied.asked == _ATTEMPTS:
                del due[name], self._replied[name]
            replied.asked += 1
        if due:
            header = self._signer.header("kernel_info_request")
            if lane.subshell:
                header["subshell_id"] = lane.subshell
            _note(self._questions, header["msg_id"], _Question(lane, list(due)))
            self._ask_kernel(lane.channel, self._signer.frames(header, {}))

    def _conclude(self, name: str, question: _Question) -> None:
        if question.replied is None or not question.heard:
            return
        del self._questions[name]
        self._give_up(question.requests)

    def _overtaken(self) -> list[str]:
        """Return the requests that the kernel must have done before it published what came last."""
        message = wire.parse(self._latest)
        lane, number = self._sent.get(message.parent_id if message else "", (None, 0))
        before = {name for name, sent in self._sent.items() if sent[0] == lane and sent[1] < number}
        late = self._loop.time() - _PATIENCE
        return [name for name, replied in self._replied.items() if name in before and replied.since <= late]

    def _give_up(self, requests: list[str]) -> None:
        """Wait no more for the idles of these."""
        found = [self._replied.pop(request) for request in requests if request in self._replied]
        lost = [replied.header for replied in found if self._awaits_idle(replied)]
        if lost:
            self._say(lost)
        for header in lost:
            self._publish(self._signer.message("status", {"execution_state": "idle"}, parent=header))

    def _say(self, requests: list[dict[str, Any]]) -> None:
        missing = self._numbers.missing
        text = _TEXT.format(queue=QUEUE, count=f"; about {missing} messages were dropped" if missing > 0 else "")
        for header in filter(_is_cell, requests):  # nothing else shows it
            self._publish(self._signer.message("stream", {"name": "stderr", "text": text}, parent=header))
            self._numbers.told()


def _is_cell(header: dict[str, Any]) -> bool:
    return wire.text(header, "msg_type") == "execute_request"


def _lane(channel: Channel, header: dict[str, Any]) -> _Lane:
    return _Lane(channel, wire.text(header, "subshell_id"))


def _is_small(header: dict[str, Any]) -> bool:
    return len(repr(header)) <= _LONGEST


def _may_be_state(frames: list[Any]) -> bool:
    """Whether a message is to be taken apart: everything that a kernel publishes comes by here."""
    if len(frames) > 6:
        header = frames[3]  # after topic, delimiter and signature
    elif len(frames) == 6:
        header = frames[2]  # without a topic
    else:
        return False
    return len(header) <= _LONGEST and b'"status"' in bytes(header) and len(frames[-3]) <= _LONGEST


def _note(notes: dict[str, V], name: str, value: V) -> None:
    """Note something, as the newest."""
    notes.pop(name, None)
    notes[name] = value
    if len(notes) > _NOTES:
        del notes[next(iter(notes))]
