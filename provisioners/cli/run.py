"""`farkernel run`: files, or a console, in a fresh kernel with choices for this one start."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from farkernel.provisioners.cli.choices import with_choices
from farkernel.provisioners.errors import FarkernelError, RequestError

_FILES = "Scripts, all in one kernel, or notebooks, each in one of its own and with its outputs saved. None: a console."


@with_choices
def run(
    kernelspec: Annotated[str, typer.Argument(metavar="KERNELSPEC", help="An installed kernelspec of farkernel's.")],
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help=_FILES)] = None,
    *,
    asked: dict[str, Any],
) -> None:
    """Run files in a fresh kernel, or open a console; the options are choices that the kernelspec leaves open."""
    from farkernel.kernelspecs.install import check, find_installed  # noqa: PLC0415 (imports late, see app.py)
    from farkernel.provisioners.effective import effective  # noqa: PLC0415
    from farkernel.provisioners.per_launch import choices  # noqa: PLC0415

    server = {**os.environ, **variables(asked)}
    spec = find_installed(kernelspec)  # whatever another one's kernels would make of the choices
    check(spec)
    argv = program(spec.name, files or [])
    # Jupyter's programs would tell what is not valid, or not allowed, amid two tracebacks.
    env = {**server, **spec.env}
    whole = effective(
        spec.config,
        source=spec.source,
        env=env,
        server=server,
        named=spec.env,
        chosen=choices(env),
        slurm=spec.slurm,
    )
    whole.check(slurm=spec.slurm)
    os.execve(argv[0], argv, server)  # noqa: S606 (Jupyter in our place, with terminal and signals)


def program(kernelspec: str, files: list[Path]) -> list[str]:
    """Return the command of Jupyter's that does it.

    :raises FarkernelError: no single one does, or a file is not there: it would say so when the kernel is up
    """
    if missing := [str(file) for file in files if not file.exists() or file.is_dir()]:
        raise FarkernelError(
            f"There is no file {', '.join(missing)}: no kernel was started.", hint="Correct the path, or write it."
        )
    jupyter = [sys.executable, "-P", "-m", "jupyter"]  # -P: not a jupyter.py that lies beside the files
    if not files:
        return [*jupyter, "console", "--kernel", kernelspec]
    notebooks = [file for file in files if file.suffix == ".ipynb"]
    if not notebooks:
        return [*jupyter, "run", "--kernel", kernelspec, *map(str, files)]
    if len(notebooks) == len(files):
        return [*jupyter, "execute", "--inplace", f"--kernel_name={kernelspec}", *map(str, files)]
    raise FarkernelError(
        f"{notebooks[0]} is a notebook, and others of the files are not.",
        hint="Run notebooks and scripts by themselves.",
    )


def variables(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that choose what a config says.

    :raises RequestError: it has something that nobody can choose
    """
    from farkernel.provisioners.layers import leaves  # noqa: PLC0415
    from farkernel.provisioners.per_launch import variable  # noqa: PLC0415
    from farkernel.provisioners.request import choosable, nearest  # noqa: PLC0415

    found = {}
    for key, value in leaves(config).items():
        if key not in choosable():
            near = nearest(key)
            raise RequestError(f"--set: {key} cannot be chosen" + (f"; did you mean {near}?" if near else ""))
        found[variable(key)] = value if isinstance(value, str) else json.dumps(value)
    return found
