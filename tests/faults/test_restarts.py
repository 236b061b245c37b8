"""Restarts without number: a fresh kernel each time, one job, and nothing grows."""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Site
from tests.faults.switches import NODE, on
from tests.slurm.helpers import Client, Specs, eventually, jobs, kernel, server

pytestmark = pytest.mark.usefixtures("cluster")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}
_MEMORY = 15_000
"""KiB that a process may grow by: allocators keep some of what they have had."""

_LAUNCHER = """
pid=$(pgrep -u alice -f '^[^ ]*python[^ ]* -c')
ls /proc/$pid/fd | wc -l
ls /proc/$pid/task | wc -l
grep VmRSS /proc/$pid/status
find /tmp/farkernel-* | wc -l
"""


def ours() -> list[int]:
    """Descriptors, threads, KiB and files in the runtime directory of this process, the login side."""
    rss = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert rss
    runtime = list(Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*"))
    descriptors, threads = (len(list(Path("/proc/self", name).iterdir())) for name in ("fd", "task"))
    return [descriptors, threads, int(rss[1]), len(runtime)]


def launchers(cluster: Site) -> list[int]:
    """The same of the launcher on the node."""
    descriptors, threads, memory, files = on(cluster, NODE, _LAUNCHER).splitlines()
    return [int(descriptors), int(threads), int(memory.split()[1]), int(files)]


def assert_no_growth(before: list[int], after: list[int], *, spare: int = 0) -> None:
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        assert new <= old + (_MEMORY if index == 2 else spare), f"{before} has become {after}"


@pytest.mark.timeout(600)
async def test_fifty_restarts(specs: Specs, cluster: Site) -> None:
    async with kernel(specs(slurm=ON_NODE)) as (manager, client):
        job = jobs()

        async def restart(times: int, first: int) -> None:
            for number in range(first, first + times):
                await client.run(f"mark = {number}")
                await manager.restart_kernel(now=number % 2 == 0)
                assert (await client.run("'mark' in dir()")).result == "False"

        await restart(5, 0)
        before = ours(), await asyncio.to_thread(launchers, cluster)
        await restart(50, 5)
        after = ours(), await asyncio.to_thread(launchers, cluster)
        assert_no_growth(before[0], after[0])
        assert_no_growth(before[1], after[1])
        assert jobs() == job


async def test_restarts_of_a_kernel_that_is_still_starting(specs: Specs) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        running: Any = manager.get_kernel(kernel_id)
        async with Client(running) as client:
            await client.run("1")
            job = jobs()
            for pause in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6):
                await running.restart_kernel(now=True)
                await asyncio.sleep(pause)
            assert (await client.run_anew("6 * 7")).result == "42"
            assert jobs() == job


@pytest.mark.timeout(900)
async def test_two_hundred_kernels_in_ten_jobs(specs: Specs, cluster: Site) -> None:
    name = specs()
    used: set[str] = set()

    async def one_job(starts: int) -> None:
        async with kernel(name) as (manager, client):
            used.update(jobs())
            for number in range(starts):
                assert (await client.run(f"print({number})")).stdout == f"{number}\n"
                if number < starts - 1:
                    await manager.restart_kernel(now=True)
        await eventually(lambda: not jobs())

    await one_job(5)
    before = ours()
    used.clear()
    for _ in range(10):
        await one_job(20)
    assert len(used) == 10
    assert_no_growth(before, ours(), spare=2)
    for host in cluster.hosts:
        if host != "laptop":
            assert await asyncio.to_thread(on, cluster, host, "ss -Htnp state established | grep -c farkernel || true")
