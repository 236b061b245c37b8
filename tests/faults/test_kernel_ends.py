"""A kernel that ends is told with its cause, and starts anew in the same job."""

import pytest

from tests.cluster import Site
from tests.faults.switches import NODE, meanwhile, memory_limit
from tests.slurm.helpers import Cell, Client, Specs, all_jobs, busy, jobs, kernel, server, slurm

pytestmark = pytest.mark.usefixtures("cluster")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}


LAST_WORDS = "import os, sys; os.write(getattr(sys.stderr, '_original_stdstream_copy', 2), b'the last words\\n')"
"""Writes past ipykernel's capture, as a library does that aborts the process."""

ENDINGS = {
    "exits": ("os._exit(3)", "exit code 3"),
    "exits in a thread": (
        "import threading, time; threading.Thread(target=os._exit, args=[4]).start(); time.sleep(600)",
        "exit code 4",
    ),
    "exits with 0": ("os._exit(0)", "exit code 0"),
    "aborts": ("os.abort()", "signal SIGABRT"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "signal SIGSEGV"),
    "is terminated": ("os.kill(os.getpid(), 15); import time; time.sleep(600)", "signal SIGTERM"),
    "is killed": ("os.kill(os.getpid(), 9)", "signal SIGKILL"),
}


async def starts_anew(client: Client, cell: Cell, *, says: tuple[str, ...]) -> None:
    """The cell ends with an error that says all that; then another kernel answers in the same job."""
    job, submitted = jobs(), all_jobs()
    await cell.done()
    assert cell.errors[0].startswith(f"KernelDied: The kernel on {NODE} has ended")
    assert [text for text in says if text not in cell.told] == []
    assert cell.status == "error"
    again = await client.run_anew("print('here' if 'lost' in dir() else 'fresh')")
    assert again.stdout == "fresh\n"
    assert jobs() == job
    assert all_jobs() <= submitted


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_kernel_that_ends_in_a_cell(specs: Specs, ending: str) -> None:
    code, how = ENDINGS[ending]
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs(slurm=ON_NODE))
        async with Client(manager.get_kernel(kernel_id)) as client:
            await client.run("lost = True")
            cell, later = client.send(f"{LAST_WORDS}\n{code}"), client.send("print('never')")
            await starts_anew(client, cell, says=(f"({how})", "the last words"))
            assert (await later.done()).status in {"aborted", "error"}
            assert later.stdout == ""


async def test_a_kernel_that_is_killed_from_outside(specs: Specs) -> None:
    async with busy(specs(slurm=ON_NODE)) as (_, _, client, cell):
        slurm("srun", f"--jobid={jobs()[0]}", "--overlap", "-n1", "pkill", "-KILL", "-f", "ipykernel_launcher")
        await starts_anew(client, cell, says=("(signal SIGKILL)",))


async def test_a_thread_that_exits_is_no_end(specs: Specs) -> None:
    async with kernel(specs()) as (_, client):
        cell = "import sys, threading; t = threading.Thread(target=sys.exit, args=[3]); t.start(); t.join(); 1 + 1"
        assert (await client.run(cell)).result == "2"
        assert (await client.run("sys.exit(3)")).errors == ["SystemExit: 3"]
        assert (await client.run_anew("1 + 1")).result == "2"


async def test_a_kernel_that_takes_more_memory_than_it_may(specs: Specs, cluster: Site) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs(slurm=ON_NODE))
        async with Client(manager.get_kernel(kernel_id)) as client:
            await client.run("1")
            async with meanwhile(memory_limit(cluster, NODE, "400M")):
                # what it has printed leaves it in a thread of its own, which SIGKILL does not wait for
                greedy = "import time; lost = True; print('on', flush=True); time.sleep(1); b'x' * 2**30"
                cell = await client.send(greedy).prints("on")
                await starts_anew(client, cell, says=("(out of memory: killed by the node's memory limit)",))
                # a child that is killed takes nothing with it
                child = "import subprocess, sys; subprocess.call([sys.executable, '-c', \"b'x' * 2**30\"])"
                assert (await client.run(child)).result == "-9"
                assert (await client.run("6 * 7")).result == "42"


async def test_requests_between_a_crash_and_the_restart_are_aborted(specs: Specs) -> None:
    async with kernel(specs()) as (manager, client):
        for number in range(5):
            await client.run("import os; os._exit(1)")
            late = [client.send(f"late = {number}") for _ in range(3)]
            await manager.restart_kernel(now=True)
            assert [(await cell.done()).status for cell in late] == ["aborted"] * 3
            assert (await client.run("'late' in dir()")).result == "False"
        assert len(jobs()) == 1
