"""The network between login node and compute node is cut: output waits, each line once; or the kernel is given up."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from tests.cluster import Site
from tests.cluster.site import LOGIN
from tests.faults.switches import NODE, cable_pulled, meanwhile, pids, slurmd_timeout
from tests.slurm.helpers import Client, Specs, busy, eventually, gone, jobs, kernel, server

pytestmark = pytest.mark.usefixtures("cluster", "whole")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}


@pytest.fixture
def whole(cluster: Site, no_directories_left: None) -> Iterator[None]:
    """Every host is up and connected again."""
    yield
    for host in (LOGIN, NODE):
        cluster.power_on(host)
        cluster.cable(host, True)
    cluster.idle()


PRINTS = """
import time
for number in range({count}):
    print(number, flush=True)
    if number % 20 == 19:
        time.sleep(0.02)
"""

LARGE = """
import hashlib, time
from IPython.display import publish_display_data
for number in range({count}):
    text = str(number) * 8_000_000
    publish_display_data({{"text/plain": text[:8_000_000]}})
    time.sleep(1)
"""


@pytest.mark.parametrize("host", [LOGIN, NODE])
async def test_a_thousand_messages_a_second_through_a_short_cut(specs: Specs, cluster: Site, host: str) -> None:
    async with kernel(specs(slurm=ON_NODE)) as (_, client):
        cell = await client.send(PRINTS.format(count=12_000)).prints("999\n")
        async with meanwhile(cable_pulled(cluster, host)):
            await asyncio.sleep(7)  # SlurmdTimeout is 10 s here
        await cell.done()
        assert cell.stdout.split() == [str(number) for number in range(12_000)]
        assert (await client.run("1 + 1")).result == "2"


async def test_large_outputs_through_a_short_cut(specs: Specs, cluster: Site) -> None:
    async with kernel(specs(slurm=ON_NODE)) as (_, client):
        cell = await client.send(LARGE.format(count=10)).has("display_data")
        async with meanwhile(cable_pulled(cluster, LOGIN)):
            await asyncio.sleep(10)
        await cell.done()
        texts = cell.texts("display_data")
        assert [(text[0], len(text)) for text in texts] == [(str(number), 8_000_000) for number in range(10)]


@pytest.mark.timeout(600)
async def test_a_cut_of_a_minute(specs: Specs, cluster: Site) -> None:
    name = specs(slurm=ON_NODE, job={"orphan_timeout": "5m"})
    async with meanwhile(slurmd_timeout(cluster, 300)), kernel(name) as (_, client):
        cell = await client.send(PRINTS.format(count=20_000)).prints("999\n")
        async with meanwhile(cable_pulled(cluster, NODE)):
            await asyncio.sleep(60)
        with contextlib.suppress(TimeoutError):  # it may take longer than one wait
            await cell.done()
        await cell.done()
        assert cell.stdout.split() == [str(number) for number in range(20_000)]
        assert "nothing was heard from nid02301" in cell.stderr
        assert "nid02301 is back" in cell.stderr


async def test_a_node_that_loses_power(specs: Specs, cluster: Site) -> None:
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        await asyncio.to_thread(cluster.power_off, NODE)
        await cell.done()
        assert NODE in cell.told
        assert job in cell.told
        await gone(manager, kernel_id)


@pytest.mark.timeout(600)
async def test_a_node_that_loses_power_and_slurm_does_not_notice(specs: Specs, cluster: Site) -> None:
    async with meanwhile(slurmd_timeout(cluster, 300)):
        name = specs(slurm=ON_NODE, job={"orphan_timeout": "30s"})
        async with busy(name) as (manager, kernel_id, client, cell):
            await asyncio.to_thread(cluster.power_off, NODE)
            await client.until(lambda: "nothing was heard from nid02301" in cell.stderr)
            assert jobs("RUNNING")
            await cell.done()
            assert cell.errors[0].startswith("NodeLost: Nothing was heard from nid02301")
            await asyncio.to_thread(cluster.power_on, NODE)
            await gone(manager, kernel_id)
            assert await asyncio.to_thread(pids, cluster, LOGIN, "^srun ") == []


async def test_a_cut_that_outlasts_the_orphan_timeout(specs: Specs, cluster: Site) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs(slurm=ON_NODE, job={"orphan_timeout": "22s"}))
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.send("print('on', flush=True); import time; time.sleep(600)").prints("on")
            async with meanwhile(cable_pulled(cluster, LOGIN)):
                await cell.done()
                assert cell.errors[0].startswith("NodeLost: Nothing was heard from nid02301")
                assert "job.orphan_timeout" in cell.told
                while kernel_id in manager:
                    await asyncio.sleep(0.1)
        await eventually(lambda: not jobs())
