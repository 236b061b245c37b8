"""The notebook server ends, however that comes about: its job and its files on the node go with it."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Site
from tests.faults.switches import on
from tests.slurm.helpers import Specs, eventually, jobs

pytestmark = pytest.mark.usefixtures("cluster", "runtime_directory")

OTHER_LOGIN = "cori02"

_SERVER = """
import asyncio, sys
from jupyter_client.manager import AsyncKernelManager
async def main():
    manager = AsyncKernelManager(kernel_name=sys.argv[1])
    await manager.start_kernel()
    print("up", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server that is killed leave its sockets, which nobody can remove, where they harm no other test."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))


def start_server(name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _SERVER, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    return process


def sruns() -> list[int]:
    """The ids of this user's processes of srun."""
    done = subprocess.run(["pgrep", "-u", str(os.getuid()), "-x", "srun"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_a_server_that_dies_takes_its_job_with_it(specs: Specs, number: signal.Signals) -> None:
    with start_server(specs()) as process:
        assert jobs("RUNNING")
        process.send_signal(number)
        process.wait()
        await eventually(lambda: not jobs() and not sruns())


def start_console(name: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a console at a terminal of its own; return our end of that, too."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "jupyter", "console", "--kernel", name]
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    return process, ours


async def test_a_console_that_is_closed_takes_its_job_with_it(specs: Specs) -> None:
    process, ours = start_console(specs())
    reader = asyncio.create_task(asyncio.to_thread(_read_all, ours))
    await eventually(lambda: jobs("RUNNING"))
    await asyncio.sleep(2)  # it is at its prompt
    os.killpg(process.pid, signal.SIGHUP)  # as the kernel does when a terminal goes
    await asyncio.to_thread(process.wait, 60)
    await eventually(lambda: not jobs() and not sruns())
    await reader
    os.close(ours)


def _read_all(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        return  # EIO: the other end is closed


async def test_a_job_whose_login_side_is_gone_for_good_ends_by_itself(specs: Specs) -> None:
    with start_server(specs(job={"orphan_timeout": "5s"})) as process:
        assert jobs("RUNNING")
        (group,) = {os.getpgid(pid) for pid in sruns()}
        process.kill()
        os.killpg(group, signal.SIGKILL)  # one after the other, srun's helper would have time to end the job
        process.wait()
        await eventually(lambda: not jobs())


@pytest.fixture
def other_login_node(cluster: Site) -> Iterator[str]:
    """A login node that may be switched off, unlike the one that the tests run on."""
    yield OTHER_LOGIN
    cluster.power_on(OTHER_LOGIN)
    cluster.idle()


async def test_a_login_node_that_loses_power(
    specs: Specs, cluster: Site, other_login_node: str, tmp_path: Path
) -> None:
    name = specs(job={"orphan_timeout": "10s"})
    shared = Path.home() / "reboot"  # other directories are each host's own
    kernelspec = tmp_path / f"share/jupyter/kernels/{name}"
    script = f"mkdir -p {shared}/kernels && rm -rf {shared}/kernels/* && cp -r {kernelspec} {shared}/kernels/{name}"
    await asyncio.to_thread(on, cluster, "cori01", script, user="alice")
    env = f"PATH={sys.prefix}/bin:$PATH JUPYTER_PATH={shared}"
    command = f"{env} nohup {sys.executable} -c '{_SERVER}' {name} >{shared}/out 2>&1 &"
    await asyncio.to_thread(on, cluster, other_login_node, command, user="alice")
    await eventually((shared / "out").read_text)
    assert (shared / "out").read_text() == "up\n"
    assert jobs("RUNNING")
    await asyncio.to_thread(cluster.power_off, other_login_node)
    await eventually(lambda: not jobs())
