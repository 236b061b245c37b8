"""Where a kernelspec is written to, or which of several copies is meant: options that several subcommands share."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from farkernel.provisioners.errors import FarkernelError

if TYPE_CHECKING:
    from farkernel.kernelspecs.install import Installed

_WIDE = 10_000

ForUser = Annotated[bool, typer.Option("--user", help="For this user alone (the default).")]
IntoSysPrefix = Annotated[bool, typer.Option("--sys-prefix", help="Into this Python's environment.")]
IntoPrefix = Annotated[Path | None, typer.Option("--prefix", metavar="P", help="Below P/share/jupyter/kernels.")]

OfUser = Annotated[bool, typer.Option("--user", help="The user's own, if there are several of that name.")]
OfSysPrefix = Annotated[bool, typer.Option("--sys-prefix", help="The one in this Python's environment.")]
OfPrefix = Annotated[Path | None, typer.Option("--prefix", metavar="P", help="The one below P/share/jupyter/kernels.")]

Name = Annotated[str, typer.Argument(metavar="NAME", help="A kernelspec of farkernel's that is installed.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite a kernelspec of that name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def prefix_of(*, user: bool, sys_prefix: bool, prefix: Path | None) -> Path | None:
    """Return the prefix that the options mean; None is the user's own place."""
    if user + sys_prefix + (prefix is not None) > 1:
        raise typer.BadParameter("choose one of --user, --sys-prefix and --prefix.")
    return Path(sys.prefix) if sys_prefix else prefix


def chosen(name: str, *, user: bool, sys_prefix: bool, prefix: Path | None) -> "Installed":
    """Find the kernelspec that is meant.

    :raises FarkernelError: there is none
    """
    from farkernel.kernelspecs.install import find_installed  # noqa: PLC0415  (loads Jupyter)

    return find_installed(name, prefix=prefix_of(user=user, sys_prefix=sys_prefix, prefix=prefix), user=user)


def make_sure(question: str, path: Path, *, yes: bool, about: str = "") -> None:
    """Ask on the terminal whether something is to be removed.

    :param about: what to know before
    :param yes: nobody is to be asked
    :raises FarkernelError: nobody can be asked
    :raises typer.Exit: it is not
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise FarkernelError(f"{path} is not removed: nobody can be asked.", said=about, hint="Give --yes.")
    warn([about] if about else [])
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def wide() -> Console:
    """Return a console on stdout that cuts nothing off, and breaks no lines, where a program reads it."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def tell(done: str, folder: Path, *, warnings: Sequence[str] = (), as_json: bool = False, **more: Any) -> None:
    """Say what was done with a kernelspec: a line on stdout, what to know beside it on stderr; or all of it as JSON."""
    if as_json:
        typer.echo(json.dumps({"name": folder.name, "folder": str(folder), **more, "warnings": list(warnings)}))
        return
    Console(soft_wrap=True).print(Text(done))
    warn(warnings)


def warn(messages: Iterable[str]) -> None:
    """Say on stderr what the user should know."""
    for message in messages:
        Console(stderr=True, soft_wrap=True).print(Text(message, style="yellow"))


def where_jupyter_looks(folder: Path) -> list[str]:
    """Return a warning if Jupyter does not find what is in this folder, or takes another one of its name."""
    from farkernel.kernelspecs.install import copies, is_on_jupyter_path  # noqa: PLC0415  (loads Jupyter)

    if not is_on_jupyter_path(folder):
        return [f"Jupyter does not look in {folder.parent}: add {folder.parent.parent} to JUPYTER_PATH."]
    used = copies(folder.name)[0].parent
    if used.resolve() == folder.resolve():
        return []
    return [f"Jupyter takes another one of this name, {used}, which hides this one: give another --name, or remove it."]


def tell_installed(
    folder: Path, spec: Mapping[str, Any], *, remarks: Iterable[str] = (), as_json: bool = False, more: str = ""
) -> None:
    """Say that a kernelspec was written, and what to know of it: as `farkernel kernelspec check` says it.

    :param more: what the line on stdout goes on with
    """
    from farkernel.kernelspecs.check import check_spec  # noqa: PLC0415

    warnings = [*remarks, *where_jupyter_looks(folder), *check_spec(spec, source=str(folder)).remarks]
    shown = {"display_name": spec["display_name"], "argv": spec["argv"]}
    tell(f"Installed {folder.name} in {folder}{more}", folder, warnings=warnings, as_json=as_json, **shown)
