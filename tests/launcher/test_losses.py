"""What a kernel's own queue drops: the cell is told, and ends."""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session

from farkernel.launcher import wire
from farkernel.launcher.numbering import MARGIN
from farkernel.launcher.protocol import Channel, KernelEnded, KernelReady, StartKernel
from tests.launcher.ends import until
from tests.launcher.launched import KEY, Launched, command, ipykernel

LOSSY = str(pathlib.Path(__file__).with_name("lossy_kernel.py"))
BURST = "stream:1200"
"""More than a queue holds."""
LOST = f"busy {BURST} reply"
"""A cell whose idle does not come."""


def lossy(*options: str, generation: int = 1) -> StartKernel:
    return command(sys.executable, LOSSY, "{connection_file}", *options, generation=generation)


@contextlib.asynccontextmanager
async def started(directory: pathlib.Path, order: StartKernel | None = None) -> AsyncIterator[Launched]:
    """A kernel behind a launcher that has had no error at its end."""
    async with Launched(directory, order or lossy()) as launched:
        await launched.connect()
        await launched.event(KernelReady)
        yield launched
        await launched.end_input()
        _, stderr = await launched.ended()
        assert "Traceback" not in stderr, stderr


def connection_info(directory: pathlib.Path) -> dict[str, Any]:
    """What the kernel was told of its sockets."""
    (file,) = directory.rglob("kernel.json")
    info: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return info


def states(launched: Launched, request: str) -> list[str]:
    return [message.content["execution_state"] for message in launched.answers(request, "status")]


def said(launched: Launched, request: str) -> list[str]:
    """What a cell is told on stderr."""
    streams = [message.content for message in launched.answers(request, "stream")]
    return [content["text"] for content in streams if content["name"] == "stderr"]


def count(text: str) -> int:
    """How many messages are missing, as a cell is told."""
    assert "output is missing here: the kernel's own queue" in text
    found = re.search(r"about (\d+) messages", text)
    return int(found[1]) if found else 0


async def is_idle(launched: Launched, request: str) -> None:
    await until(lambda: "idle" in states(launched, request))


def order_of(launched: Launched, request: str) -> list[str]:
    """The last messages of a cell on iopub, the last at the end."""
    parsed = [wire.parse(frames) for channel, _, _, frames in launched.messages if channel == Channel.IOPUB]
    return [message.type for message in parsed if message and message.parent_id == request][-2:]


@pytest.mark.parametrize("options", [(), ("--unnumbered",)])
def test_a_cell_whose_idle_was_lost_ends_and_says_that_output_is_missing(
    short: pathlib.Path, options: tuple[str, ...]
) -> None:
    async def use() -> None:
        async with started(short, lossy(*options)) as launched:
            request = launched.execute(f"busy {BURST} drop:70 reply drop:1")
            await is_idle(launched, request)
            (text,) = said(launched, request)
            assert count(text) == (0 if options else 71)
            assert order_of(launched, request) == ["stream", "status"]

            after = launched.execute("busy stream:2 reply idle")
            await launched.reply(after)
            await is_idle(launched, after)
            assert states(launched, after) == ["busy", "idle"]
            assert said(launched, after) == []
            assert states(launched, request) == ["busy", "idle"]

    asyncio.run(use())


def test_output_that_is_lost_before_an_idle_is_told_before_it(short: pathlib.Path) -> None:
    async def use() -> None:
        async with started(short) as launched:
            request = launched.execute(f"busy {BURST} drop:500 stream:10 reply idle")
            await is_idle(launched, request)
            (text,) = said(launched, request)
            assert 500 <= count(text) <= 501  # its reply may be on its way
            assert order_of(launched, request) == ["stream", "status"]

    asyncio.run(use())


def test_replies_that_are_late_are_not_missing(short: pathlib.Path) -> None:
    """A launcher that was not let run finds the output of many short cells before it looks for their replies."""

    async def use() -> None:
        async with started(short) as launched:
            cells = [launched.execute(f"busy {BURST} reply idle")]
            await is_idle(launched, cells[-1])
            # IPython may number a result that it does not send
            cells += [launched.execute("busy drop:1 owe idle") for _ in range(30)]
            await is_idle(launched, cells[-1])
            cells.append(launched.execute("busy owe pay idle"))
            await is_idle(launched, cells[-1])
            assert [said(launched, cell) for cell in cells] == [[] for _ in cells]
            # more than a queue holds: so little that a queue would have held it is no loss once the kernel was at rest
            lossy_cell = launched.execute(f"busy {BURST} drop:{MARGIN + len(cells) + 3} reply idle")
            await is_idle(launched, lossy_cell)
            assert len(said(launched, lossy_cell)) == 1

    asyncio.run(use())


def test_several_cells_that_were_lost_end_in_their_order(short: pathlib.Path) -> None:
    """Of those that waited behind it not even the busy has come."""

    async def use() -> None:
        async with started(short) as launched:
            known = launched.execute("busy reply idle")
            await is_idle(launched, known)
            requests = [launched.execute(code) for code in (LOST, "drop:1 reply drop:1", "drop:1 reply drop:1")]
            await is_idle(launched, requests[-1])
            ended = [request for request in requests if states(launched, request)[-1:] == ["idle"]]
            assert ended == requests
            assert [len(said(launched, request)) for request in requests] == [1, 1, 1]

    asyncio.run(use())


def test_a_cell_ends_while_the_next_one_runs_once_that_has_said_something(short: pathlib.Path) -> None:
    async def use() -> None:
        async with started(short) as launched:
            request = launched.execute(LOST)
            running = launched.execute("drop:1 stream:1 hold")
            await is_idle(launched, request)
            assert len(said(launched, request)) == 1
            assert states(launched, running) == []
            assert said(launched, running) == []

    asyncio.run(use())


def test_what_a_cell_that_was_run_before_says_ends_no_other(short: pathlib.Path) -> None:
    """As a thread that it has started."""

    async def use() -> None:
        async with started(short) as launched:
            known = launched.execute(f"busy reply {BURST} idle")
            await is_idle(launched, known)
            late = launched.execute("busy reply thread wait thread idle")
            await is_idle(launched, late)
            assert states(launched, late) == ["busy", "idle"]
            assert said(launched, late) == []

    asyncio.run(use())


def test_an_idle_that_is_late_is_waited_for(short: pathlib.Path) -> None:
    """However long the kernel takes; it is asked meanwhile."""

    async def use() -> None:
        async with started(short) as launched:
            late = launched.execute(f"{LOST} wait idle")
            await is_idle(launched, late)
            request = launched.execute(LOST)
            await is_idle(launched, request)
            assert states(launched, late) == ["busy", "idle"]
            assert said(launched, late) == []
            assert len(said(launched, request)) == 1

    asyncio.run(use())


def test_an_idle_that_comes_after_all_does_no_harm(short: pathlib.Path) -> None:
    """From a kernel that does one request inside another."""

    async def use() -> None:
        async with started(short) as launched:
            request = launched.execute(f"{LOST} next wait idle")
            await is_idle(launched, request)
            after = launched.execute(LOST)
            await is_idle(launched, after)
            assert states(launched, request) == ["busy", "idle", "idle"]
            assert len(said(launched, request)) == 1

    asyncio.run(use())


def test_nothing_is_said_of_requests_for_which_a_kernel_has_no_states(short: pathlib.Path) -> None:
    async def use() -> None:
        async with started(short) as launched:
            silent = launched.execute(f"{BURST} reply")
            other = launched.request("inspect_request", {"code": LOST})
            await is_idle(launched, other)
            assert states(launched, silent) == []
            assert said(launched, silent) == []
            assert said(launched, other) == []  # no cell shows it

    asyncio.run(use())


def test_replies_to_a_client_that_is_connected_to_the_kernel_itself_are_not_missing(short: pathlib.Path) -> None:
    async def use() -> None:
        async with started(short) as launched:
            info = connection_info(short)
            with zmq.Context() as context, context.socket(zmq.DEALER) as direct:
                direct.connect(f"ipc://{info['ip']}-{info['shell_port']}")
                session = Session(key=KEY.encode())
                for _ in range(20):
                    session.send(direct, "kernel_info_request", {})
                    assert await asyncio.to_thread(direct.poll, 30_000)
                    direct.recv_multipart()
            request = launched.execute(f"busy {BURST} reply idle")
            await is_idle(launched, request)
            assert said(launched, request) == []
            fence = launched.execute(LOST)
            await is_idle(launched, fence)
            assert said(launched, request) == []

    asyncio.run(use())


def test_a_request_on_control_gets_its_idle(short: pathlib.Path) -> None:
    """Whatever shell does meanwhile."""

    async def use() -> None:
        async with started(short) as launched:
            running = launched.execute(f"busy {BURST} hold")
            request = launched.request("debug_request", {"code": "busy reply"}, channel=Channel.CONTROL)
            await is_idle(launched, request)
            assert states(launched, running) == ["busy"]
            assert said(launched, running) == []

    asyncio.run(use())


def test_a_cell_of_a_subshell_ends_while_another_runs(short: pathlib.Path) -> None:
    async def use() -> None:
        async with started(short) as launched:
            running = launched.execute(f"busy {BURST} hold")
            request = launched.request("execute_request", {"code": "busy reply"}, subshell="s1")
            await is_idle(launched, request)
            assert len(said(launched, request)) == 1
            assert states(launched, running) == ["busy"]

    asyncio.run(use())


def test_while_the_link_is_full_it_waits_with_the_output(short: pathlib.Path, tmp_path: pathlib.Path) -> None:
    asked = tmp_path / "asked"

    async def use() -> None:
        async with started(short, lossy(f"--mark={asked}")) as launched:
            launched.hold_back(True)
            request = launched.execute(f"busy {BURST} big:80 reply wait mark")
            await until(asked.exists)
            launched.hold_back(False)
            await is_idle(launched, request)
            assert len(launched.answers(request, "stream")) == 1200 + 80 + 1
            assert order_of(launched, request) == ["stream", "status"]

    asyncio.run(use())


def test_a_kernel_that_ends_meanwhile_leaves_nothing_to_the_next(short: pathlib.Path) -> None:
    async def use() -> None:
        async with started(short) as launched:
            request = launched.execute(f"{LOST} exit")
            await launched.event(KernelEnded)
            launched.order(lossy(generation=2))
            await launched.event(KernelReady, generation=2)
            after = launched.execute(LOST, generation=2)
            await is_idle(launched, after)
            assert len(said(launched, after)) == 1
            assert "idle" not in states(launched, request)

    asyncio.run(use())


UNREAD = """
import pathlib, time
print("begun", flush=True)
while not pathlib.Path({stopped!r}).exists():
    time.sleep(0.01)
{publishes}
pathlib.Path({done!r}).touch()
while pathlib.Path({stopped!r}).exists():
    time.sleep(0.01)
{then}
"""


async def unread(
    launched: Launched, directory: pathlib.Path, publishes: str, *, kind: str, read: int, then: str = ""
) -> str:
    """Run code that publishes while the launcher stands still; return the request once it is idle.

    :param kind: what it publishes; more than `read` of it arrive
    :param then: code that follows then
    """
    stopped, done = directory / "stopped", directory / "done"
    cell = UNREAD.format(stopped=str(stopped), publishes=publishes, done=str(done), then=then)
    request = launched.execute(cell)
    await until(lambda: launched.answers(request, "stream"))
    os.kill(launched.process.pid, signal.SIGSTOP)
    try:
        stopped.touch()
        await until(done.exists)
    finally:
        os.kill(launched.process.pid, signal.SIGCONT)
    await until(lambda: len(launched.answers(request, kind)) > read)
    stopped.unlink()
    await is_idle(launched, request)
    return request


def test_results_that_are_not_published_are_not_missing(short: pathlib.Path) -> None:
    """Objects that display themselves, such as Plotly's figures: IPython numbers a result all the same."""
    quiet = "class Quiet:\n    def _ipython_display_(self): pass\n"
    prints = "for number in range({}): print(number, flush=True)\n"

    async def use() -> None:
        async with started(short, ipykernel()) as launched:
            cells = []
            for _ in range(12):  # so few at a time that none is dropped on a machine with much to do
                cells.append(launched.execute(f"{quiet}{prints.format(100)}Quiet()"))
                await is_idle(launched, cells[-1])
            # more of them than replies may be late
            cells += [launched.execute("Quiet()") for _ in range(20)]
            await is_idle(launched, cells[-1])
            await asyncio.sleep(5)  # two looks
            assert [said(launched, cell) for cell in cells] == [[] for _ in cells]

    asyncio.run(use())


def test_what_a_real_kernel_drops_in_the_middle_is_counted(short: pathlib.Path, tmp_path: pathlib.Path) -> None:
    prints = "for number in range(5000): print(number, flush=True)"

    async def use() -> None:
        async with started(short, ipykernel()) as launched:
            request = await unread(launched, tmp_path, prints, kind="stream", read=900, then="print('end')")
            streams = [message.content for message in launched.answers(request, "stream")]
            lines = "".join(stream["text"] for stream in streams if stream["name"] == "stdout").split()
            assert lines[-1] == "end"
            (text,) = said(launched, request)
            missing = 5002 - len(lines)
            assert 0 < missing <= count(text) <= 2 * missing  # a line and its end may be two messages
            assert order_of(launched, request) == ["stream", "status"]
            assert await launched.printed("print('next')") == "next\n"
            assert states(launched, request) == ["busy", "idle"]

    asyncio.run(use())


def test_what_a_real_kernel_drops_though_little_has_come_since_it_was_quiet_is_counted(
    short: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Its queue gets the room of what was sent back for 500 messages at a time."""
    shows = "for number in range(2000): display('x' * 20_000)"

    async def use() -> None:
        async with started(short, ipykernel()) as launched:
            before = launched.execute("for number in range(290): display(number)")
            await is_idle(launched, before)
            await asyncio.sleep(5)  # two looks
            request = await unread(launched, tmp_path, shows, kind="display_data", read=600)
            shown = len(launched.answers(request, "display_data"))
            (text,) = said(launched, request)
            assert 0 <= count(text) - (2000 - shown) <= 1  # its reply may be on its way

    asyncio.run(use())
