"""Charliecloud, an unprivileged container runtime. No I/O.

Source: ch-run(1) and ch-image(1) of Charliecloud 0.31, tried on a cluster.
"""

from __future__ import annotations

from posixpath import basename
from typing import ClassVar

from farkernel.provisioners.containers.base import (
    CHECK_COMMAND,
    CHECK_IMAGE,
    CHECK_VOLUMES,
    ENVIRONMENT_FILE,
    HOSTS_OWN,
    KERNEL_CWD,
    KERNEL_DIRECTORY,
    Command,
    Container,
    ImageEntry,
    ImageStore,
    Inside,
    Trouble,
    environment_file,
    explained,
    within,
)

_OURS = (
    *("--bind", "-b", "--cd", "-c", "--home", "--no-home", "--private-tmp", "-t", "--join", "-j", "--env-no-expand"),
    "--",
)
_SEEN_ANYWAY = ("/tmp", "/dev")  # noqa: S108


class CharliecloudImages(ImageStore):
    """`ch-image`: the images in its storage directory on this host. Any directory may be an image, too."""

    program: ClassVar[str] = "ch-image"

    def list_argv(self) -> list[str]:
        """Return the command that lists images; the build cache, which needs a configured git, is not needed."""
        return ["ch-image", "list", "--no-cache"]

    def parse_list(self, text: str) -> list[ImageEntry]:
        """Read a name from each line."""
        return [ImageEntry(name=line.strip()) for line in text.splitlines() if line.strip()]

    def pull_argv(self, image: str) -> list[str]:
        """Return the command that fetches an image."""
        return ["ch-image", "pull", "--no-cache", image]


class Charliecloud(Container):
    """Runs the command by `ch-run` on the node, which becomes it: same process, same signals."""

    images = CharliecloudImages()

    def problems(self, *, directory: str) -> list[str]:
        """Say what Charliecloud has not, and must not be given."""
        flagged = [volume for volume in self.volumes if volume.flags]
        return [
            *super().problems(directory=directory),
            *self.not_for_it("spank", "modules"),
            *(f'container.volumes: "{volume}": Charliecloud knows no flags' for volume in flagged),
            *self.options_of_ours(*_OURS),
        ]

    def command(self, inside: Inside) -> Command:
        """Return the command line of `ch-run`.

        The image is read-only: a volume can only be seen at a directory that it has. So the notebook's directory is not
        mounted by itself; the kernel starts there if it is seen anyway, else in the home directory. What TMPDIR names
        would be seen in the place of the host's /tmp, where the kernel's own directory is; and what HOME names would be
        mounted, which may be a directory of the image's alone.
        """
        lines, others = environment_file(self.environment(inside))
        directory = [] if any(within(inside.directory, place) for place in _SEEN_ANYWAY) else [inside.directory]
        argv = [
            "/usr/bin/env",
            "--unset=TMPDIR",
            f"HOME={inside.home}",
            "ch-run",
            "--home",
            *(f"--bind={path}:{path}" for path in directory),
            *(f"--bind={volume}" for volume in self.volumes),
            f"--cd={self.request.workdir or self._cwd(inside)}",
            *(f"--unset-env={name}" for name in HOSTS_OWN if name not in others),
            *self.request.args,
            "--env-no-expand",
            f"--set-env={KERNEL_DIRECTORY}/{ENVIRONMENT_FILE}",
            self.request.image or "",
            "--",
            *inside.argv,
        ]
        return Command(argv, others, {ENVIRONMENT_FILE: lines})

    def explain(self, exit_code: int, said: str) -> Trouble | None:
        """Recognise what `ch-run` says."""
        return explained(_TROUBLES, exit_code, said, program="ch-run")

    def _cwd(self, inside: Inside) -> str:
        home = f"/home/{basename(inside.home)}"  # where --home puts it, wherever it is outside
        usual = home == inside.home and self.seen(inside.cwd[0], inside)
        return KERNEL_CWD if usual else home


_TROUBLES = (
    (r"can't stat: (?P<what>.+?): No such file", "there is no image {what} on the node", CHECK_IMAGE),
    (r"can't execve\(2\): (?P<what>.+?): No such file", "the image has no command {what}", CHECK_COMMAND),
    (r"can't execve\(2\): (?P<what>.+?): Permission", "the command {what} in the image cannot be run", CHECK_COMMAND),
    (
        r"can't bind: source not found: (?P<what>.+?) \(",
        "the source {what} of one of its volumes does not exist on the node",
        CHECK_VOLUMES,
    ),
    (
        r"can't mkdir: (?P<what>.+?): Read-only file system",
        "a volume's target does not exist in the image, which is read-only: {what}",
        "Correct container.volumes in the kernelspec, make the directory when the image is built, or give"
        ' ["--write"] in container.args if the image is your own.',
    ),
    (
        r"can't bind: destination not found: (?P<what>.+?) \(|can't mount tmpfs at (?P<other>.+?): No such",
        "the image lacks {what}{other}, which Charliecloud needs",
        "Make it when the image is built, or choose another image.",
    ),
    (
        r"can't cd to (?P<what>.+?): ",
        "the image has no directory {what} to start in",
        "Correct container.workdir or kernel.cwd in the kernelspec.",
    ),
    (
        r"ch-run: (?:unrecognized|invalid) option[^\n]*?(?P<what>'[^'\n]*')",
        "ch-run has no option {what}",
        "Correct container.args in the kernelspec.",
    ),
    (
        r"ch-run\[\d+\]: error: (?P<what>[^\n]+)",
        "ch-run could not start it: {what}",
        "If these words do not help, try `ch-run` by hand in a job, or ask the site's support.",
    ),
)
