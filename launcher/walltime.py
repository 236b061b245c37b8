"""The time before the job's end: when to warn, and what a hook is told."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

MARKS = (900.0, 300.0, 60.0)
"""Seconds before the end at which is warned."""


class Alarm:
    """Calls `on_mark(seconds)` at each mark before an end that may be moved."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_mark: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_mark = on_mark
        self._timers: list[asyncio.Handle] = []
        self._end: float | None = None

    def set(self, end: float | None) -> None:
        """Set or move the end. One that has come nearer, past a mark, is told at once with the time that is left.

        :param end: seconds since 1970; None for no limit
        """
        self.cancel()
        now, before = time.time(), self._end
        self._end = math.inf if end is None else end
        left = self._end - now
        self._timers = [
            self._loop.call_later(left - mark, self._on_mark, mark) for mark in MARKS if mark < left < math.inf
        ]
        if before is not None and any(0 < left <= mark < before - now for mark in MARKS):
            self._timers.append(self._loop.call_soon(self._on_mark, left))

    def cancel(self) -> None:
        """Warn no more."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []
