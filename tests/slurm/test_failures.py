"""Whatever goes wrong, the user is told what it was, and nothing is left behind.

The fixtures see to the second half: after each test there is no job, no process and no directory on any host.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from farkernel.provisioners.errors import (
    CommandMissing,
    FarkernelError,
    ImportFailed,
    KernelCommandMissing,
    KernelFailed,
    NodeUnreachable,
    PythonMissing,
    RequestError,
    SubmissionRefused,
)
from tests.cluster import Site
from tests.slurm.helpers import PATIENCE, Cell, Client, Specs, eventually, jobs, kernel, server, slurm

pytestmark = pytest.mark.usefixtures("cluster")

NODE = "nid02301"
SLEEPS = "print('sleeps', flush=True); import time; time.sleep(600)"


async def failure(name: str) -> FarkernelError:
    """Start a kernel that cannot be started, as nbconvert and others would."""
    manager = AsyncKernelManager(kernel_name=name)
    with pytest.raises(FarkernelError) as caught:
        await manager.start_kernel()
    assert not await manager.is_alive()
    await eventually(lambda: not jobs())
    return caught.value


# ---- it does not come up ----


async def test_a_host_without_slurm(specs: Specs, monkeypatch: pytest.MonkeyPatch) -> None:
    name = specs()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{sys.prefix}/bin")
        manager = AsyncKernelManager(kernel_name=name)
        with pytest.raises(CommandMissing, match="there is no srun on this host"):
            await manager.start_kernel()


async def test_a_kernelspec_that_is_not_valid(specs: Specs, tmp_path: Path) -> None:
    name = specs()
    file = tmp_path / f"share/jupyter/kernels/{name}/kernel.json"
    file.write_text(file.read_text().replace('"constraint"', '"constrain"'))
    error = await failure(name)
    assert isinstance(error, RequestError)
    assert f"{file}: slurm.constrain: unknown key" in str(error)
    assert "did you mean slurm.constraint?" in str(error)


async def test_a_refusal_of_slurm(specs: Specs) -> None:
    error = await failure(specs(slurm={"account": "nosuch"}))
    assert isinstance(error, SubmissionRefused)
    assert "slurm.account" in str(error)
    assert "Invalid account" in str(error)


async def test_a_python_that_is_not_on_the_node(specs: Specs) -> None:
    error = await failure(specs(launcher={"python": "/not/there/python"}))
    assert isinstance(error, PythonMissing)
    assert "/not/there/python" in str(error)
    assert "launcher.python" in error.hint


async def test_a_python_without_pyzmq(specs: Specs) -> None:
    error = await failure(specs(launcher={"python": "/usr/bin/python3"}))
    assert isinstance(error, ImportFailed)
    assert "zmq" in error.said
    assert "launcher.python" in error.hint


async def test_a_kernel_whose_command_is_missing(specs: Specs) -> None:
    error = await failure(specs(argv=["/not/there/kernel", "{connection_file}"]))
    assert isinstance(error, KernelCommandMissing)
    assert "/not/there/kernel" in error.what


async def test_a_kernel_that_ends_at_once(specs: Specs) -> None:
    code = "import sys; sys.exit('there is no licence left')"
    error = await failure(specs(argv=[sys.executable, "-c", code, "{connection_file}"]))
    assert isinstance(error, KernelFailed)
    assert "there is no licence left" in error.said


async def test_a_module_that_does_not_exist(specs: Specs) -> None:
    error = await failure(specs(kernel={"modules": ["nosuch/1.0"]}))
    assert isinstance(error, KernelFailed)
    assert "nosuch/1.0" in error.said
    assert "kernel.modules" in error.hint


async def test_a_node_that_cannot_be_reached(specs: Specs) -> None:
    error = await failure(specs(launcher={"interface": "lo"}))
    assert isinstance(error, NodeUnreachable)
    assert "nid0230" in error.what
    assert "Tried 127.0.0.1:" in error.said
    assert "launcher.interface" in error.hint


async def test_a_failure_under_a_server_is_told_in_the_cell(specs: Specs) -> None:
    """There the start has long returned."""
    name = specs(argv=[sys.executable, "-c", "import time; time.sleep(3); exit('no licence')", "{connection_file}"])
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=name)
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.run("1 + 1")
            assert cell.errors[0].startswith("KernelFailed")
            assert "no licence" in cell.told
            assert cell.status == "error"
        await gone(manager, kernel_id)


# ---- it ends ----


@contextlib.asynccontextmanager
async def busy(name: str) -> AsyncIterator[tuple[AsyncMappingKernelManager, str, Client, Cell]]:
    """A server with a kernel in which a cell runs."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=name)
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.send(SLEEPS).prints("sleeps")
            yield manager, kernel_id, client, cell


async def gone(manager: AsyncMappingKernelManager, kernel_id: str) -> None:
    """Wait until the server has dropped the kernel; a new job must not follow."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while kernel_id in manager:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
    assert jobs() == []


async def test_a_job_that_is_cancelled(specs: Specs) -> None:
    async with busy(specs()) as (manager, kernel_id, client, cell):
        next_one = client.send("1 + 1")
        job = jobs()[0]
        slurm("scancel", job)
        await cell.done()
        assert f"Slurm job {job}" in cell.told
        assert "cancelled" in cell.told.lower()
        assert cell.status == "error"
        await next_one.done()
        assert next_one.status in {"aborted", "error"}
        await gone(manager, kernel_id)


async def test_the_time_limit(specs: Specs) -> None:
    async with busy(specs(slurm={"time": "1"})) as (manager, kernel_id, _, cell):
        # Slurm looks about once a minute: it takes longer than one wait
        with contextlib.suppress(TimeoutError):
            await cell.done()
        await cell.done()
        assert "time limit" in cell.told.lower()
        await gone(manager, kernel_id)


@pytest.fixture
def repaired(cluster: Site, no_directories_left: None) -> Iterator[None]:
    """The node is up and connected again."""
    yield
    cluster.power_on(NODE)
    cluster.cable(NODE, True)
    cluster.idle()


@pytest.mark.usefixtures("repaired")
async def test_a_node_that_loses_power(specs: Specs, cluster: Site) -> None:
    async with busy(specs(slurm={"extra_args": [f"--nodelist={NODE}"]})) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        await asyncio.to_thread(cluster.power_off, NODE)
        await cell.done()
        assert NODE in cell.told
        assert job in cell.told
        await gone(manager, kernel_id)


@pytest.mark.usefixtures("repaired")
async def test_a_short_cut_of_the_cable_loses_nothing(specs: Specs, cluster: Site) -> None:
    async with kernel(specs(slurm={"extra_args": [f"--nodelist={NODE}"]})) as (_, client):
        cell = client.send("import time\nfor number in range(150):\n    print(number, flush=True)\n    time.sleep(0.1)")
        await cell.prints("9\n")
        await asyncio.to_thread(cluster.cable, NODE, False)
        await asyncio.sleep(10)
        await asyncio.to_thread(cluster.cable, NODE, True)
        await cell.done()
        assert cell.stdout.split() == [str(number) for number in range(150)]
        assert (await client.run("1 + 1")).result == "2"


async def test_a_kernel_that_is_killed_starts_anew_in_its_job(specs: Specs) -> None:
    async with busy(specs()) as (_, _, client, cell):
        job = jobs()
        slurm("srun", f"--jobid={job[0]}", "--overlap", "-n1", "pkill", "-KILL", "-f", "ipykernel_launcher")
        await cell.done()
        assert "SIGKILL" in cell.told
        assert (await client.run_anew("1 + 1")).result == "2"
        assert jobs() == job


async def test_preemption(specs: Specs, cluster: Site) -> None:
    name = specs(slurm={"qos": "overrun", "extra_args": [f"--nodelist={NODE}"]})
    async with busy(name) as (manager, kernel_id, _, cell):
        argv = ["srun", "-q", "realtime", "-C", "knl", "-w", NODE, "-t", "1", "true"]
        other = asyncio.create_task(asyncio.to_thread(cluster.run, "cori01", "alice", argv))
        await cell.done()
        assert "preempted" in cell.told.lower()
        await gone(manager, kernel_id)
        assert (await other).returncode == 0


# ---- the server ends ----

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


@pytest.mark.usefixtures("runtime_directory")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_dies_takes_its_job_with_it(specs: Specs, number: signal.Signals) -> None:
    with start_server(specs()) as process:
        assert jobs("RUNNING")
        process.send_signal(number)
        process.wait()
        await eventually(lambda: not jobs() and not sruns())


@pytest.mark.usefixtures("runtime_directory")
async def test_a_job_whose_login_side_is_gone_for_good_ends_by_itself(specs: Specs) -> None:
    with start_server(specs(job={"orphan_timeout": "5s"})) as process:
        assert jobs("RUNNING")
        (group,) = {os.getpgid(pid) for pid in sruns()}
        process.kill()
        os.killpg(group, signal.SIGKILL)  # one after the other, srun's helper would have time to end the job
        process.wait()
        await eventually(lambda: not jobs())


async def test_an_srun_that_is_killed(specs: Specs) -> None:
    """Its job would stay: Slurm does not notice."""
    async with busy(specs()) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        for pid in sruns():
            os.kill(pid, signal.SIGKILL)
        await cell.done()
        assert job in cell.told
        await gone(manager, kernel_id)
