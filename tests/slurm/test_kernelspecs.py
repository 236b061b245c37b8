"""A kernelspec that a user has is wrapped by one command, and its kernel runs on a compute node."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.shifter import images
from tests.slurm.helpers import PATIENCE, Specs, kernel

pytestmark = pytest.mark.usefixtures("cluster")

ENV = {"LD_LIBRARY_PATH": "/usr/common/software/lib", "PYTHONPATH": "/usr/common/software/python"}
SEEN = "import os, platform; print(platform.node(), os.environ['LD_LIBRARY_PATH'], os.environ['PYTHONPATH'])"
EXPECTED = ["/usr/common/software/lib", "/usr/common/software/python"]


@pytest.fixture
def classic(specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install the kernelspec that users of the site have had for years; only this test's Jupyter finds it."""
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("USER", "alice")
    folder = tmp_path / "share/jupyter/kernels/classic"
    folder.mkdir(parents=True)
    spec = {
        "argv": ["python3", "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Classic",
        "language": "python",
        "env": ENV,
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    return "classic"


def wrap(existing: str, *options: str) -> str:
    command = [f"{sys.prefix}/bin/farkernel", "kernelspec", "wrap", existing, "--name", "wrapped", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return "wrapped"


async def test_the_classic_kernelspec(classic: str) -> None:
    name = await asyncio.to_thread(wrap, classic, "--constraint", "knl", "--qos", "interactive", "--time", "10")
    async with kernel(name) as (_, client):
        node, *seen = (await client.run(SEEN)).stdout.split()
    assert node.startswith("nid023")
    assert seen == EXPECTED


async def test_the_classic_kernelspec_in_an_image(classic: str) -> None:
    options = [
        "--constraint=knl",
        "--qos=interactive",
        "--time=10",
        f"--image={images.PYHEP.name}",
        "--runtime=shifter",
    ]
    name = await asyncio.to_thread(wrap, classic, *options, "--set", f"launcher.python={sys.executable}")
    async with kernel(name) as (_, client):
        node, *seen = (await client.run(SEEN)).stdout.split()
    assert node.startswith("nid023")
    assert seen == EXPECTED
