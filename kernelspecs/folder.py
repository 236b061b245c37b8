"""A kernelspec's folder on disk: read as a whole, and written as a whole or not at all."""

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farkernel.provisioners.errors import FarkernelError

KERNEL_FILE = "kernel.json"

MOST_FILES = 200
MOST_BYTES = 2**24
"""Bounds of a kernelspec: logos have some kilobytes."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that lies beside kernel.json: a logo, a program that `argv` names by `{resource_dir}`."""

    content: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """What a kernelspec's folder holds.

    :param spec: the content of kernel.json
    :param files: all others, by their paths in the folder
    """

    spec: dict[str, Any]
    files: Mapping[str, File] = field(default_factory=dict)


def read_files(folder: Path) -> dict[str, File]:
    """Read what lies beside kernel.json; links are followed, as Jupyter does when it installs a folder.

    :raises FarkernelError: a file cannot be read, or the folder has more than a kernelspec can have
    """
    files: dict[str, File] = {}
    size = 0
    try:
        for path in _walk(folder):
            if path == folder / KERNEL_FILE:
                continue
            status = path.stat()
            size += status.st_size
            if len(files) >= MOST_FILES or size > MOST_BYTES:
                raise FarkernelError(
                    f"{folder} holds more than {MOST_FILES} files or {MOST_BYTES // 2**20} MB: no kernelspec's folder.",
                    hint="Wrap a folder that has a kernel.json and its logos.",
                )
            files[str(path.relative_to(folder))] = File(path.read_bytes(), bool(status.st_mode & stat.S_IXUSR))
    except OSError as error:
        raise FarkernelError(f"The kernelspec in {folder} cannot be read as a whole.", said=str(error)) from error
    return files


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield each regular file.

    :raises OSError: its links lead in a circle
    """
    above = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.resolve() in above:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            if path.name != "__pycache__":
                yield from _walk(path, above)
        elif path.is_file():
            yield path


def write_folder(content: Content, destination: Path, *, replace: bool, for_all: bool) -> None:
    """Write a kernelspec; a crash or a full disk leaves what was there, or nothing.

    :param replace: take the place of a folder that is there
    :param for_all: other users can read it, whatever the umask is
    :raises OSError: it cannot be written
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    # Jupyter looks for kernel.json one level below: it sees none of this
    with tempfile.TemporaryDirectory(prefix=".farkernel-", dir=destination.parent) as staging:
        new, old = Path(staging, "new"), Path(staging, "old")
        new.mkdir()
        for name, file in content.files.items():
            write_file(new / name, file.content, mode=0o777 if file.executable else 0o666)
        write_file(new / KERNEL_FILE, as_text(content.spec).encode())
        if for_all:
            _open_to_all(new)
        if replace and destination.exists():
            destination.rename(old)
        try:
            new.rename(destination)
        except OSError:
            if old.exists():
                old.rename(destination)
            raise


def write_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a new file that is on the disk when this returns: a quota may show at the end only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Give a file another content as a whole or not at all; its mode stays, and so does a link that leads to it.

    :raises OSError: it cannot be written
    """
    path = path.resolve()
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write_file(new, data)
        if path.exists():
            new.chmod(stat.S_IMODE(path.stat().st_mode))
        new.replace(path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a kernelspec's folder, or a link to one; Jupyter sees all of it or nothing.

    :raises OSError: it cannot be removed
    """
    if folder.is_symlink():
        folder.unlink()
        return
    staging = Path(tempfile.mkdtemp(prefix=".farkernel-", dir=folder.parent))
    try:
        folder.rename(staging / folder.name)
    except OSError:
        staging.rmdir()
        raise
    shutil.rmtree(staging)


def as_text(spec: Mapping[str, Any]) -> str:
    """Return kernel.json as it is written."""
    return json.dumps(spec, indent=2) + "\n"


def _open_to_all(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
