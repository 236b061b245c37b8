"""`farkernel kernelspec wrap|show|edit|remove|export|import|schema`, as a user runs them."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pexpect  # type: ignore[import-untyped]
import pytest

from farkernel.kernelspecs.model import kernelspec_schema
from farkernel.kernelspecs.templates import load_template, template_names
from tests.ports import free_port

Farkernel = Callable[..., subprocess.CompletedProcess[str]]
ARGV = ["/opt/py/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.fixture
def kernels(home: Path) -> Path:
    """Make a plain kernelspec `plain`, and one of farkernel's, `mine`."""
    folder = home / ".local/share/jupyter/kernels"
    (folder / "plain").mkdir(parents=True)
    spec = {"argv": ARGV, "display_name": "Plain", "language": "python", "env": {"PYTHONPATH": "/a"}}
    (folder / "plain/kernel.json").write_text(json.dumps(spec))
    (folder / "plain/logo-64x64.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def mine(kernels: Path, farkernel: Farkernel) -> Path:
    done = farkernel("kernelspec", "wrap", "plain", "--name", "mine", "--qos", "interactive", "--time", "30")
    assert done.returncode == 0, done.stderr
    return kernels / "mine/kernel.json"


def config(file: Path) -> Any:
    return json.loads(file.read_text())["metadata"]["kernel_provisioner"]["config"]


def test_wrap_takes_every_option(farkernel: Farkernel, kernels: Path) -> None:
    options = (
        "--account a --qos q --partition p --constraint knl --nodes 2 --time 4:00:00 --cpus-per-task 3 --gpus a100:2"
    )
    options += " --mem 4G --reservation r --licenses SCRATCH --image docker:a/b:1 --runtime shifter --volume /x:/y"
    options += (
        " --volume /z:/w:ro --module mpich --login alice@cori --set slurm.job_name=hi --display-name D --python py"
    )

    done = farkernel("kernelspec", "wrap", "plain", "--name", "All", "--json", *options.split())

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(kernels / "all")
    assert config(kernels / "all/kernel.json") == {
        "login": "alice@cori",
        "slurm": {
            "account": "a",
            "qos": "q",
            "partition": "p",
            "constraint": "knl",
            "nodes": 2,
            "time": "4:00:00",
            "cpus_per_task": 3,
            "gpus": "a100:2",
            "mem": "4G",
            "reservation": "r",
            "licenses": "SCRATCH",
            "job_name": "hi",
        },
        "container": {
            "image": "docker:a/b:1",
            "runtime": "shifter",
            "volumes": ["/x:/y", "/z:/w:ro"],
            "modules": ["mpich"],
        },
    }


def test_wrap_from_a_template(farkernel: Farkernel, home: Path, kernels: Path) -> None:
    templates = home / ".config/farkernel/templates"
    templates.mkdir(parents=True)
    (templates / "knl.json").write_text('{"slurm": {"constraint": "knl", "time": "30"}}')

    farkernel("kernelspec", "wrap", "plain", "--name", "t", "--template", "knl", "--time", "10")
    shown = json.loads(farkernel("kernelspec", "show", "t", "--json").stdout)

    assert config(kernels / "t/kernel.json") == {"extends": "knl", "slurm": {"time": "10"}}
    assert {row["key"]: (row["value"], row["from"]) for row in shown["config"]} == {
        "extends": ("knl", str(kernels / "t/kernel.json")),
        "slurm.constraint": ("knl", str(templates / "knl.json")),
        "slurm.time": ("10", str(kernels / "t/kernel.json")),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nix", "--name", "x"], "no kernelspec 'nix'"),
        (["plain", "--name", "x", "--time", "soon"], "slurm.time"),
        (["plain", "--name", "x", "--set", "slurm.tim=3"], "did you mean slurm.time?"),
        (["plain", "--name", "x", "--image", "docker:a b", "--runtime", "shifter"], "container.image"),
        (["plain", "--name", "x", "--runtime", "nix"], 'no container runtime "nix"'),
        (["plain", "--name", "x", "--template", "nix"], 'no job template "nix"'),
        (["plain", "--name", "plain"], "--replace"),
        (["plain", "--name", "a/b"], "cannot be named"),
        (["plain", "--name", "x", "--display-name", "a\nb"], "display_name: a control character"),
        (["plain", "--name", "x" * 300], "cannot be named"),
        (["plain", "--name", "x", "--user", "--sys-prefix"], "choose one of"),
    ],
)
def test_what_cannot_be_wrapped_is_told_and_nothing_written(
    farkernel: Farkernel, kernels: Path, options: list[str], words: str
) -> None:
    done = farkernel("kernelspec", "wrap", *options)

    assert done.returncode
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in kernels.iterdir()] == ["plain"]


def test_show_and_list_say_what_there_is(farkernel: Farkernel, mine: Path) -> None:
    assert "interactive" in farkernel("kernelspec", "show", "mine").stdout
    listed = json.loads(farkernel("kernelspec", "list", "--json").stdout)
    assert [(spec["name"], spec["folder"]) for spec in listed["installed"]] == [("mine", str(mine.parent))]
    assert [template["name"] for template in listed["templates"]] == template_names()


def test_show_says_what_is_wrong(farkernel: Farkernel, mine: Path) -> None:
    mine.write_text(mine.read_text().replace('"30"', '"soon"'))

    done = farkernel("kernelspec", "show", "mine", "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"] == [
        f'{mine}:20:11: slurm.time: it is "soon"\n→ Write Slurm\'s time: minutes, "MM:SS", "HH:MM:SS", '
        '"D-HH", "D-HH:MM" or "D-HH:MM:SS".'
    ]


def test_a_copy_is_chosen_by_its_place(farkernel: Farkernel, mine: Path, tmp_path: Path) -> None:
    at = ["--prefix", str(tmp_path / "p")]
    farkernel("kernelspec", "wrap", "plain", "--name", "mine", "--qos", "debug", *at)

    assert farkernel("kernelspec", "remove", "mine", "--yes", *at).returncode == 0
    assert mine.exists()
    assert farkernel("kernelspec", "remove", "mine", "--yes", *at).returncode == 1


def test_remove_asks_and_takes_no_others(farkernel: Farkernel, mine: Path, kernels: Path) -> None:
    assert "Give --yes" in farkernel("kernelspec", "remove", "mine").stderr
    assert "no farkernel kernelspec 'plain'" in farkernel("kernelspec", "remove", "plain", "--yes").stderr
    assert mine.exists()

    assert farkernel("kernelspec", "remove", "mine", "--yes").returncode == 0
    assert [path.name for path in kernels.iterdir()] == ["plain"]


def _editor(tmp_path: Path, code: str) -> str:
    script = tmp_path / "an editor.py"
    script.write_text(
        f"import sys; from pathlib import Path; file = Path(sys.argv[1]); text = file.read_text()\n{code}\n"
    )
    return f"{sys.executable} '{script}'"


def test_edit_saves_what_is_valid(farkernel: Farkernel, mine: Path, tmp_path: Path) -> None:
    mine.chmod(0o640)
    done = farkernel("kernelspec", "edit", "mine", EDITOR="false", VISUAL=_editor(tmp_path, CHANGE))

    assert done.returncode == 0
    assert done.stderr == "argv.0: /opt/py/bin/python is no program on this host\n→ See that the nodes have it, or" + (
        " correct the path.\n"
    )
    assert config(mine)["slurm"] == {"qos": "debug", "time": "30"}
    assert mine.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in mine.parent.iterdir()) == ["kernel.json", "logo-64x64.png"]


CHANGE = "file.write_text(text.replace('interactive', 'debug'))"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("file.write_text(text.replace('interactive', ''))", "kernel.json:19:11: slurm.qos: "),
        ("file.write_text(text.replace(',', '', 1))", "kernel.json:4:5: not JSON: "),
        ("file.write_text('[]')", "kernel.json:1:1: "),
        (f"{CHANGE}; sys.exit(3)", "ended with code 3"),
    ],
)
def test_edit_keeps_what_is_not_valid_beside(
    farkernel: Farkernel, mine: Path, tmp_path: Path, code: str, words: str
) -> None:
    before = mine.read_text()

    done = farkernel("kernelspec", "edit", "mine", EDITOR=_editor(tmp_path, code), TMPDIR=str(tmp_path))

    assert done.returncode == 1
    assert words in done.stderr
    assert mine.read_text() == before
    (kept,) = tmp_path.glob("farkernel-edit-*/kernel.json")
    assert str(kept) in done.stderr
    assert kept.read_text() != before


@pytest.mark.parametrize(("editor", "words"), [("nosucheditor", "nosucheditor"), ("'", "is no command")])
def test_edit_without_an_editor(farkernel: Farkernel, mine: Path, tmp_path: Path, editor: str, words: str) -> None:
    done = farkernel("kernelspec", "edit", "mine", EDITOR=editor, TMPDIR=str(tmp_path))

    assert done.returncode == 1
    assert words in done.stderr
    assert list(tmp_path.glob("farkernel-edit-*")) == []


def test_edit_does_not_write_over_what_another_one_has_changed(
    farkernel: Farkernel, mine: Path, tmp_path: Path
) -> None:
    code = f"{CHANGE}; Path({str(mine)!r}).write_text(text + ' ')"

    done = farkernel("kernelspec", "edit", "mine", EDITOR=_editor(tmp_path, code), TMPDIR=str(tmp_path))

    assert "Somebody else has changed" in done.stderr
    assert config(mine)["slurm"]["qos"] == "interactive"
    assert len(list(tmp_path.glob("farkernel-edit-*"))) == 1


@pytest.mark.parametrize(("answer", "qos"), [("y", "debug"), ("n", "interactive")])
def test_edit_asks_on_a_terminal(home: Path, mine: Path, tmp_path: Path, answer: str, qos: str) -> None:
    code = "new = text.replace('interactive', '') if 'interactive' in text else text.replace('\"\"', '\"debug\"')\n"
    code += "file.write_text(new)"
    env = {**os.environ, "HOME": str(home), "EDITOR": _editor(tmp_path, code), "TMPDIR": str(tmp_path)}
    terminal = pexpect.spawn(
        sys.executable, ["-m", "farkernel.provisioners.cli", "kernelspec", "edit", "mine"], env=env, timeout=60
    )
    terminal.expect("slurm.qos: ")
    terminal.expect("Edit it again")
    terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    terminal.close()

    assert terminal.exitstatus == 0
    assert config(mine)["slurm"]["qos"] == qos
    assert list(tmp_path.glob("farkernel-edit-*")) == []


def test_export_and_import(farkernel: Farkernel, mine: Path, kernels: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "mine.json")
    assert farkernel("kernelspec", "export", "mine", file).returncode == 0
    assert "--replace" in farkernel("kernelspec", "export", "mine", file).stderr
    assert farkernel("kernelspec", "export", "mine").stdout == Path(file).read_text()
    assert "--replace" in farkernel("kernelspec", "import", file).stderr

    done = farkernel("kernelspec", "import", file, "--name", "yours", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["argv"] == ARGV
    assert (kernels / "yours/kernel.json").read_text() == mine.read_text()
    assert (kernels / "yours/logo-64x64.png").read_bytes() == b"\x89PNG"


def test_import_of_what_is_not_valid_writes_nothing(farkernel: Farkernel, mine: Path, kernels: Path) -> None:
    whole = json.loads(farkernel("kernelspec", "export", "mine").stdout)
    changes: list[dict[str, Any]] = [{"argv": []}, {"metadata": {}}, {"env": {"A": 1}}]
    for change in changes:
        file = kernels.parent / "bad.json"
        file.write_text(json.dumps(whole | {"name": "bad", "spec": whole["spec"] | change}))
        done = farkernel("kernelspec", "import", str(file))
        assert done.returncode == 1
        assert f"{file}: {next(iter(change))}" in done.stderr
    assert sorted(path.name for path in kernels.iterdir()) == ["mine", "plain"]


def test_the_schema_takes_the_templates(farkernel: Farkernel) -> None:
    schema = json.loads(farkernel("kernelspec", "schema").stdout)

    assert schema == kernelspec_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in template_names():
        jsonschema.validate(load_template(name).spec, schema)
    spec = load_template("cori-knl").spec
    spec["metadata"]["kernel_provisioner"]["config"]["slurm"]["nodes"] = "2"
    assert not jsonschema.Draft202012Validator(schema).is_valid(spec)
    config_schema = json.loads(farkernel("kernelspec", "schema", "--config-only").stdout)
    jsonschema.validate(load_template("cori-knl-shifter").config, config_schema)


def test_a_server_shows_logos_and_metadata_of_a_wrapped_kernelspec(
    farkernel: Farkernel, home: Path, kernels: Path
) -> None:
    file = kernels / "plain/kernel.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "metadata": {"debugger": True}}))
    farkernel("kernelspec", "wrap", "plain", "--name", "mine", "--constraint", "knl")
    port = free_port()
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter_server", f"--port={port}", "--port-retries=0", "--ip=127.0.0.1"),
            *("--no-browser", "--allow-root", "--IdentityProvider.token=t"),
        ],
        env={**os.environ, "HOME": str(home)},
        cwd=home,
        stderr=subprocess.DEVNULL,
    )
    try:
        shown = _kernelspecs(server, port)["mine"]
    finally:
        server.kill()
        server.wait()

    assert shown["spec"]["metadata"]["debugger"] is True
    assert shown["spec"]["display_name"] == "Plain on knl"
    assert shown["resources"]["logo-64x64"] == "/kernelspecs/mine/logo-64x64.png"


def _kernelspecs(server: subprocess.Popen[bytes], port: int) -> Any:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/kernelspecs?token=t", timeout=60) as answer:
                return json.load(answer)["kernelspecs"]
        except urllib.error.URLError:
            assert server.poll() is None
            time.sleep(0.2)
