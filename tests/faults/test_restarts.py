"""Restarts without number: a fresh kernel each time, one job, and nothing grows."""

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.cluster import Site
from tests.cluster.site import LOGIN
from tests.faults.census import Held, files, grown, held
from tests.faults.switches import NODE
from tests.slurm.helpers import PATIENCE, Client, Specs, all_jobs, eventually, jobs, kernel, server, slurm
from tests.slurm.squeue import Occupation

pytestmark = pytest.mark.usefixtures("cluster")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}

RESTARTS = 50
JOBS, STARTS = 10, 20


async def of_ours(cluster: Site) -> Held:
    """What this process holds, which is the login side."""
    gc.collect()
    return await asyncio.to_thread(held, cluster, LOGIN, os.getpid())


async def all_threads() -> None:
    """Have asyncio start each of the threads that it keeps for calls that block: it starts them as they come."""
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(64)))


async def until_not_grown(count: Callable[[], Awaitable[Held]], before: Held) -> None:
    """Wait until a process has no more than before: what it was done with may be on its way out."""
    deadline = time.monotonic() + PATIENCE
    while grown(before, after := await count()):
        assert time.monotonic() < deadline, (before, after)
        await asyncio.sleep(0.5)


async def is_fresh(client: Client, number: int) -> bool:
    """Whether the kernel is a new one, and works; it is none afterwards."""
    cell = await client.run_anew(f"print('used' if 'used' in dir() else 'fresh'); used = True; {number} * 2")
    return cell.stdout == "fresh\n" and cell.result == str(number * 2)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_fifty_restarts(specs: Specs, cluster: Site) -> None:
    async with kernel(specs(slurm=ON_NODE)) as (manager, client):
        launcher = (await client.run("import os; print(os.getppid())")).stdout
        job, submitted = jobs(), all_jobs()

        async def restart(times: int) -> None:
            for number in range(times):
                await manager.restart_kernel(now=number % 2 == 0)
                assert await is_fresh(client, number)

        async def here() -> Held:
            return await of_ours(cluster)

        async def on_node() -> Held:
            return await asyncio.to_thread(held, cluster, NODE, int(launcher))

        await restart(5)
        await all_threads()
        before = await here(), await on_node(), await asyncio.to_thread(files, cluster)
        await restart(RESTARTS)
        await until_not_grown(here, before[0])
        await until_not_grown(on_node, before[1])
        await eventually(lambda: all(count <= before[2][host] for host, count in files(cluster).items()))
        assert jobs() == job
        assert all_jobs() <= submitted


@pytest.mark.parametrize("now", [True, False])
async def test_restarts_of_a_kernel_that_is_still_starting(specs: Specs, now: bool) -> None:
    """At every moment of its start: before its process is there, while it is imported, when it answers."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        running: Any = manager.get_kernel(kernel_id)
        async with Client(running) as client:
            assert await is_fresh(client, 0)
            job, submitted = jobs(), all_jobs()
            for number in range(12):
                await running.restart_kernel(now=now)
                await asyncio.sleep(number * 0.08)
            assert await is_fresh(client, 1)
            assert jobs() == job
            assert all_jobs() <= submitted


async def test_restarts_before_there_is_a_launcher(specs: Specs) -> None:
    """Each gives its job back for another one: it may as well not have begun."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        running: Any = manager.get_kernel(kernel_id)
        for number in range(8):
            await running.restart_kernel(now=True)
            assert len(jobs()) <= 1
            await asyncio.sleep(number * 0.05)
        async with Client(running) as client:
            assert await is_fresh(client, 1)
            await eventually(lambda: len(jobs()) == 1)


async def test_restarts_of_a_kernel_that_waits_in_the_queue(specs: Specs, no_free_knl: Occupation) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        running: Any = manager.get_kernel(kernel_id)
        for _ in range(5):
            await eventually(lambda: len(jobs("PENDING")) == 1)
            await running.restart_kernel(now=True)
        await asyncio.to_thread(no_free_knl.end)
        async with Client(running) as client:
            assert await is_fresh(client, 1)
            await eventually(lambda: len(jobs()) == 1)


@pytest.mark.long
@pytest.mark.timeout(2400)
async def test_two_hundred_kernels_in_ten_jobs(specs: Specs, cluster: Site) -> None:
    name = specs()

    async def one_job(starts: int) -> str:
        async with server() as manager:
            kernel_id = await manager.start_kernel(kernel_name=name)
            running: Any = manager.get_kernel(kernel_id)
            async with Client(running) as client:
                assert await is_fresh(client, 0)
                job = jobs()
                for number in range(1, starts):
                    await running.restart_kernel(now=True)
                    assert await is_fresh(client, number)
                assert jobs() == job
                assert len(job) == 1
                return job[0]

    def submitted() -> set[str]:
        # Slurm's own list of all jobs that there ever were; squeue forgets
        return set(slurm("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID").split())

    before_files = await asyncio.to_thread(files, cluster)
    first = await one_job(STARTS)
    await eventually(lambda: first in submitted())
    await all_threads()
    before, before_jobs = await of_ours(cluster), submitted()
    ours = {await one_job(STARTS) for _ in range(JOBS)}
    await until_not_grown(lambda: of_ours(cluster), before)
    await eventually(lambda: files(cluster) == before_files)
    await eventually(lambda: submitted() >= ours)
    assert submitted() - before_jobs == ours
    assert len(ours) == JOBS
    assert jobs() == []
