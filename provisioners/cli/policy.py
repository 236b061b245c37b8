"""`farkernel policy`: what the site's policy says, and whether it can be meant so."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farkernel.provisioners.cli.findings import Finding, Level, as_dict, as_table
from farkernel.provisioners.errors import FarkernelError, RequestError

if TYPE_CHECKING:
    from farkernel.provisioners.policy import Flaw, Policy

app = typer.Typer(help="The site's policy: what kernels may ask for.", no_args_is_help=True)

_THIS = "this file"

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A policy to be; the one in force if it is not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a policy, and what contradicts itself. Ends with 1 if it could not be used."""
    from farkernel.provisioners.policy import POLICY  # noqa: PLC0415 (imports late, see app.py)

    found = _of_file(file) if file and str(file) != POLICY else _in_force(POLICY)
    if as_json:
        typer.echo(json.dumps([as_dict(each) for each in found], indent=2))
    else:
        Console().print(as_table(found))
    if any(each.level is Level.PROBLEM for each in found):
        raise typer.Exit(1)


def _of_file(file: Path) -> list[Finding]:
    try:
        return _findings(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise FarkernelError(f"{file} cannot be read: {why}.") from error


def _in_force(place: str) -> list[Finding]:
    from farkernel.provisioners.policy_file import TRUSTED, find_policy  # noqa: PLC0415

    found = find_policy(place)
    if found is None:
        return [Finding(Level.HINT, "policy", "this site has none: nothing is limited by farkernel", file=place)]
    if found.trouble:
        return [Finding(Level.PROBLEM, "policy", f"no kernel starts: {found.trouble}", TRUSTED, place)]
    return _findings(found.text, place)


def _findings(text: str, source: str) -> list[Finding]:
    """Look at what a file says."""
    from farkernel.provisioners.policy import read_policy  # noqa: PLC0415
    from farkernel.provisioners.policy_rules import rules  # noqa: PLC0415

    policy, flaws = read_policy(text)
    level = Level.WARNING if policy else Level.PROBLEM
    found = [_finding(level, flaw, source) for flaw in (_contradictions(policy, text) if policy else flaws)]
    if policy:
        count = len(rules(policy, text))
        found.append(
            Finding(Level.OK, "policy", f"it can be used: {count} rule{'' if count == 1 else 's'}", file=source)
        )
    return found


def _finding(level: Level, flaw: "Flaw", source: str) -> Finding:
    return Finding(level, flaw.key or "policy", flaw.what, flaw.cure, source, flaw.line, 1, flaw.key)


def _contradictions(policy: "Policy", text: str) -> list["Flaw"]:
    from farkernel.provisioners.containers.registry import runtime_names  # noqa: PLC0415
    from farkernel.provisioners.effective import default_layers  # noqa: PLC0415
    from farkernel.provisioners.job_templates import SITE, JobTemplates  # noqa: PLC0415
    from farkernel.provisioners.policy import Flaw  # noqa: PLC0415
    from farkernel.provisioners.policy_check import InForce  # noqa: PLC0415
    from farkernel.provisioners.policy_flaws import contradictions  # noqa: PLC0415
    from farkernel.provisioners.policy_lines import line_of  # noqa: PLC0415

    in_force, found = InForce(policy, _THIS), []
    templates = JobTemplates(SITE, SITE)  # an administrator's own are nobody else's
    try:
        layers = default_layers(in_force, templates)
    except RequestError as error:  # the template is not there, or is not valid
        what = error.what.removeprefix(f"{_THIS}: defaults: extends: ")
        cure = f"Mend what is in {SITE}, or name another one."
        found.append(Flaw("defaults.extends", what, cure, line_of(text, ("defaults", "extends"))))
        layers = default_layers(in_force, templates, extends=False)
    found += contradictions(policy, text, layers=layers, runtimes=runtime_names())
    return sorted(found, key=lambda flaw: flaw.line)


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show the rules that hold for your kernels: what each allows, and where it stands."""
    from farkernel.provisioners.policy import POLICY  # noqa: PLC0415
    from farkernel.provisioners.policy_file import find_policy, in_force  # noqa: PLC0415
    from farkernel.provisioners.policy_rules import rules  # noqa: PLC0415

    found = find_policy(POLICY)
    policy = in_force(found, source=POLICY)
    held = rules(policy.policy, found.text) if found and policy else []
    if as_json:
        typer.echo(json.dumps({"file": policy and policy.source, "rules": [asdict(rule) for rule in held]}, indent=2))
        return
    if not held:
        typer.echo(f"{POLICY} has no rules." if policy else f"This site has no policy: there is no {POLICY}.")
        return
    table = Table("rule", "what holds", "about", "line")
    for rule in held:
        table.add_row(*(Text(cell, overflow="fold") for cell in (rule.key, rule.holds, rule.about, str(rule.line))))
    console = Console()
    console.print(table)
    console.print(
        Text(f"They stand in {POLICY}, which is root's: no kernelspec, job template or variable changes them.")
    )
