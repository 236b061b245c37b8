"""The time before the job's end: when to warn, and what a hook is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

MARKS = (900.0, 300.0, 60.0)
"""Seconds before the end at which is warned."""


class Alarm:
    """Calls `on_mark(seconds)` at each mark before an end that may be moved."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_mark: Callable[[float], None]) -> None:
        self._loop = loop
        self._on_mark = on_mark
        self._timers: list[asyncio.TimerHandle] = []

    def set(self, end: float) -> None:
        """Set or move the end.

        :param end: seconds since 1970; marks that have passed are left out
        """
        self.cancel()
        left = end - time.time()
        self._timers = [self._loop.call_later(left - mark, self._on_mark, mark) for mark in MARKS if mark < left]

    def cancel(self) -> None:
        """Warn no more."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []
