"""JupyterLab on a laptop, the kernels on the cluster: what `--gateway-url` leads to is a server on the login node."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import gateways
from tests.cluster import Site
from tests.cluster.site import HOSTS, LOGIN
from tests.gateways import Gateway, assert_worked
from tests.slurm import gateway_laptop
from tests.slurm.helpers import PATIENCE, Specs, eventually, jobs
from tests.slurm.squeue import Occupation

ADDRESS = HOSTS[LOGIN].address

KINDS = {"jupyter_server": gateways.JUPYTER_SERVER, "kernel_gateway": gateways.KERNEL_GATEWAY}


@pytest.fixture(params=[*KINDS, "enterprise_gateway"])
def gateway(
    request: pytest.FixtureRequest, specs: Specs, tmp_path: Path, gateway_python: Path | None
) -> Iterator[Gateway]:
    """A server of alice's on the login node, where the laptop reaches it, with our kernelspec."""
    specs("cori-knl")
    kind = KINDS.get(request.param) or gateways.enterprise_gateway(gateway_python)
    with gateways.running(kind, ADDRESS, tmp_path) as offered:
        yield offered


async def on_laptop(
    cluster: Site, story: str, gateway: Gateway, kernel: str = "cori-knl", **details: object
) -> dict[str, Any]:
    """Let alice do something with JupyterLab on her laptop, and return what she saw."""
    request = json.dumps({"story": story, "gateway": gateway.url, "token": gateway.token, "kernel": kernel, **details})
    argv = [sys.executable, "-B", gateway_laptop.__file__]
    done = await asyncio.to_thread(cluster.run, "laptop", "alice", argv, request, None, 2.5 * PATIENCE)
    assert done.returncode == 0, done.stderr
    saw: dict[str, Any] = json.loads(done.stdout)
    return saw


async def test_a_laptops_lab_works_with_the_clusters_kernel(cluster: Site, gateway: Gateway) -> None:
    saw = await on_laptop(cluster, "work", gateway)
    assert saw["name"] == "Cori KNL"
    kind, logo = saw["logo"]
    assert kind.startswith("image/svg+xml")
    assert "<svg" in logo
    assert re.fullmatch(r"nid023\d\d\n", saw["where"])
    assert saw["prompts"] == ["who? "]
    assert_worked(saw)
    await eventually(lambda: not jobs())


async def test_a_laptops_lab_need_not_wait_for_the_queue(
    cluster: Site, no_free_knl: Occupation, gateway: Gateway
) -> None:
    seen = asyncio.Event()

    def ring(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set()
        writer.close()

    async with await asyncio.start_server(ring, ADDRESS, 0) as bell:
        place = bell.sockets[0].getsockname()
        story = asyncio.create_task(on_laptop(cluster, "wait", gateway, bell=place))
        # the cell could be sent because the request for the kernel has been answered
        ringing = asyncio.create_task(seen.wait())
        await asyncio.wait([story, ringing], timeout=2 * PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        ringing.cancel()
        pending, running = jobs("PENDING"), jobs("CONFIGURING,RUNNING")
        await asyncio.to_thread(no_free_knl.end)
        saw = await story
    assert seen.is_set()
    assert len(pending) == 1
    assert running == []
    assert saw["listed"] == ["cori-knl"]
    assert saw["shown"][-1].startswith(f"Slurm job {pending[0]} PENDING")
    assert saw["errors"] == []
    assert saw["stdout"] == "mine\n"
    kinds = saw["kinds"]
    assert kinds.index("display_data") < kinds.index("clear_output") < kinds.index("stream")
    assert saw["left"] == []
    await eventually(lambda: not jobs())
