"""Any kernel's kernelspec, made one that runs on a compute node. Nothing is written here."""

import copy
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from farkernel.kernelspecs.check import check_jupyters
from farkernel.kernelspecs.existing import Existing
from farkernel.kernelspecs.flaws import PROXIES
from farkernel.kernelspecs.folder import Content
from farkernel.kernelspecs.model import PROVISIONER_PREFIX
from farkernel.kernelspecs.templates import Template
from farkernel.provisioners.effective import NO_POLICY, effective
from farkernel.provisioners.errors import FarkernelError, PolicyUnusable, RequestError
from farkernel.provisioners.job_templates import job_templates
from farkernel.provisioners.layers import Layer, check_layer, leaves, merged, without
from farkernel.provisioners.request import Request

PROVISIONER = "farkernel-slurm"

_JUPYTERS_OWN = "local-provisioner"
_GATEWAYS_OWN = re.compile(r"enterprise_gateway\.services\.processproxies\.processproxy\.LocalProcessProxy")


@dataclass(frozen=True, slots=True)
class Here:
    """What a bare `python3` means to a Jupyter of this Python.

    :param python: the Python's path
    :param bare: the names that jupyter_client replaces by it
    """

    python: str
    bare: tuple[str, ...]


def this_python() -> Here:
    """Return this Python, as jupyter_client's `format_kernel_cmd` puts it in place of a bare name."""
    major, minor = sys.version_info[:2]
    return Here(sys.executable, ("python", f"python{major}", f"python{major}.{minor}"))


@dataclass(frozen=True, slots=True)
class Wrapped:
    """The kernelspec that is to be written.

    :param remarks: what the user should know of it, in sentences
    """

    content: Content
    remarks: tuple[str, ...] = ()


def wrap(
    existing: Existing,
    changes: Mapping[str, Any],
    *,
    here: Here,
    runtime: Callable[[], str],
    display_name: str | None = None,
    python: str | None = None,
    provisioner: str = PROVISIONER,
) -> Wrapped:
    """Return the kernelspec that runs the same kernel by farkernel.

    :param changes: what is asked for, a config; on top of that of a kernelspec that is farkernel's already
    :param runtime: names the container runtime of an image that comes without one
    :param display_name: what JupyterLab's launcher shows; made of the old one if None
    :param python: the program that `argv` begins with; the kernelspec's own if None
    :param provisioner: what starts its kernels; in jobs of Slurm by default
    :raises RequestError: it is no valid kernelspec, or what is asked for is not valid
    :raises FarkernelError: another provisioner, or process proxy, starts its kernels
    """
    check_jupyters({"display_name": "Kernel"} | existing.content.spec, source=existing.source)
    spec = copy.deepcopy(existing.content.spec)
    argv, metadata = spec["argv"], spec.get("metadata", {})
    old = _own_config(metadata, existing.source)
    low, hidden = _below(Layer(existing.source, old or {}), changes)
    check_layer(Layer("options", changes))
    config = merged([low, Layer("options", changes)])
    request = _asked(config, slurm=provisioner == PROVISIONER)
    in_image = bool(request.container.image)
    if in_image and request.container.runtime == "none":
        config = merged([Layer("options", config), Layer("this host", {"container": {"runtime": runtime()}})])
    first, remarks = _program(existing, here, in_image=in_image, elsewhere=bool(request.login), given=python)
    remarks += hidden
    spec["argv"] = [first, *argv[1:]]
    if display_name is not None:
        spec["display_name"] = display_name
    elif old is None or _provisioner(metadata) != provisioner:
        where = request.slurm.constraint or request.slurm.partition or "Slurm"
        spec["display_name"] = f"{spec.get('display_name', 'Kernel')} on {where}"
    proxy = metadata.get("process_proxy")
    users = proxy.get("config") if old is not None and isinstance(proxy, Mapping) else None
    spec["metadata"] = {
        **metadata,
        "kernel_provisioner": {"provisioner_name": provisioner, "config": config},
        "process_proxy": {"class_name": PROXIES[provisioner]} | ({"config": users} if users else {}),
    }
    if in_image and any("{prefix}" in word for word in spec["argv"]):
        remarks.append("{prefix} in argv is this host's, not the image's.")
    if in_image and any("{resource_dir}" in word for word in spec["argv"]):
        remarks.append("argv names a file of the kernelspec's folder: the image has to show that folder.")
    return Wrapped(replace(existing.content, spec=spec), tuple(remarks))


def from_template(
    template: Template,
    changes: Mapping[str, Any],
    *,
    here: Here,
    runtime: Callable[[], str],
    display_name: str | None = None,
    python: str | None = None,
) -> Wrapped:
    """Return what is installed of a kernelspec template; the arguments and errors are those of `wrap`.

    :raises RequestError: Slurm is asked for something, and its kernels run without it
    """
    only_jobs = [*(["login"] if changes.get("login") else []), *(f"slurm.{key}" for key in changes.get("slurm", {}))]
    if template.provisioner != PROVISIONER and only_jobs:
        keys = ", ".join(only_jobs)
        raise RequestError(
            f"The kernelspec template {template.name} runs kernels on this host, without Slurm: {keys} cannot apply.",
            hint="Leave it out, or choose a kernelspec template for compute nodes, such as cori-knl.",
        )
    existing = Existing(template.content, f"the kernelspec template {template.name}", Path())
    return wrap(
        existing,
        changes,
        here=here,
        runtime=runtime,
        display_name=display_name,
        python=python,
        provisioner=template.provisioner,
    )


def _asked(config: Mapping[str, Any], *, slurm: bool) -> Request:
    """Return what a config asks for, with what the site's policy gives."""
    try:
        return effective(config, source="options", slurm=slurm).request
    except PolicyUnusable:  # which whoever writes the kernelspec tells
        return effective(config, source="options", slurm=slurm, policy=NO_POLICY).request


def _below(old: Layer, changes: Mapping[str, Any]) -> tuple[Layer, list[str]]:
    """Return what lies below the changes, without what the job template gives that is among them; and what to say."""
    check_layer(old)
    if not changes.get("extends"):
        return old, []
    given = merged(job_templates().layers(Layer("options", {"extends": changes["extends"]})))
    rest = without(old.config, given)
    if not (gone := sorted(leaves(old.config).keys() - leaves(rest).keys() - {"extends"})):
        return Layer(old.source, rest), []
    remark = f"{', '.join(gone)}: what the job template {changes['extends']} gives counts, not what {old.source} gave."
    return Layer(old.source, rest), [remark]


def _provisioner(metadata: Mapping[str, Any]) -> str:
    return str((metadata.get("kernel_provisioner") or {}).get("provisioner_name", ""))


def _own_config(metadata: Mapping[str, Any], source: str) -> Mapping[str, Any] | None:
    """Return the config of a kernelspec that is farkernel's already; None if nobody but Jupyter starts its kernels."""
    provisioner, proxy = metadata.get("kernel_provisioner") or {}, metadata.get("process_proxy") or {}
    if not isinstance(provisioner, Mapping) or not isinstance(proxy, Mapping):
        raise FarkernelError(f"{source}: metadata.kernel_provisioner and process_proxy: expected objects.")
    name = str(provisioner.get("provisioner_name", ""))
    if name.startswith(PROVISIONER_PREFIX):
        config = provisioner.get("config") or {}
        if not isinstance(config, Mapping):
            raise FarkernelError(f"{source}: metadata.kernel_provisioner.config: expected an object.")
        return config
    if name not in {"", _JUPYTERS_OWN}:
        raise FarkernelError(
            f"{source}: its kernels are started by another provisioner, {name}: farkernel cannot do so beside it.",
            hint="Wrap the kernelspec that this one was made from, or take metadata.kernel_provisioner out of a copy.",
        )
    kind = str(proxy.get("class_name", ""))
    if kind and not kind.startswith("farkernel.") and not _GATEWAYS_OWN.fullmatch(kind):
        raise FarkernelError(
            f"{source}: its argv is for another process proxy of Enterprise Gateway: {kind}.",
            hint="Wrap the kernel's own kernelspec, as a notebook server without a gateway would use it.",
        )
    return None


def _program(
    existing: Existing, here: Here, *, in_image: bool, elsewhere: bool, given: str | None
) -> tuple[str, list[str]]:
    """Return the program that argv begins with, and what is to be said of it."""
    first = str(existing.content.spec["argv"][0])
    if given is not None:
        here_or_on_nodes = "/" in given and not (in_image or elsewhere)
        # links are kept: a virtual environment's python is one
        return str(Path(given).expanduser().absolute()) if here_or_on_nodes else given, []
    if first in here.bare:
        if in_image and first == "python":  # which Debian's images have not
            return "python3", ["argv begins with python: python3, the image's own, is written."]
        if in_image:
            return first, [f"argv begins with {first}: the image's own."]
        if elsewhere:
            return first, [f"argv begins with {first}: it is looked up on the node; name another one with --python."]
        python = _of_prefix(existing, first) or here.python
        return python, [f"argv begins with {first}, by which Jupyter means {python}: that is written."]
    if in_image and first == here.python:
        return "python3", [f"argv begins with {first}, this host's: python3, the image's own, is written."]
    if in_image and first.startswith("/"):
        return first, [f"argv begins with {first}, which the image has to have; name another one with --python."]
    return first, []


def _of_prefix(existing: Existing, name: str) -> str | None:
    """Return the Python of the environment in which a folder lies that the user has named; it need not be Jupyter's."""
    if existing.by_path and existing.folder.parts[-4:-1] == ("share", "jupyter", "kernels"):
        python = Path(*existing.folder.parts[:-4], "bin", name)
        return str(python) if python.exists() else None
    return None
