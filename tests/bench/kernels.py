"""The ways to a kernel: farkernel, a direct connection, ports that OpenSSH forwards."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import DEVNULL

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.multikernelmanager import MultiKernelManager

from farkernel.provisioners.provisioner import FarkernelProvisioner
from tests.bench.client import PATIENCE, Client, Info
from tests.bench.place import ARGV, ARGV_IN_IMAGE, Place, bare_info, through_tunnel, write_private

_SPEC = "bench"


class Server:
    """Starts kernels as a notebook server does: without waiting for them.

    :param runtime: of the image that they run in; none without
    """

    def __init__(self, place: Place, *, shared: bool, runtime: str = "") -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        folder = Path(self._directory.name, "kernels", _SPEC)
        folder.mkdir(parents=True)
        config = place.config(shared=shared)
        if runtime:
            config |= {"container": {"runtime": runtime, "image": place.runtimes[runtime].image}}
            config |= {"launcher": {"python": sys.executable}}
        stanza = {"provisioner_name": place.provisioner, "config": config}
        spec = {
            "argv": [*(ARGV_IN_IMAGE if runtime else ARGV), "{connection_file}"],
            "display_name": "Bench",
            "language": "python",
            "metadata": {"kernel_provisioner": stanza},
        }
        (folder / "kernel.json").write_text(json.dumps(spec))
        specs = KernelSpecManager(kernel_dirs=[str(folder.parent)], ensure_native_kernel=False)
        self._manager = MultiKernelManager(kernel_spec_manager=specs, connection_dir=self._directory.name)

    def start(self) -> tuple[str, Info]:
        """Start a kernel; return its id and what to connect to."""
        kernel = self._manager.start_kernel(kernel_name=_SPEC)
        return kernel, dict(self._manager.get_kernel(kernel).get_connection_info())

    def job(self, kernel: str) -> tuple[int | None, str]:
        """Return a kernel's job id and node."""
        provisioner = self._manager.get_kernel(kernel).provisioner
        assert isinstance(provisioner, FarkernelProvisioner)
        assert provisioner.session
        assert provisioner.session.job
        status = provisioner.session.job.status
        return status.job_id, status.nodes

    def stop(self, kernel: str) -> None:
        """End a kernel."""
        self._manager.shutdown_kernel(kernel, now=True)

    def close(self) -> None:
        """End all kernels."""
        self._manager.shutdown_all(now=True)
        self._directory.cleanup()


@contextlib.contextmanager
def server(place: Place, *, shared: bool, runtime: str = "") -> Iterator[Server]:
    """A server that takes its kernels with it."""
    serving = Server(place, shared=shared, runtime=runtime)
    try:
        yield serving
    finally:
        serving.close()


@contextlib.contextmanager
def bare_kernel(place: Place, *, node: str = "", job_id: int | None = None, runtime: str = "") -> Iterator[Info]:
    """A kernel that listens on the network itself; yields at once, its file on the home that all hosts share.

    :param runtime: what starts it in an image; none without
    """
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.home()) as directory:
        info = bare_info(place.address(node))
        file = write_private(Path(directory, "kernel.json"), info)
        argv = [*place.srun(job_id), *ARGV, str(file)]
        if runtime:
            how = place.runtimes[runtime]
            argv = [*place.srun(job_id), *how.srun, *how.argv, *ARGV_IN_IMAGE, str(file)]
        with _ended(subprocess.Popen(argv, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)):
            yield info


@contextlib.contextmanager
def tunnel(info: Info, options: Sequence[str]) -> Iterator[Info]:
    """The same kernel's ports on this host's loopback.

    :param options: more of ssh's
    """
    near, forwards = through_tunnel(info)
    argv = ["ssh", "-qN", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", *options, *forwards, info["ip"]]
    with contextlib.ExitStack() as stack:
        deadline = time.monotonic() + PATIENCE
        while True:
            # a node lets nobody in who has no job there yet
            ssh = stack.enter_context(
                _ended(subprocess.Popen(argv, stdin=DEVNULL, stdout=DEVNULL, start_new_session=True))
            )
            if _listens(ssh, near["ip"], near["hb_port"]):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{argv[0]} forwards no ports")
            stack.close()
        yield near


@contextlib.contextmanager
def all_ways(place: Place) -> Iterator[dict[str, Client]]:
    """Clients of two kernels on the same node: farkernel's, and a bare one that all other ways lead to."""
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(server(place, shared=True))
        kernel, near = serving.start()
        clients = {"farkernel": stack.enter_context(Client(near))}
        clients["farkernel"].until_ready()
        job_id, node = serving.job(kernel)
        far = stack.enter_context(bare_kernel(place, node=node, job_id=job_id))
        if place.is_direct:
            clients["direct"] = stack.enter_context(Client(far))
            clients["direct"].until_ready()
        for way, options in place.tunnels.items():
            clients[way] = stack.enter_context(Client(stack.enter_context(tunnel(far, options))))
            clients[way].until_ready()
        yield clients


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)


def _listens(ssh: "subprocess.Popen[bytes]", address: str, port: int) -> bool:
    """Wait until a port is open; False if ssh has ended before."""
    while ssh.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection((address, port), timeout=1).close()
            return True
        time.sleep(0.02)
    return False
