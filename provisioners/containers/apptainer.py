"""Apptainer, and Singularity where it is called apptainer. Built to its documentation, and not tested. No I/O.

Source: apptainer-exec(1) of Apptainer 1.4, the pages "Environment and Metadata" and "Bind Paths and Mounts" of its user
guide, and its messages. How images are listed has no answer there: an image is any file.
"""

from __future__ import annotations

import re

from farkernel.provisioners.containers.base import (
    CHECK_VOLUMES,
    HOSTS_OWN,
    KERNEL_DIRECTORY,
    PID_FILE,
    Command,
    Container,
    Inside,
    Trouble,
    explained,
    within,
)

_OURS = (
    *("--bind", "-B", "--env", "--env-file", "--pwd", "--cwd", "--home", "-H", "--no-home", "--contain", "-c"),
    *("--containall", "-C", "--compat", "--pid", "-p", "--no-eval", "--"),
)
_SEEN_ANYWAY = ("/tmp", "/var/tmp", "/dev")  # noqa: S108

_FLAG = r"(ro|rw|id=\d+|image-src=[^,]+)"
_FLAGS = re.compile(rf"{_FLAG}(,{_FLAG})*")

# Outside of a terminal Apptainer passes on the signals that it gets itself, so that a kernel of the same process group
# would be interrupted twice: by the second one it loses the traceback, or even the reply. Where the image has setsid(1)
# the kernel gets a group of its own, and signals go there. It stays the same process. $0 is the file for its pid.
_OWN_GROUP = """\
command -v setsid >/dev/null || exec "$@"
exec setsid /bin/sh -c 'echo $$ >"$0"; exec "$@"' "$0" "$@"
"""

_ITS_OWN = 255
"""The exit code of Apptainer's own failures."""


class Apptainer(Container):
    """Runs the command by `apptainer exec` on the node; home, /tmp and the working directory are seen by themselves.

    The kernel is a child of the process that the launcher sees, in the host's pid namespace.
    """

    def problems(self, *, directory: str) -> list[str]:
        """Say what Apptainer has not, and must not be given."""
        found = [
            *super().problems(directory=directory),
            *self.not_for_it("spank", "modules"),
            *self.options_of_ours(*_OURS),
        ]
        for volume in self.volumes:
            if re.search(r"[,\\]", volume.source + volume.target):
                found.append(f'container.volumes: "{volume}": Apptainer would divide a path at a comma or backslash')
            if volume.flags and not _FLAGS.fullmatch(volume.flags):
                found.append(f'container.volumes: "{volume}": Apptainer knows the flags ro, rw, id= and image-src=')
        if "HOME" in self.request.env:
            found.append("container.env: Apptainer does not let HOME be set")
        return found

    def command(self, inside: Inside) -> Command:
        """Return the command line of `apptainer exec`.

        APPTAINERENV_NAME in its environment becomes NAME inside, over what the image says; a file given by --env-file
        would be read by a shell, as would the values without --no-eval. The working directory is named only if the
        kernelspec does: Apptainer takes its own, and goes home if the image cannot have it, but fails for a named one.
        """
        request = self.request
        directory = [] if any(within(inside.directory, place) for place in _SEEN_ANYWAY) else [inside.directory]
        argv = [
            "/usr/bin/env",
            *(f"--unset={name}" for name in HOSTS_OWN),
            *("apptainer", "exec", "--no-eval"),
            *(f"--bind={path}:{path}" for path in directory),
            *(f"--bind={volume}" for volume in self.volumes),
            *([f"--pwd={request.workdir}"] if request.workdir else []),
            *request.args,
            request.image or "",
            *("/bin/sh", "-c", _OWN_GROUP, f"{KERNEL_DIRECTORY}/{PID_FILE}"),
            *inside.argv,
        ]
        return Command(argv, {f"APPTAINERENV_{name}": value for name, value in self.environment(inside).items()})

    def explain(self, exit_code: int, said: str) -> Trouble | None:
        """Recognise what Apptainer says, and the shell inside."""
        troubles = (*_TROUBLES, *_OTHERWISE) if exit_code == _ITS_OWN else _TROUBLES
        return explained(troubles, exit_code, said, program="apptainer")


_CHECK_COMMAND = (
    "`apptainer exec IMAGE ls` shows what is in it; correct argv in the kernelspec, or choose another image."
)

_TROUBLES = (
    (
        r"could not open image (?P<what>[^\s:]+)|Unable to handle (?P<other>\S+) uri",
        "Apptainer cannot open the image {what}{other}",
        "Correct container.image in the kernelspec: a .sif file, a directory, or an address such as docker://NAME; an"
        " address has to be reached from the node.",
    ),
    (
        r"exec: (?:line \d+: )?(?P<what>\S+): (?:not found|cannot execute|Permission denied|No such file)",
        "the image has no command {what} that can be run",
        _CHECK_COMMAND,
    ),
    (
        r'(?:FATAL: *"(?P<what>[^"\n]+)": executable file not found|FATAL: *stat (?P<other>\S+): no such file)',
        "the image has no command {what}{other}",
        _CHECK_COMMAND,
    ),
    (
        r"mount source (?P<what>[^\n]+?) doesn't exist",
        "the source {what} of one of its volumes does not exist on the node",
        CHECK_VOLUMES,
    ),
    (
        r"destination (?P<what>[^\n]+?) doesn't exist in container",
        "the target {what} of one of its volumes does not exist in the image, and cannot be made there",
        "Correct container.volumes in the kernelspec, or make the directory when the image is built.",
    ),
    (
        r"while getting bind path: (?P<what>[^\n]+)",
        "Apptainer refuses one of its volumes: {what}",
        CHECK_VOLUMES,
    ),
    (
        r"failed to set working directory: (?:chdir )?(?P<what>[^\s:]+)",
        "the image has no directory {what} to start in",
        "Correct container.workdir in the kernelspec.",
    ),
    (
        r"(?:Failed to create|not allowed to create) (?:user|mount) namespace|user namespace requires",
        "the node does not let users make namespaces, and apptainer is not setuid there",
        "Ask the site's support how Apptainer is used on the nodes.",
    ),
    (
        r"unknown (?:shorthand )?flag: ?(?P<what>[^\n]+)",
        "apptainer has no option {what}",
        "Correct container.args in the kernelspec.",
    ),
)

_OTHERWISE = (
    (
        r"FATAL: *(?P<what>[^\n]+)",
        "apptainer could not start it: {what}",
        "If these words do not help, try `apptainer exec` by hand in a job, or ask the site's support.",
    ),
)
