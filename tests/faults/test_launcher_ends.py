"""What carries a kernel is killed, on the login node or on the compute node: the cell says so, and no job is left."""

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager

from tests.cluster import Site
from tests.faults.switches import LAUNCHER, NODE, on
from tests.slurm.helpers import Cell, Specs, busy, gone, jobs, slurm, sruns

pytestmark = pytest.mark.usefixtures("cluster", "swept")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}


@pytest.fixture
def swept(specs: Specs, cluster: Site) -> Iterator[None]:
    """A launcher that is killed leaves its files; the user's next one on the node removes them, an hour later here."""
    yield
    on(cluster, NODE, "touch -c -d '1 hour ago' /tmp/farkernel-*")

    async def next_one() -> None:
        manager = AsyncKernelManager(kernel_name=specs(slurm=ON_NODE))
        await manager.start_kernel()
        await manager.shutdown_kernel(now=True)

    asyncio.run(next_one())


def tells(cell: Cell, job: str) -> bool:
    """Whether the cell has ended with an error that names the job and what to do."""
    return (
        cell.status == "error"
        and cell.errors[0].startswith("JobEnded: ")
        and f"Slurm job {job}" in cell.told
        and "Start it again for a new job." in cell.told
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGKILL])
async def test_an_srun_that_is_signalled(specs: Specs, number: signal.Signals) -> None:
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, client, cell):
        job, later = jobs()[0], client.send("print('never')")
        os.kill(sruns()[0], number)
        await cell.done()
        assert tells(cell, job), cell.told
        assert (await later.done()).stdout == ""
        await gone(manager, kernel_id)


async def test_all_processes_of_an_srun_that_are_killed(specs: Specs) -> None:
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        for pid in sruns():
            os.kill(pid, signal.SIGKILL)
        await cell.done()
        assert tells(cell, job), cell.told
        await gone(manager, kernel_id)


async def test_a_process_group_of_srun_that_is_killed(specs: Specs) -> None:
    """Its job would stay: Slurm does not notice."""
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        os.killpg(os.getpgid(sruns()[0]), signal.SIGKILL)
        await cell.done()
        assert tells(cell, job), cell.told
        assert "SIGKILL" in cell.told
        await gone(manager, kernel_id)


@pytest.mark.parametrize("number", ["TERM", "HUP", "SEGV", "KILL"])
async def test_a_launcher_that_is_signalled(specs: Specs, cluster: Site, number: str) -> None:
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        await asyncio.to_thread(on, cluster, NODE, f"pkill -{number} -u alice -f '{LAUNCHER}'")
        await cell.done()
        assert tells(cell, job), cell.told
        assert NODE in cell.told
        await gone(manager, kernel_id)


async def test_a_launcher_that_stands_still_for_a_while(specs: Specs, cluster: Site) -> None:
    """It is as silent as behind a cut cable, and no more is lost."""
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, client, cell):
        job = jobs()
        await asyncio.to_thread(on, cluster, NODE, f"pkill -STOP -u alice -f '{LAUNCHER}'")
        await asyncio.sleep(12)  # longer than the link waits before it makes a fresh connection
        await asyncio.to_thread(on, cluster, NODE, f"pkill -CONT -u alice -f '{LAUNCHER}'")
        running: Any = manager.get_kernel(kernel_id)
        await running.interrupt_kernel()
        assert (await cell.done()).errors == ["KeyboardInterrupt: "]
        assert (await client.run_anew("6 * 7")).result == "42"
        assert jobs() == job


async def test_a_step_that_is_cancelled(specs: Specs) -> None:
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        slurm("scancel", f"{job}.0")
        await cell.done()
        assert tells(cell, job), cell.told
        await gone(manager, kernel_id)
