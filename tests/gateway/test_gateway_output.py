"""What `farkernel gateway` keeps for a client that is away, as the client and the login node see it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from jupyter_client.session import Session

from farkernel.provisioners.cli.gateway_output import Losses
from tests.gateway.test_farkernel_gateway import Gateways, create, gateways, leave_open
from tests.gateways import tunnel
from tests.provisioners.cli.conftest import farkernel, home
from tests.provisioners.conftest import short
from tests.slurm.gateway_laptop import Cell, Lab, Notebook

__all__ = ["farkernel", "gateways", "home", "short"]

_SHOWN = 960
"""Messages of a quarter of a megabyte each: less than what would have the launcher drop some."""

_SHOW = f"""
from IPython.display import display
for number in range({_SHOWN}):
    display({{"text/plain": str(number), "application/x-large": "x" * 2**18}}, raw=True)
open(DONE, "w").close()
1 / 0
"""

_WAIT = """
import os, time
while not os.path.exists(GONE):
    time.sleep(0.1)
"""

_MORE = 200 * 2**20
"""Bytes of memory that a gateway may take for that; without bounds it takes more than what is shown."""


def _memory(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@contextlib.asynccontextmanager
async def _far(gateways: Gateways, home: Path) -> AsyncIterator[tuple[Lab, str, int]]:
    """Start a gateway and a kernel; give what leads to it, the kernel's id and the gateway's process id."""
    leave_open(home)
    told = gateways.start()
    async with tunnel(told) as lab:
        yield lab, await create(lab, "far"), told["pid"]


async def _shown(lab: Lab, kernel: str, home: Path) -> None:
    """Wait until the kernel has shown all, and the gateway has seen it."""
    async with asyncio.timeout(120):
        while not await asyncio.to_thread((home / "done").exists):
            await asyncio.sleep(0.1)
        while (await lab.get(f"/api/kernels/{kernel}"))["execution_state"] != "idle":
            await asyncio.sleep(0.1)


def _code(template: str, home: Path) -> str:
    return template.replace("GONE", repr(str(home / "gone"))).replace("DONE", repr(str(home / "done")))


async def _away(lab: Lab, kernel: str, home: Path, code: str) -> tuple[Notebook, Cell]:
    """Run a cell that shows what it has to show while nobody is connected."""
    async with lab.page(kernel) as page:
        await page.run("1")
        cell = await page.send(_code(_WAIT + code, home))
    await _alone(lab, kernel)
    (home / "gone").touch()
    await _shown(lab, kernel, home)
    return page, cell


async def _done(page: Notebook, cell: Cell) -> None:
    """Wait for the end of a cell that another page has run."""
    await page.until(lambda: cell.contents("execute_reply") and {"execution_state": "idle"} in cell.contents("status"))


async def _alone(lab: Lab, kernel: str) -> None:
    async with asyncio.timeout(60):
        while (await lab.get(f"/api/kernels/{kernel}"))["connections"]:
            await asyncio.sleep(0.1)


def _told(cell: Cell) -> list[int]:
    found = re.findall(r"farkernel: at least (\d+) messages of output are missing here: this client", cell.stderr)
    return [int(one) for one in found]


def _assert_told(cell: Cell) -> None:
    """Look whether what has not come is told, in its place, and nothing else is missing."""
    numbers = [int(content["data"]["text/plain"]) for content in cell.contents("display_data")]
    told = _told(cell)
    assert numbers == list(range(len(numbers)))
    assert [len(numbers) + sum(told), len(told)] == [_SHOWN, 1]
    assert cell.errors == ["ZeroDivisionError: division by zero"]
    assert cell.kinds.index("error") > cell.kinds.index("stream") > cell.kinds.index("display_data")


async def test_a_client_that_does_not_read_costs_little_and_is_told_what_it_has_missed(
    gateways: Gateways, home: Path
) -> None:
    async with _far(gateways, home) as (lab, kernel, pid), lab.page(kernel) as page:
        await page.run("1")
        before = _memory(pid, "VmRSS")
        page.leave(away=True)
        cell = await page.send(_code(_SHOW, home))
        await _shown(lab, kernel, home)
        async with lab.page(kernel) as other:
            assert (await other.run_after_error("print('mine')")).stdout == "mine\n"
        assert _memory(pid, "VmHWM") < before + _MORE
        page.leave(away=False)
        _assert_told(await cell.done())
        assert (await page.run_after_error("print(6 * 7)")).stdout == "42\n"


async def test_what_is_kept_while_nobody_is_connected_costs_little_and_what_is_missing_is_told(
    gateways: Gateways, home: Path
) -> None:
    async with _far(gateways, home) as (lab, kernel, pid):
        async with lab.page(kernel) as page:
            await page.run("1")
            before = _memory(pid, "VmRSS")
            cell = await page.send(_code(_WAIT + _SHOW, home))
        await _alone(lab, kernel)
        (home / "gone").touch()
        await _shown(lab, kernel, home)
        assert _memory(pid, "VmHWM") < before + _MORE
        async with lab.page(kernel, page) as page:
            await _done(page, cell)
            _assert_told(cell)
            assert (await page.run_after_error("print(6 * 7)")).stdout == "42\n"


_PRINT = """
import sys
for number in range(200):
    print(f"{number:06d}" + "x" * 50_000, flush=True)
open(DONE, "w").close()
"""


@pytest.mark.parametrize("away", [True, False])
async def test_what_is_printed_fast_comes_whole(gateways: Gateways, home: Path, away: bool) -> None:
    async with _far(gateways, home) as (lab, kernel, _):
        if away:
            before, cell = await _away(lab, kernel, home, _PRINT)
            async with lab.page(kernel, before) as page:
                await _done(page, cell)
        else:
            async with lab.page(kernel) as page:
                cell = await page.run(_code(_PRINT, home))
        assert [int(line[:6]) for line in cell.stdout.splitlines()] == list(range(200))
        assert cell.stderr == ""


async def test_what_was_kept_comes_whole_though_it_is_longer_on_its_way(gateways: Gateways, home: Path) -> None:
    async with _far(gateways, home) as (lab, kernel, _):
        show = _SHOW.replace(str(_SHOWN), "60").replace('"x" * 2**18', '"\\u6f22" * 2**18')  # 3 bytes each, 6 as JSON
        before, cell = await _away(lab, kernel, home, show)
        async with lab.page(kernel, before) as page:
            await _done(page, cell)
        assert len(cell.contents("display_data")) == 60
        assert cell.stderr == ""


_BAR = """
import time
from comm import create_comm
from IPython.display import display
bar = create_comm(target_name="bar")
for number in range(300):
    display({"text/plain": str(number), "application/x-large": "x" * 2**18}, raw=True)
for number in range(200):  # with the displays, fewer messages than a thousand: ipykernel's own socket drops more
    print(number, flush=True)
    bar.send({"value": number})
    time.sleep(0.003)
open(DONE, "w").close()
"""


async def test_what_is_missing_is_told_once_though_a_widgets_messages_come_in_between(
    gateways: Gateways, home: Path
) -> None:
    async with _far(gateways, home) as (lab, kernel, _):
        async with lab.page(kernel) as page:
            await page.run("1")
            page.leave(away=True)
            cell = await page.send(_code(_BAR, home))
            await _shown(lab, kernel, home)
            page.leave(away=False)
            await cell.done()
            assert len(_told(cell)) == 1
            assert len(cell.contents("comm_msg")) == 200
        (home / "done").unlink()
        before, cell = await _away(lab, kernel, home, _BAR)
        async with lab.page(kernel, before) as page:
            await _done(page, cell)
            assert len(_told(cell)) == 1
            assert len(cell.contents("comm_msg")) == 200


async def test_a_client_that_goes_before_it_has_read_is_told_when_it_is_back(gateways: Gateways, home: Path) -> None:
    async with _far(gateways, home) as (lab, kernel, _):
        async with lab.page(kernel) as page:
            await page.run("1")
            page.leave(away=True)
            cell = await page.send(_code(_SHOW, home))
            await _shown(lab, kernel, home)
        await _alone(lab, kernel)
        async with lab.page(kernel, page) as page:
            await _done(page, cell)
            assert cell.errors == ["ZeroDivisionError: division by zero"]
            assert "messages of output are missing here: the connection ended before" in cell.stderr
            assert (await page.run_after_error("print(6 * 7)")).stdout == "42\n"
    assert "never retrieved" not in gateways.log.read_text()


def test_what_is_missing_of_no_cell_is_told_of_none() -> None:
    losses = Losses()
    losses.add(("", {"session": "s"}))
    [(text, parent)] = losses.take()
    assert "at least 1 messages" in text
    assert Session().msg("stream", parent=parent)["parent_header"] == {"session": "s"}
