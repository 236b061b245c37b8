"""podman-hpc, NERSC's wrapper over podman. No I/O.

Source: podman-run(1) of podman 4.3 and podman-hpc 1.2, tried on a cluster.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import ClassVar

from farkernel.provisioners.containers.base import (
    CHECK_COMMAND,
    CHECK_VOLUMES,
    ENVIRONMENT_FILE,
    KERNEL_CWD,
    KERNEL_DIRECTORY,
    PID_FILE,
    Command,
    Container,
    ImageEntry,
    ImageStore,
    Inside,
    Trouble,
    environment_file,
    explained,
)

# podman gives a container nothing of the host's environment. (--env-host would give it all, and the host's PATH would
# win over the image's.) A name without a value takes it from podman's own environment, where no other user sees it.
_PASSED = ("HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "SLURM_*", "OMP_*", "CUDA_VISIBLE_DEVICES")

_PODMANS_OWN = frozenset({125, 126})
"""Exit codes that podman-run(1) keeps for its own failures."""

_OURS = (
    *("--rm", "--replace", "--name", "--pull", "--detach", "-d", "--tty", "-t", "--interactive", "-i", "--pidfile"),
    *("--volume", "-v", "--env", "-e", "--env-file", "--workdir", "-w", "--"),
)

_IMAGES_OWN = frozenset({"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "usr"})
"""Directories of the root in which an image has its programs: with the node's in their place they would be missing."""

_IMAGES_TOP = frozenset({"opt", "run", "var"})
"""The same of directories of which only the top, such as /opt/conda, is likely to be the image's."""


class PodmanHpcImages(ImageStore):
    """`podman-hpc images` and `podman-hpc pull`: the user's own images on this host, and those of shared stores."""

    program: ClassVar[str] = "podman-hpc"

    def list_argv(self) -> list[str]:
        """Return the command that lists images."""
        return ["podman-hpc", "images", "--format={{.Repository}}:{{.Tag}}|{{.ID}}|{{.Size}}|{{.CreatedAt}}"]

    def parse_list(self, text: str) -> list[ImageEntry]:
        """Read lines of name, id, size and time."""
        rows = [line.split("|") for line in text.splitlines()]
        return [
            ImageEntry(name=row[0], identity=row[1], size=row[2], pulled=row[3].partition(" +")[0])
            for row in rows
            if len(row) == 4 and "<none>" not in row[0]
        ]

    def pull_argv(self, image: str) -> list[str]:
        """Return the command that fetches an image, and squashes it for all nodes."""
        return ["podman-hpc", "pull", image]


class PodmanHpc(Container):
    """Runs the command by `podman-hpc run` on the node, in the host's network and with the user's home directory.

    The process that the launcher sees is podman's. It cannot pass signals on: the outer of its two processes ends at
    SIGINT, in podman 4.3; so they go to the kernel's own process. And the container outlives a podman that was killed:
    what is left is removed by the container's name.
    """

    images = PodmanHpcImages()

    def problems(self, *, directory: str) -> list[str]:
        """Say what podman must not be given."""
        return [*super().problems(directory=directory), *self.not_for_it("spank"), *self.options_of_ours(*_OURS)]

    def command(self, inside: Inside) -> Command:
        """Return the command line of `podman-hpc run`."""
        request = self.request
        lines, others = environment_file(self.environment(inside))
        seen = self.seen(inside.cwd[0], inside)
        # Filled in with the home directory if the node lacks the other: podman takes a volume that is given twice.
        cwd = [KERNEL_CWD] if not seen and _may_be_mounted(inside.cwd[0]) else []
        argv = [
            "/usr/bin/env",
            *("podman-hpc", "run", "--rm", "--replace", f"--name={inside.name}", "--pull=never", "--network=host"),
            *(f"--{module}" for module in request.modules),
            *(f"--volume={path}:{path}" for path in (inside.home, inside.directory, *cwd)),
            *(f"--volume={volume}" for volume in self.volumes),
            *(f"--env={name}" for name in (*_PASSED, *others)),
            f"--env-file={KERNEL_DIRECTORY}/{ENVIRONMENT_FILE}",
            f"--pidfile={KERNEL_DIRECTORY}/{PID_FILE}",
            f"--workdir={request.workdir or (KERNEL_CWD if seen or cwd else inside.home)}",
            *request.args,
            request.image or "",
            *inside.argv,
        ]
        cleanup = ["/usr/bin/env", "podman-hpc", "rm", "--force", "--ignore", "--time=0", inside.name]
        return Command(argv, others, {ENVIRONMENT_FILE: lines}, cleanup)

    def explain(self, exit_code: int, said: str) -> Trouble | None:
        """Recognise what podman and podman-hpc say."""
        troubles = (*_TROUBLES, *_OTHERWISE) if exit_code in _PODMANS_OWN else _TROUBLES
        return explained(troubles, exit_code, said, program="podman-hpc")


def _may_be_mounted(path: str) -> bool:
    """Whether a directory of the node hides nothing of the image's own, and podman can read its name."""
    _, *parts = PurePosixPath(path).parts
    if not parts or ":" in path or parts[0] in _IMAGES_OWN:
        return False
    return parts[0] not in _IMAGES_TOP or len(parts) > 2


_TROUBLES = (
    (
        r"image not known",
        "podman knows no such image on the node",
        "`farkernel images list` shows your images here; one that was built on a login node is seen on compute nodes"
        " after `podman-hpc migrate`. Correct container.image in the kernelspec, or pull it.",
    ),
    (
        r"executable file .(?P<what>[^`'\"]+).? not found in",
        "the image has no command {what}",
        CHECK_COMMAND,
    ),
    (r"OCI permission denied", "the command in the image cannot be executed", CHECK_COMMAND),
    (
        r"statfs (?P<what>.+?): no such file",
        "the directory {what}, which is to be seen in it, does not exist on the node",
        CHECK_VOLUMES,
    ),
    (
        r"invalid (?:option type|mount option|volume|bind mode|container path|host path)[^\n]*",
        "podman refuses one of its volumes",
        CHECK_VOLUMES,
    ),
    (
        r"unknown (?:shorthand )?flag: ?(?P<what>[^\n]*)",
        "podman-hpc has no option {what}",
        "Correct container.args and container.modules in the kernelspec; a module is an option that the site adds.",
    ),
    (
        r'workdir "(?P<what>[^"]*)" does not exist',
        "the image has no directory {what} to start in",
        "Correct container.workdir or kernel.cwd in the kernelspec.",
    ),
    (
        r"Error: No (?P<what>\S+) binary found",
        "podman-hpc does not find {what} on the node",
        "See that PATH leads to it there, by kernel.modules of the kernelspec, or ask the site's support.",
    ),
)

_OTHERWISE = (
    (
        r"Error: (?P<what>[^\n]+)",
        "podman could not start it: {what}",
        "If these words do not help, try `podman-hpc run` by hand in a job, or ask the site's support.",
    ),
)
