"""An interrupt ends what a cell does, and nothing else; a stop ends everything."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Site
from tests.faults.switches import pids
from tests.slurm.helpers import PATIENCE, Client, Specs, eventually, jobs, kernel, server

pytestmark = pytest.mark.usefixtures("cluster")

IMPORTS = "import hashlib, os, re, signal, socket, subprocess, sys, threading, time, zlib"

WORK = {
    "a sleep": "time.sleep(600)",
    "a loop": "while True: pass",
    "a C call that looks for signals": "re.fullmatch('(a|aa)+b', 'a' * 90)",
    "a C call that does not": "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 3_000_000); time.sleep(600)",
    "many short C calls": "while True: zlib.compress(bytes(10**6))",
    "a wait for a socket": "socket.create_server(('127.0.0.1', 0)).accept()",
    "a wait for a thread": "threading.Event().wait()",
    "a child": "subprocess.run(['sleep', '600'])",
    "a child that is waited for later": "child = subprocess.Popen(['sleep', '600']); child.wait()",
}
MODES = ["signal", "message"]


async def interrupted(manager: Any, client: Client, work: str) -> None:
    """Interrupt a cell that does this: it ends with the error that users know, in the same kernel and job."""
    await client.run(f"{IMPORTS}; kept = 1")
    job = jobs()
    # ipykernel's thread sends what was flushed a moment later, and gets no turn once C code keeps the interpreter
    cell = await client.send(f"print('on', flush=True); time.sleep(0.2)\n{work}").prints("on")
    await asyncio.sleep(0.5)  # it is in the middle of it
    await manager.interrupt_kernel()
    await cell.done()
    assert cell.errors == ["KeyboardInterrupt: "]
    assert (await client.run_anew("kept")).result == "1"
    await children_ended(client)
    assert jobs() == job


async def children_ended(client: Client) -> None:
    """Wait until the kernel's children that were interrupted have ended; it need not have taken note of that."""
    ps = "['ps', '-o', 'stat=', '-o', 'comm=', '--ppid', str(os.getpid())]"
    look = f"print(subprocess.run({ps}, capture_output=True, text=True).stdout)"
    async with asyncio.timeout(PATIENCE):
        while re.search("^[^Z].* sleep$", (await client.run(look)).stdout, re.MULTILINE):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
async def test_an_interrupt_by_a_signal(specs: Specs, work: str) -> None:
    async with kernel(specs()) as (manager, client):
        await interrupted(manager, client, work)


@pytest.mark.parametrize("work", ["a sleep", "a C call that does not", "a wait for a socket", "a child"])
async def test_an_interrupt_by_a_message(specs: Specs, work: str) -> None:
    async with kernel(specs(interrupt_mode="message")) as (manager, client):
        await interrupted(manager, client, WORK[work])


@pytest.mark.parametrize("mode", MODES)
async def test_an_interrupt_of_a_shell_command(specs: Specs, mode: str) -> None:
    """IPython takes it itself, and shows what a terminal would."""
    async with kernel(specs(interrupt_mode=mode)) as (manager, client):
        await client.run(f"{IMPORTS}; kept = 1")
        cell = await client.send("print('on', flush=True)\n!sleep 600").prints("on")
        await asyncio.sleep(0.5)
        await manager.interrupt_kernel()
        await cell.done()
        assert "^C" in cell.stdout or cell.errors == ["KeyboardInterrupt: "]
        assert (await client.run_anew("kept")).result == "1"
        await children_ended(client)


async def test_an_interrupt_of_a_kernel_that_does_nothing(specs: Specs) -> None:
    async with kernel(specs()) as (manager, client):
        await client.run("kept = 1")
        for _ in range(5):
            await manager.interrupt_kernel()
        assert (await client.run_anew("kept")).result == "1"


async def test_many_interrupts_of_one_cell(specs: Specs) -> None:
    """Pressed again and again, as impatient people do.

    The cell itself may lose its reply: two of 180 did in kernels without farkernel, as ipykernel was interrupted once
    more while it answered.
    """
    async with kernel(specs()) as (manager, client):
        await client.run("import time; kept = 1")
        for _ in range(4):
            await client.send("print('on', flush=True); time.sleep(600)").prints("on")
            for _ in range(5):
                await manager.interrupt_kernel()
            await client.run_anew("pass")  # it would wait for the sleep
        assert (await client.run_anew("kept")).result == "1"


# ---- stop ----

DEAF = """
import pathlib, signal, time
asked = pathlib.Path({file!r}).open("a", buffering=1)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: asked.write(f"{{signal.Signals(number).name}}\\n"))
print("deaf", flush=True)
while "SIGINT" not in pathlib.Path({file!r}).read_text():
    time.sleep(0.05)
for _ in range(600):  # a minute from the first request on
    time.sleep(0.1)
asked.write("outlived\\n")
while True:
    time.sleep(1)
"""


@pytest.fixture
def file() -> Iterator[Path]:
    """A file that all hosts see."""
    file = Path.home() / "asked"
    file.write_text("")
    yield file
    file.unlink()


@pytest.mark.parametrize("now", [False, True])
async def test_a_kernel_that_ignores_every_request_to_end(specs: Specs, cluster: Site, file: Path, now: bool) -> None:
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=specs())
        running: Any = manager.get_kernel(kernel_id)
        async with Client(running) as client:
            cell = await client.send(DEAF.format(file=str(file))).prints("deaf")
            await running.shutdown_kernel(now=now)
            assert (await cell.done()).status == "aborted"
        assert jobs() == []
        nodes = [host for host in cluster.hosts if host.startswith("nid")]
        await eventually(lambda: not [pid for node in nodes for pid in pids(cluster, node, "ipykernel")])
        asked = (await asyncio.to_thread(file.read_text)).split()
        assert now or {"SIGINT", "SIGTERM"} <= set(asked)
        assert "outlived" not in asked


async def test_what_a_kernel_has_started_ends_with_it(specs: Specs) -> None:
    async with kernel(specs()) as (_, client):
        script = "trap : TERM INT HUP; echo deaf; while true; do sleep 1; done"
        start = f"subprocess.Popen(['sh', '-c', {script!r}], stdout=subprocess.PIPE, text=True)"
        await client.run(f"import subprocess; child = {start}")
        assert (await client.run("print(child.stdout.readline())")).stdout.strip() == "deaf"
    assert jobs() == []  # and no process, as after every test
