"""The process proxies of Jupyter Enterprise Gateway 3: its contract, and nothing else.

Enterprise Gateway needs jupyter_client 6, which has no provisioners: where a kernelspec names only one, it would run
the kernel on its own host. A kernelspec names a proxy beside the provisioner, and has one config for both.

https://jupyter-enterprise-gateway.readthedocs.io/en/latest/contributors/system-architecture.html#process-proxy
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import os
import pathlib
import signal
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

from enterprise_gateway.services.processproxies.processproxy import BaseProcessProxyABC
from jupyter_client.connect import ConnectionFileMixin
from tornado.web import HTTPError

from farkernel.launcher.protocol import PORT_NAMES
from farkernel.provisioners import environment
from farkernel.provisioners.background import Background, background
from farkernel.provisioners.errors import FarkernelError, NotImpersonated, StartCancelled
from farkernel.provisioners.job import Job, LocalJob, SlurmJob
from farkernel.provisioners.life import Phase
from farkernel.provisioners.places import unusable
from farkernel.provisioners.request import check_process_proxy
from farkernel.provisioners.restarts import Restarts
from farkernel.provisioners.session import Session
from farkernel.provisioners.start import Start, begin, check, command, new_session, prepare, source_of

_PORTS = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")
"""In the order in which Enterprise Gateway takes them from `select_ports`."""


class Kept:
    """What outlasts a restart, for which Enterprise Gateway makes a new proxy; its kernel manager keeps it."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.restarts = Restarts()


class FarkernelProcessProxy(BaseProcessProxyABC):
    """What both proxies share: everything but where the launcher runs.

    Enterprise Gateway calls all but `launch_process` from its event loop, and waits for none of it: they only tell the
    background loop what to do, and `poll` reads memory.
    """

    _job_type: type[Job]

    def __init__(self, kernel_manager: Any, proxy_config: dict[str, Any]) -> None:
        ip = kernel_manager.ip
        super().__init__(kernel_manager, proxy_config)
        # Its 0.0.0.0 is for kernels behind TCP ports. At a restart, the front that was there is there.
        kernel_manager.transport, kernel_manager.ip = "ipc", ip
        self._shared: Background = background()
        self._kept: Kept = vars(kernel_manager).setdefault("farkernel", Kept())
        self._told_to_end = False
        self._releasing = False

    @property
    def session(self) -> Session | None:
        """The kernel's life; None for a kernel of another process, of which Enterprise Gateway has read."""
        return self._kept.session

    # ---- starting ----

    async def launch_process(self, kernel_cmd: list[str], **kwargs: Any) -> FarkernelProcessProxy:
        """Start the kernel, or start it anew; returns as soon as Slurm has taken the job.

        :raises HTTPError: it cannot be started, or the user may not start it
        """
        try:
            await super().launch_process(kernel_cmd, **kwargs)  # looks whether the user may; completes the environment
            await self._launch(kwargs["env"], kwargs.get("cwd"))
        except FarkernelError as error:
            self.log.error("%s", error)
            self._forget_start()
            raise HTTPError(500, str(error)) from error
        except BaseException:
            self._forget_start()
            raise
        return self

    async def _launch(self, client: dict[str, str], cwd: str | None) -> None:
        spec = self.kernel_manager.kernel_spec
        check_process_proxy(self.proxy_config, source=source_of(spec))
        check(spec)
        self._check_impersonation(client.get("KERNEL_USERNAME", ""))
        start = await prepare(
            self._shared,
            spec,
            command(spec, [], {"kernel_id": self.kernel_id, "cwd": cwd or ""}),
            kernel_name=self.kernel_manager.kernel_name,
            env=environment.for_gateway(client, os.environ),
            server=os.environ,
            cwd=_working_directory(client, os.environ) or cwd or os.path.expanduser("~"),  # noqa: ASYNC240, PTH111
            slurm=self._job_type is SlurmJob,
            another=self.session is None or self.session.phase.over,
        )
        self._kept.restarts.allow(self.kernel_manager)
        self.kernel_manager.shutdown_wait_time = start.request.kernel.shutdown_timeout
        try:
            info = await self._shared.run(begin(functools.partial(self._open, start), start, block=False))
        except StartCancelled:
            raise
        except BaseException:
            self._kept.session = None  # it releases all it has, and nothing is started in it any more
            raise
        await self._connect(info)

    def _check_impersonation(self, user: str) -> None:
        if self.kernel_manager.impersonation_enabled:
            raise NotImpersonated(
                f"Enterprise Gateway is to impersonate {user or 'its users'}, but farkernel's jobs would run as "
                f"{getpass.getuser()}, who runs the gateway.",
                hint="Run a gateway for each user, or switch EG_IMPERSONATION_ENABLED off.",
            )

    def _open(self, start: Start) -> Session:
        """Return the session, made for the first start, and after its job has ended for good."""
        if self._kept.session is None or self._kept.session.phase.over:
            self._kept.session = new_session(
                self._shared,
                start,
                kernel_id=self.kernel_id,
                signing=self.kernel_manager.session,
                job=self._job_type,
                on_status=lambda text: None,
                log=self.log,
            )
        return self._kept.session

    async def _connect(self, info: dict[str, Any]) -> None:
        """Tell Enterprise Gateway where the front is: it has written a connection file before there was one."""
        manager = self.kernel_manager
        self.ip = info["ip"]  # also what Enterprise Gateway writes down of the kernel
        for name in ("ip", *_PORTS):
            setattr(manager, name, info[name])
        try:
            await asyncio.to_thread(self._write_connection_file)
        except OSError as error:
            if self.session:
                await self._shared.run(self.session.release())
            place = pathlib.Path(manager.connection_file).parent
            key = "JUPYTER_RUNTIME_DIR (Jupyter's connection file goes there)"
            raise unusable(str(place), error.strerror or str(error), host="this host", key=key) from error

    def _write_connection_file(self) -> None:
        # Not the manager's own method: that one leaves the file as it is at a restart.
        self.kernel_manager.cleanup_connection_file()
        ConnectionFileMixin.write_connection_file(self.kernel_manager)

    def _forget_start(self) -> None:
        """A kernel that could not be started anew can still be shut down, or started once more."""
        manager = self.kernel_manager
        if manager.restarting:
            manager.kernel = self  # or Enterprise Gateway refuses whatever is asked of it
            manager.restarting = False
        else:
            manager.cleanup_connection_file()

    def select_ports(self, count: int) -> list[int]:
        """Return the front's, which are names of sockets: no port is taken."""
        numbers = {name: int(channel) for channel, name in PORT_NAMES.items()}
        return [numbers[name] for name in _PORTS][:count]

    # ---- running ----

    def poll(self) -> int | bool | None:
        """Return None while the kernel runs or is on its way, else its exit code; reads memory only.

        What is released when a kernel is shut down is part of it: Enterprise Gateway waits for that, for some seconds.
        False is for a kernel that has ended with the gateway that started it: this one forgets it then.
        """
        session = self.session
        if session is None:
            return False
        self._kept.restarts.on_dead(self.kernel_manager, self._on_dead)
        if self.kernel_manager.shutting_down:
            self._on_shutdown(session)
        if session.phase is Phase.ENDED:
            self._kept.restarts.prevent(self.kernel_manager)
        elif session.phase is Phase.ENDING or self._releasing:
            return None
        return session.exit_code

    def _on_dead(self) -> None:
        self.kernel_manager.cleanup_connection_file()
        if self.session:
            self._release(self.session)

    def _on_shutdown(self, session: Session) -> None:
        if not self._told_to_end:
            self._told_to_end = True
            self._do(session.stop_requested())
        if session.exit_code is not None and not self.kernel_manager.restarting:
            self._release(session)

    def wait(self) -> int | bool | None:
        """Return the exit code: Enterprise Gateway asks when `poll` has told of the end."""
        return self.poll()

    def send_signal(self, signum: int) -> bool | None:
        """Signal the kernel's process group on the node; an interrupt in the queue cancels the waiting cells."""
        session = self.session
        if session is None:
            return False
        if signum:
            self._do(session.interrupt() if signum == signal.SIGINT else session.signal(signum))
        if self.kernel_manager.shutting_down:  # before it is asked to end: its death is no news
            self._on_shutdown(session)
        return None

    def kill(self) -> bool | None:
        """End the kernel at once; its job stays until cleanup."""
        return self.send_signal(signal.SIGKILL)

    def terminate(self) -> bool | None:
        """Ask the kernel's process to end."""
        return self.send_signal(signal.SIGTERM)

    def cleanup(self) -> None:
        """Release everything, unless a start follows."""
        if self.session and not self.kernel_manager.restarting:
            self._release(self.session)

    def _release(self, session: Session) -> None:
        if not self._releasing and not session.phase.over:
            self._releasing = True
            self._do(session.release())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done that nobody waits for."""
        asyncio.run_coroutine_threadsafe(work, self._shared.loop).add_done_callback(self._on_done)

    def _on_done(self, future: Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()):
            self.log.error("farkernel", exc_info=error)


def _working_directory(client: Mapping[str, str], server: Mapping[str, str]) -> str:
    """Return the notebook's directory where Enterprise Gateway's own switch says that client and cluster share it."""
    wanted = client.get("KERNEL_WORKING_DIR", "")
    mirrored = server.get("EG_MIRROR_WORKING_DIRS", "").lower() == "true"
    return wanted if mirrored and wanted.startswith("/") else ""


class SlurmProcessProxy(FarkernelProcessProxy):
    """Runs the kernel on a compute node, in a job of Slurm."""

    _job_type = SlurmJob


class LocalProcessProxy(FarkernelProcessProxy):
    """Runs the kernel on this machine, by the same launcher and the same link."""

    _job_type = LocalJob
