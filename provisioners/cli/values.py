"""What is asked for, key by key, and which file each value comes from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from farkernel.provisioners.layers import Layer, leaves, merged, origin


class Value(NamedTuple):
    """One key of what layers ask for together.

    :param source: the layer that it comes from; `from` in JSON
    :param hides: what the layers below the highest one give instead, if that gives another value; None for nothing
    """

    key: str
    value: Any
    source: str
    hides: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"key": self.key, "value": self.value, "from": self.source}


def values(layers: Sequence[Layer]) -> list[Value]:
    """Return what valid layers ask for, the lowest first."""
    below, whole = leaves(merged(layers[:-1])), leaves(merged(layers))
    below.pop("extends", None)  # each layer has its own
    return [
        Value(key, value, origin(layers, key), below[key] if key in below and _changes(below[key], value) else None)
        for key, value in whole.items()
    ]


def _changes(old: Any, new: Any) -> bool:
    if isinstance(old, Mapping) and isinstance(new, Mapping):  # merged key by key
        return any(new.get(key) != value for key, value in old.items())
    return bool(old != new)


def as_table(rows: Iterable[Value]) -> Table:
    """Draw them, a row each."""
    rows = list(rows)
    table = Table("asks for", "value", "from", *(["instead of"] if any(row.hides is not None for row in rows) else []))
    for row in rows:
        hidden = [] if row.hides is None else [Text(shown(row.hides))]
        table.add_row(Text(row.key), Text(shown(row.value)), Text(row.source, overflow="fold"), *hidden)
    return table


def shown(value: Any) -> str:
    """Return a value as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
