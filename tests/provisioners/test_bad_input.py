"""Whatever Slurm, a launcher, a container runtime or a kernelspec says: never a crash, and never another exception."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farkernel.launcher import protocol, wire
from farkernel.launcher.protocol import KernelEnded, KernelRefused, ProtocolError
from farkernel.provisioners import commands, kernel_failures, launch_failures, refusals, states
from farkernel.provisioners.cli import image_probe
from farkernel.provisioners.containers.base import ImageStore
from farkernel.provisioners.containers.registry import container_of, find_runtime, runtime_names
from farkernel.provisioners.errors import FarkernelError, RequestError
from farkernel.provisioners.request import ContainerRequest, Request, parse_request, request_keys

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
    assert all(isinstance(job_id, int) for job_id in commands.parse_squeue(text))
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
    assert isinstance(image_probe.read_answer(text).python, dict)


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
    for decode in (protocol.decode_answer, protocol.decode_order, protocol.decode_event):
        with pytest.raises(ProtocolError):
            decode(data)


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


@settings(max_examples=EXAMPLES)
@given(frames=st.lists(st.one_of(st.binary(max_size=30), st.just(wire.DELIMITER), st.just(DEEP), st.just(b"{}"))))
def test_what_is_no_message_of_jupyters_is_none(frames: list[bytes]) -> None:
    message = wire.parse(frames)
    if message:
        assert isinstance(message.content, dict)
        assert isinstance(message.id + message.type + message.session + message.parent_id, str)


# ---- the request ----

KEYS = [key.partition(".") for key in request_keys()]
PARTS = {section: [name for other, _, name in KEYS if other == section] for section, _, _ in KEYS}


@settings(max_examples=4 * EXAMPLES)
@given(data=st.data())
def test_a_request_is_valid_or_refused_with_file_and_key(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(sorted(PARTS)))
    keys = st.one_of(st.sampled_from(PARTS[section]), st.text(max_size=10))
    words = st.sampled_from(["4:00:00", "10m", "4G", "/tmp", "a:b", "--x", "\x00", "-1", "1e999", "\uff12", "nan"])
    config = data.draw(st.one_of(JSON, st.dictionaries(keys, JSON | words, max_size=3)))
    request, refusal = _parsed({section: config})
    if request is None:
        assert refusal.startswith("kernel.json: ")
        assert section in refusal
        return
    argv = commands.srun_argv(request.slurm, ["launcher"])
    assert argv[-1] == "launcher"
    assert not any("\x00" in word or "\n" in word for word in argv if not word.startswith("--bb="))


def _parsed(config: dict[str, Any]) -> tuple[Request | None, str]:
    try:
        return parse_request(config, source="kernel.json"), ""
    except RequestError as error:
        return None, str(error)
