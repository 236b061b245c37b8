"""Private directories that do not outlive their owner."""

from __future__ import annotations

import atexit
import base64
import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import stat
import time

PREFIX = "farkernel-"
SOCKET_PATH_LIMIT = 107
"""Bytes in the path of a unix socket (unix(7): `sun_path` has 108, the last one is NUL)."""

_LETTERS = 8
"""Random letters in the name of a directory: too many for anybody to take all the names."""

_ATTEMPTS = 300
"""Names of one length that are tried until one is free."""

_YOUNG = 60.0
"""Seconds after which a directory without a lock is nobody's."""


class PrivateDirectory:
    """A fresh 0700 directory, held by a lock for as long as its owner lives.

    It goes when the interpreter exits, if not before: a client may leave without a word to its kernels. A process that
    is killed cannot tidy up: whoever makes a directory beside it later removes the user's directories that nobody holds
    any more.

    :param base: where to make it
    :param longest: the longest name that will be used for a socket in it; empty if there will be none
    :param letters: how many random ones its own name has, unless no such name seems to be free
    :raises OSError: it cannot be made there, or `longest` would be too long
    """

    def __init__(self, base: pathlib.Path, longest: str, *, letters: int = _LETTERS) -> None:
        sweep(base)
        self.path = _fresh(base, letters)
        try:
            self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # a file system may have room for the one and not for the other
            self.path.rmdir()
            raise
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._owner = os.getpid()
        atexit.register(self._at_exit)
        needed = len(os.fsencode(self.path / longest))
        if longest and needed > SOCKET_PATH_LIMIT:
            self.remove()
            raise OSError(
                f"the path {base} is too long: a unix socket below it would have {needed} bytes in its name, "
                f"{SOCKET_PATH_LIMIT} are possible"
            )

    def _at_exit(self) -> None:
        if os.getpid() == self._owner:  # not a forked child's exit
            self.remove()

    def remove(self) -> None:
        """Remove the directory and all that lies in it."""
        atexit.unregister(self._at_exit)
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def _fresh(base: pathlib.Path, letters: int) -> pathlib.Path:
    """Make a directory with a name of its own, a longer one if others have taken the short ones."""
    for length in (letters, _LETTERS):
        for _ in range(_ATTEMPTS):
            path = base / f"{PREFIX}{base64.b32encode(os.urandom(5)).decode().lower()[:length]}"
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                return path
    raise FileExistsError(errno.EEXIST, "no name is free there", str(base))


def sweep(base: pathlib.Path, *, remove: bool = True) -> list[pathlib.Path]:
    """Find the user's directories that nobody holds any more, and remove them.

    :param remove: false to find them only
    """
    found = []
    for directory in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = directory.lstat()
            young = time.time() - status.st_mtime < _YOUNG  # its owner may be about to lock it
            if young or not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            if not any(directory.iterdir()):  # its owner was killed before it could lock it
                if remove:
                    directory.rmdir()
                found.append(directory)
                continue
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)  # without one it is none of ours
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if remove:
                    shutil.rmtree(directory)
                found.append(directory)
            finally:
                os.close(lock)
    return found
