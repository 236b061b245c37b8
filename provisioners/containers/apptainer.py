"""Apptainer, and Singularity where it is called apptainer. Built to its documentation, and not tested. No I/O.

Source: apptainer-exec(1) of Apptainer 1.4, and the pages "Environment and Metadata" and "Bind Paths and Mounts" of its
user guide. How images are listed has no answer there: an image is any file.
"""

from __future__ import annotations

from farkernel.provisioners.containers.base import (
    CHECK_COMMAND,
    CHECK_VOLUMES,
    HOSTS_OWN,
    KERNEL_CWD,
    Command,
    Container,
    Inside,
    Trouble,
    explained,
    within,
)

_OURS = (
    *("--bind", "-B", "--env", "--env-file", "--pwd", "--cwd", "--home", "-H", "--no-home", "--contain", "-c"),
    *("--containall", "-C", "--pid", "-p", "--"),
)
_SEEN_ANYWAY = ("/tmp", "/var/tmp", "/dev")  # noqa: S108


class Apptainer(Container):
    """Runs the command by `apptainer exec` on the node; home, /tmp and the working directory are seen by themselves."""

    def problems(self, *, directory: str) -> list[str]:
        """Say what Apptainer has not, and must not be given."""
        return [
            *super().problems(directory=directory),
            *self.not_for_it("spank", "modules"),
            *self.options_of_ours(*_OURS),
        ]

    def command(self, inside: Inside) -> Command:
        """Return the command line of `apptainer exec`.

        APPTAINERENV_NAME in its environment becomes NAME inside, over what the image says; a file given by --env-file
        would be read by a shell.
        """
        wanted = self.environment(inside)
        directory = [] if any(within(inside.directory, place) for place in _SEEN_ANYWAY) else [inside.directory]
        argv = [
            "/usr/bin/env",
            *(f"--unset={name}" for name in HOSTS_OWN),
            *("apptainer", "exec"),
            *(f"--bind={path}:{path}" for path in directory),
            *(f"--bind={volume}" for volume in self.volumes),
            f"--pwd={self.request.workdir or KERNEL_CWD}",
            *self.request.args,
            self.request.image or "",
            *inside.argv,
        ]
        return Command(argv, {f"APPTAINERENV_{name}": value for name, value in wanted.items()})

    def explain(self, exit_code: int, said: str) -> Trouble | None:
        """Recognise what Apptainer says."""
        return explained(_TROUBLES, exit_code, said, program="apptainer")


_TROUBLES = (
    (
        r"could not open image|unable to (?:handle|pull|open)[^\n]*(?:image|uri|manifest)",
        "Apptainer cannot open the image",
        "Correct container.image in the kernelspec: a .sif file, a directory, or an address such as docker://NAME.",
    ),
    (r'"?(?P<what>[^"\s]+)"?: executable file not found', "the image has no command {what}", CHECK_COMMAND),
    (
        r"mount source (?P<what>\S+) doesn't exist",
        "the source {what} of one of its volumes does not exist on the node",
        CHECK_VOLUMES,
    ),
    (r"unknown (?:shorthand )?flag: ?(?P<what>\S+)", "apptainer has no option {what}", "Correct container.args."),
    (
        r"FATAL: *(?P<what>[^\n]+)",
        "apptainer could not start it: {what}",
        "If these words do not help, try `apptainer exec` by hand in a job, or ask the site's support.",
    ),
)
