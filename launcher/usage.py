"""What a kernel takes of its node: the memory and the processor time of its processes, as /proc has them."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

FIRST = 1.0
"""Seconds after a kernel's first answer until it is measured."""

INTERVAL = 10.0
"""Seconds between two measurements."""

_MEMORY_STEP = 16 * 2**20
_CPU_STEP = 5.0
_SHARE = 0.05
"""What is worth telling: so many bytes, so many seconds, and at least this part of what was told before."""

_PROC = pathlib.Path("/proc")


class Reading(NamedTuple):
    """What a kernel takes.

    :param memory: bytes that its processes hold in memory; what they share counts once for each
    :param cpu: seconds of processor time so far
    """

    memory: int
    cpu: float


class _Process(NamedTuple):
    born: int
    memory: int
    cpu: float


class Meter:
    """Measures one kernel.

    Only its own processes are looked at: a node may have thousands of others. One that has left its parent still
    counts, if it was seen before.
    """

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._cpu = 0.0
        self._told: Reading | None = None

    def measure(self, roots: Iterable[int]) -> Reading:
        """Add up what the given processes take, and all that they have started."""
        found: dict[int, _Process] = {}
        to_see = [*roots, *self._known]
        while to_see:
            pid = to_see.pop()
            process = None if pid in found else _look(pid)
            if process and self._known.get(pid, process.born) == process.born:  # not a number that is used again
                found[pid] = process
                to_see += _children(pid)
        self._known = {pid: process.born for pid, process in found.items()}
        # what ended without anybody waiting for it is missing from the sum: time does not go back
        self._cpu = max(self._cpu, sum(process.cpu for process in found.values()))
        return Reading(sum(process.memory for process in found.values()), self._cpu)

    def news(self, roots: Iterable[int]) -> Reading | None:
        """Measure; return nothing if what was returned last is still about right."""
        reading = self.measure(roots)
        if self._told and not worth_telling(self._told, reading):
            return None
        self._told = reading
        return reading


def worth_telling(told: Reading, now: Reading) -> bool:
    """Whether a reading differs noticeably from one that was told."""
    return (
        abs(now.memory - told.memory) >= max(_MEMORY_STEP, _SHARE * told.memory)
        or abs(now.cpu - told.cpu) >= max(_CPU_STEP, _SHARE * told.cpu)
    )  # fmt: skip


def _look(pid: int) -> _Process | None:
    """Read a process's times and memory (proc(5), /proc/pid/stat); None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])  # its own, and those of children that it has waited for
    memory = max(0, int(fields[21])) * os.sysconf("SC_PAGE_SIZE")
    return _Process(int(fields[19]), memory, ticks / os.sysconf("SC_CLK_TCK"))


def _children(pid: int) -> Iterator[int]:
    """Yield what a process has started: /proc keeps that by thread."""
    with contextlib.suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (thread / "children").read_text(encoding="ascii").split())
