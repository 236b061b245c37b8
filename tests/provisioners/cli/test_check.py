"""`farkernel kernelspec check`: what is wrong with a kernelspec, where it stands, and how to mend it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from jupyter_client.kernelspec import KernelSpecManager

from farkernel.kernelspecs import check
from farkernel.kernelspecs.model import kernelspec_schema
from farkernel.provisioners.cli.check_file import check_file
from farkernel.provisioners.cli.findings import Finding, Level
from farkernel.provisioners.json_places import Path as Keys
from farkernel.provisioners.json_places import read_json
from farkernel.provisioners.policy_file import Found, in_force

Farkernel = Callable[..., subprocess.CompletedProcess[str]]

GOOD = """\
{
  "argv": ["/usr/bin/env", "-f", "{connection_file}"],
  "display_name": "Mine",
  "language": "python",
  "interrupt_mode": "signal",
  "env": {"OMP_NUM_THREADS": "4"},
  "metadata": {
    "kernel_provisioner": {
      "provisioner_name": "farkernel-slurm",
      "config": {
        "slurm": {"constraint": "knl", "time": "10"},
        "container": {"runtime": "none"}
      }
    },
    "process_proxy": {
      "class_name": "farkernel.provisioners.enterprise_gateway.SlurmProcessProxy"
    }
  }
}
"""
SLURM = "metadata.kernel_provisioner.config.slurm"
CONTAINER = "metadata.kernel_provisioner.config.container"

Broken = tuple[str, str, str, str, str]
"""What is replaced in the good one, by what; then line:column, the key, and words of the cure."""

BROKEN: dict[str, Broken] = {
    "a comma too many": ('"time": "10"}', '"time": "10",}', "11:52", "", "Remove this comma"),
    "a comment": ('"language": "python",', '"language": "python", // R', "4:25", "", "Remove the comment"),
    "single quotes": ('"Mine"', "'Mine'", "3:19", "", "double quotes"),
    "Python's words": ('"signal"', "None", "5:21", "", "Write null"),
    "no comma": ('"Mine",', '"Mine"', "4:3", "", "Write a comma"),
    "an open text": ('"Mine"', '"Mine', "3:19", "", 'Close it with a "'),
    "an early end": ("    }\n  }\n}\n", "    }\n  }\n", "18:3", "", "Close what is open"),
    "the same key twice": (
        '"time": "10"',
        '"time": "10", "time": "20"',
        "11:54",
        f"{SLURM}.time",
        "Remove one of the two",
    ),
    "enviroment": ('"env"', '"enviroment"', "6:3", "enviroment", "Write env"),
    "no command": ('"argv"', '"argw"', "2:3", "argw", "Write argv"),
    "a command in one text": (
        '["/usr/bin/env", "-f", "{connection_file}"]',
        '"env -f {connection_file}"',
        "2:3",
        "argv",
        'Write ["program", "argument", …]',
    ),
    "no connection file": ("{connection_file}", "{conection_file}", "2:34", "argv.2", 'Add "{connection_file}"'),
    "a number in argv": ('"-f"', "7", "2:28", "argv.1", "Put it in double quotes"),
    "a name on two lines": ('"Mine"', '"Mi\\nne"', "3:3", "display_name", "Write it on one line"),
    "no name": ('  "display_name": "Mine",\n', "", "1:1", "display_name", "what JupyterLab's launcher shows"),
    "a number in env": ('"4"', "4", "6:11", "env.OMP_NUM_THREADS", 'Write "4"'),
    "null in env": ('"4"', "null", "6:11", "env.OMP_NUM_THREADS", "Remove it, or write a text"),
    "null in argv": ('"-f"', "null", "2:28", "argv.1", "Remove it, or write a text"),
    "an interrupt mode": ('"signal"', '"SIGINT"', "5:3", "interrupt_mode", 'Write "signal"'),
    "kernel_provisoner": (
        '"kernel_provisioner"',
        '"kernel_provisoner"',
        "8:5",
        "metadata.kernel_provisoner",
        "Write kernel_provisioner",
    ),
    "a provisioner that is not there": (
        '"farkernel-slurm"',
        '"farkernel-slrum"',
        "9:7",
        "metadata.kernel_provisioner.provisioner_name",
        "Write farkernel-slurm",
    ),
    "somebody else's provisioner": (
        '"farkernel-slurm"',
        '"local-provisioner"',
        "9:7",
        "metadata.kernel_provisioner.provisioner_name",
        "Write one of farkernel-local, farkernel-slurm",
    ),
    "a provisioner's name under another key": (
        '"provisioner_name"',
        '"name"',
        "9:7",
        "metadata.kernel_provisioner.name",
        "Write provisioner_name",
    ),
    "slurm too far up": (
        '"config": {\n        "slurm": {"constraint": "knl", "time": "10"},',
        '"slurm": {"constraint": "knl"},\n      "config": {',
        "10:7",
        "metadata.kernel_provisioner.slurm",
        "Move it into metadata.kernel_provisioner.config",
    ),
    "slurm at the top": (
        '"language"',
        '"slurm": {},\n  "language"',
        "4:3",
        "slurm",
        "Move it into metadata.kernel_pro",
    ),
    "a config that is a list": ('"config": {\n', '"config": [1], "x": {\n', "10:7", SLURM[:-6], 'Write "config": {}'),
    "a misspelt Slurm key": ('"constraint"', '"constrain"', "11:19", f"{SLURM}.constrain", "Write constraint."),
    "a Slurm key in a wrong part": (
        '"runtime": "none"',
        '"qos": "debug"',
        "12:23",
        f"{CONTAINER}.qos",
        'object "slurm"',
    ),
    "a part that is not there": ('"container"', '"containr"', "12:9", f"{SLURM[:-6]}.containr", "Write container"),
    "no time": ('"10"', '"10 min"', "11:40", f"{SLURM}.time", "Write Slurm's time"),
    "a number in quotes": ('"time": "10"', '"nodes": "2"', "11:40", f"{SLURM}.nodes", "without quotes"),
    "an option that is ours": (
        '"time": "10"',
        '"extra_args": ["--ntasks=4"]',
        "11:40",
        f"{SLURM}.extra_args",
        "Remove the option",
    ),
    "no such runtime": ('"runtime": "none"', '"runtime": "shiftr"', "12:23", f"{CONTAINER}.runtime", "Write shifter"),
    "an image without a name": (
        '"runtime": "none"',
        '"runtime": "shifter"',
        "12:9",
        f"{CONTAINER}.image",
        "Write an image's name",
    ),
    "a name that is none of an image": (
        '"runtime": "none"',
        '"runtime": "shifter", "image": "docker:busy box"',
        "12:45",
        f"{CONTAINER}.image",
        "docker:nersc/pyhep:2.0",
    ),
    "a volume that Shifter refuses": (
        '"runtime": "none"',
        '"runtime": "shifter", "image": "a", "volumes": ["/tmp:/etc"]',
        "12:59",
        f"{CONTAINER}.volumes",
        "Correct",
    ),
    "no file for the burst buffer": (
        '"time": "10"',
        '"burst_buffer": {"file": "/nosuch/bb"}',
        "11:40",
        f"{SLURM}.burst_buffer",
        "Write the file, or correct its path",
    ),
    "a job template that is not there": (
        '"config": {',
        '"config": {"extends": "nosuch",',
        "10:18",
        "metadata.kernel_provisioner.config.extends",
        "template",
    ),
    "a proxy of another provisioner": (
        "SlurmProcessProxy",
        "LocalProcessProxy",
        "16:7",
        "metadata.process_proxy.class_name",
        "Write farkernel.provisioners.enterprise_gateway.SlurmProcessProxy",
    ),
    "a proxy that is not there": (
        "SlurmProcessProxy",
        "SlrumProcessProxy",
        "16:7",
        "metadata.process_proxy.class_name",
        "Write farkernel.provisioners.enterprise_gateway.SlurmProcessProxy",
    ),
    "a config for the proxy": (
        'SlurmProcessProxy"',
        'SlurmProcessProxy",\n      "config": {"slurm": {}}',
        "17:18",
        "metadata.process_proxy.config.slurm",
        "Move it into metadata.kernel_provisioner.config",
    ),
}


@pytest.fixture
def install(home: Path) -> Callable[..., Path]:
    """Put a kernel.json where Jupyter looks."""

    def put(text: str, name: str = "mine") -> Path:
        folder = home / ".local/share/jupyter/kernels" / name
        folder.mkdir(parents=True)
        (folder / "logo-64x64.png").write_bytes(b"")
        (folder / "kernel.json").write_text(text, encoding="utf-8")
        return folder / "kernel.json"

    return put


@pytest.fixture
def jupyter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find no kernelspecs but this test's."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("JUPYTER_DATA_DIR", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)


def _problems(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is Level.PROBLEM]


def test_a_good_one_is_good(install: Callable[..., Path], jupyter: None) -> None:
    assert [(finding.level, finding.subject) for finding in check_file(install(GOOD))] == [
        (Level.OK, "kernelspec mine")
    ]


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_one_is_told_with_place_key_and_cure(
    broken: Broken, install: Callable[..., Path], jupyter: None
) -> None:
    old, new, where, key, cure = broken
    assert GOOD.count(old) == 1
    file = install(GOOD.replace(old, new))

    problems = _problems(check_file(file))

    at = [finding for finding in problems if finding.where == f"{file}:{where}"]
    assert [finding.key for finding in at] == [key], problems
    assert cure in at[0].advice
    assert at[0].found


def _with(spec: Any, path: Keys, value: object) -> Any:
    if not path:
        return value
    changed = spec.copy()
    changed[path[0]] = _with(spec[path[0]], path[1:], value)
    return changed


@pytest.mark.parametrize("value", [None, 7, True, "-", [], {}, [[]], {"a": {}}, "\ud800", ["\0"]], ids=repr)
def test_whatever_stands_there_is_told_and_no_failure_of_the_check(
    value: object, install: Callable[..., Path], jupyter: None
) -> None:
    spec = json.loads(GOOD)
    file = install(GOOD)
    paths: list[Keys] = [(), *read_json(GOOD).places]
    schema = jsonschema.Draft202012Validator(kernelspec_schema())
    for changed in [*(_with(spec, path, value) for path in paths), {**spec, "\ud800": 1}]:
        file.write_text(json.dumps(changed))
        findings = check_file(file)
        if not schema.is_valid(changed):  # nothing that an editor underlines is good for the check
            assert {finding.level for finding in findings} & {Level.PROBLEM, Level.WARNING}, changed
        for finding in findings:
            assert finding.found
            assert finding.advice or finding.level is Level.OK
            assert f"{finding.subject}{finding.found}{finding.advice}{finding.key}".encode()  # a terminal takes it


def test_the_command_tells_of_one_that_jupyter_hides(farkernel: Farkernel, install: Callable[..., Path]) -> None:
    file = install(GOOD.replace('"10"}', '"10",}'))

    named, every = farkernel("kernelspec", "check", "mine"), farkernel("kernelspec", "check")

    assert (named.returncode, named.stderr) == (1, "")
    assert every.stdout == named.stdout
    assert f"{file}:11:52" in named.stdout
    assert "Remove this comma." in named.stdout


@pytest.mark.parametrize("path", ["kernel.json", "."])
def test_a_path_need_not_be_where_jupyter_looks(farkernel: Farkernel, tmp_path: Path, path: str) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/kernel.json").write_text(GOOD.replace('"Mine"', "7"))

    done = farkernel("kernelspec", "check", str(tmp_path / "here" / path), "--json")

    assert done.returncode == 1
    told = [finding for finding in json.loads(done.stdout) if finding["level"] == "problem"]
    assert told == [
        {
            "level": "problem",
            "subject": "display_name",
            "found": "expected a text, not 7",
            "advice": "Put it in double quotes.",
            "file": str(tmp_path / "here/kernel.json"),
            "line": 3,
            "column": 3,
            "key": "display_name",
        }
    ]


@pytest.mark.parametrize("arguments", [("nosuch",), ("--launch",), ("mine", "--launch", "--dry-run")])
def test_what_cannot_be_meant_is_no_problem_of_a_kernelspec(
    farkernel: Farkernel, install: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    install(GOOD)

    assert farkernel("kernelspec", "check", *arguments).returncode == 2


def test_every_template_is_without_a_problem(farkernel: Farkernel) -> None:
    names = ("cori-haswell", "cori-haswell-shifter", "cori-knl", "cori-knl-shifter", "local")
    for name in names:
        farkernel("kernelspec", "install", name)

    done = farkernel("kernelspec", "check", "--json")

    assert done.returncode == 0
    assert [finding["level"] for finding in json.loads(done.stdout)] == ["ok"] * len(names)


def test_what_the_nodes_may_have_is_a_warning(install: Callable[..., Path], jupyter: None) -> None:
    config = '"kernel": {"cwd": "/nosuch/cwd"}, "launcher": {"python": "/nosuch/python"}, "container"'
    file = install(GOOD.replace('"container"', config).replace("/usr/bin/env", "/nosuch/bin/python"))

    findings = check_file(file)

    assert _problems(findings) == []
    warned = [(finding.where, finding.found) for finding in findings if finding.level is Level.WARNING]
    assert warned == [
        (f"{file}:2:12", "/nosuch/bin/python is no program on this host"),
        (f"{file}:12:20", "/nosuch/cwd is no directory on this host"),
        (f"{file}:12:56", "/nosuch/python is no program on this host"),
    ]


def test_nothing_is_said_of_paths_on_another_host(install: Callable[..., Path], jupyter: None) -> None:
    text = GOOD.replace('"container"', '"login": "alice@cori", "kernel": {"cwd": "/nosuch/cwd"}, "container"')

    (finding,) = check_file(install(text.replace("/usr/bin/env", "/nosuch/bin/python")))

    assert finding.level is Level.OK


def test_what_cannot_start_is_not_tried(farkernel: Farkernel, install: Callable[..., Path]) -> None:
    install(GOOD.replace('"10"', '"10 min"'))

    done = farkernel("kernelspec", "check", "mine", "--dry-run", "--json")

    assert done.returncode == 1
    assert [finding["level"] for finding in json.loads(done.stdout)] == ["problem", "hint"]


def test_a_path_of_this_host_is_not_one_of_the_image(install: Callable[..., Path], jupyter: None) -> None:
    text = GOOD.replace('"runtime": "none"', '"runtime": "shifter", "image": "docker:a:1"')

    (finding, _) = check_file(install(text.replace("/usr/bin/env", "/opt/conda/bin/python")))

    assert (finding.level, finding.key) == (Level.WARNING, "argv.0")
    assert "the kernel runs in an image" in finding.found


def test_a_name_that_two_have_is_a_warning(install: Callable[..., Path], jupyter: None) -> None:
    install(GOOD, "other")

    (finding, _) = check_file(install(GOOD))

    assert (finding.level, finding.key) == (Level.WARNING, "display_name")
    assert "the kernelspec other (" in finding.found


def test_a_directory_that_jupyter_does_not_take(install: Callable[..., Path], jupyter: None) -> None:
    (problem,) = _problems(check_file(install(GOOD, "my kernel")))

    assert "Rename the directory" in problem.advice


def test_a_job_template_that_is_not_valid_is_told_at_its_own_place(
    install: Callable[..., Path], jupyter: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    template = home / ".config/farkernel/templates/short.json"
    template.parent.mkdir(parents=True)
    template.write_text('{"slurm":\n  {"tiem": 5}}')
    file = install(GOOD.replace('"config": {', '"config": {"extends": "short",'))

    (problem,) = _problems(check_file(file))

    assert (problem.where, problem.key) == (f"{template}:2:4", "slurm.tiem")
    assert problem.advice == "Write time."

    template.write_text("")
    (problem,) = _problems(check_file(file))

    assert problem.where == f"{template}:1:1"
    assert problem.advice == 'Write an object: {"slurm": {"qos": …}}.'


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a policy in force."""

    def put(text: str) -> None:
        found = Found(text)
        monkeypatch.setattr("farkernel.provisioners.effective.site_policy", lambda: in_force(found, source="/policy"))

    return put


def test_a_policy_that_is_not_valid_is_told_with_its_own_line(
    install: Callable[..., Path], jupyter: None, policy: Callable[[str], None]
) -> None:
    policy("[maximum]\nnode = 4\n")
    (problem,) = _problems(check_file(install(GOOD)))
    assert (problem.subject, problem.file) == ("policy", "")
    assert "/policy, line 2: maximum.node: unknown key" in problem.found


def test_the_policy_sees_the_variables_of_a_kernelspec(
    install: Callable[..., Path], jupyter: None, policy: Callable[[str], None]
) -> None:
    policy('[allowed]\naccount = ["m1"]\n')
    spec = json.loads(GOOD)
    spec["env"] = {"SLURM_ACCOUNT": "m2"}
    (problem,) = _problems(check_file(install(json.dumps(spec))))
    assert '"m2": allowed.account is m1' in problem.found


def test_what_the_policy_refuses_is_told_at_its_key(
    install: Callable[..., Path], jupyter: None, policy: Callable[[str], None]
) -> None:
    policy('required = ["slurm.account"]\n[maximum]\nnodes = 1\n')
    file = install(
        GOOD.replace('"constraint": "knl"', '"nodes": 3').replace('g": {', 'g": {"allow": {"slurm.account": true},')
    )
    refused = [each for each in check_file(file) if "policy" in each.found]
    assert [(each.level.name, each.subject, each.found) for each in refused] == [
        (
            "WARNING",
            "slurm.account",
            "the site's policy does not allow it: has to be given, or chosen by KERNEL_SLURM_ACCOUNT: "
            "required has slurm.account",
        ),
        ("PROBLEM", "slurm.nodes", "the site's policy does not allow it: 3: maximum.nodes is 1"),
    ]
    assert all("farkernel policy show" in each.advice for each in refused)


def test_what_an_option_asks_for_is_told_in_whole_sentences(
    install: Callable[..., Path], jupyter: None, policy: Callable[[str], None]
) -> None:
    policy('forbidden_options = ["--begin"]\n[allowed]\nqos = ["debug"]\n')
    file = install(GOOD.replace('"time": "10"', '"extra_args": ["--qos=evil", "--begin=now"]'))
    assert [each.found for each in _problems(check_file(file))] == [
        'the site\'s policy does not allow it: "--begin=now": forbidden_options has --begin',
        'the site\'s policy does not allow it: "--qos=evil": "evil": allowed.qos is debug',
    ]


def test_what_the_policy_refuses_is_told_where_it_stands(
    install: Callable[..., Path],
    jupyter: None,
    policy: Callable[[str], None],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy(
        'required = ["slurm.account"]\ndefaults.slurm.partition = "big"\n[allowed]\nqos = ["debug"]\n'
        'account = ["m1"]\npartition = ["small"]\nreservation = ["no"]\n'
    )
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    template = home / ".config/farkernel/templates/long.json"
    template.parent.mkdir(parents=True)
    template.write_text('{"slurm":\n  {"qos": "premium"}}')
    monkeypatch.setenv("SLURM_RESERVATION", "tutorial")
    spec = GOOD.replace('"config": {', '"config": {"extends": "long",')
    file = install(spec.replace('"env": {', '"env": {"SLURM_ACCOUNT": "m2",'))

    found = {each.subject: each for each in _problems(check_file(file))}

    assert {subject: each.where for subject, each in found.items()} == {
        "slurm.qos": f"{template}:2:4",
        "SLURM_RESERVATION": "",
        "env.SLURM_ACCOUNT": f"{file}:6:11",
        "slurm.partition": f"{file}:11:9",
    }
    says = "the site's policy does not allow"
    assert found["slurm.qos"].found == f'{says} it: "premium": allowed.qos is debug'
    assert found["SLURM_RESERVATION"].found == f'{says} it: "tutorial": allowed.reservation is no'
    assert found["SLURM_RESERVATION"].advice.startswith("Unset it, or give slurm.reservation in the kernelspec.")
    assert found["env.SLURM_ACCOUNT"].found == f'{says} it: "m2": allowed.account is m1'
    assert found["slurm.partition"].found == f'{says} its own /policy: defaults: "big": allowed.partition is small'


def test_a_variable_that_is_not_valid_is_no_fault_of_the_file(
    install: Callable[..., Path], jupyter: None, policy: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = install(GOOD)
    monkeypatch.setenv("SLURM_GPUS", "a100")
    assert _problems(check_file(file)) == []  # srun's own matter
    policy("[maximum]\nnodes = 2\n")
    (problem,) = _problems(check_file(file))
    assert (problem.subject, problem.file) == ("SLURM_GPUS", "")
    assert "slurm.gpus: expected" in problem.found
    assert 'not "a100"' in problem.found
    check.check_file(file).refuse()  # it may be written


def test_this_hosts_variables_do_not_count_behind_ssh(
    install: Callable[..., Path], jupyter: None, policy: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy('[allowed]\nqos = ["debug"]\n')
    monkeypatch.setenv("SLURM_QOS", "premium")
    assert [each.subject for each in _problems(check_file(install(GOOD)))] == ["SLURM_QOS"]
    behind = GOOD.replace('"config": {', '"config": {"login": "cori",')
    assert _problems(check_file(install(behind, "behind"))) == []


LOCAL = GOOD.replace("farkernel-slurm", "farkernel-local").replace("SlurmProcess", "LocalProcess")


def test_a_kernelspec_of_this_machine_with_a_login_node_never_starts(
    install: Callable[..., Path], jupyter: None
) -> None:
    (problem,) = _problems(check_file(install(LOCAL.replace('"config": {', '"config": {"login": "cori",'))))
    assert problem.key == "metadata.kernel_provisioner.config.login"
    assert "cori is another host, and farkernel-local runs kernels on this one" in problem.found
    assert problem.advice == "Remove it, or write farkernel-slurm in provisioner_name."


def test_what_a_job_template_asks_of_slurm_means_nothing_on_this_machine(
    install: Callable[..., Path], jupyter: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    template = home / ".config/farkernel/templates/long.json"
    template.parent.mkdir(parents=True)
    template.write_text('{"slurm": {"qos": "premium"}}')
    spec = LOCAL.replace('"slurm": {"constraint": "knl", "time": "10"},', '"extends": "long",')
    told = [each for each in check_file(install(spec)) if "means nothing" in each.found]
    assert [(each.level, each.subject) for each in told] == [(Level.WARNING, "extends")]
    assert f"what {template} has in slurm means nothing to farkernel-local" in told[0].found


def test_a_copy_is_told_under_the_name_of_what_it_becomes(tmp_path: Path, jupyter: None) -> None:
    (tmp_path / "draft").write_text(GOOD.replace('"Mine"', "7"))

    (problem,) = check.check_file(tmp_path / "draft", source=f"{tmp_path}/mine/kernel.json").wrong

    assert problem.where == f"{tmp_path}/mine/kernel.json:3:3"


def test_jupyter_hides_what_is_called_a_problem_of_its_own_keys(install: Callable[..., Path], jupyter: None) -> None:
    """The reader's view: each of these is a kernelspec that is not there, without a word to the user."""
    for number, (old, new) in enumerate([('"signal"', '"SIGINT"'), ("farkernel-slurm", "farkernel-slrum")]):
        file = install(GOOD.replace(old, new), f"hidden{number}")
        there: dict[str, Any] = KernelSpecManager(ensure_native_kernel=False).get_all_specs()
        assert f"hidden{number}" not in there
        assert _problems(check_file(file))


def test_a_launch_tells_when_each_phase_was_reached(farkernel: Farkernel) -> None:
    farkernel("kernelspec", "install", "local")

    done = farkernel("kernelspec", "check", "local", "--launch", "--json")

    subjects = [finding["subject"] for finding in json.loads(done.stdout)]
    assert subjects[1:] == ["submitted", "node given", "launcher up", "kernel up", "first result", "shut down"]
    assert done.returncode == 0


def test_a_kernel_that_does_not_start_is_a_problem(farkernel: Farkernel, install: Callable[..., Path]) -> None:
    text = GOOD.replace("farkernel-slurm", "farkernel-local").replace(
        '"slurm": {"constraint": "knl", "time": "10"},', ""
    )
    install(text.replace("SlurmProcessProxy", "LocalProcessProxy"))  # env -f is no kernel

    done = farkernel("kernelspec", "check", "mine", "--launch", "--json")

    assert done.returncode == 1
    *_, failure, over = json.loads(done.stdout)
    assert (failure["level"], failure["subject"]) == ("problem", "start")
    assert failure["advice"]
    assert over["found"].endswith("nothing is left")
