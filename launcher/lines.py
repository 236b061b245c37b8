"""The lines of a program's output, as they come."""

from __future__ import annotations

from asyncio import StreamReader
from collections.abc import Callable

_LONGEST = 2**15
"""Bytes after which a line counts as ended: whatever prints it must not fill the memory."""


async def each_line(stream: StreamReader, on_line: Callable[[str], object]) -> None:
    """Hand on each line until the stream's end; what is no text in UTF-8 is replaced."""
    rest = b""
    while data := await stream.read(65536):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LONGEST:
            lines, rest = [*lines, rest], b""
        for line in lines:
            on_line(line.decode(errors="replace"))
    if rest:
        on_line(rest.decode(errors="replace"))
