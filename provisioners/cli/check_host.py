"""What kernels need of the host itself: places for sockets and connection files, open files, space."""

import os
import resource
import shutil
import stat
import tempfile
from pathlib import Path

from jupyter_core.paths import jupyter_runtime_dir

from farkernel.launcher.private import PrivateDirectory
from farkernel.provisioners.cli.findings import Finding, ok, problem, warning
from farkernel.provisioners.front import LONGEST_NAME, runtime_directory

OPEN_FILES_WANTED = 1024
SPACE_WANTED = 100 * 2**20
_MIB = 2**20


def check_host() -> list[Finding]:
    """Look at this host."""
    return [check_runtime_directory(), check_connection_files(), check_open_files(), check_space()]


def check_runtime_directory() -> Finding:
    """See whether sockets can lie where other users cannot reach them, by making a place for some."""
    subject = "directory for sockets"
    given = os.environ.get("XDG_RUNTIME_DIR")
    base = runtime_directory()
    try:
        PrivateDirectory(base, LONGEST_NAME).remove()
    except OSError as error:
        return problem(subject, str(error), "Set XDG_RUNTIME_DIR to a short path of a directory of yours, mode 0700.")
    if given and Path(given) != base:
        flaw = f"XDG_RUNTIME_DIR={given} {_not_private(Path(given))}: sockets go to {base}"
        return warning(subject, flaw, "Correct it, or unset it.")
    return ok(subject, str(base))


def check_connection_files() -> Finding:
    """See whether Jupyter can write its connection files."""
    subject = "connection files"
    folder = Path(jupyter_runtime_dir())
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return problem(subject, f"{folder} cannot be written", "Set JUPYTER_RUNTIME_DIR to a directory of yours.")
    return ok(subject, str(folder))


def check_open_files() -> Finding:
    """See how many sockets a process may have open."""
    subject = "open files"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"limit {_limit(soft)}, may be raised to {_limit(hard)}"
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_WANTED:
        return warning(
            subject, found, f"Each kernel needs some: `ulimit -n {OPEN_FILES_WANTED}` before Jupyter starts."
        )
    return ok(subject, found)


def check_space() -> Finding:
    """See whether temporary files can be written."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    found = f"{free // _MIB} MiB free"
    if free < SPACE_WANTED:
        return warning(f"space in {folder}", found, "Remove what is not needed, or set TMPDIR to another place.")
    return ok(f"space in {folder}", found)


def _not_private(folder: Path) -> str:
    """Say what keeps a directory from being this user's alone; empty when nothing does."""
    try:
        status = folder.stat()
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if status.st_uid != os.getuid():
        return f"belongs to user {status.st_uid}"
    if status.st_mode & 0o077:
        return f"is open to others (mode {stat.S_IMODE(status.st_mode):04o})"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "cannot be written"


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)
