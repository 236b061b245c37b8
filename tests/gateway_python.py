"""A Python with Enterprise Gateway and the wheel of this tree: it cannot share the environment of the other tests.

It needs jupyter_client 6 and pyzmq 24, for which there are no wheels for Python 3.12 and later.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.site import CHECKOUT
from tests.pythons import find

VERSION = "3.11"
_FOLDER = CHECKOUT / ".venv-gateway"
_GATEWAY = "jupyter_enterprise_gateway>=3.2,<4"
_PACKAGES = ("kernelspecs", "launcher", "provisioners")
_FILES = ("pyproject.toml", "README.md", "LICENSE")


class NotMade(Exception):
    """pip could not make it."""


def gateway_python() -> Path | None:
    """Return it, after it was made or brought up to date; None where Python 3.11 is not installed.

    :raises NotMade: pip said why
    """
    base = sys.executable if f"{sys.version_info[0]}.{sys.version_info[1]}" == VERSION else find(VERSION)
    if base is None:
        return None
    with (CHECKOUT / "pyproject.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make(Path(base))
    python = _FOLDER / "bin/python"
    return python if python.exists() else None  # its base need not be on the cluster


def _make(base: Path) -> None:
    stamp, wanted = _FOLDER / ".farkernel", _digest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    python = _FOLDER / "bin/python"
    if not stamp.exists():
        shutil.rmtree(_FOLDER, ignore_errors=True)
        _run(str(base), "-m", "venv", str(_FOLDER))
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wheel = _wheel(Path(folder))
        # in one go, as an administrator would: what does not fit together fails here
        _run(str(python), "-m", "pip", "install", "--quiet", _GATEWAY, str(wheel))
        _run(str(python), "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", str(wheel))
    stamp.write_text(wanted)


def _wheel(folder: Path) -> Path:
    copy = folder / "tree"
    for package in _PACKAGES:
        shutil.copytree(CHECKOUT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(CHECKOUT / name, copy)
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(copy))
    (wheel,) = folder.glob("*.whl")
    return wheel


def _digest() -> str:
    digest = hashlib.sha256(_GATEWAY.encode())
    for file in sorted(_files()):
        digest.update(f"{file.relative_to(CHECKOUT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _files() -> Iterator[Path]:
    yield from (CHECKOUT / name for name in _FILES)
    for package in _PACKAGES:
        files = (CHECKOUT / package).rglob("*")
        yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMade(f"{' '.join(argv)}\n{done.stdout}{done.stderr}")
