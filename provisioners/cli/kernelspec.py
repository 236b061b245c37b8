"""`farkernel kernelspec`: its subcommands; `list`."""

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farkernel.kernelspecs.templates import load_template, template_names
from farkernel.provisioners.cli import (
    kernelspec_edit,
    kernelspec_remove,
    kernelspec_schema,
    kernelspec_share,
    kernelspec_show,
    kernelspec_wrap,
)
from farkernel.provisioners.cli.check import check
from farkernel.provisioners.cli.kernelspec_places import AsJson

if TYPE_CHECKING:
    from farkernel.kernelspecs.install import Installed
    from farkernel.kernelspecs.templates import Template

app = typer.Typer(help="Kernelspecs that start their kernels with farkernel.", no_args_is_help=True)


def list_command(as_json: AsJson = False) -> None:
    """List the kernelspec templates that `install` knows, and the farkernel kernelspecs that Jupyter finds."""
    from farkernel.kernelspecs.install import installed  # noqa: PLC0415  (loads Jupyter)

    templates, there = [load_template(name) for name in template_names()], installed()
    if as_json:
        typer.echo(
            json.dumps({"templates": [*map(_row, templates)], "installed": [*map(_installed_row, there)]}, indent=2)
        )
        return
    console = Console()
    table = Table("name", "display name", "provisioner", title="Kernelspec templates", title_justify="left")
    for template in templates:
        table.add_row(*_row(template).values())
    console.print(table)
    table = Table("name", "display name", "folder", title="Installed", title_justify="left")
    for spec in there:
        table.add_row(Text(spec.name), Text(spec.display_name), Text(str(spec.folder), overflow="fold"))
    console.print(table if there else "No farkernel kernelspec is installed.")


def _row(template: "Template") -> dict[str, str]:
    return {"name": template.name, "display_name": template.display_name, "provisioner": template.provisioner}


def _installed_row(spec: "Installed") -> dict[str, Any]:
    return {
        "name": spec.name,
        "display_name": spec.display_name,
        "provisioner": spec.provisioner,
        "folder": str(spec.folder),
        "config": spec.config,
    }


app.command("list")(list_command)
app.command("install")(kernelspec_wrap.install)
app.command("wrap")(kernelspec_wrap.wrap)
app.command("check")(check)
app.command("show")(kernelspec_show.show)
app.command("edit")(kernelspec_edit.edit)
app.command("remove")(kernelspec_remove.remove)
app.command("export")(kernelspec_share.export_command)
app.command("import")(kernelspec_share.import_command)
app.command("schema")(kernelspec_schema.schema)
