"""The examples in the documentation: what a reader copies has to work."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from jupyter_client.kernelspec import KernelSpec
from typer.main import get_command

from farkernel.kernelspecs.model import kernelspec_schema
from farkernel.provisioners.cli.app import app
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.policy import parse_policy
from farkernel.provisioners.request import parse_request

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _examples() -> Iterator[Any]:
    """Yield each block of JSON, named after its page and the line that it begins in."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, found.start(1)) + 1
            yield pytest.param(found[1], id=f"{page.name}:{line}")


@pytest.mark.parametrize("text", list(_examples()))
def test_json_in_the_documentation_is_valid(text: str, request: pytest.FixtureRequest) -> None:
    spec = json.loads(text)

    source = request.node.callspec.id
    if "argv" not in spec:
        parse_request(spec, source=source)  # a job template
        return
    kernel_spec = KernelSpec(**spec)
    assert kernel_spec.display_name
    assert any("{connection_file}" in word for word in kernel_spec.argv)
    stanza = spec["metadata"]["kernel_provisioner"]
    assert stanza["provisioner_name"] in {"farkernel-slurm", "farkernel-local"}
    container_of(parse_request(stanza["config"], source=source), source=source)
    jsonschema.validate(spec, kernelspec_schema())


def _commands() -> Iterator[Any]:
    """Yield each command line of `farkernel` in a block, and in the text where it has options or arguments."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.finditer(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        lines = [line for block in blocks for line in block[1].splitlines()]
        found = [line for line in lines if re.match(r"\S*\bfarkernel \w", line)]
        found += re.findall(r"`(farkernel [^`|…]+)`", text)
        yield from (pytest.param(line, id=f"{page.name}:{line.partition('  ')[0]}") for line in found)


@pytest.mark.parametrize("line", list(dict.fromkeys(_commands())))
def test_a_command_in_the_documentation_is_one(line: str) -> None:
    """The command line itself reads it, and nothing is run."""
    command: Any = get_command(app)
    words, context, name = shlex.split(line, comments=True)[1:], None, "farkernel"
    while words and hasattr(command, "resolve_command"):  # a group
        context = command.context_class(command, info_name=name, parent=context)
        name, command, words = command.resolve_command(context, words)
    if words and "--help" not in words:
        command.make_context(name, list(words), parent=context)


def _tables() -> Iterator[Any]:
    """Yield each block of TOML."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield pytest.param(found[1], id=f"{page.name}:{text.count(chr(10), 0, found.start(1)) + 1}")


@pytest.mark.parametrize("text", list(_tables()))
def test_toml_in_the_documentation_is_valid(text: str, request: pytest.FixtureRequest) -> None:
    content = tomllib.loads(text)

    if "project" not in content:  # the admin guide's own package
        assert parse_policy(text, source=request.node.callspec.id).layers("policy")


def _fragments() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r'`"(slurm|container|job|launcher|kernel)": (\{[^`]*\})`', text):
            yield pytest.param(found[1], found[2], id=f"{page.name}:{text.count(chr(10), 0, found.start()) + 1}")


@pytest.mark.parametrize(("section", "text"), list(_fragments()))
def test_a_part_of_a_config_in_the_documentation_is_valid(section: str, text: str) -> None:
    config = json.loads(text)
    if section == "container":  # such a part may leave out what the page has named before
        config = {"runtime": "shifter", "image": "docker:a:1", **config}
    request = parse_request({section: config}, source="the documentation")

    if request.container.runtime != "sitebox":  # the admin guide's own
        container_of(request, source="the documentation")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [target for target in targets if not (page.parent / target).exists()] == []
