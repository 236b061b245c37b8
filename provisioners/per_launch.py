"""What one start chooses, by variables KERNEL_..., of what its kernelspec leaves open (`allow`). No I/O.

A gateway's client sends them (https://jupyter-enterprise-gateway.readthedocs.io/en/latest/users/kernel-envs.html), or
they are in the server's environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from farkernel.provisioners.errors import ChoiceRefused, RequestError
from farkernel.provisioners.layers import Layer
from farkernel.provisioners.limits import READERS, SEPARATORS, gpus_within, matches
from farkernel.provisioners.request import Limit, Request, choosable, is_amount, nearest, nested, parse_request

_OURS = re.compile(r"KERNEL_(SLURM|CONTAINER|JOB|LAUNCHER|KERNEL)_\w+", re.ASCII)


def is_choice(name: str) -> bool:
    """Whether a variable is one of those; KERNEL_ID, KERNEL_USERNAME and the like are not."""
    return _OURS.fullmatch(name) is not None


def choices(env: Mapping[str, str]) -> dict[str, str]:
    """Return what an environment chooses."""
    return {name: value for name, value in env.items() if is_choice(name)}


def variable(key: str) -> str:
    """Return the variable that chooses a key: KERNEL_SLURM_TIME for `slurm.time`."""
    return f"KERNEL_{key.upper().replace('.', '_')}"


def choices_layer(chosen: Mapping[str, str], allow: Mapping[str, Limit], *, source: str) -> list[Layer]:
    """Return a layer for each choice.

    :param chosen: values by the variables' names
    :param allow: limits by key, as the kernelspec has them
    :param source: the kernelspec's path
    :raises ChoiceRefused: one line for each that is unknown, not left open, beyond its limit, or not valid
    """
    keys = {variable(key): key for key in choosable()}
    layers: list[Layer] = []
    lines: list[str] = []
    for name, text in sorted(chosen.items()):
        if (key := keys.get(name)) is None:
            near = nearest(name, among=list(keys))
            lines.append(f"{name}: there is no such choice" + (f"; did you mean {near}?" if near else ""))
        elif key not in allow:
            lines.append(f'{name}="{text}": {source} does not list {key} under allow')
        else:
            try:
                layers.append(_chosen(key, text, allow[key], source=source))
            except ChoiceRefused as error:
                lines.append(str(error))
    if lines:
        listed = ", ".join(f"{key} ({_words(limit)})" for key, limit in allow.items())
        raise ChoiceRefused(
            "The kernelspec does not let this start choose that.",
            said="\n".join(lines),
            hint=f"It may choose {listed}."
            if listed
            else f"Nothing can be chosen: leave it out, or add allow to {source}.",
        )
    return layers


def _chosen(key: str, text: str, limit: Limit, *, source: str) -> Layer:
    where = f'{variable(key)}="{text}"'
    value: Any = text
    try:
        request = parse_request(nested(key, value), source=where)
    except RequestError as error:
        try:  # a number, a flag, a list
            value = json.loads(text)
            request = parse_request(nested(key, value), source=where)
        except (ValueError, RecursionError, RequestError):
            raise ChoiceRefused(str(error)) from None
    if not within(key, request, limit):
        raise ChoiceRefused(f"{where}: {source} allows {key} {_words(limit)}")
    return Layer(where, nested(key, value))


def within(key: str, request: Request, limit: Limit) -> bool:
    """Whether what a request has for a key is within a limit of `allow`."""
    if limit is True:
        return True
    value = _value(key, request)
    if value is None:
        return False
    if key == "slurm.gpus":
        return gpus_within(str(value), str(limit))
    if is_amount(key):
        read = READERS.get(key.removeprefix("slurm."), float)
        asked, most = read(str(value)), read(str(_value(key, parse_request(nested(key, limit), source=""))))
        return asked is not None and most is not None and asked <= most
    patterns = limit if isinstance(limit, tuple) else ()
    kind = key.partition(".")[2]
    members = SEPARATORS[kind](str(value)) if kind in SEPARATORS else [str(value)]
    return str(value) in patterns or (bool(members) and all(matches(kind, member, patterns) for member in members))


def _value(key: str, request: Request) -> object:
    section, _, field = key.partition(".")
    return getattr(getattr(request, section), field)


def _words(limit: Limit) -> str:
    if limit is True:
        return "anything"
    return f"of {', '.join(limit)}" if isinstance(limit, tuple) else f"up to {limit}"
