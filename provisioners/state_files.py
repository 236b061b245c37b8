"""The files of the user's state directory: a record for each kernel that is there, a log of each that was.

    kernels/ID.json     a kernel that is there
    logs/ID.log         what it has written itself, and what has happened to it; ID.log.1 is the part before that
    logs/ID.json        the last record of one that has ended

The directory may be on a network file system and used from several hosts: files are replaced as a whole, and no lock
is needed, since a kernel's files are written by its server alone.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
import time
from collections.abc import Iterator

from farkernel.provisioners.errors import DirectoryUnusable
from farkernel.provisioners.records import BadRecord, Record, decode, encode, file_stem

LOG_LIMIT = 2**19
"""Bytes of a log, and of the part before it, which is dropped when there is another one."""

LOG_AGE = 14 * 86400.0
"""Seconds for which the log of a kernel that has ended is kept."""

_RUBBISH_AGE = 86400.0
"""Seconds after which half a file is nobody's work in progress."""


def state_directory() -> pathlib.Path:
    """Return where they lie (XDG Base Directory Specification: a path that is not absolute is passed over)."""
    given = pathlib.Path(os.environ.get("XDG_STATE_HOME", ""))
    base = given if given.is_absolute() else pathlib.Path(os.path.expanduser("~/.local/state"))  # noqa: PTH111 (never fails)
    return base / "farkernel"


class StateFiles:
    """Reads and writes them.

    :param base: their directory; made, and closed to others, before anything is written
    """

    def __init__(self, base: pathlib.Path) -> None:
        self.base = base
        self._kernels = base / "kernels"
        self._logs = base / "logs"

    # ---- records ----

    def write(self, record: Record) -> None:
        """Write the record of a kernel that is there.

        :raises DirectoryUnusable: the directory cannot be used
        :raises OSError: it cannot be written
        """
        self._prepare()
        _replace(self._record(record.kernel_id), encode(record))

    def retire(self, record: Record) -> None:
        """Keep the last record of a kernel that has ended with its log; raises as `write`."""
        try:
            self._prepare()
            _replace(self._logs / f"{file_stem(record.kernel_id)}.json", encode(record))
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._record(record.kernel_id).unlink()

    def there(self) -> list[Record]:
        """Return the records of kernels that are there, or were when their server was killed.

        :raises DirectoryUnusable: the directory is somebody else's
        """
        return list(self._read(self._kernels))

    def ended(self) -> list[Record]:
        """Return the last records of kernels that have ended; raises as `there`."""
        return list(self._read(self._logs))

    def _record(self, kernel_id: str) -> pathlib.Path:
        return self._kernels / f"{file_stem(kernel_id)}.json"

    def _read(self, folder: pathlib.Path) -> Iterator[Record]:
        if not self._is_there(folder):
            return
        for file in sorted(folder.glob("*.json")):
            # gone meanwhile, or something else: neither says anything of a kernel
            with contextlib.suppress(OSError, BadRecord):
                yield decode(file.read_bytes())

    # ---- logs ----

    def log(self, kernel_id: str) -> pathlib.Path:
        """Return a kernel's log."""
        return self._logs / f"{file_stem(kernel_id)}.log"

    def append(self, kernel_id: str, text: str) -> None:
        """Add to a kernel's log; raises as `write`."""
        self._prepare()
        file = self.log(kernel_id)
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_size > LOG_LIMIT:
                file.replace(_before(file))
        with open(file, "a", encoding="utf-8", errors="replace", opener=_private) as log:
            log.write(text)

    def read_log(self, kernel_id: str) -> str:
        """Return what there is of a kernel's log."""
        parts = []
        for file in (_before(self.log(kernel_id)), self.log(kernel_id)):
            with contextlib.suppress(FileNotFoundError):
                parts.append(file.read_text(encoding="utf-8", errors="replace"))
        return "".join(parts)

    def logged(self) -> list[str]:
        """Return the file stems of all kernels that have a log; raises as `there`."""
        files = self._logs.glob("*.*") if self._is_there(self._logs) else ()
        return sorted({file.name.partition(".")[0] for file in files if not file.name.startswith(".")})

    def is_old(self, stem: str) -> bool:
        """Whether nothing was added to a log, or to its last record, for `LOG_AGE`."""
        log = self.log(stem)
        return _age(log, log.with_suffix(".json")) > LOG_AGE

    def remove_log(self, kernel_id: str) -> None:
        """Remove a kernel's log and its last record."""
        log = self.log(kernel_id)
        for file in (log, _before(log), log.with_suffix(".json")):
            file.unlink(missing_ok=True)

    # ---- tidying up ----

    def sweep(self) -> None:
        """Remove the logs that are old, and files that were never finished."""
        there = {file.stem for file in self._kernels.glob("*.json")}
        for stem in self.logged():
            if stem not in there and self.is_old(stem):
                self.remove_log(stem)
        for file in [*self._kernels.glob(".*.tmp"), *self._logs.glob(".*.tmp")]:
            if _age(file) > _RUBBISH_AGE:
                file.unlink(missing_ok=True)

    # ---- the directory ----

    def _prepare(self) -> None:
        self.base.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.base, self._kernels, self._logs):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _check(folder)

    def _is_there(self, folder: pathlib.Path) -> bool:
        return _check(self.base) and _check(folder)


def _check(folder: pathlib.Path) -> bool:
    """Whether a directory is there; one that is open to others is closed to them.

    :raises DirectoryUnusable: it is not ours
    """
    try:
        status = folder.stat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and status.st_mode & 0o077:
            folder.chmod(0o700)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DirectoryUnusable(f"The directory {folder} cannot be used: {error.strerror}.", hint=_HINT) from error
    if not stat.S_ISDIR(status.st_mode):
        raise DirectoryUnusable(f"{folder} is not a directory.", hint=_HINT)
    if status.st_uid != os.getuid():
        raise DirectoryUnusable(f"The directory {folder} belongs to user {status.st_uid}.", hint=_HINT)
    return True


_HINT = "Name a directory of yours in XDG_STATE_HOME, or mend this one."


def _replace(file: pathlib.Path, data: bytes) -> None:
    """Write a file as a whole: who reads it finds the old one or the new one."""
    new = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(new, "wb", opener=_private) as out:
            out.write(data)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _before(log: pathlib.Path) -> pathlib.Path:
    return log.with_name(f"{log.name}.1")


def _age(*files: pathlib.Path) -> float:
    """Return the seconds since any of them was written."""
    written = []
    for file in files:
        with contextlib.suppress(OSError):
            written.append(file.stat().st_mtime)
    return time.time() - max(written, default=0.0)
