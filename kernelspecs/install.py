"""Write a kernelspec to where Jupyter looks for it, and read back what is there."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager

from farkernel.kernelspecs.check import check_spec
from farkernel.kernelspecs.folder import KERNEL_FILE, Content, as_text, remove_folder, replace_file, write_folder
from farkernel.kernelspecs.model import PROVISIONER_PREFIX, read_spec
from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.request import check_kernelspec, those

# Jupyter's own rule, without the names "." and "..", which it would accept and replace as a folder, and what no
# file system takes.
_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]{,254}")


@dataclass(frozen=True, slots=True)
class Installed:
    """A kernelspec that Jupyter finds and that farkernel starts.

    :param process_proxy: what it says to Enterprise Gateway
    :param env: its variables
    """

    name: str
    folder: Path
    display_name: str
    provisioner: str
    config: dict[str, Any]
    process_proxy: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The file that holds it, as messages name it."""
        return str(self.folder / KERNEL_FILE)

    @property
    def slurm(self) -> bool:
        """Whether its kernels run in jobs, not on this machine."""
        return self.provisioner != "farkernel-local"


def write(content: Content, name: str, *, prefix: Path | None = None, replace: bool = False) -> Path:
    """Write a kernelspec to where Jupyter looks for it, as a whole or not at all, and give its folder.

    :param name: what Jupyter is to know it by
    :param prefix: installs below `PREFIX/share/jupyter/kernels`; for the user alone when None
    :param replace: overwrite a kernelspec of that name
    :raises RequestError: it is not valid
    :raises FarkernelError: it exists, its name is not valid, or the place cannot be written
    """
    destination = destination_of(name, prefix=prefix)
    try:
        _check_free(destination, replace=replace)
        check_spec(content.spec, source=f"the kernelspec {destination.name}").refuse()  # which is no file yet
        write_folder(content, destination, replace=replace, for_all=prefix is not None)
    except OSError as error:
        raise FarkernelError(
            f"The kernelspec cannot be written to {destination}.",
            said=str(error),
            hint="Install it with --user, or choose a --prefix that you may write.",
        ) from error
    return destination


def _check_free(destination: Path, *, replace: bool) -> None:
    if destination.is_symlink():
        raise FarkernelError(f"{destination} is a link.", hint="Remove it, or give another name with --name.")
    if destination.exists() and not replace:
        raise FarkernelError(
            f"There is already a kernelspec {destination.name!r} in {destination.parent}.",
            hint="Give another name with --name, or overwrite it with --replace.",
        )


def destination_of(name: str, *, prefix: Path | None) -> Path:
    """Return the folder of a kernelspec that is to be installed; the arguments are those of `write`.

    :raises FarkernelError: its name is not valid
    """
    if not _NAME.fullmatch(name.lower()):
        raise FarkernelError(
            f"A kernelspec cannot be named {name!r}.",
            hint="It may have up to 255 letters, digits, hyphens, underscores and, not as the first, full stops.",
        )
    return _kernels(prefix) / name.lower()


def remove(spec: Installed) -> None:
    """Remove a kernelspec.

    :raises FarkernelError: the user may not, or it cannot be done
    """
    try:
        remove_folder(spec.folder)
    except OSError as error:
        raise FarkernelError(
            f"{spec.folder} cannot be removed.",
            said=str(error),
            hint="Its owner can; one of your own of the same name hides it: `farkernel kernelspec wrap --user`.",
        ) from error


def check(spec: Installed) -> None:
    """See whether a start takes its command and its variables.

    :raises RequestError: one that is no text, or that the system does not take
    """
    content = read_spec(Path(spec.source))
    check_kernelspec(content["argv"], content.get("env", {}), source=spec.source)


def rewrite(spec: Installed, config: Mapping[str, Any]) -> None:
    """Give an installed kernelspec another config; all else in its file stays.

    :raises RequestError: the config is not valid
    :raises FarkernelError: the file cannot be written
    """
    path = spec.folder / KERNEL_FILE
    content = read_spec(path)
    content["metadata"]["kernel_provisioner"]["config"] = dict(config)
    check_spec(content, source=spec.source).refuse()
    try:
        replace_file(path, as_text(content).encode())
    except OSError as error:
        raise FarkernelError(
            f"{path} cannot be written.",
            said=str(error),
            hint="Install a kernelspec of your own from it, under another name.",
        ) from error


def is_on_jupyter_path(folder: Path) -> bool:
    """Tell whether the Jupyter of this Python finds a kernelspec installed in this folder."""
    return str(folder.parent) in _manager().kernel_dirs


def copies(name: str) -> list[Path]:
    """Find every kernel.json that Jupyter might take for a name; it takes the first one, which hides the others."""
    # as Jupyter looks: one that the user may not read is not there
    there = [file for file in _files(name) if os.path.isfile(file)]  # noqa: PTH113
    return list({path.resolve(): path for path in reversed(there)}.values())[::-1]


def unreadable(name: str) -> Path | None:
    """Find a kernel.json that Jupyter would take for a name if the user could get at it."""
    for file in _files(name):
        try:
            file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return file
    return None


def _files(name: str) -> Iterator[Path]:
    for place in map(Path, _manager().kernel_dirs):
        for folder in _folders(place):
            if folder.name.lower() == name.lower():
                yield folder / KERNEL_FILE


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


def installed() -> list[Installed]:
    """Find every kernelspec that names a farkernel provisioner, by name."""
    found = []
    for name, entry in sorted(_manager().get_all_specs().items()):
        if spec := _as_installed(name, Path(entry["resource_dir"]), entry["spec"]):
            found.append(spec)
    return found


def _as_installed(name: str, folder: Path, spec: Mapping[str, Any]) -> Installed | None:
    metadata = spec.get("metadata")
    provisioner = metadata.get("kernel_provisioner") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(provisioner, Mapping):
        return None
    provisioner_name = str(provisioner.get("provisioner_name", ""))
    if not provisioner_name.startswith(PROVISIONER_PREFIX):
        return None
    proxy = metadata.get("process_proxy")
    env = spec.get("env")
    return Installed(
        name,
        folder,
        str(spec.get("display_name", "")),
        provisioner_name,
        provisioner.get("config", {}),
        proxy if isinstance(proxy, dict) else {},
        {key: str(value) for key, value in env.items()} if isinstance(env, Mapping) else {},
    )


def find_installed(name: str, *, prefix: Path | None = None, user: bool = False) -> Installed:
    """Find the one of that name: the one that Jupyter takes, or the copy in a place of the user's choice.

    :param prefix: the one below `PREFIX/share/jupyter/kernels`
    :param user: the one of the user alone
    :raises FarkernelError: there is none
    """
    if user or prefix is not None:
        return _find_copy(name, destination_of(name, prefix=prefix))
    specs = {spec.name: spec for spec in installed()}
    if name.lower() not in specs:
        known = those(name, specs) if specs else "None is installed: `farkernel kernelspec install` installs one."
        raise FarkernelError(f"There is no farkernel kernelspec {name!r}.", hint=known)
    return specs[name.lower()]


def _find_copy(name: str, folder: Path) -> Installed:
    # Jupyter does not heed the case of a folder's name
    there = folder.parent.iterdir() if folder.parent.is_dir() else ()
    folder = next((one for one in there if one.name.lower() == folder.name), folder)
    spec = read_spec(folder / KERNEL_FILE) if folder.is_dir() else {}
    if (found := _as_installed(name.lower(), folder, spec)) is None:
        raise FarkernelError(f"There is no farkernel kernelspec {name!r} in {folder.parent}.")
    return found


def _kernels(prefix: Path | None) -> Path:
    return Path(_manager().user_kernel_dir) if prefix is None else prefix.absolute() / "share/jupyter/kernels"


def _manager() -> KernelSpecManager:
    return KernelSpecManager(ensure_native_kernel=False)
