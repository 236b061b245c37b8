"""What this user's kernels are, from files and from Slurm: what `ps`, `logs`, `cancel` and `clean` start from."""

import asyncio
from dataclasses import dataclass

from farkernel.provisioners.commands import QueueEntry
from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.listing import Kernel, with_jobs
from farkernel.provisioners.server_process import fate, this_server
from farkernel.provisioners.slurms import Slurms
from farkernel.provisioners.state_files import StateFiles, state_directory


@dataclass(frozen=True)
class Known:
    """What is known of the user's kernels.

    :param trouble: which Slurms have not said anything of their jobs, and why; empty if all have
    """

    kernels: list[Kernel]
    trouble: str


def state_files() -> StateFiles:
    """Return the user's."""
    return StateFiles(state_directory())


async def look(files: StateFiles, slurms: Slurms) -> Known:
    """Read the records, and ask each Slurm that has a job of one for the user's jobs.

    :raises DirectoryUnusable: the directory is somebody else's
    """
    here = this_server()
    records = [(record, fate(record.server, here)) for record in files.there()]
    logins = list(dict.fromkeys(record.login for record, _ in records if record.job_id))
    answers = await asyncio.gather(*(slurms.jobs(login) for login in logins), return_exceptions=True)
    queues: dict[str, dict[int, QueueEntry]] = {}
    troubles = []
    for login, answer in zip(logins, answers, strict=True):
        if isinstance(answer, FarkernelError):
            troubles.append(str(answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            queues[login] = answer
    return Known(with_jobs(records, queues), "\n".join(troubles))
