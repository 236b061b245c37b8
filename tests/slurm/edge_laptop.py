"""A user's laptop that has nothing of the cluster but ssh to a login node, and a notebook's kernel on a compute node.

`python -m tests.slurm.edge_laptop < request.json`, where the request is `{"story": NAME, "spec": kernel.json, "bell":
[HOST, PORT], "ssh": files of ~/.ssh, ...}`; what was seen is JSON on standard output. It judges nothing.
"""

import asyncio
import json
import os
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
        kept = await client.run("print(x)")
        await ring(request)
        await manager.restart_kernel()
        lost = await client.run_anew("print(x)")
        then = await client.run(_JOB)
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
            cell = await client.send("print('mine')").has("display_data")
            await ring(request)
            await client.until(lambda: any("is lost" in text for text in cell.texts("update_display_data")))
            await ring(request)
            await cell.done()
    return {"shown": cell.texts("display_data") + cell.texts("update_display_data"), "stdout": cell.stdout}


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


STORIES = {"work": work, "flood": flood, "queue": queue, "die": die, "fail": fail}


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
