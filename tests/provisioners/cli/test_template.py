"""`farkernel template`, as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect  # type: ignore[import-untyped]
import pytest

Farkernel = Callable[..., subprocess.CompletedProcess[str]]


def _template(home: Path, name: str) -> Any:
    return json.loads((home / ".config/farkernel/templates" / f"{name}.json").read_text())


def _config(home: Path, name: str) -> Any:
    content = json.loads((home / ".local/share/jupyter/kernels" / name / "kernel.json").read_text())
    return content["metadata"]["kernel_provisioner"]["config"]


def _refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr


def test_options_become_a_template(farkernel: Farkernel, home: Path) -> None:
    options = ["--qos", "interactive", "--constraint", "knl", "--time", "4:00:00", "--nodes", "2"]
    options += ["--runtime", "shifter", "--image", "docker:nersc/pyhep:2.0", "--set", "job.max_wait=30m"]

    done = farkernel("template", "save", "knl", *options)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Saved the job template knl in {home}/.config/farkernel/templates/knl.json\n"
    assert _template(home, "knl") == {
        "slurm": {"qos": "interactive", "constraint": "knl", "time": "4:00:00", "nodes": 2},
        "container": {"runtime": "shifter", "image": "docker:nersc/pyhep:2.0"},
        "job": {"max_wait": "30m"},
    }


def test_a_kernelspec_becomes_a_template_with_changes(farkernel: Farkernel, home: Path) -> None:
    farkernel("kernelspec", "install", "cori-knl-shifter", "--name", "mine")

    assert farkernel("template", "save", "long", "--kernel", "mine", "--time", "8:00:00").returncode == 0

    assert _template(home, "long") == {
        **_config(home, "mine"),
        "slurm": {**_config(home, "mine")["slurm"], "time": "8:00:00"},
    }


def test_a_template_of_a_kernelspec_that_extends_one_is_whole(farkernel: Farkernel, home: Path) -> None:
    farkernel("template", "save", "base", "--qos", "debug", "--set", "slurm.mem=4G")
    farkernel("kernelspec", "install", "cori-knl", "--name", "mine", "--qos", "interactive")
    farkernel("template", "apply", "base", "mine")

    farkernel("template", "save", "copy", "--kernel", "mine")

    assert _template(home, "copy")["slurm"] == {**_config(home, "mine")["slurm"], "mem": "4G"}
    assert "extends" not in _template(home, "copy")


def test_apply_has_a_kernelspec_extend_it_and_keeps_the_rest(farkernel: Farkernel, home: Path) -> None:
    farkernel("template", "save", "base", "--account", "m1234")
    farkernel("kernelspec", "install", "cori-knl", "--name", "mine")
    before = json.loads((home / ".local/share/jupyter/kernels/mine/kernel.json").read_text())

    done = farkernel("template", "apply", "base", "mine")

    assert (done.returncode, done.stderr) == (0, "")
    assert "mine extends the job template base now" in done.stdout
    after = json.loads((home / ".local/share/jupyter/kernels/mine/kernel.json").read_text())
    assert after["metadata"]["kernel_provisioner"]["config"].pop("extends") == "base"
    assert after == before
    assert [file.name for file in (home / ".local/share/jupyter/kernels/mine").iterdir() if "new" in file.name] == []


def test_apply_says_what_is_in_force_and_what_hides_the_templates_values(farkernel: Farkernel, home: Path) -> None:
    base = home / ".config/farkernel/templates/base.json"
    mine = home / ".local/share/jupyter/kernels/mine/kernel.json"
    farkernel("template", "save", "base", "--account", "m1", "--qos", "debug", "--nodes", "1")
    farkernel("kernelspec", "install", "cori-knl", "--name", "mine")

    table = farkernel("template", "apply", "base", "mine")
    told = json.loads(farkernel("template", "apply", "base", "mine", "--json").stdout)

    assert "The kernelspec's own values of slurm.qos win over the job template's; --drop-own" in table.stderr
    assert (told["file"], told["dropped"]) == (str(mine), [])
    assert {row["key"]: (row["value"], row["from"], row["hides"]) for row in told["asks"]} == {
        "extends": ("base", str(mine), None),
        "slurm.account": ("m1", str(base), None),
        "slurm.qos": ("interactive", str(mine), "debug"),
        "slurm.nodes": (1, str(mine), None),
        "slurm.constraint": ("knl", str(mine), None),
        "slurm.time": ("4:00:00", str(mine), None),
    }


def test_apply_drops_the_kernelspecs_own_keys_when_told_to(farkernel: Farkernel, home: Path) -> None:
    farkernel("template", "save", "base", "--qos", "debug", "--nodes", "1")
    farkernel("kernelspec", "install", "cori-knl", "--name", "mine")

    done = farkernel("template", "apply", "base", "mine", "--drop-own")

    assert "Removed from it: slurm.nodes, slurm.qos\n" in done.stdout
    assert done.stderr == ""
    assert _config(home, "mine") == {"slurm": {"constraint": "knl", "time": "4:00:00"}, "extends": "base"}


def test_apply_to_a_copy_that_is_chosen_by_its_place(farkernel: Farkernel, home: Path, tmp_path: Path) -> None:
    at = ["--prefix", str(tmp_path)]
    farkernel("template", "save", "base", "--qos", "debug")
    for place in ([], at):
        farkernel("kernelspec", "install", "cori-knl", "--name", "mine", *place)

    assert farkernel("template", "apply", "base", "mine", *at).returncode == 0

    assert "extends" not in _config(home, "mine")
    assert '"extends": "base"' in (tmp_path / "share/jupyter/kernels/mine/kernel.json").read_text()


def test_list_and_show(farkernel: Farkernel, home: Path) -> None:
    assert "There is no job template" in farkernel("template", "list").stdout
    assert farkernel("template", "list", "--json").stdout == "[]\n"
    farkernel("template", "save", "base", "--qos", "debug")
    farkernel("template", "save", "more", "--extends", "base", "--nodes", "2")
    (home / ".config/farkernel/templates/broken.json").write_text("{")

    table = farkernel("template", "list").stdout
    rows = {row["name"]: row for row in json.loads(farkernel("template", "list", "--json").stdout)}

    assert "slurm.qos debug, slurm.nodes 2" in table
    assert "not JSON" in table
    assert rows["more"]["asks"] == {"slurm.qos": "debug", "slurm.nodes": 2}
    assert (rows["more"]["whose"], rows["more"]["hidden"], rows["more"]["flaw"]) == ("yours", False, "")
    assert "not JSON" in rows["broken"]["flaw"]
    shown = json.loads(farkernel("template", "show", "more", "--json").stdout)
    assert shown["config"] == {"slurm": {"qos": "debug", "nodes": 2}}
    assert {row["key"]: row["from"].rpartition("/")[2] for row in shown["asks"]} == {
        "extends": "more.json",
        "slurm.qos": "base.json",
        "slurm.nodes": "more.json",
    }
    assert "base.json" in farkernel("template", "show", "more").stdout


def test_remove(farkernel: Farkernel, home: Path) -> None:
    farkernel("template", "save", "base", "--qos", "debug")

    refused = _refused(farkernel("template", "remove", "base"))
    done = farkernel("template", "remove", "base", "--yes")

    assert "nobody can be asked.\nGive --yes." in refused
    assert (done.returncode, done.stderr) == (0, "")
    assert list((home / ".config/farkernel/templates").iterdir()) == []


def test_remove_names_those_that_extend_it(farkernel: Farkernel) -> None:
    farkernel("template", "save", "base", "--qos", "debug")
    farkernel("template", "save", "more", "--template", "base", "--nodes", "2")
    farkernel("kernelspec", "install", "cori-knl", "--name", "mine", "--template", "more")
    users = "the kernelspec mine, the job template more"

    assert f"It is extended by {users}." in _refused(farkernel("template", "remove", "base"))
    told = json.loads(farkernel("template", "remove", "base", "--yes", "--json").stdout)

    assert told["extended_by"] == users.split(", ")
    assert "until there is a job template base again" in told["warnings"][0]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_remove_asks_on_a_terminal(farkernel: Farkernel, home: Path, answer: str) -> None:
    farkernel("template", "save", "base", "--qos", "debug")
    argv = ["-m", "farkernel.provisioners.cli", "template", "remove", "base"]
    terminal = pexpect.spawn(sys.executable, argv, env={**os.environ, "HOME": str(home)}, timeout=60)
    terminal.expect("Remove the job template base")
    terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    terminal.close()

    assert (home / ".config/farkernel/templates/base.json").exists() is (answer == "n")
    assert terminal.exitstatus == (1 if answer == "n" else 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["save", "x"], "The job template would be empty."),
        (
            ["save", "x", "--set", "slurm.nods=2"],
            "options: slurm.nods: unknown key (value 2); did you mean",
        ),
        (["save", "x", "--set", "nodes"], "--set: expected KEY=VALUE"),
        (["save", "x", "--kernel", "nobody"], "There is no farkernel kernelspec 'nobody'"),
        (["save", "x", "--template", "nobody"], 'the job template "x": extends: there is no job template "nobody"'),
        (["show", "nobody"], 'There is no job template "nobody"'),
        (["remove", "nobody"], 'There is no job template "nobody"'),
        (["apply", "nobody", "mine"], 'There is no job template "nobody"'),
    ],
)
def test_what_cannot_be_is_refused(farkernel: Farkernel, home: Path, arguments: list[str], expected: str) -> None:
    assert expected in _refused(farkernel("template", *arguments))
    assert not (home / ".config").exists()


def test_one_of_that_name_is_not_overwritten(farkernel: Farkernel, home: Path) -> None:
    farkernel("template", "save", "x", "--qos", "debug")

    assert "There is already a job template" in _refused(farkernel("template", "save", "x", "--qos", "regular"))
    assert farkernel("template", "save", "x", "--qos", "regular", "--replace").returncode == 0

    assert _template(home, "x") == {"slurm": {"qos": "regular"}}


def test_apply_refuses_what_would_not_be_valid(farkernel: Farkernel, home: Path) -> None:
    farkernel("kernelspec", "install", "cori-knl", "--name", "mine")
    farkernel("template", "save", "image", "--set", "container.image=docker:x")
    before = _config(home, "mine")

    assert "container" in _refused(farkernel("template", "apply", "image", "mine"))

    assert _config(home, "mine") == before
