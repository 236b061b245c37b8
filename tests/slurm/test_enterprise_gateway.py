"""Enterprise Gateway on the login node: what becomes of its jobs. test_gateway.py has what all gateways share."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.httpclient import HTTPClientError

from tests import gateways
from tests.cluster import Site
from tests.cluster.image import MARK
from tests.gateways import Client, Gateway, assert_worked
from tests.slurm.helpers import Specs, all_jobs, eventually, jobs, slurm
from tests.slurm.squeue import Occupation
from tests.slurm.test_gateway import ADDRESS, on_laptop


@pytest.fixture
def gateway(specs: Specs, tmp_path: Path, gateway_python: Path | None) -> Iterator[Gateway]:
    """Alice's, with our kernelspecs."""
    specs("cori-knl")
    specs("cori-knl-shifter")
    with gateways.running(gateways.enterprise_gateway(gateway_python), ADDRESS, tmp_path) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Client:
    return Client(gateway, KERNEL_USERNAME="alice")


async def test_a_laptops_lab_works_in_an_image_on_the_cluster(cluster: Site, gateway: Gateway) -> None:
    saw = await on_laptop(cluster, "work", gateway, "cori-knl-shifter", mark=f"/{MARK}")

    assert saw["name"] == "Cori KNL (Shifter)"
    assert saw["where"].startswith("nid023")
    assert saw["marked"] == "True\n"
    assert_worked(saw)
    await eventually(lambda: not jobs())


async def test_a_laptops_lab_is_told_slurms_words(cluster: Site, specs: Specs, gateway: Gateway) -> None:
    specs("cori-knl", name="refused", slurm={"account": "nosuch"})

    saw = await on_laptop(cluster, "fail", gateway, "refused")

    assert "Invalid account or account/partition combination specified" in saw["told"]
    assert "correct slurm.account" in saw["told"]
    assert saw["left"] == []
    assert jobs() == []


async def test_a_kernel_that_waits_is_ended_with_its_job(
    cluster: Site, no_free_knl: Occupation, client: Client
) -> None:
    kernel_id = await client.create("cori-knl")
    await eventually(lambda: len(jobs("PENDING")) == 1)

    await client.delete(kernel_id)

    assert await client.kernels() == []
    await eventually(lambda: not jobs())


async def test_a_kernel_that_waits_is_started_anew(cluster: Site, no_free_knl: Occupation, client: Client) -> None:
    async with client.kernel("cori-knl") as (_, notebook):
        (first,) = await eventually(lambda: jobs("PENDING"))
        await notebook.press("restart")
        (second,) = await eventually(lambda: [job for job in jobs("PENDING") if job != first])
        cell = await notebook.send("print('mine')")
        await cell.shows()
        no_free_knl.end()
        await cell.done()

    assert second != first
    assert cell.stdout == "mine\n"


async def test_a_kernel_that_waits_is_not_culled(
    cluster: Site, no_free_knl: Occupation, specs: Specs, tmp_path: Path, gateway_python: Path | None
) -> None:
    specs("cori-knl")
    specs("local")
    culling = [f"--RemoteMappingKernelManager.cull_{name}" for name in ("idle_timeout=10", "interval=1")]
    kind = gateways.enterprise_gateway(gateway_python, *culling, "--RemoteMappingKernelManager.cull_connected=True")
    with gateways.running(kind, ADDRESS, tmp_path) as gateway:
        client = Client(gateway, KERNEL_USERNAME="alice")
        async with client.kernel("cori-knl") as (waiting, notebook):
            cell = await notebook.send("print('mine')")
            await client.gone(await client.create("local"))
            assert await client.kernels() == [waiting]
            no_free_knl.end()
            await cell.done()

    assert cell.stdout == "mine\n"


def _partition(cluster: Site, state: str) -> None:
    done = cluster.run("ctl", "root", ["scontrol", "update", "PartitionName=knl", f"State={state}"])
    assert done.returncode == 0, done.stderr


async def test_a_restart_that_slurm_refuses_can_be_tried_again(
    cluster: Site, no_free_knl: Occupation, client: Client
) -> None:
    async with client.kernel("cori-knl") as (_, notebook):
        await asyncio.to_thread(_partition, cluster, "INACTIVE")
        try:
            with pytest.raises(HTTPClientError, match="500"):
                await notebook.press("restart")
            refused = jobs()
        finally:
            await asyncio.to_thread(_partition, cluster, "UP")
        await notebook.press("restart")
        again = await eventually(jobs)

    assert refused == []
    assert len(again) == 1
    await eventually(lambda: not jobs())


async def test_a_kernel_whose_restart_slurm_refuses_can_be_shut_down(
    cluster: Site, no_free_knl: Occupation, client: Client
) -> None:
    kernel_id = await client.create("cori-knl")
    await asyncio.to_thread(_partition, cluster, "INACTIVE")
    try:
        async with client.lab.page(kernel_id) as notebook:
            with pytest.raises(HTTPClientError, match="500"):
                await notebook.press("restart")
        await client.delete(kernel_id)
    finally:
        await asyncio.to_thread(_partition, cluster, "UP")

    assert await client.kernels() == []


async def test_a_cell_that_waits_is_interrupted(cluster: Site, no_free_knl: Occupation, client: Client) -> None:
    async with client.kernel("cori-knl") as (_, notebook):
        cell = await notebook.send("1")
        await cell.shows()
        await notebook.press("interrupt")
        await cell.done()
        await eventually(lambda: len(jobs("PENDING")) == 1)

    assert [error.partition(":")[0] for error in cell.errors] == ["KeyboardInterrupt"]


async def test_a_job_that_has_ended_is_not_followed_by_another(cluster: Site, client: Client) -> None:
    kernel_id = await client.create("cori-knl")
    async with client.lab.page(kernel_id) as notebook:
        cell = await notebook.send("import time; print('sleeps', flush=True); time.sleep(600)")
        await cell.prints("sleeps")
        before = all_jobs()
        slurm("scancel", *jobs())
        await cell.done()
        await client.gone(kernel_id)

    assert [error.partition(":")[0] for error in cell.errors] == ["JobEnded"]
    assert all_jobs() <= before
    assert jobs() == []


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_a_gateway_that_ends_takes_its_jobs_with_it(
    cluster: Site, runtime_directory: None, gateway: Gateway, client: Client, how: str
) -> None:
    async with client.lab.page(await client.create("cori-knl")) as notebook:
        await notebook.run("1")
        getattr(gateway.process, how)()
    await eventually(lambda: gateway.process.poll() is not None)
    await eventually(lambda: not jobs())


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_a_gateway_that_ends_withdraws_what_waits(
    cluster: Site, no_free_knl: Occupation, runtime_directory: None, gateway: Gateway, client: Client, how: str
) -> None:
    await client.create("cori-knl")
    await eventually(lambda: len(jobs("PENDING")) == 1)

    getattr(gateway.process, how)()

    await eventually(lambda: gateway.process.poll() is not None)
    await eventually(lambda: not jobs())
