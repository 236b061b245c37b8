"""What was measured, and how it compares."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.table import Table

WAYS = ("farkernel", "direct", "ssh -L", "ssh -J -L")


class Sample(NamedTuple):
    """One value of one row; several of a round are one by their median."""

    row: str
    way: str
    value: float


@dataclass(frozen=True)
class Row:
    """What is measured, and what farkernel has to reach.

    :param beside: the way that farkernel is compared with; empty for a bound of its own
    :param at_most: of the ratio, the difference, or the value
    :param difference: farkernel is not divided by the other way: that is taken off
    """

    unit: str
    beside: str = ""
    at_most: float | None = None
    at_least: float | None = None
    difference: bool = False

    @property
    def target(self) -> str:
        """Say it in words."""
        if self.at_most is None and self.at_least is None:
            return ""
        word, bound = ("≥", self.at_least) if self.at_most is None else ("≤", self.at_most)
        if self.difference:
            return f"{word} {bound:g} {self.unit} more than {self.beside}"
        return f"{word} {bound:g} times {self.beside}" if self.beside else f"{word} {bound:g} {self.unit}".rstrip()

    def compared(self, value: float, beside: float) -> float:
        """Return the ratio, or the difference."""
        return value - beside if self.difference else value / beside

    def met(self, value: float) -> bool | None:
        """Whether a ratio, difference or value is good enough; None where nothing is asked."""
        if self.at_most is not None:
            return value <= self.at_most
        return None if self.at_least is None else value >= self.at_least


class Results:
    """Samples of all rounds."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = rows
        self._values: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )

    def add(self, number: int, sample: Sample) -> None:
        """Note a sample of a round."""
        self._values[sample.row][sample.way][number].append(sample.value)

    def table(self, title: str) -> Table:
        """Return everything side by side."""
        table = Table(title=title, title_justify="left")
        table.add_column("median of the rounds")
        for column in (*WAYS, "ratio or difference", "of the rounds"):
            table.add_column(column, justify="right")
        table.add_column("target")
        table.add_column("met")
        for name in self._values:
            table.add_row(*self._cells(name))
        return table

    def plain(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {name: {**self._plain_row(name), "target": self._rows[name].target} for name in self._values}

    def _cells(self, name: str) -> list[str]:
        row, values = self._rows[name], self._medians(name)
        compared, form = self._comparisons(name), "+.2f" if row.difference else ".2f"
        reached = statistics.median(compared) if compared else values["farkernel"]
        met = row.met(reached) if compared or not row.beside else None
        return [
            f"{name} [{row.unit}]".replace("[]", "").replace("[", r"\["),
            *(f"{values[way]:.4g}" if way in values else "" for way in WAYS),
            f"{reached:{form}}" if compared else "",
            f"{min(compared):{form}} to {max(compared):{form}}" if len(compared) > 1 else "",
            row.target,
            {None: "", True: "[green]yes", False: "[red]NO"}[met],
        ]

    def _plain_row(self, name: str) -> dict[str, Any]:
        rounds = {way: {str(number): by[number] for number in by} for way, by in self._values[name].items()}
        row = self._rows[name]
        kind = "differences" if row.difference else "ratios"
        return {"unit": row.unit, "medians": self._medians(name), kind: self._comparisons(name), **rounds}

    def _medians(self, name: str) -> dict[str, float]:
        ways = self._values[name].items()
        return {way: statistics.median(statistics.median(values) for values in by.values()) for way, by in ways}

    def _comparisons(self, name: str) -> list[float]:
        """Of each round in which both ways were measured."""
        row, ways = self._rows[name], self._values[name]
        beside = row.beside
        common = sorted(ways["farkernel"].keys() & ways[beside].keys()) if beside in ways else []
        return [row.compared(_median(ways["farkernel"][number]), _median(ways[beside][number])) for number in common]


def _median(values: list[float]) -> float:
    return statistics.median(values)
