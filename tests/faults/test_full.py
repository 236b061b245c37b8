"""No room, or no place, for what has to be written: the start says what, where and what to do, and leaves nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager

from farkernel.provisioners.errors import DirectoryUnusable
from tests.cluster import Site
from tests.cluster.site import LOGIN
from tests.faults.switches import NODE, fill, meanwhile, no_new_files, on, small_file_system
from tests.slurm.helpers import Specs, all_jobs, eventually, failure, jobs, kernel

pytestmark = pytest.mark.usefixtures("cluster")

ON_NODE = {"extra_args": [f"--nodelist={NODE}"]}
PLACE = "/var/tmp/small"
FULL, NO_FILE = "size=64k", "nr_inodes=1"
"""There is room for names alone; or for not even one, as when a quota of files is reached."""


@contextlib.asynccontextmanager
async def small(cluster: Site, host: str, options: str) -> AsyncIterator[None]:
    """A place on a host is small, and full if it has a size; nothing of ours is in it afterwards."""
    async with meanwhile(small_file_system(cluster, host, PLACE, options=options)):
        if "size" in options:
            await asyncio.to_thread(fill, cluster, host, PLACE)
        yield
        await eventually(lambda: on(cluster, host, f"find {PLACE} -name 'farkernel-*'") == "")


def says_what_to_do(error: DirectoryUnusable, place: str, host: str, key: str) -> bool:
    """Whether a user learns in a sentence what there is no room for and where, and what to change."""
    return error.what == f"There is no room in {place} on {host} for the kernel's files." and key in error.hint


# ---- on the node ----


@pytest.mark.parametrize("options", [FULL, NO_FILE, *(f"nr_inodes={count}" for count in (2, 3, 4))])
async def test_a_full_directory_on_the_node(specs: Specs, cluster: Site, options: str) -> None:
    """Be it when the launcher makes its own directory, or when it writes the kernel's files."""
    async with small(cluster, NODE, options):
        error = await failure(specs(slurm=ON_NODE, launcher={"directory": PLACE}))
        assert isinstance(error, DirectoryUnusable), error
        assert says_what_to_do(error, PLACE, NODE, "launcher.directory"), error


async def test_a_full_tmp_on_the_node(specs: Specs, cluster: Site) -> None:
    async with meanwhile(no_new_files(cluster, NODE, "/tmp")):
        error = await failure(specs(slurm=ON_NODE))
        assert isinstance(error, DirectoryUnusable), error
        assert says_what_to_do(error, "/tmp", NODE, "launcher.directory"), error


@pytest.mark.parametrize("place", ["/not/there", "/etc"])
async def test_a_directory_on_the_node_that_is_not_there_or_not_ours(specs: Specs, place: str) -> None:
    error = await failure(specs(slurm=ON_NODE, launcher={"directory": place}))
    assert isinstance(error, DirectoryUnusable), error
    assert f"cannot use the directory {place} on {NODE}" in error.what
    assert "launcher.directory" in error.hint


async def test_a_node_that_has_become_full_under_a_kernel(specs: Specs, cluster: Site) -> None:
    """What runs needs no more room, and its restart no more than it had."""
    name = specs(slurm=ON_NODE, launcher={"directory": PLACE})
    small_one = meanwhile(small_file_system(cluster, NODE, PLACE, options="size=256k"))
    async with small_one, kernel(name) as (manager, client):
        await client.run("1")
        await asyncio.to_thread(fill, cluster, NODE, PLACE)
        assert (await client.run("1 + 1")).result == "2"
        await manager.restart_kernel(now=True)
        assert (await client.run("1 + 2")).result == "3"


async def test_a_full_home(specs: Specs, cluster: Site) -> None:
    """It is the kernel that writes there."""
    async with small(cluster, NODE, NO_FILE):
        error = await failure(specs(slurm=ON_NODE, env={"IPYTHONDIR": f"{PLACE}/ipython"}))
        assert error.what == f'Kernel "Cori KNL" found no room on {NODE} for {PLACE}/ipython.'
        assert error.said == f"OSError: [Errno 28] No space left on device: '{PLACE}/ipython'"
        assert "quota" in error.hint


# ---- on the login node ----


@pytest.mark.parametrize("options", [NO_FILE, *(f"nr_inodes={count}" for count in (2, 3, 5, 9))])
async def test_a_full_directory_on_the_login_node(
    specs: Specs, cluster: Site, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """Be it for the directory, for one of its sockets, or for the last of its links."""
    name = specs()
    async with small(cluster, LOGIN, options):
        monkeypatch.setenv("XDG_RUNTIME_DIR", PLACE)
        submitted = all_jobs()
        error = await failure(name)
        assert isinstance(error, DirectoryUnusable), error
        assert says_what_to_do(error, PLACE, "this host", "XDG_RUNTIME_DIR"), error
        assert all_jobs() <= submitted


async def test_full_records_are_no_reason_not_to_start(
    specs: Specs, cluster: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = specs()
    async with small(cluster, LOGIN, NO_FILE):
        monkeypatch.setenv("XDG_STATE_HOME", PLACE)
        async with kernel(name) as (manager, client):
            assert (await client.run("1 + 1")).result == "2"
            await manager.restart_kernel(now=True)
            assert (await client.run("1 + 2")).result == "3"
    assert jobs() == []


@pytest.mark.parametrize("mode", [None, 0o755])
async def test_a_runtime_directory_that_is_missing_or_not_private_is_not_used(
    specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    directory = tmp_path / "runtime-of-others"
    if mode is not None:
        directory.mkdir(mode=mode)
    name = specs()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    async with kernel(name) as (manager, client):
        assert (await client.run("1 + 1")).result == "2"
        assert Path(manager.ip).parent.parent == Path("/tmp")
        assert Path(manager.ip).parent.stat().st_mode & 0o777 == 0o700
    assert not directory.exists() or not list(directory.iterdir())


@pytest.mark.parametrize("options", [FULL, NO_FILE])
async def test_a_full_directory_of_jupyters_own(specs: Specs, cluster: Site, options: str) -> None:
    """Jupyter writes its connection file there after the start: a job would be left behind."""
    manager = AsyncKernelManager(kernel_name=specs(), connection_file=f"{PLACE}/kernel-1.json")
    async with small(cluster, LOGIN, options):
        with pytest.raises(DirectoryUnusable) as caught:
            await manager.start_kernel()
        assert says_what_to_do(caught.value, PLACE, "this host", "JUPYTER_RUNTIME_DIR"), caught.value
    assert jobs() == []


async def test_a_directory_of_jupyters_own_that_cannot_be_written(
    specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = specs()
    directory = tmp_path / "theirs"
    directory.mkdir(mode=0o500)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(directory))
    manager = AsyncKernelManager(kernel_name=name, connection_file=str(directory / "kernel-1.json"))
    with pytest.raises(DirectoryUnusable) as caught:
        await manager.start_kernel()
    assert f"cannot use the directory {directory}" in caught.value.what
    assert "JUPYTER_RUNTIME_DIR" in caught.value.hint
    assert jobs() == []
