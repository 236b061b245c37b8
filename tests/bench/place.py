"""Where the kernels run: on the simulated cluster, seen from its login node, or all on this machine."""

import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.bench.client import PATIENCE, Info
from tests.bench.runtimes import RUNTIMES, Runtime
from tests.cluster.control import Client as ControlClient
from tests.cluster.site import LOGIN

ARGV = (sys.executable, "-m", "ipykernel_launcher", "-f")
ARGV_IN_IMAGE = ("python3", *ARGV[1:])
_PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
_BELOW_EPHEMERAL = range(20_000, 30_000)
_KNL = "nid02301"


class Place(Protocol):
    """What differs between the two."""

    key: str
    name: str
    row: str
    """What the names of its rows are; `{}` is what is measured."""
    provisioner: str
    is_direct: bool
    """Whether a client can connect to a node."""
    tunnels: Mapping[str, Sequence[str]]
    """The ways by OpenSSH, and ssh's options for each."""
    runtimes: Mapping[str, Runtime]
    """The container runtimes that its nodes have."""

    def config(self, *, shared: bool) -> dict[str, Any]:
        """The kernelspec's: for a kernel with a node to itself, or for several on one."""
        ...

    def srun(self, job_id: int | None) -> Sequence[str]:
        """What starts a bare kernel: in a new job on a node of its own, or beside another one."""
        ...

    def address(self, node: str) -> str:
        """Where a bare kernel listens; no node is the one that `config(shared=False)` leads to."""
        ...

    def settle(self) -> None:
        """Wait until nothing is left of the last kernel."""
        ...

    def read(self, node: str, path: str) -> str:
        """Read a file of the node's /proc."""
        ...

    def cut(self, node: str, cut: bool) -> bool:
        """Pull the node's cable, or plug it in; False where there is none."""
        ...


class OnCluster:
    """From the login node of the simulated cluster, as an ordinary user."""

    key = "cluster"
    name = "the simulated cluster"
    row = "{}"
    provisioner = "farkernel-slurm"
    is_direct = True
    tunnels: Mapping[str, Sequence[str]] = {"ssh -L": ()}
    runtimes = RUNTIMES
    _before: Sequence[str] = ()
    """What stands before one of Slurm's commands."""

    def config(self, *, shared: bool) -> dict[str, Any]:
        """The kernelspec's."""
        if shared:
            return {"slurm": {"qos": "shared", "constraint": "haswell", "time": "10"}}
        return {"slurm": {"constraint": "knl", "time": "10", "extra_args": [f"--nodelist={_KNL}"]}}

    def srun(self, job_id: int | None) -> Sequence[str]:
        """What starts a bare kernel."""
        if job_id:
            return [*self._before, "srun", f"--jobid={job_id}", "--overlap", "--ntasks=1"]
        options = ["--constraint=knl", "--time=10", f"--nodelist={_KNL}", "--ntasks-per-node=1"]
        return [*self._before, "srun", *options]

    def address(self, node: str) -> str:
        """Where a bare kernel listens."""
        return socket.gethostbyname(node or _KNL)

    def settle(self) -> None:
        """Wait until there is no job, and no node that is still busy with the end of one."""
        deadline = time.monotonic() + PATIENCE
        while self._ask("squeue", "--me", "--noheader") or "idle" not in self._ask("sinfo", "-hn", _KNL, "-o", "%T"):
            if time.monotonic() > deadline:
                raise TimeoutError("the cluster does not become idle")
            time.sleep(0.05)

    def read(self, node: str, path: str) -> str:
        """Read a file of the node's /proc."""
        return ControlClient().run(node, "alice", ["cat", path]).stdout

    def cut(self, node: str, cut: bool) -> bool:
        """Pull the node's cable, or plug it in."""
        ControlClient().cable(node, not cut)
        return True

    def _ask(self, *argv: str) -> str:
        return _output(*self._before, *argv)


class OnLaptop(OnCluster):
    """From a laptop that has only ssh to the login node, as an ordinary user; for what a client sees."""

    key = "laptop"
    name = "a laptop with ssh to its login node"
    row = "laptop: {}"
    is_direct = False
    tunnels: Mapping[str, Sequence[str]] = {"ssh -J -L": ("-J", LOGIN)}
    # with a terminal, so that what is started goes when ssh does
    _before = ("ssh", "-tt", "-q", "-o", "BatchMode=yes", LOGIN)

    def config(self, *, shared: bool) -> dict[str, Any]:
        """The kernelspec's."""
        return {**super().config(shared=shared), "login": LOGIN, "launcher": {"python": sys.executable}}


class OnThisMachine:
    """Everything here: no Slurm, no network."""

    key = "here"
    name = "this machine (farkernel-local)"
    row = "{}"
    provisioner = "farkernel-local"
    is_direct = True
    tunnels: Mapping[str, Sequence[str]] = {}
    runtimes: Mapping[str, Runtime] = {}

    def config(self, *, shared: bool) -> dict[str, Any]:
        """The kernelspec's."""
        return {}

    def srun(self, job_id: int | None) -> Sequence[str]:
        """Nothing is needed to start a bare kernel."""
        return []

    def address(self, node: str) -> str:
        """Where a bare kernel listens."""
        return "127.0.0.1"

    def settle(self) -> None:
        """Nothing is left."""

    def read(self, node: str, path: str) -> str:
        """Read a file of /proc."""
        return Path(path).read_text()

    def cut(self, node: str, cut: bool) -> bool:
        """There is no cable."""
        return False


PLACES: dict[str, type[Place]] = {place.key: place for place in (OnCluster, OnLaptop, OnThisMachine)}


def bare_info(address: str) -> Info:
    """Return the connection file's content of a bare kernel: the ports are chosen beforehand."""
    ports = random.sample(_BELOW_EPHEMERAL, len(_PORTS))
    signing = {"key": secrets.token_hex(16), "signature_scheme": "hmac-sha256"}
    return {"transport": "tcp", "ip": address, **signing, **dict(zip(_PORTS, ports, strict=True))}


def through_tunnel(info: Info) -> tuple[Info, list[str]]:
    """Return what a client of `ssh -L` connects to, and ssh's options: one process carries all five ports."""
    near = bare_info("127.0.0.1")
    options = [part for port in _PORTS for part in ("-L", f"127.0.0.1:{near[port]}:{info['ip']}:{info[port]}")]
    return {**info, "ip": near["ip"], **{port: near[port] for port in _PORTS}}, options


def write_private(path: Path, content: Info) -> Path:
    """Write a connection file."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
    return path


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, check=True, text=True, timeout=60, env=os.environ).stdout.strip()
