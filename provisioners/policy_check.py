"""Whether the site's policy allows a request. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from farkernel.provisioners.errors import PolicyRefused, Refusal
from farkernel.provisioners.limits import (
    READERS,
    SEPARATORS,
    Place,
    asked,
    gpus_by_type,
    gpus_together,
    matches,
    nodes_asked,
)
from farkernel.provisioners.per_launch import variable
from farkernel.provisioners.policy import Allowed, Policy
from farkernel.provisioners.request import Request, SlurmRequest
from farkernel.provisioners.srun_options import Option, read_options

Refuse = Callable[..., Refusal]
"""Takes a key, the text and what else a refusal has; it knows where the key comes from."""


@dataclass(frozen=True)
class InForce:
    """A policy and the file that it comes from."""

    policy: Policy
    source: str

    def check(self, request: Request, origins: Mapping[str, str], *, slurm: bool = True, part: bool = False) -> None:
        """See whether a whole request is allowed.

        :param origins: where each of its keys comes from, by key
        :param slurm: it becomes a job; else a process of this machine, to which what is Slurm's means nothing
        :param part: it is a part of a request: what has to be given may be elsewhere
        :raises PolicyRefused: it is not: one line for each rule
        """
        if found := refusals(self.policy, request, origins, slurm=slurm, part=part):
            raise PolicyRefused(
                f"The policy of this site, {self.source}, does not allow this kernel.",
                said="\n".join(map(str, found)),
                refusals=found,
                hint="Change it where it is said, or give what is missing. `farkernel policy show` lists the rules; the"
                " site's support knows why they are so.",
            )

    def check_counts(self, kernels: int, jobs: int | None) -> None:
        """See whether a user may have one more kernel.

        :param kernels: how many there are
        :param jobs: how many jobs Slurm has of the user; None for a kernel that needs none
        :raises PolicyRefused: there are enough
        """
        most = self.policy.maximum
        lines = []
        if most.kernels_per_user is not None and kernels >= most.kernels_per_user:
            lines.append(f"your kernels: {kernels}: {self.policy.shown('maximum', 'kernels_per_user')}")
        if most.jobs_per_user is not None and jobs is not None and jobs >= most.jobs_per_user:
            lines.append(f"your jobs in Slurm's queue: {jobs}: {self.policy.shown('maximum', 'jobs_per_user')}")
        if lines:
            raise PolicyRefused(
                f"The policy of this site, {self.source}, does not allow one more kernel.",
                said="\n".join(lines),
                hint="End one: `farkernel ps` lists your kernels on all hosts, `squeue --me` your jobs.",
            )


def refusals(
    policy: Policy, request: Request, origins: Mapping[str, str], *, slurm: bool = True, part: bool = False
) -> list[Refusal]:
    """Say what of a request is not allowed: something for each rule; empty if all is.

    The arguments are those of `InForce.check`.
    """
    given = request.model_dump(exclude_none=True)

    def refuse(key: str, text: str, words: str = "", *, missing: bool = False) -> Refusal:
        return Refusal(key, text, origins.get(key, ""), words, missing)

    found = [
        Refusal(
            key,
            f"has to be given{f', or chosen by {variable(key)}' if key in request.allow else ''}: required has {key}",
            missing=True,
        )
        for key in policy.required
        if not part and (slurm or not key.startswith("slurm.")) and (key not in origins or _get(given, key) is None)
    ]
    found += _container(policy, request, refuse)
    if slurm:
        found += _login(policy, request, refuse)
        found += _extra_args(policy, request, refuse)
        found += _named(policy, request, refuse)
        found += _amounts(policy, request, refuse)
    return list(dict.fromkeys(found))


def _get(given: Mapping[str, Any], key: str) -> Any:
    value: Any = given
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _limits_anything(policy: Policy) -> bool:
    return bool(policy.allowed.model_dump(exclude_none=True) or policy.maximum.model_dump(exclude_none=True))


def _named(policy: Policy, request: Request, refuse: Refuse) -> list[Refusal]:
    """Look at what names something: in its own key, and in extra_args."""
    found = []
    for name in ("account", "qos", "partition", "constraint", "reservation"):
        patterns = getattr(policy.allowed, name)
        if patterns is None:
            continue
        for value, (key, words) in asked(request.slurm, name):
            refused = [member for member in SEPARATORS[name](value) if not matches(name, member, patterns)]
            if refused or not SEPARATORS[name](value):
                what = f'"{value}"' if refused in ([value], []) else f'"{refused[0]}" in "{value}"'
                found.append(refuse(key, f"{what}: {policy.shown('allowed', name)}", words))
    return found


def _container(policy: Policy, request: Request, refuse: Refuse) -> list[Refusal]:
    allowed, container = policy.allowed, request.container
    found = []
    if allowed.runtime is not None and not matches("runtime", container.runtime, allowed.runtime):
        found.append(refuse("container.runtime", f'"{container.runtime}": {policy.shown("allowed", "runtime")}'))
    if allowed.image is not None and container.image:
        kind = "image" if container.runtime == "shifter" else "file"
        if not matches(kind, container.image, allowed.image):
            found.append(refuse("container.image", f'"{container.image}": {policy.shown("allowed", "image")}'))
    if allowed.container_args is not None or allowed.image is not None or allowed.runtime is not None:
        patterns = allowed.container_args or ()
        rule = policy.shown("allowed", "container_args") if patterns else "allowed.container_args does not name it"
        found += [
            refuse("container.args", f'"{word}": {rule}')
            for word in container.args
            if not matches("word", word, patterns)
        ]
    if allowed.image is not None:
        found += [
            refuse("container.env", f"{name} is not allowed: it could name another image")
            for name in container.env
            if name.startswith(("SHIFTER_", "SLURM_SPANK_", "_SLURM_SPANK"))
        ]
    return found


def _login(policy: Policy, request: Request, refuse: Refuse) -> list[Refusal]:
    if policy.allowed.login is None or request.login is None:
        return []
    host = request.login.rpartition("@")[2]
    if matches("login", host, policy.allowed.login):
        return []
    return [refuse("login", f'"{request.login}": {policy.shown("allowed", "login")}')]


_MANY_NODES = frozenset({"nodefile", "spread-job"})

_BESIDE: dict[str, frozenset[str]] = {
    "nodes": _MANY_NODES | {"ntasks-per-gpu"},
    "gpus": _MANY_NODES | {"gpus-per-node", "gpus-per-task", "gpus-per-socket", "ntasks-per-gpu"},
    "cpus": (
        _MANY_NODES
        | {"cpus-per-gpu", "cpus-per-task", "mincpus", "ntasks-per-node", "ntasks-per-core", "ntasks-per-socket"}
        | {"ntasks-per-gpu", "extra-node-info", "cores-per-socket", "sockets-per-node", "threads-per-core"}
        | {"threads", "core-spec", "thread-spec", "overcommit", "hint"}
    ),
    "mem": frozenset({"mem-per-cpu", "mem-per-gpu"}),
    "constraint": frozenset({"cluster-constraint"}),
    "image": frozenset({"container"}),
    "runtime": frozenset({"container"}),
}
"""Options that change what a rule is about in a way that is not counted here."""

_INSTEAD = {
    "nodes": "slurm.nodes",
    "gpus": "slurm.gpus",
    "cpus": "slurm.cpus_per_task and slurm.ntasks_per_node",
    "mem": "slurm.mem",
    "constraint": "slurm.constraint",
    "image": "container.image",
    "runtime": "container.runtime",
}


def _extra_args(policy: Policy, request: Request, refuse: Refuse) -> list[Refusal]:
    """Look at options that are forbidden, unknown, or cannot be counted."""
    found = []
    limits = _rules(policy)
    for option in read_options(request.slurm.extra_args):
        if forbidden := _forbidden(policy, option):
            why = [f"forbidden_options has --{forbidden}"]
        elif not option.names:
            fine = matches("word", option.word, policy.allowed.extra_args or ()) or not _limits_anything(policy)
            why = (
                [] if fine else ["farkernel does not know what this asks for, and allowed.extra_args does not name it"]
            )
        else:
            beside = [rule for rule in limits if _BESIDE.get(rule, frozenset()).intersection(option.names)]
            why = [f"use {_INSTEAD[rule]}, which the policy can limit: {limits[rule]}" for rule in beside]
        found += [refuse("slurm.extra_args", f'"{option.word}": {each}') for each in why]
    return found


def _forbidden(policy: Policy, option: Option) -> str:
    names = {*option.names, option.name}
    if option.word.startswith("--") and option.name not in option.names:  # it may be an abbreviation, of a plugin's too
        names |= {name for name in policy.forbidden_options if name.startswith(option.name)}
    return next((name for name in policy.forbidden_options if name in names), "")


def _rules(policy: Policy) -> dict[str, str]:
    """Return the rules that there are, each with its words in the file."""
    most, allowed = policy.maximum, policy.allowed
    rules = {name: policy.shown("allowed", name) for name in Allowed.model_fields if getattr(allowed, name) is not None}
    rules |= {
        name: policy.shown("maximum", name) for name in ("nodes", "gpus", "mem") if getattr(most, name) is not None
    }
    for name in ("cpus", "cpus_per_node"):
        if getattr(most, name) is not None:
            rules["cpus"] = policy.shown("maximum", name)
    return rules


def _amounts(policy: Policy, request: Request, refuse: Refuse) -> list[Refusal]:
    """Look at what is counted."""
    most, slurm = policy.maximum, request.slurm
    on_nodes = nodes_asked(slurm)
    nodes = max((math.inf if count is None else count for _, _, count in on_nodes), default=1)
    counted = [("nodes", *each) for each in on_nodes]
    for name, read in READERS.items():
        counted += [(name, text, place, read(text)) for text, place in asked(slurm, name)]
    counted += [("gpus", *each) for each in _gpus(slurm, nodes)]
    found = [
        refuse(
            key, f"{text}{', which cannot be counted' if count is None else ''}: {policy.shown('maximum', name)}", words
        )
        for name, text, (key, words), count in counted
        if _is_beyond(name, count, getattr(most, name))
    ]
    if most.time is not None and not asked(slurm, "time"):  # a kernelspec may take back what a lower layer gives
        found.append(refuse("slurm.time", f"has to be given: {policy.shown('maximum', 'time')}", missing=True))
    if most.gpus is not None and slurm.exclusive:
        found.append(refuse("slurm.exclusive", f"takes all GPUs of a node: {policy.shown('maximum', 'gpus')}"))
    return found + _cpus(policy, request, refuse, nodes)


def _is_beyond(name: str, count: float | None, most: object) -> bool:
    if most is None:
        return False
    limit = READERS.get(name, float)(str(most))
    return count is None or limit is None or count > limit


def _gpus(slurm: SlurmRequest, nodes: float) -> list[tuple[str, Place, float | None]]:
    """Return what asks for GPUs, where it stands, and how many they are on all nodes; what all of it asks for last."""
    on = f" on {_number(nodes)} nodes" if nodes > 1 else ""
    found: list[tuple[str, Place, dict[str, float] | None]] = []
    for text, place in asked(slurm, "gpus"):
        found.append((text, place, _times(gpus_by_type(text), 1)))
    for text, place in asked(slurm, "gres"):
        found.append((f"{text}{on}", place, _times(gpus_by_type(text, gres=True), nodes)))
    each = [(text, place, None if counts is None else sum(counts.values())) for text, place, counts in found]
    together = gpus_together(counts for _, _, counts in found if counts)
    if together > max((count or 0 for _, _, count in each), default=0):
        texts = [text for text, _, counts in found if counts]
        each.append((f"{' and '.join(texts)} together", found[-1][1], together))
    return each


def _number(count: float) -> str:
    return f"{count:g}" if math.isfinite(count) else "any number of"  # where it cannot be counted


def _times(counts: Mapping[str, int] | None, nodes: float) -> dict[str, float] | None:
    return None if counts is None else {kind: count * nodes for kind, count in counts.items() if count}


def _cpus(policy: Policy, request: Request, refuse: Refuse, nodes: float) -> list[Refusal]:
    most, slurm = policy.maximum, request.slurm
    rules = [name for name in ("cpus_per_node", "cpus") if getattr(most, name) is not None]
    if rules and slurm.exclusive:
        return [refuse("slurm.exclusive", f"takes all CPUs of a node: {policy.shown('maximum', rules[0])}")]
    on_node = (slurm.ntasks_per_node or 1) * (slurm.cpus_per_task or 1)
    keys = [key for key in ("cpus_per_task", "ntasks_per_node") if getattr(slurm, key)]
    key = f"slurm.{keys[0]}" if keys else "slurm.nodes"
    found = []
    for name in rules:
        count = on_node if name == "cpus_per_node" else on_node * nodes
        if count > getattr(most, name):
            found.append(refuse(key, f"{_number(count)} CPUs: {policy.shown('maximum', name)}"))
    return found
