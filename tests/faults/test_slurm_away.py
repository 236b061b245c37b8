"""Slurm's daemons are away for a while: kernels do not notice, waiting cells tell, and nothing is left."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Site
from tests.faults.switches import daemon_away, daemon_stands_still, meanwhile
from tests.slurm.helpers import PATIENCE, Client, Specs, eventually, jobs, kernel, server, sruns
from tests.slurm.squeue import Occupation

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.parametrize("name", ["slurmctld", "slurmdbd"])
async def test_a_running_kernel_does_not_notice(specs: Specs, cluster: Site, name: str) -> None:
    async with kernel(specs()) as (_, client):
        job = jobs()
        cell = await client.send("import time\nfor n in range(20): print(n, flush=True); time.sleep(1)").prints("1\n")
        async with meanwhile(daemon_away(cluster, name)):
            assert (await client.request("kernel_info_request", {}, control=True))["status"] == "ok"
            await cell.done()
            assert cell.stdout.split() == [str(number) for number in range(20)]
            assert cell.stderr == ""
        assert (await client.run("1 + 1")).result == "2"
        assert jobs() == job


async def test_interrupts_crashes_and_restarts_while_the_controller_is_away(specs: Specs, cluster: Site) -> None:
    """The job is there: nothing in it needs Slurm."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        running: Any = manager.get_kernel(kernel_id)
        async with Client(running) as client:
            await client.run("1")
            job = jobs()
            async with meanwhile(daemon_away(cluster, "slurmctld")):
                cell = await client.send("print('on', flush=True); import time; time.sleep(600)").prints("on")
                await running.interrupt_kernel()
                assert (await cell.done()).errors == ["KeyboardInterrupt: "]
                await running.restart_kernel()
                assert (await client.run("1 + 1")).result == "2"
                crash = await client.run("import os; os._exit(3)")
                assert "(exit code 3)" in crash.told
                assert (await client.run_anew("1 + 2")).result == "3"
            assert jobs() == job


async def test_a_waiting_cell_tells_that_slurm_does_not_answer(
    specs: Specs, no_free_knl: Occupation, cluster: Site
) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.send("print('mine')").has("display_data")
            async with meanwhile(daemon_away(cluster, "slurmctld")):
                await client.until(lambda: "Slurm does not answer since" in "".join(cell.texts("update_display_data")))
            await client.until(lambda: "does not answer" not in cell.texts("update_display_data")[-1])
            await asyncio.to_thread(no_free_knl.end)
            assert (await cell.done()).stdout == "mine\n"


async def test_a_job_that_is_given_up_meanwhile_does_not_stay_in_the_queue(
    specs: Specs, no_free_knl: Occupation, cluster: Site
) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        await eventually(lambda: jobs("PENDING"))
        async with meanwhile(daemon_away(cluster, "slurmctld")):
            running: Any = manager.get_kernel(kernel_id)
            await running.shutdown_kernel()
        await eventually(lambda: not jobs())


@pytest.fixture
def resumed(cluster: Site, no_directories_left: None) -> Iterator[None]:
    """A step that cannot tell slurmctld of its end waits for a minute, which Slurm takes for a fault of the node."""
    yield
    script = "while squeue -h | grep -q .; do sleep 0.2; done; for n in $(sinfo -hN -t drain -o %N | uniq); do "
    script += "scontrol update NodeName=$n State=RESUME; done"
    cluster.run("ctl", "root", ["sh", "-c", script], timeout=3 * PATIENCE)


@pytest.mark.usefixtures("resumed")
async def test_a_kernel_that_is_shut_down_meanwhile_leaves_no_job(specs: Specs, cluster: Site) -> None:
    """srun then ends with 0 and without a word, and Slurm would take the job for a running one."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        running: Any = manager.get_kernel(kernel_id)
        async with Client(running) as client:
            await client.run("1 + 1")
        async with meanwhile(daemon_away(cluster, "slurmctld")):
            await running.shutdown_kernel()
        await eventually(lambda: not jobs())


async def test_a_start_that_is_given_up_before_slurm_has_said_a_word_leaves_no_job(specs: Specs, cluster: Site) -> None:
    """Slurm has its request, and takes it up later."""
    async with server() as manager:
        async with meanwhile(daemon_stands_still(cluster, "slurmctld")):
            kernel_id = await manager.start_kernel(kernel_name=specs())
            running: Any = manager.get_kernel(kernel_id)
            await running.shutdown_kernel()
            assert not sruns()
        await eventually(lambda: not jobs())
