"""`farkernel doctor` against a real Slurm."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Site
from tests.faults.switches import NODE, SLURMD, no_way_in
from tests.slurm.squeue import PATIENCE

pytestmark = pytest.mark.usefixtures("cluster")

Farkernel = Callable[..., str]


@pytest.fixture
def farkernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farkernel:
    """Run `farkernel` with kernelspecs of this test's own, and give what it prints."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: str, code: int | None = 0) -> str:
        argv = [sys.executable, "-m", "farkernel.provisioners.cli", *arguments]
        done = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=2 * PATIENCE)
        assert code in (None, done.returncode), done.stdout + done.stderr
        return done.stdout

    return call


def _change(tmp_path: Path, name: str, part: str, values: dict[str, Any]) -> None:
    """Edit an installed kernelspec's config as a user would."""
    file = tmp_path / "data/kernels" / name / "kernel.json"
    spec = json.loads(file.read_text())
    spec["metadata"]["kernel_provisioner"]["config"].setdefault(part, {}).update(values)
    file.write_text(json.dumps(spec))


def _jobs() -> str:
    argv = ["squeue", "--me", "--noheader", "--name=farkernel-doctor", "--states=PENDING,RUNNING", "--format=%i"]
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


def test_it_sees_the_machine(farkernel: Farkernel) -> None:
    shown = farkernel("doctor", code=None)

    assert "slurm-wlm" in shown
    assert "is UP" in shown
    assert "knl,quad,cache: " in shown
    assert "m1234 (default" in shown


def test_the_launchers_python_is_tried_on_a_node_of_the_kernels_kind(farkernel: Farkernel) -> None:
    farkernel("kernelspec", "install", "cori-knl")

    shown = farkernel("doctor", "--on-node", "--kernel", "cori-knl", code=None)

    assert f"{sys.executable} on nid023" in shown
    assert "with CURVE" in shown
    assert _jobs() == ""


def test_both_ways_between_login_node_and_node_are_tried(farkernel: Farkernel, tmp_path: Path, cluster: Site) -> None:
    farkernel("kernelspec", "install", "cori-knl")
    _change(tmp_path, "cori-knl", "slurm", {"extra_args": [f"--nodelist={NODE}"]})

    shown = farkernel("doctor", "--on-node", code=None)
    assert "(launcher.connect: node): yes" in shown
    assert "(launcher.connect: login): yes" in shown

    with no_way_in(cluster, NODE, open_ports=SLURMD):
        shown = farkernel("doctor", "--on-node", code=1)
        assert f"(launcher.connect: node): no: {NODE}:" in shown
        assert "(launcher.connect: login): yes" in shown
        assert 'Put "connect": "login" into "launcher"' in shown
        _change(tmp_path, "cori-knl", "launcher", {"connect": "login"})
        shown = farkernel("doctor", "--on-node", code=None)
        assert 'into "launcher"' not in shown
    assert _jobs() == ""


def test_a_refusal_is_told_in_slurms_words(farkernel: Farkernel) -> None:
    farkernel("kernelspec", "install", "cori-knl", "--qos", "nosuch")

    shown = farkernel("doctor", "--on-node", code=1)

    assert "Invalid qos specification" in shown
    assert "slurm.qos" in shown


def test_a_python_that_is_not_on_the_node_is_told(farkernel: Farkernel, tmp_path: Path) -> None:
    farkernel("kernelspec", "install", "cori-haswell")
    _change(tmp_path, "cori-haswell", "launcher", {"python": "/not/there/python"})

    shown = farkernel("doctor", "--on-node", code=1)

    assert "/not/there/python did not run" in shown
    assert "No such file or directory" in shown


def test_a_job_that_has_to_wait_for_long_is_withdrawn(farkernel: Farkernel, tmp_path: Path) -> None:
    farkernel("kernelspec", "install", "cori-haswell")
    _change(tmp_path, "cori-haswell", "slurm", {"extra_args": ["--begin=now+1hour"]})

    shown = farkernel("doctor", "--on-node", "--wait", "5", code=None)

    assert "srun did not end within 5 s; the job is withdrawn" in shown
    assert _jobs() == ""
