"""`farkernel run`: what it starts, with which choices."""

import json
import sys
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager
from typer.testing import CliRunner

from farkernel.provisioners.cli.app import app
from farkernel.provisioners.cli.run import program, variables
from farkernel.provisioners.errors import FarkernelError, PolicyRefused, RequestError
from farkernel.provisioners.policy_file import Found, in_force
from tests.provisioners.cli.conftest import Farkernel

JUPYTER = [sys.executable, "-P", "-m", "jupyter"]


def test_the_program_is_one_of_jupyters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.R", "a.ipynb", "b.ipynb"):
        Path(name).touch()
    assert program("knl", []) == [*JUPYTER, "console", "--kernel", "knl"]
    assert program("knl", [Path("a.py"), Path("b.R")]) == [*JUPYTER, "run", "--kernel", "knl", "a.py", "b.R"]
    assert program("knl", [Path("a.ipynb")]) == [*JUPYTER, "execute", "--inplace", "--kernel_name=knl", "a.ipynb"]
    with pytest.raises(FarkernelError, match="by themselves"):
        program("knl", [Path("a.py"), Path("b.ipynb")])


def test_no_kernel_is_started_for_a_file_that_is_not_there(
    farkernel: Farkernel, far: dict[str, str], home: Path
) -> None:
    there = home / "a.py"
    there.write_text("print('it ran')")
    for names in (["none.py"], ["none.ipynb"], [str(there), str(home)]):
        done = farkernel("run", "far", *names, **far)
        assert done.returncode == 1
        assert f"There is no file {names[-1]}: no kernel was started." in done.stderr
        assert "Traceback" not in done.stderr
        assert "it ran" not in done.stdout


def test_options_are_the_variables_of_one_start() -> None:
    config = {"slurm": {"time": "30", "nodes": 2, "extra_args": ["--x"]}, "container": {"image": "a"}}
    assert variables(config) == {
        "KERNEL_SLURM_TIME": "30",
        "KERNEL_SLURM_NODES": "2",
        "KERNEL_SLURM_EXTRA_ARGS": '["--x"]',
        "KERNEL_CONTAINER_IMAGE": "a",
    }
    with pytest.raises(RequestError, match=r"slurm[.]tiem cannot be chosen; did you mean slurm[.]time"):
        variables({"slurm": {"tiem": "30"}})
    with pytest.raises(RequestError, match="login cannot be chosen"):
        variables({"login": "x"})


@pytest.fixture
def far(home: Path) -> dict[str, str]:
    """A kernelspec of this machine, and the environment in which it is found."""
    folder = home / "jupyter" / "kernels" / "far"
    folder.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Far",
        "language": "python",
        "metadata": {
            "kernel_provisioner": {
                "provisioner_name": "farkernel-local",
                "config": {"allow": {"kernel.cwd": ["/usr/*"]}},
            }
        },
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    return {"JUPYTER_PATH": str(home / "jupyter"), "IPYTHONDIR": str(home / "ipython")}


def test_a_script_runs_with_what_was_chosen(farkernel: Farkernel, far: dict[str, str], home: Path) -> None:
    script = home / "script.py"
    script.write_text("import os; print('in', os.getcwd())")
    done = farkernel("run", "far", str(script), "--set", "kernel.cwd=/usr/bin", **far)
    assert done.returncode == 0, done.stderr
    assert "in /usr/bin" in done.stdout


def test_what_the_program_says_is_what_is_told(farkernel: Farkernel, far: dict[str, str], home: Path) -> None:
    script = home / "script.py"
    script.write_text("1")
    refused = farkernel("run", "far", str(script), "--time", "30", **far)
    assert refused.returncode != 0
    assert 'KERNEL_SLURM_TIME="30"' in refused.stderr
    assert "does not list slurm.time under allow" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_variable_that_is_no_text_is_told_before_jupyters_program_is_started(
    farkernel: Farkernel, far: dict[str, str], home: Path
) -> None:
    file = home / "jupyter/kernels/far/kernel.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "env": {"OMP_NUM_THREADS": 4}}))
    done = farkernel("run", "far", **far)
    assert done.returncode == 1
    assert "kernel.json: env.OMP_NUM_THREADS: expected a text, not 4" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sites_policy_refuses_it_in_the_words_of_a_start(
    far: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Found('required = ["container.image"]\n[allowed]\nruntime = ["shifter"]\n')
    monkeypatch.setattr("farkernel.provisioners.effective.site_policy", lambda: in_force(policy, source="/policy"))
    for name, value in far.items():
        monkeypatch.setenv(name, value)
    (home / "script.py").touch()
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("it was started"))
    with pytest.raises(PolicyRefused) as started:
        KernelManager(kernel_name="far").start_kernel()

    refused = CliRunner().invoke(app, ["run", "far", str(home / "script.py")])
    assert isinstance(refused.exception, PolicyRefused)
    assert str(refused.exception) == str(started.value)
    assert "container.image: has to be given" in str(started.value)
    assert 'container.runtime: "none": allowed.runtime is shifter' in str(started.value)


def test_a_login_node_that_the_policy_refuses_is_not_looked_for(
    far: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Found('[allowed]\nlogin = ["cori*"]\n')
    monkeypatch.setattr("farkernel.provisioners.effective.site_policy", lambda: in_force(policy, source="/policy"))
    for name, value in far.items():
        monkeypatch.setenv(name, value)
    file = home / "jupyter/kernels/far/kernel.json"
    config = {"provisioner_name": "farkernel-slurm", "config": {"login": "nowhere.invalid"}}
    file.write_text(json.dumps({**json.loads(file.read_text()), "metadata": {"kernel_provisioner": config}}))
    with pytest.raises(PolicyRefused, match=r'"nowhere[.]invalid": allowed[.]login is cori\*'):
        KernelManager(kernel_name="far").start_kernel()


def test_a_kernelspec_of_somebody_elses_would_not_heed_choices(farkernel: Farkernel, far: dict[str, str]) -> None:
    done = farkernel("run", "python3", **far)
    assert done.returncode == 1
    assert "There is no farkernel kernelspec 'python3'." in done.stderr
