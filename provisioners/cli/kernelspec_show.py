"""`farkernel kernelspec show`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from farkernel.provisioners.cli.kernelspec_places import (
    AsJson,
    Name,
    OfPrefix,
    OfSysPrefix,
    OfUser,
    chosen,
    wide,
)

if TYPE_CHECKING:
    from farkernel.kernelspecs.check import Checked
    from farkernel.provisioners.cli.values import Value


def show(
    name: Name,
    user: OfUser = False,
    sys_prefix: OfSysPrefix = False,
    prefix: OfPrefix = None,
    as_json: AsJson = False,
) -> None:
    """Show a kernelspec: its command, and what it asks for with where each value comes from. Ends with 1 if invalid."""
    from farkernel.kernelspecs.check import check_file  # noqa: PLC0415
    from farkernel.kernelspecs.folder import read_files  # noqa: PLC0415
    from farkernel.kernelspecs.model import read_spec  # noqa: PLC0415

    found = chosen(name, user=user, sys_prefix=sys_prefix, prefix=prefix)
    spec = read_spec(Path(found.source))
    checked = check_file(Path(found.source))
    problems = [str(placed) for placed in checked.wrong if placed.flaw.serious]
    rows = _values(checked, found.config)
    whole = {
        "name": found.name,
        "folder": str(found.folder),
        "provisioner": found.provisioner,
        **{key: value for key, value in spec.items() if key != "metadata"},
        "metadata": {key: value for key, value in spec["metadata"].items() if key != "kernel_provisioner"},
        "files": sorted(read_files(found.folder)),
        "config": [row.as_dict() for row in rows],
        "problems": problems,
        "remarks": [] if problems else checked.remarks,
    }
    if as_json:
        typer.echo(json.dumps(whole, indent=2))
    else:
        _print(whole, rows)
    if problems:
        raise typer.Exit(1)


def _values(checked: "Checked", config: Any) -> "list[Value]":
    """Return each value that is in force, with its file; the kernelspec's own alone if one of them is not valid."""
    from farkernel.provisioners.cli.values import values  # noqa: PLC0415
    from farkernel.provisioners.layers import Layer  # noqa: PLC0415

    if checked.layers:
        return values(checked.layers)
    return values([Layer(checked.source, config)]) if isinstance(config, dict) else []


def _print(whole: dict[str, Any], rows: "list[Value]") -> None:
    from farkernel.provisioners.cli.values import as_table, shown  # noqa: PLC0415

    table = Table.grid(padding=(0, 2))
    for key, value in whole.items():
        if key not in {"config", "problems", "remarks"} and value not in ({}, []):
            table.add_row(Text(key, style="bold"), Text(shown(value), overflow="fold"))
    console = wide()
    console.print(table)
    console.print(as_table(rows) if rows else "It asks for nothing: Slurm's and the site's defaults hold.")
    for lines, style in ((whole["problems"], "red"), (whole["remarks"], "yellow")):
        if lines:
            console.print(Text("\n".join(lines), style=style))
