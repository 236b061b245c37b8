"""Shifter, NERSC's container runtime, and its plugin of Slurm. No I/O.

Source: `shifter --help`, `shifterimg --help` and the plugin of Shifter 22.02, tried on a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Self

from farkernel.provisioners.containers.base import (
    CHECK_COMMAND,
    CHECK_IMAGE,
    CHECK_VOLUMES,
    ENVIRONMENT_FILE,
    KERNEL_DIRECTORY,
    NODES_OWN,
    Command,
    Container,
    ImageEntry,
    ImageStore,
    Inside,
    Trouble,
    Volume,
    environment_file,
    explained,
    within,
)

# `shifter` is setuid: the loader takes these from its environment (ld.so(8), secure-execution mode).
_STRIPPED = re.compile(
    r"""LD_.* | TMPDIR | GCONV_PATH | GETCONF_DIR | GLIBC_TUNABLES | HOSTALIASES | LOCALDOMAIN | LOCPATH | MALLOC_.*
    | NIS_PATH | NLSPATH | RESOLV_HOST_CONF | RES_OPTIONS | TZDIR""",
    re.VERBOSE,
)

# What describes the host's Python; LD_* is stripped anyway, and PATH is the image's.
_FORGET = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")

# Shifter drops other characters without a word: "docker:busy box" would run busybox.
_IMAGE = re.compile(r"(?!(custom|id):|(docker|local):$)[\w:.+@/-]+|custom:[\w:.+@-]+|id:[0-9a-f]{64}", re.ASCII)
_IMAGE_EXPECTED = (
    "expected an image of Shifter's, such as docker:nersc/pyhep:2.0, custom:NAME, local:/path or id:DIGITS "
    '(64 hexadecimal ones); a name has letters, digits and "_:.+@/-"'
)
_PATH = re.compile(r"/[\w:.+/-]*", re.ASCII)
_FLAGS = re.compile(r"ro|perNodeCache=[\w=.,]+", re.ASCII)
_TARGETS_REFUSED = re.compile(r"/|/(etc|var(?!/tmp/?$)|opt/udiImage).*|/opt/?", re.DOTALL)

_OURS = ("--image", "-i", "--volume", "-V", "--module", "-m", "--env", "-e", "--env-file", "--workdir", "-w", "--")


class ShifterImages(ImageStore):
    """`shifterimg`, which asks the site's image gateway."""

    program: ClassVar[str] = "shifterimg"

    def list_argv(self) -> list[str]:
        """Return the command that lists the images that the user may run."""
        return ["shifterimg", "images"]

    def parse_list(self, text: str) -> list[ImageEntry]:
        """Read lines of system, type, status, id, time of the last pull and tag."""
        rows = [line.split() for line in text.splitlines()]
        return [
            ImageEntry(name=f"{row[1]}:{row[5]}", identity=row[3], pulled=row[4].replace("T", " "))
            for row in rows
            if len(row) == 6 and row[2] == "READY"
        ]

    def list_problem(self, returncode: int, text: str) -> str:
        """Return why images could not be listed."""
        return _gateway_problem(text) or super().list_problem(returncode, text)

    def means(self, image: str, entry: ImageEntry) -> bool:
        """Whether a name is that of an image in the list."""
        return full_name(image) == entry.name

    def not_pullable(self, image: str) -> str:
        """Return why a name is none to pull an image by: of an id the gateway says FAILURE alone."""
        return "an id names an image that is there already" if image.startswith("id:") else ""

    def pull_argv(self, image: str) -> list[str]:
        """Return the command that has the gateway fetch an image."""
        return ["shifterimg", "pull", full_name(image)]

    def parse_progress(self, line: str) -> str:
        """Return the status that one of the line's many versions tells."""
        found = re.findall(r"status: (\w+)", line)
        return found[-1] if found else ""

    def pull_problem(self, returncode: int, text: str) -> str:
        """Return why the image was not pulled: `shifterimg pull` ends with 0 all the same."""
        last = self.parse_progress(text)
        if last == "READY" and returncode == 0:
            return ""
        if problem := _gateway_problem(text):
            return problem
        if last == "FAILURE":
            return "the image gateway could not fetch it (status FAILURE): see its name, its tag, and who may read it"
        return self._words(returncode, text)


def _gateway_problem(text: str) -> str:
    # "err 28" and the like are libcurl's codes: all that it says when the gateway accepts and does not answer.
    down = re.search(r"failed to contact the image gateway|^err \d+$", text, re.MULTILINE)
    return "the image gateway does not answer: try again later" if down else ""


class Shifter(Container):
    """Runs the command by `shifter` on the node, and has Slurm make the image ready there.

    Both are given the same image, volumes and modules: then the node's instance is used, and made only once.
    """

    images = ShifterImages()

    def problems(self, *, directory: str) -> list[str]:
        """Say what Shifter would refuse, or silently change."""
        request = self.request
        found = super().problems(directory=directory)
        if request.image and not _IMAGE.fullmatch(request.image):
            found.append(f'container.image: {_IMAGE_EXPECTED}, not "{request.image}"')
        for volume in self.volumes:
            found += [f'container.volumes: "{volume}": {problem}' for problem in _volume_problems(volume)]
        found += self.options_of_ours(*_OURS)
        if directory.startswith("/run"):
            found.append(f'launcher.directory: "{directory}" is not seen in an image; use /tmp or /dev/shm')
        return found

    def resolved(self, real_path: Callable[[str], str]) -> Self:
        """Resolve links in the volumes' sources: Shifter may spin on one for ever, and nobody but root can end it."""
        volumes = [
            volume if _is_nodes_own(volume) else Volume(real_path(volume.source), volume.target, volume.flags)
            for volume in self.volumes
        ]
        return type(self)(self.request.model_copy(update={"volumes": tuple(map(str, volumes))}))

    def slurm_options(self) -> list[str]:
        """Return the plugin's options. Of several --volume only the last counts: they are joined."""
        prefix = {"short": "--", "long": "--shifter.", "off": ""}[self.request.spank]
        if not prefix:
            return []
        options = {
            "image": self._image,
            "volume": ";".join(map(str, self.volumes)),
            "module": ",".join(self.request.modules),
        }
        return [f"{prefix}{name}={value}" for name, value in options.items() if value]

    def command(self, inside: Inside) -> Command:
        """Return the command line of `shifter`.

        The image's own variables win over the environment, and the file wins over them; only what the loader strips
        has to stand in the command line.
        """
        wanted = self.environment(inside)
        stripped = {name: value for name, value in wanted.items() if _STRIPPED.fullmatch(name) and value}
        others = {name: value for name, value in wanted.items() if not _STRIPPED.fullmatch(name)}
        lines, _ = environment_file(others)
        request = self.request
        argv = [
            "/usr/bin/env",
            *(f"--unset={name}" for name in _FORGET if name not in others),
            "shifter",
            f"--image={self._image}",
            *(f"--volume={volume}" for volume in self.volumes),
            *([f"--module={','.join(request.modules)}"] if request.modules else []),
            # an empty file is an error
            *([f"--env-file={KERNEL_DIRECTORY}/{ENVIRONMENT_FILE}"] if lines else []),
            *(f"--env={name}={value}" for name, value in stripped.items()),
            *([f"--workdir={request.workdir}"] if request.workdir else []),
            *request.args,
            *inside.argv,
        ]
        # The kernelspec's PATH is the image's business (the file has it): `shifter` is found on the node's.
        outside = {name: value for name, value in others.items() if name != "PATH"}
        return Command(argv, outside, {ENVIRONMENT_FILE: lines})

    def explain(self, exit_code: int, said: str) -> Trouble | None:
        """Recognise what `shifter`, the plugin of Slurm and the loader inside say."""
        trouble = explained(_TROUBLES, exit_code, said, program="shifter")
        return trouble and Trouble(self._with_volume(trouble.sentence), trouble.hint)

    def _with_volume(self, sentence: str) -> str:
        """Name the volume instead of a place below the directory where Shifter makes its root."""
        about, colon, path = sentence.rpartition(": ")
        for volume in self.volumes:
            if colon and path.endswith((volume.source, volume.target)):
                return f"{about}: {volume}"
        return sentence

    @property
    def _image(self) -> str:
        return full_name(self.request.image or "")


def full_name(image: str) -> str:
    """Return an image's name with the type and the tag that Shifter would take."""
    kind, colon, rest = image.partition(":")
    if not colon or kind not in {"docker", "custom", "id", "local"}:
        kind, rest = "docker", image
    if kind == "docker" and ":" not in rest.rpartition("/")[2] and "@" not in rest:
        rest += ":latest"
    return f"{kind}:{rest}"


def spellings(image: str) -> set[str]:
    """Return every way to write an image's name, with its type and its tag and without, as far as Shifter takes it."""
    full = full_name(image)
    untyped = full.removeprefix("docker:")
    names = {full, untyped, full.removesuffix(":latest"), untyped.removesuffix(":latest")}
    return {name for name in names if full_name(name) == full}


def _is_nodes_own(volume: Volume) -> bool:
    """Whether nothing can be said here of the volume's source: it lies on the node, or will be made there."""
    return any(within(volume.source, place) for place in NODES_OWN) or volume.flags.startswith("perNodeCache")


def _volume_problems(volume: Volume) -> list[str]:
    found = [
        f'Shifter would drop characters of "{path}"; it may have letters, digits and "_.+/-"'
        for path in (volume.source, volume.target)
        if not _PATH.fullmatch(path)
    ]
    if volume.flags and not _FLAGS.fullmatch(volume.flags):
        found.append(f'"{volume.flags}" is no flag of Shifter\'s for users: there are ro and perNodeCache=size=SIZE')
    if _TARGETS_REFUSED.fullmatch(volume.target):
        found.append("Shifter allows no such target: not /, /opt itself, or in /etc or /var (but /var/tmp)")
    if within(volume.source, "/run"):
        found.append("/run is not seen by Shifter")
    return found


_CHECK_MODULES = "Correct container.modules in the kernelspec; the site's documentation lists Shifter's modules."

_TROUBLES = (
    (
        r"FAILED to lookup (\w+ )?image|Failed to lookup image|failed to contact the image gateway",
        "Shifter does not know the image, you may not use it, or the image gateway is down",
        CHECK_IMAGE,
    ),
    (r"FAILED to find requested image", "there is no image of that name or id", CHECK_IMAGE),
    (r"FAILED permission denied to image", "you may not use the image", CHECK_IMAGE),
    (
        r'FAILED to find real path for volume "from": (?P<what>\S+)',
        "the source {what} of one of its volumes does not exist on the node, or not where Shifter can see it",
        CHECK_VOLUMES,
    ),
    (
        r"Invalid Volume Map: (?P<what>\S+?),|disallowed volume map request:? ?(?P<other>\S*)|Failed to parse volume map",  # noqa: E501
        "Shifter refuses one of its volumes: {what}{other}",
        CHECK_VOLUMES,
    ),
    (r"Unknown flag: (?P<what>.*)", "Shifter does not know the flag of one of its volumes: {what}", CHECK_VOLUMES),
    (
        r"Unknown shifter module: (?P<what>\S+)|Invalid shifter module selection: (?P<other>\S+)",
        "Shifter has no module {what}{other}",
        _CHECK_MODULES,
    ),
    (
        r'FAILED to create volume "to": (?P<what>[^,\n]+)',
        "the image has no directory for one of its volumes, and Shifter can make none there: {what}",
        CHECK_VOLUMES,
    ),
    (
        r"Mount request path (?P<what>\S+) not on an approved device|BIND MOUNT FAILED from \S+ to (?P<other>\S+)",
        "Shifter cannot mount one of its volumes where another one or the site's file system is: {what}{other}",
        CHECK_VOLUMES,
    ),
    (
        r'FAILED "(?:from|to)" location is not directory: (?P<what>\S+)',
        "an end of one of its volumes is not a directory: {what}",
        CHECK_VOLUMES,
    ),
    (
        r"perNodeCache|per-node cache|cache filesystem",
        "Shifter could not make the cache of one of its volumes on the node",
        "Ask for another size (xfs wants 300M or more), or ask the site's support whether there are such caches.",
    ),
    (r"FAILED to setup user-requested mounts", "Shifter could not mount one of its volumes", CHECK_VOLUMES),
    (
        r"FAILED to mount image|FAILED to setup image",
        "Shifter could not mount the image on the node",
        "Pull it again (`farkernel images pull`); if it stays so, ask the site's support.",
    ),
    (
        r"FAILED to open env-file: (?P<what>\S+)",
        "the kernel's directory on the node is not seen inside: {what}",
        "Set launcher.directory in the kernelspec to one that is: /tmp or /dev/shm.",
    ),
    (
        r"No image specified|Cannot specify shifter volumes without",
        "Shifter was given no image",
        "Another kernel or script may have left SHIFTER variables in the environment; correct container.image.",
    ),
    (
        r"Not running with root privileges",
        "shifter has no privileges here (no_new_privs, or it is not setuid)",
        "Start the notebook server outside of a container; if it stays so, ask the site's support.",
    ),
    (
        r"shifter: (?P<what>(unrecognized|invalid) option .*|option .* (requires|doesn't allow|is ambiguous).*)",
        "shifter was given options that it does not take: {what}",
        "Correct container.args in the kernelspec; `shifter --help` lists its options.",
    ),
    (
        r"(?:unrecognized |invalid )?option (?:-- )?'--(?:shifter\.)?(?:image|volume|module)[^'\n]*'",
        "this srun has no options for Shifter images of that form",
        'Set container.spank in the kernelspec to "long" (--shifter.image), or to "off" where Slurm lacks the plugin.',
    ),
    (
        r"shifter: (?P<what>.+?): No such file or directory",
        "the image has no command {what}",
        CHECK_COMMAND,
    ),
    (
        r"shifter: (?P<what>.+?): (?P<other>Permission denied|Exec format error)",
        "the image's {what} is no program that can be run: {other}",
        CHECK_COMMAND,
    ),
)
