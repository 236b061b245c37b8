"""Removes what servers that were killed have left of their kernels' records, once a process."""

from __future__ import annotations

import functools
import logging
import os
import time
from dataclasses import replace

from farkernel.provisioners import commands, process
from farkernel.provisioners.commands import QueueEntry
from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.life import Phase
from farkernel.provisioners.listing import local_time, with_jobs
from farkernel.provisioners.records import Fate, Record
from farkernel.provisioners.server_process import fate, this_server
from farkernel.provisioners.state_files import StateFiles
from farkernel.provisioners.writer import Writer

_TIMEOUT = 30.0

log = logging.getLogger("farkernel")


async def sweep(files: StateFiles, writer: Writer) -> None:
    """See to the records whose server is gone for certain, but those of jobs that are still there; remove old logs.

    The last record of such a kernel stays with its log.
    """
    try:
        gone = await writer.ask(lambda: _gone(files))
        entries = await users_jobs() if any(record.job_id and not record.login for record in gone) else {}
    except (FarkernelError, OSError) as error:
        log.info("Old records of kernels stay for now: %s", error)
        return
    for kernel in with_jobs([(record, Fate.GONE) for record in gone], entries):
        if not kernel.has_job:
            writer.do(functools.partial(retire, files, kernel.record))
    writer.do(files.sweep)


def retire(files: StateFiles, record: Record) -> None:
    """Take a kernel whose server is gone off the list, and say in its log what has become of it."""
    why = f"Its server, process {record.server.pid} on {record.server.host}, was killed."
    files.append(record.kernel_id, f"[{local_time(time.time())}] {why}\n")
    files.retire(replace(record, phase=Phase.ENDED, why=why, ended=time.time()))


def _gone(files: StateFiles) -> list[Record]:
    here = this_server()
    return [record for record in files.there() if fate(record.server, here) is Fate.GONE]


async def users_jobs() -> dict[int, QueueEntry]:
    """Ask Slurm for all jobs of this user that have not ended, in one call.

    :raises FarkernelError: there is no Slurm, or it does not answer
    """
    argv = commands.squeue_of_user_argv(os.getuid())
    try:
        done = await process.run(argv, env=commands.query_env(os.environ), timeout=_TIMEOUT)
    except TimeoutError as error:
        raise FarkernelError(f"Slurm does not answer: {error}.") from error
    if done.returncode:
        raise FarkernelError("Slurm does not say which jobs there are.", said=done.stderr)
    return commands.parse_squeue(done.stdout)
