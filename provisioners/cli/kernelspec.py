"""`farkernel kernelspec`: list the templates, and install one."""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farkernel.kernelspecs.templates import Settings, apply_settings, load_template, template_names

app = typer.Typer(help="Kernelspecs that start their kernels with farkernel.", no_args_is_help=True)


@app.command("list")
def list_command() -> None:
    """List the templates that `install` knows, and the farkernel kernelspecs that Jupyter finds."""
    from farkernel.kernelspecs.install import installed  # noqa: PLC0415  (loads Jupyter)

    console = Console()
    templates = Table("name", "display name", "provisioner", title="Templates", title_justify="left")
    for template in map(load_template, template_names()):
        templates.add_row(template.name, template.display_name, template.provisioner)
    console.print(templates)
    there = Table("name", "display name", "folder", title="Installed", title_justify="left")
    for spec in installed():
        there.add_row(spec.name, spec.display_name, Text(str(spec.folder), overflow="fold"))
    console.print(there if there.row_count else "No farkernel kernelspec is installed.")


def _known(name: str) -> str:
    names = template_names()
    if name not in names:
        raise typer.BadParameter(f"there is no template {name!r}; there are: {', '.join(names)}.")
    return name


@app.command("install")
def install_command(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", callback=_known, help="A template; see `farkernel kernelspec list`."),
    ],
    user: Annotated[bool, typer.Option("--user", help="For this user alone (the default).")] = False,
    sys_prefix: Annotated[bool, typer.Option("--sys-prefix", help="Into this Python's environment.")] = False,
    prefix: Annotated[Path | None, typer.Option("--prefix", metavar="P", help="Below P/share/jupyter/kernels.")] = None,
    kernel_name: Annotated[
        str | None,
        typer.Option("--name", metavar="N", help="Jupyter's name for it; the template's by default."),
    ] = None,
    display_name: Annotated[str | None, typer.Option(metavar="D", help="What JupyterLab's launcher shows.")] = None,
    account: Annotated[
        str | None,
        typer.Option(metavar="A", help="The account to charge; Slurm's default for you if not given."),
    ] = None,
    qos: Annotated[str | None, typer.Option(metavar="Q", help="The quality of service.")] = None,
    time: Annotated[str | None, typer.Option(metavar="T", help="The time limit, as Slurm writes it.")] = None,
    constraint: Annotated[str | None, typer.Option(metavar="C", help="The features a node must have.")] = None,
    python: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="The Python that has ipykernel, on the node; this one, or the image's own, by default.",
        ),
    ] = None,
    image: Annotated[str | None, typer.Option(metavar="I", help="The image that the kernel runs in.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a kernelspec of that name.")] = False,
) -> None:
    """Install a kernelspec from a template."""
    from farkernel.kernelspecs.install import install, is_on_jupyter_path  # noqa: PLC0415  (loads Jupyter)

    where = _destination(user=user, sys_prefix=sys_prefix, prefix=prefix)
    loaded = load_template(name)
    settings = Settings(
        display_name=display_name,
        python=python or (None if loaded.in_image else sys.executable),
        account=account,
        qos=qos,
        time=time,
        constraint=constraint,
        image=image,
    )
    template = apply_settings(loaded, settings)
    folder = install(template, name=kernel_name, prefix=where, replace=replace)
    Console(soft_wrap=True).print(Text(f"Installed {folder.name} in {folder}"))
    if not template.in_image:
        _warn_about_python(template.spec["argv"][0])
    if not is_on_jupyter_path(folder):
        _warn(f"Jupyter does not look in {folder.parent}: add {folder.parent.parent} to JUPYTER_PATH.")


def _destination(*, user: bool, sys_prefix: bool, prefix: Path | None) -> Path | None:
    if user + sys_prefix + (prefix is not None) > 1:
        raise typer.BadParameter("choose one of --user, --sys-prefix and --prefix.")
    return Path(sys.prefix) if sys_prefix else prefix


def _warn_about_python(python: str) -> None:
    if python == sys.executable:
        if importlib.util.find_spec("ipykernel") is None:
            _warn(f"{python} lacks ipykernel: `{python} -m pip install ipykernel`, or give another --python.")
    elif "/" in python and not Path(python).exists():
        _warn(f"{python} does not exist on this host; the compute nodes must have it.")


def _warn(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(Text(message, style="yellow"))
