"""Put the stand-in onto the hosts: everything lies in one directory that all of them see as /run/shifter."""

import json
import shutil
import subprocess
from pathlib import Path

from tests.cluster import mounts
from tests.cluster.shifter.images import BUSYBOX, DEBIAN, IMAGES, Image

PACKAGES = ("busybox-static", "gcc", "libc6-dev", "libslurm-dev")
PLACE = Path("/run/shifter")

_SOURCES = Path(__file__).parent
_COMPILE = ("gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror")
_LAST_PULL = "2024-10-27T03:33:20"
_PLUGIN = PLACE / "lib/shifter.so"
_MODULES = {
    "mpich": ("env=MPICH_VERSION=4.0", f"env=LD_LIBRARY_PATH={PLACE}/mpich/lib", f"bind={PLACE}/mpich:/opt/mpich"),
    "gpu": ("env=GPU_MODULE=1", "env=MPICH_VERSION=gpu"),
}


def plugstack(long_options: bool = False) -> str:
    """What makes Slurm load the plugin; with long options `--image` is `--shifter.image`."""
    return f"required {_PLUGIN}{' long_options' if long_options else ''}\n"


def install(state: Path, rootfs: Path | None) -> None:
    """Build everything in a new cluster's directory.

    `rootfs` is the root file system of an image with Python and ipykernel; without one, every image that needs it
    is empty.
    """
    into = state / "shifter"
    for name in ("bin", "lib", "gateway/pulls", "images", "modules", f"trees/{DEBIAN}", f"trees/{BUSYBOX}"):
        (into / name).mkdir(parents=True)
    (into / "gateway/pulls").chmod(0o1777)
    (into / "rootfs").symlink_to((rootfs or into / "trees" / DEBIAN).resolve())
    build(into)
    _make_busybox(into / "trees" / BUSYBOX)
    found = rootfs.rglob("ipykernel_launcher.py") if rootfs else ()
    kernels = sorted({f"/{file.parent.relative_to(rootfs)}" for file in found if rootfs})
    for image in IMAGES:
        (into / f"images/{image.id}.meta").write_text(_description(image, kernels))
    (into / "gateway/images.json").write_text(json.dumps([_record(image) for image in IMAGES]))
    for name, lines in _MODULES.items():
        (into / "modules" / name).write_text("\n".join([*lines, ""]))
    (into / "mpich/lib").mkdir(parents=True)
    (into / "mpich/lib/libmpi.so").touch()
    (state / "etc/slurm/plugstack.conf").write_text(plugstack())


def build(into: Path) -> None:
    """Compile the command, setuid root, and the plugin; put shifterimg beside them."""
    command, plugin = into / "bin/shifter", into / "lib/shifter.so"
    _compile("-o", command, "shifter.c", "root.c", "common.c")
    command.chmod(0o4755)
    _compile("-shared", "-fPIC", "-o", plugin, "spank.c", "common.c")
    shutil.copy(_SOURCES / "shifterimg", into / "bin")
    (into / "bin/shifterimg").chmod(0o755)


class Mounts:
    """What a host mounts: to be made before anything covers the machine's directories."""

    def __init__(self, state: Path) -> None:
        self._place = mounts.Source(state / "shifter")
        self._rootfs = mounts.Source((state / "shifter/rootfs").resolve())

    def bind(self) -> None:
        """Show the host the stand-in, its commands too."""
        PLACE.mkdir()
        self._place.bind(PLACE)
        self._rootfs.bind(PLACE / "trees" / DEBIAN)
        mounts.overlay(PLACE / "bin", Path("/usr/local/bin"))


def _compile(*arguments: str | Path) -> None:
    subprocess.run([*_COMPILE, *arguments], cwd=_SOURCES, check=True)


def _make_busybox(tree: Path) -> None:
    for name in ("bin", "etc", "mnt", "run", "srv", "usr/bin", "var/lib"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in applets:
        if name != "busybox":
            (tree / "bin" / name).symlink_to("busybox")
    (tree / "usr/bin/env").symlink_to("/bin/busybox")


def _description(image: Image, kernels: list[str]) -> str:
    """Return what the command reads: lines of key=value."""
    lines = [f"tree={PLACE}/trees/{image.tree}", *(f"env={setting}" for setting in image.env), *image.settings]
    if image.users:
        lines.append(f"users={','.join(map(str, image.uids))}")
    if not image.ipykernel:
        lines += [f"hide={directory}" for directory in kernels]
    return "\n".join([*lines, ""])


def _record(image: Image) -> dict[str, object]:
    """Return what shifterimg reads."""
    return {
        "type": image.kind,
        "tags": image.tags,
        "id": image.id,
        "users": image.uids,
        "ready": image.ready,
        "last_pull": _LAST_PULL,
    }
