"""States of a Slurm job, and the plain sentences that tell them to the user.

Source: squeue(1), "JOB STATE CODES" and "JOB REASON CODES", and Slurm's page on resource limits, for 22.05.
"""

import re
from datetime import datetime
from enum import StrEnum
from signal import Signals


class JobState(StrEnum):
    """State of a job, in Slurm's long names; UNKNOWN is whatever a newer Slurm may have."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    REQUEUED = "REQUEUED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    REQUEUE_FED = "REQUEUE_FED"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    SIGNALING = "SIGNALING"
    RESIZING = "RESIZING"
    STAGE_OUT = "STAGE_OUT"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    REVOKED = "REVOKED"

    @property
    def ended(self) -> bool:
        """Whether the job is over for good."""
        return _RANKS.get(self, _ENDED) == _ENDED

    @property
    def waiting(self) -> bool:
        """Whether the job has no nodes yet."""
        return _RANKS.get(self) == 1

    def advance(self, newer: "JobState") -> "JobState":
        """Return the state after a report of `newer`, which may be late.

        A job goes from waiting to configuring, running, completing and one end. A report of an earlier stage
        is ignored, and so is a second end; within a stage (running, suspended) the report counts.
        """
        if self.ended or _RANKS.get(newer, _ENDED) < _RANKS.get(self, _ENDED):
            return self
        return newer


_ENDED = 5
_RANKS = {
    JobState.UNKNOWN: 0,
    JobState.PENDING: 1,
    JobState.REQUEUED: 1,
    JobState.REQUEUE_HOLD: 1,
    JobState.REQUEUE_FED: 1,
    JobState.RESV_DEL_HOLD: 1,
    JobState.SPECIAL_EXIT: 1,
    JobState.CONFIGURING: 2,
    JobState.RUNNING: 3,
    JobState.SUSPENDED: 3,
    JobState.STOPPED: 3,
    JobState.SIGNALING: 3,
    JobState.RESIZING: 3,
    JobState.STAGE_OUT: 4,
    JobState.COMPLETING: 4,
}  # a state that is not here is an end


def parse_state(text: str) -> JobState:
    """Read squeue's %T or sacct's State: `RUNNING`, `CANCELLED by 2001`, `CANCELLED+`."""
    word = re.split(r"[ +]", text.strip(), maxsplit=1)[0]
    try:
        return JobState(word)
    except ValueError:
        return JobState.UNKNOWN


_REASONS = (
    (r"None|WaitingForScheduling", "the scheduler has not looked at it yet"),
    (r"Priority", "jobs with a higher priority are ahead"),
    (r"Resources", "waiting for nodes to become free"),
    (r"DependencyNeverSatisfied", "it depends on a job that will never satisfy it"),
    (r"Dependency", "it depends on another job that is not done"),
    (r"BeginTime", "its begin time has not come yet, or it is about to start again"),
    (r"Reservation(, .*)?", "its reservation has not started yet"),
    (r"ReservationDeleted", "its reservation was deleted"),
    (
        r"ReqNodeNotAvail,? ?\(?Reserved for maintenance\)?",
        "nodes that it needs are reserved for maintenance",
    ),
    (
        r"ReqNodeNotAvail.*UnavailableNodes:(?P<nodes>[^\s)]+)\)?",
        "nodes that it needs are not available: {nodes}",
    ),
    (r"ReqNodeNotAvail.*", "nodes that it needs are not available, perhaps reserved for maintenance"),
    (r"Nodes_required_for_job_are_DOWN.*|Nodes required for job are DOWN.*", "nodes that it needs are down"),
    (r"NodeDown", "a node that it needs is down"),
    (r"FrontEndDown", "no front end node is up"),
    (r"PartitionDown", "its partition is down"),
    (r"PartitionInactive", "its partition starts no jobs at present"),
    (r"PartitionNodeLimit", "it asks for more nodes than its partition allows, or some of them are down"),
    (r"PartitionTimeLimit", "it asks for more time than its partition allows"),
    (r"PartitionConfig|PartitionConfiguration", "it asks for something that its partition does not allow"),
    (r"Licenses", "waiting for licenses"),
    (r"JobHeldUser", "it is held: `scontrol release` lets it go"),
    (r"JobHeldAdmin", "it is held by an administrator"),
    (r"JobHoldMaxRequeue", "it is held, having been requeued too often"),
    (r"launch_failed_requeued_held|launch failed requeued held", "it could not be launched and is held"),
    (r"JobLaunchFailure", "it could not be launched"),
    (r"BadConstraints", "no node can ever satisfy what it asks for"),
    (r"InvalidQOS", "its QOS is not valid for it"),
    (r"InvalidAccount", "its account is not valid"),
    (r"AccountNotAllowed", "its account may not use the partition"),
    (r"AccountingPolicy", "an accounting limit holds it"),
    (r"QOSNotAllowed", "its QOS may not be used in the partition"),
    (r"QOSUsageThreshold", "its account's usage is past the QOS's threshold"),
    (r"Prolog", "the node is being prepared"),
    (r"Cleaning", "its previous run is being cleaned up"),
    (r"BurstBuffer(Resources|StageIn)", "its burst buffer is being prepared"),
    (r"BurstBufferOperation", "its burst buffer failed"),
    (r"SystemFailure", "Slurm, a file system or the network failed"),
    (r"InactiveLimit", "it was inactive for too long"),
    (r"TimeLimit", "its time is up"),
    (r"NonZeroExitCode", "it ended with an error"),
    (r"DeadLine", "its deadline cannot be met"),
    (r"MaxMemPerLimit", "it asks for more memory than a limit allows"),
)

# What a limit is on: a word in its name, what the user knows it as, the kernelspec's key.
_LIMITED = (
    ("submit", "queued and running jobs", ""),
    ("minutes", "used time", ""),
    ("jobs|^joblimit", "running jobs", ""),
    ("wall|timelimit", "time", "slurm.time"),
    ("cpu", "CPUs", "slurm.cpus_per_task"),
    ("mem", "memory", "slurm.mem"),
    ("gres", "GPUs and other generic resources", "slurm.gpus"),
    ("node", "nodes", "slurm.nodes"),
    ("license", "licenses", "slurm.licenses"),
    ("bb", "burst buffer", "slurm.burst_buffer"),
    ("billing", "billing units", ""),
    ("energy", "energy", ""),
)


def limit_of(name: str) -> tuple[str, str, str] | None:
    """Explain the name of a limit, such as `QOSMaxSubmitJobPerUserLimit` or `AssocGrpCPUMinutesLimit`.

    :return: whose limit it is (`slurm.qos` or `slurm.account`), what it is on, and the kernelspec's key for
        that (empty if there is none); None if the name is no limit's
    """
    found = re.fullmatch(r"(QOS|Assoc)(?:iation)?((?:Grp|Max|Min|Job|Resource|Time)\w+)", name)
    if not found:
        return None
    owner = "slurm.qos" if found[1] == "QOS" else "slurm.account"
    for pattern, what, key in _LIMITED:
        if re.search(pattern, found[2], re.IGNORECASE):
            return owner, what, key
    return owner, "resources", ""


def reason_sentence(reason: str) -> str:
    """Say in plain words why a job waits.

    :param reason: what squeue's %r prints, such as `Priority`
    :return: a clause without a full stop; the reason itself if it is not known
    """
    reason = reason.strip()
    for pattern, sentence in _REASONS:
        if found := re.fullmatch(pattern, reason):
            return sentence.format(**found.groupdict())
    if limit := limit_of(reason):
        owner, what, _ = limit
        return f"the {owner.removeprefix('slurm.').replace('qos', 'QOS')} has reached its limit on {what}"
    return reason


_ENDS = {
    JobState.COMPLETED: "ended",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
    JobState.TIMEOUT: "reached its time limit",
    JobState.NODE_FAIL: "ended because a node failed",
    JobState.PREEMPTED: "was preempted by a job with a higher priority",
    JobState.OUT_OF_MEMORY: "ran out of memory",
    JobState.BOOT_FAIL: "ended because its node did not boot",
    JobState.DEADLINE: "could not meet its deadline",
    JobState.REVOKED: "was taken over by another cluster",
}


def end_sentence(state: JobState, *, job_id: int, node: str = "", exit_code: int = 0, signal: int = 0) -> str:
    """Say in one sentence how a job ended.

    :param node: the job's nodes as Slurm writes them; left out if empty
    :param exit_code: what its program returned, 0-255; said for FAILED only
    :param signal: the signal that ended it, or 0; said for FAILED only
    """
    where = f" on {node}" if node else ""
    sentence = f"Slurm job {job_id}{where} {_ENDS.get(state, f'is in state {state}')}"
    if state is JobState.FAILED and signal:
        sentence += f", killed by signal {signal}"
    elif state is JobState.FAILED and exit_code:
        sentence += f" with exit code {exit_code}"
    return f"{sentence}."


def queue_text(
    job_id: int, state: JobState, reason: str, *, start: datetime | None, now: datetime, waited: float
) -> str:
    """Return the text of a cell that waits for the job.

    :param start: when Slurm expects it to start, and `now`: local time, naive, as Slurm prints it
    :param waited: seconds since it was submitted
    """
    text = f"Slurm job {job_id} {state}"
    if state.waiting and reason not in {"", "None"}:
        plain = reason_sentence(reason)
        text += f" ({reason})" if plain == reason else f" ({reason.partition(',')[0]}: {plain})"
    if state.waiting and start is not None and start > now:
        shown = f"{start:%H:%M}" if start.date() == now.date() else f"{start:%Y-%m-%d %H:%M}"
        text += f"; estimated start {shown} (in {span((start - now).total_seconds())})"
    return f"{text}; waited {span(waited)}"


def signal_name(number: int) -> str:
    """Name a signal: `SIGKILL`; those without a name, such as the real-time ones, by their number."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def span(seconds: float) -> str:
    """Write a length of time in its two largest units: `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
