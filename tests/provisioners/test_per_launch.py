"""What one start may choose of what its kernelspec leaves open."""

from pathlib import Path
from typing import Any

import pytest

from farkernel.provisioners import environment
from farkernel.provisioners.effective import Effective, effective
from farkernel.provisioners.errors import ChoiceRefused, PolicyRefused, RequestError
from farkernel.provisioners.job_templates import JobTemplates
from farkernel.provisioners.layers import origin
from farkernel.provisioners.per_launch import choices
from farkernel.provisioners.policy import parse_policy
from farkernel.provisioners.policy_check import InForce
from farkernel.provisioners.request import parse_request

ALLOW = {
    "slurm.time": "8:00:00",
    "slurm.nodes": 4,
    "slurm.gpus": 2,
    "slurm.mem": "8G",
    "slurm.qos": ["debug", "inter*"],
    "slurm.constraint": ["knl", "quad"],
    "slurm.account": True,
    "slurm.exclusive": True,
    "slurm.extra_args": True,
    "container.image": ["docker:nersc/*"],
    "job.max_wait": "2h",
}


def chosen(env: dict[str, str], allow: dict[str, Any] = ALLOW, policy: str = "") -> Effective:
    config = {"slurm": {"time": "30"}, "container": {"runtime": "shifter", "image": "nersc/a"}, "allow": allow}
    templates = JobTemplates(Path("/none"), Path("/none"))
    in_force = InForce(parse_policy(policy, source="policy.toml"), "policy.toml")
    return effective(config, source="kernel.json", templates=templates, policy=in_force, chosen=choices(env))


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("KERNEL_SLURM_TIME", "60", "60"),
        ("KERNEL_SLURM_TIME", "8:00:00", "8:00:00"),
        ("KERNEL_SLURM_NODES", "4", 4),
        ("KERNEL_SLURM_GPUS", "a100:2", "a100:2"),
        ("KERNEL_SLURM_MEM", "8192", "8192"),
        ("KERNEL_SLURM_QOS", "interactive", "interactive"),
        ("KERNEL_SLURM_CONSTRAINT", "knl&quad", "knl&quad"),
        ("KERNEL_SLURM_ACCOUNT", "1234", "1234"),
        ("KERNEL_SLURM_EXCLUSIVE", "true", True),
        ("KERNEL_SLURM_EXTRA_ARGS", '["--mail-type=END"]', ("--mail-type=END",)),
        ("KERNEL_CONTAINER_IMAGE", "nersc/b:2", "nersc/b:2"),
        ("KERNEL_JOB_MAX_WAIT", "90m", 5400.0),
        ("KERNEL_JOB_MAX_WAIT", "90", 90.0),
    ],
)
def test_what_is_left_open_can_be_chosen(variable: str, text: str, value: object) -> None:
    whole = chosen({variable: text, "KERNEL_ID": "x", "KERNEL_USERNAME": "alice", "KERNEL_LAUNCH_TIMEOUT": "40"})
    section, _, field = variable.removeprefix("KERNEL_").lower().partition("_")
    assert getattr(getattr(whole.request, section), field) == value
    assert origin(whole.layers, f"{section}.{field}") == f'{variable}="{text}"'


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        ("KERNEL_SLURM_TIME", "8:00:01", "kernel.json allows slurm.time up to 8:00:00"),
        ("KERNEL_SLURM_TIME", "0", "kernel.json allows slurm.time up to 8:00:00"),
        ("KERNEL_SLURM_TIME", "4h", "slurm.time: expected Slurm's time"),
        ("KERNEL_SLURM_TIME", "", "slurm.time: expected Slurm's time"),
        ("KERNEL_SLURM_NODES", "5", "allows slurm.nodes up to 4"),
        ("KERNEL_SLURM_NODES", "null", "allows slurm.nodes up to 4"),
        ("KERNEL_SLURM_GPUS", "a100:3", "allows slurm.gpus up to 2"),
        ("KERNEL_SLURM_MEM", "0", "allows slurm.mem up to 8G"),
        ("KERNEL_SLURM_QOS", "premium", "allows slurm.qos of debug, inter*"),
        ("KERNEL_SLURM_CONSTRAINT", "knl|haswell", "allows slurm.constraint of knl, quad"),
        ("KERNEL_CONTAINER_IMAGE", "evil", "allows container.image of docker:nersc/*"),
        ("KERNEL_SLURM_PARTITION", "knl", "kernel.json does not list slurm.partition under allow"),
        ("KERNEL_SLURM_TIEM", "30", "there is no such choice; did you mean KERNEL_SLURM_TIME?"),
        ("KERNEL_JOB_MAX_WAIT", "3h", "allows job.max_wait up to 2h"),
    ],
)
def test_everything_else_is_refused(variable: str, text: str, line: str) -> None:
    with pytest.raises(ChoiceRefused) as caught:
        chosen({variable: text})
    assert variable in caught.value.said
    assert line in caught.value.said
    assert "slurm.time (up to 8:00:00)" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "limit", "text", "fine"),
    [
        ("slurm.gpus", "a100:2", "a100:2", True),
        ("slurm.gpus", "a100:2", "A100:1", True),
        ("slurm.gpus", "a100:2", "v100:1", False),
        ("slurm.gpus", "a100:2", "1", False),
        ("slurm.gpus", "a100:2,v100:4", "v100:3,a100:1", True),
        ("slurm.gpus", "a100:2,v100:4", "v100:3,a100:3", False),
        ("slurm.gpus", "1g.10gb:2", "1g.10gb:2", True),
        ("slurm.gpus", 2, "a100:1,v100:2", False),
        ("slurm.gres", ["gpu:[12]"], "gpu:2", True),
        ("slurm.gres", ["gpu:*"], "gpu:2,craynetwork:9", False),
        ("slurm.gres", ["gpu:1,craynetwork"], "gpu:1,craynetwork", True),
        ("slurm.licenses", ["scratch*"], "scratch,matlab:9", False),
        ("slurm.constraint", ["knl,quad,cache"], "knl,quad,cache", True),
        ("slurm.constraint", ["knl,quad,cache"], "knl,flat", False),
    ],
)
def test_a_limit_holds_for_each_part_of_what_is_chosen(key: str, limit: Any, text: str, fine: bool) -> None:
    variable = f"KERNEL_{key.upper().replace('.', '_')}"
    if fine:
        assert origin(chosen({variable: text}, {key: limit}).layers, key).startswith(variable)
    else:
        with pytest.raises(ChoiceRefused, match=f"allows {key}"):
            chosen({variable: text}, {key: limit})


def test_every_refusal_is_told_at_once() -> None:
    with pytest.raises(ChoiceRefused) as caught:
        chosen({"KERNEL_SLURM_NODES": "9", "KERNEL_SLURM_FOO": "1"}, {})
    assert len(caught.value.said.splitlines()) == 2
    assert "Nothing can be chosen" in caught.value.hint


def test_a_choice_widens_no_policy() -> None:
    policy = '[allowed]\nqos = ["debug"]\n[maximum]\ntime = "1:00:00"\n'
    whole = chosen({"KERNEL_SLURM_TIME": "2:00:00"}, policy=policy)
    with pytest.raises(PolicyRefused) as caught:
        whole.check()
    assert 'slurm.time (from KERNEL_SLURM_TIME="2:00:00"): 2:00:00: maximum.time is 1:00:00' in caught.value.said


def test_a_kernel_does_not_inherit_choices() -> None:
    env = {"KERNEL_SLURM_TIME": "30", "KERNEL_ID": "x"}
    assert environment.for_submission(env, {}) == {"KERNEL_ID": "x"}
    assert environment.for_kernel(env, {}) == {"KERNEL_ID": "x"}


@pytest.mark.parametrize(
    ("allow", "line"),
    [
        ({"slurm.tiem": "30"}, "slurm.tiem is none; did you mean slurm.time?"),
        ({"login": True}, "login cannot be chosen by a start"),
        ({"slurm": True}, "slurm is none; name one that is in it, such as slurm.account"),
        ({"slurm.time": "4h"}, "slurm.time: expected Slurm's time"),
        ({"slurm.nodes": "4"}, "slurm.nodes: expected a whole number"),
        ({"slurm.qos": []}, "true, or a list of patterns, for slurm.qos"),
        ({"slurm.qos": 3}, "true, or a list of patterns, for slurm.qos"),
        ({"slurm.extra_args": ["--x"]}, "true for slurm.extra_args"),
        ({"slurm.account": False}, "true, or a list of patterns, for slurm.account"),
        (["slurm.time"], "limits by key"),
    ],
)
def test_an_allow_that_is_not_valid(allow: Any, line: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request({"allow": allow}, source="kernel.json")
    assert str(caught.value).startswith("kernel.json: allow: expected ")
    assert line in str(caught.value)
