"""The `farkernel` command: its subcommands, and how it shows a failure.

A subcommand's module imports what is heavy (Jupyter, pydantic, zmq) when it runs, so that `--help` is quick.
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from farkernel.provisioners.cli import (
    cancel,
    clean,
    connect,
    demo,
    doctor,
    gateway,
    images,
    kernelspec,
    logs,
    policy,
    ps,
    run,
    template,
)
from farkernel.provisioners.errors import FarkernelError

app = typer.Typer(
    name="farkernel",
    help="Jupyter kernels on compute nodes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(images.app, name="images")
app.add_typer(kernelspec.app, name="kernelspec")
app.add_typer(policy.app, name="policy")
app.add_typer(template.app, name="template")
app.command("ps")(ps.ps)
app.command("logs")(logs.logs)
app.command("cancel")(cancel.cancel)
app.command("clean")(clean.clean)
app.command("connect")(connect.connect)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("gateway")(gateway.gateway)
app.command("run")(run.run)


def main() -> None:
    """Run the `farkernel` command: its words on stdout, a failure as one red message on stderr."""
    try:
        app()
    except FarkernelError as error:
        Console(stderr=True, soft_wrap=True).print(Text(str(error), style="red"))
        sys.exit(1)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"farkernel {version('farkernel')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave."),
    ] = False,
) -> None:
    pass
