"""The kinds of values that a request has: what each accepts, what it expects in words, and its JSON Schema.

docs/reference.md describes them for users, under the same names.
"""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from farkernel.provisioners.srun_options import check_extra_args, only_prints


@dataclass(frozen=True)
class Kind:
    """Marks an annotated type with its name in the reference."""

    name: str


# ---- texts that match a pattern ----

_CONTROL = r"\x00-\x1f\x7f\ud800-\udfff"
_DURATION = r"(?=.)(\d+d)?(\d+h)?(\d+m)?(\d+s)?"
_GPU = r"([A-Za-z0-9][\w.+-]*:)?[1-9]\d*"
_GPUS = f"{_GPU}(,{_GPU})*"
_INTERFACE = r"[A-Za-z0-9:][A-Za-z0-9_.:%@-]*"
_LOGIN = rf"([^ @{_CONTROL}-][^ @{_CONTROL}]*@)?[A-Za-z0-9_][A-Za-z0-9_.:%-]*"
_MODULE = r"[A-Za-z0-9_][A-Za-z0-9_.+@=/-]*"
_PATH = rf"/[^{_CONTROL}]*"
_PORTS = r"(\d{4,5})-(\d{4,5})"
_PROGRAM = rf"{_PATH}|[^ {_CONTROL}/-][^ {_CONTROL}/]*"
_RUNTIME = r"[A-Za-z0-9][\w.-]*"
_SIZE = r"[0-9]+[KMGTkmgt]?"
_TEMPLATE = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_TEXT = rf"[^ {_CONTROL}-][^{_CONTROL}]*"
_TIME = r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}"
_VOLUME = r"/[^:;]*:/[^:;]*(:[^:;]+)?"
_WORD = rf"[^{_CONTROL}]+"


def is_text(value: object) -> bool:
    """Whether the system takes a text as an argument or variable; JSON has some that it does not."""
    return isinstance(value, str) and re.search(r"[\x00\ud800-\udfff]", value) is None


def is_word(value: object) -> bool:
    """Whether a value is a text on one line, and not empty."""
    return isinstance(value, str) and re.fullmatch(_WORD, value) is not None


def _matching(pattern: str, expected: str) -> BeforeValidator:
    """Accept a text that matches as a whole; `expected` says what that is, for the user."""

    def check(value: object) -> object:
        if value is None or (isinstance(value, str) and re.fullmatch(pattern, value)):
            return value
        raise ValueError(expected)

    return BeforeValidator(check)


def _job_s_gres(value: str) -> str:
    if only_prints("gres", value):
        raise ValueError('resources that a job can have, such as "gpu:2"')
    return value


def _text_schema(pattern: str, *examples: str) -> WithJsonSchema:
    """Describe what `_matching` accepts."""
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$", "examples": list(examples)})


Text = Annotated[
    str,
    Kind("text"),
    _matching(_TEXT, 'text on one line that does not begin with "-" or a blank'),
    _text_schema(_TEXT),
]
Gres = Annotated[Text, AfterValidator(_job_s_gres)]
Login = Annotated[
    str,
    Kind("`host` or `user@host`"),
    _matching(_LOGIN, 'a host, or "user@host", as for ssh'),
    _text_schema(_LOGIN, "alice@cori.example.org"),
]
TemplateName = Annotated[
    str,
    Kind("name"),
    _matching(_TEMPLATE, "the name of a job template, see `farkernel template list`"),
    _text_schema(_TEMPLATE, "knl-interactive"),
]
Size = Annotated[
    str,
    Kind("size"),
    _matching(_SIZE, 'a size with a unit, such as "4G" or "500M"'),
    _text_schema(_SIZE, "4G", "500M", "0"),
]
AbsolutePath = Annotated[
    str,
    Kind("path"),
    _matching(_PATH, 'an absolute path, such as "/scratch/alice"'),
    _text_schema(_PATH, "/scratch/alice"),
]
Program = Annotated[
    str,
    Kind("path, or a program's name"),
    _matching(_PROGRAM, "an absolute path, or a program's name"),
    _text_schema(_PROGRAM, "/usr/bin/python3.11", "python3"),
]
Interface = Annotated[
    str,
    Kind("name or address"),
    _matching(_INTERFACE, "a network interface's name or address"),
    _text_schema(_INTERFACE, "ib0"),
]
Runtime = Annotated[
    str,
    Kind('`"none"`, `"shifter"`, `"podman-hpc"`, `"charliecloud"`, `"apptainer"` or a site\'s own'),
    _matching(_RUNTIME, "the name of a container runtime"),
    _text_schema(_RUNTIME, "shifter", "podman-hpc", "apptainer", "charliecloud", "none"),
]
Spank = Annotated[
    Literal["short", "long", "off"],
    Kind('`"short"`, `"long"` or `"off"`'),
    _matching("short|long|off", '"short", "long" or "off"'),
]
Side = Annotated[
    Literal["node", "login"],
    Kind('`"node"` or `"login"`'),
    _matching("node|login", '"node" or "login"'),
]
Transport = Annotated[
    Literal["auto", "ipc", "tcp"],
    Kind('`"auto"`, `"ipc"` or `"tcp"`'),
    _matching("auto|ipc|tcp", '"auto", "ipc" or "tcp"'),
]


# ---- numbers and times ----

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_NULL: dict[str, Any] = {"type": "null"}  # what a validator of our own takes pydantic cannot know


def _whole_number(value: object) -> object:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("a whole number, 1 or more, without quotes")


def _flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false, without quotes")


def _duration(value: object) -> float:
    seconds = -1.0
    if isinstance(value, str) and re.fullmatch(_DURATION, value, re.ASCII):
        seconds = sum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"\d+[dhms]", value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= sys.float_info.max else -1.0
    if not 0 < seconds < math.inf:
        raise ValueError('a number of seconds above 0, or text such as "90s", "10m", "4h", "1d", "1h30m"')
    return seconds


def _slurm_time(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and re.fullmatch(_TIME, value, re.ASCII)):
        return value
    raise ValueError('Slurm\'s time: minutes, "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM" or "D-HH:MM:SS"')


def _gpus(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(_GPUS, value, re.ASCII):
        return value
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError('a whole number, 1 or more, or a type and a number such as "a100:2"; several with commas')


def _ports(value: object) -> object:
    if value is None:
        return value
    found = re.fullmatch(_PORTS, value, re.ASCII) if isinstance(value, str) else None
    if found and 1024 <= int(found[1]) <= int(found[2]) <= 65535:
        return value
    raise ValueError('a range of ports from 1024 to 65535 such as "20000-20100"')


Count = Annotated[int, Kind("count"), BeforeValidator(_whole_number), WithJsonSchema({"type": "integer", "minimum": 1})]
Flag = Annotated[bool, Kind("flag"), BeforeValidator(_flag)]
Duration = Annotated[
    float,
    Kind("duration"),
    BeforeValidator(_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": f"^{_DURATION}$"},
            ],
            "examples": ["10m", "1h30m", 90],
        }
    ),
]
SlurmTime = Annotated[
    str,
    Kind("time"),
    BeforeValidator(_slurm_time),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^(?:{_TIME})$"}],
            "examples": ["4:00:00", 30, "1-12:00"],
        }
    ),
]
Gpus = Annotated[
    int | str | None,
    Kind("count or text"),
    BeforeValidator(_gpus),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^(?:{_GPUS})$"}, _NULL],
            "examples": [2, "a100:2"],
        }
    ),
]
Ports = Annotated[
    str | None,
    Kind("two ports from 1024 to 65535"),
    BeforeValidator(_ports),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": r"^\d{4,5}-\d{4,5}$"}, _NULL], "examples": ["20000-20100"]}
    ),
]


# ---- lists and tables ----


def _list_schema(pattern: str, *examples: str) -> WithJsonSchema:
    """Describe a list of texts that each match as a whole."""
    items = {"type": "string", "pattern": f"^(?:{pattern})$"}
    return WithJsonSchema({"type": "array", "items": items, "examples": [list(examples)] if examples else []})


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)) and all(is_word(item) for item in value):
        return tuple(value)
    raise ValueError("a list of texts, each on one line and not empty")


def _extra_args(value: object) -> tuple[str, ...]:
    words = _strings(value)
    if problems := check_extra_args(words):
        raise PydanticCustomError("not_allowed", "{problems}", {"problems": "; ".join(problems)})
    return words


def _modules(value: object) -> tuple[str, ...]:
    words = _strings(value)
    if all(re.fullmatch(_MODULE, word) for word in words):
        return words
    raise ValueError('a list of modules such as ["gcc/12.2.0", "cray-mpich"], without blanks and colons')


def _volumes(value: object) -> tuple[str, ...]:
    words = _strings(value)
    if all(re.fullmatch(_VOLUME, word) for word in words):
        return words
    raise ValueError('a list of volumes such as ["/scratch/alice:/data", "/global/ref:/ref:ro"], with absolute paths')


def _variables(value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        variables = {str(name): text for name, text in value.items()}
        if all(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in variables) and all(
            is_text(text) for text in variables.values()
        ):
            return variables
    raise ValueError('environment variables such as {"OMP_NUM_THREADS": "4"}, each value a text')


Words = Annotated[tuple[str, ...], Kind("list of words"), BeforeValidator(_strings), _list_schema(_WORD)]
SrunOptions = Annotated[
    tuple[str, ...],
    Kind("list of srun options"),
    BeforeValidator(_extra_args),
    _list_schema(_WORD, "--mail-type=END"),
]
Modules = Annotated[
    tuple[str, ...],
    Kind("list of modules"),
    BeforeValidator(_modules),
    _list_schema(_MODULE, "gcc/12.2.0", "cray-mpich"),
]
Volumes = Annotated[
    tuple[str, ...],
    Kind("list of `source:target[:flags]`"),
    BeforeValidator(_volumes),
    _list_schema(_VOLUME, "/scratch/alice:/data", "/global/ref:/ref:ro"),
]
Variables = Annotated[
    dict[str, str],
    Kind("variables"),
    BeforeValidator(_variables),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "string", "pattern": r"^[^\x00\ud800-\udfff]*$"},
            "propertyNames": {"pattern": r"^[A-Za-z_]\w*$"},
            "examples": [{"OMP_NUM_THREADS": "4"}],
        }
    ),
]


# ---- burst buffers ----


class BurstBufferFile(BaseModel):
    """A file of burst buffer directives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(description="Absolute path of the file, given to srun as --bbf.")


def _burst_buffer(value: object) -> object:
    if value is None or isinstance(value, BurstBufferFile):
        return value
    if isinstance(value, str) and is_text(value):
        lines = value.splitlines()
        if lines and all(re.match(r"#(DW|BB)\s", line) for line in lines):
            return value
    if isinstance(value, Mapping) and set(value) == {"file"}:
        path = value["file"]
        if isinstance(path, str) and re.fullmatch(_PATH, path):
            return value
    raise ValueError('lines that begin with #DW or #BB, or {"file": "/path"}')


BurstBuffer = Annotated[
    str | BurstBufferFile | None,
    Kind('`#DW` or `#BB` lines, or `{"file": path}`'),
    BeforeValidator(_burst_buffer),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^#(DW|BB)\s"},
                {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "string",
                            "pattern": f"^{_PATH}$",
                            "description": "Absolute path of the file, given to srun as --bbf.",
                        }
                    },
                    "required": ["file"],
                    "additionalProperties": False,
                },
                _NULL,
            ],
            "examples": ["#DW jobdw capacity=10GB type=scratch", {"file": "/global/alice/bb.conf"}],
        }
    ),
]
