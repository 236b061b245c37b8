"""What `farkernel kernelspec` and `farkernel template` say of the site's policy."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from farkernel.provisioners.cli.app import app
from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.policy_file import Found, in_force


def _spec(config: dict[str, Any], env: dict[str, Any]) -> dict[str, Any]:
    stanza = {"provisioner_name": "farkernel-slurm", "config": config}
    argv = ["/bin/sh", "{connection_file}"]
    names = {"display_name": "X", "language": "sh"}
    return {"argv": argv, **names, "env": env, "metadata": {"kernel_provisioner": stanza}}


REFUSED = 'slurm.qos: the site\'s policy does not allow it: "premium": allowed.qos is debug'


@pytest.fixture
def mine(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed kernelspec that the policy does not allow, and has to be given more."""
    policy = Found('required = ["slurm.account"]\n[allowed]\nqos = ["debug"]\n')
    monkeypatch.setattr("farkernel.provisioners.effective.site_policy", lambda: in_force(policy, source="/policy"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_PATH", str(home))
    for name in ("XDG_CONFIG_HOME", "SLURM_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    file = home / "kernels" / "mine" / "kernel.json"
    file.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {**_spec({"slurm": {"qos": "premium"}}, {}), "argv": argv, "display_name": "Mine", "language": "python"}
    file.write_text(json.dumps(spec))
    return file


def _told(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stderr + done.stdout


def test_show_says_what_the_policy_refuses(mine: Path) -> None:
    assert REFUSED in _told("kernelspec", "show", "mine")
    remarks = "\n".join(json.loads(_told("kernelspec", "show", "mine", "--json"))["remarks"])
    assert "has to be given: required has slurm.account" in remarks
    assert REFUSED in remarks


def test_edit_saves_what_the_policy_refuses_and_says_so(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "sed -i s/Mine/Ours/")
    told = _told("kernelspec", "edit", "mine")
    assert "Saved" in told
    assert REFUSED in told
    assert json.loads(mine.read_text())["display_name"] == "Ours"


def test_template_save_and_apply_say_what_the_policy_refuses(mine: Path, home: Path) -> None:
    template = home / ".config/farkernel/templates/t.json"
    saved = _told("template", "save", "t", "--qos", "regular")
    assert f'slurm.qos (from {template}): "regular": allowed.qos is debug' in saved
    assert "has to be given" not in saved
    assert REFUSED in _told("template", "apply", "t", "mine")
    assert "policy" not in _told("template", "save", "fine", "--qos", "debug")


def test_show_lists_what_is_in_force(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = json.loads(mine.read_text())
    spec["env"] = {"SLURM_ACCOUNT": "m1", "SLURM_QOS": "debug"}
    mine.write_text(json.dumps(spec))
    monkeypatch.setenv("SLURM_PARTITION", "knl")
    rows = json.loads(_told("kernelspec", "show", "mine", "--json"))["config"]
    assert {row["key"]: (row["value"], row["from"]) for row in rows} == {
        "slurm.account": ("m1", 'SLURM_ACCOUNT="m1"'),
        "slurm.partition": ("knl", 'SLURM_PARTITION="knl"'),
        "slurm.qos": ("premium", str(mine)),
    }


def test_what_this_shell_has_chosen_is_not_said_of_a_template(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNEL_SLURM_TIME", "10")
    monkeypatch.setenv("SLURM_QOS", "premium")
    monkeypatch.setenv("SLURM_GPUS", "a100")
    assert "policy" not in _told("template", "save", "t", "--time", "10")
    assert "a100" not in _told("template", "save", "u", "--time", "10")


def test_apply_lists_what_the_policy_gives(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _told("template", "save", "t", "--time", "10")
    policy = Found('defaults.slurm.partition = "knl"\ndefaults.slurm.qos = "debug"\n')
    monkeypatch.setattr("farkernel.provisioners.effective.site_policy", lambda: in_force(policy, source="/policy"))
    told = _told("template", "apply", "t", "mine")
    assert "/policy: defaults" in told
    assert "win over the job template's" not in told


def test_a_variable_that_is_not_valid_keeps_nothing_from_being_written(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_GPUS", "a100")
    told = _told("kernelspec", "wrap", "mine", "--name", "new", "--prefix", str(mine.parents[2] / "p"))
    assert "Installed new" in told
    assert "SLURM_GPUS: it counts as a key of the kernelspec" in told


def test_a_policy_that_cannot_be_used_keeps_nothing_from_being_written(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Found("x =")
    monkeypatch.setattr("farkernel.provisioners.effective.site_policy", lambda: in_force(policy, source="/policy"))
    prefix = ["--prefix", str(mine.parents[2] / "p")]
    for words in (["wrap", "mine", "--name", "new", *prefix], ["install", "cori-knl", *prefix]):
        told = _told("kernelspec", *words)
        assert "Installed" in told
        assert "The policy of this site, /policy, is not valid" in told


def test_a_kernel_of_this_host_is_not_installed_for_a_login_node(home: Path) -> None:
    prefix = ["--prefix", str(home)]
    done = CliRunner().invoke(app, ["kernelspec", "install", "local", "--login", "cori", *prefix])
    assert isinstance(done.exception, RequestError)
    assert "without Slurm: login cannot apply" in str(done.exception)
