"""`farkernel doctor` on a machine without a cluster, and its checks one by one."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from farkernel.kernelspecs.install import Installed
from farkernel.provisioners.cli import check_directions, check_host
from farkernel.provisioners.cli.check_container import check_containers
from farkernel.provisioners.cli.check_jupyter import check_jupyter
from farkernel.provisioners.cli.check_launcher import PROBE, check_here, check_on_node, srun_probe, valid
from farkernel.provisioners.cli.check_slurm import check_slurm, describe_accounts, describe_partitions
from farkernel.provisioners.cli.findings import Finding, Level
from farkernel.provisioners.policy_file import Found, in_force
from farkernel.provisioners.process import converse
from farkernel.provisioners.request import parse_request

Farkernel = Callable[..., subprocess.CompletedProcess[str]]


def _spec(config: Mapping[str, Any], provisioner: str = "farkernel-slurm") -> Installed:
    return Installed("mine", Path("/k/mine"), "Mine", provisioner, dict(config))


def _program(folder: Path, name: str, script: str) -> None:
    """Write a program that stands in for one of Slurm's."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def short() -> Iterator[Path]:
    """Make a private directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="fk") as folder:
        yield Path(folder)


# The command as a whole


def test_without_slurm_it_warns_and_is_content(farkernel: Farkernel, home: Path, short: Path) -> None:
    farkernel("kernelspec", "install", "local")

    done = farkernel("doctor", PATH=str(home), XDG_RUNTIME_DIR=str(short))

    assert "srun is not on PATH" in done.stdout
    assert "Kernels of farkernel-local work here all the same" in done.stdout
    assert "kernelspec local" in done.stdout
    assert "problem" not in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_a_problem_ends_it_with_1(farkernel: Farkernel, home: Path) -> None:
    (home / "file").write_text("in the way")

    done = farkernel("doctor", PATH=str(home), JUPYTER_RUNTIME_DIR=str(home / "file"))

    assert done.returncode == 1
    assert "Set JUPYTER_RUNTIME_DIR to a directory of yours" in done.stdout


def test_an_unknown_kernel_is_answered_with_the_installed_ones(farkernel: Farkernel) -> None:
    farkernel("kernelspec", "install", "local")

    done = farkernel("doctor", "--kernel", "nope")

    assert done.returncode == 1
    assert "There is no farkernel kernelspec 'nope'.\nThere is local." in done.stderr


# Slurm


def test_a_controller_that_does_not_answer_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("srun", "sbatch", "squeue", "scancel", "sinfo", "sacct", "sacctmgr"):
        _program(tmp_path / "bin", name, "echo slurm 22.05.8")
    _program(tmp_path / "bin", "scontrol", "echo 'Slurmctld(primary) at ctl is DOWN'; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    programs, controller = asyncio.run(check_slurm())

    assert (programs.level, programs.found) == (Level.OK, f"slurm 22.05.8 ({tmp_path}/bin/srun)")
    assert (controller.level, controller.found) == (Level.PROBLEM, "Slurmctld(primary) at ctl is DOWN")


@pytest.mark.parametrize(("missing", "level"), [("scancel", Level.PROBLEM), ("sacct", Level.WARNING)])
def test_a_missing_program_is_named(
    missing: str, level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {"srun", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr"} - {missing}:
        _program(tmp_path / "bin", name, "echo slurm 22.05.8")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    programs = asyncio.run(check_slurm())[0]

    assert programs.level is level
    assert programs.found.endswith(f"missing: {missing}")


def test_accounts_are_taken_from_past_jobs_where_the_database_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("srun", "sbatch", "squeue", "scancel"):
        _program(tmp_path / "bin", name, "")
    _program(tmp_path / "bin", "scontrol", "echo 'Slurmctld(primary) at ctl is UP'")
    _program(tmp_path / "bin", "sinfo", "echo 'cori*|up|4:00:00|knl|1/1/0/2'")
    _program(tmp_path / "bin", "sacctmgr", "echo 'Access denied' >&2; exit 1")
    _program(tmp_path / "bin", "sacct", "echo 'm1234|debug'; echo 'm1234|debug'; echo 'm1234|regular'")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    accounts = asyncio.run(check_slurm())[-1]

    assert accounts == Finding(
        Level.OK,
        "accounts and QOS",
        "used in the last 30 days:\nm1234 with QOS debug\nm1234 with QOS regular",
    )


def test_partitions_with_several_kinds_of_nodes_have_one_line() -> None:
    output = (
        "cori*|up|2-00:00:00|haswell|0/2/0/2\ncori*|up|2-00:00:00|knl,quad|1/1/0/2\ndown|down|1:00|(null)|0/1/0/1\n"
    )

    lines, any_up = describe_partitions(output)

    assert any_up
    assert lines == [
        "cori* (up, limit 2-00:00:00): haswell: 2 of 2 idle; knl,quad: 1 of 2 idle",
        "down (down, limit 1:00): no features: 1 of 1 idle",
    ]
    assert not describe_partitions("down|down|1:00|(null)|0/1/0/1\n")[1]


def test_accounts_name_the_default_and_their_qos() -> None:
    output = "m0|knl|debug,regular|\nm1234||debug|debug\n"

    assert describe_accounts(output, "m1234") == [
        "m0 (in partition knl): debug, regular",
        "m1234 (default, default QOS debug): debug",
    ]


def test_programs_that_find_no_configuration_are_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("srun", "sbatch", "squeue", "scancel", "scontrol"):
        _program(tmp_path / "bin", name, f"echo '{name}: fatal: Could not establish a configuration' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    (finding,) = asyncio.run(check_slurm())

    assert finding.level is Level.PROBLEM
    assert f"`{tmp_path}/bin/srun --version` fails:\nsrun: fatal: Could not" in finding.found
    assert "SLURM_CONF" in finding.advice


# This host


def test_a_private_runtime_directory_is_used_and_left_as_it_was(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))

    assert check_host.check_runtime_directory() == Finding(Level.OK, "directory for sockets", str(short))
    assert list(short.iterdir()) == []


@pytest.mark.parametrize(
    ("flaw", "words"), [("open", "is open to others (mode 0755)"), ("missing", "No such file or directory")]
)
def test_a_runtime_directory_that_cannot_be_used_is_worth_a_warning(
    flaw: str, words: str, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / "missing" if flaw == "missing" else short))

    finding = check_host.check_runtime_directory()

    assert finding.level is Level.WARNING
    assert f"{words}: sockets go to {tempfile.gettempdir()}" in finding.found


def test_the_directory_for_sockets_must_have_a_short_path(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = short / ("d" * 100)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))

    finding = check_host.check_runtime_directory()

    assert finding.level is Level.PROBLEM
    assert "107 are possible" in finding.found


def test_without_a_runtime_directory_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    assert check_host.check_runtime_directory().level is Level.OK


def test_connection_files_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "file"))

    assert check_host.check_connection_files().level is Level.PROBLEM


def test_looking_makes_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "state"))

    assert check_host.check_connection_files().level is Level.OK
    assert not (tmp_path / "state").exists()


def test_few_open_files_are_worth_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 4096))

    assert check_host.check_open_files().level is Level.WARNING


# Jupyter


def _kernel_json(folder: Path, stanza: dict[str, Any]) -> Path:
    spec = {"argv": ["true", "{connection_file}"], "display_name": "Mine", "metadata": {"kernel_provisioner": stanza}}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return folder / "kernel.json"


def test_a_kernelspec_that_is_not_valid_is_a_problem_in_the_requests_words(tmp_path: Path) -> None:
    config = {"slurm": {"acount": "m1"}}
    file = _kernel_json(tmp_path, {"provisioner_name": "farkernel-slurm", "config": config})

    (finding,) = [finding for finding in check_jupyter([file]) if finding.level is Level.PROBLEM]

    assert (finding.file, finding.subject) == (str(file), "slurm.acount")
    assert finding.advice == "Write account."


def test_a_kernelspec_that_jupyter_hides_is_a_problem(farkernel: Farkernel, home: Path) -> None:
    folder = home / ".local/share/jupyter/kernels/mine"
    folder.mkdir(parents=True)
    _kernel_json(folder, {"provisioner_name": "farkernel-slrum"})

    done = farkernel("doctor")

    assert done.returncode == 1
    assert "Write farkernel-slurm." in done.stdout


def test_a_kernelspec_that_jupyter_hides_can_be_named(farkernel: Farkernel, home: Path) -> None:
    folder = home / ".local/share/jupyter/kernels/mine"
    folder.mkdir(parents=True)
    _kernel_json(folder, {"provisioner_name": "farkernel-slrum"})

    told = json.loads(farkernel("doctor", "--kernel", "mine", "--json").stdout)

    assert "Write farkernel-slurm." in {finding["advice"] for finding in told}


def test_of_two_of_a_name_it_says_which_one_jupyter_takes(farkernel: Farkernel, home: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other/share/jupyter")
    farkernel("kernelspec", "install", "local", "--prefix", str(tmp_path / "other"))
    done = farkernel("kernelspec", "install", "local", JUPYTER_PATH=other)

    told = json.loads(farkernel("doctor", "--kernel", "local", "--json", JUPYTER_PATH=other).stdout)
    hidden = f"{home}/.local/share/jupyter/kernels/local"
    checked = json.loads(farkernel("kernelspec", "check", hidden, "--json", JUPYTER_PATH=other).stdout)

    used = f"{other}/kernels/local"
    assert f"Jupyter takes another one of this name, {used}, which hides this one" in done.stderr
    words = {finding["found"]: finding["file"] for finding in told}
    assert words[f"Jupyter takes this one, which hides {hidden}/kernel.json"] == f"{used}/kernel.json"
    assert checked[0]["found"] == f"Jupyter takes another one of this name, {used}/kernel.json, which hides this one"
    assert checked[0]["level"] == "warning"


# Images


def test_the_program_of_a_kernelspecs_image_may_be_on_the_nodes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path, "shifter", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    names = {"shifter": "docker:x:1", "charliecloud": "/x", "podman-hpc": "x", "apptainer": "/x.sif"}
    specs = [_spec({"container": {"runtime": runtime, "image": image}}) for runtime, image in names.items()]

    found = check_containers([_spec({}), _spec({"container": {"runtime": "shifter"}}), *specs])

    assert [finding.level for finding in found] == [Level.OK, Level.WARNING, Level.WARNING, Level.WARNING]
    assert (found[0].subject, f"docker:x:1, by {tmp_path}/shifter" in found[0].found) == ("image of mine", True)
    assert [finding.found for finding in found[1:]] == [
        "/x: ch-run is not on this host",
        "x: podman-hpc is not on this host",
        "/x.sif: apptainer is not on this host",
    ]
    assert "farkernel images check --kernel mine --on-node" in found[1].advice


# The launcher's Python


def test_this_python_can_run_the_launcher() -> None:
    (finding,) = asyncio.run(check_here([]))

    assert finding.level is Level.OK
    assert sys.executable in finding.found
    assert "with CURVE" in finding.found


def test_a_python_without_zmq_says_how_to_get_it(tmp_path: Path) -> None:
    _program(tmp_path, "python", f'exec {sys.executable} -S -I "$@"')

    (finding,) = asyncio.run(check_here([_spec({"launcher": {"python": str(tmp_path / "python")}})]))

    assert finding.level is Level.PROBLEM
    assert "No module named 'zmq'" in finding.found
    assert finding.advice.endswith("-m pip install pyzmq`")


def test_a_python_that_only_the_nodes_have_is_no_problem_here() -> None:
    (finding,) = asyncio.run(check_here([_spec({"launcher": {"python": "/not/here/python"}})]))

    assert finding.level is Level.WARNING
    assert "--on-node" in finding.advice


def test_the_probe_is_a_short_job_of_the_kernelspecs_kind() -> None:
    slurm = {"account": "m1", "constraint": "knl", "nodes": 8, "time": "4:00:00", "ntasks_per_node": 2}
    slurm |= {"exclusive": True, "extra_args": ["--switches=1"]}
    request = parse_request({"slurm": slurm, "launcher": {"python": "/p"}}, source="test")

    argv = srun_probe(request)

    assert argv[0] == "srun"
    assert argv[-4:] == ["--switches=1", "/p", "-c", PROBE + check_directions.PROBE]
    asked = {"--account=m1", "--constraint=knl", "--nodes=1", "--ntasks-per-node=1", "--time=0:05:00"}
    assert asked <= set(argv)
    assert "--job-name=farkernel-doctor" in argv
    assert "--exclusive" not in argv


@pytest.mark.parametrize(
    ("srun", "level", "found"),
    [
        (
            f'while [ $1 != {sys.executable} ]; do shift; done; exec "$@"',
            Level.OK,
            f"{sys.executable} on {os.uname().nodename}: Python 3.",
        ),
        (
            "echo 'srun: error: Unable to allocate resources: Invalid qos specification' >&2; exit 1",
            Level.PROBLEM,
            "Slurm refused the job of kernel Mine",
        ),
        (
            "echo 'srun: job 1 has been allocated resources' >&2; echo 'no such file' >&2; exit 2",
            Level.PROBLEM,
            "did not run (exit code 2)\nno such file",
        ),
        ("exec sleep 60", Level.WARNING, "srun did not end within 3 s; the job is withdrawn"),
    ],
)
def test_what_srun_says_is_told(
    srun: str, level: Level, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path / "bin", "srun", srun)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    finding = asyncio.run(check_on_node([_spec({})], wait=3))[0]

    assert finding.level is level
    assert found in finding.found


def test_without_a_kernelspec_for_nodes_there_is_nothing_to_try() -> None:
    (finding,) = asyncio.run(check_on_node([_spec({}, "farkernel-local")], wait=1))

    assert (finding.level, finding.found) == (
        Level.PROBLEM,
        "no valid kernelspec for compute nodes is installed",
    )


def test_the_probe_is_valid_python_that_prints_one_json_line() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True, text=True)

    assert json.loads(done.stdout)["curve"] is True


# The ways between this host and a node: here the node is this host


def _directions(**launcher: Any) -> Finding:
    request = parse_request({"launcher": launcher}, source="here")

    async def look() -> list[Finding]:
        with check_directions.Directions(request.launcher) as directions:
            argv = [sys.executable, "-c", PROBE + check_directions.PROBE]
            done = await converse(argv, timeout=30, first=directions.first_line, on_line=directions.take)
            assert (done.returncode, done.stderr) == (0, "")
        return directions.findings("mine", "/k/mine/kernel.json")

    (finding,) = asyncio.run(look())
    return finding


@pytest.mark.parametrize("connect", ["node", "login"])
def test_both_ways_between_the_hosts_are_tried(connect: str) -> None:
    finding = _directions(connect=connect)

    assert finding.level is Level.OK
    assert "(launcher.connect: node): yes" in finding.found
    assert "(launcher.connect: login): yes" in finding.found


@pytest.mark.parametrize(("connect", "other"), [("node", "login"), ("login", "node")])
def test_a_way_that_is_shut_is_a_problem_and_the_other_one_is_named(connect: str, other: str) -> None:
    finding = _directions(connect=connect, interface="192.0.2.1")

    assert finding.level is Level.PROBLEM
    assert "cannot listen: " in finding.found
    assert f"(launcher.connect: {other}): yes" in finding.found
    assert finding.advice == f'Put "connect": "{other}" into "launcher" (/k/mine/kernel.json)'


def test_ports_that_are_taken_are_a_problem() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        finding = _directions(ports=f"{port}-{port}")

    assert finding.level is Level.PROBLEM
    assert finding.found.count("Address already in use") == 2
    assert "launcher.ports" in finding.advice


def test_of_this_hosts_variables_none_counts_where_it_does_not_at_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Found('[allowed]\nqos = ["debug"]\n')
    monkeypatch.setattr("farkernel.provisioners.effective.site_policy", lambda: in_force(policy, source="/policy"))
    monkeypatch.setenv("SLURM_QOS", "premium")
    monkeypatch.setenv("SLURM_GPUS", "a100")
    here, behind, local = _spec({}), _spec({"login": "cori"}), _spec({}, "farkernel-local")
    assert [spec for spec, _ in valid([here, behind, local])] == [behind, local]
    monkeypatch.setenv("SLURM_QOS", "debug")
    monkeypatch.setenv("SLURM_GPUS", "1")
    assert [spec for spec, _ in valid([here])] == [here]
