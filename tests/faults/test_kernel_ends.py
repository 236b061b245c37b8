"""A kernel that ends is told with its cause, and starts anew in the same job."""

import asyncio
from typing import Any

import pytest

from tests.cluster import Site
from tests.faults.switches import NODE, meanwhile, memory_limit, pids
from tests.slurm.helpers import Client, Specs, busy, eventually, jobs, kernel, server, slurm

pytestmark = pytest.mark.usefixtures("cluster")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os, sys; print('last words', file=sys.__stderr__, flush=True); os._exit(3)", "exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "signal SIGSEGV"),
        ("import os; os.abort()", "signal SIGABRT"),
    ],
)
async def test_a_kernel_that_ends_in_a_cell(specs: Specs, code: str, how: str) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        async with Client(manager.get_kernel(kernel_id)) as client:
            await client.run("1")
            before = jobs()
            cell, later = client.send(code), client.send("print('never')")
            await cell.done()
            assert cell.errors[0].startswith("KernelDied: The kernel on nid0230")
            assert how in cell.told
            if "last words" in code:
                assert "last words" in cell.told
            assert (await later.done()).status in {"aborted", "error"}
            assert (await client.run_anew("6 * 7")).result == "42"
            assert jobs() == before


async def test_a_kernel_that_is_killed_from_outside(specs: Specs) -> None:
    async with busy(specs()) as (_, _, client, cell):
        job = jobs()
        slurm("srun", f"--jobid={job[0]}", "--overlap", "-n1", "pkill", "-KILL", "-f", "ipykernel_launcher")
        await cell.done()
        assert "SIGKILL" in cell.told
        assert (await client.run_anew("1 + 1")).result == "2"
        assert jobs() == job


async def test_a_kernel_that_takes_more_memory_than_it_may(specs: Specs, cluster: Site) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs(slurm=ON_NODE))
        async with Client(manager.get_kernel(kernel_id)) as client:
            await client.run("1")
            before = jobs()
            async with meanwhile(memory_limit(cluster, NODE, "300M")):
                cell = await client.run("kept = [bytearray(b'x' * 10**7) for _ in range(100)]")
                assert "out of memory" in cell.told
                assert NODE in cell.told
                assert (await client.run_anew("6 * 7")).result == "42"
                assert jobs() == before


async def test_requests_between_a_crash_and_the_restart_are_aborted(specs: Specs) -> None:
    async with kernel(specs()) as (manager, client):
        for number in range(5):
            await client.run("import os; os._exit(1)")
            late = [client.send(f"late = {number}") for _ in range(3)]
            await manager.restart_kernel(now=True)
            assert [(await cell.done()).status for cell in late] == ["aborted"] * 3
            assert (await client.run("'late' in dir()")).result == "False"
        assert len(jobs()) == 1


async def test_a_kernel_that_ignores_all_requests_to_end_is_gone(specs: Specs, cluster: Site) -> None:
    deaf = "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, {2, 15}); print('deaf', flush=True)"
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs(slurm=ON_NODE))
        running: Any = manager.get_kernel(kernel_id)
        async with Client(running) as client:
            cell = await client.send(f"{deaf}; time.sleep(600)").prints("deaf")
            async with asyncio.timeout(30):  # it has five seconds by default; a busy machine adds to that
                await running.shutdown_kernel()
            assert (await cell.done()).status == "aborted"
        assert await asyncio.to_thread(pids, cluster, NODE, "ipykernel") == []
        await eventually(lambda: not jobs())
