"""Whether the launcher's Python can run the launcher: on this host, or on a compute node."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from farkernel.kernelspecs.install import Installed
from farkernel.provisioners.cli import check_directions
from farkernel.provisioners.cli.check_slurm import slurm_is_here
from farkernel.provisioners.cli.findings import Finding, ok, problem, warning
from farkernel.provisioners.commands import Allocated, parse_srun_line, srun_argv, srun_env
from farkernel.provisioners.effective import Effective, effective
from farkernel.provisioners.environment import for_submission
from farkernel.provisioners.errors import CommandMissing, PolicyRefused, PolicyUnusable, RequestError
from farkernel.provisioners.process import Finished, converse, run
from farkernel.provisioners.refusals import explain_refusal, slurm_words
from farkernel.provisioners.request import Request, SlurmRequest

ON_NODE = "launcher on a node"
SLURM_PROVISIONER = "farkernel-slurm"

LOCAL_TIMEOUT = 30.0
# A job that only looks; short, so that a busy machine's backfill finds room for it.
NODE_TIME = "0:05:00"

# Runs in the launcher's Python, which may be an old one.
PROBE = """
import json, platform, sys
facts = {"host": platform.node(), "python": platform.python_version()}
try:
    import zmq
    facts.update(pyzmq=zmq.__version__, libzmq=zmq.zmq_version(), curve=bool(zmq.has("curve")))
except ImportError as error:
    facts["missing"] = str(error)
print(json.dumps(facts), flush=True)
"""


async def check_here(specs: Iterable[Installed]) -> list[Finding]:
    """Try the launcher's Python of every valid kernelspec (this Python when there is none) on this host.

    Not of those with a `login`: theirs is another host's.
    """
    requests = [request for _, request in valid(specs)]
    pythons = [launcher_python(request) for request in requests if not request.login]
    if requests and not pythons:
        return []
    return [await _check_here(python) for python in dict.fromkeys(pythons or [sys.executable])]


async def check_on_node(specs: Iterable[Installed], *, wait: float) -> list[Finding]:
    """Try the launcher's Python of every valid kernelspec for compute nodes on one, and the ways between it and us.

    :param wait: how many seconds each job may take, with its time in the queue
    """
    wanted = [(spec, whole) for spec, whole in _valid(specs) if spec.provisioner == SLURM_PROVISIONER]
    tried = [(spec, whole) for spec, whole in wanted if not whole.request.login]
    behind = [
        warning(f"{ON_NODE}, {spec.name}", "not tried from here", f"Start a kernel, or try it on {login}.")
        for spec, whole in wanted
        if (login := whole.request.login)
    ]
    if behind and not tried:
        return behind
    if not tried:
        advice = "Install one: `farkernel kernelspec install cori-haswell`"
        return [problem(ON_NODE, "no valid kernelspec for compute nodes is installed", advice)]
    if not slurm_is_here():
        return [problem(ON_NODE, "srun is not on PATH", "Try it on a login node.")]
    # One after another: a site may allow two jobs at a time, and the user's own kernels need theirs.
    found = [finding for spec, whole in tried for finding in await _check_on_node(spec, whole, wait)]
    return [*behind, *found]


def launcher_python(request: Request) -> str:
    """Name the Python that runs the launcher of a request's kernels."""
    return request.launcher.python or sys.executable


def srun_probe(request: Request) -> list[str]:
    """Build the srun that runs the probe in a job of the request's kind: account, QOS, partition, features.

    The job is short and has one node, shared and with no burst buffer, so that it starts soon.
    """
    return srun_argv(small_job(request.slurm), [launcher_python(request), "-c", PROBE + check_directions.PROBE])


def small_job(slurm: SlurmRequest, *, name: str = "farkernel-doctor") -> SlurmRequest:
    """Return a job of the same kind that starts soon."""
    less = {"nodes": 1, "ntasks_per_node": 1, "time": NODE_TIME, "burst_buffer": None, "exclusive": False}
    return slurm.model_copy(update={**less, "job_name": name})


def valid(specs: Iterable[Installed]) -> Iterator[tuple[Installed, Request]]:
    """Read the requests, and pass over kernelspecs that are not valid or not allowed; another check tells of them."""
    for spec, whole in _valid(specs):
        yield spec, whole.request


def _valid(specs: Iterable[Installed]) -> Iterator[tuple[Installed, Effective]]:
    for spec in specs:
        with contextlib.suppress(RequestError, PolicyRefused, PolicyUnusable):
            env = {**os.environ, **spec.env}
            whole = effective(
                spec.config, source=spec.source, env=env, server=os.environ, named=spec.env, slurm=spec.slurm
            )
            whole.check(slurm=spec.slurm)
            yield spec, whole


async def _check_here(python: str) -> Finding:
    subject = "launcher's Python"
    try:
        answer = await run([python, "-c", PROBE], timeout=LOCAL_TIMEOUT)
    except CommandMissing:
        advice = "If the compute nodes have it, `farkernel doctor --on-node` says so."
        return warning(subject, f"{python} is not on this host", advice)
    except TimeoutError as error:
        advice = "A slow file system? Try again, or choose a Python on another one."
        return problem(subject, str(error), advice)
    return _judge(subject, python, answer)


async def _check_on_node(spec: Installed, whole: Effective, wait: float) -> list[Finding]:
    subject, request = f"{ON_NODE}, {spec.name}", whole.request
    try:
        wanted = whole.submitted(for_submission({**os.environ, **spec.env}, os.environ))
        env = srun_env(small_job(request.slurm), wanted)
        with check_directions.Directions(request.launcher) as directions:
            answer = await converse(
                srun_probe(request), env=env, timeout=wait, first=directions.first_line, on_line=directions.take
            )
    except TimeoutError as error:
        advice = "Try when nodes are idle, or wait longer: --wait."
        return [warning(subject, f"{error}; the job is withdrawn", advice)]
    if no_job(answer):
        refusal = explain_refusal(answer.stderr, answer.returncode, kernel=spec.display_name)
        return [problem(subject, f"{refusal.what}\n{refusal.said}", f"{refusal.hint} ({spec.source})")]
    return [_judge(subject, launcher_python(request), answer), *directions.findings(spec.name, spec.source)]


def _judge(subject: str, python: str, answer: Finished) -> Finding:
    facts = facts_of(answer.stdout)
    if facts is None:
        found = f"{python} did not run (exit code {answer.returncode})\n{last_lines(answer.stderr)}"
        return problem(subject, found, "See that it exists there; `launcher.python` in the kernelspec names it.")
    found = f"{python} on {facts.get('host')}: Python {facts['python']}"
    if missing := facts.get("missing"):
        return problem(subject, f"{found}: {missing}", f"Install it: `{python} -m pip install pyzmq`")
    found += f", pyzmq {facts.get('pyzmq')}, libzmq {facts.get('libzmq')}"
    if not facts.get("curve"):
        return problem(subject, f"{found} without CURVE", "Install pyzmq's own wheel from PyPI.")
    return ok(subject, f"{found} with CURVE")


def no_job(answer: Finished) -> bool:
    """Tell a job that Slurm did not take from one whose program failed."""
    lines = answer.stderr.splitlines()
    return answer.returncode != 0 and not any(isinstance(parse_srun_line(line), Allocated) for line in lines)


def last_lines(text: str) -> str:
    """Return the end of what a program has printed, without srun's own noise."""
    return "\n".join(slurm_words(text).splitlines()[-6:])


def facts_of(stdout: str) -> dict[str, Any] | None:
    """Find the line of `PROBE`; a site's own lines may stand around it."""
    for line in reversed(stdout.splitlines()):
        try:
            facts = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(facts, dict) and "python" in facts:
            return facts
    return None
