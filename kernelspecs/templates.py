"""The kernelspecs that come with farkernel, and what a user may change in them.

A template is a folder beside this module: a kernel.json and its logos. Nothing here writes a file.
"""

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from farkernel.provisioners.errors import FarkernelError, RequestError

KERNEL_FILE = "kernel.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user asks to be different from the template; None leaves it as it is."""

    display_name: str | None = None
    python: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    constraint: str | None = None
    image: str | None = None

    @property
    def slurm(self) -> dict[str, str]:
        """The settings that belong into the config's `slurm` part."""
        asked = {"account": self.account, "qos": self.qos, "time": self.time, "constraint": self.constraint}
        return {key: value for key, value in asked.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Template:
    """One kernelspec: its name, the content of its kernel.json, and its logos' bytes by file name."""

    name: str
    spec: dict[str, Any]
    logos: dict[str, bytes]

    @property
    def display_name(self) -> str:
        """What JupyterLab's launcher shows."""
        return str(self.spec["display_name"])

    @property
    def provisioner(self) -> str:
        """The name of the provisioner that starts its kernels."""
        return str(self.spec["metadata"]["kernel_provisioner"]["provisioner_name"])

    @property
    def in_image(self) -> bool:
        """Whether its kernels run in an image, by a Python of the image."""
        return "container" in self.config

    @property
    def config(self) -> dict[str, Any]:
        """The provisioner's config, empty when the kernelspec gives none."""
        return dict(self.spec["metadata"]["kernel_provisioner"].get("config", {}))


def template_names() -> list[str]:
    """Name every template, in alphabetical order."""
    return sorted(entry.name for entry in _folder().iterdir() if entry.joinpath(KERNEL_FILE).is_file())


def load_template(name: str) -> Template:
    """Read one template.

    :raises FarkernelError: there is no template of that name
    """
    names = template_names()
    if name not in names:
        raise FarkernelError(f"There is no kernelspec template {name!r}.", hint=f"There are: {', '.join(names)}.")
    folder = _folder() / name
    spec = json.loads((folder / KERNEL_FILE).read_text("utf-8"))
    logos = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.startswith("logo-")}
    return Template(name, spec, logos)


def apply_settings(template: Template, settings: Settings) -> Template:
    """Give a copy of the template with the user's settings in it.

    :raises RequestError: a Slurm setting for a template that runs without Slurm
    """
    spec = json.loads(json.dumps(template.spec))
    if settings.display_name is not None:
        spec["display_name"] = settings.display_name
    if settings.python is not None:
        spec["argv"][0] = _program(settings.python)
    if settings.image is not None:
        config = spec["metadata"]["kernel_provisioner"].get("config", {})
        if "container" not in config:
            raise RequestError(
                f"The template {template.name!r} runs its kernels in no image: --image cannot apply.",
                hint="Leave it out, or choose a template with a container, such as cori-knl-shifter.",
            )
        config["container"]["image"] = settings.image
    if settings.slurm:
        config = spec["metadata"]["kernel_provisioner"].get("config", {})
        if "slurm" not in config:
            options = ", ".join(f"--{key}" for key in settings.slurm)
            raise RequestError(
                f"The template {template.name!r} runs its kernels without Slurm: {options} cannot apply.",
                hint="Leave it out, or choose a template for compute nodes.",
            )
        config["slurm"].update(settings.slurm)
    return replace(template, spec=spec)


def _folder() -> Traversable:
    return files("farkernel.kernelspecs")


def _program(python: str) -> str:
    """Make a path absolute, links kept (a virtual environment's python is one); a bare name stays bare."""
    return str(Path(python).expanduser().absolute()) if "/" in python else python
