"""A user's laptop that has nothing of the cluster but ssh to a login node, and a notebook's kernel on a compute node.

`python -m tests.slurm.edge_laptop < request.json`, where the request is `{"story": NAME, "spec": kernel.json, "bell":
[HOST, PORT], "ssh": files of ~/.ssh, ...}`; what was seen is JSON on standard output. It judges nothing.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from farkernel.provisioners.errors import FarkernelError
from tests.slurm.helpers import Client, kernel, server

NAME = "edge"
_JOB = """
import os, socket
x = 1
print(os.environ["SLURM_JOB_ID"], socket.gethostname(), os.getcwd(), os.environ["FROM_SPEC"], os.environ.get("LAPTOPS"))
"""
_SLEEP = "print('sleeps', flush=True); import time; time.sleep(600)"


async def ring(request: Mapping[str, Any]) -> None:
    """Let the test know, and wait until it has done its part."""
    reader, writer = await asyncio.open_connection(*request["bell"])
    await reader.read()
    writer.close()


async def work(request: Mapping[str, Any]) -> Any:
    """Do with a kernel what one does with a kernel."""
    async with kernel(NAME) as (manager, client):
        where = await client.run(_JOB)
        client.answers.append("alice")
        asked = await client.run("print('hello', input('who? '))")
        sleeper = await client.send(_SLEEP).prints("sleeps")
        await manager.interrupt_kernel()
        await sleeper.done()
        kept = await client.run_anew("print(x)")
        await ring(request)
        await manager.restart_kernel()
        lost = await client.run_anew("print(x)")
        then = await client.run_anew(_JOB)
    return {
        "where": where.stdout.split(),
        "asked": asked.stdout,
        "interrupted": sleeper.errors,
        "kept": kept.stdout,
        "lost": lost.errors,
        "then": then.stdout.split(),
    }


async def flood(request: Mapping[str, Any]) -> Any:
    """Run a cell that prints without a pause."""
    async with kernel(NAME) as (_, client):
        cell = await client.send(request["code"]).prints("999\n")
        await ring(request)
        while True:
            before = len(client.published)
            try:
                await cell.done()
                break
            except TimeoutError:
                if len(client.published) == before:
                    raise
        after = await client.run("6 * 7")
    return {"stdout": cell.stdout, "after": after.result}


async def queue(request: Mapping[str, Any]) -> Any:
    """Run a cell while the job waits, and see what it shows."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=NAME)
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = client.send("print('mine')")
            # before that, it may still be on its way to Slurm
            await client.until(lambda: "PENDING" in "".join(cell.shown))
            await ring(request)
            await client.until(lambda: any("is lost" in text for text in cell.texts("update_display_data")))
            await ring(request)
            await cell.done()
    return {"shown": cell.shown, "stdout": cell.stdout}


async def die(request: Mapping[str, Any]) -> Any:
    """End without a word: in the queue, or with a kernel that runs."""
    async with server() as manager:
        await manager.start_kernel(kernel_name=NAME)
        if request["running"]:
            async with Client(next(iter(manager._kernels.values()))) as client:
                await client.run("1")
        await ring(request)
        os._exit(0)


async def fail(request: Mapping[str, Any]) -> Any:
    """Start a kernel that cannot be started."""
    manager = AsyncKernelManager(kernel_name=NAME)
    try:
        await manager.start_kernel()
    except FarkernelError as error:
        return {"name": type(error).__name__, "text": str(error)}
    await manager.shutdown_kernel()
    return {"name": "", "text": "it has started"}


_CLI = [sys.executable, "-B", "-m", "farkernel.provisioners.cli"]
_VICTIM = """
import asyncio, os, sys
from tests.slurm.helpers import Client, server

async def main():
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=sys.argv[1])
        async with Client(manager.get_kernel(kernel_id)) as client:
            await client.run("1")
            print(flush=True)
            await asyncio.sleep(600)

asyncio.run(main())
"""


async def farkernel(*arguments: str) -> dict[str, Any]:
    """Run a command as the laptop's user would."""
    env = {**os.environ, "COLUMNS": "300"}
    done = await asyncio.to_thread(
        subprocess.run, [*_CLI, *arguments], capture_output=True, text=True, check=False, env=env, timeout=120
    )
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def _records() -> list[Path]:
    return list(Path(os.environ["XDG_STATE_HOME"], "farkernel/kernels").glob("*.json"))


async def cancel(request: Mapping[str, Any]) -> Any:
    """Look at a kernel by commands, beside a record of one whose login node is not there, and cancel it."""
    saw: dict[str, Any] = {"doctor": await farkernel("doctor")}
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=NAME)
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.send(_SLEEP).prints("sleeps")
            (file,) = _records()
            record = json.loads(file.read_text())
            other = {**record, "kernel_id": "other", "job_id": 1, "login": "no-such-host"}
            file.with_name("other.json").write_text(json.dumps(other))
            saw |= {"ps": await farkernel("ps", "--json"), "table": await farkernel("ps"), "id": kernel_id}
            saw["other"] = await farkernel("cancel", "other")
            file.with_name("other.json").unlink()
            saw["cancel"] = await farkernel("cancel", NAME)
            await cell.done()
        saw |= {"told": cell.told, "logs": await farkernel("logs", kernel_id), "job": record["job_id"]}
    return saw | {"after": await farkernel("ps")}


async def clean(request: Mapping[str, Any]) -> Any:
    """Kill a server, and clean up after it."""
    env = {**os.environ, "PYTHONPATH": request["checkout"]}
    argv = [sys.executable, "-B", "-c", _VICTIM, NAME]
    victim = await asyncio.create_subprocess_exec(*argv, env=env, stdout=asyncio.subprocess.PIPE)
    assert victim.stdout
    await victim.stdout.readline()
    victim.kill()
    await victim.wait()
    saw = {"ps": await farkernel("ps", "--json"), "dry": await farkernel("clean", "--dry-run")}
    return saw | {"clean": await farkernel("clean"), "after": await farkernel("ps"), "records": len(_records())}


async def doctor(request: Mapping[str, Any]) -> Any:
    """Have the login node looked at."""
    return await farkernel("doctor")


STORIES = {
    "cancel": cancel,
    "clean": clean,
    "doctor": doctor,
    "work": work,
    "flood": flood,
    "queue": queue,
    "die": die,
    "fail": fail,
}


def _furnish(home: Path, request: Mapping[str, Any]) -> None:
    """Make a home with nothing but a kernelspec and what ssh needs."""
    place = home / "share/jupyter/kernels" / NAME
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps(request["spec"]))
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700)
    for name, content in request.get("ssh", {}).items():
        (ssh / name).touch(mode=0o600)
        (ssh / name).write_text(content)
    folders = {"JUPYTER_DATA_DIR": "data", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime"}
    os.environ |= {variable: str(home / folder) for variable, folder in folders.items()}
    os.environ |= {
        "LAPTOPS": "own",
        "HOME": str(home),
        "JUPYTER_PATH": str(home / "share/jupyter"),
        "XDG_STATE_HOME": str(home / "state"),
    }


def main() -> None:
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="laptop-") as home:
        _furnish(Path(home), request)
        saw = asyncio.run(STORIES[request["story"]](request))
    print(json.dumps(saw))


if __name__ == "__main__":
    main()
