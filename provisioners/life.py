"""The states of a kernel's life, and what leads from one to the next: the one table of them. No I/O.

docs/architecture.md shows what `diagram` and `outcomes` draw; a test keeps the two the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a kernel's life is."""

    IDLE = "idle"
    """No kernel and no job: before the first start, and after one that was cancelled."""
    PENDING = "pending"
    """Its job waits in the queue; the waiting room answers."""
    STARTING = "starting"
    """Its job is there, the launcher or the kernel on its way; the waiting room answers."""
    RUNNING = "running"
    """Messages flow."""
    DEAD = "dead"
    """The kernel has ended, its launcher is there: the next start is one order on the link."""
    ENDING = "ending"
    """Everything is being released."""
    ENDED = "ended"
    """Nothing is left but what Jupyter reads from memory."""

    @property
    def on_its_way(self) -> bool:
        """Whether a start is under way."""
        return self in {Phase.PENDING, Phase.STARTING}

    @property
    def over(self) -> bool:
        """Whether a start needs a new life."""
        return self in {Phase.ENDING, Phase.ENDED}


class Step(StrEnum):
    """What happens to a kernel; the values are the words that the diagram and the log have for it."""

    SUBMITTED = "job submitted"
    ALLOCATED = "job has nodes"
    ORDERED = "start ordered"
    READY = "kernel answers"
    STOPPED = "kernel stopped"
    WITHDRAWN = "start withdrawn"
    KERNEL_ENDED = "kernel ended"
    START_FAILED = "start failed"
    JOB_ENDED = "job ended"
    NODE_LOST = "node lost"
    SHUT_DOWN = "shut down"
    RELEASED = "all released"


_MOVES: dict[Step, tuple[tuple[Phase, ...], Phase]] = {
    Step.SUBMITTED: ((Phase.IDLE,), Phase.PENDING),
    Step.ALLOCATED: ((Phase.PENDING,), Phase.STARTING),
    Step.ORDERED: ((Phase.STARTING, Phase.RUNNING, Phase.DEAD), Phase.STARTING),
    Step.READY: ((Phase.STARTING,), Phase.RUNNING),
    Step.STOPPED: ((Phase.STARTING, Phase.RUNNING), Phase.DEAD),
    Step.WITHDRAWN: ((Phase.PENDING, Phase.STARTING), Phase.IDLE),
    Step.KERNEL_ENDED: ((Phase.RUNNING,), Phase.DEAD),
    Step.START_FAILED: ((Phase.IDLE, Phase.PENDING, Phase.STARTING), Phase.ENDING),
    Step.JOB_ENDED: ((Phase.RUNNING, Phase.DEAD), Phase.ENDING),
    Step.NODE_LOST: ((Phase.RUNNING, Phase.DEAD), Phase.ENDING),
    Step.SHUT_DOWN: (tuple(phase for phase in Phase if not phase.over), Phase.ENDING),
    Step.RELEASED: ((Phase.ENDING,), Phase.ENDED),
}


@dataclass(frozen=True)
class Outcome:
    """What an ending means.

    :param told: what the user sees
    :param left: what is left afterwards
    :param again: what starts the kernel anew
    """

    told: str
    left: str
    again: str


OUTCOMES: dict[Step, Outcome] = {
    Step.KERNEL_ENDED: Outcome(
        "the running cell: exit code, signal or out of memory, node, the end of stderr",
        "the job",
        "Jupyter, in the job",
    ),
    Step.STOPPED: Outcome("open requests are answered “aborted”", "the job", "the restart that stopped it"),
    Step.WITHDRAWN: Outcome("open requests are answered “aborted”", "nothing", "the user"),
    Step.START_FAILED: Outcome("the start dialog, or the waiting cell: why, and what to do", "nothing", "the user"),
    Step.JOB_ENDED: Outcome("the running cell: job, state (TIMEOUT, PREEMPTED, …), node", "nothing", "the user"),
    Step.NODE_LOST: Outcome("the running cell: node, since when", "nothing: the launcher ends the job", "the user"),
    Step.SHUT_DOWN: Outcome("open requests are answered “aborted”", "nothing", "the user"),
}
"""The endings; whatever they say, farkernel never submits another job by itself."""


class Life:
    """Where one kernel is, and why it has last ended.

    :param on_step: `on_step(step, phase)` is told of each step that was taken, and where it has led
    """

    def __init__(self, on_step: Callable[[Step, Phase], None] | None = None) -> None:
        self.phase = Phase.IDLE
        self.ending: Step | None = None
        self._on_step = on_step

    def take(self, step: Step) -> bool:
        """Go where a step leads; False, and nothing changes, where it leads nowhere, as when it comes too late."""
        sources, target = _MOVES[step]
        if self.phase not in sources:
            return False
        self.phase = target
        if step in OUTCOMES:
            self.ending = step
        elif step in {Step.SUBMITTED, Step.ORDERED}:
            self.ending = None
        if self._on_step:
            self._on_step(step, target)
        return True


def diagram() -> str:
    """Draw the table for Mermaid (https://mermaid.js.org), a line for each way from one phase to another."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.IDLE}"]
    ways: dict[tuple[Phase, Phase], list[Step]] = {}
    for step, (sources, target) in _MOVES.items():
        for source in sources:
            ways.setdefault((source, target), []).append(step)
    lines += [f"    {source} --> {target}: {', '.join(steps)}" for (source, target), steps in ways.items()]
    return "\n".join([*lines, f"    {Phase.ENDED} --> [*]"])


def outcomes() -> str:
    """Draw the endings as a Markdown table."""
    rows = [f"| {step} | {outcome.told} | {outcome.left} | {outcome.again} |" for step, outcome in OUTCOMES.items()]
    return "\n".join(
        ["| what happens | what is told | what is left | who starts it anew |", "|---|---|---|---|", *rows]
    )
