"""Whatever Slurm, a launcher, a container runtime or a kernelspec says: never a crash, and never another exception."""

import contextlib
import dataclasses
import io
import json
import os
from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farkernel.launcher import protocol, wire
from farkernel.launcher.protocol import Channel, KernelEnded, KernelRefused, ProtocolError
from farkernel.provisioners import commands, kernel_failures, launch_failures, refusals, states
from farkernel.provisioners.cli import check_launcher, check_slurm, image_probe, ps
from farkernel.provisioners.containers.base import ImageStore
from farkernel.provisioners.containers.registry import container_of, find_runtime, runtime_names
from farkernel.provisioners.errors import FarkernelError, KernelNotFound, RequestError
from farkernel.provisioners.life import Phase
from farkernel.provisioners.listing import chore, find, rows, with_jobs
from farkernel.provisioners.process import Finished
from farkernel.provisioners.records import BadRecord, Fate, Record, Server, decode, encode
from farkernel.provisioners.request import (
    ContainerRequest,
    Request,
    check_kernelspec,
    parse_request,
    request_keys,
)
from farkernel.provisioners.server_process import fate
from farkernel.provisioners.unanswered import Problem, answers
from farkernel.provisioners.unanswered import Request as OpenRequest

EXAMPLES = 60

SAMPLES = [
    "38|PENDING|2026-11-22T21:12:14|NO|1-02:03:04|2026-11-22T21:12:14|nid[02301-02302]|Resources",
    "srun: job 38 queued and waiting for resources",
    "srun: job 38 has been allocated resources",
    "srun: jobid 38: nodes(1):`nid02301', cpu counts: 272(x1)",
    "srun: error: Node failure on nid02301",
    "slurmstepd-nid02301: error: *** STEP 38.0 ON nid02301 CANCELLED AT 2026-11-22T21:12:14 DUE TO TIME LIMIT ***",
    "slurmstepd-nid02301: error: Detected 1 oom-kill event(s) in StepId=38.0.",
    "slurmstepd-nid02301: error: execve(): /not/there: No such file or directory",
    "srun: error: Unable to allocate resources: Invalid account or account/partition combination specified",
    "JobId=1 JobState=COMPLETED PreemptTime=2026-11-22T22:41:30 Reason=None",
    "cori       docker     READY    8b485a3da7   2024-10-27T03:33:20 ns/pysci:2.0   ",
    "\r\x1b[2K2024-10-27T03:33:20 Pulling Image: docker:x, status: READY",
    '[{"Names": ["localhost/pyhep:2.0"], "Id": "abc", "Size": 1, "CreatedAt": "2026"}]',
    'farkernel-python {"python": "3.12", "executable": "/usr/bin/python3"}',
    "FAILED to lookup docker image nope/x:1\nInvalid Volume Map: A:B, aborting! 1",
    "farkernel-bootstrap: cannot use the directory /x: No space left on device",
    "srun: erreur : Impossible d'allouer des ressources : compte non valide",
    f"srun: job {'9' * 5000} queued and waiting for resources",
    f"{'9' * 5000}|PENDING|2026-11-22T21:12:14+01:00|NO|{'9' * 5000}:00||Resources",
    f"38|PENDING|2026-11-22T21:12:14+01:00|NO|{'9' * 400}-00:00:00||Resources",
    "knl*|up|4:00:00|knl,quad|1/2/3/6",
    "m1234||debug,regular|debug",
    '{"python": [], "host": {}}',
    f"farkernel-python {'[' * 5000}",
    'farkernel-python {"python": [], "executable": 1, "flaw": {}}',
]


def _damaged() -> st.SearchStrategy[str]:
    """Return text as it may come: anything, or a real line that was cut, repeated, joined or had bytes changed."""

    def cut(sample: str, start: int, end: int, other: str) -> str:
        return sample[start : end or None] + other + sample[end:]

    middle = st.one_of(st.text(max_size=20), st.binary(max_size=20).map(lambda b: b.decode(errors="replace")))
    real = st.builds(cut, st.sampled_from(SAMPLES), st.integers(0, 5), st.integers(-20, 20), middle)
    return st.one_of(real, st.sampled_from(SAMPLES), st.text(max_size=200))


TEXT = st.lists(_damaged(), max_size=4).map("\n".join)
CODE = st.integers(-64, 300)


@settings(max_examples=EXAMPLES)
@given(text=TEXT, code=CODE)
def test_what_slurm_prints(text: str, code: int) -> None:
    for job_id, entry in commands.parse_squeue(text).items():
        now = datetime(2026, 11, 22)  # noqa: DTZ001 (as Slurm prints it)
        told = states.queue_text(job_id, entry.state, entry.reason, start=entry.start, now=now, waited=1)
        assert told.startswith(f"Slurm job {job_id} ")
    commands.parse_preempted(text)
    commands.slurm_is_away(text)
    notices = [notice for line in text.splitlines() if (notice := commands.parse_srun_line(line))]
    container = container_of(Request(), source="here")
    said = launch_failures.explain_srun(
        text, notices, returncode=code, kernel="K", kernelspec="k", container=container, python="python3", node=""
    )
    assert isinstance(said, FarkernelError)
    assert str(said)
    assert str(refusals.explain_refusal(text, code, kernel="K"))
    assert str(launch_failures.explain(text, python="python3", node="n"))
    assert isinstance(states.parse_state(text), states.JobState)
    assert states.reason_sentence(text) is not None


@pytest.mark.parametrize("code", [-9, -35, -64, -200])
def test_an_srun_that_was_killed_while_it_waited(code: int) -> None:
    error = launch_failures.explain_srun(
        "", [commands.Queued(1)],
        returncode=code, kernel="K", kernelspec="k", container=container_of(Request(), source=""), python="", node="",
    )  # fmt: skip
    assert "its srun was killed" in str(error)


@settings(max_examples=EXAMPLES)
@given(text=TEXT, code=CODE)
def test_what_doctor_reads(text: str, code: int) -> None:
    lines, _ = check_slurm.describe_partitions(text)
    assert len(lines) <= len(text.splitlines())
    assert len(check_slurm.describe_accounts(text, "")) <= len(text.splitlines())
    assert check_launcher._judge("launcher", "python3", Finished(code, text, text)).found


def test_doctor_passes_over_what_it_does_not_know() -> None:
    odd = "sinfo: warning\nknl*|up|4:00:00|knl|quad|1/2/3/6\nx|y|z\n"
    assert check_slurm.describe_partitions(odd) == (["knl* (up, limit 4:00:00): knl|quad: 2 of 6 idle"], True)
    assert check_slurm.describe_accounts("a notice\nm1||debug|", "m1") == ["m1 (default): debug"]


@settings(max_examples=EXAMPLES)
@given(text=TEXT, code=CODE, oom=st.booleans())
def test_what_a_kernel_leaves(text: str, code: int, oom: bool) -> None:
    ended = KernelEnded(1, 1, code, oom, text)
    assert kernel_failures.death(ended, "n").startswith("The kernel on n has ended (")
    kernel_failures.may_lack_ipc(ended)
    assert str(kernel_failures.early_end(ended, ["k"], "K", "n", shared=False))
    refused = KernelRefused(1, 1, code, text, text)
    assert str(kernel_failures.refused(refused, ["/x"], "K", "n", directory="/tmp"))


@pytest.mark.parametrize("name", runtime_names())
@settings(max_examples=EXAMPLES)
@given(text=TEXT, code=CODE)
def test_what_container_runtimes_print(name: str, text: str, code: int) -> None:
    runtime = find_runtime(name, source="here")
    trouble = runtime(ContainerRequest(runtime=name, image="docker:a:1")).explain(code, text)
    assert trouble is None or trouble.sentence
    store = runtime.images
    if store:
        _read_images(store, text, code)


def _read_images(store: ImageStore, text: str, code: int) -> None:
    assert all(entry.name for entry in store.parse_list(text))
    for line in text.splitlines():
        assert isinstance(store.parse_progress(line), str)
    if code:
        assert store.pull_problem(code, text)
        assert store.list_problem(code, text)


@settings(max_examples=EXAMPLES)
@given(text=TEXT)
def test_what_the_probe_of_an_image_prints(text: str) -> None:
    python = image_probe.read_answer(text).python
    assert not python or {"python", "executable"} <= python.keys()
    assert all(type(fact) is str for fact in python.values())


# ---- the launcher's side, and messages ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
DEEP = b"[" * 100_000


@settings(max_examples=EXAMPLES)
@given(data=st.one_of(st.binary(max_size=100), st.just(DEEP), JSON.map(lambda value: json.dumps(value).encode())))
def test_what_is_no_message_of_the_protocol_is_refused(data: bytes) -> None:
    for read in (protocol.decode_answer, protocol.decode_order, protocol.decode_event):
        with pytest.raises(ProtocolError):
            read(data)


@settings(max_examples=EXAMPLES)
@given(
    kind=st.sampled_from(["Setup", "Started", "StartKernel", "SignalKernel", "KernelEnded", "TimeLeft", "Walltime"]),
    fields=st.dictionaries(st.sampled_from(["kernel", "generation", "port", "end", "version", "signum"]), JSON),
)
def test_a_message_with_wrong_fields_is_refused(kind: str, fields: dict[str, Any]) -> None:
    try:
        message = protocol.decode_event(json.dumps({**fields, "type": kind}))
    except ProtocolError:
        return
    assert isinstance(message.kernel, int)


@pytest.mark.parametrize(
    "data",
    [
        '{"type": "Walltime", "end": NaN, "hook": []}',
        '{"type": "Walltime", "end": Infinity, "hook": []}',
        '{"type": "Walltime", "end": 1%s, "hook": []}' % ("0" * 400),
        '{"type": "Walltime", "end": 1, "hook": [["x"]]}',
        '{"type": "Walltime", "end": 1, "hook": [], "more": 1}',
        '{"type": "SignalKernel", "kernel": 1, "signum": "9"}',
    ],
    ids=range(6),
)
def test_an_order_with_silly_values_is_refused(data: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode_order(data)


@settings(max_examples=EXAMPLES)
@given(frames=st.lists(st.one_of(st.binary(max_size=30), st.just(wire.DELIMITER), st.just(DEEP), st.just(b"{}"))))
def test_what_is_no_message_of_jupyters_is_none(frames: list[bytes]) -> None:
    message = wire.parse(frames)
    if message:
        assert isinstance(message.content, dict)
        assert isinstance(message.id + message.type + message.session + message.parent_id, str)


SIGNER = wire.Signer(b"key", "hmac-sha256")


@settings(max_examples=EXAMPLES)
@given(header=JSON | st.dictionaries(st.sampled_from(["msg_id", "msg_type", "session", "x"]), JSON), content=JSON)
@example(header={"msg_id": "1", "msg_type": "execute_request", "x": "\ud800"}, content={"silent": []})
@example(header={"msg_id": 1, "msg_type": ["execute_request"]}, content=[])
def test_whatever_is_taken_for_a_request_can_be_answered(header: Any, content: Any) -> None:
    """One that could not be would keep the others, and the end of the kernel, from being told."""
    message = wire.parse([b"me", wire.DELIMITER, b"", json.dumps(header).encode(), b"{}", b"{}", _json(content)])
    if message:
        _answered(message)


@pytest.mark.parametrize("depth", [50, 400, 600, 900, 2000, 20_000])
def test_a_header_that_is_deep_can_be_answered_or_is_none(depth: int) -> None:
    header = b'{"msg_id": "1", "msg_type": "execute_request", "deep": %b1%b}' % (b"[" * depth, b"]" * depth)
    message = wire.parse([b"me", wire.DELIMITER, b"", header, b"{}", b"{}", b"{}"])
    if message:
        _answered(message)


def test_a_header_that_is_huge_is_none() -> None:
    header = _json({"msg_id": "1", "msg_type": "execute_request", "date": "x" * 2**21})
    assert wire.parse([b"me", wire.DELIMITER, b"", header, b"{}", b"{}", b"{}"]) is None


def _answered(message: wire.Message) -> None:
    request = OpenRequest(Channel.SHELL, message)
    replies = list(answers(SIGNER, request, Problem("Name", "why")))
    assert [channel for channel, _ in replies][-1] == Channel.IOPUB


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


# ---- the request ----

KEYS = [key.partition(".") for key in request_keys()]
PARTS = {section: [name for other, _, name in KEYS if other == section] for section, _, _ in KEYS}


@settings(max_examples=4 * EXAMPLES)
@given(data=st.data())
def test_a_request_is_valid_or_refused_with_file_and_key(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(sorted(PARTS)))
    keys = st.one_of(st.sampled_from(PARTS[section]), st.text(max_size=10))
    odd = ["\x00", "-1", "1e999", "\uff12", "\uff12G", "nan", "\ud800", "/\udc80", 10**400, -(10**400), ["\ud800"]]
    words = st.sampled_from(["4:00:00", "10m", "4G", "/tmp", "a:b", "--x", "#DW \ud800", {"A": "\ud800"}, *odd])
    config = data.draw(st.one_of(JSON, st.dictionaries(keys, JSON | words, max_size=3)))
    request, refusal = _parsed({section: config})
    if request is None:
        assert refusal.startswith("kernel.json: ")
        assert refusal.encode()  # it can be printed
        assert section in refusal
        return
    argv = commands.srun_argv(request.slurm, ["launcher"])
    assert argv[-1] == "launcher"
    assert all(os.fsencode(word) for word in argv)
    assert "\ud800" not in str(request.model_dump())
    assert not any("\x00" in word or "\n" in word for word in argv if not word.startswith("--bb="))


def _parsed(config: dict[str, Any]) -> tuple[Request | None, str]:
    try:
        return parse_request(config, source="kernel.json"), ""
    except RequestError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("argv", "env", "told"),
    [
        ([], {}, "argv: expected a command"),
        (["python3", "a\0b"], {}, "argv: no system takes the word"),
        (["\ud800"], {}, "argv: no system takes the word"),
        (["python3"], {"A": "\ud800"}, "env: no system takes the variable"),
        (["python3"], {"A=B": "1"}, "env: no system takes the variable"),
        (["python3", 1], {}, "argv.1: expected a text, not 1"),
        (["python3"], {"A": 1}, "env.A: expected a text, not 1"),
        (["python3"], {"A": None}, "env.A: expected a text, not null"),
    ],
)
def test_a_kernelspec_with_text_that_no_system_takes_is_refused(
    argv: list[object], env: dict[str, object], told: str
) -> None:
    with pytest.raises(RequestError, match=f"^kernel.json: {told}") as refusal:
        check_kernelspec(argv, env, source="kernel.json")
    assert str(refusal.value).encode()


def test_a_usual_kernelspec_is_taken() -> None:
    check_kernelspec(["python3", "-f", "{connection_file}"], {"A": "", "C": "\u00e9"}, source="kernel.json")


# ---- records ----

ODD = [
    "1e400",
    "-1e400",
    "1e-400",
    "NaN",
    "-Infinity",
    "1" + "0" * 5000,
    "1" + "0" * 400,
    "1" + "0" * 30,
    "-1",
    "1e300",
]
NUMBERS = st.one_of(JSON.map(json.dumps), st.sampled_from([*ODD, "1e11", str(2**63), "true"]))
SERVER = Server(host="cori01", boot="b", space="pid:[1]", pid=42, born="1000")
RECORD = json.loads(encode(Record("aaaaaaaa-1", "cori-knl", "Cori KNL", "a.ipynb", SERVER, Phase.PENDING, job_id=7)))
ENTRY = commands.QueueEntry(7, states.JobState.RUNNING, "None", datetime(2026, 11, 22), False, "n", 3600.0)  # noqa: DTZ001


def _record(changes: dict[str, str], server: dict[str, str]) -> bytes:
    """Return a record with other values, as a file would have them."""

    def merged(fields: dict[str, Any], texts: dict[str, str]) -> str:
        parts = {name: json.dumps(value) for name, value in fields.items()} | texts
        return "{" + ", ".join(f'"{name}": {text}' for name, text in parts.items()) + "}"

    return merged(RECORD, {"server": merged(RECORD["server"], server), **changes}).encode()


@settings(max_examples=4 * EXAMPLES)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(RECORD)), NUMBERS, max_size=4),
    server=st.dictionaries(st.sampled_from(sorted(RECORD["server"])), NUMBERS, max_size=2),
)
@example(changes={"ends": "1e400", "submitted": "NaN"}, server={})
@example(changes={"ended": "1e300", "kernel_id": '""'}, server={})
@example(changes={"job_id": "-1"}, server={})
def test_a_record_is_shown_or_is_none(changes: dict[str, str], server: dict[str, str]) -> None:
    try:
        record = decode(_record(changes, server))
    except BadRecord:
        return
    assert decode(encode(record)) == record
    fate(record.server, SERVER)
    queues: tuple[dict[str, dict[int, commands.QueueEntry]], ...] = (
        {},
        {"": {}},
        {record.login: {record.job_id or 0: ENTRY}},
    )
    for queue in queues:
        found = with_jobs([(record, Fate.ALIVE), (record, Fate.GONE)], queue)
        shown = rows(found, 1_795_700_000.0)
        with contextlib.redirect_stdout(io.StringIO()):
            ps._show(shown)
        assert json.dumps([dataclasses.asdict(row) for row in shown], allow_nan=False)
        assert {chore(found[1], force=force) for force in (False, True)}
    with pytest.raises(KernelNotFound):
        find("cori-knl", [dataclasses.replace(record, kernelspec="cori-knl")] * 2)


@pytest.mark.parametrize("field", ["submitted", "started", "ends", "ended", "memory", "cpu"])
@pytest.mark.parametrize("number", ["1e400", "NaN", "-1", "1" + "0" * 30, '"x"'])
def test_a_number_that_cannot_be_hides_no_kernel(field: str, number: str) -> None:
    assert decode(_record({field: number}, {})) == decode(_record({}, {}))


@pytest.mark.parametrize("field", ["job_id", "launcher"])
@pytest.mark.parametrize("number", ["1e400", "NaN", "-1", "1" + "0" * 30, '"x"', "0.5"])
def test_a_job_that_cannot_be_is_nobodys(field: str, number: str) -> None:
    """Nothing is to be cancelled or killed by such a name."""
    with pytest.raises(BadRecord):
        decode(_record({field: number}, {}))
