"""What comes before an end, and what only looks like one."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster import Site
from tests.slurm.helpers import PATIENCE, Cell, Client, Specs, eventually, jobs, kernel, server
from tests.slurm.squeue import Occupation

pytestmark = pytest.mark.usefixtures("cluster")

LOGIN = "cori01"
HOOK = """\
env | grep ^FARKERNEL_ > "$HOME/hook.$FARKERNEL_SECONDS_LEFT"
kill -0 "$FARKERNEL_KERNEL_PID" && pwd >&2 && exit 7
"""


async def told(client: Client, cell: Cell, text: str, waits: int = 1) -> None:
    """Wait until a cell shows some text on stderr, for longer than one wait if need be."""
    for _ in range(waits - 1):
        with contextlib.suppress(TimeoutError):
            await client.until(lambda: text in cell.stderr)
    await client.until(lambda: text in cell.stderr)


# ---- the job's time ----


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


# ---- the network ----


@pytest.fixture
def login_cable(cluster: Site, no_directories_left: None) -> Iterator[Callable[[bool], None]]:
    """Pulls the login node's cable, or plugs it in."""
    yield lambda up: cluster.cable(LOGIN, up)
    cluster.cable(LOGIN, True)
    cluster.idle()


async def test_a_silent_node_is_told_and_so_is_that_it_is_back(
    specs: Specs, login_cable: Callable[[bool], None]
) -> None:
    async with kernel(specs()) as (_, client):
        cell = client.send("import time\nfor number in range(300):\n    print(number, flush=True)\n    time.sleep(0.1)")
        await cell.prints("9\n")
        await asyncio.to_thread(login_cable, False)
        await told(client, cell, "nothing was heard from nid0230")
        await asyncio.to_thread(login_cable, True)
        await told(client, cell, "is back after")
        await cell.done()
        assert cell.stdout.split() == [str(number) for number in range(300)]


async def test_a_node_that_stays_silent_is_given_up_and_its_launcher_ends_the_job(
    specs: Specs, login_cable: Callable[[bool], None]
) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs(job={"orphan_timeout": "22s"}))
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.send("print('on', flush=True); import time; time.sleep(600)").prints("on")
            await asyncio.to_thread(login_cable, False)
            await cell.done()
            assert cell.errors[0].startswith("NodeLost: Nothing was heard from nid0230")
            assert "job.orphan_timeout" in cell.told
            while kernel_id in manager:
                await asyncio.sleep(0.1)
            await asyncio.to_thread(login_cable, True)
        await eventually(lambda: not jobs())


# ---- Slurm itself ----


@pytest.fixture
def controller(cluster: Site, no_directories_left: None) -> Iterator[Callable[[bool], None]]:
    """Stops Slurm's controller, or starts it."""

    def switch(on: bool) -> None:
        script = (
            "slurmctld" if on else "pid=$(cat /run/slurmctld.pid); kill $pid; while kill -0 $pid; do sleep 0.1; done"
        )
        cluster.run("ctl", "root", ["sh", "-c", f"{script} </dev/null >/dev/null 2>&1"])

    yield switch
    if cluster.run("ctl", "root", ["sh", "-c", "kill -0 $(cat /run/slurmctld.pid)"]).returncode:
        switch(True)
    deadline = time.monotonic() + PATIENCE
    while cluster.run(LOGIN, "alice", ["squeue"]).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.5)


async def test_a_waiting_cell_tells_that_slurm_does_not_answer(
    specs: Specs, no_free_knl: Occupation, controller: Callable[[bool], None]
) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.send("print('mine')").has("display_data")
            await asyncio.to_thread(controller, False)
            await client.until(lambda: "Slurm does not answer since" in "".join(cell.texts("update_display_data")))
            await asyncio.to_thread(controller, True)
            await client.until(lambda: "does not answer" not in cell.texts("update_display_data")[-1])
            await asyncio.to_thread(no_free_knl.end)
            assert (await cell.done()).stdout == "mine\n"


async def test_a_job_that_is_shut_down_while_slurm_is_away_does_not_stay_in_the_queue(
    specs: Specs, no_free_knl: Occupation, controller: Callable[[bool], None]
) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        await eventually(lambda: jobs("PENDING"))
        await asyncio.to_thread(controller, False)
        running: Any = manager.get_kernel(kernel_id)
        await running.shutdown_kernel()
        await asyncio.to_thread(controller, True)
        await eventually(lambda: not jobs())
