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
from asyncio import StreamReader
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from farkernel.launcher import protocol
from farkernel.launcher.protocol import Failed, Started
from farkernel.provisioners import commands, launch_failures, process, states
from farkernel.provisioners.commands import Allocated, NodeFailed, Queued, QueueEntry, SrunNotice
from farkernel.provisioners.containers.base import Container
from farkernel.provisioners.errors import CommandMissing, FarkernelError, LauncherFailed, PythonMissing
from farkernel.provisioners.payload import payload
from farkernel.provisioners.queue import Queue
from farkernel.provisioners.refusals import slurm_words
from farkernel.provisioners.request import Request
from farkernel.provisioners.states import JobState

_LINES = 200
"""Lines of stderr that are kept."""

_LONGEST_LINE = 2**15
"""Bytes after which a line counts as ended: whatever prints it must not fill the memory."""

_TAKEN = 5.0
"""Seconds after which an srun that says nothing counts as taken by Slurm: it may be booting a node."""

_ASKED = 10
"""How often Slurm is asked how a job has ended, at half a second each."""

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
    """A launcher that was started by a program on this machine.

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
        kernel: str,
        kernelspec: str,
        container: Container,
        python: str,
        env: Mapping[str, str],
        cwd: str,
        on_status: Callable[[Status], None],
    ) -> None:
        self.request = request
        self.kernel = kernel
        self.kernelspec = kernelspec
        self.container = container
        self.python = python
        self.status = Status(self._first_state, time.monotonic())
        self.ended = asyncio.Event()
        self.gone = asyncio.Event()
        self.gone.set()
        self._env = dict(env)
        self._cwd = cwd if os.path.isdir(cwd) else "/"  # noqa: PTH112
        self._on_status = on_status
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._taken = asyncio.Event()
        self._started: asyncio.Future[Started | Failed | None] = asyncio.get_running_loop().create_future()
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []

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
            self._process = await process.start(self._argv(), env=self._env, cwd=self._cwd, die_with_us=True)
        except CommandMissing as error:
            raise self._missing(error) from error
        child = self._process
        assert child.stdin
        assert child.stdout
        assert child.stderr
        child.stdin.write(payload().on_stdin() + stdin)
        loop = asyncio.get_running_loop()
        readers = [
            loop.create_task(_each_line(child.stdout, self._on_stdout)),
            loop.create_task(_each_line(child.stderr, self._on_stderr)),
        ]
        self._tasks = [*readers, loop.create_task(self._wait(child, readers))]
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
        if self._process and self._process.stdin and self._process.returncode is None:
            self._process.stdin.write(line)

    async def end(self) -> None:
        """End the job, whatever state it is in; nothing is left of it afterwards."""
        child = self._process
        if child is None:
            return
        try:
            if child.returncode is None:
                await self._ask_to_leave(child)
            if child.returncode is None:
                await process.end(child)
        finally:
            if self._must_cancel or not self._up or child.returncode != 0:
                await self._cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask_to_leave(self, child: asyncio.subprocess.Process) -> None:
        # The end of its input tells the launcher to leave; a signal to srun would have Slurm kill it, and what it has
        # made would stay on the node. Only a job that is known to be in the queue has no launcher that reads it.
        assert child.stdin
        child.stdin.close()
        deadline = time.monotonic() + _LEAVE
        while not self._in_queue and time.monotonic() < deadline:
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

    async def _wait(self, child: asyncio.subprocess.Process, readers: list[asyncio.Task[None]]) -> None:
        await child.wait()
        assert child.stdin
        child.stdin.close()
        with contextlib.suppress(OSError):  # it has ended without reading all that it was given
            await child.stdin.wait_closed()
        with contextlib.suppress(TimeoutError):
            # A grandchild may hold the pipes open.
            await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), 1.0)
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
        return self._process.returncode or 0 if self._process else 0


async def _each_line(stream: StreamReader, on_line: Callable[[str], None]) -> None:
    rest = b""
    while data := await stream.read(65536):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            on_line(line.decode(errors="replace"))
    if rest:
        on_line(rest.decode(errors="replace"))


class LocalJob(Job):
    """The launcher as a process of this machine."""

    _first_state = JobState.CONFIGURING
    _kernel = 0

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
    """An attached job of Slurm; the arguments are those of `Job`.

    :param queue: watches it while it waits
    """

    # An srun that ends while slurmctld is away exits with 0, without a word, and its job is taken for a running one.
    _must_cancel = True

    def __init__(self, request: Request, *, queue: Queue, **rest: object) -> None:
        super().__init__(request, **rest)  # type: ignore[arg-type]
        self._queue = queue
        self._notices: list[SrunNotice] = []
        self._env = commands.srun_env(request.slurm, self._env)

    def _argv(self) -> list[str]:
        options = self.container.slurm_options()
        return commands.srun_argv(self.request.slurm, payload().command(self.python), options=options)

    def _missing(self, error: CommandMissing) -> FarkernelError:
        return CommandMissing(
            f'Kernel "{self.kernel}" needs Slurm, and there is no srun on this host.',
            said=error.said,
            hint="Start the notebook server on a login node, see that PATH leads to srun, or use a kernel of "
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
        elif isinstance(notice, NodeFailed):
            # srun hangs after this: let nobody wait for it.
            self._process_signal(signal.SIGTERM)

    def _on_entry(self, entry: QueueEntry) -> None:
        state = self.status.state.advance(entry.state)
        self._update(state=state, reason=entry.reason, start=entry.start, silent_since=None)

    def _on_silence(self, since: datetime) -> None:
        self._update(silent_since=since)

    def _process_signal(self, number: int) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

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
        deadline = time.monotonic() + _ASKED / 2
        for _ in range(_ASKED):
            if time.monotonic() > deadline:  # Slurm is away, and somebody waits for an answer
                break
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
            return commands.parse_preempted((await process.run(argv, env=env, timeout=_QUERY)).stdout)
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
