"""Whether the container runtimes that kernelspecs name are on this host."""

import contextlib
import shutil
from collections.abc import Iterable

from farkernel.kernelspecs.install import Installed
from farkernel.provisioners.cli.findings import Finding, ok, warning
from farkernel.provisioners.cli.runtimes import program_of
from farkernel.provisioners.containers.base import Inside
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.effective import effective
from farkernel.provisioners.errors import PolicyUnusable, RequestError


def check_containers(specs: Iterable[Installed]) -> list[Finding]:
    """Look for the program of each kernelspec with an image; another check tells of those that are not valid."""
    found = []
    for spec in specs:
        with contextlib.suppress(RequestError, PolicyUnusable):
            found += _check(spec)
    return found


def _check(spec: Installed) -> list[Finding]:
    request = effective(spec.config, source=spec.source, slurm=spec.slurm).request
    container = container_of(request, source=spec.source)
    image = request.container.image
    if not image:
        return []
    subject = f"image of {spec.name}"
    if request.login:
        return [ok(subject, f"{image}, which is looked for by the nodes behind {request.login}")]
    program = program_of(container.command(Inside([spec.name], {}, home="/", cwd=["/"], directory="/tmp")))  # noqa: S108
    if path := shutil.which(program):
        return [ok(subject, f"{image}, by {path}; `farkernel images check --kernel {spec.name}` looks into it")]
    advice = f"If the nodes have it, `farkernel images check --kernel {spec.name} --on-node` says so."
    return [warning(subject, f"{image}: {program} is not on this host", advice)]
