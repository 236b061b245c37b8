"""What the jobs of the process ask of Slurm: those that wait, those that run, and those that are to go.

500 kernels that wait cost slurmctld no more than one: all are asked about in one call, every 2 seconds at first, then
more and more rarely up to every 30, at times that are not the same in every process. Whoever asks about jobs that run
in the same moment is answered by one call, too.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from farkernel.provisioners import commands
from farkernel.provisioners.commands import QueueEntry
from farkernel.provisioners.errors import CommandMissing, FarkernelError
from farkernel.provisioners.hosts import Host
from farkernel.provisioners.process import Finished

SHORTEST, LONGEST = 2.0, 30.0
"""Seconds between two questions."""

_TOGETHER = 0.1
"""Seconds in which jobs are gathered that are asked about together."""

_GROWTH = 1.5
_JITTER = 0.2
_TIMEOUT = 30.0
_PATIENCE = 15.0
"""Seconds for an answer that somebody waits for."""

log = logging.getLogger("farkernel")


class _Watcher(NamedTuple):
    on_entry: Callable[[QueueEntry], None]
    on_silence: Callable[[datetime], None]


class Queue:
    """Watches pending jobs for whoever wants to know; belongs to the background loop.

    :param host: where Slurm is asked
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._watchers: dict[int, _Watcher] = {}
        self._silent_since: datetime | None = None
        self._cancelling: set[asyncio.Task[None]] = set()
        self._pause = SHORTEST
        self._task: asyncio.Task[None] | None = None
        self._wanted: set[int] = set()
        self._look: asyncio.Task[dict[int, QueueEntry]] | None = None

    def watch(
        self, job_id: int, on_entry: Callable[[QueueEntry], None], on_silence: Callable[[datetime], None]
    ) -> None:
        """Call `on_entry` with what squeue says of a job, until `unwatch`.

        :param on_silence: called with the time, local, since when Slurm does not answer
        """
        self._watchers[job_id] = _Watcher(on_entry, on_silence)
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

    async def look(self, job_id: int) -> QueueEntry | None:
        """Return what squeue says of a job now; None when it says nothing."""
        self._wanted.add(job_id)
        if self._look is None:
            self._look = asyncio.get_running_loop().create_task(self._look_at_wanted())
        return (await asyncio.shield(self._look)).get(job_id)

    async def _look_at_wanted(self) -> dict[int, QueueEntry]:
        await asyncio.sleep(_TOGETHER)
        wanted, self._wanted, self._look = self._wanted, set(), None
        try:
            return commands.parse_squeue((await self._squeue(wanted, _PATIENCE)).stdout)
        except (FarkernelError, TimeoutError) as error:
            log.warning("squeue: %s", error)
            return {}

    @property
    def busy(self) -> bool:
        """Whether there is something to ask of Slurm."""
        return bool(self._watchers or self._cancelling)

    async def _run(self) -> None:
        await asyncio.sleep(_TOGETHER)
        while True:
            await self._ask()
            await asyncio.sleep(self._pause * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311
            self._pause = min(self._pause * _GROWTH, LONGEST)

    async def _ask(self) -> None:
        try:
            finished = await self._squeue(self._watchers, _TIMEOUT)
        except (FarkernelError, TimeoutError) as error:
            self._on_silence(str(error))
            return
        if finished.returncode and commands.slurm_is_away(finished.stderr):
            self._on_silence(finished.stderr.strip())
            return
        self._silent_since = None
        for job_id, entry in commands.parse_squeue(finished.stdout).items():
            if job_id in self._watchers:
                self._watchers[job_id].on_entry(entry)

    def _on_silence(self, why: str) -> None:
        # slurmctld may be away for a while; that says nothing of the jobs.
        if self.host.trouble:
            return  # who tells of a job tells of that
        if self._silent_since is None:
            log.warning("squeue: %s", why)
            self._silent_since = datetime.now()  # noqa: DTZ005 (shown to the user)
            self._pause = SHORTEST
        for watcher in list(self._watchers.values()):
            watcher.on_silence(self._silent_since)

    async def cancel(self, job_id: int, *, env: Mapping[str, str], on_done: Callable[[], object]) -> None:
        """End a job; if Slurm does not answer it is tried again and again, without being waited for.

        :param on_done: called once Slurm has heard of it
        """
        why = await self._scancel(job_id, env)
        if not why:
            on_done()
            return
        log.error("Slurm job %s is left for now; scancel will be tried again: %s", job_id, why)
        task = asyncio.get_running_loop().create_task(self._cancel_later(job_id, env, on_done))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel_later(self, job_id: int, env: Mapping[str, str], on_done: Callable[[], object]) -> None:
        pause = SHORTEST
        await asyncio.sleep(pause)
        while await self._scancel(job_id, env):
            pause = min(pause * _GROWTH, LONGEST)
            await asyncio.sleep(pause)
        log.warning("Slurm job %s is cancelled now", job_id)
        on_done()

    async def _squeue(self, job_ids: Iterable[int], timeout: float) -> Finished:
        env = commands.query_env(self.host.environ)
        return await self.host.run(commands.squeue_argv(job_ids), env=env, timeout=timeout)

    async def _scancel(self, job_id: int, env: Mapping[str, str]) -> str:
        """Return why scancel did not reach Slurm; empty if it did, whatever it said of the job."""
        try:
            done = await self.host.run(commands.scancel_argv(job_id), env=env, timeout=_TIMEOUT)
        except CommandMissing:
            return ""  # nothing more can be done
        except TimeoutError as error:
            return str(error)
        return done.stderr.strip() if commands.slurm_is_away(done.stderr) else ""
