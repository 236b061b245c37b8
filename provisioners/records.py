"""What is written down of each kernel, so that another process of the user can say what runs. No I/O."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from enum import StrEnum, auto
from json import dumps
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from farkernel.provisioners.life import Phase


class BadRecord(Exception):
    """What lies there is no record, or one of a version that this one cannot read."""


def _if_it_can_be(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """Take a number that cannot be for one that is not known: its kernel is there all the same."""
    try:
        return validate(value)
    except ValidationError:
        return None


# A record may come from a disk that was full or a clock that was wrong. What is beyond these no calendar and no
# system call takes.
_Id = Annotated[int, Field(ge=0, lt=2**32)]
_Time = Annotated[Annotated[float, Field(ge=0, lt=1e11)] | None, WrapValidator(_if_it_can_be)]
_Seconds = Annotated[Annotated[float, Field(ge=0, lt=1e15)] | None, WrapValidator(_if_it_can_be)]
_Bytes = Annotated[Annotated[int, Field(ge=0, lt=2**63)] | None, WrapValidator(_if_it_can_be)]


@dataclass(frozen=True)
class Server:
    """The process that has a kernel: a notebook server, a console, a script.

    :param boot: names the time from one start of the host to the next
    :param space: names the process ids' namespace: a container on the host has its own
    :param born: when the process started, since its number may be used again
    """

    host: str
    boot: str
    space: str
    pid: _Id
    born: str


class Fate(StrEnum):
    """What has become of a server, as far as this host can tell."""

    ALIVE = auto()
    GONE = auto()
    ELSEWHERE = auto()
    """It is on another host, or in a container: nothing can be said."""


def fate_of(server: Server, here: Server, born: str | None) -> Fate:
    """Say what has become of a server.

    :param here: the process that asks
    :param born: of the process that has the server's number here, now; None if there is none
    """
    if server.host != here.host:
        return Fate.ELSEWHERE
    if server.boot != here.boot:
        return Fate.GONE
    if server.space != here.space:
        return Fate.ELSEWHERE
    return Fate.ALIVE if born == server.born else Fate.GONE


@dataclass(frozen=True)
class Record:
    """One kernel. Nothing of it is secret: no keys, no variables.

    :param kernelspec: its name as Jupyter knows it
    :param notebook: the notebook's path, empty if there is none
    :param reason: why Slurm lets its job wait
    :param job_id: Slurm's; None for a kernel of this machine, and as long as there is no job
    :param launcher: the launcher's process id, on `node`
    :param submitted: when the job was submitted; this and the following in seconds since 1970
    :param started: when the kernel was up
    :param ends: when the job's time is up, if that is known
    :param memory: bytes
    :param cpu: seconds of processor time
    :param ended: when it was released
    :param why: why it has ended
    :param login: the login node whose Slurm has its job, where that is reached by ssh; empty for this host's
    """

    kernel_id: str
    kernelspec: str
    display_name: str
    notebook: str
    server: Server
    phase: Phase = Phase.IDLE
    reason: str = ""
    job_id: _Id | None = None
    node: str = ""
    launcher: _Id = 0
    submitted: _Time = None
    started: _Time = None
    ends: _Time = None
    memory: _Bytes = None
    cpu: _Seconds = None
    ended: _Time = None
    why: str = ""
    login: str = ""


_ADAPTER = TypeAdapter(Record)


def encode(record: Record) -> bytes:
    """Return the record as a file has it."""
    return dumps(asdict(record), indent=1).encode()


def decode(data: bytes) -> Record:
    """Return what `encode` has written; what a newer version adds is passed over.

    :raises BadRecord: it is something else
    """
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError as error:
        raise BadRecord(str(error)) from error


def file_stem(kernel_id: str) -> str:
    """Return what a kernel's files are called: its id, unless a client has chosen one that is no file's name."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", kernel_id):
        return kernel_id
    return hashlib.sha256(kernel_id.encode(errors="surrogateescape")).hexdigest()
