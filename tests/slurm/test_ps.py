"""`farkernel ps`, `logs`, `cancel` and `clean` on the cluster."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from tests.cluster import Site
from tests.slurm.helpers import PATIENCE, Client, Specs, eventually, jobs, kernel, server, sruns, start_server
from tests.slurm.squeue import Occupation

pytestmark = pytest.mark.usefixtures("cluster")

OTHER = "cori02"
"""The other login node."""

CLI = [sys.executable, "-m", "farkernel.provisioners.cli"]


def farkernel(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, check=False, timeout=2 * PATIENCE, env=env
    )


def ps() -> list[dict[str, Any]]:
    done = farkernel("ps", "--json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def state(tmp_path: Path) -> Path:
    return tmp_path / "state/farkernel"


@contextlib.asynccontextmanager
async def started(name: str) -> AsyncIterator[tuple[AsyncMappingKernelManager, str, Client]]:
    """A server with a kernel of a notebook."""
    async with server() as manager:
        env = {**os.environ, "JPY_SESSION_NAME": "work/analysis.ipynb"}
        kernel_id = await manager.start_kernel(kernel_name=name, env=env)
        async with Client(manager.get_kernel(kernel_id)) as client:
            yield manager, kernel_id, client


async def test_a_kernel_that_waits_and_then_runs(specs: Specs, no_free_knl: Occupation) -> None:
    async with started(specs()) as (_, kernel_id, client):
        await eventually(lambda: jobs("PENDING"))
        (row,) = await eventually(lambda: [row for row in ps() if "(" in row["state"]])
        assert row["kernel_id"] == kernel_id
        assert row["state"].startswith("pending (")
        assert str(row["job_id"]) == jobs("PENDING")[0]
        assert (row["notebook"], row["node"], row["left"]) == ("work/analysis.ipynb", "", None)
        await asyncio.to_thread(no_free_knl.end)
        assert (await client.run("1 + 1")).result == "2"
        (row,) = await eventually(lambda: [row for row in ps() if row["memory"]])
        assert (row["state"], row["server"]) == ("running", "cori01")
        assert row["node"].startswith("nid0230")
        assert 0 < row["left"] <= 600
        table = await asyncio.to_thread(farkernel, "ps")
        assert "running" in table.stdout
        assert "work/analysis.ipynb" in table.stdout
    await eventually(lambda: ps() == [])


async def test_the_log_of_a_kernel_that_has_crashed(specs: Specs) -> None:
    code = "import os; os.write(2, b'the last words\\n'); os.abort()"
    async with kernel(specs()) as (manager, client):
        job = jobs()[0]
        cell = await client.run(code)
        assert "SIGABRT" in cell.told
    for wanted in (job, manager.kernel_id[:8], "cori-knl"):
        done = await asyncio.to_thread(farkernel, "logs", wanted)
        assert "\nthe last words\n" in done.stdout
        assert "SIGABRT" in done.stdout
        assert f"Slurm job {job} on nid0230" in done.stdout


async def test_a_kernel_that_is_cancelled_and_another_one_that_is_not(specs: Specs) -> None:
    async with started(specs()) as (manager, kernel_id, client), kernel(specs(name="other")) as (_, other):
        cell = await client.send("print('on', flush=True); import time; time.sleep(600)").prints("on")
        row = next(row for row in await asyncio.to_thread(ps) if row["kernel_id"] == kernel_id)
        done = await asyncio.to_thread(farkernel, "cancel", "cori-knl")
        assert f"Slurm job {row['job_id']} of kernel {kernel_id[:8]}" in done.stdout
        assert "is cancelled." in done.stdout
        assert str(row["job_id"]) not in jobs()
        await cell.done()
        assert "was cancelled" in cell.told
        assert (await other.run("1 + 1")).result == "2"
        while kernel_id in manager:
            await asyncio.sleep(0.1)
        await eventually(lambda: [row["kernelspec"] for row in ps()] == ["other"])
        assert f"Slurm job {row['job_id']}" in (await asyncio.to_thread(farkernel, "logs", "cori-knl")).stdout


async def test_a_job_that_waits_is_cancelled(specs: Specs, no_free_knl: Occupation) -> None:
    async with started(specs()) as (_, _, client):
        cell = await client.send("1 + 1").has("display_data")
        await eventually(lambda: jobs("PENDING"))
        await eventually(lambda: any(row["job_id"] for row in ps()))
        done = await asyncio.to_thread(farkernel, "cancel", "--all")
        assert "is cancelled." in done.stdout, done.stderr
        assert jobs() == []
        await cell.done()
        assert "cancelled" in cell.told.lower()


@pytest.mark.usefixtures("runtime_directory")
async def test_an_orphan_is_shown_and_cleaned(specs: Specs, tmp_path: Path) -> None:
    with start_server(specs(job={"orphan_timeout": "10m"})) as process:
        (job,) = jobs("RUNNING")
        for pid in sruns():
            os.kill(pid, signal.SIGSTOP)  # nobody tells the launcher that the server is gone
        process.kill()
        process.wait()
        (row,) = await asyncio.to_thread(ps)
        assert row["orphan"]
        assert row["state"] == "orphan: its server is gone, its job is running"
        assert str(row["job_id"]) == job
        dry = await asyncio.to_thread(farkernel, "clean", "--dry-run")
        assert f"Would cancel Slurm job {job}" in dry.stdout
        assert jobs() == [job]
        done = await asyncio.to_thread(farkernel, "clean")
        assert f"Cancelled Slurm job {job} of kernel {row['kernel_id'][:8]}" in done.stdout
        assert not jobs()
        assert "was killed" in (await asyncio.to_thread(farkernel, "logs", row["kernel_id"])).stdout
        await asyncio.to_thread(farkernel, "clean", "--logs")
        assert [path for path in state(tmp_path).rglob("*") if path.is_file()] == []
        for pid in sruns():
            os.kill(pid, signal.SIGCONT)
        await eventually(lambda: not sruns())


@pytest.mark.usefixtures("runtime_directory")
async def test_a_killed_servers_record_is_swept_by_the_next_kernel(specs: Specs, tmp_path: Path) -> None:
    name = specs()
    with start_server(name) as process:
        process.kill()
        process.wait()
        await eventually(lambda: not jobs())
    (left,) = state(tmp_path).glob("kernels/*.json")
    with start_server(name) as process:
        await eventually(lambda: not left.exists())
        await eventually(lambda: len(ps()) == 1)
        process.terminate()
        process.wait()
        await eventually(lambda: not jobs())


async def test_a_kernel_whose_server_is_on_another_login_node(specs: Specs, cluster: Site, tmp_path: Path) -> None:
    async with started(specs()) as (_, kernel_id, client):
        assert (await client.run("1 + 1")).result == "2"
        (record,) = state(tmp_path).glob("kernels/*.json")

        def of_a_kernel_that_runs() -> Any:
            told = json.loads(record.read_text())
            return told if told["phase"] == "running" else None

        told = await eventually(of_a_kernel_that_runs)
        elsewhere = Path.home() / "elsewhere/farkernel"
        (elsewhere / "kernels").mkdir(parents=True, mode=0o700)
        (elsewhere / "kernels" / record.name).write_bytes(record.read_bytes())
        argv = ["env", f"XDG_STATE_HOME={elsewhere.parent}", *CLI]

        def on_the_other(*arguments: str) -> str:
            return cluster.run(OTHER, "alice", [*argv, *arguments]).stdout

        (row,) = json.loads(await asyncio.to_thread(on_the_other, "ps", "--json"))
        assert (row["server"], row["state"], row["job_id"]) == ("cori01", "running", told["job_id"])
        assert "nothing to clean" in await asyncio.to_thread(on_the_other, "clean")
        assert jobs() == [str(told["job_id"])]
        would = await asyncio.to_thread(on_the_other, "clean", "--dry-run", "--force")
        assert f"Would cancel Slurm job {told['job_id']} of kernel {kernel_id[:8]}" in would
        shutil.rmtree(elsewhere.parent)


async def test_another_user_cannot_read_them(specs: Specs, cluster: Site, tmp_path: Path) -> None:
    async with kernel(specs()) as (manager, _):
        secret = manager.session.key.decode()
        folder = state(tmp_path)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        assert not any(secret in path.read_text() for path in files)
        for path in [folder, *files]:
            done = await asyncio.to_thread(cluster.run, "cori01", "bob", ["cat", str(path)])
            assert done.returncode != 0
            assert "Permission denied" in done.stderr
