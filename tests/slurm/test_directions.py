"""Sites where one side cannot reach the other: which of the two connects is the kernelspec's to say."""

from collections.abc import Iterator

import pytest

from farkernel.provisioners.errors import CannotListen, NodeUnreachable
from tests.cluster import Site
from tests.cluster.site import HOSTS, LOGIN
from tests.faults.switches import NODE, SLURMD, meanwhile, no_way_in
from tests.slurm.helpers import SLEEPS, Specs, failure, kernel

pytestmark = pytest.mark.usefixtures("cluster")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}
PORTS = "20000-20010"


@pytest.fixture
def shut(cluster: Site) -> Iterator[None]:
    """The node takes no connection but slurmd's."""
    with no_way_in(cluster, NODE, open_ports=SLURMD):
        yield


@pytest.mark.parametrize(
    ("answer", "words"), [("DROP", "no answer"), ("REJECT --reject-with tcp-reset", "refused|Connect call failed")]
)
async def test_a_node_that_lets_nobody_in_is_told_with_what_to_do(
    specs: Specs, cluster: Site, answer: str, words: str
) -> None:
    async with meanwhile(no_way_in(cluster, NODE, open_ports=SLURMD, answer=answer)):
        error = await failure(specs(slurm=ON_NODE))

    assert isinstance(error, NodeUnreachable)
    assert f"The launcher runs on {NODE}, and this host cannot connect to it" in error.what
    assert f"{HOSTS[NODE].address}:" in error.said
    assert any(word in error.said for word in words.split("|"))
    assert '"login" in launcher.connect' in error.hint


@pytest.mark.usefixtures("shut")
async def test_a_node_that_lets_nobody_in_connects(specs: Specs) -> None:
    name = specs(slurm=ON_NODE, launcher={"connect": "login", "ports": PORTS, "interface": "eth0"})
    async with kernel(name) as (manager, client):
        assert (await client.run("kept = 42; kept")).result == "42"

        cell = await client.send(SLEEPS).prints("sleeps")
        await manager.interrupt_kernel()
        assert (await cell.done()).errors == ["KeyboardInterrupt: "]
        assert (await client.run_anew("kept")).result == "42"

        shown = await client.run("display({'text/plain': 'x' * 50_000_000}, raw=True)")
        assert [len(text) for text in shown.texts("display_data")] == [50_000_000]
        printed = await client.run("for _ in range(50): print('y' * 999_999)")
        assert len(printed.stdout) == 50_000_000

        await manager.restart_kernel()
        assert (await client.run_anew("'kept' in dir()")).result == "False"


async def test_a_login_node_that_lets_nobody_in_is_told_with_what_to_do(specs: Specs, cluster: Site) -> None:
    config = {"connect": "login", "ports": PORTS, "start_timeout": "1m"}
    async with meanwhile(no_way_in(cluster, LOGIN, ports=PORTS.replace("-", ":"))):
        error = await failure(specs(slurm=ON_NODE, launcher=config))

    assert isinstance(error, NodeUnreachable)
    assert f"The launcher runs on {NODE}, and it cannot connect to this host" in error.what
    assert f"{HOSTS[LOGIN].address}:200" in error.said
    assert "no answer" in error.said
    assert '"node" in launcher.connect' in error.hint


async def test_an_interface_that_the_node_cannot_reach_is_told(specs: Specs) -> None:
    error = await failure(specs(slurm=ON_NODE, launcher={"connect": "login", "interface": "lo"}))

    assert isinstance(error, NodeUnreachable)
    assert "Tried 127.0.0.1:" in error.said
    assert "launcher.interface" in error.hint


async def test_an_interface_that_the_login_node_has_not_is_told_before_there_is_a_job(specs: Specs) -> None:
    error = await failure(specs(slurm=ON_NODE, launcher={"connect": "login", "interface": "hsn0"}))

    assert isinstance(error, CannotListen)
    assert "hsn0" in error.said
    assert "there are lo, eth0" in error.said
