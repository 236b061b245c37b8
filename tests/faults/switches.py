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
LAUNCHER = "^[^ ]*python[^ ]* -c import sys"
"""What begins the command line of a launcher on a node."""

SLURMD = "6818:6818"
"""All that a node has to let in for Slurm: srun's streams and slurmctld are called by the node."""

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
def no_way_in(site: Site, host: str, *, ports: str = "", open_ports: str = "", answer: str = "DROP") -> Iterator[None]:
    """A host takes no new TCP connection from others.

    :param ports: FIRST:LAST if only these are closed
    :param open_ports: FIRST:LAST that stay open
    :param answer: iptables' target, and its options
    """
    which = f"--dport {ports}" if ports else f"! --dport {open_ports}"
    rule = f"INPUT ! -i lo -p tcp --syn {which} -j {answer}"
    on(site, host, f"iptables -A {rule} && ip6tables -A {rule}")
    try:
        yield
    finally:
        on(site, host, f"iptables -D {rule}; ip6tables -D {rule}")


@contextlib.contextmanager
def daemon_stands_still(site: Site, name: str) -> Iterator[None]:
    """One of Slurm's daemons takes connections, and does nothing meanwhile."""
    on(site, CONTROLLER, f"kill -STOP $(cat /run/{name}.pid)")
    try:
        yield
    finally:
        on(site, CONTROLLER, f"kill -CONT $(cat /run/{name}.pid)")


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
def small_file_system(site: Site, host: str, path: str, *, options: str) -> Iterator[None]:
    """A directory of alice's is a file system of its own; the options are a tmpfs's, such as size and nr_inodes."""
    on(site, host, f"mkdir -p {path} && mount -t tmpfs -o mode=700,uid=20001,gid=20001,{options} none {path}")
    try:
        yield
    finally:
        on(site, host, f"umount -l {path}; rmdir {path} || true")


def fill(site: Site, host: str, path: str) -> None:
    """Take all the room that is left in a small file system."""
    on(site, host, f"dd if=/dev/zero of={path}/filler bs=1k 2>/dev/null || true")


@contextlib.contextmanager
def no_new_files(site: Site, host: str, path: str) -> Iterator[None]:
    """A host's own tmpfs, such as /tmp, takes no more files: it may hold what others need, and is not covered."""
    used, total = on(site, host, f"df --output=iused,itotal {path} | tail -1").split()
    on(site, host, f"mount -o remount,nr_inodes={used} {path}")
    try:
        yield
    finally:
        on(site, host, f"mount -o remount,nr_inodes={total} {path}")


@contextlib.contextmanager
def memory_limit(site: Site, host: str, size: str) -> Iterator[None]:
    """Alice's launcher on a host, and what it starts, may use so much memory together; the kernel sees to it.

    Hosts have the second version of cgroups alone, and its memory controller only if the machine does not use the
    first version's: that one is mounted where Slurm's nodes have it.
    """
    (launcher,) = pids(site, host, LAUNCHER)
    group = on(site, host, _LIMIT.format(size=size, launcher=launcher)).strip()
    try:
        yield
    finally:
        on(site, host, _NO_LIMIT.format(group=group))


_LIMIT = """
cd /sys/fs/cgroup
if grep -qw memory cgroup.controllers; then
    echo +memory >cgroup.subtree_control
    group=$PWD/farkernel-test; mkdir $group; echo {size} >$group/memory.max
else
    mkdir -p memory; mountpoint -q memory || mount -t cgroup -o memory none memory
    group=$PWD/memory/farkernel-test; mkdir $group; echo {size} >$group/memory.limit_in_bytes
fi
for pid in {launcher} $(pgrep -P {launcher}); do echo $pid >$group/cgroup.procs; done
echo $group
"""
# what still runs in it goes back to where it came from, or the group could not be removed
_NO_LIMIT = """
for pid in $(cat {group}/cgroup.procs); do echo $pid >$(dirname {group})/cgroup.procs; done
rmdir {group}
cd /sys/fs/cgroup; ! mountpoint -q memory || umount -l memory; ! test -d memory || rmdir memory
"""
