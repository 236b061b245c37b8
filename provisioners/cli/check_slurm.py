"""What Slurm on this host says: its programs, its controller, its partitions, and what the user may use."""

import asyncio
import getpass
import os
import re
import shutil

from farkernel.provisioners.cli.findings import Finding, Level, ok, problem, warning
from farkernel.provisioners.commands import query_env
from farkernel.provisioners.errors import CommandMissing
from farkernel.provisioners.process import Finished, run

NEEDED = ("srun", "sbatch", "squeue", "scancel", "scontrol")
USEFUL = ("sinfo", "sacct", "sacctmgr")
PROGRAMS = "Slurm's programs"
# slurmctld's own message timeout is 10 s by default; the commands try a few times.
TIMEOUT = 30.0


def slurm_is_here() -> bool:
    """Tell whether this host can submit at all."""
    return shutil.which("srun") is not None


async def slurm_answers() -> bool:
    """Tell whether this host can submit, and its controller answers."""
    if not slurm_is_here():
        return False
    try:
        return (await _ask("scontrol", "ping")).returncode == 0
    except TimeoutError:
        return False


async def check_slurm() -> list[Finding]:
    """Look at Slurm."""
    if not slurm_is_here():
        return [
            warning(
                "Slurm",
                "srun is not on PATH",
                "Kernels of farkernel-local work here all the same; for compute nodes, "
                "use a login node or load the site's Slurm module.",
            )
        ]
    version, controller = await asyncio.gather(_ask("srun", "--version"), _check_controller())
    if version.returncode:  # the others say the same: it is their configuration as a rule
        return [_no_programs(version)]
    programs = _check_programs(version)
    if controller.level is Level.PROBLEM:
        return [programs, controller]
    return [programs, controller, *await asyncio.gather(_check_partitions(), _check_accounts())]


def _no_programs(version: Finished) -> Finding:
    return problem(
        PROGRAMS,
        f"`{shutil.which('srun')} --version` fails:\n{_words(version)}",
        "Without its configuration no program of Slurm works: load the site's Slurm module, or set SLURM_CONF. "
        "Kernels of farkernel-local work here all the same.",
    )


def _check_programs(version: Finished) -> Finding:
    subject = PROGRAMS
    found = f"{version.stdout.strip() or 'srun, which does not say its version'} ({shutil.which('srun')})"
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        return problem(subject, f"{found}; missing: {', '.join(missing)}", "Load the site's whole Slurm module.")
    if missing := [name for name in USEFUL if not shutil.which(name)]:
        return warning(
            subject,
            f"{found}; missing: {', '.join(missing)}",
            "Kernels start without them; why a job ended will be known less well.",
        )
    return ok(subject, found)


async def _check_controller() -> Finding:
    subject = "slurmctld"
    answer = await _ask("scontrol", "ping")
    lines = answer.stdout.strip().splitlines()
    up = [line for line in lines if line.endswith(" is UP")]
    if not up:
        return problem(
            subject,
            _words(answer) or "no answer",
            "No job can start before it answers: ask the site's support. farkernel-local works all the same.",
        )
    if len(up) < len(lines):
        return warning(subject, "\n".join(lines), "Jobs start; the site's support may want to know.")
    return ok(subject, "\n".join(lines))


async def _check_partitions() -> Finding:
    subject = "partitions"
    answer = await _ask("sinfo", "-h", "-o", "%P|%a|%l|%f|%F")
    if answer.returncode:
        return warning(subject, _words(answer), "The partitions are not known; kernels may start all the same.")
    lines, any_up = describe_partitions(answer.stdout)
    if not any_up:
        return problem(subject, "\n".join(lines) or "none", "No partition takes jobs: ask the site's support.")
    return ok(subject, "\n".join(lines))


def describe_partitions(output: str) -> tuple[list[str], bool]:
    """Read `sinfo -h -o "%P|%a|%l|%f|%F"`: a line for each partition, and whether any of them is up."""
    partitions: dict[str, list[str]] = {}
    any_up = False
    for line in output.splitlines():
        fields = re.fullmatch(r"([^|]*)\|([^|]*)\|([^|]*)\|(.*)\|\d+/(\d+)/\d+/(\d+)", line.strip())
        if fields is None:
            continue
        name, state, limit, features, idle, total = fields.groups()
        any_up = any_up or state == "up"
        head = f"{name} ({state}, limit {limit})"
        shown = "no features" if features == "(null)" else features
        partitions.setdefault(head, []).append(f"{shown}: {idle} of {total} idle")
    return [f"{head}: {'; '.join(nodes)}" for head, nodes in partitions.items()], any_up


async def _check_accounts() -> Finding:
    subject = "accounts and QOS"
    user = getpass.getuser()
    answer = await _ask(
        "sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=account,partition,qos,defaultqos"
    )
    if answer.returncode == 0 and answer.stdout.strip():
        default = await _ask("sacctmgr", "-n", "-P", "show", "user", user, "format=defaultaccount")
        return ok(subject, "\n".join(describe_accounts(answer.stdout, default.stdout.strip())))
    used = await _ask("sacct", "-n", "-P", "-X", "-S", "now-30days", "-o", "account,qos")
    if used.returncode == 0 and used.stdout.strip():
        pairs = sorted({line.strip() for line in used.stdout.splitlines() if line.count("|") == 1})
        lines = ["{} with QOS {}".format(*pair.split("|")) for pair in pairs]
        return ok(subject, "\n".join(["used in the last 30 days:", *lines]))
    if answer.returncode == 0:
        return warning(
            subject,
            f"none for user {user}",
            "Slurm will refuse jobs if it asks for one: ask the site's support.",
        )
    return warning(subject, _words(answer), "They are not known; give yours with `--account` at installation.")


def describe_accounts(output: str, default: str) -> list[str]:
    """Read `sacctmgr -n -P show assoc format=account,partition,qos,defaultqos`: a line for each."""
    lines = []
    for line in output.splitlines():
        if line.count("|") != 3:
            continue
        account, partition, qos, default_qos = line.split("|")
        notes = ["default"] if account == default else []
        notes += [f"in partition {partition}"] if partition else []
        notes += [f"default QOS {default_qos}"] if default_qos else []
        aside = f" ({', '.join(notes)})" if notes else ""
        lines.append(f"{account}{aside}: {qos.replace(',', ', ')}")
    return lines


async def _ask(*argv: str) -> Finished:
    """Run one of Slurm's commands; one that is missing or hangs gives its reason as stderr."""
    try:
        return await run(argv, env=query_env(os.environ), timeout=TIMEOUT)
    except (CommandMissing, TimeoutError) as error:
        return Finished(127, "", str(error))


def _words(answer: Finished) -> str:
    return (answer.stderr.strip() or answer.stdout.strip()).replace("\r", "")
