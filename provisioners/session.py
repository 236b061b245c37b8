"""One kernel's life, from its first start to its release, over restarts and jobs; `life` has its states."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from farkernel.launcher.protocol import (
    Channel,
    Event,
    HookFailed,
    KernelEnded,
    KernelLog,
    KernelReady,
    KernelRefused,
    KernelStarted,
    OutputDropped,
    SignalKernel,
    StartKernel,
    TimeLeft,
)
from farkernel.launcher.sockets import Frames
from farkernel.provisioners import kernel_failures, states, watch
from farkernel.provisioners.background import Background
from farkernel.provisioners.clients import Clients
from farkernel.provisioners.containers.base import Command, Container
from farkernel.provisioners.errors import FarkernelError, JobEnded, NodeLost, QueueTimeout, StartCancelled
from farkernel.provisioners.image_failures import image_failure, in_image
from farkernel.provisioners.job import Job, Status
from farkernel.provisioners.life import Life, Phase, Step
from farkernel.provisioners.recorder import Recorder
from farkernel.provisioners.remote import Remote, Tenant
from farkernel.provisioners.request import Request
from farkernel.provisioners.unanswered import Problem

_FATE = 2.0
"""Seconds in which the end of a job follows that of its kernel: Slurm ends both at once."""

TELL_INTERVAL = 5.0
"""Seconds between two looks at the waiting cell."""

_KERNEL = 1
"""The number of our kernel on its launcher."""


@dataclass(frozen=True)
class Plan:
    """What to start, as Jupyter wants it.

    :param name: the kernel's display name
    :param argv: its command as the kernelspec has it, for messages
    :param container: the image that it runs in
    :param command: what is run on the node
    :param cwd: directories of which the first that exists on the node is taken
    """

    name: str
    kernel_name: str
    language: str
    argv: list[str]
    container: Container
    command: Command
    cwd: Sequence[str]


@dataclass
class Timeline:
    """When each step of a start was reached, in seconds on the monotonic clock; 0 for not yet."""

    submitted: float = 0.0
    allocated: float = 0.0
    launcher: float = 0.0
    kernel: float = 0.0


class Session:
    """One kernel. All methods but the properties belong to the background loop.

    :param key: the key that its messages are signed with
    :param make_job: makes the job, given whom to tell its status
    :param on_status: takes a line of progress whenever there is news of the queue
    :param recorder: writes down what happens
    """

    def __init__(
        self,
        shared: Background,
        request: Request,
        *,
        key: bytes,
        signature_scheme: str,
        make_job: Callable[[Callable[[Status], None]], Job],
        on_status: Callable[[str], None],
        recorder: Recorder,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self.request = request
        self.life = Life(recorder.step)
        self.exit_code: int | None = None
        self.error: FarkernelError | None = None
        self.timeline = Timeline()
        self._shared = shared
        self._loop = shared.loop
        self._signing = (key, signature_scheme)
        self._make_job = make_job
        self._on_status = on_status
        self._recorder = recorder
        self._log = log
        self._clients: Clients | None = None
        self._remote: Remote | None = None
        self._plan: Plan
        self._generation = 0
        self._transport = "ipc"
        self._told_reason = ""
        self._ready: asyncio.Future[None] | None = None
        self._stopping = False
        self._deadly: set[int] = set()  # signals that were sent to end it
        self._bringing_up: asyncio.Task[None] | None = None
        self._one_start = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- what Jupyter reads ----

    @property
    def phase(self) -> Phase:
        """Where the kernel's life is."""
        return self.life.phase

    @property
    def connection_info(self) -> dict[str, Any]:
        """What a connection file says of this kernel."""
        assert self._clients
        return self._clients.connection_info

    @property
    def job(self) -> Job | None:
        """The job that the kernel is in, or waits for."""
        return self._remote.job if self._remote else None

    @property
    def node(self) -> str:
        """The kernel's node, for messages."""
        return (self.job.status.nodes if self.job else "") or "the node"

    # ---- starting ----

    async def start(self, plan: Plan, *, block: bool) -> None:
        """Start the kernel: in a new job, or in the one that is there; starts that overlap follow one another.

        :param block: wait until it is up; else return when Slurm has taken the job
        :raises StartCancelled: somebody else stopped it, or has started it anew, and takes care of what there is
        :raises FarkernelError: it cannot be started; nothing is left behind
        """
        async with self._one_start:
            try:
                bringing_up = await self._begin(plan)
            except StartCancelled:
                raise
            except BaseException as error:
                await self._fail_start(error)
                raise
        if block:
            await self._until_up(plan, bringing_up)

    async def _begin(self, plan: Plan) -> asyncio.Task[None]:
        """Take a start to where a task follows it."""
        if self.phase.over:
            raise _cancelled(plan)
        self._plan = plan
        self._stopping = False
        self._deadly.clear()
        self._ended.clear()
        self.exit_code, self.error = None, None
        await self._abandon_start()
        self._greet_clients()
        await self._submit_or_order()
        self._bringing_up = bringing_up = self._loop.create_task(self._bring_up())
        return bringing_up

    async def _until_up(self, plan: Plan, bringing_up: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait({bringing_up})
        except asyncio.CancelledError as error:
            if self._bringing_up is bringing_up:  # nobody else has started it anew
                await self._fail_start(error)
            raise
        if bringing_up.cancelled():
            raise _cancelled(plan)
        if self.error:
            raise self.error

    async def _fail_start(self, error: BaseException) -> None:
        """Release everything: nobody calls cleanup after a start that has failed or was cancelled."""
        self._recorder.say(str(error) or "The start was cancelled.")
        await self._release(Step.START_FAILED, exit_code=1)

    async def _abandon_start(self) -> None:
        """A start that is still under way, as when two pages ask for a restart, gives way to the new one."""
        bringing_up, self._bringing_up = self._bringing_up, None
        if bringing_up:
            bringing_up.cancel()
            await asyncio.wait({bringing_up})
        if self._remote and not self._remote.connected:
            self.life.take(Step.WITHDRAWN)
            await self._end_remote()

    def _greet_clients(self) -> None:
        if self._clients is None:
            key, scheme = self._signing
            self._clients = Clients(
                self._loop,
                self._shared.context,
                key=key,
                signature_scheme=scheme,
                show_queue=self.request.job.queue_messages,
                language=self._plan.language,
                to_kernel=self._to_kernel,
                on_interrupt=lambda: self._spawn(self.interrupt()),
                on_behind=self._on_behind,
            )
        self._clients.renew()
        restarted = Problem("KernelRestarted", "the kernel was restarted")
        if self.phase is Phase.RUNNING:  # nothing was heard of its end
            self._end_requests(restarted, aborted=True)
        elif self.phase is Phase.DEAD:
            # What was asked of a kernel that had crashed builds on what that one knew.
            self._clients.forget_requests(restarted)
        self._clients.hold(beating=True)

    async def _submit_or_order(self) -> None:
        order = self._next_order("tcp" if self.request.kernel.transport == "tcp" else "ipc")
        if self._remote:
            self.life.take(Step.ORDERED)
            self._remote.order(order)
            return
        self.life.take(Step.SUBMITTED)
        self.timeline = Timeline(submitted=time.monotonic())
        self._remote = remote = Remote(self._loop, self._shared.context, self._make_job(self._on_job_status))
        remote.let(_KERNEL, Tenant(self._from_kernel, self._on_event, self._on_full))
        try:
            await remote.job.submit(remote.first_input(self.request.launcher, self.request.job.orphan_timeout, order))
        except FarkernelError:
            if self._remote is remote:
                raise
        if self._remote is not remote:  # whatever has come of it, it was stopped meanwhile
            raise _cancelled(self._plan)

    def _next_order(self, transport: str) -> StartKernel:
        """Begin a new generation of the kernel; what comes from older ones is dropped from here on."""
        self._generation += 1
        self._transport = transport
        if self._ready is None or self._ready.done():
            self._ready = self._loop.create_future()
        key, scheme = self._signing
        command = self._plan.command
        return StartKernel(
            kernel=_KERNEL,
            generation=self._generation,
            argv=command.argv,
            env=command.env,
            cwd=list(self._plan.cwd),
            transport=transport,
            key=key.decode(),
            signature_scheme=scheme,
            kernel_name=self._plan.kernel_name,
            files=command.files,
            cleanup=command.cleanup,
        )

    async def _bring_up(self) -> None:
        """From the job's submission to the kernel's first message; a failure ends everything and is told."""
        telling = self._loop.create_task(self._keep_telling())
        try:
            if self._remote and not self._remote.connected:
                await self._wait_for_launcher(self._remote)
            await self._wait_for_kernel()
        except FarkernelError as error:
            await self._give_up(error)
        except Exception as error:  # noqa: BLE001 (whatever it is, the cell that waits must not wait for ever)
            self._log.error("farkernel", exc_info=error)
            await self._give_up(FarkernelError(f"farkernel itself has failed: {error!r}"))
        finally:
            telling.cancel()

    async def _wait_for_launcher(self, remote: Remote) -> None:
        started = asyncio.ensure_future(remote.job.started())
        try:
            await self._wait_in_queue(remote.job, started)
            if not remote.job.status.state.waiting:  # it may have ended in the queue
                self.life.take(Step.ALLOCATED)
            self.timeline.allocated = time.monotonic()
            limit = self.request.launcher.start_timeout
            await asyncio.wait({started}, timeout=limit)
            if not started.done():
                raise remote.job.overdue()
            self.timeline.launcher = time.monotonic()
            await remote.connect(started.result())
        finally:
            started.cancel()
        self._watch(remote)

    async def _wait_in_queue(self, job: Job, started: asyncio.Future[Any]) -> None:
        limit = self.request.job.max_wait
        while job.status.state.waiting and not started.done():
            waited = time.monotonic() - job.status.submitted
            if limit is not None and waited >= limit:
                raise QueueTimeout(
                    f"{job.status.text()}: that is job.max_wait of the kernelspec ({states.span(limit)}).",
                    hint="Try again later, ask for less, or raise job.max_wait.",
                )
            await asyncio.wait({started}, timeout=0.2 if limit is None else min(0.2, limit - waited))

    async def _wait_for_kernel(self) -> None:
        assert self._ready
        limit = self.request.launcher.start_timeout
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), limit)
        except TimeoutError:
            plan = self._plan
            error = kernel_failures.silent(plan.name, self.node, limit)
            raise in_image(error, plan.container, kernelspec=plan.kernel_name) from None

    # ---- progress ----

    async def _keep_telling(self) -> None:
        first = True  # what takes no time is no news at a terminal
        while self._clients and self.job:
            connected = self._remote is not None and self._remote.connected
            text = f"The kernel is starting on {self.node}" if connected else self.job.text()
            self._clients.tell(text)
            self._told_reason = self.job.status.reason
            if not first or self.job.status.state.waiting:
                self._on_status(text)
            first = False
            await asyncio.sleep(TELL_INTERVAL)

    def _on_job_status(self, status: Status) -> None:
        if self._remote:  # not one that was withdrawn
            self._recorder.status(status)
        if status.state.waiting:
            self._on_status(status.text())
            if self._clients and status.reason != self._told_reason:
                self._told_reason = status.reason
                self._clients.tell(status.text())

    # ---- interrupting and ending ----

    async def interrupt(self) -> None:
        """Interrupt the kernel; while it is on its way, the cells that wait are cancelled."""
        if self.phase.on_its_way and self._clients:
            text = "cancelled while the kernel was waiting for its job"
            self._clients.cancel_cells(Problem("KeyboardInterrupt", text))
        elif self.phase is Phase.RUNNING:
            await self.signal(signal.SIGINT)

    async def signal(self, number: int) -> None:
        """Send the kernel a signal; one that would end it cancels a start that is under way."""
        deadly = number in {signal.SIGTERM, signal.SIGKILL}
        if deadly:
            self._deadly.add(number)
        if deadly and self.phase.on_its_way:
            await self.cancel()
        elif self._remote:
            self._remote.order(SignalKernel(_KERNEL, number))

    async def stop_requested(self) -> None:
        """The kernel is being asked to end: a job that waits is cancelled at once."""
        self._stopping = True
        await self.cancel()

    async def cancel(self) -> None:
        """End a start that is under way: the job if it has no launcher yet, or else the kernel alone."""
        if not self.phase.on_its_way:
            return
        if self._bringing_up:
            self._bringing_up.cancel()
        self._end_requests(Problem("KernelStopped", "the kernel was stopped before it was up"), aborted=True)
        if self._remote and self._remote.connected:
            self._remote.order(SignalKernel(_KERNEL, signal.SIGKILL))
            self._generation += 1  # nothing that the old one still says is of interest
            self._set_ended(Step.STOPPED, -signal.SIGKILL)
        else:
            self._set_ended(Step.WITHDRAWN, -signal.SIGTERM)
            await self._end_remote()

    async def wait(self) -> int | None:
        """Wait until the kernel has ended; return its exit code."""
        await self._ended.wait()
        return self.exit_code

    async def release(self) -> None:
        """Release everything: the job, the link, the front."""
        self._stopping = True
        await self._release(Step.SHUT_DOWN, exit_code=self.exit_code or 0)

    async def _release(self, step: Step, *, exit_code: int) -> None:
        self.life.take(step)
        if self._bringing_up and self._bringing_up is not asyncio.current_task():
            self._bringing_up.cancel()
        self._generation += 1  # nothing that the kernel still says is of interest
        self._end_requests(Problem("KernelStopped", "the kernel was shut down"), aborted=True)
        job = self.job
        try:
            with contextlib.suppress(FarkernelError):
                await self._end_remote()
            if job and not job.gone.is_set():
                self._recorder.stays_until(job.gone)
        finally:
            clients, self._clients = self._clients, None
            if clients:
                clients.close()
            self._set_ended(Step.RELEASED, exit_code)
        await self._recorder.closed()

    async def _give_up(self, error: FarkernelError) -> None:
        """The kernel cannot be had (any more): say so, release everything, and only then let Jupyter know.

        Neither kill nor cleanup follows when poll returns a code that is not to be followed by a restart.
        """
        self._log.error("%s", error)
        self._recorder.say(str(error))
        self.error = error
        ended = Step.NODE_LOST if isinstance(error, NodeLost) else Step.JOB_ENDED
        step = Step.START_FAILED if self.phase.on_its_way else ended
        self._end_requests(_problem(type(error).__name__, str(error)))
        await self._release(step, exit_code=1)

    async def _end_remote(self) -> None:
        remote, self._remote = self._remote, None
        if remote:
            self._ending = self._loop.create_task(remote.end())
        if self._ending:
            await asyncio.shield(self._ending)  # also when somebody else has begun it

    def _set_ended(self, step: Step, exit_code: int) -> None:
        self.life.take(step)
        self.exit_code = exit_code
        self._ended.set()

    def _end_requests(self, problem: Problem, *, aborted: bool = False) -> None:
        if self._clients:
            self._clients.end_requests(problem, aborted=aborted)

    def _watch(self, remote: Remote) -> None:
        policy = self.request.job
        self._spawn(self._watch_job(remote))
        self._spawn(self._watch_link(remote))
        self._spawn(watch.follow_walltime(remote, policy.walltime_hook, self._recorder.ends))

    async def _watch_job(self, remote: Remote) -> None:
        """Wait for the end of the job: walltime, scancel, a dead node."""
        await remote.job.ended.wait()
        if self._remote is remote:  # it was not us
            why = await remote.job.why_ended()
            hint = "What the kernel knew is gone. Start it again for a new job."
            await self._on_lost(remote, JobEnded(why, hint=hint))

    async def _watch_link(self, remote: Remote) -> None:
        error = await watch.until_lost(remote, self.request.job.orphan_timeout, self._say)
        if error:
            await self._on_lost(remote, error)

    async def _on_lost(self, remote: Remote, error: FarkernelError) -> None:
        """What carries the kernel is gone."""
        if self._remote is not remote:
            return
        if self.phase.on_its_way:
            self._resolve(error)
        else:
            await self._give_up(error)

    def _say(self, text: str) -> None:
        self._log.warning("farkernel: %s", text)
        if self._clients:
            self._clients.say(text)

    # ---- messages ----

    def _to_kernel(self, channel: Channel, frames: Frames) -> None:
        if self._remote:
            self._remote.send(channel, _KERNEL, self._generation, frames)

    def _from_kernel(self, generation: int, channel: Channel, frames: list[Any]) -> None:
        if generation == self._generation and self._clients:
            self._clients.from_kernel(channel, frames)

    def _on_behind(self, behind: bool) -> None:
        if self._remote:
            self._remote.hold_back(behind)

    def _on_full(self, full: bool) -> None:
        if self._clients:
            self._clients.hold_back(full)

    # ---- events ----

    def _on_event(self, event: Event) -> None:
        if event.generation != self._generation or self._clients is None:
            return
        self._recorder.event(event)
        if isinstance(event, KernelReady):
            self._on_ready()
        elif isinstance(event, KernelEnded):
            self._on_kernel_ended(event)
        elif isinstance(event, KernelRefused):
            self._on_refused(event)
        elif isinstance(event, KernelLog):
            self._log.info("%s on %s: %s", self._plan.name, self.node, event.text.rstrip())
        elif isinstance(event, KernelStarted):
            self._on_kernel_started(event)
        elif isinstance(event, TimeLeft):
            self._on_time_left(event.seconds)
        elif isinstance(event, HookFailed):
            self._clients.say(f"job.walltime_hook: {event.reason}.")
        elif isinstance(event, OutputDropped):
            why = f"the connection to {self.node} was too slow, or cut"
            self._clients.say(f"{event.messages} messages of output are missing here: {why}.")

    def _on_refused(self, event: KernelRefused) -> None:
        plan, directory = self._plan, self.request.launcher.on_node
        self._resolve(kernel_failures.refused(event, plan.cwd, plan.name, self.node, directory=directory))

    def _on_time_left(self, seconds: float) -> None:
        job_id = self.job.status.job_id if self.job else None
        end = datetime.now() + timedelta(seconds=seconds)  # noqa: DTZ005 (the user's clock)
        self._say(f"Slurm job {job_id} ends in {states.span(seconds)}, at {end:%H:%M}, and the kernel with it.")

    def _on_ready(self) -> None:
        # At once, not when _bring_up comes to it: what follows in the same breath, such as the kernel's end, has to
        # find the right phase.
        if self._clients and self.life.take(Step.READY):
            self.timeline.kernel = time.monotonic()
            self._clients.open(f"Kernel on {self.node}")
            self._resolve(None)

    def _resolve(self, error: FarkernelError | None) -> None:
        if self._ready is None or self._ready.done():
            return
        if error:
            self._ready.set_exception(error)
        else:
            self._ready.set_result(None)

    def _on_kernel_started(self, event: KernelStarted) -> None:
        if self.job:
            self.job.kernel_started(event.pid)
        wanted = self._plan.cwd[0]
        if event.cwd != wanted:
            self._log.warning("%s does not exist on %s; the kernel runs in %s", wanted, self.node, event.cwd)

    def _on_kernel_ended(self, event: KernelEnded) -> None:
        if self.phase.on_its_way:
            self._spawn(self._on_early_end(event))
        elif self._may_be_the_jobs_end(event):
            self._spawn(self._on_killed(event))
        else:
            self._note_death(event)

    def _is_ours(self, event: KernelEnded) -> bool:
        """Whether we have ended it; a kernel may handle a signal, and crash later."""
        return self._stopping or kernel_failures.signal_of(event) in self._deadly

    def _may_be_the_jobs_end(self, event: KernelEnded) -> bool:
        """Whether a signal that is not ours has ended it; podman's code for that is 0, at the end of its job."""
        killed = kernel_failures.signal_of(event) or self._plan.container.request.image
        return bool(killed) and not self._is_ours(event)

    async def _on_killed(self, event: KernelEnded) -> None:
        """A signal that is not ours may have ended the kernel; if it was the job's end, that is what is to be told."""
        job = self.job
        if job:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.ended.wait(), _FATE)
                return  # _watch_job tells it
        if event.generation == self._generation:
            self._note_death(event)

    def _note_death(self, event: KernelEnded) -> None:
        assert self._clients
        sentence = kernel_failures.death(event, self.node)
        self._recorder.say(sentence)
        ours = self._is_ours(event)
        if not ours:
            self._log.warning("%s", sentence)
        self._end_requests(_problem("KernelDied", sentence), aborted=ours)
        self._clients.hold(beating=False)
        self._set_ended(Step.KERNEL_ENDED, event.exit_code)

    async def _on_early_end(self, event: KernelEnded) -> None:
        """The kernel has ended before it answered; it may be one that cannot use unix sockets."""
        plan = self._plan
        if about_image := image_failure(
            plan.container,
            event.exit_code,
            event.stderr,
            kernel=plan.name,
            kernelspec=plan.kernel_name,
            node=self.node,
        ):
            self._resolve(about_image)
            return
        shared = False
        if self._transport == "ipc" and self.request.kernel.transport == "auto" and kernel_failures.may_lack_ipc(event):
            shared = self.job is None or not await self.job.is_exclusive()
            if event.generation != self._generation:
                return  # another start has begun meanwhile
            if not shared and self._remote and self.phase.on_its_way:
                text = kernel_failures.without_ipc(event, self.node)
                self._log.info("%s", text)
                self._recorder.say(text)
                self._remote.order(self._next_order("tcp"))
                return
        error = kernel_failures.early_end(event, plan.argv, plan.name, self.node, shared=shared)
        self._resolve(in_image(error, plan.container, kernelspec=plan.kernel_name))

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself keeps weak references only
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._log.error("farkernel", exc_info=error)


def _cancelled(plan: Plan) -> StartCancelled:
    return StartCancelled(f"{plan.name} was stopped, or started anew, before it was up.", hint="Start it again.")


def _problem(name: str, text: str) -> Problem:
    red = [f"\x1b[31m{line}\x1b[0m" for line in text.splitlines()]
    return Problem(name, text.partition("\n")[0], red)
