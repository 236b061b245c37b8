"""While the job waits in the queue, the user sees why, and can do what one does with a kernel."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from farkernel.provisioners.errors import JobFailed, QueueTimeout
from tests.slurm.helpers import Client, Specs, eventually, jobs, server, slurm
from tests.slurm.squeue import Occupation

pytestmark = pytest.mark.usefixtures("cluster", "no_free_knl")


@contextlib.asynccontextmanager
async def pending(name: str) -> AsyncIterator[tuple[AsyncMappingKernelManager, str, Client]]:
    """A kernel under a server, whose job waits."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=name)
        assert jobs("RUNNING") == []
        async with Client(manager.get_kernel(kernel_id)) as client:
            yield manager, kernel_id, client


async def test_the_cell_shows_the_queue_and_then_its_own_result(specs: Specs, no_free_knl: Occupation) -> None:
    async with pending(specs()) as (_, _, client):
        cell = client.send("print('mine')")
        await client.until(lambda: cell.shown and re.search("Resources|Priority", cell.shown[-1]))
        assert f"Slurm job {jobs()[0]}" in cell.shown[-1]
        assert "PENDING" in cell.shown[-1]
        await asyncio.to_thread(no_free_knl.end)
        await cell.done()
        kinds = [kind for kind in cell.kinds if kind != "status"]
        assert kinds[-2:] == ["clear_output", "stream"]
        assert cell.stdout == "mine\n"


async def test_a_cell_without_output_ends_clean(specs: Specs, no_free_knl: Occupation) -> None:
    async with pending(specs()) as (_, _, client):
        cell = await client.send("x = 1").has("display_data")
        await asyncio.to_thread(no_free_knl.end)
        await cell.done()
        assert [kind for kind in cell.kinds if kind != "status"][-1] == "clear_output"
        assert cell.contents("clear_output")[-1] == {"wait": False}
        assert cell.kinds[-1] == "status"


async def test_cells_that_were_run_meanwhile_run_in_order(specs: Specs, no_free_knl: Occupation) -> None:
    async with pending(specs()) as (_, _, client):
        cells = [client.send(code) for code in ("x = [1]", "x.append(2)", "x")]
        await asyncio.to_thread(no_free_knl.end)
        assert (await cells[-1].done()).result == "[1, 2]"


async def test_an_interrupt_cancels_the_cells_and_keeps_the_job(specs: Specs, no_free_knl: Occupation) -> None:
    async with pending(specs()) as (manager, kernel_id, client):
        first, second = client.send("1"), client.send("2")
        await first.has("display_data")
        job = await eventually(jobs)
        await manager.get_kernel(kernel_id).interrupt_kernel()  # type: ignore[misc]
        await first.done()
        await second.done()
        assert first.errors[0].startswith("KeyboardInterrupt")
        assert second.status == "aborted"
        assert jobs() == job
        await asyncio.to_thread(no_free_knl.end)
        assert (await client.run("3")).result == "3"


async def test_a_shutdown_takes_the_job_out_of_the_queue(specs: Specs) -> None:
    async with pending(specs()) as (manager, kernel_id, client):
        cell = client.send("1")
        await manager.shutdown_kernel(kernel_id)  # type: ignore[no-untyped-call]
        assert jobs() == []
        await cell.done()


async def test_a_restart_queues_anew(specs: Specs, no_free_knl: Occupation) -> None:
    async with pending(specs()) as (manager, kernel_id, client):
        old = await eventually(jobs)
        await manager.restart_kernel(kernel_id)  # type: ignore[no-untyped-call]
        new = await eventually(jobs)
        assert len(new) == 1
        assert new != old
        await asyncio.to_thread(no_free_knl.end)
        assert (await client.run("1 + 1")).result == "2"


async def test_the_longest_wait(specs: Specs) -> None:
    async with pending(specs(job={"max_wait": "4s"})) as (manager, kernel_id, client):
        cell = await client.run("1")
        assert cell.errors[0].startswith("QueueTimeout")
        assert "job.max_wait" in cell.told
        assert cell.status == "error"
        await eventually(lambda: not jobs())
        while kernel_id in manager:
            await asyncio.sleep(0.1)


async def test_no_messages_if_they_are_not_wanted(specs: Specs, no_free_knl: Occupation) -> None:
    async with pending(specs(job={"queue_messages": False})) as (_, _, client):
        cell = client.send("print('mine')")
        heard = len(client.published)
        await client.until(lambda: len(client.published) > heard + 1)  # it says that it lives
        await asyncio.to_thread(no_free_knl.end)
        await cell.done()
        assert not {"display_data", "update_display_data"} & set(cell.kinds)
        assert cell.stdout == "mine\n"


async def test_the_user_cancels_the_job(specs: Specs) -> None:
    async with pending(specs()) as (manager, kernel_id, client):
        cell = await client.send("1").has("display_data")
        job = (await eventually(jobs))[0]
        slurm("scancel", job)
        await cell.done()
        assert f"Slurm job {job}" in cell.told
        assert "cancelled" in cell.told
        while kernel_id in manager:
            await asyncio.sleep(0.1)
        assert jobs() == []


async def test_many_jobs_are_asked_about_at_once(specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, wrapper = tmp_path / "calls", tmp_path / "bin/squeue"
    wrapper.parent.mkdir()
    calls.touch()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec /usr/bin/squeue "$@"\n')
    wrapper.chmod(0o755)
    name = specs(slurm={"qos": "regular"})
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    async with server() as manager:
        for _ in range(5):
            await manager.start_kernel(kernel_name=name)

        def all_five() -> list[str]:
            ids = slurm("/usr/bin/squeue", "--me", "--noheader", "--format=%i").split()
            return ids if len(ids) == 5 else []

        ids = await eventually(all_five)
        # an srun may be late to say the number of its job
        await eventually(lambda: any(all(job in line for job in ids) for line in calls.read_text().splitlines()))
        calls.write_text("")
        rounds = await eventually(lambda: calls.read_text().splitlines()[1:])
        assert all(job in line for job in ids for line in rounds)


async def test_outside_a_server_the_start_waits_and_tells(
    specs: Specs, no_free_knl: Occupation, capfd: pytest.CaptureFixture[str]
) -> None:
    manager = AsyncKernelManager(kernel_name=specs())
    start = asyncio.ensure_future(manager.start_kernel())
    await eventually(jobs)
    told: list[str] = []

    def shows_the_queue() -> bool:
        told.append(capfd.readouterr().err)
        return "PENDING" in "".join(told)

    await eventually(shows_the_queue)
    assert f"Slurm job {jobs()[0]}" in "".join(told)
    assert not start.done()
    await asyncio.to_thread(no_free_knl.end)
    await start
    await manager.shutdown_kernel()


async def test_outside_a_server_the_start_fails(specs: Specs) -> None:
    name = specs(job={"max_wait": "3s"})
    with pytest.raises(QueueTimeout, match=r"job\.max_wait"):
        await AsyncKernelManager(kernel_name=name).start_kernel()
    assert jobs() == []
    start = asyncio.ensure_future(AsyncKernelManager(kernel_name=specs()).start_kernel())
    slurm("scancel", (await eventually(jobs))[0])
    with pytest.raises(JobFailed, match="was cancelled"):
        await start


def start_client(name: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "jupyter", "run", "--kernel", name, "/dev/null"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_dies_takes_its_job_out_of_the_queue(
    specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    directory = tmp_path / "run"  # for the sockets that a killed server leaves
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    with start_client(specs()) as process:
        await eventually(lambda: jobs("PENDING"))
        process.send_signal(number)
        process.wait()
        await eventually(lambda: not jobs())
