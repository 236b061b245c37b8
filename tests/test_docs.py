"""The examples in the documentation: what a reader copies has to work."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec

from farkernel.provisioners.containers.registry import container_of
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
def test_a_kernelspec_in_the_documentation_is_valid(text: str, request: pytest.FixtureRequest) -> None:
    spec = json.loads(text)

    source = request.node.callspec.id
    kernel_spec = KernelSpec(**spec)
    assert kernel_spec.display_name
    assert any("{connection_file}" in word for word in kernel_spec.argv)
    stanza = spec["metadata"]["kernel_provisioner"]
    assert stanza["provisioner_name"] in {"farkernel-slurm", "farkernel-local"}
    container_of(parse_request(stanza["config"], source=source), source=source)


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
