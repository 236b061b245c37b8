"""The wheel holds what the tree holds: a package that pyproject.toml forgets would be missing in silence."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("kernelspecs", "launcher", "provisioners")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def _tree() -> dict[str, bytes]:
    """Every file of the packages, by the name that the wheel gives it."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {
        f"farkernel/{path.relative_to(ROOT)}": path.read_bytes() for path in files if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Build the wheel from a copy of the tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-c", BUILD, str(out)], check=True, cwd=copy, capture_output=True)
    (built,) = out.iterdir()
    with zipfile.ZipFile(built) as opened:
        yield opened


def _content(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    return {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_tree_and_no_other(wheel: zipfile.ZipFile) -> None:
    tree, content = _tree(), _content(wheel)

    assert sorted(content) == sorted(tree)
    assert content == tree


def test_every_template_is_complete(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())

    for template in ("cori-haswell", "cori-knl", "local"):
        for file in ("kernel.json", "logo-32x32.png", "logo-64x64.png", "logo-svg.svg"):
            assert f"farkernel/kernelspecs/{template}/{file}" in names


def test_every_folder_with_python_files_is_a_package(wheel: zipfile.ZipFile) -> None:
    folders = {name.rpartition("/")[0] for name in _tree() if name.endswith(".py")}

    assert all(f"{folder}/__init__.py" in wheel.namelist() for folder in folders)
    assert all(f"farkernel/{package}/py.typed" in wheel.namelist() for package in PACKAGES)


def test_nothing_takes_a_top_level_name_but_farkernel(wheel: zipfile.ZipFile) -> None:
    top = {name.partition("/")[0] for name in wheel.namelist()}

    assert {name for name in top if not name.endswith(".dist-info")} == {"farkernel"}
    assert "farkernel/__init__.py" not in wheel.namelist()


def test_the_entry_points_are_registered(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    points = configparser.ConfigParser()
    points.read_string(wheel.read(name).decode())

    assert dict(points["console_scripts"]) == {"farkernel": "farkernel.provisioners.cli:main"}
    assert set(points["jupyter_client.kernel_provisioners"]) == {"farkernel-local", "farkernel-slurm"}


def test_the_licence_goes_with_it(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))

    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
