"""Keeps Jupyter's restarter from following a job that has ended by another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Restarts:
    """What the restarter of one kernel may do, and what has to be known of it.

    Its limit counts deaths in quick succession only: a kernel that hits its walltime would be started anew for ever.
    """

    def __init__(self) -> None:
        self._limit: int | None = None
        self._listening = False

    def on_dead(self, manager: Any, callback: Callable[[], None]) -> None:
        """Have something called, from now on, when the restarter gives the kernel up: nobody calls cleanup then."""
        if not self._listening and getattr(manager, "_restarter", None) is not None:
            manager.add_restart_callback(callback, "dead")
            self._listening = True

    def prevent(self, manager: Any) -> None:
        """A job has ended: another one only follows if somebody asks for it."""
        restarter = getattr(manager, "_restarter", None)
        if restarter is not None and self._limit is None:
            self._limit, restarter.restart_limit = restarter.restart_limit, 0

    def allow(self, manager: Any) -> None:
        """Somebody has asked."""
        restarter = getattr(manager, "_restarter", None)
        if restarter is not None and self._limit is not None:
            restarter.restart_limit, self._limit = self._limit, None
