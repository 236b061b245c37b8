"""A job: one launcher somewhere, from its submission to its end.

`SlurmJob` is a job of Slurm, submitted attached: allocation and launcher in one srun. `LocalJob` is the same
launcher as a process of this machine. Everything behind them is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from farkernel.launcher import protocol
from farkernel.launcher.protocol import Failed, Started
from farkernel.provisioners import commands, hosts, launch_failures, states
from farkernel.provisioners.commands import Allocated, NodeFailed, Queued, QueueEntry, SrunNotice
from farkernel.provisioners.containers.base import Container
from farkernel.provisioners.errors import CommandMissing, FarkernelError, LauncherFailed, PythonMissing, RequestError
from farkernel.provisioners.hosts import LocalProgram, Program
from farkernel.provisioners.payload import payload
from farkernel.provisioners.queue import Queue
from farkernel.provisioners.refusals import slurm_words
from farkernel.provisioners.request import Request
from farkernel.provisioners.states import JobState

_LINES = 200
"""Lines of stderr that are kept."""

_TAKEN = 5.0
"""Seconds after which an srun that says nothing counts as taken by Slurm: it may be booting a node."""

_SILENT = 5.0
"""Seconds in which Slurm is asked how a job has ended, if it does not answer."""

_COMPLETING = 15.0
"""The same if it answers that the job has not ended yet."""

_QUERY = 15.0
"""Seconds for an answer of Slurm's."""

_LEAVE = 8.0
"""Seconds that a launcher has to end its kernels and leave."""

log = logging.getLogger("farkernel")


@dataclass(frozen=True)
class Status:
    """What is known of a job.

    :param job_id: Slurm's; None for a local job, and before Slurm has said it
    :param start: when Slurm expects a waiting job to start, local time
    :param submitted: when it was submitted, on the monotonic clock
    :param launcher: the launcher's process id on its node; 0 before it is up
    :param silent_since: since when Slurm does not answer, local time; None if it does
    """

    state: JobState
    submitted: float
    job_id: int | None = None
    nodes: str = ""
    reason: str = ""
    start: datetime | None = None
    silent_since: datetime | None = None
    launcher: int = 0

    def text(self) -> str:
        """Say it in one line."""
        if not self.state.waiting:
            where = f" on {self.nodes}" if self.nodes else ""
            job = f"Slurm job {self.job_id}" if self.job_id else "The launcher"
            return f"{job} is starting{where}"
        waited = time.monotonic() - self.submitted
        if self.job_id is None:
            return f"Being submitted to Slurm; waited {states.span(waited)}"
        now = datetime.now()  # noqa: DTZ005 (Slurm prints local times without a zone)
        text = states.queue_text(self.job_id, self.state, self.reason, start=self.start, now=now, waited=waited)
        return f"{text}; Slurm does not answer since {self.silent_since:%H:%M:%S}" if self.silent_since else text


class Job:
    """A launcher that was started by a program.

    :param queue: watches it while it waits; the program runs on its host
    :param kernel: the kernel's name as the user knows it, for messages
    :param kernelspec: its name as Jupyter knows it
    :param container: the image that its kernel runs in
    :param env: the environment of the program
    :param cwd: where it runs; passed over if it does not exist
    :param on_status: called whenever more is known
    :ivar ended: the program has ended
    :ivar gone: nothing is left of the job; not set while Slurm has to be told to end it, and does not answer
    """

    _first_state = JobState.PENDING
    _must_cancel = False
    """Whether something may be left though the program has ended well."""

    def __init__(
        self,
        request: Request,
        *,
        queue: Queue,
        kernel: str,
        kernelspec: str,
        container: Container,
        python: str,
        env: Mapping[str, str],
        cwd: str,
        on_status: Callable[[Status], None],
    ) -> None:
        self.request = request
        self.host = queue.host
        self._queue = queue
        self.kernel = kernel
        self.kernelspec = kernelspec
        self.container = container
        self.python = python
        self.status = Status(self._first_state, time.monotonic())
        self.ended = asyncio.Event()
        self.gone = asyncio.Event()
        self.gone.set()
        self._env = dict(env)
        self._cwd = cwd
        self._on_status = on_status
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._taken = asyncio.Event()
        self._started: asyncio.Future[Started | Failed | None] = asyncio.get_running_loop().create_future()
        self._program: Program | None = None
        self._following: asyncio.Task[None] | None = None

    # ---- what differs ----

    def _argv(self) -> list[str]:
        """Return the program's command line."""
        raise NotImplementedError

    def _on_line(self, line: str) -> None:
        """Take a line of its stderr."""

    def why_no_launcher(self) -> FarkernelError:
        """Say why the program has ended before the launcher was up."""
        raise NotImplementedError

    async def why_ended(self) -> str:
        """Say in one sentence why the job has ended."""
        raise NotImplementedError

    async def is_exclusive(self) -> bool:
        """Whether nobody else can have a job on the node."""
        return False

    async def time_left(self) -> float | None:
        """Return how many seconds the job may still run, infinity without a limit; None if it cannot be told now."""
        return math.inf

    def kernel_started(self, pid: int) -> None:
        """Note a kernel's process on the node, which is its group's leader."""

    async def _cancel(self) -> None:
        """End what the program alone would leave behind."""

    async def _until_over(self) -> None:
        """Wait for the end of a job of whose program nothing can be known any more."""

    def text(self) -> str:
        """Say in one line what is known of it, and what keeps us from knowing more."""
        trouble = self.host.trouble
        return f"{self.status.text()}; {trouble}" if trouble else self.status.text()

    def overdue(self) -> LauncherFailed:
        """Return the error for a launcher that says nothing though its job runs."""
        limit = states.span(self.request.launcher.start_timeout)
        return LauncherFailed(
            f"The launcher on {self.status.nodes or 'the node'} did not come up within {limit}.",
            said=slurm_words(self._text),
            hint="See that launcher.python starts quickly there, or raise launcher.start_timeout in the kernelspec.",
        )

    # ---- life ----

    async def submit(self, stdin: bytes) -> None:
        """Start the program and give the launcher its input; returns when the job was taken.

        :raises FarkernelError: it was refused at once
        """
        try:
            self._program = await self.host.start(
                self._argv(),
                env=self._env,
                cwd=self._cwd,
                input=payload().on_stdin() + stdin,
                on_stdout=self._on_stdout,
                on_stderr=self._on_stderr,
                orphan_timeout=self.request.job.orphan_timeout,
            )
        except CommandMissing as error:
            raise self._missing(error) from error
        self._following = asyncio.get_running_loop().create_task(self._follow(self._program))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._taken.wait(), _TAKEN)
        if self.ended.is_set() and not self._up:
            raise self.why_no_launcher()

    async def started(self) -> Started:
        """Wait for the launcher.

        :raises FarkernelError: it does not come
        """
        answer = await asyncio.shield(self._started)
        if answer is None:
            raise self.why_no_launcher()
        if isinstance(answer, Failed):
            raise launch_failures.explain(answer.reason, python=self.python, node=self.status.nodes)
        return answer

    def tell(self, line: bytes) -> None:
        """Give the launcher a further line of its input."""
        if isinstance(self._program, LocalProgram):  # the only ones that are spoken to: see `surroundings`
            self._program.tell(line)

    async def end(self) -> None:
        """End the job, whatever state it is in; nothing is left of it afterwards."""
        program = self._program
        if program is None:
            return
        try:
            if program.returncode is None:
                await self._ask_to_leave(program)
            if program.returncode is None and not self.host.trouble:
                await hosts.end(program)
        finally:
            if self._must_cancel or not self._up or program.returncode != 0:
                await self._cancel()
        if self._following:
            if program.returncode is None:  # nothing more will be known
                self._following.cancel()
            await asyncio.wait({self._following})

    async def _ask_to_leave(self, program: Program) -> None:
        # The end of its input tells the launcher to leave; a signal to srun would have Slurm kill it, and what it has
        # made would stay on the node. Only a job that is known to be in the queue has no launcher that reads it.
        program.close_input()
        deadline = time.monotonic() + _LEAVE
        while not self._in_queue and not self.host.trouble and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), 0.1)
                return

    @property
    def _in_queue(self) -> bool:
        return self.status.job_id is not None and self.status.state.waiting

    # ---- what the program says ----

    def _update(self, **changes: object) -> None:
        self.status = replace(self.status, **changes)  # type: ignore[arg-type]
        try:
            self._on_status(self.status)
        except Exception:
            log.exception("whoever listens to a job's status must not blind us")

    def _on_stdout(self, line: str) -> None:
        if not line.startswith(protocol.MARK):
            self._lines.append(line)
            return
        try:
            answer = protocol.decode_answer(line.removeprefix(protocol.MARK))
        except protocol.ProtocolError as error:
            answer = Failed(str(error))
        self._taken.set()
        if not self._started.done():
            self._started.set_result(answer)
            if isinstance(answer, Started):
                job_id = int(answer.job_id) if re.fullmatch(r"[0-9]{1,10}", answer.job_id) else None
                state = self.status.state.advance(JobState.RUNNING)
                self._update(state=state, nodes=answer.node, job_id=job_id, launcher=answer.pid)

    def _on_stderr(self, line: str) -> None:
        self._lines.append(line)
        self._on_line(line)

    async def _follow(self, program: Program) -> None:
        await program.wait()
        if program.returncode is None and self._up:
            await self._until_over()
        if not self._started.done():
            self._started.set_result(None)
        self.ended.set()
        self._taken.set()

    def _missing(self, error: CommandMissing) -> FarkernelError:
        return error

    @property
    def _up(self) -> bool:
        return self._started.done() and isinstance(self._started.result(), Started)

    @property
    def _text(self) -> str:
        return "\n".join(self._lines)

    @property
    def _returncode(self) -> int:
        return self._program.returncode or 0 if self._program else 0


class LocalJob(Job):
    """The launcher as a process of this machine; the arguments are those of `Job`.

    :raises RequestError: another machine is asked for
    """

    _first_state = JobState.CONFIGURING
    _kernel = 0

    def __init__(self, request: Request, **rest: object) -> None:
        super().__init__(request, **rest)  # type: ignore[arg-type]
        if request.login:
            raise RequestError(
                f'Kernel "{self.kernel}" names the login node {request.login}, and its provisioner farkernel-local '
                "runs on this machine.",
                hint="Remove login from its kernelspec, or make it a kernel of farkernel-slurm.",
            )

    def kernel_started(self, pid: int) -> None:
        """Note a kernel's process."""
        self._kernel = pid

    async def _cancel(self) -> None:
        # A launcher that was killed leaves its kernel; in a job Slurm would end it.
        if self._kernel:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # not permitted: see Kernel.signal
                os.killpg(self._kernel, signal.SIGKILL)

    def _argv(self) -> list[str]:
        self._taken.set()  # there is no queue
        return payload().command(self.python)

    def _missing(self, error: CommandMissing) -> FarkernelError:
        return PythonMissing(
            f"The launcher's Python {self.python} does not exist on this machine.",
            said=error.said,
            hint="Correct launcher.python in the kernelspec.",
        )

    def why_no_launcher(self) -> FarkernelError:
        """Say why the launcher did not come up."""
        return launch_failures.explain(self._text, python=self.python, node="this machine")

    async def why_ended(self) -> str:
        """Say how the launcher has ended."""
        how = f"with exit code {self._returncode}" if self._returncode else "because it was told to"
        return f"The launcher on this machine has ended {how}."


class SlurmJob(Job):
    """An attached job of Slurm; the arguments are those of `Job`."""

    # An srun that ends while slurmctld is away exits with 0, without a word, and its job is taken for a running one.
    _must_cancel = True

    def __init__(self, request: Request, **rest: object) -> None:
        super().__init__(request, **rest)  # type: ignore[arg-type]
        self._notices: list[SrunNotice] = []
        self._env = commands.srun_env(request.slurm, self._env)

    def _argv(self) -> list[str]:
        options = self.container.slurm_options()
        return commands.srun_argv(self.request.slurm, payload().command(self.python), options=options)

    def _missing(self, error: CommandMissing) -> FarkernelError:
        return CommandMissing(
            f'Kernel "{self.kernel}" needs Slurm, and there is no srun on {self.host.name}.',
            said=error.said,
            hint=error.hint
            if self.request.login
            else "Start the notebook server on a login node, see that PATH leads to srun, or use a kernel of "
            "the provisioner farkernel-local.",
        )

    def _on_line(self, line: str) -> None:
        notice = commands.parse_srun_line(line)
        if notice is None:
            return
        self._notices.append(notice)
        if isinstance(notice, Queued):
            self._update(job_id=notice.job_id)
            self._queue.watch(notice.job_id, self._on_entry, self._on_silence)
            self._taken.set()
        elif isinstance(notice, Allocated):
            self._queue.unwatch(notice.job_id)
            state = self.status.state.advance(JobState.CONFIGURING)
            changes = {"state": state, "nodes": notice.nodes, "reason": "", "start": None, "silent_since": None}
            self._update(job_id=notice.job_id, **changes)
            self._taken.set()
        elif isinstance(notice, NodeFailed) and self._program:
            # srun hangs after this: let nobody wait for it.
            self._program.signal(signal.SIGTERM)

    def _on_entry(self, entry: QueueEntry) -> None:
        state = self.status.state.advance(entry.state)
        self._update(state=state, reason=entry.reason, start=entry.start, silent_since=None)

    def _on_silence(self, since: datetime) -> None:
        self._update(silent_since=since)

    async def _until_over(self) -> None:
        assert self.status.job_id
        over = asyncio.Event()

        def on_entry(entry: QueueEntry) -> None:
            if entry.state.ended:
                over.set()

        self._queue.watch(self.status.job_id, on_entry, lambda since: None)
        try:
            await over.wait()
        finally:
            self._queue.unwatch(self.status.job_id)

    def why_no_launcher(self) -> FarkernelError:
        """Say why there is no job, or no launcher in it."""
        return launch_failures.explain_srun(
            self._text,
            self._notices,
            returncode=self._returncode,
            kernel=self.kernel,
            kernelspec=self.kernelspec,
            container=self.container,
            python=self.python,
            node=self.status.nodes,
        )

    async def why_ended(self) -> str:
        """Ask Slurm how the job has ended."""
        job_id = self.status.job_id
        if job_id is None:
            return "The job has ended."
        if self._returncode < 0:
            name = states.signal_name(-self._returncode)
            return f"The srun of Slurm job {job_id} was killed ({name}); the job is ended with it."
        begun, entry = time.monotonic(), None
        # Somebody waits for the answer.
        while time.monotonic() < begun + (_COMPLETING if entry else _SILENT):
            entry = await self._ask()
            if entry and entry.state.ended and entry.state != JobState.UNKNOWN:
                state = JobState.PREEMPTED if await self._was_preempted(job_id) else entry.state
                return states.end_sentence(state, job_id=job_id, node=self.status.nodes)
            await asyncio.sleep(0.5)
        said = slurm_words(self._text)
        return f"Slurm job {job_id} has ended." + (f" srun said: {said}" if said else "")

    async def _was_preempted(self, job_id: int) -> bool:
        # A launcher that leaves in the time of grace makes its job COMPLETED.
        argv, env = commands.scontrol_argv(job_id), commands.query_env(self._env)
        try:
            return commands.parse_preempted((await self.host.run(argv, env=env, timeout=_QUERY)).stdout)
        except (FarkernelError, TimeoutError) as error:
            log.warning("%s", error)
            return False

    async def is_exclusive(self) -> bool:
        """Whether the node is the job's own, as Slurm says."""
        entry = await self._ask()
        return entry is not None and entry.exclusive

    async def time_left(self) -> float | None:
        """Ask Slurm how long the job may still run: an administrator may have changed that."""
        entry = await self._ask()
        if entry is None:
            return None
        return math.inf if entry.left is None else entry.left

    async def _ask(self) -> QueueEntry | None:
        """Return what squeue says of the job now; None when it says nothing."""
        return None if self.status.job_id is None else await self._queue.look(self.status.job_id)

    async def end(self) -> None:
        """End the job and stop watching it."""
        if self.status.job_id is not None:
            self._queue.unwatch(self.status.job_id)
        await super().end()

    async def _cancel(self) -> None:
        # srun that had to be killed leaves its job behind, and one that was cancelled at the wrong moment may.
        if self.status.job_id is None:
            return
        self.gone.clear()
        env = commands.query_env(self._env)
        await self._queue.cancel(self.status.job_id, env=env, on_done=self.gone.set)
