"""What a test can break on the cluster's hosts, and how it is whole again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager

from tests.cluster import Site
from tests.cluster.site import CONTROLLER, LOGIN
from tests.slurm.helpers import PATIENCE

NODE = "nid02301"

_STOP = "pid=$(cat /run/{0}.pid); kill $pid; while kill -0 $pid; do sleep 0.1; done"


def on(site: Site, host: str, script: str, *, user: str = "root") -> str:
    """Run a shell script on a host; return what it prints."""
    done = site.run(host, user, ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout


def pids(site: Site, host: str, pattern: str) -> list[str]:
    """The ids of alice's processes on a host whose command line matches."""
    return on(site, host, f"pgrep -u alice -f '{pattern}' || true").split()


@contextlib.asynccontextmanager
async def meanwhile(broken: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Something is broken meanwhile; clients go on reading while that is done and mended."""
    await asyncio.to_thread(broken.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(broken.__exit__, None, None, None)


@contextlib.contextmanager
def cable_pulled(site: Site, host: str) -> Iterator[None]:
    """A host has no network."""
    site.cable(host, False)
    try:
        yield
    finally:
        site.cable(host, True)


@contextlib.contextmanager
def daemon_away(site: Site, name: str) -> Iterator[None]:
    """Slurm's controller or its database daemon is stopped meanwhile."""
    script = _STOP.format(name)
    on(site, CONTROLLER, f"({script}) </dev/null >/dev/null 2>&1 || true")
    try:
        yield
    finally:
        on(site, CONTROLLER, f"{name} </dev/null >/dev/null 2>&1")
        deadline = time.monotonic() + PATIENCE
        while site.run(LOGIN, "alice", ["squeue"]).returncode:
            assert time.monotonic() < deadline, f"{name} does not come back"
            time.sleep(0.5)


@contextlib.contextmanager
def slurmd_timeout(site: Site, seconds: int) -> Iterator[None]:
    """Slurm gives a node up after so long."""
    before = on(site, CONTROLLER, "grep ^SlurmdTimeout= /etc/slurm/slurm.conf").strip()
    hosts = [host for host in site.hosts if host != "laptop"]
    _configure(site, hosts, f"s/^SlurmdTimeout=.*/SlurmdTimeout={seconds}/")
    try:
        yield
    finally:
        _configure(site, hosts, f"s/^SlurmdTimeout=.*/{before}/")


def _configure(site: Site, hosts: list[str], edit: str) -> None:
    for host in hosts:
        on(site, host, f"sed -i '{edit}' /etc/slurm/slurm.conf")
    on(site, CONTROLLER, "scontrol reconfigure")


@contextlib.contextmanager
def small_file_system(site: Site, host: str, path: str, *, size: str, fill: bool) -> Iterator[None]:
    """A directory of alice's with little room, or none."""
    filled = f"; dd if=/dev/zero of={path}/filler bs=1k 2>/dev/null || true" if fill else ""
    options = f"size={size},nr_inodes=100,mode=700,uid=20001,gid=20001"
    on(site, host, f"mkdir -p {path} && mount -t tmpfs -o {options} none {path}{filled}")
    try:
        yield
    finally:
        on(site, host, f"umount -l {path} && rmdir {path}")


@contextlib.contextmanager
def memory_limit(site: Site, host: str, size: str) -> Iterator[None]:
    """Alice's launcher on a host, and what it starts, may use so much memory together."""
    group = "/sys/fs/cgroup/memory/farkernel-test"
    mount = "mkdir -p /sys/fs/cgroup/memory && mount -t cgroup -o memory none /sys/fs/cgroup/memory"
    (launcher,) = pids(site, host, "^[^ ]*python[^ ]* -c")
    on(site, host, f"{mount} && mkdir -p {group} && echo {size} >{group}/memory.limit_in_bytes")
    on(site, host, f"for pid in {launcher} $(pgrep -P {launcher}); do echo $pid >{group}/cgroup.procs; done")
    try:
        yield
    finally:
        leave = f"for pid in $(cat {group}/cgroup.procs); do echo $pid >{group}/../cgroup.procs; done"
        on(site, host, f"{leave}; rmdir {group}; umount -l /sys/fs/cgroup/memory; rmdir /sys/fs/cgroup/memory || true")
