"""The network between login node and compute node is cut: output waits, each line once; or the kernel is given up."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.cluster import Site
from tests.cluster.site import LOGIN
from tests.faults.switches import NODE, SLURMD, cable_pulled, meanwhile, no_way_in, pids, slurmd_timeout
from tests.slurm.helpers import PATIENCE, Cell, Client, Specs, busy, eventually, flood, gone, jobs, kernel, server

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


RATE = 1000
LARGE = 8_000_000

LARGE_ONES = """
import time
from IPython.display import publish_display_data
for number in range({seconds} // {pause}):
    publish_display_data({{"text/plain": f"{{number}} ".ljust({large}, "x")}})
    time.sleep({pause})
"""


async def cut(site: Site, host: str, seconds: float) -> None:
    """Pull a host's cable for so long."""
    async with meanwhile(cable_pulled(site, host)):
        await asyncio.sleep(seconds)


async def finished(client: Client, cell: Cell) -> None:
    """Wait for a cell's end for as long as something comes."""
    while True:
        before = len(client.published)
        try:
            await cell.done()
        except TimeoutError:
            assert len(client.published) > before, f"nothing was heard for {PATIENCE:.0f} s"
        else:
            return


A_MINUTE = [pytest.mark.long, pytest.mark.timeout(900)]
CUTS = pytest.mark.parametrize(
    ("host", "seconds"),
    [
        (LOGIN, 10),
        (NODE, 10),
        pytest.param(LOGIN, 60, marks=A_MINUTE),
        pytest.param(NODE, 60, marks=A_MINUTE),
    ],
)


@pytest.fixture
def patient_slurm(whole: None, cluster: Site) -> Iterator[None]:
    """Slurm itself does not give up a node that is cut off: here it would after 10 s."""
    with slurmd_timeout(cluster, 300):
        yield


@CUTS
@pytest.mark.usefixtures("patient_slurm")
async def test_a_thousand_messages_a_second(specs: Specs, cluster: Site, host: str, seconds: int) -> None:
    async with kernel(specs(slurm=ON_NODE)) as (_, client):
        await client.run("kept = 42")
        job = jobs()
        cell = await client.send(flood(seconds + 5, RATE)).prints("999\n")
        await cut(cluster, host, seconds)
        await finished(client, cell)
        assert cell.stdout.split() == [str(number) for number in range((seconds + 5) * RATE)]
        assert (await client.run("kept")).result == "42"
        assert jobs() == job
        told = [f"nothing was heard from {NODE}", f"{NODE} is back"] if seconds > 20 else []
        assert [text for text in told if text in cell.stderr] == told


@pytest.mark.parametrize("host", [LOGIN, NODE])
@pytest.mark.usefixtures("patient_slurm")
async def test_a_thousand_messages_a_second_from_a_node_that_lets_nobody_in(
    specs: Specs, cluster: Site, host: str
) -> None:
    async with (
        meanwhile(no_way_in(cluster, NODE, open_ports=SLURMD)),
        kernel(specs(slurm=ON_NODE, launcher={"connect": "login"})) as (_, client),
    ):
        await client.run("kept = 42")
        cell = await client.send(flood(15, RATE)).prints("999\n")
        await cut(cluster, host, 10)
        await finished(client, cell)
        assert cell.stdout.split() == [str(number) for number in range(15 * RATE)]
        assert (await client.run("kept")).result == "42"


@CUTS
@pytest.mark.usefixtures("patient_slurm")
async def test_large_outputs(specs: Specs, cluster: Site, host: str, seconds: int) -> None:
    pause = 1 if seconds < 20 else 5
    code = LARGE_ONES.format(seconds=seconds + 5, pause=pause, large=LARGE)
    async with kernel(specs(slurm=ON_NODE)) as (_, client):
        await client.run("kept = 42")
        job = jobs()
        cell = await client.send(code).has("display_data")
        await cut(cluster, host, seconds)
        await finished(client, cell)
        seen = [(text.split()[0], len(text)) for text in cell.texts("display_data")]
        assert seen == [(str(number), LARGE) for number in range((seconds + 5) // pause)]
        assert (await client.run("kept")).result == "42"
        assert jobs() == job


async def test_requests_and_interrupts_that_are_made_meanwhile(specs: Specs, cluster: Site) -> None:
    async with kernel(specs(slurm=ON_NODE)) as (manager, client):
        cell = await client.send("print('on', flush=True); import time; time.sleep(600)").prints("on")
        away = asyncio.create_task(cut(cluster, LOGIN, 10))
        await asyncio.sleep(2)
        later = [client.send(f"print({number})") for number in range(20)]
        await manager.interrupt_kernel()
        await away
        assert (await cell.done()).errors == ["KeyboardInterrupt: "]
        for number, one in enumerate(later):
            # those that the kernel already had when it was interrupted are aborted, as at any error
            assert (await one.done()).stdout in {f"{number}\n", ""}
            assert one.status == ("ok" if one.stdout else "aborted")
        assert (await client.run_anew("6 * 7")).result == "42"


async def test_a_cable_that_is_loose(specs: Specs, cluster: Site) -> None:
    """It is out and in again, for less and for more than it takes the link to notice."""
    async with kernel(specs(slurm=ON_NODE)) as (_, client):
        cell = await client.send(flood(25, RATE)).prints("999\n")
        for seconds in (0.2, 1, 3, 0.1, 6, 0.5):
            await cut(cluster, LOGIN, seconds)
            await asyncio.sleep(0.5)
        await finished(client, cell)
        assert cell.stdout.split() == [str(number) for number in range(25 * RATE)]


async def test_a_node_that_loses_power(specs: Specs, cluster: Site) -> None:
    async with busy(specs(slurm=ON_NODE)) as (manager, kernel_id, _, cell):
        job = jobs()[0]
        await asyncio.to_thread(cluster.power_off, NODE)
        await cell.done()
        assert NODE in cell.told
        assert job in cell.told
        await gone(manager, kernel_id)


@pytest.mark.timeout(900)
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
            await eventually(lambda: not pids(cluster, LOGIN, "^srun "))


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
