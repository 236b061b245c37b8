"""What this user's kernels are, from files and from Slurm: what `ps`, `logs`, `cancel` and `clean` start from."""

from dataclasses import dataclass

from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.listing import Kernel, with_jobs
from farkernel.provisioners.server_process import fate, this_server
from farkernel.provisioners.state_files import StateFiles, state_directory
from farkernel.provisioners.sweep import users_jobs


@dataclass(frozen=True)
class Known:
    """What is known of the user's kernels.

    :param trouble: why Slurm has not said anything of their jobs; empty if it has, or if there are none
    """

    kernels: list[Kernel]
    trouble: str


def state_files() -> StateFiles:
    """Return the user's."""
    return StateFiles(state_directory())


async def look(files: StateFiles) -> Known:
    """Read the records, and ask Slurm for the user's jobs if any of them names one.

    :raises DirectoryUnusable: the directory is somebody else's
    """
    here = this_server()
    records = [(record, fate(record.server, here)) for record in files.there()]
    if not any(record.job_id and not record.login for record, _ in records):
        return Known(with_jobs(records, {}), "")
    try:
        return Known(with_jobs(records, await users_jobs()), "")
    except FarkernelError as error:
        return Known(with_jobs(records, None), str(error))
