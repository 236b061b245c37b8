"""What tests leave behind: users' processes, found in the machine's own /proc, which shows every host's."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.host import Host
from tests.cluster.site import USERS

# The process that keeps the user namespace of all of a user's podman containers on a node. Where Slurm tracks processes
# by cgroups it goes with the job.
_STAYS = {"podman", "/usr/bin/podman"}


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    line: str


def user_processes(hosts: list[Host]) -> list[Process]:
    """Return every process of an ordinary user on the hosts that are on."""
    names = {uid: user for user, uid in USERS.items()}
    found = []
    for host in hosts:
        for pid in host.processes() if host.on else ():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                status = _status(pid)
                user = names.get(int(status["Uid"].split()[0]))
                command = _command(pid)
                if user and not status["State"].startswith("Z") and command not in _STAYS:
                    line = f"process on {host.spec.name}: {user} {command or status['Name']}"
                    found.append(Process(pid, int(status["PPid"]), line))
    return found


def outside(root: int | None, processes: list[Process]) -> list[Process]:
    """Those that do not descend from the process `root`."""
    if root is None:
        return processes
    parents = {process.pid: process.parent for process in processes}

    def descends(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
        return pid == root

    return [process for process in processes if not descends(process.pid)]


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
