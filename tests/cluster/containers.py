"""podman-hpc and Charliecloud on the hosts, for ordinary users, and the image for them."""

import os
import stat
import subprocess
from pathlib import Path

from tests.cluster import image, mounts
from tests.cluster.site import USERS

PACKAGES = (
    *("charliecloud", "charliecloud-runtime"),
    *("crun", "fuse-overlayfs", "podman", "slirp4netns", "squashfs-tools", "squashfuse", "uidmap"),
    *image.PACKAGES,
)
IMAGE = Path("/run/images/pyhep")
"""The image as a directory, for Charliecloud."""

_STORE = Path("/run/images/podman")
_SUBORDINATES = 65536


def configure(etc: Path) -> None:
    """Write what podman and podman-hpc read."""
    lines = "".join(f"{user}:{uid * 10}:{_SUBORDINATES}\n" for user, uid in USERS.items())
    for name in ("subuid", "subgid"):
        (etc / name).write_text(lines)
    (etc / "containers").mkdir(exist_ok=True)
    (etc / "containers/storage.conf").write_text('[storage]\ndriver = "overlay"\n')
    (etc / "containers/containers.conf").write_text('[engine]\ncgroup_manager = "cgroupfs"\nruntime = "crun"\n')
    (etc / "podman_hpc").mkdir(exist_ok=True)
    site = {"mksquashfs_bin": "/usr/bin/mksquashfs", "additional_stores": f"[{_STORE}]"}
    text = "".join(f"{key}: {value}\n" for key, value in site.items())
    (etc / "podman_hpc/podman_hpc.yaml").write_text(text)


class Mounts:
    """What a host mounts: to be made before anything covers the machine's directories."""

    def __init__(self) -> None:
        self._rootfs = mounts.Source(image.rootfs())
        self._store = mounts.Source(image.store())

    def bind(self) -> None:
        """Show the host the image, and let its users mount by FUSE; crun wants the one hierarchy of cgroups."""
        for source, target in ((self._rootfs, IMAGE), (self._store, _STORE)):
            target.mkdir(parents=True)
            source.bind(target)
        device = Path("/run/fuse")
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(10, 229))
        device.chmod(0o666)
        mounts.Source(device).bind(Path("/dev/fuse"))
        subprocess.run(["umount", "--recursive", "--lazy", "/sys/fs/cgroup"], check=False, capture_output=True)
        mounts.cgroups(Path("/sys/fs/cgroup"))
