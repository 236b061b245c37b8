"""The rules that a policy has, each by itself, for whoever wants to know what holds. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from farkernel.provisioners.layers import leaves
from farkernel.provisioners.policy import Policy, policy_fields
from farkernel.provisioners.policy_lines import line_of


@dataclass(frozen=True)
class Rule:
    """One rule.

    :param key: as the file has it, such as `allowed.qos`
    :param value: the same
    :param holds: what may be, or must be, in words
    :param about: what the rule is about
    :param line: in the file, from 1
    """

    key: str
    value: Any
    holds: str
    about: str
    line: int


def rules(policy: Policy, text: str) -> list[Rule]:
    """Return the rules of a policy, in the order of the file.

    :param text: the file's
    """
    fields = policy_fields()
    found = []
    for key, value, holds in _found(policy):
        about = fields["defaults" if key.startswith("defaults.") else key].description or ""
        found.append(Rule(key, value, holds, about.partition(";")[0].rstrip("."), line_of(text, key.split("."))))
    return sorted(found, key=lambda rule: rule.line)


def _found(policy: Policy) -> Iterator[tuple[str, Any, str]]:
    for key, value in leaves(policy.defaults).items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"defaults.{key}", value, f"{shown}, unless another is given"
    if policy.required:
        yield "required", policy.required, ", ".join(policy.required)
    for name, patterns in policy.allowed:
        if patterns is not None:
            yield f"allowed.{name}", patterns, ", ".join(patterns) or "nothing"
    for name, most in policy.maximum:
        if most is not None:
            yield f"maximum.{name}", most, f"at most {most}"
    if policy.forbidden_options:
        names = [f"--{name}" for name in policy.forbidden_options]
        yield "forbidden_options", names, f"not {', '.join(names)}"
    if policy.never_pass:
        yield "never_pass", policy.never_pass, f"not {', '.join(policy.never_pass)}"
