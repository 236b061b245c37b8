"""What kernels need of a login node that only ssh leads to (`login` in a kernelspec)."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from farkernel.kernelspecs.install import Installed
from farkernel.provisioners.cli.check_launcher import LOCAL_TIMEOUT, PROBE, SLURM_PROVISIONER, facts_of, valid
from farkernel.provisioners.cli.findings import Finding, ok, problem, warning
from farkernel.provisioners.commands import query_env
from farkernel.provisioners.errors import CommandMissing, FarkernelError, ForwardingRefused, LoginFailed
from farkernel.provisioners.process import Finished

if TYPE_CHECKING:
    from farkernel.provisioners.login_node import LoginNode

_PATIENCE = 60.0
"""Seconds for all that is looked at on one login node."""

_SLURM = (["srun", "--version"], ["scancel", "--version"], ["squeue", "--version"], ["scontrol", "ping"])


def all_behind_ssh(specs: Iterable[Installed]) -> bool:
    """Tell whether no kernelspec needs a Slurm of this host, and one needs another host's."""
    requests = [request for spec, request in valid(specs) if spec.provisioner == SLURM_PROVISIONER]
    return bool(requests) and all(request.login for request in requests)


async def check_logins(specs: Iterable[Installed]) -> list[Finding]:
    """Look at the login node of each valid kernelspec that names one, as the start of a kernel would use it."""
    wanted = {(request.login, request.launcher.python or "python3") for _, request in valid(specs) if request.login}
    found = await asyncio.gather(*(_check(login, python) for login, python in sorted(wanted)))
    return [finding for findings in found for finding in findings]


async def _check(login: str, python: str) -> list[Finding]:
    # asyncssh takes a while to import, and few need it
    module = await asyncio.to_thread(importlib.import_module, "farkernel.provisioners.login_node")
    node: LoginNode = module.LoginNode(login)
    try:
        async with asyncio.timeout(_PATIENCE):
            return [finding async for finding in _look(node, login, python)]
    except TimeoutError:
        advice = f"See that `ssh {login} hostname` works, and is quick."
        return [problem(f"ssh to {login}", f"no end within {_PATIENCE:g} s", advice)]
    finally:
        await node.close()


async def _look(node: "LoginNode", login: str, python: str) -> AsyncIterator[Finding]:
    """Look at one thing after the other, up to one that the others need."""
    ssh, forwarding = f"ssh to {login}", f"forwarding by {login}"
    try:
        await node.look(python, [])
    except ForwardingRefused as error:
        yield ok(ssh, "it lets you in without a question, and its key is known")
        yield _problem(forwarding, error)
        return
    except LoginFailed as error:
        yield _problem(ssh, error)
        return
    except FarkernelError as error:
        yield ok(ssh, "it lets you in without a question, and its key is known")
        yield _problem(f"Python on {login}", error)
        return
    yield ok(ssh, "it lets you in without a question, and its key is known")
    yield await _check_keeper(node, forwarding)
    yield await _check_python(node, login, python)
    yield await _check_slurm(node, login)


async def _check_keeper(node: "LoginNode", subject: str) -> Finding:
    """Have a keeper hold a program, as it holds srun, and talk to it."""
    said: list[str] = []
    take = said.append
    try:
        program = await node.start(
            ["cat"], env=node.environ, cwd="/", input=b"", on_stdout=take, on_stderr=take, orphan_timeout=LOCAL_TIMEOUT
        )
    except FarkernelError as error:
        return _problem(subject, error)
    program.close_input()
    await program.wait()
    return ok(subject, "it carries connections to nodes, and to a unix socket of yours")


async def _check_python(node: "LoginNode", login: str, python: str) -> Finding:
    subject = f"Python on {login}"
    try:
        answer = await node.run([python, "-c", PROBE], env=node.environ, timeout=LOCAL_TIMEOUT)
    except (FarkernelError, TimeoutError) as error:
        return problem(subject, str(error), "Try again, or name another one in launcher.python of the kernelspec.")
    facts = facts_of(answer.stdout) or {}
    found = f"{python} on {facts.get('host')}: Python {facts.get('python')}"
    if missing := facts.get("missing"):
        advice = "It does here; the compute nodes' needs pyzmq, and is the same one as a rule. "
        return warning(subject, f"{found}: {missing}", f"{advice}Install it there: `{python} -m pip install pyzmq`")
    return ok(subject, f"{found}, pyzmq {facts.get('pyzmq')}")


async def _check_slurm(node: "LoginNode", login: str) -> Finding:
    subject = f"Slurm on {login}"
    env = query_env(node.environ)
    answers: list[Finished] = []
    for argv in _SLURM:
        try:
            answers.append(await node.run(argv, env=env, timeout=LOCAL_TIMEOUT))
        except CommandMissing as error:
            return _problem(subject, error)
        except (FarkernelError, TimeoutError) as error:
            return problem(subject, str(error), "No job can start before it answers: ask the site's support.")
    version, *_, controller = answers
    says = (version.stdout.strip(), controller.stdout.strip() or controller.stderr.strip())
    found = "; ".join(filter(None, says)) or "no answer"
    if " is UP" not in controller.stdout:
        return problem(subject, found, "No job can start before slurmctld answers: ask the site's support.")
    return ok(subject, found)


def _problem(subject: str, error: FarkernelError) -> Finding:
    return problem(subject, "\n".join(filter(None, (error.what, error.said))), error.hint)
