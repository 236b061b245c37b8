"""`farkernel connect --lab` on a laptop that has only ssh to the login node."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.cluster import Site
from tests.cluster.site import CHECKOUT, LOGIN
from tests.gateways import assert_worked
from tests.slurm.helpers import PATIENCE, Specs, eventually, jobs
from tests.slurm.test_edge import ADDRESS, NODES, bell, on_host, processes, ssh_alone, ssh_lost_in_a_flood

__all__ = ["ssh_alone"]

PYTHON = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
RATE = 200  # of lines in a second: a Jupyter server passes on a thousand messages, to spare browsers


class OnLaptop(Protocol):
    """Lets alice do something in a JupyterLab on her laptop, and returns what she saw; the fixture `on_laptop`."""

    async def __call__(self, story: str, **details: object) -> Any: ...


@pytest.fixture
def on_laptop(cluster: Site, specs: Specs, ssh_alone: None, tmp_path: Path) -> OnLaptop:
    specs(name="far", argv=PYTHON, launcher={"python": sys.executable})
    key = (Path.home() / ".ssh/id_ed25519").read_text()
    # the login node's own farkernel, with the kernelspecs of this test
    names = ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_PATH", "XDG_STATE_HOME")
    variables = "".join(f"export {name}='{os.environ[name]}'\n" for name in names)
    command = tmp_path / "farkernel"
    command.write_text(f'#!/bin/sh\n{variables}exec {sys.executable} -m farkernel.provisioners.cli "$@"\n')
    command.chmod(0o755)

    async def tell(story: str, **details: object) -> Any:
        request = {"story": story, "login": LOGIN, "farkernel": str(command), "kernel": "far", **details}
        argv = [sys.executable, "-B", "-m", "tests.slurm.connect_laptop"]
        env = {"PYTHONPATH": str(CHECKOUT)}
        text = json.dumps({**request, "ssh": {"id_ed25519": key}})
        done = await asyncio.to_thread(cluster.run, "laptop", "alice", argv, text, env, 2.5 * PATIENCE)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return tell


async def nothing_left(site: Site) -> None:
    """Wait until nothing of the gateway, its kernels and JupyterLab is there; directories are the fixture's."""
    await eventually(lambda: not jobs())
    await eventually(lambda: not processes(site, LOGIN, "cli gateway"))
    await eventually(lambda: not processes(site, "laptop", "farkernel|jupyter"))
    await eventually(lambda: "127.0.0.1:" not in on_host(site, "laptop", "ss -Htln"))


async def test_a_lab_on_a_laptop(cluster: Site, on_laptop: OnLaptop) -> None:
    async with bell() as one:
        story = asyncio.create_task(on_laptop("work", bell=one.place))
        async with one.rung(story):
            seen = [on_host(cluster, host, "ps -ww -u alice -o args") for host in (LOGIN, "laptop")]
            links = on_host(cluster, "laptop", "ss -Htn state established").split()
            gateway = json.loads(on_host(cluster, LOGIN, "cat /tmp/farkernel-gateway-*/gateway.json"))
        saw = await story
    assert_worked(saw)
    assert saw["where"].startswith("nid023")
    assert saw["code"] == 0
    assert f"Ending the gateway on {LOGIN}, and its kernels." in saw["said"]
    assert "cli gateway" in seen[0]
    assert f"connect {LOGIN} --lab" in seen[1]
    assert gateway["token"] not in "".join([*seen, saw["said"]])
    assert f"{ADDRESS}:22" in links
    assert not [place for place in links if place.rpartition(":")[0] in NODES]
    await nothing_left(cluster)


async def test_ssh_is_lost_in_the_middle_of_a_cell(cluster: Site, on_laptop: OnLaptop) -> None:
    saw = await ssh_lost_in_a_flood(cluster, on_laptop, rate=RATE)
    assert saw["errors"] == []
    assert saw["after"] == "42\n"
    await nothing_left(cluster)
