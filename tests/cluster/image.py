"""The image that kernels run in: a Debian with its own Python and ipykernel, from Debian's packages alone.

It is built once for a machine: as a directory, which is what Charliecloud and the stand-in for Shifter take, and as a
store of podman's that every user may read.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster.site import UnavailableError

PACKAGES = ("mmdebstrap",)
PODMAN_NAME = "localhost/pyhep:2.0"
MARK = "etc/farkernel-image"
"""A file that the hosts have not."""

_PLACE = Path("/var/cache/farkernel-tests")
_INCLUDED = ("coreutils", "dash", "procps", "python3", "python3-ipykernel")
_EXCLUDED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
_RELEASE = "bookworm"
_VARIABLES = ("PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "PYTHONPATH=/opt/image")
_RECIPE = hashlib.sha256(repr((_INCLUDED, _EXCLUDED, _RELEASE, _VARIABLES, PODMAN_NAME)).encode()).hexdigest()[:12]


def build() -> None:
    """Build both, unless they are there."""
    _PLACE.mkdir(parents=True, exist_ok=True)
    with (_PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _final().exists():
            return
        aside = _PLACE / "new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o755)
        _build_rootfs(aside / "rootfs")
        _build_store(aside / "rootfs", aside / "store", aside)
        aside.rename(_final())


def rootfs() -> Path:
    """The image as a directory."""
    return _final() / "rootfs"


def store() -> Path:
    """The image as a store for podman's `additionalimagestores`."""
    return _final() / "store"


def _final() -> Path:
    return _PLACE / f"image-{_RECIPE}"


def _build_rootfs(target: Path) -> None:
    exclude = [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    _run("mmdebstrap", "--variant=apt", f"--include={','.join(_INCLUDED)}", *exclude, _RELEASE, str(target))
    (target / MARK).write_text("an image of the tests of farkernel\n")
    (target / "home").chmod(0o755)


def _build_store(rootfs: Path, target: Path, aside: Path) -> None:
    tar = aside / "rootfs.tar"
    _run("tar", "--directory", str(rootfs), "--create", "--file", str(tar), ".")
    run_root = aside / "run"
    own = ("podman", f"--root={target}", f"--runroot={run_root}", "--storage-driver=overlay")
    _run(*own, "import", *(f"--change=ENV {setting}" for setting in _VARIABLES), str(tar), PODMAN_NAME)
    tar.unlink()
    shutil.rmtree(run_root, ignore_errors=True)
    for directory in (target, *(path for path in target.iterdir() if path.is_dir()), *(target / "overlay").iterdir()):
        directory.chmod(0o755)
    for path in (target / "overlay-images", target / "overlay-layers"):
        for found in path.rglob("*"):
            found.chmod(0o755 if found.is_dir() else 0o644)
    for link in target.glob("overlay/*/link"):
        link.chmod(0o644)


def _run(*argv: str) -> None:
    done = subprocess.run(
        argv, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnavailableError(f"{argv[0]} failed: {done.stderr.strip()[-500:]}")
