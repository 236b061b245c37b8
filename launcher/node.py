"""What the launcher has to know of the node it runs on."""

from __future__ import annotations

import fcntl
import pathlib
import re
import socket
import struct
from collections.abc import Mapping

_SIOCGIFADDR = 0x8915  # netdevice(7)

# Variables that Slurm sets for a step (srun(1), OUTPUT ENVIRONMENT VARIABLES). A nested srun takes most of
# them as its options: SLURM_NTASKS=1 makes `srun -N2 hostname` fail. What describes the job stays.
_STEP_VARIABLE = re.compile(
    r"""SLURM_(
        STEP.* | SRUN_.* | NTASKS.* | NPROCS | TASKS_PER_NODE | PROCID | LOCALID | NODEID | GTIDS | TASK_PID
        | TASK_EXIT_.* | CPU_BIND.* | MEM_BIND.* | ACCEL_BIND | DISTRIBUTION | OVERLAP | EXACT | EXCLUSIVE
        | WHOLE | WAIT | KILL_BAD_EXIT | LABELIO | UNBUFFEREDIO | STD(IN|OUT|ERR)MODE |
        LAUNCH_NODE_IPADDR | LAUNCHER_.* | MPI_TYPE | TOPOLOGY_.* | PRIO_PROCESS | UMASK
        | WORKING_DIR | DEBUG
    )
    | SLURMD_.* | SRUN_.* | PMI_.* | PMI2_.* | PMIX_.* | PALS_.*""",
    re.VERBOSE,
)


def without_step(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what Slurm set for the launcher's own step."""
    return {name: value for name, value in env.items() if not _STEP_VARIABLE.fullmatch(name)}


def interface_address(name: str) -> str:
    """Return the IPv4 address of a network interface; an address is returned as it is.

    :raises OSError: there is no such interface, or it has no address
    """
    if re.fullmatch(r"\d+(\.\d+){3}", name):
        return name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError as error:
            known = ", ".join(name for _, name in socket.if_nameindex())
            raise OSError(error.errno, f"no IPv4 address on network interface {name!r}; there are {known}") from error
    return socket.inet_ntoa(answer[20:24])


def addresses(node: str) -> list[str]:
    """Return the names and addresses by which another host may reach this one, best first."""
    found = [node, socket.gethostname()]
    for _, name in socket.if_nameindex():
        try:
            found.append(interface_address(name))
        except OSError:
            continue  # an interface without an IPv4 address
    return [address for address in dict.fromkeys(found) if address and not address.startswith("127.")]


def ephemeral_floor() -> int:
    """Return the lowest port that the system gives to outgoing connections (ip(7))."""
    text = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    return int(text.split()[0])


def out_of_memory_kills() -> int:
    """Return how many processes of this job's memory cgroup were killed for want of memory; 0 where unknown.

    The count is in `memory.events` (cgroup v2) or `memory.oom_control` (v1).
    """
    try:
        lines = pathlib.Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    count = 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            count += _counter(pathlib.Path(f"/sys/fs/cgroup{path}/memory.events"))
        elif "memory" in controllers.split(","):
            count += _counter(pathlib.Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"))
    return count


def _counter(file: pathlib.Path) -> int:
    try:
        match = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(match[1]) if match else 0
