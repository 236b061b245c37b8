"""A notebook server's kernels."""

import asyncio
from typing import Any

from jupyter_client.multikernelmanager import AsyncMultiKernelManager

from tests.patience import PATIENCE


async def shut_down(manager: AsyncMultiKernelManager) -> None:
    """End all kernels, and let none be started anew.

    One that just is cannot be shut down: jupyter_client asks its `ready` for an exception, which has none yet.
    """
    async with asyncio.timeout(2 * PATIENCE):
        for kernel_id in manager.list_kernel_ids():
            kernel: Any = manager.get_kernel(kernel_id)
            kernel.stop_restarter()
            while not kernel.ready.done():  # it is another one for each step
                await asyncio.wait([kernel.ready])
    await manager.shutdown_all(now=True)
