"""Counts a user's kernels and jobs for the site's policy."""

from __future__ import annotations

import asyncio

from farkernel.provisioners.hosts import Host
from farkernel.provisioners.listing import with_jobs
from farkernel.provisioners.policy_check import InForce
from farkernel.provisioners.records import Fate, Record
from farkernel.provisioners.server_process import fate, this_server
from farkernel.provisioners.slurms import users_jobs
from farkernel.provisioners.state_files import StateFiles, state_directory


async def check_counts(policy: InForce | None, *, slurm: bool, login: str = "", host: Host | None = None) -> None:
    """See whether the user may have one more kernel; belongs to the background loop.

    Kernels are counted by their records, which are the user's own files: Slurm's limits are what binds. Two starts at
    the same moment do not see each other.

    :param slurm: it needs a job
    :param login: the login node that leads to the job's Slurm; empty for this host's
    :param host: the same, as Slurm's commands run there
    :raises PolicyRefused: there are enough
    :raises FarkernelError: they cannot be counted
    """
    most = policy and policy.policy.maximum
    if not policy or not most or not (most.kernels_per_user or most.jobs_per_user):
        return
    records = await asyncio.to_thread(_records)
    jobs = await users_jobs(host) if slurm else None
    kernels = [kernel for kernel in with_jobs(records, {} if jobs is None else {login: jobs}) if kernel.there]
    policy.check_counts(len(kernels), None if jobs is None else len(jobs))


def _records() -> list[tuple[Record, Fate]]:
    here = this_server()
    return [(record, fate(record.server, here)) for record in StateFiles(state_directory()).there()]
