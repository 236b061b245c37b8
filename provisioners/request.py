"""The request: what a kernelspec asks for, validated.

A request is the content of `metadata.kernel_provisioner.config` in a kernelspec's `kernel.json`. Its keys are
described in docs/reference.md, and by `request_schema` for editors.
"""

import difflib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.srun_options import check_extra_args


def _matching(pattern: str, expected: str) -> BeforeValidator:
    """Accept a string that matches as a whole; `expected` says what that is, for the user."""

    def check(value: object) -> object:
        if value is None or (isinstance(value, str) and re.fullmatch(pattern, value)):
            return value
        raise ValueError(expected)

    return BeforeValidator(check)


def _whole_number(value: object) -> object:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("a whole number, 1 or more, without quotes")


def _flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false, without quotes")


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = r"(?=.)(\d+d)?(\d+h)?(\d+m)?(\d+s)?"
_DURATION_EXPECTED = 'a number of seconds above 0, or text such as "90s", "10m", "4h", "1d", "1h30m"'


def _duration(value: object) -> float:
    seconds = -1.0
    if isinstance(value, str) and re.fullmatch(_DURATION, value, re.ASCII):
        seconds = sum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"\d+[dhms]", value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= sys.float_info.max else -1.0
    if not 0 < seconds < math.inf:
        raise ValueError(_DURATION_EXPECTED)
    return seconds


def _slurm_time(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    pattern = r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}"
    if value is None or (isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII)):
        return value
    raise ValueError('Slurm\'s time: minutes, "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS"')


def _gpus(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"([A-Za-z][\w.-]*:)?[1-9]\d*", value, re.ASCII):
        return value
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError('a whole number, 1 or more, or a type and a number such as "a100:2"')


def _ports(value: object) -> object:
    if value is None:
        return value
    found = re.fullmatch(r"(\d{4,5})-(\d{4,5})", value, re.ASCII) if isinstance(value, str) else None
    if found and 1024 <= int(found[1]) <= int(found[2]) <= 65535:
        return value
    raise ValueError('a range of ports from 1024 to 65535 such as "20000-20100"')


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)) and all(_is_word(item) for item in value):
        return tuple(value)
    raise ValueError("a list of texts, each on one line and not empty")


def _is_text(value: object) -> bool:
    """Whether the system takes a text as an argument or variable; JSON has some that it does not."""
    return isinstance(value, str) and re.search(r"[\x00\ud800-\udfff]", value) is None


def _is_word(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[^{_CONTROL}]+", value) is not None


def _extra_args(value: object) -> tuple[str, ...]:
    words = _strings(value)
    if problems := check_extra_args(words):
        raise PydanticCustomError("not_allowed", "{problems}", {"problems": "; ".join(problems)})
    return words


def _modules(value: object) -> tuple[str, ...]:
    words = _strings(value)
    if all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+@=/-]*", word) for word in words):
        return words
    raise ValueError('a list of modules such as ["gcc/12.2.0", "cray-mpich"], without blanks and colons')


def _volumes(value: object) -> tuple[str, ...]:
    words = _strings(value)
    if all(re.fullmatch(r"/[^:;]*:/[^:;]*(:[^:;]+)?", word) for word in words):
        return words
    raise ValueError('a list of volumes such as ["/scratch/alice:/data", "/global/ref:/ref:ro"], with absolute paths')


def _variables(value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        variables = {str(name): text for name, text in value.items()}
        if all(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in variables) and all(
            _is_text(text) for text in variables.values()
        ):
            return variables
    raise ValueError('environment variables such as {"OMP_NUM_THREADS": "4"}, each value a text')


_BURST_BUFFER_EXPECTED = 'lines that begin with #DW or #BB, or {"file": "/path"}'


def _burst_buffer(value: object) -> object:
    if value is None or isinstance(value, BurstBufferFile):
        return value
    if isinstance(value, str) and _is_text(value):
        lines = value.splitlines()
        if lines and all(re.match(r"#(DW|BB)\s", line) for line in lines):
            return value
    if isinstance(value, Mapping) and set(value) == {"file"} and _is_path(value["file"]):
        return value
    raise ValueError(_BURST_BUFFER_EXPECTED)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(_PATH, value) is not None


_CONTROL = r"\x00-\x1f\x7f\ud800-\udfff"
_PATH = rf"/[^{_CONTROL}]*"
_TEXT = rf"[^ {_CONTROL}-][^{_CONTROL}]*"
_SIZE = r"[0-9]+[KMGTkmgt]?"

Text = Annotated[str, _matching(_TEXT, 'text on one line that does not begin with "-" or a blank')]
Count = Annotated[int, BeforeValidator(_whole_number), Field(ge=1)]
Login = Annotated[
    str,
    _matching(
        rf"([^ @{_CONTROL}-][^ @{_CONTROL}]*@)?[A-Za-z0-9_][A-Za-z0-9_.:%-]*", 'a host, or "user@host", as for ssh'
    ),
]
Size = Annotated[str, _matching(_SIZE, 'a size with a unit, such as "4G" or "500M"')]
SlurmTime = Annotated[
    str, BeforeValidator(_slurm_time), WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]})
]
Flag = Annotated[bool, BeforeValidator(_flag)]
Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": f"^{_DURATION}$"},
            ]
        }
    ),
]
AbsolutePath = Annotated[str, _matching(_PATH, 'an absolute path, such as "/scratch/alice"')]
Program = Annotated[
    str,
    _matching(rf"{_PATH}|[^ {_CONTROL}/-][^ {_CONTROL}/]*", "an absolute path, or a program's name"),
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BurstBufferFile(_Part):
    """A file of burst buffer directives."""

    file: str = Field(description="Absolute path of the file, given to srun as --bbf.")


class SlurmRequest(_Part):
    """The resources of the job: srun's options, see srun(1). A key that is not given is left to Slurm."""

    account: Text | None = Field(default=None, description="Account that pays for the job.")
    qos: Text | None = Field(default=None, description="Quality of service.")
    partition: Text | None = Field(default=None, description="Partition, or several separated by commas.")
    constraint: Text | None = Field(default=None, description="Features that the nodes must have.")
    nodes: Count | None = Field(default=None, description="Number of nodes.")
    ntasks_per_node: Count | None = Field(
        default=None, description="Number of tasks on each node that the job has room for; 1 if not given."
    )
    cpus_per_task: Count | None = Field(
        default=None,
        description="CPUs for each of these tasks; a node gives ntasks_per_node times cpus_per_task.",
    )
    gpus: Annotated[int | str | None, BeforeValidator(_gpus)] = Field(
        default=None, description='Number of GPUs of the whole job, or type and number such as "a100:2".'
    )
    gres: Text | None = Field(default=None, description='Generic resources of each node, such as "gpu:2".')
    mem: Size | None = Field(default=None, description='Memory of each node, such as "4G"; "0" is all of it.')
    time: SlurmTime | None = Field(
        default=None,
        description='Longest time the job may run: minutes, or text such as "4:00:00" or "1-12:00".',
    )
    reservation: Text | None = Field(default=None, description="Reservation to run in.")
    licenses: Text | None = Field(default=None, description='Licenses, such as "SCRATCH" or "foo:2".')
    burst_buffer: Annotated[str | BurstBufferFile | None, BeforeValidator(_burst_buffer)] = Field(
        default=None,
        description='Burst buffer: the "#DW" or "#BB" lines, or {"file": path} for a file of them.',
    )
    job_name: Text = Field(default="farkernel", description="Name of the job in the queue.")
    exclusive: Flag = Field(
        default=False,
        description="Let nobody else use the nodes. The kernel still gets only the CPUs that are asked for"
        " by ntasks_per_node and cpus_per_task.",
    )
    comment: Text | None = Field(default=None, description="Comment that Slurm keeps with the job.")
    extra_args: Annotated[tuple[str, ...], BeforeValidator(_extra_args)] = Field(
        default=(),
        description="Other options of srun, each a word of its command line, best as --option=value.",
    )


class ContainerRequest(_Part):
    """The image that the kernel runs in. What its runtime would not take is known to `container_of` alone."""

    runtime: Annotated[str, _matching(r"[A-Za-z0-9][\w.-]*", "the name of a container runtime")] = Field(
        default="none",
        description="What puts the kernel's command inside the image: shifter, podman-hpc, apptainer, charliecloud or"
        " one that the site has added; none runs it as it is.",
    )
    image: Text | None = Field(default=None, description="The image's name, as the runtime knows it.")
    volumes: Annotated[tuple[str, ...], BeforeValidator(_volumes)] = Field(
        default=(),
        description='Directories of the node that are seen inside, as "source:target" or "source:target:flags".',
    )
    modules: Annotated[tuple[str, ...], BeforeValidator(_modules)] = Field(
        default=(), description="The runtime's own modules, such as Shifter's mpich."
    )
    env: Annotated[dict[str, str], BeforeValidator(_variables)] = Field(
        default={}, description="Environment variables inside the image; they win over the kernelspec's env."
    )
    workdir: AbsolutePath | None = Field(
        default=None, description="Directory inside the image that the kernel starts in; null is kernel.cwd."
    )
    args: Annotated[tuple[str, ...], BeforeValidator(_strings)] = Field(
        default=(), description="Other options of the runtime, each a word of its command line."
    )
    spank: Annotated[Literal["short", "long", "off"], _matching("short|long|off", '"short", "long" or "off"')] = Field(
        default="short",
        description="How srun is told of a Shifter image: --image (short), --shifter.image (long), or not (off).",
    )


class JobPolicy(_Part):
    """How farkernel deals with the job."""

    max_wait: Duration | None = Field(
        default=None, description="Longest time the job may wait in the queue; null waits for ever."
    )
    orphan_timeout: Duration = Field(
        default=120.0, description="How long the job stays up when the login side has not been heard of."
    )
    queue_messages: Flag = Field(default=True, description="Show the state of the queue in the cell that waits.")
    walltime_hook: Annotated[tuple[str, ...], BeforeValidator(_strings)] = Field(
        default=(),
        description="Command that runs on the node, beside the kernel, 15, 5 and 1 minutes before the job's time is up:"
        " a program and its arguments.",
    )


class LauncherRequest(_Part):
    """The launcher, farkernel's program on the job's first node."""

    python: Program | None = Field(
        default=None,
        description="Python that runs the launcher on the node; null is the notebook server's own, and with `login`,"
        " where it also runs on the login node, python3.",
    )
    directory: AbsolutePath | None = Field(
        default=None,
        description="Directory on the node for its private one; null is /tmp.",
    )
    connect: Annotated[Literal["node", "login"], _matching("node|login", '"node" or "login"')] = Field(
        default="node",
        description="Which side the other one connects to: the launcher on the node, or the login node's side where"
        " login nodes cannot reach compute nodes.",
    )
    ports: Annotated[str | None, BeforeValidator(_ports)] = Field(
        default=None,
        description='TCP ports that may be listened on, such as "20000-20100"; null is any.',
    )
    interface: (
        Annotated[
            str,
            _matching(r"[A-Za-z0-9:][A-Za-z0-9_.:%@-]*", "a network interface's name or address"),
        ]
        | None
    ) = Field(
        default=None,
        description="Network interface, by name or address, that is listened on, of the node or the login node as"
        " connect says; null is all.",
    )
    start_timeout: Duration = Field(
        default=60.0, description="How long it may take to come up once the job runs, and the kernel after it."
    )

    @property
    def port_range(self) -> range:
        """The ports that may be listened on; empty for any."""
        first, _, last = (self.ports or "0--1").partition("-")
        return range(int(first), int(last) + 1)

    @property
    def on_node(self) -> str:
        """The directory on the node in which it makes its private one."""
        return self.directory or "/tmp"  # noqa: S108


class KernelRequest(_Part):
    """The kernel itself."""

    transport: Annotated[Literal["auto", "ipc", "tcp"], _matching("auto|ipc|tcp", '"auto", "ipc" or "tcp"')] = Field(
        default="auto",
        description="How the launcher talks to the kernel: ipc (unix sockets), tcp, or what it can.",
    )
    modules: Annotated[tuple[str, ...], BeforeValidator(_modules)] = Field(
        default=(),
        description="Environment modules that are loaded before the kernel, as name or name/version.",
    )
    cwd: AbsolutePath | None = Field(
        default=None, description="Directory on the node that the kernel starts in; null is the notebook's."
    )
    shutdown_timeout: Duration = Field(
        default=5.0, description="How long the kernel may take to end when asked, before it is killed."
    )


class Request(_Part):
    """Everything that a kernelspec asks of farkernel."""

    login: Login | None = Field(
        default=None,
        description="Login node, as [user@]host, where Slurm's commands run by ssh; null is this host.",
    )
    slurm: SlurmRequest = Field(default=SlurmRequest(), description="The resources of the job.")
    container: ContainerRequest = Field(default=ContainerRequest(), description="The image that the kernel runs in.")
    job: JobPolicy = Field(default=JobPolicy(), description="How farkernel deals with the job.")
    launcher: LauncherRequest = Field(
        default=LauncherRequest(), description="The program that starts the kernel on the node."
    )
    kernel: KernelRequest = Field(default=KernelRequest(), description="The kernel itself.")


def parse_request(config: Mapping[str, object], *, source: str) -> Request:
    """Validate the config of a kernelspec.

    :param config: `metadata.kernel_provisioner.config` as JSON gives it
    :param source: where it comes from, usually the path of the kernel.json; every message begins with it
    :raises RequestError: one line for each thing that is wrong: source, dotted key, value, what is expected
    """
    try:
        return Request.model_validate(config)
    except ValidationError as failure:
        lines: dict[str, str] = {}  # by key: a key is complained about once
        for error in failure.errors(include_url=False):
            key = ".".join(str(part) for part in error["loc"][:2])
            lines.setdefault(key, f"{source}: {_problem(key, error['type'], error['input'], error)}")
        raise RequestError("\n".join(lines.values())) from None


def check_kernelspec(argv: Sequence[str], env: Mapping[str, object], *, source: str) -> None:
    """Look at what Jupyter itself takes from a kernelspec, unchecked.

    :raises RequestError: a word or a variable that the system does not take
    """
    lines = [] if argv else ["argv: expected a command, it is empty"]
    lines += [f"argv: no system takes the word {_shown(word)}" for word in argv if not _is_text(word)]
    lines += [
        f"env: no system takes the variable {_shown(name)}={_shown(value)}"
        for name, value in env.items()
        if not (_is_text(name) and name and "=" not in name and _is_text(str(value)))
    ]
    if lines:
        raise RequestError("\n".join(f"{source}: {line}" for line in lines))


_GATEWAYS = ("authorized_users", "unauthorized_users")
"""What a process proxy of Enterprise Gateway reads itself."""


def check_process_proxy(config: object, *, source: str) -> None:
    """Look at the config that a kernelspec has for Enterprise Gateway: ours stands elsewhere, once for all.

    :param config: `metadata.process_proxy.config`
    :raises RequestError: it asks for something that nobody would heed
    """
    if not isinstance(config, Mapping):
        raise RequestError(f"{source}: metadata.process_proxy.config: expected an object, not {_shown(config)}")
    lines = [
        f"{source}: metadata.process_proxy.config.{key}: unknown key (value {_shown(value)}); what farkernel takes "
        "stands in metadata.kernel_provisioner.config"
        for key, value in config.items()
        if key not in _GATEWAYS
    ]
    if lines:
        raise RequestError("\n".join(lines))


def request_keys() -> Iterator[str]:
    """Every key of a request, such as `slurm.account` and `login`."""
    for section, field in Request.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from (f"{section}.{name}" for name in part.model_fields)
        else:
            yield section


def request_schema() -> dict[str, Any]:
    """JSON Schema of a request, for editors that complete and check kernel.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Request.model_json_schema()


def _problem(key: str, kind: str, value: object, error: Mapping[str, Any]) -> str:
    if kind == "extra_forbidden":
        nearest = _nearest(key)
        advice = f"; did you mean {nearest}?" if nearest else ""
        return f"{key}: unknown key (value {_shown(value)}){advice}"
    if not key:
        return f"expected an object, not {_shown(value)}"
    if kind == "not_allowed":
        return f"{key}: {error['msg']} (value {_shown(value)})"
    if kind == "value_error":
        return f"{key}: expected {error['ctx']['error']}, not {_shown(value)}"
    return f"{key}: expected an object, not {_shown(value)}"


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, default=repr, ensure_ascii=False).encode(errors="backslashreplace").decode()
    except RecursionError:
        text = "[[[..."
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(key: str) -> str | None:
    """Return the valid key that `key` was probably meant to be."""
    section, dot, _ = key.partition(".")
    valid = list(request_keys())
    by_name = {name.partition(".")[2]: name for name in valid}
    word = key.rpartition(".")[2]
    if word in by_name:  # right, in a wrong section
        return by_name[word]
    siblings = [name for name in valid if name.startswith(f"{section}.")]
    found = difflib.get_close_matches(key, siblings if dot else Request.model_fields, n=1, cutoff=0.75)
    if found:
        return found[0]
    found = difflib.get_close_matches(word, by_name, n=1, cutoff=0.7)
    return by_name[found[0]] if found else None
