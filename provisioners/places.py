"""Directories that cannot be used, in words. No I/O."""

from __future__ import annotations

import re

from farkernel.provisioners.errors import DirectoryUnusable

NO_ROOM = re.compile(r"(?:No space left on device|Disk quota exceeded)(?:: '(?P<path>[^']+)')?")
"""What a program says of a full disk; Python names the file."""


def unusable(path: str, words: str, *, host: str, key: str) -> DirectoryUnusable:
    """Return the error of a directory for sockets and files that cannot be used.

    :param words: the system's
    :param host: where it is
    :param key: what names another one
    """
    if NO_ROOM.search(words):
        return DirectoryUnusable(
            f"There is no room in {path} on {host} for the kernel's files.",
            said=words,
            hint=f"Remove what is not needed there, or name another directory in {key}.",
        )
    return DirectoryUnusable(
        f"farkernel cannot use the directory {path} on {host}.", said=words, hint=f"Name another one in {key}."
    )
