"""The simulated cluster is what the other tests take it for."""

import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster import Site
from tests.slurm.squeue import PATIENCE


def srun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["srun", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_runs_as_an_ordinary_user_on_the_login_node(cluster: Site) -> None:
    assert socket.gethostname() == "cori01"
    assert pwd.getpwuid(os.getuid()).pw_name == "alice"
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert not cluster.run("nid00001", "alice", ["ls", "/run/user"]).stdout


@pytest.mark.parametrize(("feature", "node"), [("haswell", "nid0000"), ("knl", "nid0230")])
def test_constraint_chooses_the_node(cluster: Site, feature: str, node: str) -> None:
    done = srun("-C", feature, "hostname")
    assert done.stdout.startswith(node), done.stderr


def test_constraint_is_mandatory(cluster: Site) -> None:
    done = srun("true")
    assert done.returncode == 1
    assert "No hardware architecture specified (-C)!" in done.stderr


def test_interactive_qos_refuses_batch_jobs_only(cluster: Site) -> None:
    options = ["-q", "interactive", "-C", "knl", "-t", "5"]
    batch = subprocess.run(
        ["sbatch", *options, "--wrap=true"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert batch.returncode == 1
    assert "does not take batch jobs" in batch.stderr
    assert srun(*options, "true").returncode == 0


def test_user_without_association_is_refused(cluster: Site) -> None:
    done = cluster.run("cori01", "carol", ["srun", "-C", "knl", "true"])
    assert done.returncode == 1
    assert "Invalid account or account/partition combination" in done.stderr


def test_module_loads_in_a_login_shell_on_a_node(cluster: Site) -> None:
    script = "module load farkernel-test/1.0 && echo $FARKERNEL_TEST_MODULE"
    assert srun("-C", "haswell", "bash", "-lc", script).stdout == "loaded\n"


def test_the_python_under_test_runs_on_a_node(cluster: Site) -> None:
    program = "import farkernel.provisioners, sys; print(sys.prefix)"
    done = srun("-C", "haswell", sys.executable, "-c", program)
    assert done.stdout == f"{sys.prefix}\n", done.stderr


def test_home_is_shared_and_private(cluster: Site) -> None:
    secret = Path.home() / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_text("mine")
    assert srun("-C", "knl", "cat", str(secret / "file")).stdout == "mine"
    for host in ("cori01", "nid02301"):
        refused = cluster.run(host, "bob", ["cat", str(secret / "file")])
        assert "Permission denied" in refused.stderr


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/dev/shm"])
def test_temporary_files_are_private_to_a_host(cluster: Site, place: str) -> None:
    mark = Path(place, "farkernel-mark")
    mark.touch()
    assert mark.name not in cluster.run("nid00001", "alice", ["ls", place]).stdout
    mark.unlink()


def test_ssh_to_a_node_needs_a_job_there(cluster: Site) -> None:
    done = subprocess.run(["ssh", "nid00001", "true"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 255
    assert "you have no active jobs on this node" in done.stderr


def test_laptop_has_ssh_and_no_slurm(cluster: Site) -> None:
    assert cluster.run("laptop", "alice", ["ssh", "cori01", "hostname"]).stdout == "cori01\n"
    assert cluster.run("laptop", "alice", ["sinfo"]).returncode == 1


def test_command_that_takes_too_long_is_ended(cluster: Site) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.run("laptop", "bob", ["sh", "-c", "sleep 1000; true"], timeout=0.5)


def wait_until_down(*nodes: str) -> None:
    query = ["sinfo", "-h", "-N", "-p", "cori", "-t", "down", "-o", "%N", "-n", ",".join(nodes)]
    deadline = time.monotonic() + PATIENCE
    while subprocess.check_output(query, text=True).split() != list(nodes):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_lost_nodes_come_back(cluster: Site) -> None:
    cluster.cable("nid00001", up=False)
    cluster.power_off("nid02301")
    wait_until_down("nid00001", "nid02301")
    left = cluster.leftovers()
    assert "the cable of nid00001 is pulled" in left
    assert "nid02301 is powered off" in left
    cluster.cable("nid00001", up=True)
    cluster.power_on("nid02301")
    cluster.idle()
    for feature, node in (("haswell", "nid00001"), ("knl", "nid02301")):
        assert srun("-C", feature, "-w", node, "hostname").stdout == f"{node}\n"


def test_suspended_host_goes_on_where_it_was(cluster: Site) -> None:
    cluster.suspend("laptop")
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.run("cori01", "alice", ["ssh", "laptop", "hostname"], timeout=1)
    cluster.resume("laptop")
    assert cluster.run("cori01", "alice", ["ssh", "laptop", "hostname"]).stdout == "laptop\n"


def test_leftovers_are_found_and_removed(cluster: Site) -> None:
    cluster.run("cori01", "bob", ["sbatch", "-C", "knl", "--wrap=sleep 100"])
    cluster.run("laptop", "alice", ["sh", "-c", "setsid sleep 100 >/dev/null 2>&1 &"])
    deadline = time.monotonic() + PATIENCE
    while "process on laptop: alice sleep 100" not in (left := "\n".join(cluster.leftovers())):
        assert time.monotonic() < deadline, left
    assert "of bob: wrap" in left
    cluster.clean()
    assert cluster.leftovers() == []
