"""What a container runtime has to tell farkernel: the interface that each of them implements. No I/O.

A site adds its own by an entry point of the group `farkernel.container_runtimes` that names a subclass of `Container`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from farkernel.provisioners.request import ContainerRequest

PID_FILE = "pid"
"""The file in the kernel's own directory to which a runtime that does not become the kernel writes the kernel's pid."""

KERNEL_DIRECTORY = "{kernel_directory}"
"""Stands for the kernel's own 0700 directory on the node: its connection file, its sockets, `Command.files`.

It is filled in on the node, as are the next one and `{connection_file}`.
"""

KERNEL_CWD = "{kernel_cwd}"
"""Stands for the directory on the node that the kernel starts in."""

HOSTS_OWN = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
"""Variables that describe the host's software: in an image they would break what is there."""

NODES_OWN = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
"""Directories that differ from node to node, and from the login node's."""

ENVIRONMENT_FILE = "environment"
"""The one of `Command.files` that holds variables: what has to be kept from other users is not put into an argv."""


_LONGEST_VALUE = 15_000
"""Characters of a value in that file: podman reads lines of up to 64 kB."""


@dataclass(frozen=True)
class Inside:
    """What is to run inside the image.

    :param argv: the kernel's command, as the kernelspec has it
    :param env: variables that it must have, whatever the image or the host says
    :param home: the user's home directory
    :param cwd: directories on the node of which the first that exists is taken
    :param directory: the directory on the node below which the kernel's own one is made
    :param name: what a runtime that names its containers may call this one; no other has it
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    home: str
    cwd: Sequence[str]
    directory: str
    name: str = "farkernel"


@dataclass(frozen=True)
class Command:
    """What is to run on the node so that it does.

    :param argv: the command line; other users of the node can read it
    :param env: variables of that process, on top of the job's
    :param files: files (mode 0600) in the kernel's own directory, content by name
    :param cleanup: a command that removes what may be left once that process has ended; empty for nothing
    """

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    cleanup: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trouble:
    """Why a command could not be run inside an image.

    :param sentence: continues "… cannot run in its image: "; without a full stop
    :param hint: a sentence: what to do
    """

    sentence: str
    hint: str


@dataclass(frozen=True)
class Volume:
    """A directory of the host that is seen inside the image.

    :param flags: what the runtime understands, such as `ro`; empty for none
    """

    source: str
    target: str
    flags: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `source:target[:flags]`, as a valid request has it."""
        source, target, *flags = text.split(":", 2)
        return cls(source, target, *flags)

    def __str__(self) -> str:
        return ":".join(part for part in (self.source, self.target, self.flags) if part)


@dataclass(frozen=True)
class ImageEntry:
    """An image that the user may run.

    :param name: what `container.image` is to name
    :param pulled: when it came here, as the runtime writes it; empty if not known
    """

    name: str
    identity: str = ""
    size: str = ""
    pulled: str = ""


class ImageStore:
    """A runtime's command line for images; what it prints is read here. No I/O.

    :cvar program: the program that has to be there
    """

    program: ClassVar[str]

    def list_argv(self) -> list[str]:
        """Return the command that lists images; `parse_list` reads its standard output."""
        raise NotImplementedError

    def parse_list(self, text: str) -> list[ImageEntry]:
        """Read what `list_argv` prints."""
        raise NotImplementedError

    def list_problem(self, returncode: int, text: str) -> str:
        """Return why images could not be listed, in a sentence; empty if they could."""
        return "" if returncode == 0 else self._words(returncode, text)

    def means(self, image: str, entry: ImageEntry) -> bool:
        """Whether a name is that of an image in the list."""
        return image == entry.name

    def not_pullable(self, image: str) -> str:
        """Return why a name is none to pull an image by, as a clause; empty if it may be one."""
        return ""

    def pull_argv(self, image: str) -> list[str]:
        """Return the command that fetches an image."""
        raise NotImplementedError

    def parse_progress(self, line: str) -> str:
        """Return the progress that a line of the pull tells; empty for none."""
        return line.strip()

    def pull_problem(self, returncode: int, text: str) -> str:
        """Return why the image was not pulled, in a sentence; empty if it was."""
        return "" if returncode == 0 else self._words(returncode, text)

    def _words(self, returncode: int, text: str) -> str:
        return text.strip() or f"{self.program} ended with code {returncode} and said nothing"


class Container:
    """A kernel's image and how its command gets into it. Immutable; every method is pure.

    :param request: the `container` part of a kernelspec's config
    :cvar images: how this runtime's images are listed and fetched; None if farkernel does not know
    """

    images: ClassVar[ImageStore | None] = None

    def __init__(self, request: ContainerRequest) -> None:
        self.request = request
        self.volumes = tuple(Volume.parse(text) for text in request.volumes)

    def problems(self, *, directory: str) -> list[str]:
        """Say what this runtime would not take: a line for each, `container.key: …`.

        :param directory: where on the node the kernel's own directory is made
        """
        missing = [] if self.request.image else ["container.image: expected an image's name, it is missing"]
        others = [volume for volume in self.volumes if volume.source != volume.target]
        hiding = [volume for volume in others if within(directory, volume.target)]
        return [
            *missing,
            *(f'container.volumes: "{one}": would hide {directory}, where the kernel\'s sockets are' for one in hiding),
        ]

    def resolved(self, real_path: Callable[[str], str]) -> Self:
        """Return this container with its volumes' sources as `real_path` gives them, if the runtime needs that."""
        return self

    def slurm_options(self) -> list[str]:
        """Return the options of srun that make the image ready on the job's nodes."""
        return []

    def command(self, inside: Inside) -> Command:
        """Return what to run on the node."""
        raise NotImplementedError

    def explain(self, exit_code: int, said: str) -> Trouble | None:
        """Say why there is no kernel in the image.

        :param exit_code: of `Command.argv`, or of an srun that took no job
        :param said: the end of what it printed
        :return: None if it was nothing that has to do with the image
        """
        return None

    def not_for_it(self, *keys: str) -> list[str]:
        """Complain about keys that mean nothing to this runtime."""
        given = self.request.model_fields_set.intersection(keys)
        return [f'container.{key}: means nothing to the runtime "{self.request.runtime}"' for key in sorted(given)]

    def options_of_ours(self, *options: str) -> list[str]:
        """Complain about words of `container.args` that are options which farkernel gives, or must not have.

        Long ones may be abbreviated: getopt_long(3) takes `--imag` for `--image`.
        """

        def is_ours(word: str) -> bool:
            if not word.startswith("--"):
                return word[:2] in options
            return any(option.startswith(word.partition("=")[0]) for option in options)

        words = [word for word in self.request.args if is_ours(word)]
        return [f'container.args: "{word}" is not allowed: farkernel sets it, or has a key for it' for word in words]

    def seen(self, path: str, inside: Inside) -> bool:
        """Whether a directory of the host has the same path inside: in the home directory, in /tmp, in a volume."""
        same = [volume.source for volume in self.volumes if volume.source == volume.target]
        return any(within(path, place) for place in (inside.home, inside.directory, *same))

    def environment(self, inside: Inside) -> dict[str, str]:
        """Return the variables that must be seen inside: the kernelspec's, and above them `container.env`."""
        # The home directory is the host's: what the user has installed there for its Python is not for the image's.
        return {"PYTHONNOUSERSITE": "1", **inside.env, **self.request.env}


class NoContainer(Container):
    """The runtime "none": the command runs as it is."""

    def problems(self, *, directory: str) -> list[str]:
        """Complain about all that only an image can have."""
        given = self.request.model_fields_set - {"runtime"}
        return [f'container.{key}: needs a container.runtime, which is "none"' for key in sorted(given)]

    def command(self, inside: Inside) -> Command:
        """Return the command itself."""
        return Command(list(inside.argv), dict(inside.env))


def environment_file(env: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the lines `NAME=VALUE` for a runtime's `--env-file`, and what such a file cannot hold.

    It has a line for each variable and no quotes: no line breaks, no blanks or quotes at the ends, no empty values. For
    podman a line that begins with # is a comment, and a long one an error.
    """
    plain = {
        name: value
        for name, value in env.items()
        if 0 < len(value) <= _LONGEST_VALUE and value == value.strip(" '") and value.isprintable()
        if not name.startswith("#")
    }
    lines = "".join(f"{name}={value}\n" for name, value in plain.items())
    return lines, {name: value for name, value in env.items() if name not in plain}


def within(path: str, directory: str) -> bool:
    """Whether a path is a directory or lies below it."""
    return f"{path}/".startswith(f"{directory.rstrip('/')}/")


def explained(troubles: Sequence[tuple[str, str, str]], exit_code: int, said: str, *, program: str) -> Trouble | None:
    """Find the first trouble whose pattern occurs in what was said.

    :param troubles: pattern, sentence and hint; the sentence may name the pattern's groups
    :param program: the runtime's own
    """
    common = (
        (
            rf"env: .?{re.escape(program)}.?: No such file",
            f"there is no {program} on the node",
            "Correct container.runtime in the kernelspec, or load the module that brings it by kernel.modules; the"
            " site's support knows which runtime there is.",
        ),
    )
    for pattern, sentence, hint in (*troubles, *common):
        if found := re.search(pattern, said):
            groups = {key: value or "" for key, value in found.groupdict().items()}
            return Trouble(sentence.format(**groups), hint)
    return python_trouble(exit_code, said)


CHECK_IMAGE = "`farkernel images list` shows the images that you may run; correct container.image in the kernelspec."
CHECK_VOLUMES = "Correct container.volumes in the kernelspec."
CHECK_COMMAND = "`farkernel images check` shows what is in it; correct argv in the kernelspec, or choose another image."


def python_trouble(exit_code: int, said: str) -> Trouble | None:
    """Explain a kernel whose command was found in the image, and that lacks its own package: the same everywhere."""
    found = re.search(r"No module named '?([\w.]+)", said)
    if exit_code and found:
        module = found[1]
        if module == "ipykernel_launcher":
            module = "ipykernel"
        return Trouble(
            f"the Python in the image lacks {module}",
            f"Install it when the image is built (pip install {module}), or choose another image.",
        )
    return None
