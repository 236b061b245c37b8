"""One squeue for all the jobs of the process that wait.

500 kernels that wait cost slurmctld no more than one: all are asked about in one call, every 2 seconds at first, then
more and more rarely up to every 30, at times that are not the same in every process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable

from farkernel.provisioners import commands, process
from farkernel.provisioners.commands import QueueEntry
from farkernel.provisioners.errors import FarkernelError

SHORTEST, LONGEST = 2.0, 30.0
"""Seconds between two questions."""

_GROWTH = 1.5
_JITTER = 0.2
_TIMEOUT = 30.0

log = logging.getLogger("farkernel")


class Queue:
    """Watches pending jobs for whoever wants to know; belongs to the background loop."""

    def __init__(self) -> None:
        self._watchers: dict[int, Callable[[QueueEntry], None]] = {}
        self._pause = SHORTEST
        self._task: asyncio.Task[None] | None = None

    def watch(self, job_id: int, on_entry: Callable[[QueueEntry], None]) -> None:
        """Call `on_entry` with what squeue says of a job, until `unwatch`."""
        self._watchers[job_id] = on_entry
        self._pause = SHORTEST
        # A task that waits for long is not woken: a new one asks soon, which serves all.
        if self._task:
            self._task.cancel()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def unwatch(self, job_id: int) -> None:
        """Ask about a job no more."""
        self._watchers.pop(job_id, None)
        if not self._watchers and self._task:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        await asyncio.sleep(0.1)  # jobs that are submitted together are asked about together
        while True:
            await self._ask()
            await asyncio.sleep(self._pause * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311
            self._pause = min(self._pause * _GROWTH, LONGEST)

    async def _ask(self) -> None:
        try:
            env = commands.query_env(os.environ)
            finished = await process.run(commands.squeue_argv(self._watchers), env=env, timeout=_TIMEOUT)
        except (FarkernelError, TimeoutError) as error:
            # slurmctld may be away for a while; that says nothing of the job.
            log.warning("squeue: %s", error)
            return
        for job_id, entry in commands.parse_squeue(finished.stdout).items():
            if job_id in self._watchers:
                self._watchers[job_id](entry)
