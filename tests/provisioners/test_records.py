"""What is written down of kernels, and what is made of it."""

import dataclasses
import json
from datetime import datetime
from typing import Any

import pytest

from farkernel.provisioners.commands import QueueEntry
from farkernel.provisioners.errors import KernelNotFound
from farkernel.provisioners.life import Phase
from farkernel.provisioners.listing import Chore, Kernel, chore, find, may_be_there, rows, short_id, with_jobs
from farkernel.provisioners.records import BadRecord, Fate, Record, Server, decode, encode, fate_of, file_stem
from farkernel.provisioners.states import JobState

SERVER = Server(host="cori01", boot="b1", space="pid:[1]", pid=42, born="1000")
NOW = 1_795_700_000.0


def record(kernel_id: str = "aaaaaaaa-1", **changes: Any) -> Record:
    fields = {"kernelspec": "cori-knl", "display_name": "Cori KNL", "notebook": "work/a.ipynb", "server": SERVER}
    return Record(kernel_id, **{**fields, "phase": Phase.RUNNING, "submitted": NOW - 600, **changes})


def entry(state: JobState = JobState.RUNNING, job_id: int = 7, **changes: Any) -> QueueEntry:
    start = datetime.fromtimestamp(NOW - 300)  # noqa: DTZ006 (as Slurm prints it)
    return dataclasses.replace(QueueEntry(job_id, state, "None", start, False, "nid00001", 3600.0), **changes)


# ---- records ----


def test_a_record_is_read_as_it_was_written() -> None:
    full = record(job_id=7, node="nid00001", started=NOW, ends=NOW + 1, memory=5, cpu=0.5, why="ünïcode\n")

    assert decode(encode(full)) == full
    assert decode(encode(record())) == record()


def test_what_a_newer_version_adds_is_passed_over() -> None:
    fields = json.loads(encode(record()))

    assert decode(json.dumps({**fields, "colour": "red"}).encode()) == record()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"kernel_id": "a"}', encode(record())[:-20]])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(data)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b", ".", "a.b", "a" * 101, "é", "a\n"])
def test_an_id_that_is_no_files_name_becomes_one(name: str) -> None:
    assert file_stem(name).isalnum()
    assert len(file_stem(name)) == 64


def test_an_id_is_its_files_name() -> None:
    assert file_stem("da1ac138-ae62-483b-bad4-d4cb48d2c4b8") == "da1ac138-ae62-483b-bad4-d4cb48d2c4b8"


@pytest.mark.parametrize(
    ("here", "born", "fate"),
    [
        ({}, "1000", Fate.ALIVE),
        ({}, None, Fate.GONE),
        ({}, "2000", Fate.GONE),  # the number belongs to another process now
        ({"boot": "b2"}, "1000", Fate.GONE),
        ({"boot": "b2", "space": "pid:[2]"}, None, Fate.GONE),
        ({"space": "pid:[2]"}, None, Fate.ELSEWHERE),  # a container on the same host
        ({"host": "cori02"}, None, Fate.ELSEWHERE),
        ({"host": "cori02", "boot": "b2"}, "1000", Fate.ELSEWHERE),
    ],
)
def test_what_has_become_of_a_server(here: dict[str, str], born: str | None, fate: Fate) -> None:
    assert fate_of(SERVER, dataclasses.replace(SERVER, pid=1, born="5", **here), born) is fate


# ---- rows ----


def kernel(fate: Fate = Fate.ALIVE, found: QueueEntry | None = None, asked: bool = True, **changes: Any) -> Kernel:
    return Kernel(record(**changes), fate, found, asked)


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        (kernel(), "running"),
        (kernel(phase=Phase.DEAD), "dead"),
        (kernel(found=entry(), job_id=7), "running"),
        (kernel(found=entry(), job_id=7, phase=Phase.PENDING), "starting"),
        (kernel(found=entry(JobState.SUSPENDED), job_id=7), "running, its job is suspended"),
        (
            kernel(found=entry(JobState.PENDING, reason="Priority"), job_id=7, phase=Phase.PENDING),
            "pending (Priority: jobs with a higher priority are ahead)",
        ),
        (
            kernel(asked=False, job_id=7, phase=Phase.PENDING, reason="Resources"),
            "pending (Resources: waiting for nodes to become free)",
        ),
        (kernel(phase=Phase.PENDING), "pending"),
        (kernel(job_id=7), "ending: its job is gone"),
        (kernel(Fate.GONE, entry(), job_id=7), "orphan: its server is gone, its job is running"),
        (kernel(Fate.GONE, asked=False, job_id=7), "orphan: its server is gone, Slurm does not say what its job does"),
        (kernel(Fate.ELSEWHERE), "running"),
        (kernel(Fate.ELSEWHERE, entry(), job_id=7), "running"),
    ],
)
def test_what_a_row_says_of_a_kernels_state(shown: Kernel, state: str) -> None:
    (row,) = rows([shown], NOW)

    assert row.state == state
    assert row.orphan == state.startswith("orphan")


@pytest.mark.parametrize(
    "hidden",
    [
        kernel(Fate.GONE),
        kernel(Fate.GONE, job_id=7),
        kernel(Fate.GONE, entry(JobState.CANCELLED), job_id=7),
        kernel(Fate.ELSEWHERE, job_id=7),
    ],
)
def test_what_is_gone_has_no_row(hidden: Kernel) -> None:
    assert rows([hidden], NOW) == []


def test_how_long_a_kernel_has_run_and_may_run() -> None:
    waits, runs, local, cut = rows(
        [
            kernel(found=entry(JobState.PENDING), job_id=7, phase=Phase.PENDING),
            kernel(found=entry(), job_id=7),
            kernel(started=NOW - 5),
            kernel(asked=False, job_id=7, ends=NOW + 60),
        ],
        NOW,
    )

    assert (waits.elapsed, waits.left) == (600, None)
    assert (runs.elapsed, runs.left) == (300, 3600)
    assert (local.elapsed, local.left) == (5, None)
    assert (cut.elapsed, cut.left) == (600, 60)


def test_records_and_jobs_are_put_together_the_oldest_first() -> None:
    newer, older = record("b", job_id=7, submitted=NOW), record("a", submitted=NOW - 1)

    assert with_jobs([(newer, Fate.ALIVE), (older, Fate.GONE)], {"": {7: entry(), 8: entry(job_id=8)}}) == [
        Kernel(older, Fate.GONE, None, asked=True),
        Kernel(newer, Fate.ALIVE, entry(), asked=True),
    ]
    assert not with_jobs([(newer, Fate.ALIVE)], {})[0].asked


@pytest.mark.parametrize(("later", "chore_"), [(1, Chore.CANCEL), (90_000, Chore.REMOVE)])
def test_a_job_that_was_given_the_same_number_much_later_is_another_one(later: int, chore_: Chore) -> None:
    submitted = datetime.fromtimestamp(NOW - 600 + later)  # noqa: DTZ006
    jobs = {"": {7: entry(submitted=submitted)}}
    (kernel,) = with_jobs([(record(job_id=7), Fate.GONE)], jobs)

    assert chore(kernel, force=True) is chore_


@pytest.mark.parametrize(
    ("queues", "orphan", "forced", "otherwise"),
    [
        # this host's Slurm, if it has one, has another job of the same number
        ({"": {7: entry()}}, True, Chore.REMOVE, Chore.UNKNOWN),
        ({"": {}, "alice@cori01": {7: entry()}}, True, Chore.CANCEL, Chore.CANCEL),
        ({"": {7: entry()}, "alice@cori01": {}}, False, Chore.REMOVE, Chore.REMOVE),
    ],
)
def test_a_job_behind_ssh_is_that_slurms(
    queues: dict[str, dict[int, QueueEntry]], orphan: bool, forced: Chore, otherwise: Chore
) -> None:
    (kernel,) = with_jobs([(record(job_id=7, login="alice@cori01"), Fate.GONE)], queues)

    assert kernel.there is kernel.orphan is orphan
    assert chore(kernel, force=True) is forced
    assert chore(kernel, force=False) is otherwise


def test_a_job_behind_ssh_that_nobody_asks_about_may_be_there_for_a_while() -> None:
    there = record(job_id=7, login="alice@cori01")

    assert may_be_there(there, NOW)
    assert not may_be_there(there, NOW + 20 * 86400)
    assert not may_be_there(record(login="alice@cori01"), NOW)
    assert not may_be_there(record(job_id=7), NOW)


def test_a_short_id_is_one_kernels() -> None:
    assert short_id("aaaaaaaa-1", ["aaaaaaaa-1", "bbbbbbbb-1"]) == "aaaaaa"
    assert short_id("aaaaaaaa-1", ["aaaaaaaa-1", "aaaaaaaa-2"]) == "aaaaaaaa-1"
    assert short_id("aaaaaaab", ["aaaaaaab", "aaaaaaaa"]) == "aaaaaaab"
    assert short_id("aa", ["aa"]) == "aa"


# ---- which one ----

THERE = [record("aaaaaaaa-1", job_id=7), record("aabbbbbb-2", job_id=8), record("7777", kernelspec="other")]
ENDED = [record("cccc", kernelspec="old", job_id=9), record("aacc", kernelspec="other", job_id=5)]


@pytest.mark.parametrize(
    ("wanted", "kernel_id"),
    [
        ("aaa", "aaaaaaaa-1"),
        ("8", "aabbbbbb-2"),
        ("7", "aaaaaaaa-1"),  # a job's id before the beginning of a kernel's
        ("77", "7777"),
        ("other", "7777"),  # one that is there before one that has ended
        ("old", "cccc"),
        ("9", "cccc"),
        ("aacc", "aacc"),
    ],
)
def test_which_kernel_is_meant(wanted: str, kernel_id: str) -> None:
    assert find(wanted, THERE, ENDED).kernel_id == kernel_id


def test_a_word_that_means_several_is_refused() -> None:
    with pytest.raises(KernelNotFound, match="'aa' may be any of 2 kernels") as caught:
        find("aa", THERE, ENDED)
    assert "aaaaaa  cori-knl, work/a.ipynb, job 7" in caught.value.said


@pytest.mark.parametrize("wanted", ["", "zz", "None"])
def test_a_word_that_means_none_is_refused(wanted: str) -> None:
    with pytest.raises(KernelNotFound, match="There is no kernel"):
        find(wanted, THERE, ENDED)


# ---- tidying up ----


@pytest.mark.parametrize(
    ("shown", "forced", "otherwise"),
    [
        (kernel(), Chore.KEEP, Chore.KEEP),
        (kernel(found=entry(), job_id=7), Chore.KEEP, Chore.KEEP),
        (kernel(job_id=7), Chore.KEEP, Chore.KEEP),
        (kernel(Fate.GONE), Chore.REMOVE, Chore.REMOVE),
        (kernel(Fate.GONE, job_id=7), Chore.REMOVE, Chore.REMOVE),
        (kernel(Fate.GONE, entry(), job_id=7), Chore.CANCEL, Chore.CANCEL),
        (kernel(Fate.GONE, asked=False, job_id=7), Chore.UNKNOWN, Chore.UNKNOWN),
        (kernel(Fate.ELSEWHERE), Chore.REMOVE, Chore.KEEP),
        (kernel(Fate.ELSEWHERE, entry(), job_id=7), Chore.CANCEL, Chore.KEEP),
        (kernel(Fate.ELSEWHERE, job_id=7), Chore.REMOVE, Chore.REMOVE),
        (kernel(Fate.ELSEWHERE, asked=False, job_id=7), Chore.UNKNOWN, Chore.KEEP),
    ],
)
def test_a_job_is_cancelled_only_if_its_server_is_gone(shown: Kernel, forced: Chore, otherwise: Chore) -> None:
    assert chore(shown, force=True) is forced
    assert chore(shown, force=False) is otherwise
