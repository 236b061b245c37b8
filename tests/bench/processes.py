"""What processes take, read from /proc (proc(5))."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """One look at a process: seconds of CPU, resident bytes, threads."""

    cpu: float
    rss: int
    threads: int


def usage(stat: str) -> Usage:
    """Read the text of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return Usage(cpu=(int(fields[11]) + int(fields[12])) / _TICKS, rss=int(fields[21]) * _PAGE, threads=int(fields[17]))


def children(pid: int) -> list[str]:
    """Return the names of a process' descendants."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [Path(f"/proc/{child}/comm").read_text().strip(), *children(int(child))]
    return found
