"""`farkernel template`: my favourite job templates."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farkernel.provisioners.cli.choices import with_resources
from farkernel.provisioners.cli.kernelspec_places import (
    AsJson,
    OfPrefix,
    OfSysPrefix,
    OfUser,
    Yes,
    chosen,
    make_sure,
    tell,
    warn,
    wide,
)
from farkernel.provisioners.errors import FarkernelError

if TYPE_CHECKING:
    from farkernel.provisioners.job_templates import Found, JobTemplates

app = typer.Typer(help="Job templates: named parts of requests, which kernelspecs extend.", no_args_is_help=True)

_SECTIONS = ("slurm", "container", "job")
"""What a job template takes from a kernelspec: resources, container and job policy."""

Name = Annotated[str, typer.Argument(metavar="NAME", help="The job template; see `farkernel template list`.")]


@app.command()
@with_resources
def save(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What kernelspecs call it.")],
    asked: dict[str, Any],
    kernel: Annotated[
        str | None, typer.Option("--kernel", metavar="K", help="Take what this kernelspec asks for.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite one of that name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Save a job template of your own: from a kernelspec, from options, or from both."""
    from farkernel.provisioners.job_templates import job_templates  # noqa: PLC0415 (imports late, see app.py)
    from farkernel.provisioners.layers import Layer, check_layer, merged  # noqa: PLC0415

    check_layer(Layer("options", asked))
    config = merged([Layer("--kernel", _taken_from(kernel) if kernel else {}), Layer("options", asked)])
    if not config:
        what = f"The kernelspec {kernel} asks for nothing of a job" if kernel else "The job template would be empty"
        raise FarkernelError(f"{what}.", hint="Give options such as --qos and --time, or a --kernel to take them from.")
    ours = job_templates()
    try:
        path = ours.save(name, config, replace=replace)
    except FileExistsError:
        raise FarkernelError(
            f'There is already a job template "{name}" in {ours.user}.', hint="Overwrite it with --replace."
        ) from None
    except OSError as error:
        raise FarkernelError(f"The job template cannot be written to {ours.user}.", said=str(error)) from error
    refused = _refused(config, path)
    _tell(f"Saved the job template {name} in {path}", name, path, warnings=refused, as_json=as_json, config=config)


def _refused(config: dict[str, Any], path: Path) -> list[str]:
    """Say what the site's policy would refuse of a kernelspec that has this from a job template."""
    from farkernel.provisioners.effective import effective  # noqa: PLC0415
    from farkernel.provisioners.errors import PolicyRefused  # noqa: PLC0415

    try:
        effective(config, source=str(path)).check(part=True)
    except PolicyRefused as error:
        return [error.what, *error.said.splitlines()]
    except FarkernelError as error:
        return [str(error)]
    return []


def _taken_from(kernel: str) -> dict[str, Any]:
    """Return what a kernelspec asks for of a job, with what it extends in place of `extends`."""
    from farkernel.kernelspecs.install import find_installed  # noqa: PLC0415
    from farkernel.provisioners.job_templates import job_templates  # noqa: PLC0415
    from farkernel.provisioners.layers import Layer, merged  # noqa: PLC0415

    spec = find_installed(kernel)
    whole = merged(job_templates().layers(Layer(spec.source, spec.config)))
    return {section: whole[section] for section in _SECTIONS if whole.get(section)}


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the job templates, yours and the site's."""
    from farkernel.provisioners.cli.values import shown  # noqa: PLC0415
    from farkernel.provisioners.job_templates import job_templates, read  # noqa: PLC0415
    from farkernel.provisioners.layers import leaves, merged  # noqa: PLC0415

    ours = job_templates()
    rows: list[dict[str, Any]] = []
    for one in ours.found():
        hidden = any(row["name"] == one.name for row in rows)
        try:
            config, flaw = merged(ours.layers(read(one.path))), ""
        except FarkernelError as error:
            config, flaw = {}, str(error)
        asks = {key: value for key, value in leaves(config).items() if key != "extends" and value is not None}
        rows.append({**_known(one), "hidden": hidden, "asks": asks, "flaw": flaw})
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("job template", "whose", "asks for", "file")
    for row in rows:
        words = ", ".join(f"{key} {shown(value)}" for key, value in row["asks"].items())
        name = f"{row['name']} (hidden by yours)" if row["hidden"] else row["name"]
        asks_for = Text(row["flaw"], style="red") if row["flaw"] else Text(words)
        table.add_row(name, row["whose"], asks_for, Text(row["file"], overflow="fold"))
    wide().print(table if rows else "There is no job template; `farkernel template save` makes one.")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a job template: what it asks for with all that it extends, and which file each value comes from."""
    from farkernel.provisioners.cli.values import as_table, values  # noqa: PLC0415
    from farkernel.provisioners.job_templates import job_templates, read  # noqa: PLC0415
    from farkernel.provisioners.layers import merged  # noqa: PLC0415

    ours = job_templates()
    found = ours.find(name)
    layers = ours.layers(read(found.path))
    if as_json:
        config = {key: value for key, value in merged(layers).items() if key != "extends"}
        asks = [value.as_dict() for value in values(layers)]
        typer.echo(json.dumps({**_known(found), "config": config, "asks": asks}, indent=2))
        return
    console = wide()
    console.print(Text(f"{name}, {_known(found)['whose']}: {found.path}"))
    console.print(as_table(values(layers)))


@app.command()
def remove(name: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a job template of your own."""
    from farkernel.provisioners.job_templates import job_templates  # noqa: PLC0415

    ours = job_templates()
    found = ours.find(name)
    if not found.ours:
        raise FarkernelError(f'The job template "{name}" is the site\'s: {found.path}.', hint="Yours can be removed.")
    users = _users(ours, found)
    about = f"It is extended by {', '.join(users)}." if users else ""
    make_sure(f"Remove the job template {name} ({found.path})?", found.path, about=about, yes=yes)
    try:
        found.path.unlink()
    except OSError as error:
        raise FarkernelError(f"{found.path} cannot be removed.", said=str(error)) from error
    warnings = [_without(ours, found, users)] if users else []
    _tell(f"Removed {found.path}", name, found.path, warnings=warnings, as_json=as_json, extended_by=users)


def _users(ours: "JobTemplates", found: "Found") -> list[str]:
    """Name the kernelspecs and job templates that extend one, directly or by others."""
    from farkernel.kernelspecs.install import installed  # noqa: PLC0415
    from farkernel.provisioners.job_templates import read  # noqa: PLC0415
    from farkernel.provisioners.layers import Layer  # noqa: PLC0415

    users = []
    layers = [(f"the kernelspec {spec.name}", Layer(spec.source, spec.config)) for spec in installed()]
    for one in ours.found():
        if one.path != found.path:
            with contextlib.suppress(FarkernelError):
                layers.append((f"the job template {one.name}", read(one.path)))
    for user, layer in layers:
        with contextlib.suppress(FarkernelError):  # one that is broken extends nothing
            if str(found.path) in {below.source for below in ours.layers(layer)}:
                users.append(user)
    return users


def _without(ours: "JobTemplates", found: "Found", users: list[str]) -> str:
    """Say what becomes of those that extend one which is removed."""
    with contextlib.suppress(FarkernelError):
        return f"The site's {found.name} ({ours.find(found.name).path}) counts now, for {', '.join(users)}."
    return f"Nothing starts by it until there is a job template {found.name} again: {', '.join(users)}."


@app.command()
def apply(
    name: Name,
    kernel: Annotated[str, typer.Argument(metavar="KERNELSPEC", help="A kernelspec of farkernel's that is installed.")],
    drop_own: Annotated[
        bool,
        typer.Option("--drop-own", help="Remove the kernelspec's own keys that the job template gives."),
    ] = False,
    user: OfUser = False,
    sys_prefix: OfSysPrefix = False,
    prefix: OfPrefix = None,
    as_json: AsJson = False,
) -> None:
    """Have a kernelspec extend a job template, and say what it asks for now; its own keys win, unless --drop-own."""
    from farkernel.kernelspecs.check import check_file  # noqa: PLC0415
    from farkernel.kernelspecs.install import rewrite  # noqa: PLC0415
    from farkernel.provisioners.cli.values import as_table, values  # noqa: PLC0415
    from farkernel.provisioners.job_templates import job_templates, read  # noqa: PLC0415
    from farkernel.provisioners.layers import Layer, leaves, merged, without  # noqa: PLC0415

    ours = job_templates()
    given = merged(ours.layers(read(ours.find(name).path)))
    spec = chosen(kernel, user=user, sys_prefix=sys_prefix, prefix=prefix)
    kept = without(spec.config, given) if drop_own else spec.config
    config = {**kept, "extends": name}
    rewrite(spec, config)
    dropped = sorted(leaves(spec.config).keys() - leaves(config).keys())
    layers = ours.layers(Layer(spec.source, config))
    hiding = [row.key for row in values(layers) if row.hides is not None]
    checked = check_file(Path(spec.source))
    rows, remarks = values(checked.layers or layers), checked.remarks
    more = {"file": spec.source, "extends": name, "dropped": dropped}
    if as_json:
        asks = [{**row.as_dict(), "hides": row.hides} for row in rows]
        tell("", spec.folder, warnings=remarks, as_json=True, **more, asks=asks)
        return
    tell(f"{spec.name} extends the job template {name} now ({spec.source})", spec.folder)
    if dropped:
        Console(soft_wrap=True).print(Text(f"Removed from it: {', '.join(dropped)}"))
    wide().print(as_table(rows))
    keys = ", ".join(hiding)
    own = f"The kernelspec's own values of {keys} win over the job template's; --drop-own removes them from it."
    warn([*([own] if hiding else []), *remarks])


def _known(found: "Found") -> dict[str, Any]:
    return {"name": found.name, "whose": "yours" if found.ours else "the site's", "file": str(found.path)}


def _tell(done: str, name: str, file: Path, *, as_json: bool, warnings: list[str] | None = None, **more: Any) -> None:
    if as_json:
        typer.echo(json.dumps({"name": name, "file": str(file), **more, "warnings": warnings or []}))
        return
    Console(soft_wrap=True).print(Text(done))
    warn(warnings or [])
