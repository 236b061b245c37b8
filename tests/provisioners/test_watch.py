"""The time that a job has left, which an administrator may change."""

import asyncio
import math
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from farkernel.launcher import protocol
from farkernel.launcher.protocol import Walltime
from farkernel.provisioners import watch
from farkernel.provisioners.remote import Remote

ROUND = 300


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Job:
    """A job whose end is changed while it runs.

    :param ends: from when on it has which end; None: Slurm does not answer
    """

    def __init__(self, clock: Clock, ends: dict[float, float | None]) -> None:
        self._clock = clock
        self._ends = ends
        self.asked: list[float] = []

    async def time_left(self) -> float | None:
        self.asked.append(self._clock.now)
        (*_, end) = (end for since, end in self._ends.items() if since <= self._clock.now)
        return None if end is None else end - self._clock.now


class Link:
    """A link to a launcher that is there until a time."""

    def __init__(self, clock: Clock, job: Job, until: float) -> None:
        self._clock = clock
        self._until = until
        self.job = job
        self.orders: list[tuple[float, float]] = []

    @property
    def connected(self) -> bool:
        return self._clock.now < self._until

    def order(self, order: Walltime) -> None:
        arrives = protocol.decode(protocol.encode(order), Walltime)
        self.orders.append((self._clock.now, math.inf if arrives.end is None else arrives.end))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    with monkeypatch.context() as patch:
        patch.setattr(watch.asyncio, "sleep", clock.sleep)  # type: ignore[attr-defined]
        patch.setattr(time, "time", lambda: clock.now)
        patch.setattr(time, "monotonic", lambda: clock.now)
        yield clock


def follow(clock: Clock, ends: dict[float, float | None], until: float) -> tuple[Link, list[float]]:
    """Follow a job's end; return what was ordered, and which ends were noted."""
    noted: list[float] = []
    link = Link(clock, Job(clock, ends), until)
    asyncio.run(watch.follow_walltime(cast("Remote", cast("Any", link)), [], noted.append))
    return link, noted


def test_slurm_is_asked_ahead_of_each_warning_and_in_each_round(clock: Clock) -> None:
    link, noted = follow(clock, {0: 3600}, until=3600)
    assert noted == [3600]
    assert link.orders == [(0, 3600)]
    for mark in (900, 300, 60):
        assert any(20 <= 3600 - asked - mark < 21 for asked in link.job.asked)
    apart = [later - asked for asked, later in zip(link.job.asked, link.job.asked[1:], strict=False)]
    assert max(apart) <= ROUND
    assert len(link.job.asked) < 3600 / ROUND + 5


@pytest.mark.parametrize(
    ("when", "moved"), [(100.0, 1000.0), (100.0, 7200.0), (100.0, math.inf), (3550.0, 7200.0), (3550.0, math.inf)]
)
def test_an_end_that_is_moved_is_told_within_a_round(clock: Clock, when: float, moved: float) -> None:
    """It may come nearer, or be put off, also after the last warning."""
    link, noted = follow(clock, {0: 3600, when: moved}, until=3600 + ROUND)
    assert noted == [3600, moved]
    assert link.orders[1][0] - when <= ROUND
    assert link.orders[1][1] == moved


def test_a_job_without_an_end_may_get_one(clock: Clock) -> None:
    link, _ = follow(clock, {0: math.inf, 1000: 5000}, until=2000)
    assert [end for _, end in link.orders] == [5000]


def test_slurm_may_be_away(clock: Clock) -> None:
    link, _ = follow(clock, {0: None, 100: 3600, 200: None, 3000: 4000}, until=3600)
    assert [end for _, end in link.orders] == [3600, 4000]
