"""Any installed kernelspec becomes one for compute nodes, and nothing of it is lost."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from farkernel.kernelspecs.existing import find_existing
from farkernel.kernelspecs.install import write
from farkernel.kernelspecs.wrapping import Wrapped, this_python, wrap
from farkernel.provisioners.errors import FarkernelError, RequestError

IMAGE = {"container": {"image": "docker:a/b:1"}}
SLURM = {"slurm": {"constraint": "knl", "qos": "interactive", "time": "4:00:00"}}
ARGV = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give Jupyter a user's directory of its own."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    return tmp_path / "data"


def kernelspec(folder: Path, *, argv: list[str] | None = None, **more: Any) -> Path:
    folder.mkdir(parents=True)
    spec = {"argv": argv or ["/opt/env/bin/python", *ARGV], "display_name": "Mine", "language": "python", **more}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return folder


def wrapped(name: str | Path, changes: dict[str, Any] | None = None, **more: Any) -> Wrapped:
    changes = SLURM if changes is None else changes
    return wrap(find_existing(str(name)), changes, here=this_python(), runtime=lambda: "shifter", **more)


def config(of: Wrapped) -> Any:
    return of.content.spec["metadata"]["kernel_provisioner"]["config"]


def test_all_is_kept(data: Path) -> None:
    env = {"LD_LIBRARY_PATH": "/usr/common/lib", "PYTHONPATH": "/usr/common/py"}
    metadata = {"debugger": True, "vendor": {"a": 1}}
    folder = kernelspec(
        data / "kernels/mine",
        argv=["{resource_dir}/start.sh", "{prefix}", "{connection_file}"],
        env=env,
        interrupt_mode="message",
        metadata=metadata,
        mimetype="text/x-mine",
    )
    (folder / "logo-64x64.png").write_bytes(b"\x89PNG\0")
    (folder / "lib").mkdir()
    (folder / "lib/more.txt").write_text("more")
    (folder / "start.sh").write_text("#!/bin/sh")
    (folder / "start.sh").chmod(0o755)

    written = write(wrapped("mine").content, "far")

    spec = KernelSpecManager().get_kernel_spec("far")
    assert spec.argv == ["{resource_dir}/start.sh", "{prefix}", "{connection_file}"]
    assert (spec.env, spec.interrupt_mode, spec.mimetype) == (env, "message", "text/x-mine")
    assert spec.metadata == metadata | {
        "kernel_provisioner": {"provisioner_name": "farkernel-slurm", "config": SLURM},
        "process_proxy": {"class_name": "farkernel.provisioners.enterprise_gateway.SlurmProcessProxy"},
    }
    assert spec.display_name == "Mine on knl"
    assert (written / "logo-64x64.png").read_bytes() == b"\x89PNG\0"
    assert (written / "lib/more.txt").read_text() == "more"
    assert (written / "start.sh").stat().st_mode & 0o111
    assert not (written / "logo-64x64.png").stat().st_mode & 0o111
    assert json.loads((folder / "kernel.json").read_text())["metadata"] == metadata


@pytest.mark.parametrize("name", ["python", "python3", f"python3.{sys.version_info.minor}"])
def test_a_bare_python_is_what_jupyter_means_by_it(data: Path, name: str) -> None:
    kernelspec(data / "kernels/bare", argv=[name, *ARGV])

    assert wrapped("bare").content.spec["argv"] == [sys.executable, *ARGV]
    assert sys.executable in wrapped("bare").remarks[0]
    in_image = wrapped("bare", IMAGE)
    assert in_image.content.spec["argv"][0] == ("python3" if name == "python" else name)
    assert "the image's own" in in_image.remarks[0]
    assert wrapped("bare", {"login": "alice@cori"}).content.spec["argv"][0] == name


def test_another_bare_command_stays(data: Path) -> None:
    kernelspec(data / "kernels/r", argv=["R", "--slave", "{connection_file}"])

    assert wrapped("r").content.spec["argv"][0] == "R"
    assert wrapped("r").remarks == ()


def test_the_python_of_an_environment_whose_folder_is_named(tmp_path: Path) -> None:
    folder = kernelspec(tmp_path / "env/share/jupyter/kernels/python3", argv=["python", *ARGV])
    (tmp_path / "env/bin").mkdir()
    (tmp_path / "env/bin/python").symlink_to(sys.executable)

    assert wrapped(folder).content.spec["argv"][0] == str(tmp_path / "env/bin/python")
    assert wrapped(folder / "kernel.json").content.spec["argv"][0] == str(tmp_path / "env/bin/python")


def test_the_kernelspec_that_jupyter_makes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelSpecManager, "kernel_dirs", [])

    native = wrapped("python3")

    assert native.content.spec["argv"][0] == sys.executable
    assert native.content.spec["metadata"]["debugger"] is True
    assert "logo-64x64.png" in native.content.files
    assert wrapped("python3", IMAGE).content.spec["argv"][0] == "python3"


MANAGER = """
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
class Found(KernelSpecManager):
    def find_kernel_specs(self):
        return super().find_kernel_specs() | {"conda-env-a": FOLDER}
    def get_kernel_spec(self, name):
        if name != "conda-env-a":
            return super().get_kernel_spec(name)
        spec = KernelSpec.from_resource_dir(FOLDER)
        spec.argv = ["/conda/run", "/conda/envs/a", *spec.argv]
        spec.display_name = "Python [conda env:a]"
        return spec
"""


def test_a_kernelspec_that_only_a_configured_manager_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kernelspec(tmp_path / "a")
    (folder / "logo-svg.svg").write_text("<svg/>")
    (tmp_path / "found_by_me.py").write_text(f"FOLDER = {str(folder)!r}\n{MANAGER}")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = {"ServerApp": {"kernel_spec_manager_class": "found_by_me.Found"}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config/jupyter_server_config.json").write_text(json.dumps(chosen))

    found = wrapped("conda-env-a")

    assert found.content.spec["argv"] == ["/conda/run", "/conda/envs/a", "/opt/env/bin/python", *ARGV]
    assert found.content.spec["display_name"] == "Python [conda env:a] on knl"
    assert found.content.files["logo-svg.svg"].content == b"<svg/>"


def test_one_of_farkernels_own_keeps_what_is_not_changed(data: Path) -> None:
    kernelspec(data / "kernels/mine", metadata={"kernel_provisioner": {"provisioner_name": "local-provisioner"}})
    write(wrapped("mine").content, "far")

    again = wrapped("far", {"slurm": {"qos": "debug"}, **IMAGE})

    assert config(again) == {
        "slurm": {**SLURM["slurm"], "qos": "debug"},
        "container": {"image": "docker:a/b:1", "runtime": "shifter"},
    }
    assert again.content.spec["display_name"] == "Mine on knl"
    assert "which the image has to have" in again.remarks[0]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"kernel_provisioner": {"provisioner_name": "pbs"}}, "another provisioner, pbs"),
        ({"kernel_provisioner": []}, None),
        ({"kernel_provisioner": "x"}, "expected objects"),
        ({"process_proxy": {"class_name": "a.k8s.KubernetesProcessProxy"}}, "another process proxy"),
    ],
)
def test_what_another_one_starts_is_refused(tmp_path: Path, metadata: dict[str, Any], words: str | None) -> None:
    folder = kernelspec(tmp_path / "x", metadata=metadata)

    if words is None:
        assert config(wrapped(folder)) == SLURM
        return
    with pytest.raises(FarkernelError, match=words):
        wrapped(folder)


def test_what_is_no_kernelspec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FarkernelError, match=r"kernel\.json: there is no such file"):
        find_existing(str(tmp_path))
    (tmp_path / "kernel.json").write_text("{")
    with pytest.raises(FarkernelError, match="not JSON"):
        find_existing(str(tmp_path))
    (tmp_path / "kernel.json").write_text("{}")
    with pytest.raises(FarkernelError, match="argv"):
        wrapped(tmp_path)
    with pytest.raises(FarkernelError, match="no kernelspec 'nix'"):
        find_existing("nix")


def test_what_is_asked_for_is_checked(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"slurm\.time"):
        wrapped(kernelspec(tmp_path / "x"), {"slurm": {"time": "soon"}})


def test_one_of_this_machine_that_is_to_run_in_jobs_is_named_so(data: Path) -> None:
    metadata = {"kernel_provisioner": {"provisioner_name": "farkernel-local", "config": {}}}
    folder = kernelspec(data / "local", metadata=metadata, display_name="Local")
    assert wrapped(folder, {"slurm": {"time": "10"}}).content.spec["display_name"] == "Local on Slurm"
    metadata["kernel_provisioner"]["provisioner_name"] = "farkernel-slurm"
    folder = kernelspec(data / "knl", metadata=metadata, display_name="KNL")
    assert wrapped(folder, {"slurm": {"time": "10"}}).content.spec["display_name"] == "KNL"
