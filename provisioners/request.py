"""The request: what a kernelspec asks for, validated.

A request is the content of `metadata.kernel_provisioner.config` in a kernelspec's `kernel.json`. Its keys are
described in docs/reference.md, and by `request_schema` for editors.
"""

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.kinds import (
    AbsolutePath,
    BurstBuffer,
    Count,
    Duration,
    Flag,
    Gpus,
    Gres,
    Interface,
    Kind,
    Login,
    Modules,
    Ports,
    Program,
    Runtime,
    Side,
    Size,
    SlurmTime,
    Spank,
    SrunOptions,
    TemplateName,
    Text,
    Transport,
    Variables,
    Volumes,
    Words,
    is_text,
    is_word,
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SlurmRequest(_Part):
    """The resources of the job: srun's options, see srun(1). A key that is not given is left to Slurm."""

    account: Text | None = Field(default=None, examples=["m1234"], description="Account that pays for the job.")
    qos: Text | None = Field(default=None, examples=["interactive"], description="Quality of service.")
    partition: Text | None = Field(
        default=None, examples=["debug"], description="Partition, or several separated by commas."
    )
    constraint: Text | None = Field(
        default=None, examples=["knl,quad,cache"], description="Features that the nodes must have."
    )
    nodes: Count | None = Field(default=None, examples=[2], description="Number of nodes.")
    ntasks_per_node: Count | None = Field(
        default=None,
        examples=[4],
        description="Number of tasks on each node that the job has room for; 1 if not given.",
    )
    cpus_per_task: Count | None = Field(
        default=None,
        examples=[8],
        description="CPUs for each of these tasks; a node gives ntasks_per_node times cpus_per_task.",
    )
    gpus: Gpus = Field(
        default=None, description='Number of GPUs of the whole job, or type and number such as "a100:2".'
    )
    gres: Gres | None = Field(
        default=None, examples=["gpu:2"], description='Generic resources of each node, such as "gpu:2".'
    )
    mem: Size | None = Field(default=None, description='Memory of each node, such as "4G"; "0" is all of it.')
    time: SlurmTime | None = Field(
        default=None,
        description='Longest time the job may run: minutes, or text such as "4:00:00" or "1-12:00".',
    )
    reservation: Text | None = Field(default=None, examples=["school"], description="Reservation to run in.")
    licenses: Text | None = Field(
        default=None, examples=["SCRATCH"], description='Licenses, such as "SCRATCH" or "foo:2".'
    )
    burst_buffer: BurstBuffer = Field(
        default=None,
        description='Burst buffer: the "#DW" or "#BB" lines, or {"file": path} for a file of them.',
    )
    job_name: Text = Field(default="farkernel", examples=["analysis"], description="Name of the job in the queue.")
    exclusive: Flag = Field(
        default=False,
        examples=[True],
        description="Let nobody else use the nodes. The kernel still gets only the CPUs that are asked for"
        " by ntasks_per_node and cpus_per_task.",
    )
    comment: Text | None = Field(
        default=None, examples=["notebook"], description="Comment that Slurm keeps with the job."
    )
    extra_args: SrunOptions = Field(
        default=(), description="Other options of srun, each a word of its command line, best as --option=value."
    )


class ContainerRequest(_Part):
    """The image that the kernel runs in. What its runtime would not take is known to `container_of` alone."""

    runtime: Runtime = Field(
        default="none",
        description="What puts the kernel's command inside the image: shifter, podman-hpc, apptainer, charliecloud or"
        " one that the site has added; none runs it as it is.",
    )
    image: Text | None = Field(
        default=None, examples=["docker:nersc/pyhep:2.0"], description="The image's name, as the runtime knows it."
    )
    volumes: Volumes = Field(
        default=(),
        description='Directories of the node that are seen inside, as "source:target" or "source:target:flags".',
    )
    modules: Modules = Field(
        default=(), examples=[["mpich"]], description="The runtime's own modules, such as Shifter's mpich."
    )
    env: Variables = Field(
        default={}, description="Environment variables inside the image; they win over the kernelspec's env."
    )
    workdir: AbsolutePath | None = Field(
        default=None,
        examples=["/data"],
        description="Directory inside the image that the kernel starts in; null is kernel.cwd.",
    )
    args: Words = Field(
        default=(),
        examples=[["--entrypoint"]],
        description="Other options of the runtime, each a word of its command line.",
    )
    spank: Spank = Field(
        default="short",
        examples=["long"],
        description="How srun is told of a Shifter image: --image (short), --shifter.image (long), or not (off).",
    )


class JobPolicy(_Part):
    """How farkernel deals with the job."""

    max_wait: Duration | None = Field(
        default=None, examples=["30m"], description="Longest time the job may wait in the queue; null waits for ever."
    )
    orphan_timeout: Duration = Field(
        default=120.0,
        examples=["5m"],
        description="How long the job stays up when the login side has not been heard of.",
    )
    queue_messages: Flag = Field(
        default=True, examples=[False], description="Show the state of the queue in the cell that waits."
    )
    walltime_hook: Words = Field(
        default=(),
        examples=[["/home/alice/bin/checkpoint"]],
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
        examples=["/dev/shm"],  # noqa: S108 (a place for a private one)
        description="Directory on the node for its private one; null is /tmp.",
    )
    connect: Side = Field(
        default="node",
        examples=["login"],
        description="Which side the other one connects to: the launcher on the node, or the login node's side where"
        " login nodes cannot reach compute nodes.",
    )
    ports: Ports = Field(
        default=None,
        description='TCP ports that may be listened on, such as "20000-20100"; null is any.',
    )
    interface: Interface | None = Field(
        default=None,
        description="Network interface, by name or address, that is listened on, of the node or the login node as"
        " connect says; null is all.",
    )
    start_timeout: Duration = Field(
        default=60.0,
        examples=["2m"],
        description="How long it may take to come up once the job runs, and the kernel after it.",
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

    transport: Transport = Field(
        default="auto",
        examples=["tcp"],
        description="How the launcher talks to the kernel: ipc (unix sockets), tcp, or what it can.",
    )
    modules: Modules = Field(
        default=(),
        description="Environment modules that are loaded before the kernel, as name or name/version.",
    )
    cwd: AbsolutePath | None = Field(
        default=None, description="Directory on the node that the kernel starts in; null is the notebook's."
    )
    shutdown_timeout: Duration = Field(
        default=5.0,
        examples=["30s"],
        description="How long the kernel may take to end when asked, before it is killed.",
    )


Limit = bool | int | float | str | tuple[str, ...]
"""What a start may choose of a key: anything (true), an amount at most, or what matches one of some patterns."""

_AMOUNTS = frozenset(
    {"slurm.nodes", "slurm.ntasks_per_node", "slurm.cpus_per_task", "slurm.gpus", "slurm.mem", "slurm.time"}
    | {"job.max_wait", "job.orphan_timeout", "launcher.start_timeout", "kernel.shutdown_timeout"}
)
_WHOLE = frozenset(
    {"slurm.burst_buffer", "slurm.exclusive", "slurm.extra_args", "container.volumes", "container.modules"}
    | {"container.env", "container.args", "job.queue_messages", "job.walltime_hook", "kernel.modules"}
)
"""Keys of which a start may choose anything, or nothing."""


def is_amount(key: str) -> bool:
    """Whether a key has an amount, of which there can be a largest."""
    return key in _AMOUNTS


def choosable() -> list[str]:
    """Every key that `allow` may list."""
    return [key for key in request_keys() if "." in key]


def _allow(value: object) -> dict[str, Limit]:
    if not isinstance(value, Mapping):
        raise ValueError('limits by key, such as {"slurm.time": "8:00:00", "slurm.qos": ["debug"]}')
    return {str(key): _limit(str(key), limit) for key, limit in value.items()}


def _limit(key: str, limit: object) -> Limit:
    if key not in choosable():
        there = "cannot be chosen by a start" if key in request_keys() else "is none"
        raise ValueError(f"keys of a request; {key} {there}{instead(key)}")
    if limit is True:
        return True
    if key in _AMOUNTS:
        try:
            parse_request(nested(key, limit), source="")
        except RequestError as error:
            raise ValueError(f"true, or the most of it, for {str(error).lstrip(': ')}") from None
        if isinstance(limit, (int, float, str)):
            return limit
    elif key not in _WHOLE:
        patterns = [limit] if isinstance(limit, str) else limit
        if isinstance(patterns, (list, tuple)) and patterns and all(is_word(pattern) for pattern in patterns):
            return tuple(patterns)
        raise ValueError(f"true, or a list of patterns, for {key}")
    raise ValueError(f"true for {key}")


def nested(key: str, value: object) -> dict[str, Any]:
    """Return the config that has one key, such as `slurm.time`."""
    section, dot, field = key.partition(".")
    return {section: {field: value} if dot else value}


class Request(_Part):
    """Everything that a kernelspec asks of farkernel."""

    extends: TemplateName | None = Field(
        default=None,
        description="Job template that gives what is not given here: the user's own, or the site's.",
    )
    allow: Annotated[
        dict[str, Limit],
        Kind("limits by key"),
        BeforeValidator(_allow),
        WithJsonSchema(
            {
                "type": "object",
                "additionalProperties": {"type": ["boolean", "number", "string", "array"]},
                "examples": [{"slurm.time": "8:00:00", "slurm.qos": ["debug", "interactive"], "container.image": True}],
            }
        ),
    ] = Field(
        default={},
        description="What one start may choose by variables such as KERNEL_SLURM_TIME, and its limits: by key the most"
        " of it, a list of patterns, or true for anything.",
    )
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


def check_kernelspec(argv: Sequence[object], env: Mapping[str, object], *, source: str) -> None:
    """Look at what Jupyter itself takes from a kernelspec, unchecked.

    :raises RequestError: a word or a variable that is no text, or that the system does not take
    """
    values = {**{f"argv.{number}": word for number, word in enumerate(argv)}, **{f"env.{n}": v for n, v in env.items()}}
    if others := {key: value for key, value in values.items() if not isinstance(value, str)}:
        lines = [f"{source}: {key}: expected a text, not {_shown(value)}" for key, value in others.items()]
        raise RequestError("\n".join(lines), hint="Put numbers in double quotes, and remove what is null.")
    lines = [] if argv else ["argv: expected a command, it is empty"]
    lines += [f"argv: no system takes the word {_shown(word)}" for word in argv if not is_text(word)]
    lines += [
        f"env: no system takes the variable {_shown(name)}={_shown(value)}"
        for name, value in env.items()
        if not (is_text(name) and name and "=" not in name and is_text(value))
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
    schema = Request.model_json_schema()
    schema["properties"]["allow"]["propertyNames"] = {"enum": choosable()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _problem(key: str, kind: str, value: object, error: Mapping[str, Any]) -> str:
    if kind == "extra_forbidden":
        found = nearest(key)
        advice = f"; did you mean {found}?" if found else ""
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


def those(wrong: str, names: Collection[str]) -> str:
    """Say in a sentence or two which names there are, for one that is none of them."""
    most = 12
    near = nearest(wrong, names) if names else None
    listed = sorted(names)
    if near and len(listed) == 1:
        return f"Did you mean {near}?"
    shown = ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
    return (f"Did you mean {near}? " if near else "") + f"There {'are' if len(listed) > 1 else 'is'} {shown or 'none'}."


def instead(key: str) -> str:
    """Say which key was probably meant, as the end of a sentence; empty if nobody knows.

    :param key: what is none, or has others in it
    """
    if inside := [name for name in request_keys() if name.startswith(f"{key}.")]:
        return f"; name one that is in it, such as {inside[0]}"
    near = nearest(key)
    return f"; did you mean {near}?" if near else ""


def nearest(key: str, among: Collection[str] = ()) -> str | None:
    """Return the valid key that `key` was probably meant to be; none is for one that there is.

    :param among: the valid ones; empty for those of a request
    """
    if among:
        found = [] if key in among else difflib.get_close_matches(key, among, n=1, cutoff=0.6)
        return found[0] if found else None
    section, dot, _ = key.partition(".")
    valid = list(request_keys())
    if key in Request.model_fields or key in valid:
        return None
    by_name = {name.partition(".")[2]: name for name in valid if "." in name}
    word = key.rpartition(".")[2]
    if word in by_name:  # right, in a wrong section
        return by_name[word]
    siblings = [name for name in valid if name.startswith(f"{section}.")]
    found = difflib.get_close_matches(key, siblings if dot else Request.model_fields, n=1, cutoff=0.75)
    if found:
        return found[0]
    found = difflib.get_close_matches(word, by_name, n=1, cutoff=0.7)
    return by_name[found[0]] if found else None
