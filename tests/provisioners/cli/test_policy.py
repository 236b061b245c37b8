"""`farkernel policy`: what an administrator hears before a policy is in force, and a user of one that is."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from farkernel.provisioners.cli.app import app
from farkernel.provisioners.policy_file import Found
from tests.provisioners.cli.conftest import Farkernel

POLICY = """\
required = ["slurm.account"]
forbidden_options = ["--begin"]
never_pass = ["AWS_*"]

[defaults]
slurm.qos = "debug"
slurm.nodes = 2
allow = {"slurm.time" = true}

[allowed]
qos = ["debug", "interactive"]
image = []

[maximum]
nodes = 4
time = "4:00:00"
"""


def _check(farkernel: Farkernel, file: Path, text: str) -> tuple[int, list[dict[str, Any]]]:
    file.write_text(text)
    done = farkernel("policy", "check", str(file), "--json")
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_policy_without_fault(farkernel: Farkernel, tmp_path: Path) -> None:
    code, found = _check(farkernel, tmp_path / "new.toml", POLICY)
    assert [(each["level"], each["found"]) for each in found] == [("ok", "it can be used: 10 rules")]
    assert code == 0
    table = farkernel("policy", "check", str(tmp_path / "new.toml"))
    assert "it can be used" in table.stdout


def test_every_fault_is_told_with_its_line_and_its_cure(farkernel: Farkernel, tmp_path: Path) -> None:
    text = '[defaults]\nslurm.qos = "x"\n[allowed]\nqos = "debug"\nacount = []\n\n[maximum]\nnodes = 0\n'
    code, found = _check(farkernel, tmp_path / "new.toml", text)
    assert code == 1
    assert [(each["level"], each["line"], each["key"], each["advice"][:21]) for each in found] == [
        ("problem", 4, "allowed.qos", "Write a list of patte"),
        ("problem", 5, "allowed.acount", "Write allowed.account"),
        ("problem", 8, "maximum.nodes", "Write a whole number,"),
    ]
    assert {each["file"] for each in found} == {str(tmp_path / "new.toml")}


@pytest.mark.parametrize(
    ("text", "line", "key", "found"),
    [
        ("\nx = [", 2, "", "no TOML"),
        ("defaults.slurm.acount = 3", 1, "defaults.slurm.acount", "unknown key"),
        ("a = 1\n[defaults]\n[defaults.slurm]\nnodes = 0", 1, "a", "unknown key"),
        ("[defaults]\n[defaults.slurm]\nnodes = 0", 3, "defaults.slurm.nodes", "expected a whole number"),
    ],
)
def test_a_fault(farkernel: Farkernel, tmp_path: Path, text: str, line: int, key: str, found: str) -> None:
    code, (fault,) = _check(farkernel, tmp_path / "new.toml", text)
    assert code == 1
    assert (fault["line"], fault["key"]) == (line, key)
    assert found in fault["found"]
    assert fault["advice"]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ('required = ["slurm"]', "Remove slurm; name one that is in it, such as slurm.account."),
        ('required = ["slurm.acount"]', "Write slurm.account for slurm.acount."),
        ('required = ["zzz"]', "Remove zzz."),
        ('maximum.time = "0"', "Write more than 0, or remove it: then there is no limit."),
        ('maximum.mem = "0G"', "Write more than 0, or remove it: then there is no limit."),
        ('forbidden_options = ["--"]', 'Write options of srun such as ["--begin", "-w"].'),
        ('allowed.qos = ["a,b"]', "Write a pattern for each single name."),
    ],
)
def test_a_cure_says_what_to_write_and_no_more(farkernel: Farkernel, tmp_path: Path, text: str, advice: str) -> None:
    _, (fault,) = _check(farkernel, tmp_path / "new.toml", text)
    assert fault["advice"] == advice


@pytest.mark.parametrize(
    ("text", "line", "key", "found", "advice"),
    [
        (
            '[defaults]\nslurm.qos = "premium"\n[allowed]\nqos = ["debug"]\n',
            *(2, "defaults.slurm.qos", '"premium": allowed.qos is debug', "Change the default"),
        ),
        (
            "[maximum]\nnodes = 4\n[defaults.slurm]\nnodes = 9\n",
            *(4, "defaults.slurm.nodes", "9: maximum.nodes is 4", "Change the default"),
        ),
        (
            '[defaults]\nslurm.extra_args = ["--begin=now"]\nslurm.nodes = 1\n[maximum]\ncpus = 1\n'
            '[allowed]\nextra_args = ["--x"]\n',
            *(0, "", "", ""),
        ),
        (
            'forbidden_options = ["-b"]\n[defaults]\nslurm.extra_args = ["--begin=now"]\n',
            *(3, "defaults.slurm.extra_args", "forbidden_options has --begin", "Change the default"),
        ),
        (
            '[defaults]\nextends = "nowhere"\n',
            *(2, "defaults.extends", 'there is no job template "nowhere" in /etc/farkernel/templates', "Mend"),
        ),
        (
            'required = ["slurm.qos"]\n[allowed]\nqos = []\n',
            *(1, "required", "slurm.qos has to be given, and no value is allowed: allowed.qos is empty", "Remove"),
        ),
        (
            'required = ["container.image"]\n[allowed]\nruntime = ["none"]\n',
            *(1, "required", "no value is allowed: allowed.runtime is none", "Remove container.image"),
        ),
        (
            '[allowed]\nruntime = ["none"]\nimage = ["a"]\n',
            *(3, "allowed.image", "no image can be used", "Remove it, or allow a runtime."),
        ),
        ('[allowed]\nruntime = ["shiftr"]\n', 2, "allowed.runtime", 'no container runtime "shiftr"', "Write shifter."),
        ('forbidden_options = ["--begn"]\n', 1, "forbidden_options", "no option --begn", "Write --begin, unless"),
        ('forbidden_options = ["--nodel"]\n', 1, "forbidden_options", "no option --nodel", "Write --nodelist, unless"),
        ('forbidden_options = ["--x-plugin"]\n', 1, "forbidden_options", "no option --x-plugin", "a plugin"),
        ('forbidden_options = ["-o"]\n', 1, "forbidden_options", "--output is refused without it", "Remove it."),
        (
            'forbidden_options = ["--gres"]\n',
            *(1, "forbidden_options", "--gres is forbidden in slurm.extra_args alone: slurm.gres still gives it"),
            "Limit both by maximum.gpus.",
        ),
        ('forbidden_options = ["-N"]\n', 1, "forbidden_options", "slurm.nodes still gives it", "by maximum.nodes."),
        ('forbidden_options = ["-L"]\n', 1, "forbidden_options", "slurm.licenses still gives it", "Slurm itself"),
        ('forbidden_options = ["-c", "-q"]\n[allowed]\nqos = ["a"]\n[maximum]\ncpus = 2\n', 0, "", "", ""),
        (
            'required = ["slurm.time"]\n[maximum]\ntime = 60\n',
            *(1, "required", "slurm.time is given wherever nothing names it: maximum.time is 60", "Remove slurm.time"),
        ),
        ('required = ["slurm.time"]\n', 0, "", "", ""),
        ('never_pass = ["*"]\n', 1, "never_pass", "PATH, HOME, USER would reach neither", "narrower"),
    ],
)
def test_what_contradicts_itself_is_a_warning(
    farkernel: Farkernel, tmp_path: Path, text: str, line: int, key: str, found: str, advice: str
) -> None:
    code, findings = _check(farkernel, tmp_path / "new.toml", text)
    assert code == 0
    warnings = [each for each in findings if each["level"] == "warning"]
    assert len(warnings) == bool(line)
    for each in warnings:
        assert (each["line"], each["key"]) == (line, key)
        assert found in each["found"]
        assert advice in each["advice"]
    assert findings[-1]["level"] == "ok"


def test_findings_are_in_the_order_of_the_file(farkernel: Farkernel, tmp_path: Path) -> None:
    text = 'never_pass = ["*"]\nforbidden_options = ["--nodes"]\n[allowed]\nruntime = ["shiftr"]\n'
    _, warnings = _check(farkernel, tmp_path / "new.toml", text + '[defaults]\nextends = "nowhere"\n')
    assert [each["line"] for each in warnings if each["level"] == "warning"] == [1, 2, 4, 6]
    text = '[maximum]\nnodes = 0\n[allowed]\nqos = "x"\n[defaults]\nslurm.nodes = 0\n'
    _, problems = _check(farkernel, tmp_path / "new.toml", text)
    assert [each["line"] for each in problems] == [2, 4]


def test_a_file_that_is_not_there(farkernel: Farkernel, tmp_path: Path) -> None:
    done = farkernel("policy", "check", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "none cannot be read: No such file" in done.stderr


def _installed(monkeypatch: pytest.MonkeyPatch, found: Found | None) -> None:
    monkeypatch.setattr("farkernel.provisioners.policy_file.find_policy", lambda _: found)


def test_the_one_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, Found(trouble="/etc/farkernel belongs to user 1000, not to root"))
    done = CliRunner().invoke(app, ["policy", "check", "--json"])
    assert done.exit_code == 1
    (trouble,) = json.loads(done.stdout)
    assert "no kernel starts" in trouble["found"]
    assert "have to be root's" in trouble["advice"]
    _installed(monkeypatch, None)
    done = CliRunner().invoke(app, ["policy", "check", "--json"])
    assert done.exit_code == 0
    assert "this site has none" in json.loads(done.stdout)[0]["found"]


def test_what_holds_is_shown_rule_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, Found(POLICY))
    done = CliRunner().invoke(app, ["policy", "show", "--json"])
    shown = json.loads(done.stdout)
    assert shown["file"] == "/etc/farkernel/policy.toml"
    assert [(each["key"], each["holds"], each["line"]) for each in shown["rules"]] == [
        ("required", "slurm.account", 1),
        ("forbidden_options", "not --begin", 2),
        ("never_pass", "not AWS_*", 3),
        ("defaults.slurm.qos", "debug, unless another is given", 6),
        ("defaults.slurm.nodes", "2, unless another is given", 7),
        ("defaults.allow", '{"slurm.time": true}, unless another is given', 8),
        ("allowed.qos", "debug, interactive", 11),
        ("allowed.image", "nothing", 12),
        ("maximum.nodes", "at most 4", 15),
        ("maximum.time", "at most 4:00:00", 16),
    ]
    assert all(each["about"] for each in shown["rules"])
    table = CliRunner().invoke(app, ["policy", "show"], env={"COLUMNS": "200"}).stdout
    assert "They stand in /etc/farkernel/policy.toml, which is root's" in table
    assert "debug, interactive" in table


def test_no_policy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, None)
    assert json.loads(CliRunner().invoke(app, ["policy", "show", "--json"]).stdout) == {"file": None, "rules": []}
    assert "This site has no policy" in CliRunner().invoke(app, ["policy", "show"]).stdout
