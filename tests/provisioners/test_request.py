"""What a kernelspec may ask for, and what it is told when it asks for something else."""

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.kinds import BurstBufferFile
from farkernel.provisioners.request import (
    Request,
    instead,
    nearest,
    parse_request,
    request_keys,
    request_schema,
)
from tests.reference import PAGE, page


def complaints(config: Any) -> list[str]:
    with pytest.raises(RequestError) as caught:
        parse_request(config, source="kernel.json")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("kernel.json: ") for line in lines)
    return [line.removeprefix("kernel.json: ") for line in lines]


def test_nothing_is_a_request() -> None:
    request = parse_request({}, source="kernel.json")
    assert request == Request()
    assert request.slurm.job_name == "farkernel"
    assert request.job.max_wait is None
    assert request.job.orphan_timeout == 120.0
    assert request.job.queue_messages


def test_everything_at_once() -> None:
    config = {
        "slurm": {
            "account": "m1234",
            "constraint": "knl,quad,cache",
            "nodes": 2,
            "gpus": "a100:2",
            "time": 30,
            "burst_buffer": {"file": "/global/alice/bb.conf"},
            "exclusive": True,
            "extra_args": ["--mail-type=END", "-w", "nid00001", "--immediate=30", "--spank-thing", "value"],
        },
        "container": {"runtime": "none"},
        "job": {"max_wait": "1h30m", "orphan_timeout": 5},
        "launcher": {"python": "python3.11", "ports": "20000-20100", "interface": "ib0"},
        "kernel": {"transport": "tcp", "modules": ["gcc/12.2.0"], "cwd": "/scratch"},
    }
    request = parse_request(config, source="kernel.json")
    assert request.slurm.time == "30"
    assert request.slurm.burst_buffer == BurstBufferFile(file="/global/alice/bb.conf")
    assert request.job.max_wait == 5400.0
    assert request.kernel.modules == ("gcc/12.2.0",)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        parse_request({}, source="x").slurm.account = "m1"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("4h", 14400), ("1d", 86400), ("1h30m", 5400), (0.5, 0.5), (60, 60)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_request({"job": {"max_wait": text}}, source="x").job.max_wait == seconds


@pytest.mark.parametrize("time", ["30", "10:00", "4:00:00", "1-0", "1-12:30", "2-00:00:00"])
def test_slurms_times_are_kept(time: str) -> None:
    assert parse_request({"slurm": {"time": time}}, source="x").slurm.time == time


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("slurm", "account", ""),
        ("slurm", "account", "-A"),
        ("slurm", "account", 7),
        ("slurm", "account", "a\nb"),
        ("slurm", "comment", "a\0b"),
        ("slurm", "nodes", 0),
        ("slurm", "nodes", "2"),
        ("slurm", "nodes", True),
        ("slurm", "nodes", 2.0),
        ("slurm", "gpus", True),
        ("slurm", "gpus", "a100"),
        ("slurm", "gres", "help"),
        ("slurm", "gres", "List"),
        ("slurm", "mem", "lots"),
        ("slurm", "mem", 4),
        ("slurm", "time", "4 hours"),
        ("slurm", "time", "4h"),
        ("slurm", "time", True),
        ("slurm", "exclusive", 1),
        ("slurm", "exclusive", "yes"),
        ("slurm", "burst_buffer", "jobdw"),
        ("slurm", "burst_buffer", {"path": "/x"}),
        ("slurm", "burst_buffer", {"file": "relative"}),
        ("slurm", "extra_args", "--exact"),
        ("slurm", "extra_args", ["--exact", 1]),
        ("container", "runtime", ""),
        ("container", "volumes", ["data:/data"]),
        ("container", "volumes", ["/a:/b;/c:/d"]),
        ("container", "env", {"A-B": "x"}),
        ("container", "env", {"A": 1}),
        ("container", "image", "--privileged"),
        ("container", "spank", "on"),
        ("job", "max_wait", 0),
        ("job", "max_wait", "soon"),
        ("job", "max_wait", ""),
        ("job", "max_wait", True),
        ("job", "max_wait", float("inf")),
        ("job", "max_wait", float("nan")),
        ("job", "queue_messages", None),
        ("job", "orphan_timeout", None),
        ("launcher", "python", "./python"),
        ("launcher", "python", "-c"),
        ("launcher", "directory", "tmp"),
        ("launcher", "ports", "80-90"),
        ("launcher", "ports", "30000-20000"),
        ("launcher", "ports", 20000),
        ("launcher", "interface", "-x"),
        ("kernel", "transport", "udp"),
        ("kernel", "modules", ["a b"]),
        ("kernel", "modules", ["a:b"]),
        ("kernel", "modules", ["-f"]),
        ("kernel", "cwd", "~"),
    ],
)
def test_each_bad_value_gets_one_line_with_its_key(section: str, key: str, value: object) -> None:
    (line,) = complaints({section: {key: value}})
    assert line.startswith(f"{section}.{key}: expected ")
    assert ", not " in line


def test_every_problem_is_told_at_once() -> None:
    lines = complaints({"slurm": {"acount": "m1234", "nodes": "2"}, "job": 3, "kernel": {"cwd": "x"}})
    assert lines == [
        'slurm.nodes: expected a whole number, 1 or more, without quotes, not "2"',
        'slurm.acount: unknown key (value "m1234"); did you mean slurm.account?',
        "job: expected an object, not 3",
        'kernel.cwd: expected an absolute path, such as "/scratch/alice", not "x"',
    ]


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"account": "m1"}, 'account: unknown key (value "m1"); did you mean slurm.account?'),
        ({"slrum": {}}, "slrum: unknown key (value {}); did you mean slurm?"),
        (
            {"launcher": {"transport": "ipc"}},
            'launcher.transport: unknown key (value "ipc"); did you mean kernel.transport?',
        ),
        ({"slurm": {"zzz": 1}}, "slurm.zzz: unknown key (value 1)"),
    ],
)
def test_an_unknown_key_is_told_the_nearest(config: Any, line: str) -> None:
    assert complaints(config) == [line]


@pytest.mark.parametrize("key", [*request_keys(), *Request.model_fields])
def test_nothing_is_meant_but_a_key_that_there_is(key: str) -> None:
    assert nearest(key) is None
    assert nearest(key, among=[key, f"{key}s"]) is None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("slurm", "; name one that is in it, such as slurm.account"),
        ("slurm.", "; did you mean slurm.qos?"),
        ("tiem", "; did you mean slurm.time?"),
        ("login", ""),
        ("zzz", ""),
    ],
)
def test_what_to_write_instead(key: str, words: str) -> None:
    assert instead(key) == words


def test_a_config_that_is_no_object() -> None:
    assert complaints([]) == ["expected an object, not []"]


@pytest.mark.parametrize(
    "args",
    [
        ["--input=none"],
        ["-i", "none"],
        ["-oout"],
        ["--outp=x"],
        ["-K"],
        ["--kill-on-bad-exit"],
        ["-Xu"],
        ["-n4"],
        ["--ntasks", "4"],
        ["--overlap"],
        ["--pty"],
        ["--jobid=3"],
        ["--export=NONE"],
        ["--exclusive"],
        ["-D/tmp"],
        ["--multi-prog"],
        ["-vv"],
        ["-Q"],
        ["--help"],
        ["--version"],
        ["--test-only"],
        ["--gres=help"],
        ["--gres", "LIST"],
        ["--mpi=list"],
        ["--hint=help"],
        ["--cpu-bind=verbose,help"],
        ["--cpu_bind=help"],
        ["--mem-bind=help"],
        ["--tasks-per-node"],
        ["--"],
        ["-"],
        ["hostname"],
        ["--exact", "hostname"],
        ["--begin=now", "hostname"],
        ["-I", "hostname"],
        ["--begin"],
        ["-w"],
        ["--begin", "--exact"],
        ["--unknown", "value", "hostname"],
    ],
)
def test_extra_arguments_that_would_break_the_launcher(args: list[str]) -> None:
    (line,) = complaints({"slurm": {"extra_args": args}})
    assert line.startswith("slurm.extra_args: ")


@pytest.mark.parametrize(
    "args",
    [
        ["--immediate=10"],
        ["-I"],
        ["-I10"],
        ["--exclude", "nid00001"],
        ["-x", "nid00001", "--contiguous"],
        ["--ntasks-per-core=1"],
        ["--tasks-per-node", "2"],
        ["--gres=gpu:help"],
        ["--image=docker:ubuntu", "--module", "mpich"],
        ["--begin=now+1hour"],
    ],
)
def test_extra_arguments_that_pass(args: list[str]) -> None:
    assert parse_request({"slurm": {"extra_args": args}}, source="x").slurm.extra_args == tuple(args)


def test_the_schema_describes_every_key() -> None:
    schema = request_schema()
    json.dumps(schema)
    models = [schema, *schema["$defs"].values()]
    assert all(model["description"] and model["additionalProperties"] is False for model in models)
    keys = [item for model in schema["$defs"].values() for item in model["properties"].items()]
    assert len(keys) == len([key for key in request_keys() if "." in key])
    assert [name for name, described in keys if not described.get("description")] == []


def test_the_reference_is_made_of_the_models() -> None:
    text = PAGE.read_text("utf-8")

    assert page(text) == text, "run `python -m tests.reference`"
    documented = re.findall(r"^\| `([a-z]+|\w+\.\w+)` \|", text.partition("## The site's policy")[0], re.MULTILINE)
    assert sorted(documented) == sorted(request_keys())
