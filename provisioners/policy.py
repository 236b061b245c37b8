"""The site's policy: what kernels may ask for, whatever their kernelspec says. No I/O.

Its keys are described in docs/reference.md; `policy_file` reads it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from farkernel.provisioners.errors import PolicyUnusable, RequestError
from farkernel.provisioners.kinds import Count, Kind, Size, SlurmTime
from farkernel.provisioners.layers import Layer
from farkernel.provisioners.policy_lines import line_of
from farkernel.provisioners.request import instead, nearest, nested, parse_request, request_keys
from farkernel.provisioners.srun_options import SHORT

POLICY = "/etc/farkernel/policy.toml"
"""Where it is. Nothing names another one: it would not bind those whom it is for."""

TELL_SUPPORT = "No kernel starts until it is mended: tell the site's support."

SEE_REFERENCE = "docs/reference.md lists the keys, and what they take."


class _Unfit(ValueError):
    """A value that is not what is expected.

    :param cure: a sentence, where the words of what is expected say more than what to write
    """

    def __init__(self, expected: str, cure: str) -> None:
        super().__init__(expected)
        self.cure = cure


def _patterns(value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) and item.strip() == item != "" for item in value):
        return tuple(value)
    raise ValueError('a list of patterns such as ["m1234", "nstaff*"]')


def _members(value: object) -> tuple[str, ...]:
    patterns = _patterns(value)
    if mixed := [pattern for pattern in patterns if re.search(r"[,&|()]", pattern)]:
        expected = "a pattern for each single name"
        raise _Unfit(f'{expected}: "{mixed[0]}" combines several', f"Write {expected}.")
    return patterns


def _required(value: object) -> tuple[str, ...]:
    keys = _patterns(value)
    if unknown := [key for key in keys if key not in request_keys()]:
        near, words = nearest(unknown[0]), instead(unknown[0])
        cure = f"Write {near} for {unknown[0]}." if words.endswith("?") else f"Remove {unknown[0]}{words}."
        raise _Unfit(f"keys of a request; {unknown[0]} is none{words}", cure)
    return keys


def _options(value: object) -> tuple[str, ...]:
    names = []
    for word in _patterns(value):
        name = word.lstrip("-").partition("=")[0]
        names.append(SHORT.get(name, name))
        if not re.fullmatch(r"[\w.-]{2,}", names[-1]):
            expected = 'options of srun such as ["--begin", "-w"]'
            raise _Unfit(f'{expected}; "{word}" is none', f"Write {expected}.")
    return tuple(names)


def _perhaps(name: str | None) -> str:
    return f"; did you mean {name}?" if name else ""


def _not_zero(value: str | None) -> str | None:
    if value is not None and not re.search("[1-9]", value):
        cure = "Write more than 0, or remove it: then there is no limit."
        raise _Unfit(f'more than 0, which is no limit for Slurm, not "{value}"', cure)
    return value


_Patterns = Annotated[tuple[str, ...] | None, Kind("patterns"), BeforeValidator(_patterns)]
_Members = Annotated[tuple[str, ...] | None, Kind("patterns"), BeforeValidator(_members)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Allowed(_Part):
    """Patterns, as a shell's for file names. Who asks for nothing gets Slurm's own choice: see `required`."""

    account: _Members = Field(default=None, description="Accounts; upper and lower case are the same, as for Slurm.")
    qos: _Members = Field(default=None, description="Qualities of service; upper and lower case are the same.")
    partition: _Members = Field(default=None, description="Partitions; of several each has to be allowed.")
    constraint: _Members = Field(
        default=None, description="Features of nodes; each one in an expression such as `knl&quad` has to be allowed."
    )
    reservation: _Members = Field(default=None, description="Reservations.")
    runtime: _Patterns = Field(
        default=None, description="Container runtimes; `none` is a kernel that runs in no image."
    )
    image: _Patterns = Field(
        default=None,
        description="Images; for Shifter in any spelling: the type `docker:` and the tag `latest` may be left out on"
        " either side.",
    )
    container_args: _Patterns = Field(
        default=None,
        description="Words of `container.args`; without it there may be none where `allowed.runtime` or `allowed.image`"
        " is given.",
    )
    login: _Patterns = Field(default=None, description="Login nodes that are reached by ssh; without the user's name.")
    extra_args: _Patterns = Field(
        default=None,
        description="Words of `slurm.extra_args` that are allowed although farkernel does not know them, such as a"
        " plugin's options.",
    )


class Maximum(_Part):
    """What a kernel, or all kernels of a user, may have at most."""

    nodes: Count | None = Field(
        default=None, description="Nodes of a job; with `slurm.gpus` and no `slurm.nodes` as many as GPUs."
    )
    time: Annotated[SlurmTime | None, AfterValidator(_not_zero)] = Field(
        default=None, description="Time of a job; also the time of a kernel for which nothing names one."
    )
    gpus: Count | None = Field(
        default=None,
        description="GPUs of a job on all its nodes; by `slurm.gpus` or `slurm.gres`: a MIG device is one, shards and"
        " MPS are of one on each node. `slurm.exclusive` is refused, for Slurm gives it all of a node.",
    )
    cpus_per_node: Count | None = Field(
        default=None, description="CPUs of a job on each of its nodes; `ntasks_per_node` times `cpus_per_task`."
    )
    cpus: Count | None = Field(default=None, description="CPUs of a job on all its nodes.")
    mem: Annotated[Size | None, AfterValidator(_not_zero)] = Field(
        default=None, description="Memory of a job on each of its nodes."
    )
    kernels_per_user: Count | None = Field(
        default=None, description="Kernels that a user may have at a time; on all hosts that share the home."
    )
    jobs_per_user: Count | None = Field(
        default=None,
        description="Jobs of a user in Slurm's queue, of any kind; with as many no further kernel starts.",
    )


class Policy(_Part):
    """The file. What it does not name is not limited."""

    defaults: Annotated[dict[str, Any], Kind("table of a request's keys")] = Field(
        default={},
        description="Keys of a request that hold where nothing else gives them; neither kernelspec, job template,"
        " choice nor a variable of srun's.",
    )
    required: Annotated[tuple[str, ...], Kind("list of a request's keys"), BeforeValidator(_required)] = Field(
        default=(),
        description="Keys of a request that have to be given; in whichever layer, or by srun's variable of the same"
        " meaning. An option in `extra_args` does not count.",
    )
    allowed: Allowed = Field(default=Allowed(), description="What may be asked for.")
    maximum: Maximum = Field(default=Maximum(), description="How much may be asked for.")
    forbidden_options: Annotated[tuple[str, ...], Kind("list of srun's options"), BeforeValidator(_options)] = Field(
        default=(),
        description="Options of srun that `slurm.extra_args` may not have; in whatever form: long, short, abbreviated,"
        " bundled.",
    )
    never_pass: _Patterns = Field(
        default=(),
        description="Environment variables that reach no job and no kernel; whoever sets them, the kernelspec too.",
    )

    def layers(self, source: str) -> list[Layer]:
        """Return what holds where nothing else is said, the lowest first: the longest time as the time, the defaults.

        :param source: the file's path
        """
        longest = Layer(f"{source}: maximum.time", nested("slurm.time", self.maximum.time))
        return [*([longest] if self.maximum.time else []), Layer(f"{source}: defaults", self.defaults)]

    def passes(self, name: str) -> bool:
        """Whether a variable may reach jobs and kernels."""
        return not any(fnmatchcase(name, pattern) for pattern in self.never_pass or ())

    def shown(self, section: str, key: str) -> str:
        """Write one of the limits as the file has it."""
        value = getattr(getattr(self, section), key)
        return f"{section}.{key} is " + (", ".join(value) or "empty" if isinstance(value, tuple) else str(value))


# What srun takes for options (srun(1), "INPUT ENVIRONMENT VARIABLES"), whatever version it is, but for what says
# nothing of the resources that a job has.
_SRUNS = re.compile(r"(SLURM|SRUN)_\w+")
_HARMLESS = re.compile(
    r"SLURM_(CONF|CPU_BIND\w*|DEBUG\w*|DISTRIBUTION|DIST_PLANESIZE|MEM_BIND\w*|MPI_TYPE|PMI\w*|TIME_FORMAT|UMASK)"
)

_VARIABLES = {
    "SLURM_ACCOUNT": "account",
    "SLURM_CONSTRAINT": "constraint",
    "SLURM_GPUS": "gpus",
    "SLURM_GRES": "gres",
    "SLURM_PARTITION": "partition",
    "SLURM_QOS": "qos",
    "SLURM_RESERVATION": "reservation",
    "SLURM_TIMELIMIT": "time",
}


def variables_layer(env: Mapping[str, str]) -> dict[str, Any]:
    """Return what srun's variables ask for as a layer of a request, so that the policy sees it."""
    found = {key: env[name] for name, key in _VARIABLES.items() if env.get(name)}
    return {"slurm": found} if found else {}


def without_options(env: Mapping[str, str]) -> dict[str, str]:
    """Return what of a job's environment srun does not take for options: `variables_layer` has those."""
    return {name: value for name, value in env.items() if _HARMLESS.fullmatch(name) or not _SRUNS.fullmatch(name)}


@dataclass(frozen=True)
class Flaw:
    """Something that is wrong with a policy's file.

    :param key: the dotted key; empty for the file as a whole
    :param line: in the file, from 1
    """

    key: str
    what: str
    cure: str
    line: int

    def __str__(self) -> str:
        return f"line {self.line}: " + (f"{self.key}: " if self.key else "") + self.what


def parse_policy(text: str, *, source: str) -> Policy:
    """Read a policy.

    :param source: the file's path; every message names it
    :raises PolicyUnusable: one line for each thing that is wrong: file, line, key, what is expected
    """
    policy, flaws = read_policy(text)
    if policy is None:
        said = "\n".join(f"{source}, {flaw}" for flaw in flaws)
        raise PolicyUnusable(f"The policy of this site, {source}, is not valid.", said=said, hint=TELL_SUPPORT)
    return policy


def read_policy(text: str) -> tuple[Policy | None, list[Flaw]]:
    """Read a policy; None if there is something wrong with it, and what that is, by line."""
    try:
        policy = Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        return None, [Flaw("", f"no TOML: {error}", "Correct this line, or the one before it.", line)]
    except ValidationError as failure:
        return None, _by_line(_flaw(text, error) for error in failure.errors(include_url=False))
    try:
        parse_request(policy.defaults, source="defaults")
    except RequestError as error:
        return None, _by_line(_flaw_of_defaults(text, line) for line in str(error).splitlines())
    return policy, []


def _by_line(flaws: Iterable[Flaw]) -> list[Flaw]:
    return sorted(flaws, key=lambda flaw: flaw.line)


def _flaw(text: str, error: Any) -> Flaw:
    key, line = ".".join(map(str, error["loc"])), line_of(text, error["loc"])
    if error["type"] == "extra_forbidden":
        near = nearest(key, among=policy_fields())
        cure = f"Write {near}." if near else f"Remove it. {SEE_REFERENCE}"
        return Flaw(key, f"unknown key{_perhaps(near)}", cure, line)
    unfit = error["ctx"]["error"] if error["type"] == "value_error" else "a table"
    cure = unfit.cure if isinstance(unfit, _Unfit) else f"Write {unfit}."
    return Flaw(key, f"expected {unfit}", cure, line)


def _flaw_of_defaults(text: str, said: str) -> Flaw:
    key, _, what = said.removeprefix("defaults: ").partition(": ")
    near = re.search(r"did you mean (\S+)\?$", what)
    cure = f"Write defaults.{near[1]}." if near else SEE_REFERENCE
    return Flaw(f"defaults.{key}", what, cure, line_of(text, ("defaults", *key.split("."))))


def policy_fields() -> dict[str, FieldInfo]:
    """Every key of a policy, such as `required` and `allowed.qos`, and what it is."""
    parts: dict[str, type[BaseModel]] = {"allowed": Allowed, "maximum": Maximum}
    fields: dict[str, FieldInfo] = {}
    for name, field in Policy.model_fields.items():
        if name in parts:
            fields |= {f"{name}.{key}": each for key, each in parts[name].model_fields.items()}
        else:
            fields[name] = field
    return fields
