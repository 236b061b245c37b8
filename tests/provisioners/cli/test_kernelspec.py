"""`farkernel kernelspec`, as a user runs it."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

Farkernel = Callable[..., subprocess.CompletedProcess[str]]


def _kernel_json(home: Path, name: str) -> Any:
    return json.loads((home / ".local/share/jupyter/kernels" / name / "kernel.json").read_text())


def test_version(farkernel: Farkernel) -> None:
    assert farkernel("--version").stdout == f"farkernel {version('farkernel')}\n"


def test_list_shows_templates_and_what_is_installed(farkernel: Farkernel) -> None:
    before = farkernel("kernelspec", "list")
    farkernel("kernelspec", "install", "local", "--name", "mine")
    after = farkernel("kernelspec", "list")

    assert before.returncode == 0
    assert all(name in before.stdout for name in ("cori-haswell", "cori-knl", "local", "farkernel-slurm"))
    assert "No farkernel kernelspec is installed" in before.stdout
    assert ".local/share/jupyter/kernels/mine" in after.stdout


def test_install_writes_this_python_by_default(farkernel: Farkernel, home: Path) -> None:
    done = farkernel("kernelspec", "install", "cori-knl")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Installed cori-knl in {home}/.local/share/jupyter/kernels/cori-knl\n"
    assert _kernel_json(home, "cori-knl")["argv"][0] == sys.executable


def test_install_takes_every_option(farkernel: Farkernel, home: Path) -> None:
    options = ["--name", "mine", "--display-name", "Mine", "--account", "m1234", "--qos", "debug"]
    options += ["--time", "0:30:00", "--constraint", "knl,quad", "--python", "/not/here/python", "--user"]
    options += ["--partition", "p", "--nodes", "3", "--gpus", "2", "--set", "job.max_wait=5m"]

    done = farkernel("kernelspec", "install", "cori-knl", *options)

    assert done.returncode == 0
    assert "argv.0: /not/here/python is no program on this host" in done.stderr
    spec = _kernel_json(home, "mine")
    assert (spec["display_name"], spec["argv"][0]) == ("Mine", "/not/here/python")
    config = spec["metadata"]["kernel_provisioner"]["config"]
    assert config["job"] == {"max_wait": "5m"}
    assert config["slurm"] == {
        "account": "m1234",
        "qos": "debug",
        "time": "0:30:00",
        "constraint": "knl,quad",
        "nodes": 3,
        "partition": "p",
        "gpus": "2",
    }


def test_install_into_a_prefix_says_when_jupyter_does_not_look_there(farkernel: Farkernel, tmp_path: Path) -> None:
    done = farkernel("kernelspec", "install", "local", "--prefix", str(tmp_path / "p"))

    assert (tmp_path / "p/share/jupyter/kernels/local/kernel.json").is_file()
    assert f"add {tmp_path}/p/share/jupyter to JUPYTER_PATH" in done.stderr


def test_install_does_not_overwrite_unasked(farkernel: Farkernel, home: Path) -> None:
    farkernel("kernelspec", "install", "cori-knl")

    refused = farkernel("kernelspec", "install", "cori-knl", "--qos", "debug")
    unchanged = _kernel_json(home, "cori-knl")
    replaced = farkernel("kernelspec", "install", "cori-knl", "--qos", "debug", "--replace")

    assert (refused.returncode, replaced.returncode) == (1, 0)
    assert "--replace" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert unchanged["metadata"]["kernel_provisioner"]["config"]["slurm"]["qos"] == "interactive"
    assert _kernel_json(home, "cori-knl")["metadata"]["kernel_provisioner"]["config"]["slurm"]["qos"] == "debug"


def test_an_unknown_template_is_answered_with_the_valid_names(farkernel: Farkernel) -> None:
    done = farkernel("kernelspec", "install", "cori-gpu")

    assert done.returncode == 2
    assert "there is no kernelspec template 'cori-gpu'." in done.stderr
    assert "There are cori-haswell, cori-haswell-shifter, cori-knl," in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["cori-knl", "--user", "--sys-prefix"], 2, "choose one of"),
        (["local", "--qos", "debug"], 1, "slurm.qos cannot apply"),
        (["cori-knl", "--time", "soon"], 1, "slurm.time"),
    ],
)
def test_what_cannot_be_is_refused(farkernel: Farkernel, home: Path, options: list[str], code: int, words: str) -> None:
    done = farkernel("kernelspec", "install", *options)

    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(home.rglob("kernel.json")) == []


def test_a_failure_is_red_on_a_terminal_that_shows_colours(farkernel: Farkernel) -> None:
    done = farkernel("kernelspec", "install", "local", "--qos", "debug", FORCE_COLOR="1", TERM="xterm")

    assert done.stderr.startswith("\x1b[31m")


def test_a_template_with_an_image_keeps_the_images_python(farkernel: Farkernel, home: Path) -> None:
    done = farkernel("kernelspec", "install", "cori-knl-shifter", "--image", "docker:my/image:1")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    spec = _kernel_json(home, "cori-knl-shifter")
    assert spec["argv"][0] == "python3"
    assert spec["metadata"]["kernel_provisioner"]["config"]["container"]["image"] == "docker:my/image:1"
