"""Kernelspecs written where Jupyter looks, and read back by Jupyter."""

import copy
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from farkernel.kernelspecs.install import installed, is_on_jupyter_path, write
from farkernel.kernelspecs.templates import Template, load_template
from farkernel.provisioners.errors import FarkernelError, RequestError


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give Jupyter a user's directory of its own."""
    folder = tmp_path / "data"
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    return folder


def install(template: Template, name: str = "", **more: Any) -> Path:
    return write(template.content, name or template.name, **more)


def changed(name: str, **slurm: str) -> Template:
    template = load_template(name)
    template.config["slurm"].update(slurm)
    return template


@pytest.mark.parametrize("name", ["cori-haswell", "cori-knl", "cori-knl-shifter", "local"])
def test_jupyter_finds_what_was_installed_for_the_user(name: str, data: Path) -> None:
    template = load_template(name)

    folder = install(template)

    assert folder == data / "kernels" / name
    spec = KernelSpecManager().get_kernel_spec(name)
    assert spec.resource_dir == str(folder)
    expected = copy.deepcopy(template.spec)
    expected["metadata"]["kernel_provisioner"].setdefault("config", {})  # as Jupyter does
    assert {key: spec.to_dict()[key] for key in expected} == expected
    logos = {name: file.content for name, file in template.content.files.items()}
    assert {file.name: file.read_bytes() for file in folder.glob("logo-*")} == logos
    assert is_on_jupyter_path(folder)


def test_a_prefix_is_a_place_of_its_own(tmp_path: Path, data: Path) -> None:
    folder = install(load_template("local"), name="Mine", prefix=tmp_path / "prefix")

    assert folder == tmp_path / "prefix/share/jupyter/kernels/mine"
    assert not is_on_jupyter_path(folder)
    assert not data.exists()
    manager = KernelSpecManager(kernel_dirs=[str(folder.parent)])
    assert manager.get_kernel_spec("mine").display_name == "Local (farkernel)"


def test_an_existing_kernelspec_is_not_touched() -> None:
    folder = install(load_template("local"))
    (folder / "mine.txt").write_text("keep")

    with pytest.raises(FarkernelError, match=r"already a kernelspec 'local'.*\n.*--replace"):
        install(load_template("local"))

    assert (folder / "mine.txt").read_text() == "keep"


def test_replace_overwrites() -> None:
    install(load_template("cori-knl"))

    install(changed("cori-knl", account="m1234"), replace=True)

    assert installed()[0].config["slurm"]["account"] == "m1234"


def test_a_link_is_not_followed_even_when_replacing(tmp_path: Path, data: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (data / "kernels").mkdir(parents=True)
    (data / "kernels/local").symlink_to(target)

    with pytest.raises(FarkernelError, match="is a link"):
        install(load_template("local"), replace=True)

    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../x", "a b", "é", "x" * 256])
def test_a_name_that_is_no_plain_folder_is_refused(name: str, data: Path) -> None:
    with pytest.raises(FarkernelError, match="cannot be named"):
        install(load_template("local"), name=name, replace=True)

    assert not data.exists()


def test_a_config_that_is_not_valid_is_not_written(data: Path) -> None:
    template = changed("cori-knl", time="soon")

    with pytest.raises(
        RequestError, match=r"the kernelspec cori-knl: slurm\.time: it is \"soon\"\n→ Write Slurm's time"
    ):
        install(template)

    assert not data.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(FarkernelError, match=r"(?s)cannot be written to .*/file/share.*--prefix"):
        install(load_template("local"), prefix=tmp_path / "file")
    with pytest.raises(FarkernelError, match=r"(?s)cannot be written to .*File name too long.*--prefix"):
        install(load_template("local"), prefix=tmp_path / ("x" * 256))


def test_installed_lists_farkernels_and_no_other(data: Path) -> None:
    install(load_template("local"))
    install(load_template("cori-knl"), name="alpha")
    for name, metadata in (("plain", "{}"), ("odd", '{"kernel_provisioner": null}')):
        (data / "kernels" / name).mkdir()
        content = f'{{"argv": ["x"], "display_name": "x", "language": "x", "metadata": {metadata}}}'
        (data / "kernels" / name / "kernel.json").write_text(content)

    assert [(spec.name, spec.provisioner) for spec in installed()] == [
        ("alpha", "farkernel-slurm"),
        ("local", "farkernel-local"),
    ]
