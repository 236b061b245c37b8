"""`farkernel images` on the login node, as its user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farkernel.kernelspecs.install import write as write_kernelspec
from farkernel.kernelspecs.templates import load_template
from tests.cluster import Site
from tests.cluster.shifter import images, switches
from tests.slurm.helpers import PATIENCE, jobs

pytestmark = pytest.mark.usefixtures("cluster")


Kernelspec = Callable[..., None]


def farkernel(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin", "USER": "alice"}
    return subprocess.run(
        [f"{sys.prefix}/bin/farkernel", "images", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=2 * PATIENCE,
    )


def words(done: subprocess.CompletedProcess[str]) -> str:
    """What a table says, without its lines."""
    return " ".join(re.sub(r"[\u2500-\u257f]", " ", done.stdout).split())


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
        (["localhost/pyhep:2.0"], 0, "localhost/pyhep:2.0 (podman-hpc)"),
        (["/run/images/pyhep", "--runtime=charliecloud"], 0, "ipykernel"),
        (["/run/images/nope", "--runtime=charliecloud"], 1, "no image"),
    ],
)
def test_what_is_in_an_image(arguments: list[str], code: int, found: str) -> None:
    done = farkernel("check", *arguments)
    assert found in words(done), done.stderr
    assert done.returncode == code


def test_one_that_is_slow_to_start_is_waited_for() -> None:
    done = farkernel("check", images.SLOW.name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_directories_left: None) -> Kernelspec:
    """Install the kernelspec "mine" where only this test's Jupyter finds it."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))

    def write(image: str, **config: dict[str, Any]) -> None:
        content = load_template("cori-knl-shifter").content  # read anew each time
        stanza = content.spec["metadata"]["kernel_provisioner"]["config"]
        stanza["slurm"]["time"] = "10"
        stanza["container"]["image"] = image
        for part, values in config.items():
            stanza.setdefault(part, {}).update(values)
        write_kernelspec(content, "mine", prefix=tmp_path, replace=True)

    return write


RUNTIMES: dict[str, dict[str, Any]] = {
    images.PYHEP.name: {"volumes": ["/tmp:/mnt"], "modules": ["mpich"], "env": {"LD_LIBRARY_PATH": "/x"}},
    "localhost/pyhep:2.0": {"runtime": "podman-hpc"},
    "/run/images/pyhep": {"runtime": "charliecloud"},
}


@pytest.mark.parametrize("image", RUNTIMES)
def test_a_kernelspecs_image_on_a_node_and_here(mine: Kernelspec, image: str) -> None:
    mine(image, container=RUNTIMES[image])
    on_node, here = farkernel("check", "--kernel=mine", "--on-node"), farkernel("check", "--kernel=mine")
    for done, host in ((on_node, "nid"), (here, "cori01")):
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"on {host}" in words(done)
        assert "IPython" in done.stdout
    assert not jobs()


@pytest.mark.parametrize(
    ("image", "config", "found"),
    [
        ("docker:nope/x:1", {}, "Shifter does not know the image"),
        (images.GONE.name, {}, "on nid0"),
        (images.WITHOUT_IPYKERNEL.name, {}, "lacks ipykernel"),
        (images.BUSY.name, {}, "no command python3"),
        (images.PYHEP.name, {"slurm": {"qos": "nosuch"}}, "Invalid qos specification"),
        (images.PYHEP.name, {"container": {"spank": "long"}}, 'container.spank in the kernelspec to "long"'),
        (images.PYHEP.name, {"kernel": {"modules": ["nosuch"]}}, "modules cannot be loaded on nid0"),
        (images.PYHEP.name, {"kernel": {"cwd": "/home/nosuch"}}, "Correct kernel.cwd"),
        (images.SLOW.name, {"launcher": {"start_timeout": 1}}, "did not start and answer within 1 s"),
    ],
)
def test_what_fails_on_a_node(mine: Kernelspec, image: str, config: dict[str, Any], found: str) -> None:
    mine(image, **config)
    done = farkernel("check", "--kernel=mine", "--on-node")
    assert found in words(done), done.stdout + done.stderr
    assert done.returncode == 1
    assert not jobs()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_check_that_waits_is_withdrawn_by_its_user(mine: Kernelspec, end: signal.Signals) -> None:
    mine(images.PYHEP.name, slurm={"extra_args": ["--begin=now+1hour"]})
    with subprocess.Popen([f"{sys.prefix}/bin/farkernel", "images", "check", "--kernel=mine", "--on-node"]) as process:
        while not jobs():
            time.sleep(0.1)
        process.send_signal(end)
    while jobs():
        time.sleep(0.1)


def test_a_check_that_runs_is_ended_by_its_user_and_leaves_nothing(mine: Kernelspec, cluster: Site) -> None:
    mine(images.SLOW.name)
    nodes = [host for host in cluster.hosts if host.startswith("nid")]
    listing = ["sh", "-c", "ls -d /tmp/farkernel-*/environment"]
    with subprocess.Popen([f"{sys.prefix}/bin/farkernel", "images", "check", "--kernel=mine", "--on-node"]) as process:
        while not any(cluster.run(node, "root", listing).stdout for node in nodes):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
    while jobs():
        time.sleep(0.1)


def test_doctor_names_the_runtimes_program(mine: Kernelspec) -> None:
    mine(images.PYHEP.name)
    argv = [f"{sys.prefix}/bin/farkernel", "doctor", "--kernel=mine"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=2 * PATIENCE)
    assert "image of mine" in words(done)
    assert "/shifter; " in words(done)
