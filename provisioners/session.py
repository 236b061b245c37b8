"""One kernel's life, from its first start to its release, over restarts and jobs.

A session is at any time in one of these phases:

    IDLE      no kernel, no job: before the first start, after a cancelled one
    WAITING   the job waits, or the launcher or the kernel is on its way; the waiting room answers
    RUNNING   messages flow
    DEAD      the kernel has ended, the launcher is there: a start is one order on the link
    OVER      the job has ended or could not be had; nothing is left but what Jupyter reads from memory
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from farkernel.launcher import wire
from farkernel.launcher.protocol import (
    Channel,
    Event,
    KernelEnded,
    KernelLog,
    KernelReady,
    KernelRefused,
    KernelStarted,
    OutputDropped,
    SignalKernel,
    StartKernel,
)
from farkernel.launcher.sockets import Frames
from farkernel.provisioners import states
from farkernel.provisioners.background import Background
from farkernel.provisioners.errors import FarkernelError, KernelCommandMissing, KernelFailed, QueueTimeout
from farkernel.provisioners.front import Front, runtime_directory
from farkernel.provisioners.job import Job, SlurmJob, Status, overdue
from farkernel.provisioners.remote import Remote, Tenant
from farkernel.provisioners.request import Request
from farkernel.provisioners.unanswered import Problem, Unanswered, answers
from farkernel.provisioners.waiting import WaitingRoom

TELL_INTERVAL = 5.0
"""Seconds between two looks at the waiting cell."""

_KERNEL = 1
"""The number of our kernel on its launcher."""

log = logging.getLogger("farkernel")


class Phase(enum.Enum):
    """Where a session is; see the module."""

    IDLE = enum.auto()
    WAITING = enum.auto()
    RUNNING = enum.auto()
    DEAD = enum.auto()
    OVER = enum.auto()


@dataclass(frozen=True)
class Plan:
    """What to start, as Jupyter wants it.

    :param name: the kernel's display name
    :param argv: its command; `{connection_file}` is replaced on the node
    :param env: variables on top of the job's
    :param cwd: directories of which the first that exists on the node is taken
    """

    name: str
    kernel_name: str
    language: str
    argv: list[str]
    env: dict[str, str]
    cwd: list[str]


@dataclass
class Timeline:
    """When each phase of a start was reached, in seconds on the monotonic clock."""

    submitted: float = 0.0
    allocated: float = 0.0
    launcher: float = 0.0
    kernel: float = 0.0


@dataclass
class _Start:
    """One start of the kernel that is under way."""

    transport: str
    ready: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Session:
    """One kernel. All methods but the properties belong to the background loop.

    :param key: the key that its messages are signed with
    :param make_job: makes the job, given whom to tell its status
    :param on_status: takes one line of progress whenever there is news
    """

    def __init__(
        self,
        shared: Background,
        request: Request,
        *,
        key: str,
        signature_scheme: str,
        make_job: Callable[[Callable[[Status], None]], Job],
        on_status: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.request = request
        self.phase = Phase.IDLE
        self.exit_code: int | None = None
        self.timeline = Timeline()
        self.error: FarkernelError | None = None
        self._shared = shared
        self._loop = shared.loop
        self._key, self._scheme = key, signature_scheme
        self._signer = wire.Signer(key.encode(), signature_scheme)
        self._make_job = make_job
        self._on_status = on_status
        self._front: Front | None = None
        self._remote: Remote | None = None
        self._room: WaitingRoom | None = None
        self._unanswered = Unanswered()
        self._plan: Plan | None = None
        self._start: _Start | None = None
        self._generation = 0
        self._watching_output = False
        self._bringing_up: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    # ---- what Jupyter reads ----

    @property
    def connection_info(self) -> dict[str, Any]:
        """What a connection file says of this kernel."""
        assert self._front
        return {
            **self._front.connection_info,
            "key": self._key.encode(),
            "signature_scheme": self._scheme,
        }

    @property
    def alive(self) -> bool:
        """Whether there is a kernel, or will be one."""
        return self.phase in {Phase.WAITING, Phase.RUNNING}

    @property
    def job(self) -> Job | None:
        """The job that the kernel is in, or waits for."""
        return self._remote.job if self._remote else None

    # ---- starting ----

    async def start(self, plan: Plan, *, block: bool) -> None:
        """Start the kernel: in a new job, or in the one that is there.

        :param block: wait until it is up; else return when Slurm has taken the job
        :raises FarkernelError: it cannot be started; nothing is left behind
        """
        if self._front is None:
            self._front = Front(self._loop, self._shared.context, self._on_request, runtime_directory())
        self._front.renew()
        self._plan = plan
        self._ended.clear()
        self.exit_code, self.error = None, None
        self._enter_waiting()
        try:
            await self._submit_or_order()
            self._bringing_up = self._loop.create_task(self._bring_up())
            if block:
                await asyncio.shield(self._bringing_up)
        except BaseException:
            await self._unwind()
            raise
        if block and self.error:
            raise self.error

    def _enter_waiting(self) -> None:
        assert self._front
        assert self._plan
        self.phase = Phase.WAITING
        if self._room is None:
            self._room = WaitingRoom(
                self._signer,
                self._front.send,
                show_queue=self.request.job.queue_messages,
                language=self._plan.language,
            )

    async def _submit_or_order(self) -> None:
        assert self._plan
        self._generation += 1
        self._start = _Start("tcp" if self.request.kernel.transport == "tcp" else "ipc")
        if self._remote:
            self._remote.order(self._order())
            return
        self.timeline = Timeline(submitted=time.monotonic())
        remote = Remote(self._loop, self._shared.context, self._make_job(self._on_job_status))
        remote.let(_KERNEL, Tenant(self._on_message, self._on_event, self._on_full))
        self._remote = remote
        policy = self.request.job
        await remote.job.submit(remote.first_input(self.request.launcher, policy.orphan_timeout, self._order()))

    def _order(self) -> StartKernel:
        assert self._plan
        assert self._start
        return StartKernel(
            kernel=_KERNEL,
            generation=self._generation,
            argv=self._plan.argv,
            env=self._plan.env,
            cwd=self._plan.cwd,
            transport=self._start.transport,
            key=self._key,
            signature_scheme=self._scheme,
            kernel_name=self._plan.kernel_name,
        )

    async def _bring_up(self) -> None:
        """From the job's submission to the first message; a failure ends everything and is told."""
        telling = self._loop.create_task(self._keep_telling())
        try:
            if self._remote and not self._remote.connected:
                await self._wait_for_launcher(self._remote)
            await self._wait_for_kernel()
            self.timeline.kernel = time.monotonic()
            self._open_room()
            assert self._remote
            self._loop.create_task(self._watch_job(self._remote)).add_done_callback(_log_failure)
        except FarkernelError as error:
            await self._give_up(error)
        finally:
            telling.cancel()

    async def _wait_for_launcher(self, remote: Remote) -> None:
        job = remote.job
        started = asyncio.ensure_future(job.started())
        try:
            await self._wait_in_queue(job, started)
            self.timeline.allocated = time.monotonic()
            try:
                answer = await asyncio.wait_for(started, self.request.launcher.start_timeout)
            except TimeoutError:
                raise overdue(job) from None
        finally:
            started.cancel()
        self.timeline.launcher = time.monotonic()
        await remote.connect(answer)

    async def _wait_in_queue(self, job: Job, started: asyncio.Future[Any]) -> None:
        limit = self.request.job.max_wait
        deadline = None if limit is None else job.status.submitted + limit
        while job.status.state.waiting and not started.done():
            if deadline is not None and time.monotonic() > deadline:
                assert limit is not None
                raise QueueTimeout(
                    f"{job.status.text()}: longer than job.max_wait of the kernelspec ({states.span(limit)}).",
                    hint="Try again later, ask for less, or raise job.max_wait.",
                )
            left = 0.2 if deadline is None else min(0.2, max(deadline - time.monotonic(), 0.01))
            await asyncio.wait({started}, timeout=left)

    async def _wait_for_kernel(self) -> None:
        assert self._plan
        assert self._start
        try:
            await asyncio.wait_for(asyncio.shield(self._start.ready), self.request.launcher.start_timeout)
        except TimeoutError:
            raise KernelFailed(
                f'Kernel "{self._plan.name}" did not answer within '
                f"{states.span(self.request.launcher.start_timeout)} after its start on {self._node}.",
                hint="See the server's log for what it wrote, or raise launcher.start_timeout in the kernelspec.",
            ) from None

    def _open_room(self) -> None:
        room, self._room = self._room, None
        self.phase = Phase.RUNNING
        if room:
            self._watching_output = True
            for channel, frames in room.open(f"Kernel on {self._node}"):
                self._send(channel, frames)
            self._opened_room = room

    async def _keep_telling(self) -> None:
        while True:
            self._tell()
            await asyncio.sleep(TELL_INTERVAL)

    def _tell(self) -> None:
        if self._remote and self._room:
            text = self._remote.job.status.text()
            self._on_status(text)
            self._room.tell(text)

    def _on_job_status(self, status: Status) -> None:
        self._on_status(status.text())

    # ---- ending ----

    async def interrupt(self) -> None:
        """Interrupt the kernel; while it waits, the cells that are held are cancelled."""
        if self._room is None:
            await self.signal(signal.SIGINT)
            return
        self._room.drop_cells()
        problem = Problem("KeyboardInterrupt", "cancelled while the kernel was waiting for its job")
        for number, request in enumerate(self._unanswered.take(executes_only=True)):
            self._answer(request, problem, aborted=number > 0)

    async def signal(self, number: int) -> None:
        """Send the kernel a signal; one that would end it cancels a job that waits."""
        if self.phase == Phase.WAITING and number in {signal.SIGTERM, signal.SIGKILL}:
            await self.cancel()
        elif self._remote:
            self._remote.order(SignalKernel(_KERNEL, number))

    async def cancel(self) -> None:
        """End a start that is under way, job and all; what is held is answered."""
        if self.phase != Phase.WAITING:
            return
        self.exit_code = -signal.SIGTERM
        if self._bringing_up:
            self._bringing_up.cancel()
        self.phase = Phase.IDLE
        self._ended.set()
        self._end_requests(
            Problem("KernelCancelled", "the kernel was stopped before its job had started"), aborted=True
        )
        await self._end_remote()

    async def wait(self) -> int | None:
        """Wait until the kernel has ended; return its exit code."""
        await self._ended.wait()
        return self.exit_code

    async def release(self) -> None:
        """Release everything: the job, the link, the front."""
        if self._bringing_up:
            self._bringing_up.cancel()
        try:
            await self._end_remote()
        finally:
            self._end_requests(Problem("KernelStopped", "the kernel was shut down"), aborted=True)
            self._close_front()
            self.phase = Phase.OVER
            self._ended.set()

    async def _end_remote(self) -> None:
        remote, self._remote = self._remote, None
        if remote:
            await remote.end()

    def _close_front(self) -> None:
        front, self._front = self._front, None
        self._room = None
        if front:
            front.close()

    async def _unwind(self) -> None:
        """Nothing calls cleanup after a start that has failed."""
        with contextlib.suppress(FarkernelError):
            await self.release()
        self.exit_code = 1

    async def _give_up(self, error: FarkernelError, exit_code: int = 1) -> None:
        """The kernel cannot be had (any more): tell it, release everything, and only then let Jupyter know.

        No kill or cleanup follows when poll returns a code that is not to be followed by a restart.
        """
        log.error("%s", error)
        self.error = error
        self._end_requests(Problem(type(error).__name__, error.what, _red(str(error))))
        await self._end_remote()
        self._close_front()
        self.exit_code = exit_code
        self.phase = Phase.OVER
        self._ended.set()

    def _end_requests(self, problem: Problem, *, aborted: bool = False) -> None:
        if self._room:
            self._room.drop_cells()
        for request in self._unanswered.take():
            self._answer(request, problem, aborted=aborted)

    def _answer(self, request: Any, problem: Problem, *, aborted: bool = False) -> None:
        if self._front:
            for channel, frames in answers(self._signer, request, problem, aborted=aborted):
                self._front.send(channel, frames)

    async def _watch_job(self, remote: Remote) -> None:
        """Wait for the end of a job whose kernel is up: walltime, scancel, a dead node."""
        await remote.job.ended.wait()
        if self._remote is not remote:
            return  # it was us
        why = await remote.job.why_ended()
        if self._remote is remote:
            hint = "The kernel's memory is gone with it. Start the kernel again for a new job."
            await self._give_up(KernelFailed(why, hint=hint))

    # ---- what clients say ----

    def _on_request(self, channel: Channel, frames: list[Any]) -> None:
        if channel == Channel.HB:
            if self._room:
                assert self._front
                self._front.send(channel, frames)
            else:
                self._send(channel, frames)
            return
        message = wire.parse(frames)
        if message is None:
            return
        if self._room:
            self._on_request_while_waiting(channel, message, frames)
        else:
            self._unanswered.sent(channel, message)
            self._send(channel, frames)

    def _on_request_while_waiting(self, channel: Channel, message: wire.Message, frames: list[Any]) -> None:
        assert self._room
        if message.type == "interrupt_request":
            self._loop.create_task(self.interrupt()).add_done_callback(_log_failure)
        elif message.type == "shutdown_request":
            pass  # Jupyter tells us itself; held, it would end the next kernel
        elif self._room.take(channel, message, frames):
            self._unanswered.sent(channel, message)
            return
        else:
            return
        reply = message.type.removesuffix("_request") + "_reply"
        content = {"status": "ok", **({"restart": message.content.get("restart", False)} if "shut" in reply else {})}
        assert self._front
        self._front.send(
            channel, self._signer.message(reply, content, parent=message.header, identities=message.identities)
        )

    def _send(self, channel: Channel, frames: Frames) -> None:
        if self._remote:
            self._remote.send(channel, _KERNEL, self._generation, frames)

    # ---- what the launcher says ----

    def _on_message(self, generation: int, channel: Channel, frames: list[Any]) -> None:
        if generation != self._generation or self._front is None:
            return
        if channel in {Channel.SHELL, Channel.CONTROL}:
            self._unanswered.answered(frames)
        elif self._watching_output and channel == Channel.IOPUB:
            self._watching_output = self._opened_room.watch_output(frames)
        self._front.send(channel, frames)

    def _on_full(self, full: bool) -> None:
        if self._front:
            self._front.hold_requests(full)

    def _on_event(self, event: Event) -> None:
        if event.generation != self._generation:
            return
        if isinstance(event, KernelReady):
            if self._start and not self._start.ready.done():
                self._start.ready.set_result(None)
        elif isinstance(event, KernelEnded):
            self._on_kernel_ended(event)
        elif isinstance(event, KernelRefused):
            self._fail_start(self._refusal(event))
        elif isinstance(event, KernelLog):
            log.info("kernel on %s: %s", self._node, event.text.rstrip())
        elif isinstance(event, KernelStarted):
            self._on_kernel_started(event)
        elif isinstance(event, OutputDropped):
            self._say(f"farkernel: the connection to {self._node} was slow or cut; output may be missing here.\n")

    def _on_kernel_started(self, event: KernelStarted) -> None:
        assert self._plan
        if event.cwd != self._plan.cwd[0]:
            log.warning("%s does not exist on %s; the kernel runs in %s", self._plan.cwd[0], self._node, event.cwd)

    def _say(self, text: str) -> None:
        """Write a line to stderr in the cell that runs."""
        running = self._unanswered.running()
        if self._front and running:
            content = {"name": "stderr", "text": text}
            message = self._signer.message("stream", content, parent=running.message.header)
            self._front.send(Channel.IOPUB, message)

    def _on_kernel_ended(self, event: KernelEnded) -> None:
        if self._start and not self._start.ready.done():
            self._loop.create_task(self._on_early_end(event)).add_done_callback(_log_failure)
            return
        sentence = self._death(event)
        log.warning("%s", sentence)
        self._end_requests(Problem("KernelDied", sentence, _red(sentence)))
        self._enter_waiting()  # what comes now is for the next kernel
        self.phase = Phase.DEAD
        self.exit_code = event.exit_code
        self._ended.set()

    async def _on_early_end(self, event: KernelEnded) -> None:
        """The kernel has ended before it answered: it may be one that cannot ipc."""
        assert self._start
        assert self._plan
        job = self.job
        problem = KernelFailed(
            f'Kernel "{self._plan.name}" ended on {self._node} before it answered ({_how(event)}).',
            said=event.stderr,
            hint="Try its command on that node by hand: " + " ".join(self._plan.argv),
        )
        if _command_missing(event):
            problem = self._command_missing(self._plan.argv[0], event.stderr)
        elif self._start.transport == "ipc" and self.request.kernel.transport == "auto":
            entry = await job.ask() if isinstance(job, SlurmJob) else None
            if entry and entry.exclusive and self._remote:
                log.info("%s Trying TCP.", problem.what)
                ready = self._start.ready
                self._generation += 1
                self._start = _Start("tcp", ready)
                self._remote.order(self._order())
                return
            problem.args = (
                f"{problem}\nIf it cannot use unix sockets, it needs a node of its own (slurm.exclusive), or "
                "kernel.transport: tcp, with which every user of the node can read its output.",
            )
        self._fail_start(problem)

    def _fail_start(self, error: FarkernelError) -> None:
        if self._start and not self._start.ready.done():
            self._start.ready.set_exception(error)

    def _refusal(self, event: KernelRefused) -> FarkernelError:
        if event.errno in {errno.ENOENT, errno.EACCES, errno.ENOEXEC} and event.path not in (self._plan_cwd):
            return self._command_missing(event.path, event.reason)
        return KernelFailed(
            f'Kernel "{self._plan.name if self._plan else ""}" cannot be started on {self._node}: {event.path}',
            said=event.reason,
            hint="Correct kernel.cwd in the kernelspec." if event.path in self._plan_cwd else "",
        )

    @property
    def _plan_cwd(self) -> list[str]:
        return self._plan.cwd if self._plan else []

    def _command_missing(self, command: str, said: str) -> KernelCommandMissing:
        assert self._plan
        return KernelCommandMissing(
            f'The command of kernel "{self._plan.name}" cannot be run on {self._node}: {command}',
            said=said,
            hint="Correct argv in the kernelspec, or load the modules that bring the command by kernel.modules.",
        )

    @property
    def _node(self) -> str:
        return (self.job.status.nodes if self.job else "") or "the node"

    def _death(self, event: KernelEnded) -> str:
        sentence = f"The kernel on {self._node} has ended ({_how(event)})."
        return sentence + (f"\n{event.stderr}" if event.stderr else "")


def _how(event: KernelEnded) -> str:
    if event.out_of_memory:
        return "out of memory: killed by the node's memory limit"
    if event.exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-event.exit_code).name}"
    return f"exit code {event.exit_code}"


def _command_missing(event: KernelEnded) -> bool:
    return event.exit_code == 127  # what shells and container runtimes return for it


def _red(text: str) -> list[str]:
    return [f"\x1b[31m{line}\x1b[0m" for line in text.splitlines()]


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("farkernel: %r", error, exc_info=error)
