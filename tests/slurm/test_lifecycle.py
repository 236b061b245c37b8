"""Starts and ends that come at odd moments."""

import asyncio
import contextlib
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager

from tests.slurm.helpers import Client, Specs, eventually, jobs, server
from tests.slurm.squeue import Occupation

pytestmark = pytest.mark.usefixtures("cluster")


async def test_a_kernel_that_dies_again_and_again_gives_its_job_back(specs: Specs) -> None:
    """Jupyter gives it up after some restarts, and calls nobody."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        restarter = manager.get_kernel(kernel_id)._restarter
        restarter.restart_limit, restarter.time_to_dead = 1, 0.5
        restarter.stop()
        restarter.start()
        async with Client(manager.get_kernel(kernel_id)) as client:
            await eventually(lambda: jobs("RUNNING"))  # what has answered may be the waiting room
            while kernel_id in manager:
                client.send("import os; os.kill(os.getpid(), 11)")
                await asyncio.sleep(0.5)
        await eventually(lambda: not jobs())


async def test_two_restarts_at_once_while_the_job_waits(specs: Specs, no_free_knl: Occupation) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        kernel: Any = manager.get_kernel(kernel_id)
        # jupyter_client itself may refuse one of the two, after either has ended the other's job; the restarter then
        # starts the kernel, and may meet what we ask for
        await asyncio.gather(kernel.restart_kernel(), kernel.restart_kernel(), return_exceptions=True)
        assert len(jobs("PENDING")) <= 1
        while True:
            with contextlib.suppress(asyncio.InvalidStateError):
                await kernel.restart_kernel()
                break
        await eventually(lambda: len(jobs("PENDING")) == 1)
        async with Client(kernel) as client:
            cell = client.send("print('mine')")
            await asyncio.to_thread(no_free_knl.end)
            assert (await cell.done()).stdout == "mine\n"


@pytest.mark.parametrize("after", [0.05, 0.2])
async def test_a_start_that_was_given_up_does_not_harm_the_next(specs: Specs, after: float) -> None:
    manager = AsyncKernelManager(kernel_name=specs())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(manager.start_kernel(), after)
    await manager.start_kernel()
    try:
        async with Client(manager) as client:
            assert (await client.run("print(6 * 7)")).stdout == "42\n"
        await eventually(lambda: len(jobs("RUNNING")) == 1)  # the other one takes a moment to end
    finally:
        await manager.shutdown_kernel()
