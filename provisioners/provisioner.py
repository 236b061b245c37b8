"""The kernel provisioners: Jupyter's contract, and nothing else.

https://jupyter-client.readthedocs.io/en/stable/provisioning.html
"""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.multikernelmanager import MultiKernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from farkernel.provisioners import environment
from farkernel.provisioners.background import Background, background
from farkernel.provisioners.containers.base import Container, Inside
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.errors import StartCancelled
from farkernel.provisioners.job import Job, LocalJob, SlurmJob, Status
from farkernel.provisioners.kernel_command import with_modules
from farkernel.provisioners.life import Phase
from farkernel.provisioners.places import unusable
from farkernel.provisioners.progress import Progress
from farkernel.provisioners.records import Record
from farkernel.provisioners.request import Request, check_kernelspec, parse_request
from farkernel.provisioners.server_process import this_server
from farkernel.provisioners.session import Plan, Session


class FarkernelProvisioner(KernelProvisionerBase):
    """What both provisioners share: everything but where the launcher runs."""

    def __init__(self, **kwargs: Any) -> None:
        # The config is checked as a whole, against our own model: traitlets would let unknown keys pass.
        super().__init__(**{name: kwargs[name] for name in ("kernel_id", "kernel_spec", "parent") if name in kwargs})
        self._shared: Background = background()
        self._session: Session | None = None
        self._progress = Progress()
        self._restart_limit: int | None = None
        self._told_of_death = False

    @property
    def session(self) -> Session | None:
        """The kernel's life, for those who want to know more than Jupyter does."""
        return self._session

    @property
    def has_process(self) -> bool:
        """Whether there is a kernel, one on its way, or one whose end only `poll` can tell."""
        return self._session is not None and self._session.phase is not Phase.IDLE

    # ---- starting ----

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Format the command; the connection file stays a placeholder, which the launcher fills on the node."""
        extra_arguments = kwargs.pop("extra_arguments", [])
        kwargs = await super().pre_launch(**kwargs)
        return {**kwargs, "cmd": self._command(extra_arguments, kwargs)}

    def _command(self, extra_arguments: list[str], kwargs: dict[str, Any]) -> list[str]:
        # Not the manager's: that turns a bare `python3` into the server's own interpreter, which need not exist on
        # the node or in an image.
        names = {"prefix": sys.prefix, "resource_dir": self.kernel_spec.resource_dir, **kwargs}
        names.pop("connection_file", None)

        def fill(match: re.Match[str]) -> str:
            return str(names.get(match[1], match[0]))

        return [re.sub(r"\{([A-Za-z0-9_]+)\}", fill, part) for part in [*self.kernel_spec.argv, *extra_arguments]]

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, or start it anew; returns at once under a server, and when it is up elsewhere."""
        await asyncio.to_thread(self._check_connection_file)
        env = {name: str(value) for name, value in kwargs.get("env", os.environ).items()}
        request, container = await asyncio.to_thread(self._request)
        cwd = request.kernel.cwd or kwargs.get("cwd") or "."
        cwd, home = os.path.abspath(cwd), os.path.expanduser("~")  # noqa: ASYNC240, PTH100, PTH111 (no I/O)
        inside = Inside(
            argv=cmd,
            env=environment.for_kernel(env, os.environ, self.kernel_spec.env),
            home=home,
            cwd=[request.kernel.cwd] if request.kernel.cwd else [cwd, home],
            directory=request.launcher.on_node,
            name=f"farkernel-{secrets.token_hex(6)}",
        )
        plan = Plan(
            name=self.kernel_spec.display_name,
            kernel_name=self._kernel_name,
            language=self.kernel_spec.language,
            argv=cmd,
            container=container,
            command=with_modules(request.kernel.modules, container.command(inside)),
            cwd=inside.cwd,
        )
        under_server = isinstance(getattr(self.parent, "parent", None), MultiKernelManager)
        self._progress.enabled = not under_server
        self._allow_restart()
        try:
            opening = functools.partial(
                self._open, request, container, environment.for_submission(env, os.environ), cwd
            )
            info = await self._shared.run(_start(opening, plan, block=not under_server))
        except StartCancelled:
            raise
        except BaseException:
            self._session = None  # it releases all it has, and nothing is started in it any more
            raise
        finally:
            self._progress.done()
        self.connection_info = cast("KernelConnectionInfo", info)
        return self.connection_info

    async def post_launch(self, **kwargs: Any) -> None:
        """Ask to be told when the restarter gives a kernel up: nobody calls cleanup then."""
        await super().post_launch(**kwargs)
        if not self._told_of_death and getattr(self.parent, "_restarter", None) is not None:
            assert self.parent
            self.parent.add_restart_callback(self._on_dead, "dead")
            self._told_of_death = True

    def _on_dead(self) -> None:
        if self._session:
            asyncio.run_coroutine_threadsafe(self._session.release(), self._shared.loop)

    def _check_connection_file(self) -> None:
        # Jupyter writes it after the start; if that fails nobody calls cleanup, and the job would run on.
        assert self.parent
        file = self.parent.connection_file  # empty for a temporary one of Jupyter's choice
        folder = pathlib.Path(file).absolute().parent if file else pathlib.Path(tempfile.gettempdir())
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(4096))
        except OSError as error:
            key = "JUPYTER_RUNTIME_DIR (Jupyter's connection file goes there)" if file else "TMPDIR"
            raise unusable(str(folder), error.strerror or str(error), host="this host", key=key) from error

    @property
    def _kernel_name(self) -> str:
        return getattr(self.parent, "kernel_name", "")

    def _request(self) -> tuple[Request, Container]:
        stanza = self.kernel_spec.metadata.get("kernel_provisioner", {})
        source = str(pathlib.Path(self.kernel_spec.resource_dir, "kernel.json"))
        request = parse_request(stanza.get("config", {}), source=source)
        check_kernelspec(self.kernel_spec.argv, self.kernel_spec.env, source=source)
        return request, container_of(request, source=source)

    def _open(self, request: Request, container: Container, env: dict[str, str], cwd: str) -> Session:
        """Return the session, made for the first start, and after its job has ended for good."""
        if self._session is None or self._session.phase.over:
            assert self.parent
            signing = self.parent.session

            def make_job(on_status: Callable[[Status], None]) -> Job:
                return self._job(
                    request,
                    kernel=self.kernel_spec.display_name,
                    kernelspec=self._kernel_name,
                    container=container,
                    python=request.launcher.python or sys.executable,
                    env=env,
                    cwd=cwd,
                    on_status=on_status,
                )

            self._session = Session(
                self._shared,
                request,
                key=signing.key,
                signature_scheme=signing.signature_scheme,
                make_job=make_job,
                on_status=self._progress.show,
                recorder=self._shared.recorder(self._record(env)),
                log=self.log,
            )
        return self._session

    def _record(self, env: dict[str, str]) -> Record:
        return Record(
            kernel_id=self.kernel_id or secrets.token_hex(16),
            kernelspec=self._kernel_name,
            display_name=self.kernel_spec.display_name,
            notebook=env.get("JPY_SESSION_NAME", ""),
            server=this_server(),
        )

    def _job(self, request: Request, **details: Any) -> Job:
        """Return a job of this provisioner's kind; `details` are the arguments of `Job`."""
        raise NotImplementedError

    # ---- running ----

    async def poll(self) -> int | None:
        """Return None while the kernel runs or is on its way, else its exit code; reads memory only."""
        session = self._session
        if session is None:
            return 0
        if session.phase is Phase.ENDING:
            return None  # whoever hears of an end may start anew at once
        if session.phase is Phase.ENDED:
            self._prevent_restart()
        return session.exit_code

    def _prevent_restart(self) -> None:
        # A job that has ended is never followed by another one unless somebody asks for it. The restarter's limit
        # counts deaths in quick succession only: a kernel that hits its walltime would be started anew for ever.
        restarter = getattr(self.parent, "_restarter", None)
        if restarter is not None and self._restart_limit is None:
            self._restart_limit, restarter.restart_limit = restarter.restart_limit, 0

    def _allow_restart(self) -> None:
        restarter = getattr(self.parent, "_restarter", None)
        if restarter is not None and self._restart_limit is not None:
            restarter.restart_limit, self._restart_limit = self._restart_limit, None

    async def wait(self) -> int | None:
        """Wait for the kernel's end."""
        if self._session is None:
            return 0
        return await self._shared.run(self._session.wait())

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group on the node; an interrupt in the queue cancels the waiting cells."""
        session = self._session
        if session is None or signum == 0:
            return
        await self._shared.run(session.interrupt() if signum == 2 else session.signal(signum))

    async def kill(self, restart: bool = False) -> None:
        """End the kernel at once; its job stays until cleanup, for `restart` cannot be trusted here."""
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel's process to end."""
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Cancel a job that waits at once; a running kernel has been asked itself."""
        if self._session:
            await self._shared.run(self._session.stop_requested())

    async def cleanup(self, restart: bool = False) -> None:
        """Release everything, unless a start follows."""
        if self._session and not restart:
            session, self._session = self._session, None
            await self._shared.run(session.release())

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Return `kernel.shutdown_timeout`."""
        return self._session.request.kernel.shutdown_timeout if self._session else recommended


async def _start(opening: Callable[[], Session], plan: Plan, *, block: bool) -> dict[str, Any]:
    """Start a kernel on the background loop; return its connection info."""
    session = opening()
    await session.start(plan, block=block)
    return session.connection_info


class SlurmProvisioner(FarkernelProvisioner):
    """Runs the kernel on a compute node, in a job of Slurm."""

    def _job(self, request: Request, **details: Any) -> Job:
        return SlurmJob(request, queue=self._shared.queue, **details)


class LocalProvisioner(FarkernelProvisioner):
    """Runs the kernel on this machine, by the same launcher and the same link."""

    def _job(self, request: Request, **details: Any) -> Job:
        return LocalJob(request, **details)
