"""The tables of docs/reference.md, made from the models: `python -m tests.reference` writes them anew."""

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from farkernel.provisioners.commands import srun_argv
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.kinds import Kind
from farkernel.provisioners.layers import Layer, merged
from farkernel.provisioners.policy import policy_fields
from farkernel.provisioners.request import Request, nested, parse_request, request_schema

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"

_BLOCK = re.compile(r"(<!-- keys of (\w+), made by `python -m tests.reference` -->\n).*?(?=<!-- end -->)", re.DOTALL)
_HEADER = "| key | kind | default | meaning | example | as srun gets it |\n|---|---|---|---|---|---|\n"
_IN_SHIFTER = Layer("", {"container": {"runtime": "shifter", "image": "docker:a:1"}})


def page(text: str) -> str:
    """Return the page with its tables as the models have them."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_table(block[2])}", text)


def _table(section: str) -> str:
    if section == "policy":
        rows = [_cells(f"`{key}`", _kind(field), field.description or "") for key, field in policy_fields().items()]
        return "| key | kind | meaning |\n|---|---|---|\n" + "".join(rows)
    field = Request.model_fields[section]
    model = field.annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return _HEADER + _row(section, field, request_schema()["properties"][section])
    described = request_schema()["$defs"][model.__name__]["properties"]
    rows = [_row(f"{section}.{name}", each, described[name]) for name, each in model.model_fields.items()]
    return _HEADER + "".join(rows)


def _row(key: str, field: FieldInfo, described: dict[str, Any]) -> str:
    assert field.description
    examples = list(_examples(described))
    assert examples, f"{key} has no example"
    return _cells(
        f"`{key}`",
        _kind(field),
        _code(field.get_default(call_default_factory=True)),
        field.description,
        _code(examples[0]),
        _srun(key, examples[0]),
    )


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _kind(field: FieldInfo) -> str:
    found = [each for each in (*field.metadata, *_within(field.annotation)) if isinstance(each, Kind)]
    return found[0].name


def _within(annotation: Any) -> Iterator[Any]:
    for part in typing.get_args(annotation):
        yield part
        yield from _within(part)


def _examples(described: dict[str, Any]) -> Iterator[Any]:
    """Yield a field's own examples, then those of its kind."""
    yield from described.get("examples", [])
    for each in described.get("anyOf", []):
        yield from each.get("examples", [])


def _srun(key: str, example: Any) -> str:
    """Return what a key adds to srun's command line."""
    if not key.startswith(("slurm.", "container.")):
        return "-"
    base = _IN_SHIFTER if key.startswith("container.") else Layer("", {})
    words = _words(merged([base, Layer("", nested(key, example))]))
    found = [word for word in words if word not in _words({})]
    own = [word for word in found if key.startswith("slurm.") or word not in _words(dict(base.config))]
    if key == "container.image":
        own = [word for word in own if "image" in word]
    return " ".join(f"`{word}`" for word in own) or "-"


def _words(config: dict[str, Any]) -> list[str]:
    request = parse_request(config, source="the reference")
    options = container_of(request, source="the reference").slurm_options()
    return srun_argv(request.slurm, [], options=options)


def _code(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
