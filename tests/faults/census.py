"""What a process holds, and what a user has on a host: counted before and after, to see that nothing grows."""

from dataclasses import dataclass

from tests.cluster import Site
from tests.faults.switches import on

_ALLOCATORS = 24 * 1024
"""KiB that a process may grow by: allocators keep some of what they have had."""

_OF_PROCESS = """
cd /proc/{pid}
echo $(ls fd | wc -l) $(ls -l fd | grep -c socket:) $(ls task | wc -l)
grep VmRSS status | tr -dc 0-9
"""
_FILES = "find /tmp /var/tmp /dev/shm /run/user -user alice 2>/dev/null | grep -c farkernel- || true"


@dataclass(frozen=True)
class Held:
    """What one process has open; memory in KiB."""

    descriptors: int
    sockets: int
    threads: int
    memory: int


def held(site: Site, host: str, pid: int | str) -> Held:
    """Count what a process of a host has."""
    return Held(*map(int, on(site, host, _OF_PROCESS.format(pid=pid)).split()))


def files(site: Site) -> dict[str, int]:
    """Count our files on every host."""
    hosts = [host for host in site.hosts if host != "ctl"]
    return {host: int(on(site, host, _FILES)) for host in hosts}


def grown(before: Held, after: Held) -> bool:
    """Whether there is more of anything than before."""
    return (
        after.descriptors > before.descriptors
        or after.sockets > before.sockets
        or after.threads > before.threads
        or after.memory > before.memory + _ALLOCATORS
    )
