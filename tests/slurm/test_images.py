"""`farkernel images` on the login node, as its user types it."""

import json
import os
import subprocess
import sys

import pytest

from tests.cluster import Site
from tests.cluster.shifter import images, switches

pytestmark = pytest.mark.usefixtures("cluster")


def farkernel(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin", "USER": "alice"}
    return subprocess.run(
        [f"{sys.prefix}/bin/farkernel", "images", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=120,
    )


def test_what_the_user_may_run_is_listed() -> None:
    done = farkernel("list")
    assert done.returncode == 0, done.stderr
    assert images.PYHEP.name in done.stdout
    assert "localhost/pyhep:2.0" in done.stdout
    assert images.OF_BOB.name not in done.stdout


def test_the_list_as_json() -> None:
    done = farkernel("list", "--runtime=shifter", "--json")
    assert images.PYHEP.name in [entry["name"] for entry in json.loads(done.stdout)]


def test_a_gateway_that_is_down_does_not_hide_the_other_runtimes(cluster: Site) -> None:
    with switches.gateway_down(cluster):
        everything, one = farkernel("list"), farkernel("list", "--runtime=shifter")
    assert everything.returncode == 0
    assert "localhost/pyhep:2.0" in everything.stdout
    assert "gateway does not answer" in everything.stderr
    assert one.returncode == 1
    assert "gateway does not answer" in one.stderr


def test_an_image_is_pulled_with_progress(cluster: Site) -> None:
    done = farkernel("pull", images.PULLABLE.name)
    switches.forget_pulls(cluster)
    assert done.returncode == 0, done.stderr
    assert "READY" in done.stdout
    assert "can be used now" in done.stdout


def test_a_pull_that_fails_says_so_though_its_program_does_not() -> None:
    done = farkernel("pull", "docker:nope/nope:1")
    assert done.returncode == 1
    assert "could not pull docker:nope/nope:1" in done.stderr


def test_a_name_that_the_runtime_would_change() -> None:
    done = farkernel("check", "docker:busy box")
    assert done.returncode == 1
    assert "container.image" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        ([images.PYHEP.name], 0, "ipykernel"),
        ([images.WITHOUT_IPYKERNEL.name], 1, "lacks ipykernel"),
        ([images.BUSY.name], 1, "no command python3"),
        ([images.PYHEP.name, "--command=R"], 1, "no command R"),
        (["localhost/pyhep:2.0", "--runtime=podman-hpc"], 0, "ipykernel"),
        (["/run/images/pyhep", "--runtime=charliecloud"], 0, "ipykernel"),
        (["/run/images/nope", "--runtime=charliecloud"], 1, "no image"),
    ],
)
def test_what_is_in_an_image(arguments: list[str], code: int, found: str) -> None:
    done = farkernel("check", *arguments)
    assert found in " ".join(done.stdout.split()), done.stderr
    assert done.returncode == code
