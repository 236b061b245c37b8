"""What tests want of Slurm: to see alice's jobs, and to have no free node."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.cluster import Site

LOGIN = "cori01"
PATIENCE = 120.0


@dataclass(frozen=True)
class JobSeen:
    """One line of squeue."""

    id: int
    state: str


def jobs(cluster: Site) -> list[JobSeen]:
    """Return alice's jobs that are queued or have nodes."""
    return _squeue(cluster, "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING")


def all_jobs(cluster: Site) -> list[JobSeen]:
    """Return alice's jobs, those too that have ended in the last minutes."""
    return _squeue(cluster, "--states=all")


def only_job(cluster: Site) -> JobSeen:
    """Return alice's job; there must be exactly one."""
    (job,) = jobs(cluster)
    return job


def wait_for_no_job(cluster: Site) -> None:
    """Wait until none of alice's jobs is left."""
    _wait(lambda: not jobs(cluster), lambda: f"still there: {jobs(cluster)}")


def cancel(cluster: Site, job: JobSeen) -> None:
    """Cancel a job of alice's as she would."""
    done = cluster.run(LOGIN, "alice", ["scancel", str(job.id)])
    assert done.returncode == 0, done.stderr


class Occupation:
    """Bob's job, which has both KNL nodes for itself."""

    def __init__(self, cluster: Site) -> None:
        self._cluster = cluster
        options = ["--qos=regular", "--constraint=knl", "--nodes=2", "--exclusive", "--time=30", "--output=/dev/null"]
        self._job = self._bob("sbatch", *options, "--parsable", "--wrap=sleep 1800").strip()
        _wait(lambda: self._state() == "RUNNING", lambda: f"bob's job is {self._state()}")

    def end(self) -> None:
        """Free the nodes."""
        self._bob("scancel", self._job)

    def _state(self) -> str:
        return self._bob("squeue", "--noheader", f"--job={self._job}", "--format=%T").strip()

    def _bob(self, *argv: str) -> str:
        done = self._cluster.run(LOGIN, "bob", argv)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _squeue(cluster: Site, *options: str) -> list[JobSeen]:
    done = cluster.run(LOGIN, "alice", ["squeue", "--noheader", "--me", "--format=%A %T", *options])
    assert done.returncode == 0, done.stderr
    return [JobSeen(int(number), state) for number, state in map(str.split, done.stdout.splitlines())]


def _wait(done: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)
