"""A job ends, or is about to: the user is told before, and why."""

import asyncio
import contextlib

import pytest

from tests.cluster import Site
from tests.cluster.site import LOGIN
from tests.faults.switches import NODE, on
from tests.slurm.helpers import Cell, Client, Specs, busy, gone, jobs, kernel, slurm

pytestmark = pytest.mark.usefixtures("cluster")

SHOW = 'env | grep ^FARKERNEL_ > "$HOME/hook.$FARKERNEL_SECONDS_LEFT"'
HOOK = f'{SHOW}; kill -0 "$FARKERNEL_KERNEL_PID" && pwd >&2 && exit 7'


async def told(client: Client, cell: Cell, text: str, waits: int = 1) -> None:
    """Wait until a cell shows some text on stderr, for longer than one wait if need be."""
    for _ in range(waits - 1):
        with contextlib.suppress(TimeoutError):
            await client.until(lambda: text in cell.stderr)
    await client.until(lambda: text in cell.stderr)


async def test_the_end_of_the_jobs_time_is_told_before_and_a_hook_runs(specs: Specs, cluster: Site) -> None:
    await asyncio.to_thread(cluster.run, LOGIN, "alice", ["sh", "-c", "rm -f hook.*"])
    name = specs(slurm={"time": "2"}, job={"walltime_hook": ["/bin/sh", "-c", HOOK]})
    async with kernel(name) as (_, client):
        pid, cwd = (await client.run("import os; print(os.getpid(), os.getcwd())")).stdout.split()
        cell = client.send("import time; time.sleep(100)")
        await told(client, cell, "ends in 1 min", waits=2)
        assert f"Slurm job {jobs()[0]}" in cell.stderr
        await told(client, cell, "walltime_hook")
        assert f"exit code 7: {cwd}" in cell.stderr
        seen = (await asyncio.to_thread(cluster.run, LOGIN, "alice", ["cat", "hook.60"])).stdout
        assert f"FARKERNEL_JOB_ID={jobs()[0]}\n" in seen
        assert f"FARKERNEL_KERNEL_PID={pid}\n" in seen


async def test_the_time_limit(specs: Specs) -> None:
    async with busy(specs(slurm={"time": "1"})) as (manager, kernel_id, _, cell):
        # Slurm looks about once a minute: it takes longer than one wait
        with contextlib.suppress(TimeoutError):
            await cell.done()
        await cell.done()
        assert "time limit" in cell.told.lower()
        await gone(manager, kernel_id)


async def test_preemption(specs: Specs, cluster: Site) -> None:
    name = specs(slurm={"qos": "overrun", "extra_args": [f"--nodelist={NODE}"]})
    async with busy(name) as (manager, kernel_id, _, cell):
        argv = ["srun", "-q", "realtime", "-C", "knl", "-w", NODE, "-t", "1", "true"]
        other = asyncio.create_task(asyncio.to_thread(cluster.run, "cori01", "alice", argv))
        await cell.done()
        assert "preempted" in cell.told.lower()
        await gone(manager, kernel_id)
        assert (await other).returncode == 0


@pytest.mark.parametrize("how", ["scancel", "admin"])
async def test_a_job_that_is_cancelled(specs: Specs, cluster: Site, how: str) -> None:
    async with busy(specs()) as (manager, kernel_id, client, cell):
        next_one = client.send("1 + 1")
        job = jobs()[0]
        if how == "scancel":
            slurm("scancel", job)
        else:
            await asyncio.to_thread(on, cluster, "ctl", f"scancel {job}")
        await cell.done()
        assert f"Slurm job {job}" in cell.told
        assert "cancelled" in cell.told.lower()
        assert cell.status == "error"
        assert (await next_one.done()).status in {"aborted", "error"}
        await gone(manager, kernel_id)
