"""The first process of one simulated host: python -m tests.cluster.boot HOST STATE.

It speaks with the cluster over its standard streams: it says its process id, reads a line once the cable is
plugged in, and says `ready` when the daemons run. When its standard input ends, the one who started the
cluster is gone, however that happened, and the host goes with it.
"""

import os
import pwd
import signal
import socket
import sys
import threading
from pathlib import Path

from tests.cluster import containers, mounts, services
from tests.cluster.shifter import install as shifter
from tests.cluster.site import CHECKOUT, HOSTS, USERS, HostSpec, Role

# /root too, so that nothing that root does in a host ends up in the machine's
_PRIVATE = {"/run": 0o755, "/tmp": 0o1777, "/var/tmp": 0o1777, "/dev/shm": 0o1777, "/root": 0o700}


def main() -> None:
    spec, state = HOSTS[sys.argv[1]], Path(sys.argv[2])
    os.umask(0o022)
    # /proc is still the machine's: this is our id as the machine knows it
    print(Path("/proc/self").readlink(), flush=True)
    if not sys.stdin.readline():
        return
    watch = threading.Thread(target=_end_with_cluster, daemon=True)
    watch.start()
    socket.sethostname(spec.name)
    _furnish(spec, state)
    services.start(spec)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # from now on the kernel reaps every orphan of the host
    print("ready", flush=True)
    watch.join()


def _end_with_cluster() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def _furnish(spec: HostSpec, state: Path) -> None:
    """Mount what the host has of its own and what it shares, over the machine's file system."""
    mounts.proc()
    needed = mounts.needed()
    runtimes = (shifter.Mounts(state), containers.Mounts())
    own = state / "hosts" / spec.name
    places = {
        "/etc": state / "etc",
        "/home": state / "home",
        "/var/log": own / "log",
        "/var/spool": own / "spool",
        "/var/lib/munge": own / "munge",
    }
    sources = {target: mounts.Source(path) for target, path in places.items()}
    database = mounts.Source(state / "mysql")
    for target, source in sources.items():
        source.bind(Path(target))
    for target, mode in _PRIVATE.items():
        mounts.tmpfs(Path(target), mode)
    mounts.terminals()
    for source in needed:
        mounts.expose(source)
        if source.path == CHECKOUT:
            mounts.protect(source)
    _make_directories(spec)
    if spec.role is not Role.LAPTOP:
        for runtime in runtimes:
            runtime.bind()
    if spec.role is Role.CONTROLLER:
        database.bind(directory("/run/mysqldata", "mysql", 0o700))
    if spec.role is Role.COMPUTE:
        mounts.Source(Path("/etc/pam-sshd-compute")).bind(Path("/etc/pam.d/sshd"))
    if spec.role is Role.LAPTOP:
        mounts.tmpfs(Path("/etc/slurm"), 0o755)


def _make_directories(spec: HostSpec) -> None:
    directory("/run/lock", mode=0o1777)
    directory("/run/sshd")
    directory("/run/munge", "munge")
    directory("/var/lib/munge", "munge", 0o711)
    directory("/var/log/munge", "munge", 0o700)
    directory("/var/log/slurm", "slurm")
    directory("/var/spool/slurmctld", "slurm")
    directory("/var/spool/slurmd")
    if spec.role is Role.CONTROLLER:
        directory("/run/mysqld", "mysql")
    if spec.role is Role.LOGIN:
        directory("/run/user")
        for user in USERS:
            directory(f"/run/user/{USERS[user]}", user, 0o700)


def directory(path: str, owner: str = "root", mode: int = 0o755) -> Path:
    """Create a directory, or correct the one that is there."""
    account = pwd.getpwnam(owner)
    place = Path(path)
    place.mkdir(exist_ok=True)
    os.chown(place, account.pw_uid, account.pw_gid)
    place.chmod(mode)
    return place


if __name__ == "__main__":
    main()
