"""Write a kernelspec to where Jupyter looks for it, and read back what is there."""

import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from farkernel.kernelspecs.templates import KERNEL_FILE, Template
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.request import parse_request

PROVISIONER_PREFIX = "farkernel-"
# Jupyter's own rule, without the names "." and "..", which it would accept and replace as a folder.
_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Installed:
    """A kernelspec that Jupyter finds and that farkernel starts.

    :param process_proxy: what it says to Enterprise Gateway
    """

    name: str
    folder: Path
    display_name: str
    provisioner: str
    config: dict[str, Any]
    process_proxy: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The file that holds it, as messages name it."""
        return str(self.folder / KERNEL_FILE)


def install(template: Template, *, name: str | None = None, prefix: Path | None = None, replace: bool = False) -> Path:
    """Install a kernelspec and give its folder.

    :param template: with the user's settings already applied
    :param name: what Jupyter knows it by; the template's own name when None
    :param prefix: installs below `PREFIX/share/jupyter/kernels`; for the user alone when None
    :param replace: overwrite a kernelspec of that name
    :raises RequestError: its config is not valid
    :raises FarkernelError: it exists, its name is not valid, or the place cannot be written
    """
    name = (name or template.name).lower()
    if not _NAME.fullmatch(name):
        raise FarkernelError(
            f"A kernelspec cannot be named {name!r}.",
            hint="It may have letters, digits, hyphens, underscores and, not as the first, full stops.",
        )
    manager = _manager()
    kernels = Path(manager.user_kernel_dir) if prefix is None else prefix.absolute() / "share/jupyter/kernels"
    destination = kernels / name
    if destination.exists() and not replace:
        raise FarkernelError(
            f"There is already a kernelspec {name!r} in {kernels}.",
            hint="Give another name with --name, or overwrite it with --replace.",
        )
    if destination.is_symlink():
        raise FarkernelError(f"{destination} is a link.", hint="Remove it, or give another name with --name.")
    with tempfile.TemporaryDirectory(prefix="farkernel-") as staging:
        source = _stage(template, Path(staging) / "kernelspec")
        _validate(source, shown_as=destination)
        try:
            written = manager.install_kernel_spec(
                str(source), name, user=prefix is None, prefix=None if prefix is None else str(prefix)
            )
        except OSError as error:
            raise FarkernelError(
                f"The kernelspec cannot be written to {destination}.",
                said=str(error),
                hint="Install it with --user, or choose a --prefix that you may write.",
            ) from error
    return Path(written)


def is_on_jupyter_path(folder: Path) -> bool:
    """Tell whether the Jupyter of this Python finds a kernelspec installed in this folder."""
    return str(folder.parent) in _manager().kernel_dirs


def installed() -> list[Installed]:
    """Find every kernelspec that names a farkernel provisioner, by name."""
    found = []
    for name, entry in sorted(_manager().get_all_specs().items()):
        spec = entry["spec"]
        provisioner = spec["metadata"].get("kernel_provisioner")
        if not isinstance(provisioner, dict):
            continue
        provisioner_name = str(provisioner.get("provisioner_name", ""))
        if provisioner_name.startswith(PROVISIONER_PREFIX):
            folder = Path(entry["resource_dir"])
            config, proxy = provisioner.get("config", {}), spec["metadata"].get("process_proxy")
            proxy = proxy if isinstance(proxy, dict) else {}
            found.append(Installed(name, folder, str(spec["display_name"]), provisioner_name, config, proxy))
    return found


def find_installed(name: str) -> Installed:
    """Find the one of that name.

    :raises FarkernelError: there is none
    """
    specs = {spec.name: spec for spec in installed()}
    if name not in specs:
        known = f"There are: {', '.join(specs)}." if specs else "None is installed."
        raise FarkernelError(f"There is no farkernel kernelspec {name!r}.", hint=known)
    return specs[name]


def _manager() -> KernelSpecManager:
    return KernelSpecManager(ensure_native_kernel=False)


def _stage(template: Template, folder: Path) -> Path:
    folder.mkdir(mode=0o755)
    (folder / KERNEL_FILE).write_text(json.dumps(template.spec, indent=2) + "\n", "utf-8")
    for file_name, content in template.logos.items():
        (folder / file_name).write_bytes(content)
    return folder


def _validate(staged: Path, *, shown_as: Path) -> None:
    """Read it as Jupyter will, and its config as the provisioner will."""
    spec = KernelSpec.from_resource_dir(str(staged))
    config = spec.metadata["kernel_provisioner"].get("config", {})
    source = str(shown_as / KERNEL_FILE)
    container_of(parse_request(config, source=source), source=source)
