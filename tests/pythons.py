"""Runs the fast tests on every other supported interpreter that is installed: `python -m tests.pythons`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = ("3.11", "3.12", "3.13")
ROOT = Path(__file__).parent.parent


def _candidates(version: str) -> Iterator[Path]:
    """Places where an interpreter of this version may be: on PATH, and where pyenv keeps those that are not."""
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    yield from sorted(pyenv.glob(f"{version}.*/bin/python{version}"))


def find(version: str) -> Path | None:
    """Return an interpreter of this version that runs."""
    for python in _candidates(version):
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    return None


def environment(python: Path, version: str) -> Path:
    """Return the Python of a virtual environment with the `test` extra, made if it is not there or out of date."""
    folder = ROOT / f".venv-{version}"
    stamp = folder / ".test"
    if not stamp.exists() or stamp.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        subprocess.run([str(python), "-m", "venv", str(folder)], check=True)
        install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[test]"]
        subprocess.run(install, check=True)
        stamp.touch()
    return folder / "bin/python"


def main() -> int:
    """Run them; return the number of interpreters on which they failed."""
    failed = 0
    for version in SUPPORTED:
        if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
            continue  # that one runs the whole suite
        python = find(version)
        if python is None:
            print(f"Python {version} is not installed: the fast tests do not run on it", flush=True)
            continue
        print(f"the fast tests on Python {version}", flush=True)
        command = [str(environment(python, version)), "-m", "pytest", "--quiet", "--no-cluster"]
        command += ["--ignore=tests/slurm", "--ignore=tests/faults"]  # they need what only the whole suite has
        command += ["--ignore=tests/gateway"]  # it has an interpreter of its own
        failed += subprocess.run(command, cwd=ROOT, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
