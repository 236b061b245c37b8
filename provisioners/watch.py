"""Watches what carries a kernel: the link to its node, and the time that its job has left."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence

from farkernel.launcher.protocol import Walltime
from farkernel.launcher.walltime import MARKS
from farkernel.provisioners import states
from farkernel.provisioners.errors import NodeLost
from farkernel.provisioners.remote import Remote
from farkernel.provisioners.silence import News, Silence

_MOVED = 20.0
"""Seconds by which a job's end may be off before it counts as moved, and by which Slurm is asked ahead of a warning."""

_ROUND = 300.0
"""Seconds in which Slurm is asked at least once."""

_ASK_AGAIN = 30.0
"""Seconds until Slurm is asked again that did not answer."""


async def until_lost(remote: Remote, limit: float, tell: Callable[[str], None]) -> NodeLost | None:
    """Tell that a node is silent, and that it is back; return the error when it is to be given up.

    That is when its launcher gives up too: Slurm itself may take minutes to notice.

    :param limit: seconds that the launcher waits for us (`job.orphan_timeout`)
    :return: None when the link was closed, or the job has ended
    """
    loop = asyncio.get_running_loop()
    silence = Silence(limit, now=loop.time())
    while remote.connected and not remote.job.ended.is_set():
        news = silence.look(remote.heard, now=loop.time())
        lasted, node = states.span(silence.lasted), remote.job.status.nodes or "the node"
        why = remote.job.host.trouble or "the node or the network to it is down"
        if news is News.LOST:
            return NodeLost(
                f"Nothing was heard from {node} for {lasted}: {why}. "
                "The kernel is given up, and its launcher ends the job by itself.",
                hint="What the kernel knew is gone. Start it again for a new job. job.orphan_timeout is the limit.",
            )
        if news is News.SILENT:
            tell(
                f"nothing was heard from {node} for {lasted}: {why}. "
                f"If it comes back within {states.span(limit)}, the kernel goes on and its output arrives."
            )
        elif news is News.BACK:
            tell(f"{node} is back after {lasted}.")
        await asyncio.sleep(1)
    return None


async def follow_walltime(remote: Remote, hook: Sequence[str], on_end: Callable[[float], None]) -> None:
    """Tell the launcher when the job's time is up, for as long as there is one: an administrator may move that.

    Slurm is asked anew before each warning, and in every round.

    :param on_end: takes the time, in seconds since 1970, whenever it is new; infinity for no limit
    """
    end = math.inf
    while remote.connected:
        left = await remote.job.time_left()
        if left is None:
            await asyncio.sleep(_ASK_AGAIN)
            continue
        now = time.time()
        if _moved(now + left, end):
            end = now + left
            remote.order(Walltime(None if end == math.inf else end, list(hook)))
            on_end(end)
        coming = [left - mark - _MOVED for mark in MARKS if left - mark > _MOVED]
        await asyncio.sleep(min([*coming, _until_round(time.monotonic())]))


def _moved(end: float, before: float) -> bool:
    return end != before and not abs(end - before) <= _MOVED


def _until_round(now: float) -> float:
    """Return the seconds until the jobs that run are asked about.

    All of a process are at the same moment, so that one call serves them; those of other processes are at another.
    """
    return _ROUND - (now + os.getpid()) % _ROUND
