"""`farkernel gateway` on the login node of a cluster with other users."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Site
from tests.cluster.shifter import images
from tests.cluster.site import LOGIN
from tests.gateways import assert_worked, tunnel
from tests.slurm import gateway_laptop
from tests.slurm.helpers import PATIENCE, Specs, eventually, jobs

PYTHON = ["python3", "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@pytest.fixture
def told(specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What alice's gateway says; its only kernel of ours is in an image."""
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("USER", "alice")
    container = {"runtime": "shifter", "image": images.PYHEP.name}
    specs(name="far", argv=PYTHON, container=container, launcher={"python": sys.executable})
    argv = [sys.executable, "-m", "farkernel.provisioners.cli", "gateway", "--json"]
    log = tmp_path / "gateway.log"
    with log.open("w") as errors:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ})
    try:
        assert process.stdout
        yield json.loads(process.stdout.readline() or "null")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
        print(log.read_text())  # pytest shows it when the test has failed


async def test_a_lab_works_with_a_kernel_in_an_image_through_the_socket(told: dict[str, Any]) -> None:
    async with tunnel(told) as lab:
        request = {"story": "work", "gateway": f"http://{lab.place}", "token": told["token"], "kernel": "far"}
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-B", gateway_laptop.__file__], stdin=-1, stdout=-1, stderr=-1
        )
        output, errors = await asyncio.wait_for(process.communicate(json.dumps(request).encode()), 2.5 * PATIENCE)
    assert process.returncode == 0, errors.decode()
    saw = json.loads(output)
    assert re.fullmatch(r"nid023\d\d\n", saw["where"])
    assert_worked(saw)
    await eventually(lambda: not jobs())


def test_another_user_of_the_login_node_cannot_reach_it(cluster: Site, told: dict[str, Any]) -> None:
    argv = [sys.executable, "-c", CONNECT, told["socket"]]
    assert subprocess.run(argv, check=False, timeout=PATIENCE).returncode == 0  # alice can
    refused = cluster.run(LOGIN, "bob", argv)
    assert refused.returncode != 0
    assert "PermissionError" in refused.stderr
