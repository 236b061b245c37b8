"""What `farkernel ps` and its like say of kernels, and which one a user means. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from farkernel.provisioners.commands import QueueEntry
from farkernel.provisioners.errors import KernelNotFound
from farkernel.provisioners.records import Fate, Record
from farkernel.provisioners.states import reason_sentence

_SAME_JOB = 86400.0
"""Seconds between a record's time of submission and its job's: clocks, and a job that was requeued, may differ."""

_LONG = 14 * 86400.0
"""Seconds after which a job that nobody is asked about counts no more."""

_SHORTEST = 6
"""Letters of an id at least."""


@dataclass(frozen=True)
class Kernel:
    """A kernel's record, and what else is known of it.

    :param fate: its server's
    :param entry: what squeue says of its job; None if it does not know it
    :param asked: whether squeue has answered at all
    """

    record: Record
    fate: Fate
    entry: QueueEntry | None = None
    asked: bool = False

    @property
    def has_job(self) -> bool:
        """Whether its job is in Slurm's queue."""
        return self.entry is not None and not self.entry.state.ended

    @property
    def job_is_gone(self) -> bool:
        """Whether Slurm has no such job any more."""
        return self.record.job_id is not None and self.asked and not self.has_job

    @property
    def orphan(self) -> bool:
        """Whether its server is gone, and its job is not, for all that is known."""
        return self.fate is Fate.GONE and self.record.job_id is not None and not self.job_is_gone

    @property
    def there(self) -> bool:
        """Whether there is a kernel, or something that is left of one."""
        return self.fate is Fate.ALIVE or self.orphan or (self.fate is Fate.ELSEWHERE and not self.job_is_gone)


Queues = Mapping[str, Mapping[int, QueueEntry]]
"""The user's jobs in each Slurm that has answered, by the login node that leads to it; empty for this host's."""


def with_jobs(records: Sequence[tuple[Record, Fate]], queues: Queues) -> list[Kernel]:
    """Put together what lies in files and what Slurm says, the oldest first."""
    kernels = [
        Kernel(record, fate, _entry(record, queues.get(record.login, {})), record.login in queues)
        for record, fate in records
    ]
    return sorted(kernels, key=lambda kernel: (kernel.record.submitted or 0, kernel.record.kernel_id))


def _entry(record: Record, entries: Mapping[int, QueueEntry]) -> QueueEntry | None:
    """Return what squeue says of a record's job, unless that is another one: Slurm uses numbers again."""
    entry = entries.get(record.job_id or 0)
    if entry and entry.submitted and record.submitted is not None:
        apart = abs(entry.submitted.timestamp() - record.submitted)
        return entry if apart < _SAME_JOB else None
    return entry


def may_be_there(record: Record, now: float) -> bool:
    """Whether a job behind ssh may be there, about which nobody is asked."""
    last = max(record.ends or 0, record.submitted or 0)
    return bool(record.login) and record.job_id is not None and now - last < _LONG


@dataclass(frozen=True)
class Row:
    """A line of `farkernel ps`.

    :param short: as much of the id as tells it from the others
    :param elapsed: seconds since it started; since it was submitted as long as it waits
    :param left: seconds that its job may still run; None without a limit
    :param server: the server's host
    :param login: the login node by which its job's Slurm is reached; empty for this host's
    :param ended: when it was released, in seconds since 1970; None as long as it is there
    :param why: why it has ended
    """

    short: str
    kernel_id: str
    kernelspec: str
    display_name: str
    notebook: str
    state: str
    orphan: bool
    job_id: int | None
    node: str
    elapsed: float | None
    left: float | None
    memory: int | None
    cpu: float | None
    server: str
    server_pid: int
    ended: float | None = None
    why: str = ""
    login: str = ""


def rows(kernels: Sequence[Kernel], now: float, ended: Sequence[Record] = ()) -> list[Row]:
    """Return a row for each kernel that has ended, the oldest first, and then for each that is there.

    :param now: seconds since 1970
    :param ended: the last records of those that are not there any more
    """
    there = [kernel for kernel in kernels if kernel.there]
    ids = [record.kernel_id for record in [*ended, *(kernel.record for kernel in there)]]
    over = sorted(ended, key=lambda record: record.ended or 0)
    rows = [_row(Kernel(record, Fate.GONE), short_id(record.kernel_id, ids), now) for record in over]
    return [*rows, *(_row(kernel, short_id(kernel.record.kernel_id, ids), now) for kernel in there)]


def short_id(kernel_id: str, ids: Sequence[str]) -> str:
    """Return the beginning of an id that no other one has."""
    others = [other for other in ids if other != kernel_id]
    lengths = range(_SHORTEST, len(kernel_id))
    return next((kernel_id[:n] for n in lengths if not any(o.startswith(kernel_id[:n]) for o in others)), kernel_id)


def _row(kernel: Kernel, short: str, now: float) -> Row:
    record, entry = kernel.record, kernel.entry
    return Row(
        short=short,
        kernel_id=record.kernel_id,
        kernelspec=record.kernelspec,
        display_name=record.display_name,
        notebook=record.notebook,
        state=_state(kernel),
        orphan=kernel.orphan,
        job_id=record.job_id,
        node=(entry.nodes if entry else "") or record.node,
        elapsed=_elapsed(kernel, now),
        left=_left(kernel, now),
        memory=record.memory,
        cpu=record.cpu,
        server=record.server.host,
        server_pid=record.server.pid,
        ended=record.ended,
        why=record.why,
        login=record.login,
    )


def _state(kernel: Kernel) -> str:
    record, entry = kernel.record, kernel.entry
    if record.ended:
        why = record.why.partition("\n")[0]
        return f"ended {local_time(record.ended)}" + (f": {why}" if why else "")
    if kernel.orphan:
        job = f"its job is {entry.state.lower()}" if entry else "Slurm does not say what its job does"
        return f"orphan: its server is gone, {job}"
    if kernel.job_is_gone:
        return "ending: its job is gone"
    if entry is None or entry.state.waiting:
        reason = entry.reason if entry else record.reason
        return f"{record.phase}{_because(reason)}" if record.phase == "pending" else str(record.phase)
    if entry.state in {"RUNNING", "CONFIGURING"}:
        # the record may be behind, as when its file system is full
        return "starting" if record.phase == "pending" else str(record.phase)
    return f"{record.phase}, its job is {entry.state.lower()}"


def _because(reason: str) -> str:
    if reason in {"", "None"}:
        return ""
    plain = reason_sentence(reason)
    return f" ({reason})" if plain == reason else f" ({reason.partition(',')[0]}: {plain})"


def _elapsed(kernel: Kernel, now: float) -> float | None:
    record, entry = kernel.record, kernel.entry
    if entry and not entry.state.waiting and entry.start:
        return max(0.0, now - entry.start.timestamp())  # Slurm prints this host's local time
    since = record.started or record.submitted
    return None if since is None else max(0.0, (record.ended or now) - since)


def _left(kernel: Kernel, now: float) -> float | None:
    if kernel.entry:
        return None if kernel.entry.state.waiting else kernel.entry.left
    ends = None if kernel.record.ended else kernel.record.ends
    return None if ends is None else max(0.0, ends - now)


# ---- which one ----


def find(wanted: str, there: Sequence[Record], ended: Sequence[Record] = ()) -> Record:
    """Return the kernel that a user means, one that is there before one that has ended.

    :param wanted: the beginning of its id, its job's id, or its kernelspec's name
    :raises KernelNotFound: there is none, or several
    """
    for records in (there, ended):
        for matches in _matches(wanted, records):
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise _ambiguous(wanted, matches)
    raise KernelNotFound(
        f"There is no kernel {wanted!r}.",
        hint="Name the beginning of its id, its job's id or its kernelspec, as `farkernel ps` shows them.",
    )


def _matches(wanted: str, records: Sequence[Record]) -> list[list[Record]]:
    """Return what the word may mean, what is meant most likely first."""
    return [
        [record for record in records if record.job_id is not None and str(record.job_id) == wanted],
        [record for record in records if wanted and record.kernel_id.startswith(wanted)],
        [record for record in records if wanted and record.kernelspec == wanted],
    ]


def _ambiguous(wanted: str, matches: Sequence[Record]) -> KernelNotFound:
    ids = [record.kernel_id for record in matches]
    lines = [f"{short_id(record.kernel_id, ids)}  {_about(record)}" for record in matches]
    return KernelNotFound(
        f"{wanted!r} may be any of {len(matches)} kernels:", said="\n".join(lines), hint="Name its id."
    )


def _about(record: Record) -> str:
    job = f"job {record.job_id}" if record.job_id else ""
    ended = f"ended {local_time(record.ended)}" if record.ended else ""
    return ", ".join(part for part in (record.kernelspec, record.notebook, job, ended) if part)


def name_of(record: Record) -> str:
    """Name a kernel in a sentence."""
    return f"kernel {record.kernel_id[:8]} ({record.display_name})"


def local_time(when: float) -> str:
    """Write a time as the user's clock has it."""
    return f"{datetime.fromtimestamp(when):%Y-%m-%d %H:%M:%S}"  # noqa: DTZ006


# ---- tidying up ----


class Chore(Enum):
    """What is to be done with a kernel that may be gone."""

    KEEP = auto()
    """Its server lives, or may."""
    REMOVE = auto()
    """Nothing is left of it but its record and its log."""
    CANCEL = auto()
    """Its server is gone, its job is not."""
    UNKNOWN = auto()
    """Its server is gone, and Slurm does not say what its job does."""


def chore(kernel: Kernel, *, force: bool) -> Chore:
    """Say what is to be done.

    :param force: take servers on other hosts for gone, and jobs behind a login node that cannot be reached
    """
    gone = kernel.fate is Fate.GONE or (kernel.fate is Fate.ELSEWHERE and (force or kernel.job_is_gone))
    if not gone:
        return Chore.KEEP
    if kernel.has_job:
        return Chore.CANCEL
    if kernel.asked or kernel.record.job_id is None:
        return Chore.REMOVE
    # a login node may never be reached again, and the job has ended by itself then
    return Chore.REMOVE if kernel.record.login and force else Chore.UNKNOWN
