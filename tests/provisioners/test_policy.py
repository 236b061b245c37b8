"""The site's policy: what it says, who may write it, and what it makes of a request."""

import ctypes
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farkernel.provisioners.effective import Effective, effective
from farkernel.provisioners.errors import (
    PolicyRefused,
    PolicyUnusable,
    Refusal,
    RequestError,
    TemplateNotFound,
    VariableNotValid,
)
from farkernel.provisioners.job_templates import JobTemplates
from farkernel.provisioners.limits import gpus_by_type
from farkernel.provisioners.policy import parse_policy, without_options
from farkernel.provisioners.policy_check import InForce
from farkernel.provisioners.policy_file import find_policy, in_force

SOURCE = "/etc/farkernel/policy.toml"
POLICY = """
required = ["slurm.account"]
forbidden_options = ["--begin", "-x", "image"]
never_pass = ["AWS_*"]

[defaults]
slurm.account = "nstaff"
slurm.qos = "debug"

[allowed]
account = ["m1234", "nstaff"]
qos = ["debug", "interactive"]
partition = ["knl", "debug*"]
constraint = ["knl", "quad", "cache"]
reservation = ["school"]
runtime = ["none", "shifter"]
image = ["nersc/*", "docker:ubuntu"]
login = ["cori*"]
extra_args = ["--x-plugin=*"]

[maximum]
nodes = 4
time = "4:00:00"
gpus = 8
cpus_per_node = 68
cpus = 136
mem = "96G"
"""


def told(config: dict[str, Any], tmp_path: Path, *, text: str = POLICY, **options: Any) -> list[str]:
    """What is said of a kernelspec's config, a line for each rule; empty if it is allowed."""
    policy = InForce(parse_policy(text, source=SOURCE), SOURCE)
    templates = JobTemplates(tmp_path / "none", tmp_path / "none")
    slurm = options.pop("slurm", True)
    whole = effective(config, source="kernel.json", templates=templates, policy=policy, **options)
    try:
        whole.check(slurm=slurm)
    except PolicyRefused as error:
        return error.said.splitlines()
    return []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {
            "slurm": {
                "account": "M1234",
                "qos": "Debug",
                "partition": "knl,debug2",
                "constraint": "[knl*2&quad*1]|cache",
            }
        },
        {"slurm": {"nodes": 4, "time": 240, "gpus": "a100:8", "mem": "96G"}},
        {"slurm": {"time": "3:59:59", "ntasks_per_node": 2, "cpus_per_task": 34, "nodes": 2}},
        {"slurm": {"extra_args": ["--mail-type=END", "--x-plugin=5", "-N1-4", "--mem-bind=local", "-A", "m1234"]}},
        {"container": {"runtime": "shifter", "image": "nersc/pyhep:2.0"}},
        {"container": {"runtime": "shifter", "image": "docker:nersc/pyhep:2.0"}},
        {"container": {"runtime": "shifter", "image": "ubuntu:latest"}},
        {"login": "alice@Cori01"},
    ],
)
def test_what_is_allowed(config: dict[str, Any], tmp_path: Path) -> None:
    assert told(config, tmp_path) == []


@pytest.mark.parametrize(
    ("slurm", "line"),
    [
        ({"account": "m9"}, 'slurm.account (from kernel.json): "m9": allowed.account is m1234, nstaff'),
        ({"account": None}, "slurm.account: has to be given: required has slurm.account"),
        ({"qos": "premium"}, 'slurm.qos (from kernel.json): "premium": allowed.qos is debug, interactive'),
        ({"partition": "knl,gold"}, 'slurm.partition (from kernel.json): "gold" in "knl,gold": allowed.partition is'),
        ({"partition": "KNL"}, "allowed.partition is"),
        ({"constraint": "knl&flat"}, '"flat" in "knl&flat": allowed.constraint is knl, quad, cache'),
        ({"constraint": "knl|(quad&flat)"}, '"flat" in'),
        ({"constraint": "[knl*2&flat*4]"}, '"flat" in'),
        ({"constraint": "knl,flat"}, '"flat" in'),
        ({"reservation": "other"}, "allowed.reservation is school"),
        ({"nodes": 5}, "slurm.nodes (from kernel.json): 5: maximum.nodes is 4"),
        ({"time": "4:00:01"}, "slurm.time (from kernel.json): 4:00:01: maximum.time is 4:00:00"),
        ({"time": "0"}, "maximum.time"),
        ({"time": 4294967297}, "maximum.time"),
        ({"time": None}, "slurm.time (from kernel.json): has to be given: maximum.time is 4:00:00"),
        ({"gpus": "a100:9"}, "slurm.gpus (from kernel.json): a100:9: maximum.gpus is 8"),
        ({"gres": "craynetwork:1,gpu:a100:4", "nodes": 3}, "gpu:a100:4 on 3 nodes: maximum.gpus is 8"),
        ({"gres": "gpu:1k"}, "gpu:1k: maximum.gpus is 8"),
        ({"gres": "gpu:a:b:1"}, "cannot be counted: maximum.gpus is 8"),
        ({"mem": "97G"}, "slurm.mem (from kernel.json): 97G: maximum.mem is 96G"),
        ({"mem": "0"}, "maximum.mem is 96G"),
        ({"cpus_per_task": 69}, "slurm.cpus_per_task (from kernel.json): 69 CPUs: maximum.cpus_per_node is 68"),
        ({"cpus_per_task": 68, "nodes": 3}, "204 CPUs: maximum.cpus is 136"),
        (
            {"exclusive": True},
            "slurm.exclusive (from kernel.json): takes all CPUs of a node: maximum.cpus_per_node is 68",
        ),
        ({"exclusive": True}, "slurm.exclusive (from kernel.json): takes all GPUs of a node: maximum.gpus is 8"),
    ],
)
def test_what_is_refused_says_rule_place_and_what_is_allowed(slurm: dict[str, Any], line: str, tmp_path: Path) -> None:
    assert any(line in each for each in told({"slurm": slurm}, tmp_path))


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--account=m9"], "allowed.account"),
        (["--account", "m9"], "allowed.account"),
        (["--acco=m9"], "allowed.account"),
        (["-A", "m9"], "allowed.account"),
        (["-Am9"], "allowed.account"),
        (["-HOAm9"], "allowed.account"),
        (["--qos=premium"], "allowed.qos"),
        (["-qpremium"], "allowed.qos"),
        (["-pgold"], "allowed.partition"),
        (["--part=gold"], "allowed.partition"),
        (["-C", "knl&flat"], "allowed.constraint"),
        (["--prefer=flat"], "allowed.constraint"),
        (["--reservation=other"], "allowed.reservation"),
        (["-t5:00:00"], "maximum.time"),
        (["--time=UNLIMITED"], "maximum.time"),
        (["--time=-1"], "maximum.time"),
        (["-N", "2-5"], "maximum.nodes"),
        (["-wnid[1-9]"], "maximum.nodes"),
        (["--nodelist=a,b,c,d,e"], "maximum.nodes"),
        (["-F/home/alice/nodes"], "maximum.nodes"),
        (["--gpus=9"], "maximum.gpus"),
        (["-G", "a100:5,v100:4"], "maximum.gpus"),
        (["--gres=gpu:9"], "maximum.gpus"),
        (["--gpus-per-node=2"], "maximum.gpus"),
        (["--gpus-per-task=2"], "maximum.gpus"),
        (["--mem=1T"], "maximum.mem"),
        (["--mem-per-cpu=9G"], "maximum.mem"),
        (["-c", "90"], "maximum.cpus"),
        (["--mincpus=90"], "maximum.cpus"),
        (["--container=/home/alice/bundle"], "allowed.image"),
        (["--image=docker:evil/x"], "forbidden_options"),
        (["--ima=docker:evil/x"], "forbidden_options"),
        (["--shifter.image=docker:evil/x"], "does not know"),
        (["--begin=now+1"], "forbidden_options"),
        (["--begi=now+1"], "forbidden_options"),
        (["-b", "now"], "forbidden_options"),
        (["-xnid1"], "forbidden_options"),
        (["-Hxnid1"], "forbidden_options"),
        (["--tres-per-task=gres/gpu:9"], "does not know"),
    ],
)
def test_options_of_srun_are_checked_like_the_keys(words: list[str], rule: str, tmp_path: Path) -> None:
    lines = told({"slurm": {"extra_args": words}}, tmp_path)
    assert any(rule in line and "slurm.extra_args (from kernel.json)" in line for line in lines), lines


def test_a_refusal_has_its_parts_beside_its_line(tmp_path: Path) -> None:
    policy = InForce(parse_policy(POLICY, source=SOURCE), SOURCE)
    config = {"slurm": {"account": None, "nodes": 5, "extra_args": ["--qos=evil", "--begin=now"]}}
    whole = effective(config, source="k", templates=JobTemplates(tmp_path, tmp_path), policy=policy)
    with pytest.raises(PolicyRefused) as caught:
        whole.check()
    assert list(caught.value.refusals) == [
        Refusal("slurm.account", "has to be given: required has slurm.account", missing=True),
        Refusal("slurm.extra_args", '"--begin=now": forbidden_options has --begin', "k"),
        Refusal("slurm.extra_args", '"evil": allowed.qos is debug, interactive', "k", "--qos=evil"),
        Refusal("slurm.nodes", "5: maximum.nodes is 4", "k"),
    ]
    assert caught.value.said == "\n".join(map(str, caught.value.refusals))


GPUS = "maximum.gpus is 2"
NODES = "maximum.nodes is 2"
COUNTED = [
    # what is within the maxima
    ({"gpus": 2, "nodes": 1}, ""),
    ({"gpus": "a100:1,v100:1"}, ""),
    ({"gpus": "1g.10gb:2"}, ""),
    ({"gpus": "1g.5gb+me:2"}, ""),
    ({"gres": "gpu:1g.10gb"}, ""),
    ({"gres": "gpu:1g.10gb:2"}, ""),
    ({"gres": "gpu:a100_3g.20gb:1,craynetwork:1k"}, ""),
    ({"gres": "gpu:0,shard:16"}, ""),
    ({"gres": "mps:400", "nodes": 2}, ""),
    ({"gres": "gpu_mem:80G"}, ""),
    ({"gres": "none"}, ""),
    ({"gres": "gpu:2080ti"}, ""),
    ({"gres": "gpu:a100:1,gpu:v100:1"}, ""),
    ({"gres": "gpu:1", "nodes": 2, "gpus": 2}, ""),
    ({"gres": "gpu:a100:2", "gpus": "a100:2", "nodes": 1}, ""),
    ({"constraint": "[(knl&quad)*1&haswell*1]"}, ""),
    ({"extra_args": ["--nodes=1,2"]}, ""),
    ({"extra_args": ["--nodes=1-2"]}, ""),
    ({"extra_args": ["--nodelist=nid[001-002]"]}, ""),
    ({"extra_args": ["--nodelist=nid7*3,nid8"]}, ""),
    ({"extra_args": ["--gres=gpu:1g.10gb:1"]}, ""),
    # what is beyond, in whatever form
    ({"gpus": 3, "nodes": 1}, GPUS),
    ({"gpus": "a100:2,v100:1", "nodes": 1}, GPUS),
    ({"gpus": "1g.10gb:3", "nodes": 1}, GPUS),
    ({"gres": "gpu:1g.10gb:3"}, GPUS),
    ({"gres": "gpu:1g"}, GPUS),
    ({"gres": "gpu:1,gpu:a100:2"}, GPUS),
    ({"gres": "gres:gpu:3"}, GPUS),
    ({"gres": "gpu=3"}, GPUS),
    ({"gres": "gres:gres/gpu:3"}, GPUS),
    ({"gres": "gpu:+9"}, f"gpu:+9, which cannot be counted: {GPUS}"),
    ({"gres": "gpu: 9"}, f"cannot be counted: {GPUS}"),
    ({"gres": "gpu:9kib"}, f"gpu:9kib: {GPUS}"),
    ({"gres": "gpu:-18446744073709551607"}, f"cannot be counted: {GPUS}"),
    ({"gres": "gpu:2066035336255469781kb"}, GPUS),
    ({"gres": "gpu:a100:+9"}, f"cannot be counted: {GPUS}"),
    ({"gres": "gpu:+1k"}, f"cannot be counted: {GPUS}"),
    ({"gres": "gpu=+9"}, f"cannot be counted: {GPUS}"),
    ({"gres": "gpu:9e"}, f"cannot be counted: {GPUS}"),
    ({"gres": "gpu:"}, f"cannot be counted: {GPUS}"),
    ({"gres": "shard:+9"}, f"cannot be counted: {GPUS}"),
    ({"extra_args": ["--gres=gpu:+9"]}, f"cannot be counted: {GPUS}"),
    ({"extra_args": ["--gpus=+9"], "nodes": 1}, f"cannot be counted: {GPUS}"),
    ({"extra_args": ["--gpus=+9"]}, f"where slurm.nodes is not given, which cannot be counted: {NODES}"),
    ({"extra_args": ["-G", "+9"], "cpus_per_task": 1}, "any number of CPUs: maximum.cpus is 8"),
    ({"gpus": "a100:2", "gres": "gpu:v100:2", "nodes": 1}, f"a100:2 and gpu:v100:2 together: {GPUS}"),
    ({"gpus": "a100:1", "gres": "gpu:v100:1", "nodes": 2}, f"a100:1 and gpu:v100:1 on 2 nodes together: {GPUS}"),
    ({"gpus": "a100:2", "extra_args": ["--gres=gpu:v100"], "nodes": 1}, f"together: {GPUS}"),
    ({"gpus": 2, "gres": "gpu:v100:2", "nodes": 1}, f"together: {GPUS}"),
    ({"gpus": 2, "gres": "shard:1", "nodes": 1}, f"together: {GPUS}"),
    ({"gres": "gpu:2,shard:1"}, GPUS),
    ({"gres": "shard:4,gpu:1", "nodes": 2}, GPUS),
    ({"gres": "mps:10", "nodes": 2, "extra_args": ["--gres=gpu:2"]}, GPUS),
    ({"extra_args": ["--gpus=1k"]}, GPUS),
    ({"extra_args": ["--nodes=3"]}, NODES),
    ({"extra_args": ["--nodes=100-0"]}, NODES),
    ({"extra_args": ["--nodes=0"]}, NODES),
    ({"extra_args": ["--nodes=1k"]}, NODES),
    ({"extra_args": ["--nodes=1-"]}, NODES),
    ({"extra_args": ["--nodes=1,2,4"]}, NODES),
    ({"extra_args": ["--nodes=1-15:4"]}, NODES),
    ({"extra_args": ["--nodelist=nid[001-003]"]}, NODES),
    ({"extra_args": ["--nodelist=r[1-2]n[0,1]"]}, NODES),
    ({"extra_args": ["--nodelist=nid[1,2],x"]}, NODES),
    ({"extra_args": ["--nodelist=/home/alice/nodes"]}, NODES),
    ({"extra_args": ["--nodelist=nid[1-"]}, NODES),
    ({"extra_args": ["-F", "nodes"]}, NODES),
    ({"gpus": 3}, "3 GPUs may be on as many nodes where slurm.nodes is not given: maximum.nodes is 2"),
    ({"gpus": 2, "extra_args": ["--ntasks-per-gpu=4"]}, NODES),
    ({"gres": "gpu:1", "extra_args": ["--gpus=2", "--gres=gpu:2"]}, "gpu:2 on 2 nodes: maximum.gpus is 2"),
    ({"extra_args": [f"--nodes={'9' * 5000}"]}, "cannot be counted: maximum.nodes is 2"),
    ({"extra_args": [f"--nodelist=n[1-{'9' * 5000}]"]}, "cannot be counted: maximum.nodes is 2"),
    ({"time": "9" * 5000}, "cannot be counted: maximum.time is 60"),
    ({"gres": f"gpu:a:{'9' * 5000}"}, "cannot be counted: maximum.gpus is 2"),
    ({"extra_args": ["--hint=nomultithread"]}, "use slurm.cpus_per_task"),
    ({"extra_args": ["--time=60-0"]}, "maximum.time is 60"),
    ({"extra_args": ["--time=0:00:00"]}, "maximum.time is 60"),
]


@pytest.mark.parametrize(("slurm", "line"), COUNTED)
def test_what_is_counted_is_counted_as_slurm_does(slurm: dict[str, Any], line: str, tmp_path: Path) -> None:
    text = "[maximum]\nnodes = 2\ngpus = 2\ncpus = 8\ntime = 60\n[allowed]\nconstraint = ['knl', 'quad', 'haswell']\n"
    lines = told({"slurm": slurm}, tmp_path, text=text)
    assert any(line in each for each in lines) if line else lines == []


def _as_slurm_counts(rest: str) -> int:
    """What Slurm makes of `gpu:rest`, by _get_next_gres and suffix_mult of its source; 0 if that is refused."""
    strtoull = ctypes.CDLL(None).strtoull
    strtoull.restype, strtoull.argtypes = ctypes.c_ulonglong, [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
    kind, colon, last = rest.partition(":")
    text = (last if colon else rest).encode()
    end = ctypes.c_char_p()
    value = strtoull(text, ctypes.byref(end), 10)
    unit = re.fullmatch(r"(?:([kmgtp])(i?b)?)?", (end.value or b"").decode(), re.IGNORECASE)
    if value == 2**64 - 1 or unit is None:
        return 0 if colon or not rest else 1
    base = 1000 if (unit[2] or "").lower() == "b" else 1024
    return value * base ** "_kmgtp".index((unit[1] or "_").lower()) % 2**64 if kind else 0


_COUNTS = st.from_regex(r"[ \t]?[+-]?[0-9]{0,20}([kmgtpeKB](i?b)?)?[.a0]?", fullmatch=True)


@given(st.one_of(_COUNTS, st.builds("{}:{}".format, st.sampled_from(["a100", "1g.5gb", "+9", "9k", ""]), _COUNTS)))
@example("-18446744073709551607")
@example("2066035336255469781kb")
def test_no_way_to_write_a_count_makes_it_less_than_slurm_s(rest: str) -> None:
    counts = gpus_by_type(f"gpu:{rest}", gres=True)
    assert counts is None or sum(counts.values()) >= _as_slurm_counts(rest)


@pytest.mark.parametrize("value", ["gpu:+9", "gpu: 9", "gpu:9kib"])
@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {"env": "SLURM_GRES"}),
        ({"allow": {"slurm.gres": True}}, {"chosen": "KERNEL_SLURM_GRES"}),
    ],
)
def test_a_variable_is_counted_like_the_key(
    config: dict[str, Any], options: dict[str, str], value: str, tmp_path: Path
) -> None:
    given = {name: {variable: value} for name, variable in options.items()}
    lines = told(config, tmp_path, text="[maximum]\ngpus = 2\n", **given)
    assert len(lines) == 1
    assert lines[0].endswith(GPUS)


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("--gpus-per-node=9", "maximum.gpus"),
        ("--mem-per-cpu=1T", "maximum.mem"),
        ("--nodefile=x", "maximum.nodes"),
        ("-Fx", "maximum.nodes"),
        ("--tasks-per-node=9", "maximum.cpus"),
        ("--ntasks-per-tres=9", "maximum.gpus"),
        ("--container=/x", "allowed.image"),
        ("--x-plugin=1", ""),
    ],
)
def test_allowed_extra_args_are_for_what_farkernel_does_not_know(word: str, rule: str, tmp_path: Path) -> None:
    text = "[maximum]\ngpus = 2\nnodes = 1\ncpus = 8\nmem = '8G'\n[allowed]\nextra_args = ['*']\nimage = ['nersc/*']\n"
    lines = told({"slurm": {"extra_args": [word]}}, tmp_path, text=text)
    assert any('": use ' in line and rule in line for line in lines) if rule else lines == []


@pytest.mark.parametrize("words", [["--het-group=0,1"], ["--pack-group=1"], ["--x-plugin", ":", "--nodes=9"]])
def test_one_kernel_is_one_job(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="farkernel makes one job of its own"):
        told({"slurm": {"extra_args": words}}, tmp_path, text="[allowed]\nextra_args = ['*']\n")


@pytest.mark.parametrize(
    ("container", "rule"),
    [
        ({"runtime": "podman-hpc", "image": "nersc/a"}, "allowed.runtime"),
        ({"runtime": "shifter", "image": "docker:evil/x"}, "allowed.image"),
        ({"runtime": "shifter", "image": "evil"}, "allowed.image"),
        ({"runtime": "shifter", "image": "nersc/../evil/x"}, "allowed.image"),
        ({"runtime": "shifter", "image": "custom:nersc/x"}, "allowed.image"),
        ({"runtime": "shifter", "image": "id:" + "0" * 64}, "allowed.image"),
        ({"runtime": "shifter", "image": "ubuntu:24.04"}, "allowed.image"),
        ({"runtime": "shifter", "image": "nersc/a", "args": ["--imag=evil"]}, "container_args"),
        ({"runtime": "shifter", "image": "nersc/a", "args": ["-Eievil"]}, "container_args"),
        ({"runtime": "shifter", "image": "nersc/a", "env": {"SHIFTER_IMAGE": "evil"}}, "could name another image"),
    ],
)
def test_images_are_checked_in_every_spelling(container: dict[str, Any], rule: str, tmp_path: Path) -> None:
    assert any(rule in line for line in told({"container": container}, tmp_path))


def test_a_type_in_front_of_a_name_is_no_part_of_it(tmp_path: Path) -> None:
    text = '[allowed]\nimage = ["custom:*"]\n'
    config = {"container": {"runtime": "shifter", "image": "docker:custom:evil"}}
    assert told(config, tmp_path, text=text) != []


@pytest.mark.parametrize("word", ["--tasks-per-node=8", "--tasks-per=8", "--ntasks-per-node=8"])
def test_an_option_is_forbidden_by_whatever_name_srun_takes_it(word: str, tmp_path: Path) -> None:
    config = {"slurm": {"extra_args": [word]}}
    lines = told(config, tmp_path, text='forbidden_options = ["--ntasks-per-node"]\n')
    assert lines == [f'slurm.extra_args (from kernel.json): "{word}": forbidden_options has --ntasks-per-node']


def test_a_list_that_is_empty_allows_nothing_and_says_so(tmp_path: Path) -> None:
    lines = told({"slurm": {"qos": "debug"}}, tmp_path, text="[allowed]\nqos = []\n")
    assert lines == ['slurm.qos (from kernel.json): "debug": allowed.qos is empty']


def test_a_kernel_of_this_machine_needs_nothing_of_slurm(tmp_path: Path) -> None:
    assert told({"slurm": {"account": None}}, tmp_path, slurm=False) == []
    assert told({"container": {"runtime": "apptainer", "image": "/x"}}, tmp_path, slurm=False) != []


def test_what_nobody_says_is_the_default_and_the_longest_time(tmp_path: Path) -> None:
    policy = InForce(parse_policy(POLICY, source=SOURCE), SOURCE)
    templates = JobTemplates(tmp_path, tmp_path)

    slurm = effective({"slurm": {"qos": "interactive"}}, source="k", templates=templates, policy=policy).request.slurm
    assert (slurm.account, slurm.qos, slurm.time) == ("nstaff", "interactive", "4:00:00")


def test_the_defaults_extend_a_job_template_unless_the_kernelspec_does(tmp_path: Path) -> None:
    for name, slurm in {"site": {"qos": "low", "time": "10", "comment": "site"}, "own": {"comment": "own"}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"slurm": slurm}))
    text = '[defaults]\nextends = "site"\nslurm.qos = "debug"\n[maximum]\ntime = "4:00:00"\n'
    policy = InForce(parse_policy(text, source=SOURCE), SOURCE)

    def asked(config: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
        templates = JobTemplates(tmp_path / "none", tmp_path)
        slurm = effective(config, source="k", templates=templates, policy=policy).request.slurm
        return slurm.qos, slurm.time, slurm.comment

    assert asked({}) == ("debug", "10", "site")
    assert asked({"extends": "own"}) == ("debug", "4:00:00", "own")
    assert asked({"extends": None}) == ("debug", "4:00:00", None)
    (tmp_path / "site.json").unlink()
    with pytest.raises(TemplateNotFound, match=r'policy[.]toml: defaults: extends: there is no job template "site"'):
        asked({})


def test_srun_s_variables_are_seen_and_are_not_srun_s_any_more(tmp_path: Path) -> None:
    env = {"SLURM_QOS": "premium", "SLURM_ACCOUNT": "m1234", "SLURM_GPUS_PER_NODE": "8", "SLURM_CONF": "/x", "A": "b"}
    lines = told({"slurm": {"account": "nstaff"}}, tmp_path, env=env)
    assert lines == ['slurm.qos (from SLURM_QOS="premium"): "premium": allowed.qos is debug, interactive']
    assert without_options(env) == {"SLURM_CONF": "/x", "A": "b"}


def _asked(tmp_path: Path, config: dict[str, Any], *, text: str = POLICY, **options: Any) -> Effective:
    policy = InForce(parse_policy(text, source=SOURCE), SOURCE)
    return effective(config, source="k", templates=JobTemplates(tmp_path, tmp_path), policy=policy, **options)


def test_a_variable_that_is_not_valid_is_named_where_it_counts(tmp_path: Path) -> None:
    env = {"SLURM_GPUS": "a100", "SLURM_QOS": "debug"}
    with pytest.raises(VariableNotValid, match=r'^SLURM_GPUS="a100": slurm\.gpus: expected .*, not "a100"') as caught:
        _asked(tmp_path, {}, env=env)
    assert caught.value.hint.startswith("Unset it")

    assert _asked(tmp_path, {"slurm": {"gpus": 1}}, env=env).request.slurm.gpus == 1
    assert _asked(tmp_path, {"login": "cori"}, env=env, server=env).request.slurm.gpus is None
    assert _asked(tmp_path, {}, env=env, slurm=False).request.slurm.gpus is None
    assert _asked(tmp_path, {}).request.slurm.gpus is None


def test_of_this_hosts_variables_none_counts_behind_ssh(tmp_path: Path) -> None:
    server = {"SLURM_QOS": "interactive", "SLURM_ACCOUNT": "m1234"}
    env = {**server, "SLURM_ACCOUNT": "nstaff"}
    text = POLICY.replace('slurm.account = "nstaff"', 'slurm.account = "m1234"')

    def slurm(config: dict[str, Any]) -> tuple[str | None, str | None]:
        asked = _asked(tmp_path, config, text=text, env=env, server=server, named=["SLURM_ACCOUNT"]).request.slurm
        return asked.qos, asked.account

    assert slurm({}) == ("interactive", "nstaff")
    assert slurm({"login": "cori"}) == ("debug", "nstaff")


def test_a_kernel_of_this_machine_has_no_login_node(tmp_path: Path) -> None:
    text = POLICY.replace("[defaults]", '[defaults]\nlogin = "cori"')
    assert _asked(tmp_path, {}, text=text).request.login == "cori"
    assert _asked(tmp_path, {}, text=text, slurm=False).request.login is None
    with pytest.raises(RequestError, match="k: login: cori is another host, and farkernel-local runs kernels on this"):
        _asked(tmp_path, {"login": "cori"}, slurm=False)
    (tmp_path / "far.json").write_text('{"login": "cori"}')
    with pytest.raises(RequestError, match=r"k: login: cori \(from .*/far[.]json\)") as caught:
        _asked(tmp_path, {"extends": "far"}, slurm=False)
    assert '"login": null' in caught.value.hint
    assert _asked(tmp_path, {"extends": "far", "login": None}, slurm=False).request.login is None


def test_variables_are_never_passed(tmp_path: Path) -> None:
    policy = InForce(parse_policy(POLICY, source=SOURCE), SOURCE)
    config = {"container": {"runtime": "shifter", "image": "nersc/a", "env": {"AWS_KEY": "1", "B": "2"}}}
    whole = effective(config, source="k", templates=JobTemplates(tmp_path, tmp_path), policy=policy)
    assert whole.request.container.env == {"B": "2"}
    assert whole.passed({"AWS_SECRET": "x", "AWSOME": "y"}) == {"AWSOME": "y"}


@pytest.mark.parametrize(("kernels", "jobs", "fine"), [(1, 9, True), (2, 0, False), (0, 10, False), (1, None, True)])
def test_kernels_and_jobs_are_counted(kernels: int, jobs: int | None, fine: bool) -> None:
    text = "[maximum]\nkernels_per_user = 2\njobs_per_user = 10\n"
    policy = InForce(parse_policy(text, source=SOURCE), SOURCE)
    if fine:
        policy.check_counts(kernels, jobs)
    else:
        with pytest.raises(PolicyRefused, match="does not allow one more kernel"):
            policy.check_counts(kernels, jobs)


@given(
    st.text("ab&|,[]()* ", max_size=8),
    st.sampled_from(["--constraint=", "-C", "--cons="]),
)
def test_no_way_to_write_a_constraint_hides_a_feature(around: str, form: str) -> None:
    expression = f"{around}&evil&{around[::-1]}"
    policy = InForce(parse_policy('[allowed]\nconstraint = ["a", "b", "ab*", "ba*", "aa*", "bb*"]\n', source="p"), "p")
    request = effective(
        {"slurm": {"extra_args": [f"{form}{expression}"]}},
        source="k",
        policy=InForce(parse_policy("", source="p"), "p"),
        templates=JobTemplates(Path(), Path()),
    ).request
    with pytest.raises(PolicyRefused, match="evil"):
        policy.check(request, {})


# ---- the file ----


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = [", "no TOML: "),
        ("\nrequire = 3\n", "line 2: require: unknown key; did you mean required?"),
        ('[allowed]\n\nacount = ["m1"]\n', "line 3: allowed.acount: unknown key; did you mean allowed.account?"),
        ('[allowed]\nqos = "debug"\n', "line 2: allowed.qos: expected a list of patterns"),
        ('[allowed]\nconstraint = ["knl&quad"]\n', "a pattern for each single name"),
        ("[maximum]\nnodes = 0\n", "line 2: maximum.nodes: expected a whole number, 1 or more"),
        ('[maximum]\ntime = "4h"\n', "line 2: maximum.time: expected Slurm's time"),
        ('[maximum]\ntime = "0:00"\n', "line 2: maximum.time: expected more than 0, which is no limit for Slurm"),
        ('[maximum]\nmem = "0G"\n', "line 2: maximum.mem: expected more than 0"),
        ("maximum = 3\n", "line 1: maximum: expected a table"),
        ('required = ["slurm.acount"]\n', "slurm.acount is none; did you mean slurm.account?"),
        ('required = ["slurm"]\n', "slurm is none; name one that is in it, such as slurm.account"),
        ('[defaults]\nslurm.acount = "m1"\n', "line 2: defaults.slurm.acount: unknown key"),
        ('forbidden_options = ["--"]\n', "line 1: forbidden_options: expected options of srun"),
    ],
)
def test_a_policy_that_is_not_valid_says_file_line_and_key(text: str, line: str) -> None:
    with pytest.raises(PolicyUnusable) as caught:
        parse_policy(text, source=SOURCE)
    assert caught.value.said.startswith(SOURCE)
    assert line in caught.value.said
    assert "tell the site's support" in caught.value.hint


def test_no_file_is_no_policy(tmp_path: Path) -> None:
    assert find_policy(str(tmp_path / "none" / "policy.toml"), owner=os.getuid()) is None
    assert find_policy(str(tmp_path / "policy.toml"), owner=os.getuid()) is None


def _write(directory: Path) -> Path:
    directory.mkdir(mode=0o755)
    file = directory / "policy.toml"
    file.write_text(POLICY)
    file.chmod(0o644)
    return file


def test_a_file_that_only_its_owner_can_write_is_read(tmp_path: Path) -> None:
    file = _write(tmp_path / "etc")
    found = in_force(find_policy(str(file), owner=os.getuid()), source=SOURCE)
    assert found is not None
    assert found.policy.maximum.nodes == 4


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: file.chmod(0o664), "can be written by others"),
        (lambda file: file.chmod(0o646), "can be written by others"),
        (lambda file: file.parent.chmod(0o775), "can be written by others"),
        (lambda file: (file.rename(file.with_name("x")), file.symlink_to("x")), "it is a link"),
        (lambda file: (file.unlink(), file.mkdir()), "neither a plain file"),
        (lambda file: (file.unlink(), subprocess.run(["mkfifo", file], check=True)), "neither a plain file"),
        (lambda file: file.write_bytes(b"\xff"), "utf-8"),
        (lambda file: file.write_bytes(b"#" * 2**21), "too long"),
    ],
)
def test_a_file_that_cannot_be_trusted_or_read_lets_no_kernel_start(spoil: Any, why: str, tmp_path: Path) -> None:
    file = _write(tmp_path / "etc")
    spoil(file)
    with pytest.raises(PolicyUnusable, match=why) as caught:
        in_force(find_policy(str(file), owner=os.getuid()), source=str(file))
    assert "tell the site's support" in caught.value.hint


def test_somebody_elses_file_is_not_the_sites(tmp_path: Path) -> None:
    file = _write(tmp_path / "etc")
    with pytest.raises(PolicyUnusable, match="belongs to user"):
        in_force(find_policy(str(file), owner=os.getuid() + 1), source=str(file))
