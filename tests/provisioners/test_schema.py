"""The JSON Schema that editors complete from says what `parse_request` does."""

import json
import string
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.request import parse_request, request_schema

SCHEMA = request_schema()
CHECK = jsonschema.Draft202012Validator(SCHEMA)

TEXTS = st.one_of(
    st.text(max_size=8),
    st.text(alphabet=string.printable, max_size=8),
    st.from_regex(r"[0-9]{1,3}(:[0-9]{2}){0,2}|[0-9]-[0-9]{1,2}(:[0-9]{2})?|[0-9]{1,2}[KMGdhms]", fullmatch=True),
    st.from_regex(
        r"/[a-z ]{0,4}(:/[a-z]{1,4}(:ro)?)?|[a-z][a-z0-9]{0,4}(:[1-9])?|[a-z]{1,4}/[0-9.]{1,4}", fullmatch=True
    ),
    st.sampled_from(["20000-20100", "1-2", "#DW x", "#BB y\n#DW z", "node", "login", "auto", "ipc", "short", "1h30m"]),
    st.sampled_from(["a@b", "a@b.c", "-x", "--x=1", "-W1", "", " ", "a\n", "none", "shifter", "docker:a:1", "ib0"]),
)
SCALARS = st.one_of(
    TEXTS, st.none(), st.booleans(), st.integers(-3, 10**6), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.one_of(
    SCALARS,
    st.lists(st.one_of(TEXTS, SCALARS), max_size=3),
    st.dictionaries(TEXTS, SCALARS, max_size=2),
    st.fixed_dictionaries({"file": TEXTS}),
)


def _keys() -> list[tuple[str, ...]]:
    keys: list[tuple[str, ...]] = []
    for name, described in SCHEMA["properties"].items():
        if "$ref" not in described:
            keys.append((name,))
            continue
        part = SCHEMA["$defs"][described["$ref"].rpartition("/")[2]]
        keys += [(name, key) for key in part["properties"]]
    return keys


KEYS = _keys()


def _config(key: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(key):
        value = {name: value}
    return value  # type: ignore[no-any-return]


def _parses(config: Any) -> bool:
    try:
        parse_request(config, source="x")
    except RequestError:
        return False
    return True


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("key", KEYS, ids=".".join)
@given(value=VALUES)
def test_what_is_a_request_the_schema_accepts(key: tuple[str, ...], value: Any) -> None:
    config = _config(key, value)
    if _parses(config):
        assert CHECK.is_valid(config), [error.message for error in CHECK.iter_errors(config)]


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_each_key_has_an_example_that_is_a_request(key: tuple[str, ...]) -> None:
    described = SCHEMA["properties"][key[0]]
    if len(key) == 2:
        described = SCHEMA["$defs"][described["$ref"].rpartition("/")[2]]["properties"][key[1]]
    examples = [*described.get("examples", []), *described.get("enum", [])]
    examples += [example for option in described.get("anyOf", []) for example in option.get("examples", [])]
    if "default" in described:
        examples.append(described["default"])
    assert examples
    for example in examples:
        config = _config(key, example)
        assert CHECK.is_valid(config), json.dumps(config)
        assert _parses(config), json.dumps(config)


INVALID: list[tuple[str, Any]] = [
    ("slurm.nodes", 0),
    ("slurm.nodes", "2"),
    ("slurm.time", "soon"),
    ("slurm.time", -1),
    ("slurm.mem", "much"),
    ("slurm.mem", 4),
    ("slurm.qos", ""),
    ("slurm.qos", "--x"),
    ("slurm.gpus", 0),
    ("slurm.gpus", "two"),
    ("slurm.exclusive", "yes"),
    ("slurm.burst_buffer", "nothing"),
    ("slurm.burst_buffer", {"file": "relative"}),
    ("slurm.extra_args", "--x"),
    ("slurm.extra_args", [""]),
    ("slurm.time_limit", "30"),
    ("container.volumes", ["relative:/x"]),
    ("container.volumes", "/a:/b"),
    ("container.modules", ["a b"]),
    ("container.env", {"A B": "x"}),
    ("container.env", {"A": 1}),
    ("container.spank", "maybe"),
    ("container.workdir", "relative"),
    ("job.max_wait", "long"),
    ("job.orphan_timeout", 0),
    ("launcher.ports", "high"),
    ("launcher.connect", "both"),
    ("launcher.python", "-x"),
    ("kernel.transport", "udp"),
    ("login", "a b"),
    ("extends", "../x"),
    ("slurms", {}),
]


@pytest.mark.parametrize(("key", "value"), INVALID)
def test_what_is_plainly_wrong_the_schema_refuses(key: str, value: Any) -> None:
    config = _config(tuple(key.split(".")), value)
    assert not _parses(config)
    assert not CHECK.is_valid(config)
