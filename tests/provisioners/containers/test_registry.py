"""Runtimes that a site has added: the admin guide's example, installed, and ones that are wrong."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from farkernel.provisioners.containers.base import Container, Inside
from farkernel.provisioners.containers.registry import GROUP, container_of, find_runtime, runtime_names
from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.image_failures import image_failure
from farkernel.provisioners.request import parse_request

GUIDE = Path(__file__).parents[3] / "docs" / "admin-guide.md"

SITEBOX = """\
#!/bin/sh
image=$1; shift
if [ "$image" != tools-2026 ]; then echo "sitebox: no such image: $image" >&2; exit 1; fi
SITEBOX_IMAGE=$image exec "$@"
"""


def block(language: str, about: str) -> str:
    """Return the one block of the guide that has this word."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if about in text]
    return str(found)


def distribution(folder: Path, runtimes: dict[str, str], **modules: str) -> None:
    """Write what an installer leaves of a distribution."""
    info = folder / "farkernel_sitebox-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: farkernel-sitebox\nVersion: 1.0\n")
    points = "".join(f"{name} = {value}\n" for name, value in runtimes.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of distributions that this process finds, and forgets afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sitebox", raising=False)
    return tmp_path


@pytest.fixture
def sitebox(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the admin guide's example, and the program that it is for."""
    project = tomllib.loads(block("toml", GROUP))
    assert project["tool"]["setuptools"]["py-modules"] == ["sitebox"]
    distribution(site, project["project"]["entry-points"][GROUP], sitebox=block("python", "sitebox"))
    program = site / "bin" / "sitebox"
    program.parent.mkdir()
    program.write_text(SITEBOX)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return site


def container(**keys: object) -> Container:
    return container_of(parse_request({"container": {"runtime": "sitebox", **keys}}, source="k"), source="k")


def inside(*argv: str) -> Inside:
    return Inside(argv=argv, env={"A": "kernelspec", "B": "x y"}, home="/", cwd=["/"], directory="/tmp")


def run(command: Container, *argv: str) -> "subprocess.CompletedProcess[str]":
    made = command.command(inside(*argv))
    env = {**os.environ, **made.env}
    return subprocess.run(made.argv, env=env, check=False, timeout=60, text=True, capture_output=True)


def test_a_sites_runtime_is_found(sitebox: Path) -> None:
    assert "sitebox" in runtime_names()
    assert find_runtime("sitebox", source="k").__module__ == "sitebox"


def test_a_sites_runtime_runs_the_command_in_its_image(sitebox: Path) -> None:
    done = run(container(image="tools-2026", env={"A": "container"}), "/bin/sh", "-c", 'echo "$SITEBOX_IMAGE $A $B"')

    assert (done.returncode, done.stdout, done.stderr) == (0, "tools-2026 container x y\n", "")


def test_a_sites_runtime_explains_what_went_wrong(sitebox: Path) -> None:
    done = run(container(image="nope"), "true")
    failure = image_failure(container(image="nope"), done.returncode, done.stderr, kernel="Tools", kernelspec="tools")

    assert failure
    assert "in the image nope: sitebox does not have it." in str(failure)
    assert "sitebox --list" in str(failure)


def test_a_sites_runtime_complains_with_file_and_key(sitebox: Path) -> None:
    with pytest.raises(RequestError) as caught:
        container(volumes=["/a:/b"])

    assert str(caught.value).splitlines() == [
        "k: container.image: expected an image's name, it is missing",
        'k: container.volumes: means nothing to the runtime "sitebox"',
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("sitebox:Sitebox", "cannot be loaded from sitebox:Sitebox"),
        ("no_such_module:Sitebox", "cannot be loaded from no_such_module:Sitebox"),
        ("sitebox:Nothing", "cannot be loaded from sitebox:Nothing"),
        ("collections:OrderedDict", "no subclass of"),
        ("os:getcwd", "no subclass of"),
    ],
)
def test_a_runtime_that_is_wrong_is_named(site: Path, value: str, why: str) -> None:
    distribution(site, {"sitebox": value}, sitebox="raise RuntimeError('broken')")

    with pytest.raises(RequestError, match=f'^k: .*"sitebox".*{why}') as caught:
        container(image="x")
    assert "\n" not in str(caught.value)


def test_a_wrong_one_does_not_harm_the_others(site: Path) -> None:
    distribution(site, {"sitebox": "no_such_module:Sitebox"})

    assert {"sitebox", "shifter", "none"} <= set(runtime_names())
    container_of(parse_request({}, source="k"), source="k")
