"""The notebook server ends, however that comes about: its job and its files on the node go with it."""

import asyncio
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import Site
from tests.cluster.site import LOGIN
from tests.faults.servers import Server
from tests.faults.switches import on
from tests.slurm.helpers import PATIENCE, SERVER, Specs, eventually, jobs, sruns

pytestmark = pytest.mark.usefixtures("cluster", "runtime_directory")

OTHER_LOGIN = "cori02"

Started = Callable[..., Server]


@pytest.fixture
def start(specs: Specs, cluster: Site, tmp_path: Path) -> Iterator[Started]:
    """Start a notebook server on a host, with a kernel that runs."""
    folder = Path(tempfile.mkdtemp(dir=Path.home()))  # which all hosts share

    def start(host: str = LOGIN, **job: str) -> Server:
        name = specs(job=job)
        shutil.copytree(tmp_path / "share/jupyter", folder / "jupyter")
        (folder / "run").mkdir(mode=0o700)
        env = {"PATH": f"{Path(sys.prefix)}/bin:{os.environ['PATH']}", "JUPYTER_PATH": str(folder / "jupyter")}
        for variable in ("XDG_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            env[variable] = str(folder / "run")
        server = Server(cluster, host, folder)
        server.start(env)
        server.start_kernel(name)
        asyncio.run(eventually(lambda: len(jobs("RUNNING")) == 1))  # what was heard may be the waiting room
        return server

    yield start
    shutil.rmtree(folder)


@pytest.fixture
def nothing_on_the_nodes(cluster: Site) -> Callable[[], bool]:
    """Whether no file of ours is on a node any more."""

    def look() -> bool:
        nodes = [host for host in cluster.hosts if host.startswith("nid")]
        return not any(on(cluster, node, "ls -d /tmp/farkernel-* 2>/dev/null || true") for node in nodes)

    return look


# ---- a notebook server ----


@pytest.mark.parametrize("number", ["TERM", "KILL", "HUP"])
async def test_a_notebook_server_that_is_ended(
    start: Started, nothing_on_the_nodes: Callable[[], bool], number: str
) -> None:
    server = await asyncio.to_thread(start)
    await eventually(lambda: not nothing_on_the_nodes())
    await asyncio.to_thread(server.kill, number)
    await asyncio.to_thread(server.wait)
    await eventually(lambda: not jobs())
    await eventually(nothing_on_the_nodes)


async def test_a_notebook_server_whose_terminal_is_closed(
    start: Started, nothing_on_the_nodes: Callable[[], bool]
) -> None:
    server = await asyncio.to_thread(start)
    await asyncio.to_thread(server.close_terminal)
    await asyncio.to_thread(server.wait)
    await eventually(lambda: not jobs())
    await eventually(nothing_on_the_nodes)


@pytest.fixture
def other_login_node(cluster: Site, no_directories_left: None) -> Iterator[str]:
    """A login node that may be switched off, unlike the one that the tests run on."""
    yield OTHER_LOGIN
    cluster.power_on(OTHER_LOGIN)
    cluster.idle()  # a step whose srun is gone tries for a while to tell it that it has ended


async def test_a_login_node_that_loses_power(
    start: Started, cluster: Site, other_login_node: str, nothing_on_the_nodes: Callable[[], bool]
) -> None:
    await asyncio.to_thread(start, other_login_node, orphan_timeout="20s")
    await asyncio.to_thread(cluster.power_off, other_login_node)
    await eventually(lambda: not jobs())
    await eventually(nothing_on_the_nodes)


# ---- any other program that has started a kernel ----


def start_program(name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_a_program_that_dies_takes_its_job_with_it(specs: Specs, number: signal.Signals) -> None:
    with start_program(specs()) as process:
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
    await asyncio.to_thread(process.wait, PATIENCE)
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
    with start_program(specs(job={"orphan_timeout": "20s"})) as process:
        assert jobs("RUNNING")
        (group,) = {os.getpgid(pid) for pid in sruns()}
        process.kill()
        os.killpg(group, signal.SIGKILL)  # one after the other, srun's helper would have time to end the job
        process.wait()
        await eventually(lambda: not jobs())
