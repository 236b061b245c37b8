"""`farkernel logs`: what a kernel's process has written itself, and what has become of it."""

import time
from typing import Annotated

import typer

from farkernel.provisioners.errors import KernelNotFound

_FOLLOW_INTERVAL = 0.5

KERNEL = typer.Argument(
    metavar="KERNEL", help="The beginning of its id, its job's id, or its kernelspec's name; see `farkernel ps`."
)


def logs(
    kernel: Annotated[str, KERNEL],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the kernel has ended.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", metavar="N", min=0, help="The last lines only; all by default.")
    ] = None,
) -> None:
    """Show a kernel's log, also of one that has ended in the last two weeks."""
    from farkernel.provisioners.cli.known import state_files  # noqa: PLC0415 (imports late, see app.py)
    from farkernel.provisioners.listing import find, name_of  # noqa: PLC0415
    from farkernel.provisioners.records import Fate  # noqa: PLC0415
    from farkernel.provisioners.server_process import fate, this_server  # noqa: PLC0415

    files = state_files()
    record = find(kernel, files.there(), files.ended())
    text = files.read_log(record.kernel_id)
    if not text and not follow:
        raise KernelNotFound(f"There is no log of {name_of(record)}.", hint="`farkernel ps` shows what it does.")
    typer.echo(text if lines is None else "".join(text.splitlines(keepends=True)[-lines:] if lines else ()), nl=False)
    here = this_server()
    while follow:
        # the record of a server that was killed stays, and nobody adds to its log
        gone = fate(record.server, here) is Fate.GONE
        over = gone or record.kernel_id not in {other.kernel_id for other in files.there()}
        newer = files.read_log(record.kernel_id)
        typer.echo(_added(text, newer), nl=False)
        if over:
            break
        text = newer
        time.sleep(_FOLLOW_INTERVAL)


def _added(before: str, now: str) -> str:
    """Return what a log has got since; its older half may be gone meanwhile."""
    if now.startswith(before):
        return now[len(before) :]
    end = before[-200:]
    return now.rpartition(end)[2]
