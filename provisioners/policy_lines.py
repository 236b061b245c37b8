"""Where a key stands in the text of a TOML file. No I/O.

Source: https://toml.io/en/v1.0.0, keys and tables. tomllib keeps no lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_TABLE = re.compile(r"\s*\[\[?([^\]]*)\]")
_KEY = re.compile(r"""\s*((?:[\w.\s-]|"[^"]*"|'[^']*')+?)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, key: Sequence[object]) -> int:
    """Return the line, from 1, that names a key or, where it stands in an inline table, the nearest one around it.

    :param key: its parts, such as `("allowed", "qos")`
    """
    wanted = [str(part) for part in key]
    best, length = 1, 0
    for number, found in _keys(text):
        same = len(wanted) if found[: len(wanted)] == wanted else len(found) if wanted[: len(found)] == found else 0
        if same > length:
            best, length = number, same
    return best


def _keys(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each line that begins a table or has a key, and the whole name of that."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _TABLE.match(line):
            table = _parts(found[1])
            yield number, table
        elif found := _KEY.match(line):
            yield number, [*table, *_parts(found[1])]


def _parts(name: str) -> list[str]:
    return [part.strip("\"'") for part in _PART.findall(name)]
