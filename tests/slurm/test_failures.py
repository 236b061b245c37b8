"""Whatever goes wrong, the user is told what it was, and nothing is left behind.

The fixtures see to the second half: after each test there is no job, no process and no directory on any host.
"""

import sys
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager

from farkernel.provisioners.errors import (
    CommandMissing,
    ImportFailed,
    KernelCommandMissing,
    KernelFailed,
    NodeUnreachable,
    PythonMissing,
    RequestError,
    SubmissionRefused,
)
from tests.slurm.helpers import Client, Specs, failure, gone, server

pytestmark = pytest.mark.usefixtures("cluster")

# ---- it does not come up ----


async def test_a_host_without_slurm(specs: Specs, monkeypatch: pytest.MonkeyPatch) -> None:
    name = specs()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{sys.prefix}/bin")
        manager = AsyncKernelManager(kernel_name=name)
        with pytest.raises(CommandMissing, match="there is no srun on this host"):
            await manager.start_kernel()


async def test_a_kernelspec_that_is_not_valid(specs: Specs, tmp_path: Path) -> None:
    name = specs()
    file = tmp_path / f"share/jupyter/kernels/{name}/kernel.json"
    file.write_text(file.read_text().replace('"constraint"', '"constrain"'))
    error = await failure(name)
    assert isinstance(error, RequestError)
    assert f"{file}: slurm.constrain: unknown key" in str(error)
    assert "did you mean slurm.constraint?" in str(error)


async def test_a_refusal_of_slurm(specs: Specs) -> None:
    error = await failure(specs(slurm={"account": "nosuch"}))
    assert isinstance(error, SubmissionRefused)
    assert "slurm.account" in str(error)
    assert "Invalid account" in str(error)


async def test_a_python_that_is_not_on_the_node(specs: Specs) -> None:
    error = await failure(specs(launcher={"python": "/not/there/python"}))
    assert isinstance(error, PythonMissing)
    assert "/not/there/python" in str(error)
    assert "launcher.python" in error.hint


async def test_a_python_without_pyzmq(specs: Specs) -> None:
    error = await failure(specs(launcher={"python": "/usr/bin/python3"}))
    assert isinstance(error, ImportFailed)
    assert "zmq" in error.said
    assert "launcher.python" in error.hint


async def test_a_kernel_whose_command_is_missing(specs: Specs) -> None:
    error = await failure(specs(argv=["/not/there/kernel", "{connection_file}"]))
    assert isinstance(error, KernelCommandMissing)
    assert "/not/there/kernel" in error.what


async def test_a_kernel_that_ends_at_once(specs: Specs) -> None:
    code = "import sys; sys.exit('there is no licence left')"
    error = await failure(specs(argv=[sys.executable, "-c", code, "{connection_file}"]))
    assert isinstance(error, KernelFailed)
    assert "there is no licence left" in error.said


async def test_a_module_that_does_not_exist(specs: Specs) -> None:
    error = await failure(specs(kernel={"modules": ["nosuch/1.0"]}))
    assert isinstance(error, KernelFailed)
    assert "nosuch/1.0" in error.said
    assert "kernel.modules" in error.hint


async def test_a_node_that_cannot_be_reached(specs: Specs) -> None:
    error = await failure(specs(launcher={"interface": "lo"}))
    assert isinstance(error, NodeUnreachable)
    assert "nid0230" in error.what
    assert "Tried 127.0.0.1:" in error.said
    assert "launcher.interface" in error.hint


async def test_a_failure_under_a_server_is_told_in_the_cell(specs: Specs) -> None:
    """There the start has long returned."""
    name = specs(argv=[sys.executable, "-c", "import time; time.sleep(3); exit('no licence')", "{connection_file}"])
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=name)
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.run("1 + 1")
            assert cell.errors[0].startswith("KernelFailed")
            assert "no licence" in cell.told
            assert cell.status == "error"
        await gone(manager, kernel_id)
