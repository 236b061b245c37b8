"""`farkernel ps`: the user's kernels and their jobs."""

import asyncio
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from farkernel.provisioners.cli.known import Known
    from farkernel.provisioners.listing import Row
    from farkernel.provisioners.state_files import StateFiles

_WIDE = 10_000


def ps(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Those too that have ended in the last weeks.")
    ] = False,
) -> None:
    """List your kernels on all hosts that share your home, and the jobs of those whose server is gone.

    Jobs behind a login node are asked about by ssh, without a question to you.
    """
    from farkernel.provisioners.cli.known import state_files  # noqa: PLC0415 (imports late, see app.py)
    from farkernel.provisioners.listing import rows  # noqa: PLC0415

    files = state_files()
    known = asyncio.run(_look(files))
    found = rows(known.kernels, time.time(), files.ended() if everything else ())
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in found], indent=2))
    elif found:
        _show(found)
    else:
        typer.echo("There are no kernels.")
    if known.trouble:
        Console(stderr=True, soft_wrap=True).print(Text(f"Their jobs may differ: {known.trouble}", style="yellow"))


async def _look(files: "StateFiles") -> "Known":
    from farkernel.provisioners.cli.known import look  # noqa: PLC0415
    from farkernel.provisioners.slurms import Slurms  # noqa: PLC0415

    async with Slurms() as slurms:
        return await look(files, slurms)


def _show(rows: "list[Row]") -> None:
    table = Table()
    for title in ("id", "kernel", "notebook", "state", "job", "node", "elapsed", "left", "memory", "server"):
        table.add_column(title, overflow="fold")
    for row in rows:
        cells = (
            row.short,
            row.display_name,
            row.notebook,
            row.state,
            _job(row),
            row.node,
            _span(row.elapsed),
            _span(row.left),
            _size(row.memory),
            row.server,
        )
        table.add_row(*map(Text, cells), style="yellow" if row.orphan else None)
    console = Console()
    # what is read by a program is not to be cut off, or broken into lines
    (console if console.is_terminal else Console(width=_WIDE)).print(table)


def _job(row: "Row") -> str:
    number = str(row.job_id or "")
    return f"{number} on {row.login.rpartition('@')[2]}".lstrip() if row.login else number


def _span(seconds: float | None) -> str:
    from farkernel.provisioners.states import span  # noqa: PLC0415

    return "" if seconds is None else span(seconds)


def _size(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
