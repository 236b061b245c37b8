"""Notices that nothing is heard from a node any more, and when that has lasted for too long. No I/O."""

from __future__ import annotations

from enum import Enum, auto

NOTICED = 20.0
"""Seconds of silence that are told: pings go every 2 s, and two fresh connections were tried by then."""

_ASLEEP = 5.0
"""Seconds between two looks after which it was this host that slept, or had no time for us."""

_SLACK = 5.0
"""Seconds by which the launcher, which counts too, may come to its end before us."""


class News(Enum):
    """What has changed."""

    SILENT = auto()
    BACK = auto()
    LOST = auto()


class Silence:
    """Listens; to be asked once a second.

    :param limit: seconds after which the launcher gives up by itself (`job.orphan_timeout`)
    :param now: on a monotonic clock, as in all methods
    """

    def __init__(self, limit: float, *, now: float) -> None:
        self.lasted = 0.0
        self._limit = limit + _SLACK
        self._looked = now
        self._since = now
        self._told = False

    def look(self, heard: float, *, now: float) -> News | None:
        """Say what is new; `lasted` is how long there was silence.

        :param heard: when something was last heard
        """
        if now - self._looked > _ASLEEP:
            self._since = now
        self._looked = now
        if heard > self._since:
            self._since = heard
            news, self._told = News.BACK if self._told else None, False
            return news
        self.lasted = now - self._since
        if self.lasted >= self._limit:
            return News.LOST
        if self.lasted >= NOTICED and not self._told:
            self._told = True
            return News.SILENT
        return None
