"""What one start chooses on the cluster: by a client's environment, by a gateway's client, by `farkernel run`."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pexpect  # type: ignore[import-untyped]
import pytest
from jupyter_client.manager import AsyncKernelManager
from tornado.httpclient import HTTPClientError

from farkernel.provisioners.errors import FarkernelError
from tests import gateways
from tests.cluster.site import HOSTS, LOGIN
from tests.gateways import Client, Gateway
from tests.slurm.helpers import PATIENCE, Specs, all_jobs, eventually, jobs, kernel, slurm

LIMIT = 'import os; print(__import__("subprocess").getoutput(f"squeue -hj {os.environ[\'SLURM_JOB_ID\']} -o %l"))'
"""Code that prints the time limit of the kernel's own job."""

LEFT = "import os; print([name for name in os.environ if name.startswith('KERNEL_')])"


@pytest.fixture
def spec(specs: Specs) -> str:
    """A kernelspec of ten minutes that leaves half an hour and two QOS open."""
    return specs(allow={"slurm.time": "30:00", "slurm.qos": ["debug", "interactive"]})


def time_limit() -> str:
    (job,) = jobs()
    return slurm("squeue", "--noheader", f"--jobs={job}", "--format=%l").strip()


def farkernel(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).with_name("farkernel")), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False)


async def test_by_the_environment(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNEL_SLURM_TIME", "25:00")
    async with kernel(spec) as (manager, client):
        assert time_limit() == "25:00"
        assert (await client.run(LEFT)).stdout == "[]\n"
        await manager.restart_kernel()
        assert time_limit() == "25:00"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("KERNEL_SLURM_TIME", "31:00", "30:00"),
        ("KERNEL_SLURM_QOS", "regular", "debug, interactive"),
        ("KERNEL_SLURM_CONSTRAINT", "haswell", "slurm.constraint"),
    ],
)
async def test_what_is_not_left_open_is_refused(
    spec: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    before = all_jobs()
    with pytest.raises(FarkernelError) as caught:
        await AsyncKernelManager(kernel_name=spec).start_kernel()
    assert variable in str(caught.value)
    assert told in str(caught.value)
    assert all_jobs() <= before


@pytest.fixture(params=["kernel_gateway", "enterprise_gateway"])
def gateway(
    request: pytest.FixtureRequest, spec: str, tmp_path: Path, gateway_python: Path | None
) -> Iterator[Gateway]:
    kinds = {"kernel_gateway": gateways.KERNEL_GATEWAY}
    kind = kinds.get(request.param) or gateways.enterprise_gateway(gateway_python)
    with gateways.running(kind, HOSTS[LOGIN].address, tmp_path) as running:
        yield running


async def test_by_a_gateways_client(gateway: Gateway, spec: str, tmp_path: Path) -> None:
    client = Client(gateway, KERNEL_USERNAME="alice")
    before = all_jobs()
    with pytest.raises(HTTPClientError, match="500"):
        await client.create(spec, KERNEL_SLURM_TIME="31:00")
    log = (tmp_path / "gateway.log").read_text()  # what a client is told of it is the gateway's own matter
    assert 'KERNEL_SLURM_TIME="31:00"' in log
    assert "allows slurm.time up to 30:00" in log
    assert all_jobs() <= before

    kernel_id = await client.create(spec, KERNEL_SLURM_TIME="25:00")
    await eventually(jobs)
    assert await asyncio.to_thread(time_limit) == "25:00"
    await client.delete(kernel_id)
    await eventually(lambda: not jobs())
    kernel_id = await client.create(spec)  # the next one has what its kernelspec says
    await eventually(jobs)
    assert await asyncio.to_thread(time_limit) == "10:00"
    await client.delete(kernel_id)
    await eventually(lambda: not jobs())


def test_a_script(spec: str, tmp_path: Path) -> None:
    script = tmp_path / "limit.py"
    script.write_text(LIMIT)

    done = farkernel("run", spec, script, "--time", "25")

    assert done.returncode == 0, done.stderr
    assert done.stdout == "25:00\n"
    assert jobs() == []


def test_a_notebook(spec: str, tmp_path: Path) -> None:
    path = tmp_path / "limit.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LIMIT)]), path)

    done = farkernel("run", spec, path, "--time", "25", "--qos", "debug")

    assert done.returncode == 0, done.stderr
    (cell,) = nbformat.read(path, as_version=4).cells
    assert [output.text for output in cell.outputs] == ["25:00\n"]
    assert jobs() == []


def test_a_console(spec: str) -> None:
    argv = ["run", spec, "--time", "25"]
    console = pexpect.spawn(
        str(Path(sys.executable).with_name("farkernel")), argv, encoding="utf-8", timeout=PATIENCE, dimensions=(50, 200)
    )
    try:
        console.expect(r"In .*1.*:")
        assert time_limit() == "25:00"
        console.sendline("exit")
        console.expect(pexpect.EOF)
    finally:
        console.close(force=True)
    assert jobs() == []


@pytest.mark.parametrize("options", [["--time", "31"], ["--constraint", "haswell"], ["--set", "slurm.qos=regular"]])
def test_it_refuses_before_anything_starts(spec: str, options: list[Any]) -> None:
    before = all_jobs()

    done = farkernel("run", spec, *options)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "allow" in done.stderr
    assert all_jobs() <= before
