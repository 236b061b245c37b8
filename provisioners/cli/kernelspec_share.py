"""`farkernel kernelspec export` and `import`: a kernelspec as one file."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from farkernel.provisioners.cli.kernelspec_places import (
    AsJson,
    ForUser,
    IntoPrefix,
    IntoSysPrefix,
    Name,
    OfPrefix,
    OfSysPrefix,
    OfUser,
    Replace,
    chosen,
    prefix_of,
    tell,
    tell_installed,
)
from farkernel.provisioners.errors import FarkernelError


def export_command(
    name: Name,
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where to; `-` is standard output.")] = "-",
    user: OfUser = False,
    sys_prefix: OfSysPrefix = False,
    prefix: OfPrefix = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a kernelspec, with its logos, as one file (JSON) that `import` reads."""
    from farkernel.kernelspecs.folder import Content, read_files, replace_file  # noqa: PLC0415
    from farkernel.kernelspecs.model import read_spec  # noqa: PLC0415
    from farkernel.kernelspecs.single_file import pack  # noqa: PLC0415

    spec = chosen(name, user=user, sys_prefix=sys_prefix, prefix=prefix)
    content = Content(read_spec(Path(spec.source)), read_files(spec.folder))
    text = pack(spec.name, content)
    if file == "-":
        typer.echo(text, nl=False)
        return
    if Path(file).exists() and not replace:
        raise FarkernelError(f"There is already a file {file}.", hint="Overwrite it with --replace.")
    try:
        replace_file(Path(file), text.encode())
    except OSError as error:
        raise FarkernelError(f"{file} cannot be written: {error.strerror}.") from error
    extends = spec.config.get("extends")
    warnings = [f"It extends the job template {extends}, which has to be there too."] if extends else []
    tell(f"Exported {spec.name} to {file}", spec.folder, warnings=warnings, as_json=as_json, file=file)


def import_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `export` has written; `-` is standard input.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="N", help="Jupyter's name for it; the file's by default.")
    ] = None,
    user: ForUser = False,
    sys_prefix: IntoSysPrefix = False,
    prefix: IntoPrefix = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Install a kernelspec from one file, checked as a whole before anything is written."""
    from farkernel.kernelspecs.check import check_spec  # noqa: PLC0415
    from farkernel.kernelspecs.install import write  # noqa: PLC0415  (loads Jupyter)
    from farkernel.kernelspecs.single_file import unpack  # noqa: PLC0415

    where = prefix_of(user=user, sys_prefix=sys_prefix, prefix=prefix)
    source = "standard input" if file == "-" else file
    given, content = unpack(_read(file), source=source)
    check_spec(content.spec, source=source).refuse()
    folder = write(content, name or given, prefix=where, replace=replace)
    runs = f"; it runs {shlex.join(content.spec['argv'])}"
    tell_installed(folder, content.spec, as_json=as_json, more=runs)


def _read(file: str) -> bytes:
    from farkernel.kernelspecs.single_file import MOST  # noqa: PLC0415

    try:
        if file == "-":
            return sys.stdin.buffer.read(MOST + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MOST + 1)
    except OSError as error:
        raise FarkernelError(f"{file} cannot be read: {error.strerror}.") from error
