"""`farkernel kernelspec wrap` and `install`: a kernelspec that runs its kernels by farkernel, of another or of ours."""

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farkernel.kernelspecs.templates import load_template, template_names
from farkernel.provisioners.cli.choices import with_resources
from farkernel.provisioners.cli.kernelspec_places import (
    AsJson,
    ForUser,
    IntoPrefix,
    IntoSysPrefix,
    Replace,
    prefix_of,
    tell_installed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farkernel.kernelspecs.wrapping import Wrapped

DisplayName = Annotated[str | None, typer.Option(metavar="D", help="What JupyterLab's launcher shows.")]


@with_resources
def wrap(
    existing: Annotated[
        str, typer.Argument(metavar="EXISTING", help="A kernelspec that Jupyter finds, or the path of its folder.")
    ],
    name: Annotated[str, typer.Option("--name", metavar="N", help="Jupyter's name for the new one.")],
    asked: dict[str, Any],
    display_name: DisplayName = None,
    python: Annotated[
        str | None, typer.Option(metavar="P", help="The program that the kernel's command begins with.")
    ] = None,
    user: ForUser = False,
    sys_prefix: IntoSysPrefix = False,
    prefix: IntoPrefix = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Write a kernelspec that runs an existing one's kernel on a compute node; all else of it is kept."""
    from farkernel.kernelspecs import wrapping  # noqa: PLC0415  (loads Jupyter)
    from farkernel.kernelspecs.existing import find_existing  # noqa: PLC0415

    where = prefix_of(user=user, sys_prefix=sys_prefix, prefix=prefix)
    here = wrapping.this_python()
    wrapped = wrapping.wrap(
        find_existing(existing), asked, here=here, runtime=_runtime_here, display_name=display_name, python=python
    )
    _install(wrapped, name, where=where, replace=replace, as_json=as_json, remarks=wrapped.remarks)


def _known(name: str) -> str:
    names = template_names()
    if name not in names:
        from farkernel.provisioners.request import those  # noqa: PLC0415  (loads pydantic)

        raise typer.BadParameter(f"there is no kernelspec template {name!r}. {those(name, names)}")
    return name


@with_resources
def install(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", callback=_known, help="A kernelspec template; see `farkernel kernelspec list`."),
    ],
    asked: dict[str, Any],
    kernel_name: Annotated[
        str | None,
        typer.Option("--name", metavar="N", help="Jupyter's name for it; the kernelspec template's by default."),
    ] = None,
    display_name: DisplayName = None,
    python: Annotated[
        str | None,
        typer.Option(
            metavar="P", help="The Python that has ipykernel, on the node; this one, or the image's own, by default."
        ),
    ] = None,
    user: ForUser = False,
    sys_prefix: IntoSysPrefix = False,
    prefix: IntoPrefix = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Install a kernelspec from a kernelspec template, which comes with farkernel; options win over what that says."""
    from farkernel.kernelspecs import wrapping  # noqa: PLC0415  (loads Jupyter)

    where = prefix_of(user=user, sys_prefix=sys_prefix, prefix=prefix)
    wrapped = wrapping.from_template(
        load_template(name),
        asked,
        here=wrapping.this_python(),
        runtime=_runtime_here,
        display_name=display_name,
        python=python,
    )
    remarks = [
        one for one in wrapped.remarks if asked.get("login") or not one.startswith("argv ")
    ]  # which the help says
    if wrapped.content.spec["argv"][0] == sys.executable and importlib.util.find_spec("ipykernel") is None:
        python = sys.executable
        remarks += [f"{python} lacks ipykernel: `{python} -m pip install ipykernel`, or give another --python."]
    _install(wrapped, kernel_name or name, where=where, replace=replace, as_json=as_json, remarks=remarks)


def _install(
    wrapped: "Wrapped", name: str, *, where: Path | None, replace: bool, as_json: bool, remarks: "Sequence[str]"
) -> None:
    from farkernel.kernelspecs.install import write  # noqa: PLC0415  (loads Jupyter)

    folder = write(wrapped.content, name, prefix=where, replace=replace)
    tell_installed(folder, wrapped.content.spec, remarks=remarks, as_json=as_json)


def _runtime_here() -> str:
    from farkernel.provisioners.cli.runtimes import runtimes_here  # noqa: PLC0415
    from farkernel.provisioners.errors import FarkernelError  # noqa: PLC0415

    try:
        return runtimes_here(None)[0].name
    except FarkernelError as error:
        raise FarkernelError(error.what, hint="Name what puts the kernel inside the image with --runtime.") from error
