"""What `farkernel doctor` finds, and how it shows it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from rich.table import Table
from rich.text import Text


class Level(Enum):
    """How much a finding matters: a problem keeps kernels from starting, a warning may."""

    OK = "green"
    WARNING = "yellow"
    PROBLEM = "red"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :param subject: what was looked at
    :param found: what is there
    :param advice: what to do about it; empty when it is as it should be
    """

    level: Level
    subject: str
    found: str
    advice: str = ""


def ok(subject: str, found: str) -> Finding:
    """Say that it is as it should be."""
    return Finding(Level.OK, subject, found)


def warning(subject: str, found: str, advice: str) -> Finding:
    """Say that it may become a problem, and what to do."""
    return Finding(Level.WARNING, subject, found, advice)


def problem(subject: str, found: str, advice: str) -> Finding:
    """Say that it keeps kernels from starting, and what to do."""
    return Finding(Level.PROBLEM, subject, found, advice)


def as_table(findings: Iterable[Finding]) -> Table:
    """Draw the findings, one row each."""
    table = Table("", "what", "found", show_lines=True)
    for finding in findings:
        state = Text(finding.level.name.lower(), style=finding.level.value)
        found = Text(finding.found, overflow="fold")
        if finding.advice:
            found.append(f"\n→ {finding.advice}", style=finding.level.value)
        table.add_row(state, Text(finding.subject), found)
    return table
