"""`farkernel clean`: removes what is left of kernels that are gone."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from farkernel.provisioners.errors import FarkernelError

if TYPE_CHECKING:
    from farkernel.provisioners.cli.known import Known
    from farkernel.provisioners.listing import Kernel
    from farkernel.provisioners.slurms import Slurms
    from farkernel.provisioners.state_files import StateFiles

_FORCE = (
    "Take servers on other hosts for gone, which this host cannot know, and cancel their kernels' jobs; forget jobs "
    "behind a login node that cannot be reached."
)
_LOGS = "Remove the logs of all kernels that have ended, not only those that are older than two weeks."


class _Done(NamedTuple):
    """Something that was done, or could not be."""

    text: str
    failed: bool = False


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    force: Annotated[bool, typer.Option("--force", help=_FORCE)] = False,
    logs: Annotated[bool, typer.Option("--logs", help=_LOGS)] = False,
) -> None:
    """Cancel jobs whose server is gone, and remove what is left of kernels that are: records, sockets, old logs."""
    from farkernel.provisioners.cli.known import state_files  # noqa: PLC0415 (imports late, see app.py)

    files = state_files()
    known, done = asyncio.run(_see_to_kernels(files, dry_run=dry_run, force=force))
    done += [*_remove_logs(known, files, dry_run=dry_run, of_all=logs), *_remove_directories(dry_run=dry_run)]
    if known.trouble:
        Console(stderr=True, soft_wrap=True).print(Text(known.trouble, style="yellow"))
    for text, failed in done or [_Done("There is nothing to clean.")]:
        Console(soft_wrap=True).print(Text(text, style="red" if failed else ""))
    if any(one.failed for one in done):
        raise typer.Exit(1)


def _begin(dry_run: bool, did: str, would: str) -> str:
    return f"Would {would}" if dry_run else did


async def _see_to_kernels(files: "StateFiles", *, dry_run: bool, force: bool) -> tuple["Known", list[_Done]]:
    from farkernel.provisioners.cli.known import look  # noqa: PLC0415
    from farkernel.provisioners.slurms import Slurms  # noqa: PLC0415

    async with Slurms() as slurms:
        known = await look(files, slurms)
        work = [_see_to(kernel, files, slurms, dry_run=dry_run, force=force) for kernel in known.kernels]
        results = await asyncio.gather(*work)  # each waits until its job is gone
    return known, [done for result in results for done in result]


async def _see_to(
    kernel: "Kernel", files: "StateFiles", slurms: "Slurms", *, dry_run: bool, force: bool
) -> list[_Done]:
    """Cancel a job whose server is gone, and remove the record of a kernel that is gone."""
    from farkernel.provisioners.cli.cancel import wait_for_job  # noqa: PLC0415
    from farkernel.provisioners.listing import Chore, chore, name_of  # noqa: PLC0415
    from farkernel.provisioners.sweep import retire  # noqa: PLC0415

    record, what = kernel.record, chore(kernel, force=force)
    name, server = name_of(record), f"process {record.server.pid} on {record.server.host}"
    if what is Chore.KEEP:
        return []
    if what is Chore.UNKNOWN:
        return [_Done(f"The record of {name} stays: Slurm does not say whether job {record.job_id} is there.")]
    done = []
    if what is Chore.CANCEL:
        assert record.job_id is not None
        try:
            if not dry_run:
                await slurms.cancel(record.login, record.job_id)
                await wait_for_job(slurms, record.login, record.job_id)
        except FarkernelError as error:
            return [_Done(str(error), failed=True)]
        begin = _begin(dry_run, "Cancelled", "cancel")
        done.append(_Done(f"{begin} Slurm job {record.job_id} of {name}, whose server ({server}) is gone."))
    if not dry_run:
        retire(files, record)
    return [*done, _Done(f"{_begin(dry_run, 'Removed', 'remove')} the record of {name}.")]


def _remove_logs(known: "Known", files: "StateFiles", *, dry_run: bool, of_all: bool) -> Iterator[_Done]:
    """Remove the logs of kernels that are not there any more, the old ones at least."""
    from farkernel.provisioners.records import file_stem  # noqa: PLC0415

    there = {file_stem(kernel.record.kernel_id) for kernel in known.kernels if kernel.there}
    # what has just been removed is there no more
    if not dry_run:
        there &= {file_stem(record.kernel_id) for record in files.there()}
    over = [stem for stem in files.logged() if stem not in there and (of_all or files.is_old(stem))]
    for stem in over if not dry_run else ():
        files.remove_log(stem)
    if over:
        logs = f"{len(over)} kernels that have ended" if len(over) > 1 else "1 kernel that has ended"
        yield _Done(f"{_begin(dry_run, 'Removed', 'remove')} the log of {logs}.")


def _remove_directories(*, dry_run: bool) -> Iterator[_Done]:
    """Remove the directories of sockets that no process of this host holds any more."""
    from farkernel.launcher.private import sweep  # noqa: PLC0415
    from farkernel.provisioners.front import runtime_directory  # noqa: PLC0415

    bases = dict.fromkeys([runtime_directory(), Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm")])  # noqa: S108
    for base in bases:
        for directory in sweep(base, remove=not dry_run):
            yield _Done(f"{_begin(dry_run, 'Removed', 'remove')} {directory}.")
