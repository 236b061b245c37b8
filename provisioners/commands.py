"""Slurm's commands: their command lines, and what they print. No I/O.

Source: srun(1), squeue(1), scancel(1) and scontrol(1) of Slurm 22.05. Only stated formats are parsed.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from farkernel.provisioners.kinds import BurstBufferFile
from farkernel.provisioners.request import SlurmRequest
from farkernel.provisioners.states import JobState, parse_state

_QUERIES = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")

# Variables that srun takes for options (srun(1), "INPUT ENVIRONMENT VARIABLES") and that would break the
# launcher, or tie its job to one that the notebook server itself runs in.
_SRUN_BREAKERS = re.compile(
    r"""SLURM_(CLUSTERS|CPUS_PER_TASK|EXACT|EXCLUSIVE|EXPORT_ENV|HET_\w+|HINT|JOB_\w+|JOBID|KILL_BAD_EXIT
    |LABELIO|MEM_PER_\w+|NNODES|NODEID|NODELIST|NPROCS|NTASKS\w*|OVERLAP|PROCID|REMOTE_CWD|STD(ERR|IN|OUT)MODE
    |STEP\w*|TASK\w*|TEST_EXEC|THREADS\w*|UNBUFFEREDIO|WAIT|WHOLE|WORKING_DIR)|SRUN_\w+""",
    re.VERBOSE,
)


_ID = r"[0-9]{1,10}"
"""A job's number: Slurm's has 32 bits."""


def query_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which squeue, scancel and scontrol do what their options say.

    Users set SQUEUE_FORMAT or SQUEUE_STATES for their own eyes, and SLURM_TIME_FORMAT changes how
    times are printed.
    """
    kept = {name: value for name, value in env.items() if not name.startswith(_QUERIES)}
    kept.pop("SLURM_CLUSTERS", None)  # as for srun: the jobs are those of this cluster
    return kept | {"SLURM_TIME_FORMAT": "standard"}


def srun_env(slurm: SlurmRequest, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for `srun_argv`. A default such as SLURM_ACCOUNT stays, what breaks it goes."""
    kept = {name: value for name, value in env.items() if not _SRUN_BREAKERS.fullmatch(name)}
    return kept | ({"SLURM_OVERLAP": "1"} if slurm.exclusive else {})


def srun_argv(slurm: SlurmRequest, command: Sequence[str], *, options: Sequence[str] = ()) -> list[str]:
    """Return the command line that allocates a job and runs the launcher in it. Use it with `srun_env`.

    `options` are those that a container runtime's plugin adds to srun.

    `command` is started once for every task: all but task 0 (SLURM_PROCID) have to leave at once with code 0,
    which the options allow. Only task 0 gets the standard input. The launcher's step has every CPU of the
    job, and other steps run beside it. So `cpus_per_task` becomes --mincpus: --cpus-per-task would imply
    --exact, and leave the step with ntasks_per_node times cpus_per_task CPUs of a node that the job has as a
    whole. With `exclusive` srun implies --exact by itself and refuses --overlap: then it is --cpus-per-task
    after all, and `srun_env` asks for the overlap.
    """
    return [
        "srun",
        "--verbose",
        "--input=0",
        "--wait=0",
        "--kill-on-bad-exit=0",
        *([] if slurm.exclusive else ["--overlap"]),
        *_resources(slurm),
        *options,
        *slurm.extra_args,
        *command,
    ]


def srun_test_argv(slurm: SlurmRequest, command: Sequence[str], *, options: Sequence[str] = ()) -> list[str]:
    """Return the command line that asks Slurm what it thinks of a job, and submits none. Use it with `srun_env`.

    The arguments are those of `srun_argv`, and so are the options; `parse_estimate` reads what it prints on stderr.
    """
    program, *rest = srun_argv(slurm, command, options=options)
    return [program, "--test-only", *rest]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What Slurm thinks of a job that it would take.

    :param start: local time, naive, as Slurm prints it
    :param partition: the one that it would run in; empty where Slurm does not say
    """

    start: datetime
    processors: int
    nodes: str
    partition: str = ""


def parse_estimate(stderr: str) -> Estimate | None:
    """Read the output of `srun_test_argv`; None if Slurm refused."""
    pattern = r"[Jj]ob [0-9]+ to start at (\S+) using ([0-9]+) processors on (?:nodes )?(\S+)(?: in partition (\S+))?"
    for line in stderr.splitlines():
        found = re.search(pattern, line)
        if found and (start := _time(found[1])):
            return Estimate(start, int(found[2]), found[3], found[4] or "")
    return None


def _resources(slurm: SlurmRequest) -> list[str]:
    tasks = slurm.ntasks_per_node or 1
    cpus = slurm.cpus_per_task
    burst_file = slurm.burst_buffer.file if isinstance(slurm.burst_buffer, BurstBufferFile) else None
    burst = None if burst_file else slurm.burst_buffer
    options: dict[str, object] = {
        "job-name": slurm.job_name,
        "account": slurm.account,
        "qos": slurm.qos,
        "partition": slurm.partition,
        "constraint": slurm.constraint,
        "nodes": slurm.nodes,
        "ntasks-per-node": tasks,
        "mincpus": tasks * cpus if cpus and not slurm.exclusive else None,
        "cpus-per-task": cpus if slurm.exclusive else None,
        "gpus": slurm.gpus,
        "gres": slurm.gres,
        "mem": slurm.mem,
        "time": slurm.time,
        "reservation": slurm.reservation,
        "licenses": slurm.licenses,
        "bb": burst,
        "bbf": burst_file,
        "comment": slurm.comment,
    }
    exclusive = ["--exclusive"] if slurm.exclusive else []
    return [f"--{name}={value}" for name, value in options.items() if value is not None] + exclusive


_SQUEUE_FORMAT = "--format=%i|%T|%S|%h|%L|%V|%N|%r"


def squeue_argv(job_ids: Iterable[int]) -> list[str]:
    """Return the command line that asks about jobs, ended ones too; `parse_squeue` reads its output.

    An unknown job alone makes squeue fail (`Invalid job id specified`, code 1); among others it is left out.
    """
    ids = ",".join(str(job_id) for job_id in job_ids)
    return ["squeue", "--noheader", "--states=all", f"--jobs={ids}", _SQUEUE_FORMAT]


def squeue_of_user_argv(user: int | str) -> list[str]:
    """Return the command line that asks about a user's jobs that have not ended; `parse_squeue` reads its output.

    :param user: number or name
    """
    return ["squeue", "--noheader", f"--user={user}", _SQUEUE_FORMAT]


def scancel_argv(job_id: int) -> list[str]:
    """Return the command line that ends a job."""
    return ["scancel", str(job_id)]


def scontrol_argv(job_id: int) -> list[str]:
    """Return the command line that shows a job; `parse_preempted` reads its output."""
    return ["scontrol", "--oneliner", "show", "job", str(job_id)]


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """What squeue says of a job.

    :param start: expected or actual: local time, naive, as Slurm prints it
    :param left: seconds that it may still run; None without a limit
    :param submitted: local time, naive; tells a job from one that had its number long before
    """

    job_id: int
    state: JobState
    reason: str
    start: datetime | None
    exclusive: bool
    nodes: str
    left: float | None = None
    submitted: datetime | None = None


def parse_squeue(text: str) -> dict[int, QueueEntry]:
    """Read the output of `squeue_argv`, by job id; lines that are something else are passed over."""
    entries: dict[int, QueueEntry] = {}
    for line in text.splitlines():
        fields = line.split("|", 7)
        if len(fields) != 8 or not re.fullmatch(_ID, fields[0]):
            continue
        job_id, state, start, shared, left, submitted, nodes, reason = fields
        entries[int(job_id)] = QueueEntry(
            int(job_id),
            parse_state(state),
            reason.strip(),
            _time(start),
            shared == "NO",
            nodes.strip(),
            _left(left),
            _time(submitted),
        )
    return entries


def _left(text: str) -> float | None:
    """Read squeue's TIME_LEFT: `[D-][HH:]MM:SS`; UNLIMITED, NOT_SET and INVALID are none."""
    found = re.fullmatch(r"(?:([0-9]{1,9})-)?(?:([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{1,9})", text.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None  # "N/A"
    return time if time.tzinfo is None else None  # the other kind cannot be compared with it


_AWAY = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Zero Bytes were transmitted|Connection (refused|timed)"
)


def slurm_is_away(stderr: str) -> bool:
    """Whether one of Slurm's commands failed for want of an answer, as while slurmctld is restarted."""
    return _AWAY.search(stderr) is not None


def parse_preempted(text: str) -> bool:
    """Read the output of `scontrol_argv`: whether the job was made to leave for another one."""
    match = re.search(r"\bPreemptTime=(\S+)", text)
    return match is not None and match[1] != "None"


@dataclass(frozen=True, slots=True)
class Queued:
    """The job waits in the queue."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Allocated:
    """The job has nodes; `nodes` is empty until srun names them."""

    job_id: int
    nodes: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The job was cancelled while it waited; srun does not always say which."""

    job_id: int | None = None


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """Slurm gave up a node of the job. srun may hang after this."""

    nodes: str


@dataclass(frozen=True, slots=True)
class StepCancelled:
    """The launcher's step was ended from outside. An empty `cause` may be scancel, or preemption."""

    job_id: int
    nodes: str
    cause: str


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The kernel of the node killed something of the job for want of memory."""

    job_id: int


@dataclass(frozen=True, slots=True)
class CommandFailed:
    """The command could not be started on the node."""

    node: str
    command: str
    why: str


SrunNotice = Queued | Allocated | Withdrawn | NodeFailed | StepCancelled | OutOfMemory | CommandFailed

_STEP = rf"(?:(?:job )?step |job |StepId=|JobId=)?({_ID})(?:\.\w+)?"
_SLURMD = r"slurmstepd-([^:]+): error: "
_NOTICES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], SrunNotice]], ...] = tuple(
    (re.compile(pattern), make)
    for pattern, make in (
        (rf"srun: job ({_ID}) queued and waiting for resources", lambda m: Queued(int(m[1]))),
        (rf"srun: job ({_ID}) has been allocated resources", lambda m: Allocated(int(m[1]))),
        (rf"srun: jobid ({_ID}): nodes\(\d+\):`([^']*)'.*", lambda m: Allocated(int(m[1]), m[2])),
        (r"srun: Job has been cancelled", lambda m: Withdrawn()),
        (rf"srun: Job allocation ({_ID}) has been revoked.*", lambda m: Withdrawn(int(m[1]))),
        (r"srun: error: Node failure on (\S+)", lambda m: NodeFailed(m[1])),
        (
            rf".*error: \*\*\* (?:STEP|JOB) ({_ID})(?:\.\w+)? ON (\S+) CANCELLED AT \S+( DUE TO [A-Z ]+)?.*",
            lambda m: StepCancelled(int(m[1]), m[2], (m[3] or "").removeprefix(" DUE TO ").strip().lower()),
        ),
        (
            r".*error: Detected \d+ oom[-_ ]kill event(?:s|\(s\))? in " + _STEP + r"\b.*",
            lambda m: OutOfMemory(int(m[1])),
        ),
        (_SLURMD + r"execve\(\): (.*): ([^:]+)", lambda m: CommandFailed(m[1], m[2], m[3])),
    )
)


def parse_srun_line(line: str) -> SrunNotice | None:
    """Read a line of srun's standard error, newline or not; None if it says nothing of the above."""
    line = line.rstrip()
    for pattern, make in _NOTICES:
        if found := pattern.fullmatch(line):
            return make(found)
    return None
