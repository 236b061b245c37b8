"""The kernelspec templates: kernelspecs that come with farkernel, to be installed with changes.

One is a folder beside this module: a kernel.json and its logos. Nothing here writes a file. What kernelspecs extend are
job templates, see `provisioners.job_templates`.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from farkernel.kernelspecs.folder import KERNEL_FILE, Content, File
from farkernel.provisioners.errors import FarkernelError


@dataclass(frozen=True, slots=True)
class Template:
    """One kernelspec template: its name, its kernel.json and its logos."""

    name: str
    content: Content

    @property
    def spec(self) -> dict[str, Any]:
        """The content of kernel.json."""
        return self.content.spec

    @property
    def display_name(self) -> str:
        """What JupyterLab's launcher shows."""
        return str(self.spec["display_name"])

    @property
    def provisioner(self) -> str:
        """The name of the provisioner that starts its kernels."""
        return str(self.spec["metadata"]["kernel_provisioner"]["provisioner_name"])

    @property
    def config(self) -> dict[str, Any]:
        """The provisioner's config, empty when the kernelspec gives none."""
        return dict(self.spec["metadata"]["kernel_provisioner"].get("config", {}))


def template_names() -> list[str]:
    """Name every kernelspec template, in alphabetical order."""
    return sorted(entry.name for entry in _folder().iterdir() if entry.joinpath(KERNEL_FILE).is_file())


def load_template(name: str) -> Template:
    """Read one.

    :raises FarkernelError: there is none of that name
    """
    names = template_names()
    if name not in names:
        from farkernel.provisioners.request import those  # noqa: PLC0415  (loads pydantic)

        raise FarkernelError(f"There is no kernelspec template {name!r}.", hint=those(name, names))
    folder = _folder() / name
    spec = json.loads((folder / KERNEL_FILE).read_text("utf-8"))
    logos = {entry.name: File(entry.read_bytes()) for entry in folder.iterdir() if entry.name.startswith("logo-")}
    return Template(name, Content(spec, logos))


def _folder() -> Traversable:
    return files("farkernel.kernelspecs")
