"""Where things stand in a JSON text, and what is wrong with one that is none. No I/O.

Source: RFC 8259. Python's own reader says where it stopped, which is often behind the fault, and takes the last of two
equal keys without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

Path = tuple[str | int, ...]
"""Leads to a value: keys of objects, numbers of lists' items."""


class Place(NamedTuple):
    """A place in a text; both count from 1, columns in characters."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """A JSON text that was read.

    :param places: where each key stands, and each item of a list
    :param twice: keys that stand in one object more than once, and where they do so again
    """

    value: Any
    places: dict[Path, Place]
    twice: list[tuple[Path, Place]]

    def place(self, path: Path) -> Place:
        """Return where a key stands; of one that is not there, where the object is that would have it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))


class NotJson(Exception):
    """A text is no JSON.

    :param what: what is wrong, continuing "not JSON: "
    :param advice: what to do, a sentence
    """

    def __init__(self, place: Place, what: str, advice: str) -> None:
        super().__init__(what)
        self.place = place
        self.what = what
        self.advice = advice


def read_json(text: str, *, example: str = '{"argv": […], "display_name": …}') -> Document:
    """Read a JSON text as Python's `json` does, and note where everything stands.

    :param example: what to write where there is nothing
    :raises NotJson: it is none
    """
    try:
        value = json.loads(text)
        places, twice = _Walk(text).all()
    except json.JSONDecodeError as error:
        raise _explained(text, error, example) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; objects in objects without end
        raise NotJson(Place(1, 1), str(error), "Write it anew, without what no kernelspec needs.") from None
    return Document(value, places, twice)


def place_at(text: str, offset: int) -> Place:
    """Return the place of a character."""
    before = text[:offset]
    return Place(before.count("\n") + 1, offset - before.rfind("\n"))


_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"[^\s,\]}]+")  # a number, true, false, null


class _Walk:
    """Goes through a text that is known to be JSON."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._line = 0
        self._places: dict[Path, Place] = {}
        self._twice: list[tuple[Path, Place]] = []

    def all(self) -> tuple[dict[Path, Place], list[tuple[Path, Place]]]:
        self._value(self._skip(0), ())
        return self._places, self._twice

    def _skip(self, at: int) -> int:
        found = _BLANK.match(self._text, at)
        return found.end() if found else at

    def _value(self, at: int, path: Path) -> int:
        """Pass a value; return where the next thing stands."""
        kind = self._text[at]
        if kind == '"':
            return self._skip(_DECODER.raw_decode(self._text, at)[1])
        if kind in "{[":
            return self._inside(at, path, is_object=kind == "{")
        found = _WORD.match(self._text, at)
        return self._skip(found.end() if found else at + 1)

    def _inside(self, at: int, path: Path, *, is_object: bool) -> int:
        number = 0
        at = self._skip(at + 1)
        while self._text[at] not in "}]":
            key: str | int = number
            start = at
            if is_object:
                key, at = _DECODER.raw_decode(self._text, at)
                at = self._skip(self._skip(at) + 1)
            self._note((*path, key), self._place(start))
            at = self._value(at, (*path, key))
            if self._text[at] == ",":
                at = self._skip(at + 1)
            number += 1
        return self._skip(at + 1)

    def _note(self, path: Path, place: Place) -> None:
        if path in self._places:
            self._twice.append((path, place))
            for below in [other for other in self._places if other[: len(path)] == path]:
                del self._places[below]  # the last one counts
        self._places[path] = place

    def _place(self, at: int) -> Place:
        while self._line + 1 < len(self._starts) and self._starts[self._line + 1] <= at:
            self._line += 1
        return Place(self._line + 1, at - self._starts[self._line] + 1)


class _Fault(NamedTuple):
    at: int
    what: str
    advice: str


def _explained(text: str, error: json.JSONDecodeError, example: str) -> NotJson:
    if not text.strip():
        return NotJson(Place(1, 1), "the file is empty", f"Write an object: {example}.")
    fault = next(_faults(text, error))
    return NotJson(place_at(text, fault.at), fault.what, fault.advice)


_NAMES = {"True": "true", "False": "false", "None": "null", "undefined": "null"}


def _faults(text: str, error: json.JSONDecodeError) -> Iterator[_Fault]:
    """Say what it probably is, the likeliest first."""
    at = min(error.pos, len(text))
    here = text[at : at + 1]
    before = len(text[:at].rstrip())
    last = text[before - 1 : before]
    if text.startswith("\ufeff"):
        yield _Fault(0, "it begins with a byte order mark", "Save it as UTF-8 without a byte order mark (BOM).")
    if here == "#" or text[at : at + 2] in {"//", "/*"}:
        yield _Fault(at, "a comment, which JSON does not have", "Remove the comment.")
    if here == "," or (last == "," and here in {"}", "]"}):
        comma = at if here == "," else before - 1
        if text[comma + 1 :].lstrip()[:1] in {"}", "]"}:
            yield _Fault(comma, "a comma after the last one, which JSON does not have", "Remove this comma.")
        yield _Fault(comma, "a comma, and nothing before it", "Remove this comma, or write what is missing.")
    if here == "'":
        yield _Fault(at, "a text in single quotes, which JSON does not have", 'Write it in double quotes: "…".')
    if (word := re.match(r"\w+", text[at:])) and word[0] in _NAMES:
        yield _Fault(at, f"{word[0]}, which JSON does not have", f"Write {_NAMES[word[0]]}.")
    yield from _by_message(text, error, at, before)


def _by_message(text: str, error: json.JSONDecodeError, at: int, before: int) -> Iterator[_Fault]:
    message = error.msg
    if message.startswith(("Unterminated string", "Invalid control character")):
        start = at if message.startswith("Unterminated") else _opening(text, at)
        yield _Fault(start, "a text that does not end in its line", 'Close it with a ", and write line breaks as \\n.')
    if message.startswith("Invalid \\"):
        yield _Fault(at, "a backslash that JSON does not know", "Write \\\\ for a backslash.")
    if before >= len(text.rstrip()) and at >= before:
        yield _Fault(max(before - 1, 0), "it ends too early", "Close what is open: a } or a ] is missing at the end.")
    if message.startswith("Extra data"):
        yield _Fault(at, "something after its end", "Remove it, or a bracket too many before it.")
    if message.startswith("Expecting ',' delimiter"):
        yield _Fault(at, "a comma or a closing bracket is missing before this", "Write a comma before it.")
    if message.startswith("Expecting ':'"):
        yield _Fault(at, "a colon is missing before this", 'Write "key": value.')
    if message.startswith("Expecting property name"):
        yield _Fault(at, "a key without double quotes", 'Write it in double quotes: "key".')
    yield _Fault(
        at, message[:1].lower() + message[1:], "Write a text, a number, true, false, null, a list or an object."
    )


def _opening(text: str, at: int) -> int:
    """Return where the text begins that a line break ends at `at`."""
    return text.rfind('"', 0, at)
