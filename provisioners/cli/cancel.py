"""`farkernel cancel`: ends kernels' jobs."""

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from farkernel.provisioners.errors import FarkernelError

if TYPE_CHECKING:
    from farkernel.provisioners.listing import Kernel
    from farkernel.provisioners.slurms import Slurms

_PATIENCE = 90.0
"""Seconds until a job that was cancelled is gone: Slurm gives its programs KillWait, 30 s as a rule."""

_POLL = 0.5


def cancel(
    kernel: Annotated[
        str | None,
        typer.Argument(
            metavar="KERNEL",
            help="The beginning of its id, its job's id, or its kernelspec's name; see `farkernel ps`.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of your kernels.")] = False,
) -> None:
    """End a kernel's job, and wait until it is gone. The notebook says that it was cancelled."""
    if (kernel is None) != everything:
        raise typer.BadParameter("name a KERNEL, or give --all.")
    if not asyncio.run(_cancel(kernel)):
        raise typer.Exit(1)


async def _cancel(wanted: str | None) -> bool:
    """Return whether all were ended."""
    from farkernel.provisioners.slurms import Slurms  # noqa: PLC0415 (imports late, see app.py)

    async with Slurms() as slurms:
        return await _cancel_with(slurms, wanted)


async def _cancel_with(slurms: "Slurms", wanted: str | None) -> bool:
    from farkernel.provisioners.cli.known import look, state_files  # noqa: PLC0415
    from farkernel.provisioners.listing import find  # noqa: PLC0415

    known = await look(state_files(), slurms)
    there = [kernel for kernel in known.kernels if kernel.there]
    if wanted is not None:
        record = find(wanted, [kernel.record for kernel in there])
        there = [kernel for kernel in there if kernel.record is record]
    elif not there:
        typer.echo("There are no kernels.")
    results = await asyncio.gather(*(_end_one(kernel, slurms) for kernel in there), return_exceptions=True)
    for result in results:
        if isinstance(result, FarkernelError):
            Console(stderr=True, soft_wrap=True).print(Text(str(result), style="red"))
        elif isinstance(result, BaseException):
            raise result
        else:
            Console(soft_wrap=True).print(Text(result))
    return not any(isinstance(result, FarkernelError) for result in results)


async def _end_one(kernel: "Kernel", slurms: "Slurms") -> str:
    """End a kernel; return what to say.

    :raises FarkernelError: it cannot be ended
    """
    from farkernel.provisioners.listing import name_of  # noqa: PLC0415

    job_id, login = kernel.record.job_id, kernel.record.login
    if job_id is not None:
        if kernel.job_is_gone:
            return f"Slurm job {job_id} of {name_of(kernel.record)} is gone already."
        await slurms.cancel(login, job_id)
        await wait_for_job(slurms, login, job_id)
        return f"Slurm job {job_id} of {name_of(kernel.record)} is cancelled."
    await _end_launcher(kernel)
    return f"The {name_of(kernel.record)} has ended."


async def wait_for_job(slurms: "Slurms", login: str, job_id: int) -> None:
    """Wait until a job that was cancelled is gone.

    :raises FarkernelError: it stays
    """
    deadline = time.monotonic() + _PATIENCE
    while (entry := (await slurms.jobs(login)).get(job_id)) and not entry.state.ended:
        if time.monotonic() > deadline:
            raise FarkernelError(
                f"Slurm job {job_id} was cancelled, and is still {entry.state.lower()}.",
                hint=f"`squeue --jobs={job_id}` shows it; the site's support can help if it stays.",
            )
        await asyncio.sleep(_POLL)


async def _end_launcher(kernel: "Kernel") -> None:
    """Tell a launcher of this host to end its kernel and leave, as Slurm would."""
    from farkernel.provisioners.listing import name_of  # noqa: PLC0415
    from farkernel.provisioners.records import Fate  # noqa: PLC0415
    from farkernel.provisioners.server_process import parent  # noqa: PLC0415

    record = kernel.record
    if kernel.fate is not Fate.ALIVE:
        host = record.server.host
        raise FarkernelError(f"The {name_of(record)} runs on {host}.", hint="`farkernel cancel` there ends it.")

    def runs() -> bool:
        # it is a child of its server: another process that has got its number is not
        return record.launcher > 1 and parent(record.launcher) == record.server.pid

    if not runs():
        raise FarkernelError(
            f"The {name_of(record)} has no job and no launcher (it is {record.phase}).",
            hint="Shut it down where it was started.",
        )
    os.kill(record.launcher, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while runs():
        if time.monotonic() > deadline:
            raise FarkernelError(f"The launcher of {name_of(record)}, process {record.launcher}, does not end.")
        await asyncio.sleep(0.1)
