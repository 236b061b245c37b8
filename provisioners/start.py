"""A start of a kernel, from its kernelspec: what every adapter to Jupyter shares, whichever way Jupyter calls it."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from farkernel.provisioners import environment
from farkernel.provisioners.background import Background
from farkernel.provisioners.census import check_counts
from farkernel.provisioners.containers.base import Container, Inside
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.effective import Effective, effective
from farkernel.provisioners.job import Job, Status
from farkernel.provisioners.kernel_command import with_modules
from farkernel.provisioners.per_launch import choices
from farkernel.provisioners.records import Record
from farkernel.provisioners.request import Request, check_kernelspec
from farkernel.provisioners.server_process import this_server
from farkernel.provisioners.session import Plan, Session
from farkernel.provisioners.surroundings import Surroundings, surroundings


class KernelSpec(Protocol):
    """A kernelspec as Jupyter has read it.

    https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs
    """

    argv: list[str]
    env: dict[str, str]
    display_name: str
    language: str
    metadata: dict[str, Any]
    resource_dir: str


class Signing(Protocol):
    """What a kernel's messages are signed with."""

    key: bytes
    signature_scheme: str


@dataclass(frozen=True)
class Start:
    """What is to be started.

    :param whole: the request, and what it was made of
    :param place: where the job is submitted
    :param env: the environment that it is submitted with
    :param notebook: the notebook's path, empty if there is none
    """

    plan: Plan
    whole: Effective
    container: Container
    place: Surroundings
    env: Mapping[str, str]
    notebook: str

    @property
    def request(self) -> Request:
        """What the kernelspec asks for."""
        return self.whole.request


def check(spec: KernelSpec) -> None:
    """Look at a kernelspec's words and variables before Jupyter's own code does, which has no sentence for them.

    :raises RequestError: one that is no text, or that the system does not take
    """
    check_kernelspec(spec.argv, spec.env, source=source_of(spec))


def source_of(spec: KernelSpec) -> str:
    """Return what messages call a kernelspec: its file."""
    return str(pathlib.Path(spec.resource_dir, "kernel.json"))


def command(spec: KernelSpec, extra_arguments: Sequence[str], names: Mapping[str, Any]) -> list[str]:
    """Format a kernelspec's command; the connection file stays a placeholder, which the launcher fills on the node.

    :param names: what else may stand in braces
    """
    # Not the manager's: that turns a bare `python3` into the server's own interpreter, which need not exist on the
    # node or in an image.
    known = {"prefix": sys.prefix, "resource_dir": spec.resource_dir, **names}
    known.pop("connection_file", None)

    def fill(match: re.Match[str]) -> str:
        return str(known.get(match[1], match[0]))

    return [re.sub(r"\{([A-Za-z0-9_]+)\}", fill, part) for part in [*spec.argv, *extra_arguments]]


async def prepare(
    shared: Background,
    spec: KernelSpec,
    argv: list[str],
    *,
    kernel_name: str,
    env: Mapping[str, str],
    server: Mapping[str, str],
    cwd: str,
    slurm: bool,
    another: bool,
) -> Start:
    """Read a kernelspec that was checked, and make all of it ready that does not depend on the kernel's life.

    :param argv: its command, formatted
    :param kernel_name: Jupyter's name for it
    :param env: what Jupyter wants the kernel to have
    :param server: the server's own environment
    :param cwd: where Jupyter wants it to run
    :param slurm: it runs in a job, not on this machine
    :param another: it is one more kernel, and not one that is started anew
    :raises FarkernelError: it asks for something that is not valid or not allowed, or its login node cannot be reached
    """
    source = source_of(spec)
    config = spec.metadata.get("kernel_provisioner", {}).get("config", {})
    whole = await asyncio.to_thread(
        effective, config, source=source, env=env, server=server, named=spec.env, chosen=choices(env), slurm=slurm
    )
    whole.check(slurm=slurm)  # before anything is asked of another host
    place = await shared.run(surroundings(shared, whole.request, server, cwd))
    own = environment.for_kernel(env, server, spec.env)
    if another:
        login = whole.request.login or ""
        host = place.queue.host if login else None
        await shared.run(check_counts(whole.policy, slurm=slurm, login=login, host=host))
    request = whole.request
    container = await asyncio.to_thread(container_of, request, source=source, paths=place.paths)
    inside = Inside(
        argv=argv,
        env=whole.passed(own),
        home=place.home,
        cwd=[request.kernel.cwd] if request.kernel.cwd else [place.cwd, place.home],
        directory=request.launcher.on_node,
        name=f"farkernel-{secrets.token_hex(6)}",
    )
    plan = Plan(
        name=spec.display_name,
        kernel_name=kernel_name,
        language=spec.language,
        argv=argv,
        container=container,
        command=with_modules(request.kernel.modules, container.command(inside)),
        cwd=inside.cwd,
    )
    wanted = env if place.paths is None else {**place.environ, **inside.env}  # nothing of this host's own elsewhere
    submission = whole.submitted(environment.for_submission(wanted, place.environ), slurm=slurm)
    return Start(plan, whole, container, place, submission, submission.get("JPY_SESSION_NAME", ""))


def new_session(
    shared: Background,
    start: Start,
    *,
    kernel_id: str,
    signing: Signing,
    job: Callable[..., Job],
    on_status: Callable[[str], None],
    log: logging.Logger | logging.LoggerAdapter[Any],
) -> Session:
    """Return the session of a kernel that has none; belongs to the background loop.

    :param job: makes the job; takes the arguments of `Job`
    :param on_status: takes a line of progress whenever there is news of the queue
    """
    plan, request = start.plan, start.request

    def make_job(on_status: Callable[[Status], None]) -> Job:
        return job(
            request,
            queue=start.place.queue,
            kernel=plan.name,
            kernelspec=plan.kernel_name,
            container=start.container,
            python=start.place.python,
            env=start.env,
            cwd=start.place.cwd,
            on_status=on_status,
        )

    record = Record(
        kernel_id=kernel_id,
        kernelspec=plan.kernel_name,
        display_name=plan.name,
        notebook=start.notebook,
        server=this_server(),
        login=request.login or "",
    )
    return Session(
        shared,
        request,
        key=signing.key,
        signature_scheme=signing.signature_scheme,
        make_job=make_job,
        on_status=on_status,
        recorder=shared.recorder(record),
        log=log,
    )


async def begin(opening: Callable[[], Session], start: Start, *, block: bool) -> dict[str, Any]:
    """Start a kernel on the background loop; return what a connection file says of it.

    :param opening: returns its session
    :param block: wait until it is up; else return when Slurm has taken the job
    """
    session = opening()
    await session.start(start.plan, block=block)
    return session.connection_info
