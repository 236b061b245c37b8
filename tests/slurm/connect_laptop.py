"""A user's laptop that has nothing of the cluster but ssh to a login node, and `farkernel connect --lab` on it.

`python -m tests.slurm.connect_laptop < request.json`, where the request is `{"story": NAME, "login": LOGIN,
"farkernel": PATH, "kernel": NAME, "bell": [HOST, PORT], "ssh": files of ~/.ssh, ...}`; what was seen is JSON on
standard output. It judges nothing.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.slurm import gateway_laptop
from tests.slurm.edge_laptop import ring
from tests.slurm.gateway_laptop import Lab

_PATIENCE = 120.0


@contextlib.contextmanager
def connected(request: Mapping[str, Any], home: Path, saw: dict[str, Any]) -> Iterator[Lab]:
    """Run the command as the user does, and end it by Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = secrets.token_hex(16)
    command = ["connect", request["login"], "--lab", "--farkernel", request["farkernel"]]
    options = ["--", "--no-browser", f"--port={port}"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "farkernel.provisioners.cli", *command, *options],
            cwd=home,
            env={**os.environ, "HOME": str(home), "JUPYTER_TOKEN": own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Lab(f"127.0.0.1:{port}", own)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            saw["code"] = process.wait(_PATIENCE)
        finally:
            process.kill()
            process.wait()
            saw["said"] = (home / "log").read_text(errors="replace")
            print(saw["said"][-10_000:], file=sys.stderr)


async def flood(lab: Lab, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a cell that prints without a pause."""
    async with lab.notebook(request["kernel"]) as notebook:
        cell = await notebook.send(request["code"])
        await cell.prints("99\n")
        await ring(request)
        await cell.done()
        after = await notebook.run("print(6 * 7)")
    return {"stdout": cell.stdout, "errors": cell.errors, "after": after.stdout}


async def work(lab: Lab, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do with a kernel what one does with a kernel."""
    saw = await gateway_laptop.work(lab, request)
    await ring(request)
    return saw


STORIES = {"flood": flood, "work": work}


async def tell(lab: Lab, request: Mapping[str, Any]) -> dict[str, Any]:
    await lab.ready()
    return await STORIES[request["story"]](lab, request)


def main() -> None:
    request = json.load(sys.stdin)
    saw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="laptop-") as name:
        ssh = Path(name, ".ssh")
        ssh.mkdir(mode=0o700)
        for file, content in request["ssh"].items():
            (ssh / file).touch(mode=0o600)
            (ssh / file).write_text(content)
        with connected(request, Path(name), saw) as lab:
            saw |= asyncio.run(tell(lab, request))
    print(json.dumps(saw))


if __name__ == "__main__":
    main()
