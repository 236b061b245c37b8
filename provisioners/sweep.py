"""Removes what servers that were killed have left of their kernels' records, once a process."""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import replace

from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.life import Phase
from farkernel.provisioners.listing import local_time, may_be_there, with_jobs
from farkernel.provisioners.records import Fate, Record
from farkernel.provisioners.server_process import fate, this_server
from farkernel.provisioners.slurms import users_jobs
from farkernel.provisioners.state_files import StateFiles
from farkernel.provisioners.writer import Writer

log = logging.getLogger("farkernel")


async def sweep(files: StateFiles, writer: Writer) -> None:
    """See to the records whose server is gone for certain, but those of jobs that are still there; remove old logs.

    Nobody is asked by ssh: a job behind a login node may be there for long. The last record of such a kernel stays with
    its log.
    """
    try:
        gone = await writer.ask(lambda: _gone(files))
        entries = await users_jobs() if any(record.job_id and not record.login for record in gone) else {}
    except (FarkernelError, OSError) as error:
        log.info("Old records of kernels stay for now: %s", error)
        return
    for kernel in with_jobs([(record, Fate.GONE) for record in gone], {"": entries}):
        if not kernel.has_job and not may_be_there(kernel.record, time.time()):
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
