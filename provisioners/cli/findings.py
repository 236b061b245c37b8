"""What a check finds, and how it is shown."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum

import typer
from rich.table import Table
from rich.text import Text

from farkernel.provisioners.cli.kernelspec_places import wide


class Level(Enum):
    """How much a finding matters: a problem keeps kernels from starting, a warning may, a hint does not."""

    OK = "green"
    HINT = "cyan"
    WARNING = "yellow"
    PROBLEM = "red"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :param subject: what was looked at
    :param found: what is there
    :param advice: what to do about it; empty when it is as it should be
    :param file: where it was found, if that is in a file
    :param line: in the file, from 1; 0 for the file as a whole, as is `column`
    :param key: the dotted key that stands there; empty for none
    """

    level: Level
    subject: str
    found: str
    advice: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    key: str = ""

    @property
    def where(self) -> str:
        """The place as editors and terminals understand it; empty for none."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


def ok(subject: str, found: str) -> Finding:
    """Say that it is as it should be."""
    return Finding(Level.OK, subject, found)


def warning(subject: str, found: str, advice: str) -> Finding:
    """Say that it may become a problem, and what to do."""
    return Finding(Level.WARNING, subject, found, advice)


def problem(subject: str, found: str, advice: str) -> Finding:
    """Say that it keeps kernels from starting, and what to do."""
    return Finding(Level.PROBLEM, subject, found, advice)


def as_dict(finding: Finding) -> dict[str, str | int]:
    """Return a finding as JSON has it."""
    return {**asdict(finding), "level": finding.level.name.lower()}


def show(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print the findings on stdout: a table, or JSON for programs."""
    if as_json:
        typer.echo(json.dumps([as_dict(finding) for finding in findings], indent=2))
    else:
        wide().print(as_table(findings))


def as_table(findings: Iterable[Finding]) -> Table:
    """Draw the findings, one row each."""
    table = Table("", "what", "found", show_lines=True)
    for finding in findings:
        state = Text(finding.level.name.lower(), style=finding.level.value)
        found = Text(f"{finding.where}\n" if finding.where else "", style="bold", overflow="fold")
        found.append(finding.found, style="not bold")
        if finding.advice:
            found.append(f"\n→ {finding.advice}", style=f"not bold {finding.level.value}")
        table.add_row(state, Text(finding.subject), found)
    return table
