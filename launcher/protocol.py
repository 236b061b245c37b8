"""What the login side and the launcher say to each other.

The conversation starts on the launcher's standard input and output, before there is a link:

- stdin, one JSON line each: `Setup`, then a first `StartKernel` or an empty line;
- stdout, one JSON line after `MARK`: `Started`;
- stdin again, where it is the launcher that connects: an empty line, once its key is let in.

Where the login side has only ssh to the login node, a keeper there (`farkernel.launcher.keeper`) holds srun for it. Its
own conversation: on its standard input a `Keep` and what srun is to read, on its standard output, after `MARK`, `Kept`,
`Missing` or `Failed`; then, on the unix socket that `Kept` names, `Attach`, `CloseInput` and `SignalProgram` one way,
`Said` and `Gone` the other.

From then on both sides speak on the link (`farkernel.launcher.link`): orders towards the launcher,
events towards the login side, and the kernels' own messages beside them.

Both ends always run the same version of this code, since the launcher's travels to the node; `VERSION`
is checked all the same, because a launcher may outlive the process that started it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar, cast

VERSION = 1

MARK = "farkernel-launcher "
"""Begins the one line of stdout that is meant for the login side; a site may print others."""


class ProtocolError(Exception):
    """The other side said something that this version does not know."""


class Channel(enum.IntEnum):
    """Whose message it is: one of a kernel's five channels, or our own orders and events.

    The first five are the channels of the Jupyter messaging protocol, in the order of their connection files.
    """

    SHELL = 1
    IOPUB = 2
    STDIN = 3
    CONTROL = 4
    HB = 5
    ORDER = 6
    EVENT = 7


PORT_NAMES = {
    Channel.SHELL: "shell_port",
    Channel.IOPUB: "iopub_port",
    Channel.STDIN: "stdin_port",
    Channel.CONTROL: "control_port",
    Channel.HB: "hb_port",
}
"""A kernel's channels, and what connection files call their ports."""


# ---- on stdin and stdout ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setup:
    """How launcher and login side come together: the launcher listens, or it connects.

    :param login_key: the login side's public CURVE key (Z85), the only one that is spoken to
    :param interface: to listen on: name or address of a network interface, empty for all
    :param ports: to listen on: first and last TCP port to choose from, or empty for any
    :param addresses: to connect to: the login side's host names and addresses; empty if the launcher is to listen
    :param port: to connect to: the login side's TCP port
    :param connect_timeout: seconds in which one of these addresses has to answer
    :param directory: where on the node its 0700 directory goes, empty for /tmp
    :param orphan_timeout: seconds without a word from the login side after which everything is ended
    """

    login_key: str
    interface: str
    ports: list[int]
    addresses: list[str]
    port: int
    connect_timeout: float
    directory: str
    orphan_timeout: float
    version: int = VERSION


@dataclasses.dataclass(frozen=True)
class Started:
    """The launcher is up.

    :param node: the node's name
    :param addresses: host names and addresses to try, best first; none if it is the launcher that connects
    :param port: its TCP port, 0 if it is the launcher that connects
    :param launcher_key: its public CURVE key (Z85)
    :param job_id: Slurm's job id, empty without Slurm
    """

    node: str
    addresses: list[str]
    port: int
    launcher_key: str
    job_id: str
    pid: int
    version: int = VERSION


@dataclasses.dataclass(frozen=True)
class Failed:
    """The launcher cannot start; said instead of `Started`.

    :param reason: one sentence
    """

    reason: str
    version: int = VERSION


# ---- with a keeper ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Keep:
    """Run a program, and hold it for whoever attaches.

    :param env: its whole environment
    :param cwd: where it runs; the home directory if that does not exist
    :param size: bytes that follow, which the program reads first
    :param orphan_timeout: seconds without anybody after which a program that has not said `Started` is ended
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    size: int
    orphan_timeout: float
    version: int = VERSION


@dataclasses.dataclass(frozen=True)
class Kept:
    """The program runs.

    :param path: the unix socket at which the keeper listens
    :param host: the name of its host: a login node's address may lead to any of several
    """

    path: str
    host: str
    version: int = VERSION


@dataclasses.dataclass(frozen=True)
class Missing:
    """There is no such program on the keeper's host."""

    program: str
    version: int = VERSION


@dataclasses.dataclass(frozen=True)
class Attach:
    """Tell what there is to tell; said again and again, it tells the keeper that somebody is there.

    :param after: the number of the last `Said` that is known
    """

    after: int
    version: int = VERSION


@dataclasses.dataclass(frozen=True)
class CloseInput:
    """Let the program read the end of its input."""


@dataclasses.dataclass(frozen=True)
class SignalProgram:
    """Send a signal to the program's process group."""

    signum: int


@dataclasses.dataclass(frozen=True)
class Said:
    """The program has written a line.

    :param number: counts what it has said, from 1
    :param error: whether it was on its standard error
    """

    number: int
    error: bool
    line: str


@dataclasses.dataclass(frozen=True)
class Gone:
    """The program has ended; nothing follows.

    :param returncode: as `subprocess` gives it: negative for a signal
    """

    returncode: int


# ---- orders ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StartKernel:
    """Start a kernel, or start it anew.

    :param kernel: its number on this launcher
    :param generation: counts its starts; messages of another generation are dropped
    :param argv: its command; `{connection_file}`, `{kernel_directory}` (its own one) and `{kernel_cwd}` are replaced on
        the node
    :param env: variables on top of the job's own
        A container runtime that does not become the kernel writes the kernel's process id to `{kernel_directory}/pid`
    :param files: what is to lie in its directory, content by name; only the user can read it
    :param cleanup: a command, with the same words replaced, for when it has ended; empty for none
    :param cwd: directories of which the first that exists is taken
    :param transport: how it is reached on the node: `ipc` or `tcp` (loopback)
    :param key: the key that its messages are signed with
    :param signature_scheme: as in a connection file
    """

    kernel: int
    generation: int
    argv: list[str]
    env: dict[str, str]
    cwd: list[str]
    transport: str
    key: str
    signature_scheme: str
    kernel_name: str
    files: dict[str, str]
    cleanup: list[str]


@dataclasses.dataclass(frozen=True)
class SignalKernel:
    """Send a signal to the kernel's process group."""

    kernel: int
    signum: int


@dataclasses.dataclass(frozen=True)
class EndLauncher:
    """End every kernel, remove everything, leave."""


@dataclasses.dataclass(frozen=True)
class Walltime:
    """The job's end, to be warned of; another one takes the place of the one before.

    :param end: seconds since 1970; None for no limit
    :param hook: a command that is run at each warning, for each kernel; empty for none
    """

    end: float | None
    hook: list[str]


Order = StartKernel | SignalKernel | EndLauncher | Walltime


# ---- events ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class KernelStarted:
    """The kernel's process runs; it has not answered yet."""

    kernel: int
    generation: int
    pid: int
    cwd: str


@dataclasses.dataclass(frozen=True)
class KernelReady:
    """The kernel has answered on shell and was heard on iopub."""

    kernel: int
    generation: int


@dataclasses.dataclass(frozen=True)
class KernelRefused:
    """The kernel's process could not be started.

    :param errno: of the failed call
    :param path: what it was about: the command, or the working directory
    :param reason: the system's words
    """

    kernel: int
    generation: int
    errno: int
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class KernelEnded:
    """The kernel's process has ended.

    :param exit_code: as `subprocess` gives it: negative for a signal
    :param out_of_memory: the node's memory limit ended it
    :param stderr: the end of what it wrote there
    """

    kernel: int
    generation: int
    exit_code: int
    out_of_memory: bool
    stderr: str


@dataclasses.dataclass(frozen=True)
class KernelLog:
    """Something that the kernel's process wrote to its own stdout or stderr."""

    kernel: int
    generation: int
    text: str


@dataclasses.dataclass(frozen=True)
class OutputDropped:
    """The link was full for so long that output had to be dropped.

    :param messages: how many
    """

    kernel: int
    generation: int
    messages: int


@dataclasses.dataclass(frozen=True)
class TimeLeft:
    """The job ends soon.

    :param seconds: until then
    """

    kernel: int
    generation: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class HookFailed:
    """The walltime hook could not be run, or has ended with an error.

    :param reason: how, and the end of what it wrote
    """

    kernel: int
    generation: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Usage:
    """What the kernel's processes take of the node; told when it has changed noticeably.

    :param memory: bytes
    :param cpu: seconds of processor time so far
    """

    kernel: int
    generation: int
    memory: int
    cpu: float


Event = (
    KernelStarted
    | KernelReady
    | KernelRefused
    | KernelEnded
    | KernelLog
    | OutputDropped
    | TimeLeft
    | HookFailed
    | Usage
)


# ---- JSON ------------------------------------------------------------------------------------------------

_TYPES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        Setup, Started, Failed,
        Keep, Kept, Missing, Attach, CloseInput, SignalProgram, Said, Gone,
        StartKernel, SignalKernel, EndLauncher, Walltime,
        KernelStarted, KernelReady, KernelRefused, KernelEnded, KernelLog, OutputDropped,
        TimeLeft, HookFailed, Usage,
    )
}  # fmt: skip

M = TypeVar("M")


def encode(message: Any) -> bytes:
    """Return a message of this module as one line of JSON, without the line's end."""
    fields = {"type": type(message).__name__, **dataclasses.asdict(message)}
    return json.dumps(fields, allow_nan=False).encode()


def decode(data: bytes | str, expected: type[M]) -> M:
    """Return the message that `encode` made `data` of.

    :raises ProtocolError: it is none, not an `expected` one, or of another version
    """
    message = _decode(data)
    if not isinstance(message, expected):
        raise ProtocolError(f"{type(message).__name__} is not expected here")
    return message


def decode_answer(data: bytes | str) -> Started | Failed:
    """Return what the launcher says on its standard output; raises as `decode`."""
    return cast("Started | Failed", _decode(data, Started | Failed))


def decode_kept(data: bytes | str) -> Kept | Missing | Failed:
    """Return what a keeper says on its standard output; raises as `decode`."""
    return cast("Kept | Missing | Failed", _decode(data, Kept | Missing | Failed))


def decode_instruction(data: bytes | str) -> Attach | CloseInput | SignalProgram:
    """Return what a keeper is told; raises as `decode`."""
    return cast("Attach | CloseInput | SignalProgram", _decode(data, Attach | CloseInput | SignalProgram))


def decode_news(data: bytes | str) -> Said | Gone:
    """Return what a keeper tells; raises as `decode`."""
    return cast("Said | Gone", _decode(data, Said | Gone))


def decode_order(data: bytes | str) -> Order:
    """Return an order; raises as `decode`."""
    return cast("Order", _decode(data, Order))


def decode_event(data: bytes | str) -> Event:
    """Return an event; raises as `decode`."""
    return cast("Event", _decode(data, Event))


_LARGEST = sys.float_info.max
"""Neither infinity, nor "not a number", nor an integer that no float can be, is below it."""

_KINDS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int),
    "bool": lambda value: isinstance(value, bool),
    "float": lambda value: isinstance(value, (float, int)) and abs(value) <= _LARGEST,
    "float | None": lambda value: value is None or _KINDS["float"](value),
    "list[str]": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "list[int]": lambda value: isinstance(value, list) and all(isinstance(item, int) for item in value),
    "dict[str, str]": lambda value: isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
}


def _check(message: Any) -> None:
    """Look at what kind each field is; both sides are of one version, but what stands in between may not be."""
    for field in dataclasses.fields(message):
        if not _KINDS[str(field.type)](getattr(message, field.name)):
            raise TypeError(f"{field.name} is no {field.type}")


def _decode(data: bytes | str, expected: types.UnionType | type = object) -> object:
    try:
        fields = json.loads(data)
        cls = _TYPES[fields.pop("type")]
        message = cls(**fields)
        _check(message)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"not a message of farkernel's protocol {VERSION}: {error!r}") from error
    if not isinstance(message, expected):
        raise ProtocolError(f"{cls.__name__} is not expected here")
    version = getattr(message, "version", VERSION)
    if version != VERSION:
        raise ProtocolError(f"the other side speaks protocol {version}, this one {VERSION}")
    return message
