"""Layers of a request: which value wins, and whose it was."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.layers import Layer, assigned, merged, origin

LOW = Layer("low", {"slurm": {"qos": "debug", "time": 30}, "container": {"env": {"A": "1", "B": "2"}, "args": ["-x"]}})
HIGH = Layer("high", {"slurm": {"time": "1:00:00", "qos": None}, "container": {"env": {"B": "3"}, "args": ["-y"]}})


def test_the_higher_layer_wins_key_by_key() -> None:
    assert merged([LOW, HIGH]) == {
        "slurm": {"qos": None, "time": "1:00:00"},
        "container": {"env": {"A": "1", "B": "3"}, "args": ["-y"]},
    }


def test_merging_changes_no_layer() -> None:
    before = {"slurm": {"qos": "debug"}}
    merged([Layer("a", before), Layer("b", {"slurm": {"qos": "regular"}})])["slurm"]["qos"] = "other"
    assert before == {"slurm": {"qos": "debug"}}


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("slurm.time", "high"),
        ("slurm.qos", "high"),
        ("container.env.A", "low"),
        ("slurm.nodes", ""),
        ("slurm.time.x", ""),
    ],
)
def test_the_origin_of_a_key_is_its_highest_layer(key: str, source: str) -> None:
    assert origin([LOW, HIGH], key) == source


_CONFIGS = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.sampled_from("abc"), _CONFIGS, max_size=3)


@given(_OBJECTS, _OBJECTS)
def test_what_a_layer_gives_is_in_the_whole(low: dict[str, Any], high: dict[str, Any]) -> None:
    layers = [Layer("low", low), Layer("high", high)]
    whole = merged(layers)
    assert merged([Layer("", whole), Layer("", high)]) == whole
    assert set(whole) == set(low) | set(high)
    for key, value in high.items():
        assert isinstance(value, dict) or whole[key] == value


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ([], {}),
        (["slurm.nodes=2"], {"slurm": {"nodes": 2}}),
        (["slurm.nodes=2", "slurm.qos=debug", "slurm.nodes=3"], {"slurm": {"nodes": 3, "qos": "debug"}}),
        (["slurm.time=4:00:00"], {"slurm": {"time": "4:00:00"}}),
        (['slurm.extra_args=["--hint=nomultithread"]'], {"slurm": {"extra_args": ["--hint=nomultithread"]}}),
        (["slurm.comment=a=b"], {"slurm": {"comment": "a=b"}}),
        (["slurm.qos=null"], {"slurm": {"qos": None}}),
        (['slurm.account="12"'], {"slurm": {"account": "12"}}),
        (["slurm.account=1234"], {"slurm": {"account": "1234"}}),
        (["slurm.comment=true"], {"slurm": {"comment": "true"}}),
        (["slurm.job_name=1.50"], {"slurm": {"job_name": "1.50"}}),
        (["container.env.OMP_NUM_THREADS=4"], {"container": {"env": {"OMP_NUM_THREADS": "4"}}}),
        (["slurm.nodes=0"], {"slurm": {"nodes": 0}}),  # which is refused as it was written
        (["login=alice@cori"], {"login": "alice@cori"}),
    ],
)
def test_words_become_a_config(words: list[str], config: dict[str, Any]) -> None:
    assert assigned(words, source="--set") == config


@pytest.mark.parametrize("word", ["slurm.nodes", "=2", "slurm..nodes=2", ".nodes=2", "slurm nodes=2"])
def test_a_word_that_assigns_nothing_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match="--set: expected KEY=VALUE"):
        assigned([word], source="--set")
