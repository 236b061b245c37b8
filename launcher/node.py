"""What the launcher has to know of the node it runs on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import socket
import struct
from collections.abc import Mapping

_SIOCGIFADDR = 0x8915  # netdevice(7)

_IPV6_ADDRESSES = pathlib.Path("/proc/net/if_inet6")
"""A line for each: address, index, prefix, scope, flags, interface (proc(5))."""

_NOT_USABLE = 0x48
"""Flags of an address that somebody else has, or may have (rtnetlink(7): IFA_F_DADFAILED, IFA_F_TENTATIVE)."""

_GLOBAL = "00"
"""The scope of an address that is good for more than one cable."""


def can_run_in(directory: str) -> bool:
    """Whether a program can be started in a directory: it is there, and may be entered."""
    return os.path.isdir(directory) and os.access(directory, os.X_OK)  # noqa: PTH112 (raises nothing)


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


def interface_addresses(name: str) -> list[str]:
    """Return the addresses of a network interface, IPv4 first; an address is returned as it is.

    :raises OSError: there is no such interface, or it has no address
    """
    if _is_address(name):
        return [name]
    found = _addresses_of(name)
    if not found:
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise OSError(errno.ENODEV, f"no address on network interface {name!r}; there are {known}")
    return found


def names_and_addresses(node: str) -> list[str]:
    """Return the names and addresses by which another host may reach this one, best first."""
    return list(dict.fromkeys([node, socket.gethostname(), *addresses()]))


def addresses() -> list[str]:
    """Return the addresses by which another host may reach this one."""
    found = [address for _, name in socket.if_nameindex() for address in _addresses_of(name)]
    return [address for address in found if not address.startswith("127.")]


def _is_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, text)
            return True
    return False


def _addresses_of(interface: str) -> list[str]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):  # it has none
        answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        found.append(socket.inet_ntoa(answer[20:24]))
    with contextlib.suppress(OSError):  # a system without IPv6
        for line in _IPV6_ADDRESSES.read_text(encoding="ascii").splitlines():
            digits, _, _, scope, flags, name = line.split()
            if (name, scope) == (interface, _GLOBAL) and not int(flags, 16) & _NOT_USABLE:
                found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    return found


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
