"""An interrupt ends what a cell does, and nothing else."""

import asyncio
from pathlib import Path

import pytest

from tests.slurm.helpers import Specs, jobs, kernel

pytestmark = pytest.mark.usefixtures("cluster")

WORK = {
    "a sleep": "time.sleep(600)",
    "a loop": "while True: pass",
    "a C call": "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 5_000_000)",
    "a wait for a socket": "socket.create_server(('127.0.0.1', 0)).accept()",
    "a child": "subprocess.run(['sleep', '600'])",
    "a shell command": "get_ipython().system('sleep 600')",
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
async def test_by_a_signal(specs: Specs, work: str) -> None:
    async with kernel(specs()) as (manager, client):
        await client.run("import hashlib, socket, subprocess, time; kept = 1")
        job = jobs()
        cell = await client.send(f"print('on', flush=True)\n{work}").prints("on")
        await asyncio.sleep(0.2)  # it is in the middle of it
        await manager.interrupt_kernel()
        await cell.done()
        if "system" in work:  # IPython takes the interrupt itself
            assert "^C" in cell.stdout
        else:
            assert cell.errors[0].startswith("KeyboardInterrupt"), cell.told
        assert (await client.run("kept")).result == "1"
        assert (await client.run("subprocess.run(['pgrep', '-f', '^sleep 600']).returncode")).result == "1"
        assert jobs() == job


async def test_by_a_message(specs: Specs, tmp_path: Path) -> None:
    name = specs()
    file = tmp_path / f"share/jupyter/kernels/{name}/kernel.json"
    file.write_text(file.read_text().replace('"language"', '"interrupt_mode": "message", "language"', 1))
    async with kernel(name) as (manager, client):
        await client.run("import time; kept = 1")
        cell = await client.send("print('on', flush=True); time.sleep(600)").prints("on")
        await manager.interrupt_kernel()
        await cell.done()
        assert cell.errors[0].startswith("KeyboardInterrupt")
        assert (await client.run("kept")).result == "1"
