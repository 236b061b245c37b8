"""What of a valid policy cannot be meant so: it contradicts itself, or names what there is not. No I/O."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.layers import Layer, merged, origin
from farkernel.provisioners.policy import Flaw, Policy
from farkernel.provisioners.policy_check import refusals
from farkernel.provisioners.policy_lines import line_of
from farkernel.provisioners.request import nearest, parse_request, request_keys
from farkernel.provisioners.srun_options import FORBIDDEN, is_option, near_options


def contradictions(policy: Policy, text: str, *, layers: Sequence[Layer], runtimes: Collection[str]) -> list[Flaw]:
    """Return what an administrator has to look at again, by line; none of it keeps the policy from being read.

    :param text: the file's
    :param layers: what holds for a kernelspec that says nothing, see `effective.default_layers`
    :param runtimes: the container runtimes that there are
    """
    found = [*_defaults(policy, layers), *_required(policy), *_runtimes(policy, runtimes), *_options(policy)]
    found += [*_forbidden_keys(policy), *_variables(policy)]
    flaws = [Flaw(key, what, cure, line_of(text, key.split("."))) for key, what, cure in found]
    return sorted(flaws, key=lambda flaw: flaw.line)


_Found = Iterator[tuple[str, str, str]]


def _defaults(policy: Policy, layers: Sequence[Layer]) -> _Found:
    """See whether a kernelspec that says nothing would be refused for what the policy itself gives it."""
    cure = "Change the default, or what is allowed: a kernelspec that does not give this itself is refused."
    try:
        request = parse_request(merged(layers), source="defaults")
    except RequestError as error:  # a job template is not valid, or does not go with the defaults
        yield "defaults", str(error), "Correct the job template, or the defaults."
        return
    origins = {key: source for key in request_keys() if (source := origin(layers, key))}
    for refusal in refusals(policy, request, origins):
        if refusal.key in origins:  # what nobody gives is a kernelspec's matter
            yield f"defaults.{refusal.key}", str(refusal), cure


_NAMED = {
    "slurm.account": "account",
    "slurm.qos": "qos",
    "slurm.partition": "partition",
    "slurm.constraint": "constraint",
    "slurm.reservation": "reservation",
    "container.runtime": "runtime",
    "container.image": "image",
    "login": "login",
}


def _required(policy: Policy) -> _Found:
    """See whether there is a key that has to be given, and whose every value is refused, or that is always given."""
    if "slurm.time" in policy.required and policy.maximum.time:
        what = f"slurm.time is given wherever nothing names it: {policy.shown('maximum', 'time')}"
        yield "required", what, "Remove slurm.time here: it can keep nothing from starting."
    for key in policy.required:
        name = _NAMED.get(key, "")
        if name and getattr(policy.allowed, name) == ():
            rule = policy.shown("allowed", name)
        elif key == "container.image" and policy.allowed.runtime and set(policy.allowed.runtime) == {"none"}:
            rule = f"{policy.shown('allowed', 'runtime')}, which is in no image"
        else:
            continue
        yield (
            "required",
            f"{key} has to be given, and no value is allowed: {rule}",
            f"Remove {key} here, or allow some.",
        )


def _runtimes(policy: Policy, runtimes: Collection[str]) -> _Found:
    patterns = policy.allowed.runtime
    if patterns is None:
        return
    there = {*runtimes, "none"}
    for name in patterns:
        if not re.search(r"[*?[]", name) and name not in there:
            near = nearest(name, among=sorted(there))
            cure = f"Write {near}." if near else f"There are {', '.join(sorted(there))}."
            yield "allowed.runtime", f'there is no container runtime "{name}" here', cure
    if set(patterns) <= {"none"} and policy.allowed.image:
        what = f"no image can be used: {policy.shown('allowed', 'runtime')}"
        yield "allowed.image", what, "Remove it, or allow a runtime."


def _options(policy: Policy) -> _Found:
    for name in policy.forbidden_options:
        if name in FORBIDDEN:
            what = f"--{name} is refused without it: {FORBIDDEN[name]}"
            yield "forbidden_options", what, "Remove it."
        elif not is_option(name):
            near = " or ".join(f"--{each}" for each in near_options(name))
            cure = (
                f"Write {near}, unless a plugin has it." if near else "See that a plugin of this site's Slurm has it."
            )
            yield "forbidden_options", f"srun itself has no option --{name} that farkernel knows", cure


_SAME = {
    **{name: (f"slurm.{name}", (f"allowed.{name}",)) for name in ("account", "qos", "partition", "constraint")},
    **{name: (f"slurm.{name}", (f"maximum.{name}",)) for name in ("nodes", "time", "gpus", "mem")},
    "reservation": ("slurm.reservation", ("allowed.reservation",)),
    "gres": ("slurm.gres", ("maximum.gpus",)),
    "cpus-per-task": ("slurm.cpus_per_task", ("maximum.cpus_per_node", "maximum.cpus")),
    "ntasks-per-node": ("slurm.ntasks_per_node", ("maximum.cpus_per_node", "maximum.cpus")),
    "licenses": ("slurm.licenses", ()),
    "bb": ("slurm.burst_buffer", ()),
    "bbf": ("slurm.burst_buffer", ()),
    "job-name": ("slurm.job_name", ()),
    "comment": ("slurm.comment", ()),
}
"""Options of srun that a key of a request is, too: the key, and the rules that limit both."""


def _forbidden_keys(policy: Policy) -> _Found:
    """See whether an option is forbidden that a key still gives."""
    for name in policy.forbidden_options:
        key, rules = _SAME.get(name, ("", ()))
        if key and not any(_has(policy, rule) for rule in rules):
            cure = f"Limit both by {' or '.join(rules)}." if rules else f"No rule limits {key}: Slurm itself has to."
            yield "forbidden_options", f"--{name} is forbidden in slurm.extra_args alone: {key} still gives it", cure


def _has(policy: Policy, rule: str) -> bool:
    section, _, name = rule.partition(".")
    return getattr(getattr(policy, section), name) is not None


_NEEDED = ("PATH", "HOME", "USER")


def _variables(policy: Policy) -> _Found:
    if missing := [name for name in _NEEDED if not policy.passes(name)]:
        what = f"{', '.join(missing)} would reach neither srun nor a kernel, which need it"
        yield "never_pass", what, "Write narrower patterns."
