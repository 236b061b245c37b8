"""No room, or no place: the start says so in a sentence, and leaves nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager

from farkernel.provisioners.errors import DirectoryUnusable
from tests.cluster import Site
from tests.cluster.site import LOGIN
from tests.faults.switches import NODE, meanwhile, on, small_file_system
from tests.slurm.helpers import Specs, failure, jobs, kernel

pytestmark = pytest.mark.usefixtures("cluster")

PLACE = "/var/tmp/small"
ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}


@contextlib.asynccontextmanager
async def small(cluster: Site, host: str, *, size: str = "64k", fill: bool = True) -> AsyncIterator[None]:
    async with meanwhile(small_file_system(cluster, host, PLACE, size=size, fill=fill)):
        yield
        left = await asyncio.to_thread(on, cluster, host, f"find {PLACE} -name 'farkernel-*'")
        assert left == ""


async def test_a_full_directory_on_the_node(specs: Specs, cluster: Site) -> None:
    async with small(cluster, NODE):
        error = await failure(specs(slurm=ON_NODE, launcher={"directory": PLACE}))
        assert f"no room in {PLACE} on {NODE}" in error.what
        assert "launcher.directory" in error.hint


async def test_a_directory_that_does_not_exist_on_the_node(specs: Specs) -> None:
    error = await failure(specs(slurm=ON_NODE, launcher={"directory": "/not/there"}))
    assert f"cannot use the directory /not/there on {NODE}" in error.what
    assert "launcher.directory" in error.hint


async def test_a_full_directory_on_the_login_node(specs: Specs, cluster: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name = specs()
    async with small(cluster, LOGIN):
        on_login = await asyncio.to_thread(
            on, cluster, LOGIN, f"rm {PLACE}/filler; cd {PLACE}; touch $(seq 200) || true"
        )
        assert on_login == ""
        monkeypatch.setenv("XDG_RUNTIME_DIR", PLACE)
        error = await failure(name)
        assert f"no room in {PLACE}" in error.what
        assert "XDG_RUNTIME_DIR" in error.hint


async def test_a_runtime_directory_that_others_can_enter_is_not_used(
    specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "open"
    directory.mkdir(mode=0o755)
    name = specs()
    for place in (directory, tmp_path / "missing"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
        async with kernel(name) as (manager, client):
            assert (await client.run("1 + 1")).result == "2"
            assert Path(manager.ip).parent.parent == Path("/tmp")
            assert Path(manager.ip).parent.stat().st_mode & 0o777 == 0o700
    assert list(directory.iterdir()) == []


async def test_jupyters_own_directory_is_full(specs: Specs, cluster: Site) -> None:
    manager = AsyncKernelManager(kernel_name=specs(), connection_file=f"{PLACE}/kernel-1.json")
    async with small(cluster, LOGIN):
        with pytest.raises(DirectoryUnusable) as caught:
            await manager.start_kernel()
        assert f"no room in {PLACE}" in caught.value.what
        assert "JUPYTER_RUNTIME_DIR" in caught.value.hint
    assert jobs() == []
