"""The launcher's code as it travels: all of it, nothing else, and the same each time."""

import hashlib
import io
import pathlib
import subprocess
import sys
import zipfile

import pytest

import farkernel.launcher
from farkernel.launcher import bootstrap
from farkernel.provisioners.payload import payload

_DIGEST = "from farkernel.provisioners.payload import payload; print(payload().digest)"
_FOLDER = pathlib.Path(farkernel.launcher.__path__[0])


def _digest(cache: pathlib.Path, seed: str = "0") -> str:
    """Return the hash that another process comes to, with compiled code from a folder of its own."""
    env = {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONHASHSEED": seed, "LANG": "C"}
    return subprocess.run(
        [sys.executable, "-c", _DIGEST], env=env, cwd="/", capture_output=True, check=True, text=True
    ).stdout.strip()


def test_the_same_bytes_each_time(tmp_path: pathlib.Path) -> None:
    _digest(tmp_path / "cache")  # compiles

    assert _digest(tmp_path / "cache", "1") == _digest(tmp_path / "cache", "2")


def test_the_same_bytes_whoever_has_compiled_the_code(tmp_path: pathlib.Path) -> None:
    subprocess.run(  # as pip does
        [sys.executable, "-m", "compileall", "-q", _FOLDER],
        env={"PYTHONPYCACHEPREFIX": str(tmp_path / "compileall")},
        check=True,
    )

    assert _digest(tmp_path / "fresh") == _digest(tmp_path / "fresh") == _digest(tmp_path / "compileall")


def test_every_module_of_the_launcher_travels_and_nothing_else() -> None:
    modules = [file.stem for file in _FOLDER.glob("*.py")]
    with zipfile.ZipFile(io.BytesIO(payload().data)) as archive:
        names = archive.namelist()
        sources = {name: archive.read(name) for name in names if name.endswith(".py")}

    expected = {f"farkernel/launcher/{module}.{kind}" for module in modules for kind in ("py", "pyc")}
    assert sorted(names) == sorted(expected | {"farkernel/__init__.py"})
    for module in modules:
        assert sources[f"farkernel/launcher/{module}.py"] == (_FOLDER / f"{module}.py").read_bytes()


def test_the_hash_is_that_of_what_is_sent() -> None:
    length, _, data = payload().on_stdin().partition(b"\n")

    assert int(length) == len(data)
    assert hashlib.sha256(data).hexdigest() == payload().digest
    assert payload().command("/opt/python") == ["/opt/python", "-c", bootstrap.SOURCE, payload().digest]


@pytest.mark.parametrize("compiled", [True, False], ids=["this very Python", "sources alone"])
def test_it_runs_where_nothing_is_installed(tmp_path: pathlib.Path, compiled: bool) -> None:
    file = tmp_path / "launcher.zip"
    with zipfile.ZipFile(io.BytesIO(payload().data)) as archive, zipfile.ZipFile(file, "w") as copy:
        for name in archive.namelist():
            if compiled or not name.endswith(".pyc"):
                copy.writestr(name, archive.read(name))
    code = (
        "import sys\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'ditable' not in repr(finder)]\n"
        f"sys.path.insert(0, {str(file)!r})\n"
        "import farkernel.launcher.serve as serve, farkernel.launcher.main as main\n"
        "print(serve.__file__, main.__file__)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd="/")

    kind = "pyc" if compiled else "py"
    stem = f"{file}/farkernel/launcher"
    assert done.stdout.split() == [f"{stem}/serve.{kind}", f"{stem}/main.{kind}"]
