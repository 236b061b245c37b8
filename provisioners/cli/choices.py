"""The options of the command line that stand for keys of a request, the same for every subcommand."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

Account = Annotated[str | None, typer.Option(metavar="A", help="The account to charge.")]
Qos = Annotated[str | None, typer.Option(metavar="Q", help="The quality of service.")]
Partition = Annotated[str | None, typer.Option(metavar="P", help="The partition, or several.")]
Constraint = Annotated[str | None, typer.Option(metavar="C", help="The features that a node must have.")]
Nodes = Annotated[int | None, typer.Option(metavar="N", min=1, help="The number of nodes.")]
Time = Annotated[str | None, typer.Option(metavar="T", help="The time limit, as Slurm writes it.")]
CpusPerTask = Annotated[int | None, typer.Option(metavar="N", min=1, help="The number of CPUs for each task.")]
Gpus = Annotated[str | None, typer.Option(metavar="N", help="The GPUs of the job: a number, or as in a100:2.")]
Mem = Annotated[str | None, typer.Option(metavar="SIZE", help="The memory of each node, such as 4G.")]
Reservation = Annotated[str | None, typer.Option(metavar="R", help="The reservation to run in.")]
Licenses = Annotated[str | None, typer.Option(metavar="L", help="Licenses, such as SCRATCH.")]
Runtime = Annotated[str | None, typer.Option(metavar="R", help="What puts the kernel inside the image.")]
Image = Annotated[str | None, typer.Option(metavar="I", help="The image that the kernel runs in.")]
Volumes = Annotated[
    list[str] | None,
    typer.Option("--volume", metavar="V", help="source:target[:flags], seen in the image; may be given several times."),
]
Modules = Annotated[
    list[str] | None,
    typer.Option("--module", metavar="M", help="A module of the runtime's, such as mpich; may be given several times."),
]
Login = Annotated[
    str | None, typer.Option(metavar="HOST", help="Where Slurm's commands run, by ssh: host or user@host.")
]
Template = Annotated[
    str | None, typer.Option("--template", "--extends", metavar="T", help="A job template, for what is not given.")
]
Others = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other key, such as job.max_wait=30m; several times, too."),
]


_OPTIONS: dict[str, tuple[str, Any]] = {
    "template": ("extends", Template),
    "account": ("slurm.account", Account),
    "qos": ("slurm.qos", Qos),
    "partition": ("slurm.partition", Partition),
    "constraint": ("slurm.constraint", Constraint),
    "nodes": ("slurm.nodes", Nodes),
    "time": ("slurm.time", Time),
    "cpus_per_task": ("slurm.cpus_per_task", CpusPerTask),
    "gpus": ("slurm.gpus", Gpus),
    "mem": ("slurm.mem", Mem),
    "reservation": ("slurm.reservation", Reservation),
    "licenses": ("slurm.licenses", Licenses),
    "image": ("container.image", Image),
    "runtime": ("container.runtime", Runtime),
    "volumes": ("container.volumes", Volumes),
    "modules": ("container.modules", Modules),
    "login": ("login", Login),
}
"""What an option stands for, by its name as an argument of a function, and how it is declared."""


def with_resources(command: Callable[..., None]) -> Callable[..., None]:
    """Give a subcommand all options that stand for keys of a request; it gets what they ask for as `asked`, a config.

    They stand behind its own arguments, in front of its first option of `--user`, `--replace` and `--json`.
    """
    return _with(_OPTIONS, command)


def with_choices(command: Callable[..., None]) -> Callable[..., None]:
    """Give it those of them that one start may choose, in the same way."""
    return _with({name: option for name, option in _OPTIONS.items() if "." in option[0]}, command)


def _with(options_of: Mapping[str, tuple[str, Any]], command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(**given: Any) -> None:
        options = {name: given.pop(name) for name in options_of}
        asked = _config_of(options, given.pop("others"))
        command(**given, asked=asked)

    own = inspect.signature(command, eval_str=True)
    parameters = [each for name, each in own.parameters.items() if name != "asked"]
    behind = next((n for n, each in enumerate(parameters) if each.name in _LAST), len(parameters))
    declared = {name: annotation for name, (_, annotation) in options_of.items()} | {"others": Others}
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters[behind:behind] = [
        inspect.Parameter(name, kind, default=None, annotation=annotation) for name, annotation in declared.items()
    ]
    shown = [each.replace(kind=kind) for each in parameters]
    run.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {each.name: each.annotation for each in shown} | {"return": None}
    return run


_LAST = ("user", "replace", "as_json")


def _config_of(options: Mapping[str, Any], others: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the part of a config that options ask for; None asks for nothing.

    :param options: by the names of `_OPTIONS`
    :param others: the words of `--set`, which win
    :raises RequestError: a word is no assignment
    """
    from farkernel.provisioners.layers import Layer, assigned, merged  # noqa: PLC0415 (imports late, see app.py)

    config: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None and value != []:
            section, dot, key = _OPTIONS[name][0].partition(".")
            part = config.setdefault(section, {}) if dot else config
            part[key or section] = value
    return merged([Layer("options", config), Layer("--set", assigned(others or (), source="--set"))])
