"""What to tell the user when Slurm refuses a job.

Source of the texts: srun of Slurm 22.05, tried on a cluster, and the messages of its slurm_errno.c.
"""

import re
from typing import NamedTuple

from farkernel.provisioners.errors import SubmissionRefused
from farkernel.provisioners.states import limit_of


class _Rule(NamedTuple):
    pattern: str  # searched in Slurm's words, case as it is
    sentence: str  # follows "Slurm refused the job of kernel …: "
    hint: str


_LATER = "Try again in a while; if it stays so, ask the site's support."
_ADMIN = "Ask the site's support."

# The first that fits is taken, so a cause stands before the general text that Slurm prints after it.
_RULES = (
    _Rule(
        r"invalid partition specified: (?P<what>\S+)",
        "there is no partition {what} (slurm.partition)",
        "`sinfo` lists the partitions; correct slurm.partition or leave it out.",
    ),
    _Rule(
        r"Invalid partition name|No partition specified",
        "its partition is not valid (slurm.partition)",
        "`sinfo` lists the partitions; set slurm.partition to one of them.",
    ),
    _Rule(
        r"User's group not permitted|Access/permission denied",
        "you may not use its partition or option (slurm.partition)",
        "Choose another slurm.partition, or ask the site's support for access.",
    ),
    _Rule(
        r"Requested nodes not in this partition",
        "the nodes it names are not in its partition (slurm.partition)",
        "Correct slurm.partition or the node list in slurm.extra_args.",
    ),
    _Rule(
        r"Required partition not available",
        "its partition takes no jobs now (slurm.partition)",
        "`sinfo` shows which partitions are up; choose another slurm.partition or try later.",
    ),
    _Rule(
        r"Requested partition configuration not available",
        "it asks for more than its partition allows (slurm.time, slurm.nodes)",
        "`sinfo` shows the partition's limits; ask for less, or choose another slurm.partition.",
    ),
    _Rule(
        r"Invalid account or account/partition combination",
        "the account is not valid, or not yours (slurm.account)",
        "`sacctmgr show associations user=$USER format=account,qos` lists yours; correct slurm.account.",
    ),
    _Rule(
        r"Invalid qos specification",
        "the QOS does not exist, or may not be used with this account or partition (slurm.qos)",
        "`sacctmgr show associations user=$USER format=account,qos` lists yours; correct slurm.qos.",
    ),
    _Rule(
        r"Requested account has breached requested QOS usage threshold",
        "the account's usage is past the QOS's threshold (slurm.account, slurm.qos)",
        "Choose another slurm.account or slurm.qos.",
    ),
    _Rule(
        r"Invalid (preferred )?feature specification",
        "no node has the features it asks for (slurm.constraint)",
        "`sinfo -o '%P %f'` lists the features of each partition; correct slurm.constraint.",
    ),
    _Rule(
        r"KNL NUMA|Invalid KNL configuration",
        "its KNL modes are not valid (slurm.constraint)",
        "Name one NUMA mode and one memory mode in slurm.constraint.",
    ),
    _Rule(
        r"Memory specification can not be satisfied|Memory required by task is not available",
        "no node has that much memory (slurm.mem)",
        "`sinfo -o '%P %m'` shows the nodes' memory in MB; ask for less in slurm.mem.",
    ),
    _Rule(
        r"CPU count per node can not be satisfied|More processors requested|Requested more tasks than"
        r"|CPU count specification invalid",
        "no node has that many CPUs (slurm.ntasks_per_node, slurm.cpus_per_task)",
        "`sinfo -o '%P %c'` shows the nodes' CPUs; ask for fewer.",
    ),
    _Rule(
        r"Requested node configuration is not available",
        "no node of the partition has all it asks for (slurm.constraint, slurm.mem, slurm.gpus)",
        "`sinfo -o '%P %f %c %m %G'` shows what the nodes have; check these keys against each other.",
    ),
    _Rule(
        r"Requested time limit is invalid|Invalid time-min|Time limit specification required",
        "the time is missing, or longer than the partition allows (slurm.time)",
        "`sinfo -o '%P %l'` shows the partitions' limits; correct slurm.time.",
    ),
    _Rule(
        r"Node count specification invalid|is not a valid node count",
        "the number of nodes is not possible in the partition (slurm.nodes)",
        "`sinfo -o '%P %D'` shows how many there are; ask for fewer in slurm.nodes.",
    ),
    _Rule(
        r"Invalid generic resource|Invalid GRES|Insufficient GRES|Duplicate generic resource",
        "the GPUs or generic resources it asks for do not exist here (slurm.gpus, slurm.gres)",
        "`sinfo -o '%P %G'` lists them; correct slurm.gpus or slurm.gres.",
    ),
    _Rule(
        r"Invalid Trackable RESource",
        "a resource it asks for does not exist here (slurm.gpus, slurm.gres, slurm.licenses)",
        "Correct these keys; `sinfo -o '%P %G'` and `scontrol show licenses` list what there is.",
    ),
    _Rule(
        r"Invalid license specification",
        "a license it asks for does not exist (slurm.licenses)",
        "`scontrol show licenses` lists them; correct slurm.licenses.",
    ),
    _Rule(
        r"Requested reservation|Access denied to requested reservation",
        "the reservation does not exist, is over, or is not yours (slurm.reservation)",
        "`scontrol show reservation` lists them; correct slurm.reservation or leave it out.",
    ),
    _Rule(
        r"Burst Buffer|--bbf? spec",
        "the burst buffer request is not valid or not permitted (slurm.burst_buffer)",
        "Check the lines of slurm.burst_buffer.",
    ),
    _Rule(
        r"Invalid node name specified|Required node not available",
        "a node that it names does not exist or is down (slurm.extra_args)",
        "`sinfo -N` lists the nodes; correct the node list in slurm.extra_args.",
    ),
    _Rule(
        r"dependency problem|Circular job dependency",
        "the job it depends on is not valid (slurm.extra_args)",
        "Correct --dependency in slurm.extra_args.",
    ),
    _Rule(
        r"Job violates accounting/QOS policy|Unable to allocate resources: (QOS|Assoc)\w+",
        "it is over a limit of its account or QOS (slurm.account, slurm.qos)",
        "`squeue --me` shows your other jobs; end one, ask for less, or choose another slurm.qos.",
    ),
    _Rule(
        r"Requested nodes are busy|Immediate execution impossible|Job can not start immediately",
        "no nodes are free now, and --immediate says not to wait (slurm.extra_args)",
        "Try again later, or remove --immediate from slurm.extra_args.",
    ),
    _Rule(
        r"Unable to contact slurm controller|Controller is in standby|Connection refused|Connection timed out"
        r"|Socket timed out|Zero Bytes were transmitted",
        "Slurm's controller does not answer",
        _LATER,
    ),
    _Rule(
        r"[Mm]unge|authentication|Authentication|Invalid user id",
        "Slurm could not establish who you are (authentication)",
        _ADMIN,
    ),
    _Rule(
        r"System submissions disabled|maintenance reservation|presently disabled",
        "the site takes no jobs now",
        _LATER,
    ),
    _Rule(r"Only batch jobs are accepted", "the site accepts batch jobs only", _ADMIN),
    _Rule(
        r"Unable to create job record, try again|Resource temporarily unavailable|internal error",
        "Slurm could not take another job",
        _LATER,
    ),
    _Rule(
        r"Job has been cancelled|has been revoked|already completing or completed",
        "the job was cancelled while it waited",
        "Start the kernel again if it was not you who cancelled it.",
    ),
    _Rule(
        r"--time spec|Invalid time limit|Invalid time specified",
        "the time cannot be understood (slurm.time)",
        'Write slurm.time as minutes, "HH:MM:SS" or "D-HH:MM:SS".',
    ),
    _Rule(
        r"--mem spec",
        "the memory cannot be understood (slurm.mem)",
        'Write slurm.mem with a unit, such as "4G".',
    ),
    _Rule(
        r"(?:unrecognized |invalid )?option (?:-- )?'(?P<what>[^'\n]*)'",
        "this srun does not know the option {what} (slurm.extra_args)",
        "`srun --help` lists its options; correct slurm.extra_args.",
    ),
    _Rule(
        r"Invalid (?P<what>--[a-z-]+) specification|Invalid numeric value .* for (?P<other>--[a-z-]+)",
        "a value of {what}{other} is not valid (slurm.extra_args)",
        "`man srun` describes the option; correct the key, or slurm.extra_args.",
    ),
    _Rule(
        r"No command given to execute",
        "an option in slurm.extra_args took the command for its value",
        "Write each option as --option=value.",
    ),
)

_UNKNOWN = "see its words below"
_UNKNOWN_HINT = "Check the kernelspec's slurm keys; if they are right, ask the site's support."
_SUBMIT_PLUGIN = _Rule(
    r"(?:Unable to allocate resources|allocation failure): Unspecified error",  # the latter with --test-only
    "the site's own rules for jobs do not allow it",
    "Change the kernelspec's slurm keys as the site's words say.",
)

_LIMIT_NAME = re.compile(r"\b(?:QOS|Assoc)[A-Z][A-Za-z]+")


def explain_refusal(stderr: str, returncode: int, *, kernel: str) -> SubmissionRefused:
    """Say why srun took no job, in the user's terms.

    :param stderr: everything that srun wrote there; with --verbose or without
    :param returncode: srun's exit code; said only when srun said nothing
    :param kernel: display name of the kernel
    :return: the error to raise; `what` names the kernelspec's key, `said` keeps Slurm's own words
    """
    said = slurm_words(stderr)
    sentence, hint = _explain(said)
    if not said:
        sentence, hint = f"srun ended with code {returncode} and said nothing", _UNKNOWN_HINT
    return SubmissionRefused(f"Slurm refused the job of kernel {kernel}: {sentence}.", said=said, hint=hint)


def slurm_words(stderr: str) -> str:
    """Return what srun complained about, without its prefixes and the noise of --verbose."""
    words: list[str] = []
    for line in stderr.splitlines():
        line = line.strip()
        if not line or _NOISE.match(line):
            continue
        word = _PREFIX.sub("", line)
        if word and word not in words:
            words.append(word)
    return "\n".join(words)


_PREFIX = re.compile(r"^srun: (?:(?:error|fatal|warning): )?")
_NOISE = re.compile(
    r"srun: (?:[-\s]+$|defined options|end of defined options|[\w -]+ : |job \d+ |jobid \d+|launch|"
    r"route/|Nodes |Waiting for nodes|Force Terminated|debug|.*_task_|.*: init: )|"
    r'Try "srun --help"|$'
)


def _explain(said: str) -> tuple[str, str]:
    for name in _LIMIT_NAME.findall(said):
        if limit := limit_of(name):
            return _explain_limit(name, *limit)
    for rule in (_SUBMIT_PLUGIN, *_RULES):
        if found := re.search(rule.pattern, said):
            groups = {key: value or "" for key, value in found.groupdict().items()}
            return rule.sentence.format(**groups), rule.hint
    return _UNKNOWN, _UNKNOWN_HINT


def _explain_limit(name: str, owner: str, what: str, key: str) -> tuple[str, str]:
    whose = "QOS" if owner == "slurm.qos" else "account"
    too_little = re.match(r"(QOS|Assoc)Min(?!utes)", name) is not None
    way = "below the least" if too_little else "over a limit"
    keys = ", ".join(part for part in (owner, key) if part)
    sentence = f"it is {way} that its {whose} sets on {what} ({keys})"
    if what in {"queued and running jobs", "running jobs"}:
        return sentence, f"`squeue --me` shows your other jobs; end one, or choose another {owner}."
    if what == "used time":
        return (
            sentence,
            f"The budget is used up, or the job may use it up: shorten slurm.time or change {owner}.",
        )
    ask = "more" if too_little else "less"
    return (
        sentence,
        f"Ask for {ask} in {key}, or change {owner}." if key else f"Change {owner}, or ask for {ask}.",
    )
