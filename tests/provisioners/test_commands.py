"""Slurm's command lines, and what its commands printed on a cluster with Slurm 22.05."""

from datetime import datetime

import pytest

from farkernel.provisioners.commands import (
    Allocated,
    CommandFailed,
    Estimate,
    NodeFailed,
    OutOfMemory,
    Queued,
    QueueEntry,
    SrunNotice,
    StepCancelled,
    Withdrawn,
    parse_estimate,
    parse_preempted,
    parse_squeue,
    parse_srun_line,
    query_env,
    scancel_argv,
    scontrol_argv,
    squeue_argv,
    srun_argv,
    srun_env,
    srun_test_argv,
)
from farkernel.provisioners.request import SlurmRequest, parse_request
from farkernel.provisioners.states import JobState


def slurm(**keys: object) -> SlurmRequest:
    return parse_request({"slurm": keys}, source="x").slurm


def test_srun_of_an_empty_request() -> None:
    assert srun_argv(SlurmRequest(), ["/usr/bin/python3", "-c", "pass"]) == [
        "srun",
        "--verbose",
        "--input=0",
        "--wait=0",
        "--kill-on-bad-exit=0",
        "--overlap",
        "--job-name=farkernel",
        "--ntasks-per-node=1",
        "/usr/bin/python3",
        "-c",
        "pass",
    ]


def test_srun_of_a_full_request() -> None:
    request = slurm(
        account="m1234",
        qos="interactive",
        partition="knl",
        constraint="knl&quad",
        nodes=2,
        gpus="a100:2",
        gres="craynetwork:1",
        mem="4G",
        time=30,
        reservation="school",
        licenses="SCRATCH",
        burst_buffer="#DW jobdw capacity=10GB",
        job_name="mine",
        comment="a b",
        extra_args=["-w", "nid00001"],
    )
    assert srun_argv(request, ["launch"])[6:] == [
        "--job-name=mine",
        "--account=m1234",
        "--qos=interactive",
        "--partition=knl",
        "--constraint=knl&quad",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gpus=a100:2",
        "--gres=craynetwork:1",
        "--mem=4G",
        "--time=30",
        "--reservation=school",
        "--licenses=SCRATCH",
        "--bb=#DW jobdw capacity=10GB",
        "--comment=a b",
        "-w",
        "nid00001",
        "launch",
    ]


def test_a_burst_buffer_file() -> None:
    assert "--bbf=/bb.conf" in srun_argv(slurm(burst_buffer={"file": "/bb.conf"}), ["x"])


def test_cpus_are_asked_for_without_narrowing_the_step() -> None:
    argv = srun_argv(slurm(ntasks_per_node=4, cpus_per_task=2), ["x"])
    assert {"--ntasks-per-node=4", "--mincpus=8", "--overlap"} <= set(argv)
    assert not any(word.startswith("--cpus-per-task") for word in argv)


def test_an_exclusive_job_gets_its_overlap_from_the_environment() -> None:
    request = slurm(cpus_per_task=8, exclusive=True)
    argv = srun_argv(request, ["x"])
    assert {"--exclusive", "--cpus-per-task=8"} <= set(argv)
    assert not {"--overlap", "--mincpus=8"} & set(argv)
    assert srun_env(request, {})["SLURM_OVERLAP"] == "1"


def test_srun_does_not_see_the_job_that_the_server_runs_in() -> None:
    kept = {"PATH": "/bin", "SLURM_ACCOUNT": "m1", "SLURM_CONF": "/etc/slurm.conf", "SLURM_QOS": "debug"}
    breaking = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOBID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_LABELIO": "1",
        "SLURM_UNBUFFEREDIO": "1",
        "SLURM_EXPORT_ENV": "NONE",
        "SLURM_CPUS_PER_TASK": "2",
        "SRUN_CPUS_PER_TASK": "2",
        "SLURM_OVERLAP": "1",
    }
    assert srun_env(SlurmRequest(), kept | breaking) == kept


def test_queries_ignore_a_users_formats() -> None:
    env = {"PATH": "/bin", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "x", "SLURM_TIME_FORMAT": "relative"}
    assert query_env(env) == {"PATH": "/bin", "SLURM_TIME_FORMAT": "standard"}


# squeue(1), scancel(1), scontrol(1), sinfo(1) of Slurm 22.05, "ENVIRONMENT VARIABLES"; sacct(1).
OPTIONS = """
SQUEUE_ACCOUNT SQUEUE_ALL SQUEUE_ARRAY SQUEUE_FEDERATION SQUEUE_FORMAT SQUEUE_FORMAT2 SQUEUE_LICENSES SQUEUE_LOCAL
SQUEUE_NAMES SQUEUE_PARTITION SQUEUE_PRIORITY SQUEUE_QOS SQUEUE_SIBLING SQUEUE_SORT SQUEUE_STATES SQUEUE_USERS
SCANCEL_ACCOUNT SCANCEL_BATCH SCANCEL_CTLD SCANCEL_FULL SCANCEL_HURRY SCANCEL_INTERACTIVE SCANCEL_NAME
SCANCEL_PARTITION SCANCEL_QOS SCANCEL_STATE SCANCEL_USER SCANCEL_VERBOSE SCANCEL_WCKEY
SCONTROL_ALL SCONTROL_FEDERATION SCONTROL_FUTURE SCONTROL_LOCAL SCONTROL_SIBLING
SINFO_ALL SINFO_FEDERATION SINFO_FORMAT SINFO_LOCAL SINFO_PARTITION SINFO_SORT SACCT_FORMAT SACCT_FEDERATION
SLURM_CLUSTERS
""".split()  # noqa: SIM905 - one word a line would be a screen


def test_no_variable_is_an_option_of_our_queries_and_of_scancel() -> None:
    users = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SLURM_TIME_FORMAT": "%d/%m at %H:%M"}
    assert query_env(users | dict.fromkeys(OPTIONS, "x")) == users | {"SLURM_TIME_FORMAT": "standard"}


def test_the_other_commands() -> None:
    assert squeue_argv([1, 2])[3] == "--jobs=1,2"
    assert scancel_argv(5) == ["scancel", "5"]
    assert scontrol_argv(5) == ["scontrol", "--oneliner", "show", "job", "5"]


SQUEUE = """\
38|PENDING|2026-11-22T21:12:14|NO|UNLIMITED|2026-11-22T21:00:00||Resources
40|PENDING|N/A|OK|INVALID|N/A||ReqNodeNotAvail, UnavailableNodes:nid00001
37|RUNNING|2026-11-22T21:07:14|NO|1-02:03:04|2026-11-22T21:07:13|nid[02301-02302]|None
46|FAILED|2026-11-22T21:07:33|NO|4:59|2026-11-22T21:07:32|nid02301|NonZeroExitCode
slurm_load_jobs error: Invalid job id specified
"""


def test_squeue_is_read() -> None:
    jobs = parse_squeue(SQUEUE)
    assert list(jobs) == [38, 40, 37, 46]
    assert jobs[38] == QueueEntry(
        *(38, JobState.PENDING, "Resources", datetime.fromisoformat("2026-11-22T21:12:14"), True, "", None),
        submitted=datetime.fromisoformat("2026-11-22T21:00:00"),
    )
    assert jobs[40].start is None
    assert jobs[40].submitted is None
    assert not jobs[40].exclusive
    assert jobs[40].reason == "ReqNodeNotAvail, UnavailableNodes:nid00001"
    assert jobs[37].nodes == "nid[02301-02302]"
    assert [jobs[number].left for number in jobs] == [None, None, 93784.0, 299.0]
    assert jobs[46].state is JobState.FAILED
    assert parse_squeue("") == {}


def test_a_preempted_job_is_known() -> None:
    assert parse_preempted("JobId=1 JobState=COMPLETED PreemptTime=2026-11-22T22:41:30 Reason=None")
    assert not parse_preempted("JobId=1 JobState=CANCELLED PreemptTime=None Reason=None")
    assert not parse_preempted("slurm_load_jobs error: Invalid job id specified")


@pytest.mark.parametrize(
    ("line", "notice"),
    [
        ("srun: job 38 queued and waiting for resources\n", Queued(38)),
        ("srun: job 44 has been allocated resources", Allocated(44)),
        ("srun: jobid 8: nodes(1):`nid02301', cpu counts: 272(x1)", Allocated(8, "nid02301")),
        ("srun: jobid 45: nodes(2):`nid[02301-02302]', cpu counts: 272(x2)", Allocated(45, "nid[02301-02302]")),
        ("srun: Job has been cancelled", Withdrawn()),
        ("srun: Job allocation 39 has been revoked", Withdrawn(39)),
        ("srun: Job allocation 41 has been revoked.", Withdrawn(41)),
        ("srun: error: Node failure on nid02301", NodeFailed("nid02301")),
        (
            "slurmstepd-nid02301: error: *** STEP 45.0 ON nid02301 CANCELLED AT 2026-11-22T21:07:31 ***",
            StepCancelled(45, "nid02301", ""),
        ),
        (
            "slurmstepd-n1: error: *** STEP 45.0 ON n1 CANCELLED AT 2026-11-22T21:07:31 DUE TO TIME LIMIT ***",
            StepCancelled(45, "n1", "time limit"),
        ),
        (
            "slurmstepd-n1: error: *** STEP 4.0 ON n1 CANCELLED AT 2026-11-22T21:07:31 DUE TO NODE FAILURE, "
            "SEE SLURMCTLD LOG FOR DETAILS ***",
            StepCancelled(4, "n1", "node failure"),
        ),
        (
            "slurmstepd-nid02302: error: execve(): /nonexistent/python: No such file or directory",
            CommandFailed("nid02302", "/nonexistent/python", "No such file or directory"),
        ),
        (
            "slurmstepd-n1: error: Detected 1 oom-kill event(s) in StepId=45.0. Some of your processes may have "
            "been killed by the cgroup out-of-memory handler.",
            OutOfMemory(45),
        ),
        ("slurmstepd-n1: error: Detected 2 oom_kill events in StepId=45.0. Some of", OutOfMemory(45)),
        ("srun: launching StepId=8.0 on host nid02301, 1 tasks: 0", None),
        ("srun: end of defined options", None),
        ("a kernel's own words", None),
        ("", None),
    ],
)
def test_what_srun_says_is_read(line: str, notice: SrunNotice | None) -> None:
    assert parse_srun_line(line) == notice


def test_slurm_is_asked_with_the_options_of_a_start() -> None:
    request = slurm(constraint="knl", nodes=2, extra_args=["--begin=now"])
    start = srun_argv(request, ["run"], options=["--image=a"])

    assert srun_test_argv(request, ["run"], options=["--image=a"]) == ["srun", "--test-only", *start[1:]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "srun: Job 2 to start at 2026-11-26T20:58:23 using 544 processors on nodes nid[02301-02302] in partition a",
            Estimate(datetime.fromisoformat("2026-11-26T20:58:23"), 544, "nid[02301-02302]", "a"),
        ),
        (
            "srun: Job 7 to start at 2026-11-26T20:58:23 using 1 processors on nid00001",
            Estimate(datetime.fromisoformat("2026-11-26T20:58:23"), 1, "nid00001"),
        ),
        ("allocation failure: Invalid qos specification", None),
        ("srun: Job 7 to start at soon using 1 processors on nid00001", None),
    ],
)
def test_what_slurm_thinks_of_a_job(line: str, expected: Estimate | None) -> None:
    assert parse_estimate(f"srun: defined options\n{line}\n") == expected
