"""`farkernel kernelspec check`: what is wrong with a kernelspec, where, and how to mend it."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farkernel.provisioners.cli.kernelspec_places import AsJson

if TYPE_CHECKING:
    from farkernel.provisioners.cli.findings import Finding


def check(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|PATH",
            help="A kernelspec's name, or the path of a kernel.json or its directory; all of farkernel's if not given.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask Slurm what it thinks of the job, too; none is submitted.")
    ] = False,
    launch: Annotated[
        bool, typer.Option("--launch", help="Start a kernel, too, show how long each phase takes, and end it.")
    ] = False,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long --launch waits, the queue included.")
    ] = 600,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a kernelspec, where in its file, and how to mend it. Ends with 1 if there is a problem."""
    from farkernel.provisioners.cli.findings import Level, show, warning  # noqa: PLC0415  (imports late, see app.py)

    if dry_run and launch:
        raise typer.BadParameter("choose one of --dry-run and --launch.")
    if launch and name is None:
        raise typer.BadParameter("--launch starts one kernel: name it.")
    found: list[Finding] = []
    for file in _files(name):
        found += _check(file, dry_run=dry_run, wait=wait if launch else None)
    none = warning("kernelspecs", "none of farkernel's is installed", "`farkernel kernelspec install` installs one.")
    show(found or ([] if as_json else [none]), as_json=as_json)
    if any(finding.level is Level.PROBLEM for finding in found):
        raise typer.Exit(1)


def _files(name: str | None) -> list[Path]:
    """Return the files that are meant.

    :raises typer.BadParameter: there is no such file or kernelspec
    """
    from farkernel.kernelspecs.install import unreadable  # noqa: PLC0415
    from farkernel.provisioners.cli.check_file import farkernels_files, kernelspec_files  # noqa: PLC0415
    from farkernel.provisioners.request import those  # noqa: PLC0415

    if name is None:
        return farkernels_files()
    known = kernelspec_files()
    if name.lower() in known:
        return [known[name.lower()]]
    path = Path(name)
    if path.is_dir():
        return [path / "kernel.json"]
    if path.exists():
        return [path]
    if hidden := unreadable(name):
        return [hidden]
    names = those(name, known) if known else "Jupyter finds none."
    raise typer.BadParameter(f"there is no kernelspec and no file {name!r}. {names}")


def _check(file: Path, *, dry_run: bool, wait: float | None) -> "list[Finding]":
    from farkernel.provisioners.cli.check_file import check_file  # noqa: PLC0415
    from farkernel.provisioners.cli.findings import Finding, Level  # noqa: PLC0415

    found = check_file(file)
    if not (dry_run or wait):
        return found
    if any(finding.level is Level.PROBLEM for finding in found):
        subject = "dry run" if dry_run else "start"
        return [*found, Finding(Level.HINT, subject, "not tried: it could not start", "Mend the problems first.")]
    from farkernel.provisioners.cli import check_start  # noqa: PLC0415

    valid = check_start.Valid.read(file)
    more = check_start.dry_run(valid) if wait is None else check_start.launch(valid, wait=wait)
    return [*found, *asyncio.run(more)]
