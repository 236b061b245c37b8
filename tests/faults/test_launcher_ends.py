"""srun or the launcher is killed: the cell says so, and no job is left."""

import asyncio
import os
import signal

import pytest
from jupyter_client.manager import AsyncKernelManager

from tests.cluster import Site
from tests.faults.switches import NODE, on, pids
from tests.slurm.helpers import Specs, busy, gone, jobs, sruns

pytestmark = pytest.mark.usefixtures("cluster")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}


async def swept(cluster: Site) -> None:
    """A launcher that is killed leaves its files; the user's next one on the node removes them, an hour later here."""
    await asyncio.to_thread(on, cluster, NODE, "touch -c -d '1 hour ago' /tmp/farkernel-*")
    manager = AsyncKernelManager(kernel_name="cori-knl")
    await manager.start_kernel()
    await manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_srun_that_is_killed(specs: Specs, cluster: Site, number: signal.Signals) -> None:
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        for pid in sruns():
            os.kill(pid, number)
        await cell.done()
        assert job in cell.told
        await gone(manager, kernel_id)
        await swept(cluster)


async def test_a_process_group_of_srun_that_is_killed(specs: Specs) -> None:
    """Its job would stay: Slurm does not notice."""
    async with busy(specs()) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        os.killpg(os.getpgid(sruns()[0]), signal.SIGKILL)
        await cell.done()
        assert job in cell.told
        await gone(manager, kernel_id)


@pytest.mark.parametrize("number", ["TERM", "KILL"])
async def test_a_launcher_that_is_killed(specs: Specs, cluster: Site, number: str) -> None:
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        (launcher,) = await asyncio.to_thread(pids, cluster, NODE, "^[^ ]*python[^ ]* -c")
        await asyncio.to_thread(on, cluster, NODE, f"kill -{number} {launcher}")
        await cell.done()
        assert job in cell.told
        await gone(manager, kernel_id)
        await swept(cluster)
