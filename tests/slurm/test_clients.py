"""Every client that starts kernels starts ours, and gets all that it would get from a local one."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import papermill  # type: ignore[import-untyped]
import pexpect  # type: ignore[import-untyped]
import pytest
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient import NotebookClient

from tests.slurm.helpers import KEEPS_ALL, PATIENCE, Client, Specs, kernel, slurm

pytestmark = pytest.mark.usefixtures("cluster")

WHERE = "import socket; print('on', socket.gethostname())"
ON_KNL = "on nid023"


@pytest.fixture
def knl(specs: Specs) -> str:
    return specs("cori-knl")


def notebook(folder: Path, *cells: str, kernel_name: str = "python3") -> Path:
    """Write a notebook; its kernel is one that a command line has to override."""
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells],
        metadata={"kernelspec": {"name": kernel_name, "display_name": kernel_name, "language": "python"}},
    )
    path = folder / "notebook.ipynb"
    nbformat.write(book, path)
    return path


def printed(path: Path) -> str:
    book = nbformat.read(path, as_version=4)
    return "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))


def jupyter(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


async def test_async_kernel_manager(knl: str) -> None:
    async with kernel(knl) as (_, client):
        assert ON_KNL in (await client.run(WHERE)).stdout


def test_blocking_kernel_manager(knl: str) -> None:
    manager = KernelManager(kernel_name=knl)
    manager.start_kernel()
    try:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE)
        outputs: list[dict[str, Any]] = []
        reply = client.execute_interactive(WHERE, output_hook=outputs.append)
        client.stop_channels()
    finally:
        manager.shutdown_kernel()
    assert reply["content"]["status"] == "ok"
    assert ON_KNL in "".join(output["content"].get("text", "") for output in outputs)


def test_console(knl: str) -> None:
    console = pexpect.spawn(
        sys.executable,
        ["-m", "jupyter", "console", "--simple-prompt", "--kernel", knl],
        encoding="utf-8",
        timeout=120,
    )
    try:
        console.expect(r"In \[1\]:")
        console.sendline(WHERE)
        console.expect(ON_KNL)
        console.expect(r"In \[2\]:")
        console.sendline("name = input('your name? ')")
        console.expect("your name?")
        console.sendline("alice")
        console.expect(r"In \[3\]:")
        console.sendline("name * 2")
        console.expect("alicealice")
        console.expect(r"In \[4\]:")
        console.sendline("exit")
        console.expect(pexpect.EOF)
    finally:
        console.close(force=True)


def test_jupyter_run(knl: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WHERE)
    assert ON_KNL in jupyter("run", "--kernel", knl, script).stdout


def test_nbclient(knl: str, tmp_path: Path) -> None:
    path = notebook(tmp_path, WHERE)
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, kernel_name=knl).execute()
    assert ON_KNL in book.cells[0].outputs[0].text


def test_nbconvert(knl: str, tmp_path: Path) -> None:
    path = notebook(tmp_path, WHERE)
    jupyter("nbconvert", "--execute", "--inplace", "--to=notebook", f"--ExecutePreprocessor.kernel_name={knl}", path)
    assert ON_KNL in printed(path)


def test_papermill(knl: str, tmp_path: Path) -> None:
    path = notebook(tmp_path, "count = 1", f"{WHERE}\nprint('count', count)")
    book = nbformat.read(path, as_version=4)
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, path)
    papermill.execute_notebook(path, tmp_path / "out.ipynb", {"count": 7}, kernel_name=knl, progress_bar=False)
    assert ON_KNL in printed(tmp_path / "out.ipynb")
    assert "count 7" in printed(tmp_path / "out.ipynb")


async def test_input_asks_the_user(knl: str) -> None:
    async with kernel(knl) as (_, client):
        client.answers = ["alice", "secret"]
        cell = await client.run("import getpass; print('got', input('name? '), getpass.getpass())")
    assert "got alice secret" in cell.stdout


async def test_widgets_talk_both_ways(knl: str) -> None:
    async with kernel(knl) as (_, client):
        shown = await client.run("import ipywidgets; slider = ipywidgets.IntSlider(3); slider")
        opened = [content for content in shown.contents("comm_open") if "IntSlider" in json.dumps(content["data"])]
        client.tell(
            "comm_msg",
            {"comm_id": opened[0]["comm_id"], "data": {"method": "update", "state": {"value": 42}, "buffer_paths": []}},
        )
        assert (await client.run("slider.value")).result == "42"


@contextlib.asynccontextmanager
async def local_ipykernel() -> AsyncIterator[Client]:
    """The same Python's kernel on this host, by Jupyter's own provisioner."""
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel()
    try:
        async with Client(manager) as client:
            yield client
    finally:
        await manager.shutdown_kernel()


async def test_it_says_of_itself_what_a_local_kernel_says(knl: str) -> None:
    async with kernel(knl) as (_, client), local_ipykernel() as local:
        far, near = [await each.request("kernel_info_request", {}) for each in (client, local)]
    assert far | {"banner": ""} == near | {"banner": ""}  # there is a tip in it, chosen by chance
    assert "kernel subshells" in far["supported_features"]


async def test_debugger(knl: str) -> None:
    arguments = {"clientID": "test", "adapterID": "", "pathFormat": "path", "linesStartAt1": True}
    request = {"type": "request", "seq": 1, "command": "initialize", "arguments": arguments}
    async with kernel(knl) as (_, client):
        reply = await client.request("debug_request", request, control=True)
    assert reply["success"]
    assert reply["body"]["supportsSetVariable"]


async def test_subshells_run_beside_the_main_shell(knl: str) -> None:
    async with kernel(knl) as (_, client):
        created = await client.request("create_subshell_request", {}, control=True)
        busy = client.send("import threading; gate = threading.Event(); print('waits'); print(gate.wait(60))")
        await busy.prints("waits")
        beside = await client.run("gate.set()", subshell=created["subshell_id"])
        assert beside.status == "ok"
        assert "True" in (await busy.done()).stdout


async def test_large_output_arrives_whole(knl: str) -> None:
    size = 50_000_000
    async with kernel(knl) as (_, client):
        cell = await client.run(f"print('x' * {size})")
    assert len(cell.stdout) == size + 1


async def test_no_print_is_lost(knl: str) -> None:
    async with kernel(knl) as (_, client):
        cell = await client.run(f"{KEEPS_ALL}\nfor number in range(10_000):\n    print(number, flush=True)")
    assert cell.stdout.split() == [str(number) for number in range(10_000)]


async def test_interrupt(knl: str) -> None:
    async with kernel(knl) as (manager, client):
        cell = client.send("import time; print('sleeps', flush=True); time.sleep(600)")
        await cell.prints("sleeps")
        await manager.interrupt_kernel()
        await cell.done()
        assert cell.errors == ["KeyboardInterrupt: "]
        assert (await client.run_anew("1 + 1")).result == "2"


async def test_restart_keeps_the_job_and_loses_the_variables(knl: str) -> None:
    async with kernel(knl) as (manager, client):
        job = (await client.run("x = 1; import os; print(os.environ['SLURM_JOB_ID'])")).stdout
        await manager.restart_kernel()
        assert (await client.run("import os; print(os.environ['SLURM_JOB_ID'])")).stdout == job
        assert (await client.run("x")).errors == ["NameError: name 'x' is not defined"]
        assert slurm("squeue", "--me", "--noheader", "--format=%i") == job.strip()


async def test_completion_and_inspection(knl: str) -> None:
    async with kernel(knl) as (_, client):
        await client.run("import socket")
        completed = await client.request("complete_request", {"code": "socket.gethostn", "cursor_pos": 15})
        inspected = await client.request(
            "inspect_request", {"code": "socket.gethostname", "cursor_pos": 18, "detail_level": 0}
        )
    assert "socket.gethostname" in completed["matches"] or "gethostname" in completed["matches"]
    assert "host name" in inspected["data"]["text/plain"]


async def test_clients_come_and_go(knl: str) -> None:
    async with kernel(knl) as (manager, first):
        await first.run("x = 1")
        async with Client(manager) as second:
            both = asyncio.gather(first.run("x += 1"), second.run("x += 1"))
            assert [cell.status for cell in await both] == ["ok", "ok"]
        assert (await first.run("x")).result == "3"
