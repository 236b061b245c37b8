"""Where things stand in a JSON text, and what is said of one that is none."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farkernel.provisioners.json_places import NotJson, Path, Place, read_json

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def _paths(value: Any, path: Path = ()) -> set[Path]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path} - {()} | {deeper for key, inner in below for deeper in _paths(inner, (*path, key))}


@given(value=_VALUES, indent=st.none() | st.integers(0, 3), plain=st.booleans())
def test_each_key_and_item_is_where_it_says(value: Any, indent: int | None, plain: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=plain)

    document = read_json(text)

    assert document.value == value
    assert document.places.keys() == _paths(value)
    assert document.twice == []
    lines = text.split("\n")
    for path, (line, column) in document.places.items():
        here = "\n".join([lines[line - 1][column - 1 :], *lines[line:]])
        found, _ = json.JSONDecoder().raw_decode(here)
        part = value
        for key in path[:-1]:
            part = part[key]
        assert found == (path[-1] if isinstance(path[-1], str) else part[path[-1]])


def test_of_two_equal_keys_the_last_one_counts() -> None:
    document = read_json('{"a": {"b": 1},\n "a": {"c": 2}}')

    assert document.value == {"a": {"c": 2}}
    assert document.twice == [(("a",), Place(2, 2))]
    assert document.places == {("a",): Place(2, 2), ("a", "c"): Place(2, 8)}


def test_what_is_missing_is_looked_for_where_it_would_be() -> None:
    document = read_json('{\n "a": {}}')

    assert document.place(("a", "b", "c")) == Place(2, 2)
    assert document.place(("z",)) == Place(1, 1)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("", (1, 1), "empty"),
        ("\ufeff{}", (1, 1), "byte order mark"),
        ('{"a": 1,\n\n}', (1, 8), "a comma after the last one"),
        ("[1,, 2]", (1, 4), "a comma, and nothing before it"),
        ('{"a": 1, # b\n}', (1, 10), "a comment"),
        ('/* b */ {"a": 1}', (1, 1), "a comment"),
        ("{'a': 1}", (1, 2), "single quotes"),
        ("{a: 1}", (1, 2), "a key without double quotes"),
        ('{"a": True}', (1, 7), "True"),
        ('{"a" 1}', (1, 6), "a colon is missing"),
        ('{"a": 1\n "b": 2}', (2, 2), "a comma or a closing bracket is missing"),
        ('{"a": "b\n}', (1, 7), "does not end in its line"),
        ('{"a": "\\d"}', (1, 8), "backslash"),
        ('{"a": [1', (1, 8), "ends too early"),
        ("{}\n}", (2, 1), "something after its end"),
        ("[" * 100_000, (1, 1), "recursion"),
    ],
)
def test_what_is_no_json_is_told_in_words(text: str, place: tuple[int, int], what: str) -> None:
    with pytest.raises(NotJson) as caught:
        read_json(text)

    assert caught.value.place == place
    assert what in caught.value.what
    assert caught.value.advice.endswith((".", "}"))
