"""The process that has a kernel: which one this is, and whether another one still lives."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket

from farkernel.provisioners.records import Fate, Server, fate_of


def this_server() -> Server:
    """Describe this process."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (it leads nowhere)
    return Server(socket.gethostname(), boot, space, os.getpid(), _born(os.getpid()) or "")


def fate(server: Server, here: Server) -> Fate:
    """Say whether a server lives."""
    return fate_of(server, here, _born(server.pid))


def parent(pid: int) -> int:
    """Return the parent of a process of this user; 0 if there is no such process."""
    fields = _stat(pid)
    return int(fields[1]) if fields and _owner(pid) == os.getuid() else 0


def _born(pid: int) -> str | None:
    """Return when a process started, in the system's ticks; None if there is none that runs."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in {"Z", "X"} else fields[19]


def _stat(pid: int) -> list[str] | None:
    """Read /proc/pid/stat (proc(5)) from its third field on."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _owner(pid: int) -> int | None:
    try:
        return pathlib.Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
