"""The servers that a JupyterLab elsewhere can get its kernels from."""

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from tests.ports import free_port
from tests.slurm.gateway_laptop import Lab, Notebook

_PATIENCE = 120.0


@dataclass(frozen=True)
class Kind:
    """How a server is started.

    :param argv: without address and port
    :param application: what has the options for these
    :param token: the variable that takes the token
    """

    argv: list[str]
    application: str
    token: str
    env: Mapping[str, str] = field(default_factory=dict)


JUPYTER_SERVER = Kind([sys.executable, "-m", "jupyter", "server", "--no-browser"], "ServerApp", "JUPYTER_TOKEN")
KERNEL_GATEWAY = Kind(
    [sys.executable, "-m", "jupyter", "kernelgateway", "--JupyterWebsocketPersonality.list_kernels=True"],
    "KernelGatewayApp",
    "KG_AUTH_TOKEN",
)


def enterprise_gateway(python: Path | None, *options: str, **env: str) -> Kind:
    """Enterprise Gateway, by the Python that has it."""
    if python is None:
        pytest.skip("Enterprise Gateway needs Python 3.11, which is not installed")
    argv = [str(python), "-m", "enterprise_gateway", *options]
    return Kind(argv, "EnterpriseGatewayApp", "EG_AUTH_TOKEN", {"EG_LIST_KERNELS": "True", **env})


@dataclass(frozen=True)
class Gateway:
    """One that runs, and what its user has to know of it."""

    place: str
    token: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://{self.place}"


@contextlib.contextmanager
def running(kind: Kind, address: str, folder: Path) -> Iterator[Gateway]:
    """Start one, and end it as an administrator would."""
    port = free_port(address)
    token, log = secrets.token_hex(16), folder / "gateway.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*kind.argv, f"--{kind.application}.ip={address}", f"--{kind.application}.port={port}"],
            cwd=folder,
            env={**os.environ, **kind.env, kind.token: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        gateway = Gateway(f"{address}:{port}", token, process)
        _wait_for(gateway)
        yield gateway
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()
            process.wait()
            print(log.read_text(errors="replace")[-10_000:])  # pytest shows it when the test has failed


def _wait_for(gateway: Gateway) -> None:
    request = urllib.request.Request(f"{gateway.url}/api", headers={"Authorization": f"token {gateway.token}"})
    deadline = time.monotonic() + _PATIENCE
    while gateway.process.poll() is None:
        assert time.monotonic() < deadline, "the gateway does not answer"
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=_PATIENCE):
            return
        time.sleep(0.1)
    pytest.fail("the gateway has ended")


def assert_worked(saw: Mapping[str, Any]) -> None:
    """Look at what the story `work` of `tests.slurm.gateway_laptop` has shown, whichever gateway it went by."""
    assert saw["asked"] == "hello alice\n"
    assert saw["interrupted"] == ["KeyboardInterrupt: "]
    assert saw["kept"] == "1\n"
    assert saw["lost"] == ["NameError: name 'x' is not defined"]
    job, job_after_restart = saw["jobs"]
    assert job.isdecimal()
    assert job_after_restart == job
    assert saw["left"] == []


class Client:
    """Somebody who uses a gateway by its REST interface and its websockets.

    :param env: what is sent with each request for a kernel
    """

    def __init__(self, gateway: Gateway, **env: str) -> None:
        self.lab = Lab(gateway.place, gateway.token)
        self._env = env

    async def create(self, name: str = "far", **env: str) -> str:
        """Ask for a kernel; return its id."""
        response = await self.lab.fetch("/api/kernels", "POST", {"name": name, "env": {**self._env, **env}})
        return str(json.loads(response.body)["id"])

    async def refusal(self, name: str = "far", **env: str) -> tuple[int, str]:
        """Ask for a kernel that there cannot be; return the status and what the client is told."""
        with pytest.raises(HTTPClientError) as caught:
            await self.create(name, **env)
        assert caught.value.response
        told = json.loads(caught.value.response.body)
        assert "traceback" not in told
        return caught.value.code, told["message"] or told["reason"]

    async def kernels(self) -> list[str]:
        return [kernel["id"] for kernel in await self.lab.get("/api/kernels")]

    async def delete(self, kernel_id: str) -> None:
        await self.lab.fetch(f"/api/kernels/{kernel_id}", "DELETE")

    @contextlib.asynccontextmanager
    async def kernel(self, name: str = "far", **env: str) -> AsyncIterator[tuple[str, Notebook]]:
        """A kernel, as long as it is needed."""
        kernel_id = await self.create(name, **env)
        try:
            async with self.lab.page(kernel_id) as notebook:
                yield kernel_id, notebook
        finally:
            if kernel_id in await self.kernels():
                await self.delete(kernel_id)

    async def gone(self, kernel_id: str) -> None:
        """Wait until the gateway has dropped a kernel by itself."""
        deadline = time.monotonic() + _PATIENCE
        while kernel_id in await self.kernels():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def tunnel(told: Mapping[str, Any]) -> AsyncIterator[Lab]:
    """Lead a port to the socket of a `farkernel gateway`, as `ssh -L` does."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(told["socket"])
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield Lab(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", told["token"])
    finally:
        server.close()
