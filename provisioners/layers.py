"""Layers: what a request is made of.

A kernelspec's config is one layer, and so is each job template that it extends. A key of a higher layer wins; objects
are merged key by key; everything else, lists too, is replaced. null in a higher layer takes back what a lower one
gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.request import Request, parse_request


@dataclass(frozen=True)
class Layer:
    """A part of a request's config.

    :param source: where it comes from, usually a path; messages begin with it
    :param config: as JSON gives it
    """

    source: str
    config: Mapping[str, Any]


def check_layer(layer: Layer) -> Request:
    """Validate a layer alone, so that a message names the file that has to be corrected.

    :raises RequestError: it is not valid
    """
    return parse_request(layer.config, source=layer.source)


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge valid layers, the lowest first, into one config."""
    whole: dict[str, Any] = {}
    for layer in layers:
        whole = _over(whole, layer.config)
    return whole


def without(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the keys that another one gives, and without objects that have nothing left."""
    left = {}
    for key, value in config.items():
        if key not in other:
            left[key] = value
        elif isinstance(value, Mapping) and isinstance(other[key], Mapping) and (rest := without(value, other[key])):
            left[key] = rest
    return left


def leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a valid config by dotted key, such as `slurm.time`."""
    found: dict[str, Any] = {}
    for section, part in config.items():
        if isinstance(part, Mapping) and section != "allow":
            found |= {f"{section}.{key}": value for key, value in part.items()}
        else:
            found[section] = part
    return found


def origin(layers: Sequence[Layer], key: str) -> str:
    """Name the source of a key such as `slurm.time`: its highest layer's; empty if none has it."""
    for layer in reversed(layers):
        part: Any = layer.config
        for name in key.split("."):
            if not isinstance(part, Mapping) or name not in part:
                break
            part = part[name]
        else:
            return layer.source
    return ""


def assigned(words: Sequence[str], *, source: str) -> dict[str, Any]:
    """Make a config of words such as `slurm.nodes=2`; what is not JSON is a text, and so is a number where one belongs.

    :param source: what messages call them, usually an option's name
    :raises RequestError: a word is no assignment
    """
    config: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key, re.ASCII):
            raise RequestError(
                f'{source}: expected KEY=VALUE such as "slurm.nodes=2", not "{word}"',
                hint="`farkernel kernelspec schema --config-only` describes all keys.",
            )
        config = _over(config, _assignment(key, value))
    return config


def _assignment(key: str, text: str) -> dict[str, Any]:
    """Return the config of one assignment; a number, or true, is the text that it was written as where one belongs."""
    value = _value(text)
    config = _below(key, value)
    as_text = _below(key, text)
    return as_text if isinstance(value, int | float) and not _is_valid(config) and _is_valid(as_text) else config


def _below(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return cast("dict[str, Any]", value)


def _is_valid(config: Mapping[str, Any]) -> bool:
    try:
        parse_request(config, source="")
    except RequestError:
        return False
    return True


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _over(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(low)
    for key, value in high.items():
        below = both.get(key)
        both[key] = _over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return both
