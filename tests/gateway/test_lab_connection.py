"""What goes through JupyterLab with the settings of `farkernel connect --lab`, and a gateway."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from farkernel.provisioners.cli.connected_lab import settings
from tests.gateway.test_farkernel_gateway import Gateways, create, gateways, leave_open
from tests.gateways import tunnel
from tests.provisioners.cli.conftest import farkernel, home
from tests.provisioners.conftest import short
from tests.slurm.gateway_laptop import Notebook, jupyterlab

__all__ = ["farkernel", "gateways", "home", "short"]

_MB = 2**20

_ECHO = """
from comm import create_comm
comm = create_comm(target_name="bar")
comm.on_msg(lambda message: comm.send({}, buffers=[bytes(one)[::-1] for one in message["buffers"]]))
print(comm.comm_id)
"""


@asynccontextmanager
async def _page(gateways: Gateways, home: Path, *, by_hand: bool = False) -> AsyncIterator[Notebook]:
    leave_open(home)
    told = gateways.start()
    token = home / "token"
    token.write_text(told["token"])
    # lasting: it would end its kernels by what this process, which waits for its end, leads to the gateway
    given = settings(token, lasting=True)
    if by_hand:
        del given["ServerApp"]["kernel_websocket_connection_class"]
    (home / "jupyter_server_config.json").write_text(json.dumps(given))
    async with tunnel(told) as via:
        with jupyterlab(f"http://{via.place}", "", "--allow-root", JUPYTER_CONFIG_PATH=str(home)) as lab:
            await lab.ready()
            kernel = await create(lab, "far")
            async with lab.page(kernel) as page:
                await page.run("1")  # the first cell may show what it waits for
                yield page


async def test_a_widgets_buffers_both_ways(gateways: Gateways, home: Path) -> None:
    data = bytes(range(256))
    async with _page(gateways, home) as page:
        comm = (await page.run(_ECHO)).stdout.strip()
        cell = await page.send_comm(comm, data)
        await page.until(lambda: "comm_msg" in cell.kinds)
        answer = cell.messages[cell.kinds.index("comm_msg")]
        assert [bytes(one) for one in answer["buffers"]] == [data[::-1]]
        assert (await page.run("print(6 * 7)")).stdout == "42\n"


async def test_messages_of_15_mib_both_ways(gateways: Gateways, home: Path) -> None:
    large = {"text/plain": "large", "application/x-large": "x" * 15 * _MB}
    async with _page(gateways, home) as page:
        cell = await page.run(
            "from IPython.display import display\ndisplay({**" + repr(large) + "}, raw=True)\nprint('on')"
        )
        assert cell.contents("display_data")[0]["data"] == large
        assert cell.stdout == "on\n"
        assert (await page.run("print(6 * 7)")).stdout == "42\n"


async def test_a_jupyterlab_that_was_started_by_hand_is_told_of_what_it_does_not_take(
    gateways: Gateways, home: Path
) -> None:
    async with _page(gateways, home, by_hand=True) as page:
        cell = await page.run(
            "from IPython.display import display\ndisplay({'text/plain': 'x' * 15 * 2**20}, raw=True)"
        )
        assert "farkernel: at least 1 messages of output are missing here: the connection ended" in cell.stderr
        assert (await page.run("print(6 * 7)")).stdout == "42\n"
