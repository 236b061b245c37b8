"""`farkernel kernelspec check` asks a real Slurm, and starts a kernel on the cluster."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.helpers import PATIENCE, Specs, eventually, jobs

pytestmark = pytest.mark.usefixtures("cluster")


def _argv(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "farkernel.provisioners.cli", "kernelspec", "check", name, *arguments]


def _check(name: str, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    argv = _argv(name, *arguments, "--json")
    done = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=2 * PATIENCE)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_one_whose_folder_may_not_be_entered_is_there_and_cannot_be_read(specs: Specs, tmp_path: Path) -> None:
    name = specs(name="mine")
    folder = tmp_path / "share/jupyter/kernels/mine"
    folder.chmod(0)
    try:
        (told,) = _check(name, code=1)
    finally:
        folder.chmod(0o755)

    assert (told["level"], told["file"]) == ("problem", str(folder / "kernel.json"))
    assert "cannot be read: Permission denied" in told["found"]


def test_slurm_says_when_a_job_would_start_and_none_is_submitted(specs: Specs) -> None:
    name = specs(name="mine")

    estimate = _check(name, "--dry-run")[-1]

    assert (estimate["level"], estimate["subject"]) == ("ok", "Slurm's estimate")
    assert "would start at 20" in estimate["found"]
    assert "processors on nid02301 in partition knl" in estimate["found"].replace("nid02302", "nid02301")
    assert jobs() == []


@pytest.mark.parametrize(
    ("keys", "key", "said", "cure"),
    [
        ({"account": "nosuch"}, "account", "Invalid account", "`sacctmgr show associations"),
        ({"qos": "nosuch"}, "qos", "Invalid qos specification", "correct slurm.qos"),
        ({"nodes": 50}, "nodes", "Node count specification invalid", "ask for fewer in slurm.nodes"),
        ({"time": "3-00"}, "time", "Requested time limit is invalid", "correct slurm.time"),
        ({"qos": "debug", "time": 60}, "qos", "QOSMaxWallDurationPerJobLimit", "Ask for less in slurm.time"),
    ],
)
def test_what_slurm_would_refuse_is_told_at_its_key(
    specs: Specs, tmp_path: Path, keys: dict[str, Any], key: str, said: str, cure: str
) -> None:
    name = specs(name="mine", slurm=keys)
    file = tmp_path / "share/jupyter/kernels/mine/kernel.json"

    refused = _check(name, "--dry-run", code=1)[-1]

    assert said in refused["found"]
    assert cure in refused["advice"]
    assert refused["key"] == f"metadata.kernel_provisioner.config.slurm.{key}"
    assert refused["file"] == str(file)
    assert file.read_text().splitlines()[refused["line"] - 1][refused["column"] - 1 :].startswith(f'"{key}"')


def test_an_image_that_slurm_would_refuse_is_told_at_its_key(specs: Specs) -> None:
    name = specs("cori-knl-shifter", name="mine", container={"image": "docker:nope/x:1"})

    refused = next(finding for finding in _check(name, "--dry-run", code=1) if finding["subject"] == "dry run")

    assert (
        "(kernelspec mine) cannot run in the image docker:nope/x:1: Shifter does not know the image" in refused["found"]
    )
    assert "farkernel images list" in refused["advice"]
    assert refused["key"] == "metadata.kernel_provisioner.config.container.image"


def test_the_sites_own_words_are_told(specs: Specs) -> None:
    refused = _check(specs(name="mine", slurm={"constraint": None}), "--dry-run", code=1)[-1]

    assert "site's own rules" in refused["found"]
    assert "No hardware architecture specified (-C)!" in refused["found"]


def test_a_kernel_is_started_and_nothing_is_left(specs: Specs, tmp_path: Path) -> None:
    specs(name="mine")
    folder = tmp_path / "share/jupyter/kernels/mine"
    elsewhere = folder.rename(tmp_path / "elsewhere")  # where Jupyter does not look

    found = {finding["subject"]: finding["found"] for finding in _check(str(elsewhere), "--launch")}

    *phases, over = [subject for subject in found if subject not in {"kernelspec elsewhere", "argv.0"}]
    assert phases == ["submitted", "queued", "node given", "launcher up", "kernel up", "first result"]
    assert found["submitted"].startswith("Slurm job ")
    assert ": nid023" in found["node given"]
    assert "it runs on nid023" in found["first result"]
    assert found[over].endswith("nothing is left")
    assert jobs() == []


def test_a_job_that_slurm_refuses_was_not_submitted(specs: Specs) -> None:
    *_, refused, _ = found = _check(specs(name="mine", slurm={"qos": "nosuch"}), "--launch", code=1)

    assert (refused["level"], refused["subject"]) == ("problem", "start")
    assert "Invalid qos specification" in refused["found"]
    assert "submitted" not in {finding["subject"] for finding in found}


def _launch(name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(_argv(name, "--launch"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_start_that_its_user_ends_leaves_nothing(specs: Specs, no_free_knl: Any, end: signal.Signals) -> None:
    process = _launch(specs(name="mine"))
    try:
        await eventually(jobs)
        process.send_signal(end)
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()

    assert process.returncode > 0
    assert jobs() == []


def test_a_queue_that_is_too_long_is_told(specs: Specs, no_free_knl: Any) -> None:
    *_, late, over = _check(specs(name="mine"), "--launch", "--wait=5")

    assert (late["level"], late["subject"]) == ("warning", "start")
    assert "wait longer" in late["advice"]
    assert over["found"].endswith("nothing is left")
    assert jobs() == []


def test_an_estimate_that_the_kernelspec_would_not_wait_for_is_told(specs: Specs, no_free_knl: Any) -> None:
    estimate = _check(specs(name="mine", job={"max_wait": "1m"}), "--dry-run")[-1]

    assert (estimate["level"], estimate["subject"]) == ("warning", "Slurm's estimate")
    assert "that is past job.max_wait" in estimate["found"]
    assert jobs() == []
