"""A real Slurm refuses jobs; the user is told which key of the kernelspec to change.

The tests run as a user on the login host of the cluster, whose job_submit plugin wants a constraint.
"""

import os
import subprocess
from collections.abc import Iterator

import pytest

from farkernel.provisioners.commands import srun_argv, srun_env
from farkernel.provisioners.errors import SubmissionRefused
from farkernel.provisioners.refusals import explain_refusal
from farkernel.provisioners.request import parse_request
from tests.slurm.squeue import PATIENCE

pytestmark = pytest.mark.usefixtures("cluster")

KNL = {"constraint": "knl", "time": 5}


def refused(**keys: object) -> SubmissionRefused:
    """Submit a job that must be refused; a job that is queued instead is not waited for."""
    slurm = parse_request({"slurm": keys}, source="test").slurm
    done = subprocess.run(
        srun_argv(slurm, ["true"]),
        env=srun_env(slurm, os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0, done.stderr
    error = explain_refusal(done.stderr, done.returncode, kernel="Cori KNL")
    assert "Cori KNL" in error.what
    assert error.said
    return error


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"partition": "nosuch"}, "there is no partition nosuch (slurm.partition)"),
        ({"account": "nosuch"}, "the account is not valid, or not yours (slurm.account)"),
        ({"account": "m5678"}, "the account is not valid, or not yours (slurm.account)"),
        ({"qos": "nosuch"}, "(slurm.qos)"),
        ({"qos": "regular", "partition": "shared", "constraint": "haswell"}, "(slurm.qos)"),
        ({"constraint": "knl,nosuch"}, "no node has the features it asks for (slurm.constraint)"),
        ({"partition": "haswell"}, "no node of the partition has all it asks for (slurm.constraint"),
        ({"mem": "9000G"}, "(slurm.mem)"),
        ({"cpus_per_task": 5000}, "(slurm.ntasks_per_node, slurm.cpus_per_task)"),
        ({"qos": "debug", "time": 60}, "limit that its QOS sets on time (slurm.qos, slurm.time)"),
        ({"time": "3-00"}, "longer than the partition allows (slurm.time)"),
        ({"nodes": 50}, "(slurm.nodes)"),
        ({"gpus": 1}, "(slurm.gpus, slurm.gres)"),
        ({"gres": "gpu:1"}, "(slurm.gpus, slurm.gres)"),
        ({"licenses": "nosuch"}, "(slurm.licenses)"),
        ({"reservation": "nosuch"}, "(slurm.reservation)"),
        ({"burst_buffer": {"file": "/nosuch"}}, "(slurm.burst_buffer)"),
        ({"extra_args": ["--nodelist=nid99999"]}, "a node that it names does not exist"),
        ({"extra_args": ["--nosuch"]}, "does not know the option --nosuch"),
        ({"extra_args": ["--begin=nosuch"]}, "a value of --begin is not valid"),
        (
            {"constraint": "haswell", "partition": "downp", "extra_args": ["--immediate=2"]},
            "no nodes are free now",
        ),
    ],
)
def test_a_refusal_names_the_key(keys: dict[str, object], told: str) -> None:
    error = refused(**(KNL | keys))
    assert told in error.what, error


def test_the_sites_rules_speak_for_themselves() -> None:
    error = refused(time=5)
    assert "site's own rules" in error.what
    assert error.said.startswith("No hardware architecture specified (-C)!")


def queue_for_tomorrow() -> subprocess.Popen[str] | None:
    """Queue a job that does not start; None if Slurm refuses it."""
    options = ["--qos=interactive", "--constraint=knl", "--time=5", "--begin=now+1day"]
    process = subprocess.Popen(["srun", *options, "true"], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    if any("queued and waiting" in line for line in process.stderr):
        return process
    process.wait()
    return None


@pytest.fixture
def full_qos() -> Iterator[None]:
    """As many jobs as the QOS `interactive` lets a user have."""
    waiting: list[subprocess.Popen[str]] = []
    try:
        while len(waiting) < 10 and (process := queue_for_tomorrow()):
            waiting.append(process)
        yield
    finally:
        for process in waiting:
            process.terminate()
            process.communicate()


@pytest.mark.usefixtures("full_qos")
def test_too_many_jobs() -> None:
    error = refused(qos="interactive", **KNL)
    assert "queued and running jobs (slurm.qos)" in error.what
    assert "squeue" in error.hint
