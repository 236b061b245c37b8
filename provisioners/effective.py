"""The one place where a kernelspec's config becomes the request that is in force."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from farkernel.provisioners import environment
from farkernel.provisioners.errors import RequestError, VariableNotValid
from farkernel.provisioners.job_templates import JobTemplates, job_templates
from farkernel.provisioners.layers import Layer, check_layer, leaves, merged, origin, without
from farkernel.provisioners.per_launch import choices_layer
from farkernel.provisioners.policy import Policy, variables_layer, without_options
from farkernel.provisioners.policy_check import InForce
from farkernel.provisioners.policy_file import site_policy
from farkernel.provisioners.request import Request, parse_request, request_keys


@dataclass(frozen=True)
class Effective:
    """A request, and what it was made of.

    :param layers: the lowest first; `layers.origin` tells which of them a key comes from
    :param own: those of them that are the kernelspec's and the job templates' that it extends
    :param policy: the site's; None if it has none
    """

    request: Request
    layers: tuple[Layer, ...]
    own: tuple[Layer, ...] = ()
    policy: InForce | None = None

    def check(self, *, slurm: bool = True, part: bool = False) -> None:
        """See whether the site's policy allows it.

        :param slurm: it becomes a job, not a process of this machine
        :param part: it is a part of a request: what has to be given may be elsewhere
        :raises PolicyRefused: it does not
        """
        if self.policy:
            origins = {key: source for key in request_keys() if (source := origin(self.layers, key))}
            self.policy.check(self.request, origins, slurm=slurm, part=part)

    def passed(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that the policy lets reach a job or a kernel."""
        return {name: value for name, value in env.items() if not self.policy or self.policy.policy.passes(name)}

    def submitted(self, env: Mapping[str, str], *, slurm: bool = True) -> dict[str, str]:
        """Return what of an environment the policy lets reach srun, for which its options are in the request."""
        passed = self.passed(env)
        return without_options(passed) if slurm and self.policy else passed


NO_POLICY = InForce(Policy(), "")
"""For what is to be read although the site's policy cannot be used."""


def effective(
    config: Mapping[str, Any],
    *,
    source: str,
    env: Mapping[str, str] | None = None,
    server: Mapping[str, str] | None = None,
    named: Collection[str] = (),
    chosen: Mapping[str, str] | None = None,
    slurm: bool = True,
    templates: JobTemplates | None = None,
    policy: InForce | None = None,
) -> Effective:
    """Return what a kernelspec's config asks for, with all that it extends.

    From the lowest layer to the highest: the policy's defaults, srun's variables where there is a policy, job
    templates, the kernelspec, and what this start has chosen. A start gives all of the environment; who looks at a
    kernelspec from here gives this process's with the kernelspec's variables; without any no variable counts, as for
    a part of a request.

    :param config: `metadata.kernel_provisioner.config` as JSON gives it
    :param source: where it comes from, usually the path of the kernel.json; messages begin with it
    :param env: what Jupyter wants the kernel to have: the server's, the kernelspec's and the session's variables
    :param server: the server's own environment, of which nothing counts behind a `login`
    :param named: the variables of the kernelspec
    :param chosen: the variables KERNEL_... of this start
    :param slurm: it becomes a job, not a process of this machine
    :param templates: the job templates that there are; this user's on this host if None
    :param policy: the one in force; this host's if None
    :raises RequestError: something is not valid: source, dotted key, value, what is expected
    :raises VariableNotValid: a variable of srun's is not, and counts
    :raises PolicyUnusable: the site's policy cannot be used
    :raises ChoiceRefused: the kernelspec does not leave open what was chosen
    """
    policy, templates = policy or site_policy(), templates or job_templates()
    own = templates.layers(Layer(source, config))
    layers = default_layers(policy, templates, extends=not any("extends" in layer.config for layer in own))
    if not slurm:
        _check_this_host(own, source)
        layers = [replace(layer, config=without(layer.config, {"login": None})) for layer in layers]
    elif policy:
        elsewhere = merged([*layers, *own]).get("login") is not None
        env, server = env or {}, server or {}
        count = environment.for_kernel(env, server, named) if elsewhere else environment.for_submission(env, server)
        layers += _variables(count, leaves(merged(own)))
    layers += own
    allow = parse_request(merged(layers), source=source).allow
    layers += choices_layer(chosen or {}, allow, source=source)
    whole = Effective(parse_request(merged(layers), source=source), tuple(layers), tuple(own), policy)
    container = whole.request.container
    if (passed := whole.passed(container.env)) == container.env:
        return whole
    container = container.model_copy(update={"env": passed})
    return replace(whole, request=whole.request.model_copy(update={"container": container}))


def _check_this_host(own: Sequence[Layer], source: str) -> None:
    """See that a kernel of this machine is not to run behind another one.

    :raises RequestError: it is
    """
    if (login := merged(own).get("login")) is None:
        return
    where = origin(own, "login")
    given = login if where == source else f"{login} (from {where})"
    remedy = "Remove it" if where == source else 'Give "login": null in the kernelspec'
    raise RequestError(
        f"{source}: login: {given} is another host, and farkernel-local runs kernels on this one",
        hint=f"{remedy}, or write farkernel-slurm in provisioner_name.",
    )


def _variables(env: Mapping[str, str], given: Collection[str]) -> list[Layer]:
    """Return a layer for each of srun's variables.

    :param given: the keys that higher layers give: for these no variable counts, valid or not
    :raises VariableNotValid: one that counts is not valid
    """
    layers, flaws = [], {}
    for name, text in sorted(env.items()):
        if not (config := variables_layer({name: text})):
            continue
        value = json.dumps(text, ensure_ascii=False)
        layer = Layer(f"{name}={value}", config)
        try:
            check_layer(layer)
        except RequestError as error:
            if not leaves(config).keys() <= set(given):
                flaws[name] = value, str(error).removeprefix(f"{layer.source}: ")
        else:
            layers.append(layer)
    if flaws:
        raise VariableNotValid(flaws)
    return layers


def default_layers(policy: InForce | None, templates: JobTemplates, *, extends: bool = True) -> list[Layer]:
    """Return what holds where a kernelspec says nothing, the lowest layer first.

    :param extends: whether the job template counts that the policy's defaults extend: a kernelspec's takes its place
    :raises TemplateNotFound: there is no such template
    """
    if policy is None:
        return []
    *lowest, defaults = policy.policy.layers(policy.source)
    return [*lowest, *(templates.layers(defaults) if extends else [defaults])]
