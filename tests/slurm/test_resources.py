"""What a kernel has on its node: the environment, the CPUs, the nodes that its kernelspec asks for."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.helpers import Client, Specs, eventually, kernel, slurm

pytestmark = pytest.mark.usefixtures("cluster")

SECRETS = (
    "JUPYTER_TOKEN",
    "JUPYTERHUB_API_TOKEN",
    "JPY_API_TOKEN",
    "JUPYTER_GATEWAY_AUTH_TOKEN",
    "CONFIGPROXY_AUTH_TOKEN",
)


async def asked(client: Client, expression: str) -> Any:
    """Return the value of an expression in the kernel."""
    cell = await client.run(f"import json, os, socket, subprocess, sys\nprint(json.dumps({expression}))")
    assert cell.status == "ok", cell.errors
    return json.loads(cell.stdout)


async def test_the_environment_arrives_and_no_secrets(specs: Specs, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, f"secret of {name}")
    monkeypatch.setenv("FROM_THE_SERVER", "with blanks, 'quotes' and $dollars")
    name = specs(env={"FROM_THE_KERNELSPEC": "a=b c", "OMP_NUM_THREADS": "68"})
    async with kernel(name) as (_, client):
        environ = await asked(client, "dict(os.environ)")
        # the launcher is the kernel's parent
        inherited = await asked(client, "open(f'/proc/{os.getppid()}/environ').read()")
    assert environ["FROM_THE_KERNELSPEC"] == "a=b c"
    assert environ["FROM_THE_SERVER"] == "with blanks, 'quotes' and $dollars"
    assert environ["OMP_NUM_THREADS"] == "68"
    assert "secret of" not in json.dumps(environ)
    assert "secret of" not in inherited


async def test_no_secret_is_in_a_command_line(specs: Specs) -> None:
    """Every user of a host sees all command lines."""
    async with kernel(specs()) as (manager, client):
        command_lines = "import glob; print([open(file).read() for file in glob.glob('/proc/[0-9]*/cmdline')])"
        for shown in ((await client.run(command_lines)).stdout, slurm("ps", "-ww", "-eo", "args")):
            assert "farkernel" in shown or "ipykernel" in shown
            assert manager.session.key.decode() not in shown


async def test_the_kernel_has_every_cpu_of_its_job(specs: Specs) -> None:
    async with kernel(specs()) as (_, client):
        assert await asked(client, "os.environ['SLURM_CPUS_ON_NODE']") == "272"
        allowed = await asked(client, "sorted(os.sched_getaffinity(0))")
        assert allowed == await asked(client, "list(range(os.cpu_count()))")
        job = slurm("scontrol", "show", "job", await asked(client, "os.environ['SLURM_JOB_ID']"))
    assert "NumCPUs=272" in job


async def test_srun_works_in_a_cell(specs: Specs) -> None:
    async with kernel(specs()) as (_, client):
        node = await asked(client, "socket.gethostname()")
        assert (await client.run("!srun -n 4 hostname")).stdout.split() == [node] * 4


async def test_a_kernel_keeps_all_its_nodes(specs: Specs) -> None:
    async with kernel(specs(slurm={"nodes": 2})) as (_, client):
        cell = await client.run("!srun -N2 -n4 hostname")
        assert set(cell.stdout.split()) == {"nid02301", "nid02302"}, cell.stdout
        await asyncio.sleep(5)  # an allocation that shrinks does so when the other tasks have ended
        assert slurm("squeue", "--me", "--noheader", "--format=%D %N") == "2 nid[02301-02302]"
        assert (await client.run("!srun -N2 -n2 hostname")).stdout.split()


async def test_modules_are_loaded_before_the_kernel(specs: Specs) -> None:
    name = specs(kernel={"modules": ["farkernel-test/1.0"]})
    async with kernel(name) as (_, client):
        assert await asked(client, "os.environ['FARKERNEL_TEST_MODULE']") == "loaded"


async def test_it_starts_in_the_directory_of_the_kernelspec(specs: Specs) -> None:
    async with kernel(specs(kernel={"cwd": "/var/tmp"})) as (_, client):
        assert await asked(client, "os.getcwd()") == "/var/tmp"


async def test_it_starts_in_the_directory_of_the_notebook_or_at_home(specs: Specs, tmp_path: Path) -> None:
    name = specs()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    async with kernel(name, cwd="/usr/share") as (_, client):
        assert await asked(client, "os.getcwd()") == "/usr/share"
    for place in ("/run/user", str(closed)):  # on the login node only; nobody may enter it
        async with kernel(name, cwd=place) as (_, client):
            assert await asked(client, "os.getcwd()") == await asked(client, "os.path.expanduser('~')")


async def test_a_part_of_a_shared_node(specs: Specs) -> None:
    name = specs("cori-haswell", slurm={"qos": "shared", "cpus_per_task": 4, "mem": "2G"})
    async with kernel(name) as (_, client):
        assert await asked(client, "os.environ['SLURM_JOB_PARTITION']") == "shared"
        assert await asked(client, "os.environ['SLURM_CPUS_ON_NODE']") == "4"
        job = await asked(client, "os.environ['SLURM_JOB_ID']")
        assert "MinMemoryNode=2G" in slurm("scontrol", "show", "job", job)


async def test_srun_is_given_other_options(specs: Specs) -> None:
    name = specs(slurm={"extra_args": ["--nodelist=nid02302"], "comment": "for a test", "job_name": "mine"})
    async with kernel(name) as (_, client):
        assert await asked(client, "socket.gethostname()") == "nid02302"
        assert slurm("squeue", "--me", "--noheader", "--format=%j|%k") == "mine|for a test"


async def test_kernels_beside_each_other(specs: Specs) -> None:
    name = specs()
    async with kernel(name) as (_, first), kernel(name) as (_, second):
        await asyncio.gather(first.run("x = 'first'"), second.run("x = 'second'"))
        assert (await first.run("x")).result == "'first'"
        assert (await second.run("x")).result == "'second'"
        nodes = [await asked(client, "socket.gethostname()") for client in (first, second)]
    assert sorted(nodes) == ["nid02301", "nid02302"]


async def test_the_end_of_one_kernel_leaves_the_other(specs: Specs) -> None:
    name = specs()
    async with kernel(name) as (_, stays):
        async with kernel(name) as (_, goes):
            job = await asked(goes, "os.environ['SLURM_JOB_ID']")
        await eventually(lambda: job not in slurm("squeue", "--me", "--noheader", "--format=%i"))
        assert (await stays.run("1 + 1")).result == "2"
