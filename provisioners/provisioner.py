"""The kernel provisioners: Jupyter's contract, and nothing else.

https://jupyter-client.readthedocs.io/en/stable/provisioning.html
"""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
import secrets
import signal
import sys
import tempfile
from typing import Any, cast

from jupyter_client._version import version_info
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.multikernelmanager import MultiKernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from farkernel.provisioners.background import Background, background
from farkernel.provisioners.errors import StartCancelled
from farkernel.provisioners.job import Job, LocalJob, SlurmJob
from farkernel.provisioners.jupyter_version import too_old
from farkernel.provisioners.life import Phase
from farkernel.provisioners.places import unusable
from farkernel.provisioners.progress import Progress
from farkernel.provisioners.restarts import Restarts
from farkernel.provisioners.session import Session
from farkernel.provisioners.start import Start, begin, check, command, new_session, prepare


class FarkernelProvisioner(KernelProvisionerBase):
    """What both provisioners share: everything but where the launcher runs."""

    _job_type: type[Job]

    def __init__(self, **kwargs: Any) -> None:
        # The config is checked as a whole, against our own model: traitlets would let unknown keys pass.
        super().__init__(**{name: kwargs[name] for name in ("kernel_id", "kernel_spec", "parent") if name in kwargs})
        if error := too_old(version_info, sys.executable):
            raise error
        self._shared: Background = background()
        self._session: Session | None = None
        self._progress = Progress()
        self._restarts = Restarts()

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
        check(self.kernel_spec)
        extra_arguments = kwargs.pop("extra_arguments", [])
        kwargs = await super().pre_launch(**kwargs)
        return {**kwargs, "cmd": command(self.kernel_spec, extra_arguments, kwargs)}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, or start it anew; returns at once under a server, and when it is up elsewhere."""
        await asyncio.to_thread(self._check_connection_file)
        env = {name: str(value) for name, value in kwargs.get("env", os.environ).items()}
        start = await prepare(
            self._shared,
            self.kernel_spec,
            cmd,
            kernel_name=getattr(self.parent, "kernel_name", ""),
            env=env,
            server=os.environ,
            cwd=kwargs.get("cwd") or ".",
            slurm=self._job_type is SlurmJob,
            another=self._session is None or self._session.phase.over,
        )
        under_server = isinstance(getattr(self.parent, "parent", None), MultiKernelManager)
        self._progress.enabled = not under_server
        self._restarts.allow(self.parent)
        try:
            info = await self._shared.run(begin(functools.partial(self._open, start), start, block=not under_server))
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
        """Ask to be told when the restarter gives a kernel up."""
        await super().post_launch(**kwargs)
        self._restarts.on_dead(self.parent, self._on_dead)

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

    def _open(self, start: Start) -> Session:
        """Return the session, made for the first start, and after its job has ended for good."""
        if self._session is None or self._session.phase.over:
            assert self.parent
            self._session = new_session(
                self._shared,
                start,
                kernel_id=self.kernel_id or secrets.token_hex(16),
                signing=self.parent.session,
                job=self._job_type,
                on_status=self._progress.show,
                log=self.log,
            )
        return self._session

    # ---- running ----

    async def poll(self) -> int | None:
        """Return None while the kernel runs or is on its way, else its exit code; reads memory only."""
        session = self._session
        if session is None:
            return 0
        if session.phase is Phase.ENDING:
            return None  # whoever hears of an end may start anew at once
        if session.phase is Phase.ENDED:
            self._restarts.prevent(self.parent)
        return session.exit_code

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


class SlurmProvisioner(FarkernelProvisioner):
    """Runs the kernel on a compute node, in a job of Slurm."""

    _job_type = SlurmJob


class LocalProvisioner(FarkernelProvisioner):
    """Runs the kernel on this machine, by the same launcher and the same link."""

    _job_type = LocalJob
