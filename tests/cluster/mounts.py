"""What a simulated host sees of the machine's file system. Runs inside the host's mount namespace."""

import ctypes
import os
import sys
from pathlib import Path

from tests.cluster.site import CHECKOUT

_RDONLY, _REMOUNT, _BIND, _REC = 1, 32, 4096, 16384
_LIBC = ctypes.CDLL(None, use_errno=True)


class Source:
    """A place that can be mounted elsewhere even after something was mounted over it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_PATH)

    def bind(self, target: Path) -> None:
        _mount(f"/proc/self/fd/{self._fd}", target, flags=_BIND | _REC)

    def visible(self) -> bool:
        """Whether its own path still leads to it."""
        return self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(self._fd))


def proc() -> None:
    _mount("proc", Path("/proc"), "proc")


def tmpfs(target: Path, mode: int) -> None:
    _mount("tmpfs", target, "tmpfs", data=f"mode={mode:o}")


def cgroups(target: Path) -> None:
    _mount("none", target, "cgroup2")


def overlay(upper: Path, target: Path) -> None:
    """Show what is in `upper` beside what is in the target."""
    _mount("overlay", target, "overlay", _RDONLY, f"lowerdir={upper}:{target}")


def terminals() -> None:
    """Give the host terminals of its own."""
    _mount("devpts", Path("/dev/pts"), "devpts", data="newinstance,ptmxmode=0666,mode=620,gid=5")
    _mount("/dev/pts/ptmx", Path("/dev/ptmx"), flags=_BIND)


def needed() -> list[Source]:
    """The checkout, the virtual environment and the Python under it, outermost first."""
    paths = {CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)}
    executable = Path(sys.executable)
    while executable.is_symlink():  # each link of the chain is followed again inside the host
        executable = executable.parent / executable.readlink()
        paths.add(executable.parent.parent)
    paths |= {path.resolve() for path in paths}
    return [Source(path) for path in sorted(paths)]


def expose(source: Source) -> None:
    """Make the source reachable for everybody under its own path.

    An ancestor that not everybody may pass, such as /root, is covered with an empty directory in which
    nothing but the way to the source exists.
    """
    for ancestor in reversed(source.path.parents):
        if ancestor.exists() and not ancestor.stat().st_mode & 0o001:
            tmpfs(ancestor, 0o755)
    if not source.visible():
        source.path.mkdir(parents=True, exist_ok=True)
        source.bind(source.path)


def protect(source: Source) -> None:
    """Make the source read-only, also for root: hosts must not change the developer's files."""
    source.bind(source.path)
    _mount("none", source.path, flags=_BIND | _REMOUNT | _RDONLY)


def _mount(source: str, target: Path, kind: str = "none", flags: int = 0, data: str = "") -> None:
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), flags, data.encode())
    if _LIBC.mount(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source}: {os.strerror(error)}", str(target))
