"""Runs the fast tests on all supported interpreters that are installed, at once: `python -m tests.pythons`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.again import Suite, run
from tests.cluster import packages
from tests.cluster.site import CHECKOUT, UnavailableError

SUPPORTED = ("3.11", "3.12", "3.13")


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


def environment(version: str) -> Path | None:
    """Return the Python of an environment with the `test` extra, made if it is not there or out of date.

    That of our own version is our own, which has the `dev` extra.
    """
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return Path(sys.executable)
    python = find(version)
    if python is None:
        return None
    folder = CHECKOUT / f".venv-{version}"
    stamp = folder / ".test"
    if not stamp.exists() or stamp.stat().st_mtime < (CHECKOUT / "pyproject.toml").stat().st_mtime:
        subprocess.run([str(python), "-m", "venv", str(folder)], check=True)
        install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--editable", f"{CHECKOUT}[test]"]
        subprocess.run(install, check=True)
        stamp.touch()
    return folder / "bin/python"


def _suite(version: str, python: Path) -> Suite:
    options = ["--quiet", "--no-cluster"]
    if python != Path(sys.executable):
        options += ["--ignore=tests/slurm", "--ignore=tests/faults"]  # they need what only `dev` has
        options += ["--ignore=tests/gateway"]  # it has an interpreter of its own
    return Suite(python, options, prefix=f"{version}: ")


def main() -> int:
    """Run them; return a process's exit code."""
    try:
        packages.install()
    except UnavailableError as error:
        print(f"No Debian packages: {error}. Tests that need one, as sshd, are skipped.", flush=True)
    environments = {version: environment(version) for version in SUPPORTED}
    for version, python in environments.items():
        if python is None:
            print(f"Python {version} is not installed: the fast tests do not run on it", flush=True)
    # They mostly wait for processes of theirs: one after the other they would take two to three times as long.
    return run([_suite(version, python) for version, python in environments.items() if python])


if __name__ == "__main__":
    sys.exit(main())
