"""What Slurm thinks of a kernelspec's job, and what becomes of a real start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jupyter_client._version import version_info
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from farkernel.kernelspecs.flaws import CONFIG, dotted
from farkernel.provisioners.background import background
from farkernel.provisioners.cli.check_image import Wanted, check_image
from farkernel.provisioners.cli.check_slurm import TIMEOUT
from farkernel.provisioners.cli.findings import Finding, Level, ok, warning
from farkernel.provisioners.cli.runtimes import program_of
from farkernel.provisioners.commands import Estimate, parse_estimate, srun_env, srun_test_argv
from farkernel.provisioners.containers.base import Inside
from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.json_places import read_json
from farkernel.provisioners.jupyter_version import too_old
from farkernel.provisioners.launch_failures import refusal
from farkernel.provisioners.life import Phase
from farkernel.provisioners.payload import payload
from farkernel.provisioners.session import Session
from farkernel.provisioners.start import Start, command, prepare
from farkernel.provisioners.states import span

_CELL = "import socket\nprint(socket.gethostname())"
_RELEASE = 60.0
"""Seconds that what was started may take to go."""
_LOOK = 0.02
"""Seconds between two looks for what a start has come to."""


@dataclass(frozen=True)
class Valid:
    """A kernelspec without a problem.

    :param name: Jupyter's name for it; its directory's
    """

    file: Path
    name: str
    spec: KernelSpec

    @classmethod
    def read(cls, file: Path) -> Valid:
        """Read one, also where Jupyter does not look."""
        folder = file.absolute().parent
        content = json.loads(file.read_text(encoding="utf-8"))
        return cls(file, folder.name.lower(), KernelSpec(resource_dir=str(folder), **content))

    @property
    def provisioner(self) -> str:
        """The name of the provisioner that starts its kernels."""
        return str(self.spec.metadata["kernel_provisioner"]["provisioner_name"])

    def failed(self, subject: str, error: FarkernelError) -> Finding:
        """Say that something failed, at the key that the message names, or the config."""
        document = read_json(self.file.read_text(encoding="utf-8"))
        named = re.findall(r"\b(?:slurm|container|launcher|kernel|job)\.[a-z_]+", f"{error.what} {error.hint}")
        paths = [(*CONFIG, *key.split(".")) for key in named]
        path = next((path for path in paths if path in document.places), paths[0] if paths else CONFIG)
        found = "\n".join(part for part in (error.what, error.said) if part)
        advice = error.hint or "Correct the kernelspec."
        return Finding(Level.PROBLEM, subject, found, advice, str(self.file), *document.place(path), key=dotted(path))


async def dry_run(what: Valid) -> list[Finding]:
    """Ask Slurm when the job would start, and look into the image; nothing is submitted."""
    try:
        start = await _prepared(what)
        local = what.provisioner == "farkernel-local"
        found = [ok("Slurm's estimate", "farkernel-local asks no Slurm") if local else await _estimate(what, start)]
    except FarkernelError as error:
        return [what.failed("dry run", error)]
    return [*found, *await _image(what, start)]


async def _prepared(what: Valid) -> Start:
    """Make a start ready, as a provisioner does."""
    env = {**os.environ, **what.spec.env}
    argv = command(what.spec, [], {})
    cwd = str(Path.cwd())
    return await prepare(
        background(),
        what.spec,
        argv,
        kernel_name=what.name,
        env=env,
        server=os.environ,
        cwd=cwd,
        slurm=what.provisioner != "farkernel-local",
        another=False,
    )


async def _estimate(what: Valid, start: Start) -> Finding:
    slurm = start.request.slurm
    argv = srun_test_argv(slurm, payload().command(start.place.python), options=start.container.slurm_options())
    host = start.place.queue.host
    try:
        asking = host.run(argv, env=srun_env(slurm, start.env), timeout=TIMEOUT)
        done = await background().run(asking)
    except TimeoutError as error:
        return warning("Slurm's estimate", str(error), "Slurm may be busy, or away: try again in a while.")
    estimate = parse_estimate(done.stderr)
    if done.returncode or estimate is None:
        names = {"kernel": what.spec.display_name, "kernelspec": what.name}
        return what.failed("dry run", refusal(done.stderr, done.returncode, container=start.container, **names))
    return _judged(estimate, start.request.job.max_wait, datetime.now())  # noqa: DTZ005 (as Slurm prints times)


def _judged(estimate: Estimate, max_wait: float | None, now: datetime) -> Finding:
    where = f" in partition {estimate.partition}" if estimate.partition else ""
    place = f"{estimate.processors} processors on {estimate.nodes}{where}"
    found = f"a job submitted now would start at {estimate.start:%Y-%m-%d %H:%M:%S}, {place}"
    wait = (estimate.start - now).total_seconds()
    if max_wait is not None and wait > max_wait:
        advice = "Ask for less, or raise job.max_wait."
        return warning("Slurm's estimate", f"{found}; that is past job.max_wait ({span(max_wait)})", advice)
    return ok("Slurm's estimate", found)


async def _image(what: Valid, start: Start) -> list[Finding]:
    """Look into the image where this host can."""
    image = start.request.container.image
    if not image or start.request.login is not None:
        return []
    inside = Inside(start.plan.argv, {}, home="/", cwd=["/"], directory=start.request.launcher.on_node)
    program = program_of(start.container.command(inside))
    if shutil.which(program) is None:
        advice = f"If the nodes have it, `farkernel images check --kernel {what.name} --on-node` says so."
        return [warning("image", f"{image}: {program} is not on this host", advice)]
    looked_for = Wanted(start.whole, start.container, start.plan.argv, what.spec.env, what.spec.display_name)
    return await check_image(looked_for)


# ---- a real start ----


class _ThisOne(KernelSpecManager):
    """Knows one kernelspec, wherever it lies."""

    one: KernelSpec

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return it."""
        return self.one


async def launch(what: Valid, *, wait: float) -> list[Finding]:
    """Start a kernel as a client does, have it say something, and shut it down; leaves nothing.

    :param wait: how many seconds it may take until the kernel has answered, the queue included
    """
    if error := too_old(version_info, sys.executable):  # it would run the kernel on this host
        return [what.failed("start", error)]
    manager = _ThisOne(ensure_native_kernel=False)
    manager.one = what.spec
    kernels = AsyncKernelManager(kernel_name=what.name, kernel_spec_manager=manager)
    with _ended_by_signals():
        return await _launch(kernels, what, wait)


async def _launch(kernels: AsyncKernelManager, what: Valid, wait: float) -> list[Finding]:
    async with _watched(kernels, local=what.provisioner == "farkernel-local") as seen:
        try:
            async with asyncio.timeout(wait):
                await kernels.start_kernel()
                said = await _first_result(kernels, what.spec.language, wait)
            seen.result = time.monotonic()
            end: list[Finding] = [ok("first result", f"after {seen.after(seen.result)}: {said}")]
        except FarkernelError as error:
            end = [what.failed("start", error)]
        except TimeoutError:
            found = f"no answer within {span(wait)}; {seen.last}"
            end = [warning("start", found, "Try when nodes are idle, or wait longer: --wait.")]
        phases = seen.phases()
    return [*phases, *end, *seen.over]


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals that end the process end the work first, as Ctrl-C does: sockets would stay behind.

    :raises SystemExit: a signal has come
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came: list[int] = []

    def end(number: int) -> None:
        if task and not came:
            task.cancel()
        came.append(number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if came:
            raise SystemExit(128 + came[0]) from None
        raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class _Seen:
    """What is to be seen of a start, while it goes on and when it has failed.

    :param local: it asks no Slurm
    """

    def __init__(self, *, local: bool) -> None:
        self._local = local
        self.session: Session | None = None
        self.result = 0.0
        self.last = ""
        self.job = self.node = ""
        self.over: list[Finding] = []

    def look(self, session: Session) -> None:
        """Take what is known by now."""
        self.session = session
        if session.job:
            status = session.job.status
            self.last = status.text()
            self.job = f"Slurm job {status.job_id}" if status.job_id else self.job
            self.node = status.nodes or self.node

    def after(self, when: float) -> str:
        """Say how long after its submission something was."""
        begin = self.session.timeline.submitted if self.session else when
        return f"{when - begin:.2f} s"

    def phases(self) -> list[Finding]:
        """Return a finding for each phase that was reached."""
        if self.session is None or not self.session.timeline.submitted:
            return []
        times = self.session.timeline
        place = "a process of this host" if self._local else self.job  # Slurm may have refused it
        found = [ok("submitted", place)] if place else []
        steps = {
            "node given": (times.allocated, f": {self.node}" if self.node else ""),
            "launcher up": (times.launcher, ""),
            "kernel up": (times.kernel, ""),
        }
        if times.allocated and self.job:
            found.append(ok("queued", self.after(times.allocated)))
        return found + [ok(name, f"after {self.after(when)}{more}") for name, (when, more) in steps.items() if when]


@contextlib.asynccontextmanager
async def _watched(manager: AsyncKernelManager, *, local: bool) -> AsyncIterator[_Seen]:
    """Watch a start of this manager's kernel; in the end, however it comes, it is shut down and gone."""
    seen = _Seen(local=local)

    async def look() -> None:
        while True:
            # a start that fails takes its session with it
            if session := getattr(manager.provisioner, "session", None):
                seen.look(session)
            await asyncio.sleep(_LOOK)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        began = time.monotonic()
        if manager.has_kernel:
            await manager.shutdown_kernel()
        if await _gone(seen.session):
            seen.over = [ok("shut down", f"within {time.monotonic() - began:.2f} s; nothing is left")]
        else:
            left = f"{seen.job or 'the kernel'} is not gone after {span(_RELEASE)}"
            seen.over = [warning("shut down", left, "`farkernel ps` and `squeue --me` show what is left.")]


async def _gone(session: Session | None) -> bool:
    """Wait until a session has released what it had."""
    if session is None:
        return True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_RELEASE):
            while session.phase not in {Phase.ENDED, Phase.IDLE} or (session.job and not session.job.gone.is_set()):
                await asyncio.sleep(_LOOK)
            return True
    return False


async def _first_result(manager: AsyncKernelManager, language: str, timeout: float) -> str:
    """Have the kernel say something: where it runs if it knows Python, that it is there if not.

    :raises FarkernelError: the cell failed
    """
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=timeout)
        if language.lower() != "python":
            return "it has answered kernel_info"
        said: list[str] = []

        def take(message: Any) -> None:
            said.append(str(message["content"].get("text", "")))

        reply = await client.execute_interactive(_CELL, output_hook=take, timeout=timeout, allow_stdin=False)
    except RuntimeError as error:  # jupyter_client's, of a kernel that has died
        raise FarkernelError(f"The kernel was up and does not answer: {error}.") from error
    finally:
        client.stop_channels()
    if reply["content"]["status"] != "ok":
        content = reply["content"]
        raise FarkernelError(f"The first cell failed: {content.get('ename')}: {content.get('evalue')}.")
    return f"it runs on {''.join(said).strip()}"
