"""Any kernelspec that is installed, farkernel's or not: what `wrap` starts from."""

from dataclasses import dataclass
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_core.application import JupyterApp
from traitlets.utils.importstring import import_item

from farkernel.kernelspecs.folder import KERNEL_FILE, Content, read_files
from farkernel.kernelspecs.model import read_spec
from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.request import those

_SPEC_KEYS = ("argv", "display_name", "language", "interrupt_mode", "env", "metadata", "kernel_protocol_version")


@dataclass(frozen=True, slots=True)
class Existing:
    """A kernelspec as it is.

    :param source: what messages call it: its kernel.json, or its name where Jupyter makes it up
    :param folder: where its logos lie
    :param by_path: the user has named the folder: Jupyter itself need not find it
    """

    content: Content
    source: str
    folder: Path
    by_path: bool = False


def find_existing(name: str) -> Existing:
    """Find a kernelspec by Jupyter's name for it, or by the path of its folder.

    :raises FarkernelError: there is none, or it cannot be read
    """
    if "/" in name:
        return _in_folder(Path(name).expanduser().absolute())
    manager = configured_manager()
    try:
        spec = manager.get_kernel_spec(name)
    except NoSuchKernel:
        known = manager.find_kernel_specs()
        raise FarkernelError(
            f"Jupyter finds no kernelspec {name!r}, or lacks the provisioner that it names.",
            hint=those(name, known) if known else "There is none; give the path of a kernelspec's folder.",
        ) from None
    except Exception as error:
        # whatever a broken kernel.json, or a manager that the site has configured, raises
        raise FarkernelError(f"Jupyter cannot read the kernelspec {name!r}.", said=str(error)) from error
    folder = Path(spec.resource_dir)
    if _is_as_written(spec, folder):
        return _in_folder(folder, by_path=False)
    made_up = {key: value for key in _SPEC_KEYS if (value := getattr(spec, key)) or key == "argv"}
    files = read_files(folder) if spec.resource_dir and folder.is_dir() else {}
    return Existing(Content(made_up, files), f"the kernelspec {name}", folder)


class _Server(JupyterApp):
    """Reads the configuration files of Jupyter's servers."""

    name = "jupyter-server"


def configured_manager() -> KernelSpecManager:
    """Return the manager that Jupyter's servers are configured to use, such as nb_conda_kernels'.

    :raises FarkernelError: it cannot be loaded
    """
    app = _Server()
    app.load_config_file()
    config = app.config
    for section in ("ServerApp", "JupyterApp", "NotebookApp"):
        if chosen := config.get(section, {}).get("kernel_spec_manager_class"):
            try:
                kind = import_item(chosen) if isinstance(chosen, str) else chosen
                manager = kind(config=config)
            except Exception as error:
                raise FarkernelError(
                    f"The kernelspec manager {chosen} that Jupyter is configured to use cannot be loaded.",
                    said=str(error),
                    hint=f"Correct {section}.kernel_spec_manager_class, or give the path of a kernelspec's folder.",
                ) from error
            assert isinstance(manager, KernelSpecManager)
            return manager
    return KernelSpecManager(config=config)


def _is_as_written(spec: KernelSpec, folder: Path) -> bool:
    """Whether it is what its folder says: a manager may have changed it, or made it up."""
    try:
        return bool(KernelSpec.from_resource_dir(str(folder)).to_dict() == spec.to_dict())
    except (OSError, ValueError):
        return False


def _in_folder(folder: Path, *, by_path: bool = True) -> Existing:
    file = folder / KERNEL_FILE
    if folder.name == KERNEL_FILE:
        file, folder = folder, folder.parent
    spec = read_spec(file)
    return Existing(Content(spec, read_files(folder)), str(file), folder, by_path)
