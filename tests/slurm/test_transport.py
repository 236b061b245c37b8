"""Kernels that cannot use unix sockets: TCP on a node of their own, and nowhere else unless asked for by name."""

import sys

import pytest

from farkernel.provisioners.errors import KernelFailed
from tests.slurm.helpers import Specs, jobs, kernel

pytestmark = pytest.mark.usefixtures("cluster")

# A kernel as there are some: it knows TCP alone, and says so.
TCP_ONLY = """
import json, runpy, sys
if json.load(open(sys.argv[-1]))["transport"] != "tcp":
    sys.exit("cannot bind: unknown transport")
runpy.run_module("ipykernel_launcher", run_name="__main__")
"""
ARGV = [sys.executable, "-c", TCP_ONLY, "-f", "{connection_file}"]
SHARED = {"qos": "shared", "nodes": None}


async def test_it_gets_tcp_on_a_node_of_its_own(specs: Specs) -> None:
    async with kernel(specs(argv=ARGV)) as (_, client):
        cell = await client.run("import json, sys; print(json.load(open(sys.argv[-1]))['ip'])")
        assert cell.stdout == "127.0.0.1\n"


async def test_on_a_shared_node_it_is_refused(specs: Specs) -> None:
    with pytest.raises(KernelFailed, match="cannot bind: unknown transport") as refusal:
        async with kernel(specs("cori-haswell", argv=ARGV, slurm=SHARED)):
            pass
    assert "slurm.exclusive" in str(refusal.value)
    assert "kernel.transport" in str(refusal.value)
    assert not jobs()


async def test_on_a_shared_node_it_runs_when_asked_for_by_name(specs: Specs) -> None:
    name = specs("cori-haswell", argv=ARGV, slurm=SHARED, kernel={"transport": "tcp"})
    async with kernel(name) as (_, client):
        assert (await client.run("print(6 * 7)")).stdout == "42\n"


async def test_with_ipc_asked_for_by_name_tcp_is_not_tried(specs: Specs) -> None:
    with pytest.raises(KernelFailed, match="cannot bind"):
        async with kernel(specs(argv=ARGV, kernel={"transport": "ipc"})):
            pass
