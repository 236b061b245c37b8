"""States of jobs, and their plain sentences."""

from datetime import datetime
from itertools import pairwise

import pytest

from farkernel.provisioners.states import (
    JobState,
    end_sentence,
    limit_of,
    parse_state,
    queue_text,
    reason_sentence,
    span,
)

NOW = datetime.fromisoformat("2026-11-22T13:53:00")


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("RUNNING", JobState.RUNNING),
        ("CANCELLED by 2001", JobState.CANCELLED),
        ("CANCELLED+", JobState.CANCELLED),
        (" COMPLETING\n", JobState.COMPLETING),
        ("NEW_STATE", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
    ],
)
def test_slurms_names_are_read(text: str, state: JobState) -> None:
    assert parse_state(text) is state


def test_a_late_report_moves_no_job_backwards() -> None:
    way = [
        JobState.UNKNOWN,
        JobState.PENDING,
        JobState.CONFIGURING,
        JobState.RUNNING,
        JobState.COMPLETING,
        JobState.TIMEOUT,
    ]
    for earlier, later in pairwise(way):
        assert earlier.advance(later) is later
        assert later.advance(earlier) is later


def test_a_job_has_one_end() -> None:
    assert JobState.PREEMPTED.advance(JobState.CANCELLED) is JobState.PREEMPTED
    assert JobState.PENDING.advance(JobState.CANCELLED) is JobState.CANCELLED


def test_a_running_job_may_be_suspended_and_resumed() -> None:
    suspended = JobState.RUNNING.advance(JobState.SUSPENDED)
    assert suspended is JobState.SUSPENDED
    assert suspended.advance(JobState.RUNNING) is JobState.RUNNING


def test_an_unknown_state_changes_nothing() -> None:
    assert JobState.RUNNING.advance(JobState.UNKNOWN) is JobState.RUNNING
    assert not JobState.UNKNOWN.ended


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("Priority", "jobs with a higher priority are ahead"),
        ("Resources", "waiting for nodes to become free"),
        ("QOSMaxJobsPerUserLimit", "the QOS has reached its limit on running jobs"),
        ("QOSJobLimit", "the QOS has reached its limit on running jobs"),
        ("QOSGrpNodeLimit", "the QOS has reached its limit on nodes"),
        ("AssocGrpCPUMinutesLimit", "the account has reached its limit on used time"),
        ("AssocGrpCpuLimit", "the account has reached its limit on CPUs"),
        ("AssociationJobLimit", "the account has reached its limit on running jobs"),
        ("ReqNodeNotAvail, UnavailableNodes:nid[00001-2]", "nodes that it needs are not available: nid[00001-2]"),
        ("ReqNodeNotAvail(Unavailable Nodes)", "nodes that it needs are not available, perhaps reserved"),
        ("ReqNodeNotAvail, Reserved for maintenance", "nodes that it needs are reserved for maintenance"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs", "nodes that it needs are down"),
        ("PartitionDown", "its partition is down"),
        ("PartitionTimeLimit", "it asks for more time than its partition allows"),
        ("Dependency", "it depends on another job that is not done"),
        ("JobHeldUser", "it is held: `scontrol release` lets it go"),
        ("launch failed requeued held", "it could not be launched and is held"),
        ("Something the admin wrote", "Something the admin wrote"),
    ],
)
def test_reasons_become_sentences(reason: str, sentence: str) -> None:
    assert reason_sentence(reason).startswith(sentence)


def test_only_limits_are_taken_for_limits() -> None:
    assert limit_of("QOSMaxSubmitJobPerUserLimit") == ("slurm.qos", "queued and running jobs", "")
    assert limit_of("QOSMaxNodePerUserLimit") == ("slurm.qos", "nodes", "slurm.nodes")
    assert limit_of("Association") is None
    assert limit_of("Priority") is None


def test_a_cell_that_waits() -> None:
    text = queue_text(
        123,
        JobState.PENDING,
        "Priority",
        start=datetime.fromisoformat("2026-11-22T14:05:00"),
        now=NOW,
        waited=185,
    )
    assert text == (
        "Slurm job 123 PENDING (Priority: jobs with a higher priority are ahead); "
        "estimated start 14:05 (in 12 min); waited 3 min"
    )


def test_a_cell_that_waits_without_an_estimate_or_reason() -> None:
    text = queue_text(7, JobState.PENDING, "None", start=None, now=NOW, waited=0)
    assert text == "Slurm job 7 PENDING; waited 0 s"


def test_an_estimate_for_another_day_has_its_date_and_a_past_one_is_left_out() -> None:
    tomorrow = datetime.fromisoformat("2026-11-23T15:00:00")
    text = queue_text(7, JobState.PENDING, "Odd", start=tomorrow, now=NOW, waited=61)
    assert text == "Slurm job 7 PENDING (Odd); estimated start 2026-11-23 15:00 (in 1 d 1 h); waited 1 min"
    text = queue_text(7, JobState.PENDING, "", start=NOW, now=NOW, waited=61)
    assert text == "Slurm job 7 PENDING; waited 1 min"


def test_a_job_that_runs_has_no_reason() -> None:
    text = queue_text(7, JobState.CONFIGURING, "Priority", start=NOW, now=NOW, waited=5)
    assert text == "Slurm job 7 CONFIGURING; waited 5 s"


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (JobState.TIMEOUT, "Slurm job 7 on nid02301 reached its time limit."),
        (JobState.NODE_FAIL, "Slurm job 7 on nid02301 ended because a node failed."),
        (JobState.OUT_OF_MEMORY, "Slurm job 7 on nid02301 ran out of memory."),
        (JobState.FAILED, "Slurm job 7 on nid02301 failed with exit code 3."),
        (JobState.CANCELLED, "Slurm job 7 on nid02301 was cancelled."),
    ],
)
def test_ends(state: JobState, sentence: str) -> None:
    assert end_sentence(state, job_id=7, node="nid02301", exit_code=3) == sentence


def test_an_end_by_a_signal_and_without_a_node() -> None:
    assert end_sentence(JobState.FAILED, job_id=7, signal=11) == "Slurm job 7 failed, killed by signal 11."


def test_every_end_has_its_words() -> None:
    ends = [state for state in JobState if state.ended]
    assert len(ends) == 10
    assert not [state for state in ends if "is in state" in end_sentence(state, job_id=1)]


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (11100, "3 h 5 min")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
