"""What is left of processes: what /proc says of them, and what lies in a directory."""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterable

from tests.patience import PATIENCE


def runs(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in {"Z", "X"}


def environ(pid: int) -> bytes:
    return pathlib.Path(f"/proc/{pid}/environ").read_bytes()


def command(pid: int) -> bytes:
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()


def memory(pid: int) -> int:
    """Return the bytes that a process holds in memory."""
    statm = pathlib.Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def with_variable(name: str, value: str) -> list[int]:
    """Return the processes that were started with this in their environment; not this one."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in environ(int(entry.name)).split(b"\0") and runs(int(entry.name)):
                    found.append(int(entry.name))
    return found


def described(pids: Iterable[int]) -> list[str]:
    """Say which processes these are; one that has ended meanwhile is none."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(f"process {pid}: {command(pid)!r}")
    return found


def names(directory: pathlib.Path) -> list[str]:
    """Return what lies in a directory."""
    return sorted(path.name for path in directory.iterdir())


def all_below(directory: pathlib.Path) -> list[str]:
    """Return all that lies below a directory, while somebody may be removing it: Python 3.11's rglob would fail."""
    return [f"{place}/{name}" for place, folders, files in os.walk(directory) for name in (*folders, *files)]


def wait_until_none_runs(pids: list[int], seconds: float = PATIENCE) -> None:
    """Wait for the end of processes; fail if it does not come."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if runs(pid)]:
        assert time.monotonic() < deadline, f"still there: {described(left)}"
        time.sleep(0.02)
