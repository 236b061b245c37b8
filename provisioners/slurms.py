"""Asks Slurm for a command of the user's: this host's Slurm, and those of login nodes that only ssh leads to.

Such a login node needs nothing but Slurm's commands, neither a Python nor forwarding: what cannot be started there any
more can still be listed and cancelled.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from farkernel.provisioners import commands, process
from farkernel.provisioners.commands import QueueEntry
from farkernel.provisioners.errors import CommandMissing, FarkernelError, LoginFailed
from farkernel.provisioners.hosts import Host, ThisHost
from farkernel.provisioners.process import Finished

if TYPE_CHECKING:
    from farkernel.provisioners.ssh import Connection

_TIMEOUT = 30.0

_CONNECT = 15.0
"""Seconds for an ssh connection: somebody waits for what is known of the other kernels."""

_NOT_FOUND = 127
"""The exit code of env(1) for a command that there is not."""

_UTC = "TZ=UTC0"
"""Has Slurm there print times that mean the same here."""


async def users_jobs(host: Host | None = None) -> dict[int, QueueEntry]:
    """Ask Slurm for all jobs of this user that have not ended, in one call.

    :param host: where Slurm's commands run; times are that one's local time. This host if None
    :raises FarkernelError: there is no Slurm, or it does not answer
    """
    user = host.environ.get("USER", "") if host else os.getuid()  # sshd(8) sets it
    where = f"Slurm on {host.name}" if host else "Slurm"
    host = host or ThisHost()
    argv = commands.squeue_of_user_argv(user)
    try:
        done = await host.run(argv, env=commands.query_env(host.environ), timeout=_TIMEOUT)
    except TimeoutError as error:
        raise FarkernelError(f"{where} does not answer: {error}.") from error
    if done.returncode:
        raise FarkernelError(f"{where} does not say which jobs there are.", said=done.stderr)
    return commands.parse_squeue(done.stdout)


class Slurms:
    """Every Slurm that has a kernel's job, each named by its `login` as records have it: empty for this host's.

    There is one ssh connection to each login node, closed at the end of the `async with`. Where there can be none it is
    not tried again.
    """

    def __init__(self) -> None:
        self._logins: dict[str, asyncio.Task[_Login]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for opening in self._logins.values():
            opening.cancel()
            (outcome,) = await asyncio.gather(opening, return_exceptions=True)
            if isinstance(outcome, _Login):
                await outcome.connection.close()

    async def jobs(self, login: str) -> dict[int, QueueEntry]:
        """Return the user's jobs that have not ended; times are this host's local time.

        :raises FarkernelError: there is no Slurm, it does not answer, or ssh does not lead there
        """
        return await (await self._login(login)).users_jobs() if login else await users_jobs()

    async def cancel(self, login: str, job_id: int) -> None:
        """Cancel a job.

        :raises FarkernelError: Slurm does not do it
        """
        argv = commands.scancel_argv(job_id)
        try:
            if login:
                done = await (await self._login(login)).run(argv)
            else:
                done = await process.run(argv, env=commands.query_env(os.environ), timeout=_TIMEOUT)
        except TimeoutError as error:
            raise FarkernelError(f"Slurm job {job_id} was not cancelled: {error}.", hint="Try again later.") from error
        if done.returncode:
            raise FarkernelError(f"Slurm job {job_id} was not cancelled.", said=done.stderr, hint="Try again later.")

    async def _login(self, login: str) -> _Login:
        if login not in self._logins:
            self._logins[login] = asyncio.get_running_loop().create_task(_open(login))
        return await asyncio.shield(self._logins[login])


async def _open(login: str) -> _Login:
    """Connect to a login node.

    :raises LoginFailed: it cannot be reached
    """
    # asyncssh takes a while to import, and few need it
    ssh = await asyncio.to_thread(importlib.import_module, "farkernel.provisioners.ssh")
    connection = ssh.Connection(login)
    try:
        return _Login(connection, await _environ(connection))
    except BaseException:  # nobody will have it to close
        await connection.close()
        raise


async def _environ(connection: Connection) -> str:
    """Open a connection, and ask for the variables there.

    :raises LoginFailed: the login node cannot be reached
    """
    try:
        async with asyncio.timeout(_CONNECT):
            await connection.open()
    except TimeoutError:
        raise LoginFailed(
            f"{connection.host} does not answer by ssh within {_CONNECT:g} s.",
            hint=f"See that `ssh {connection.login} hostname` works from here.",
        ) from None
    try:
        return (await connection.run("env", input=b"", timeout=_TIMEOUT)).stdout
    except TimeoutError:
        raise LoginFailed(f"{connection.host} runs no command within {_TIMEOUT:g} s.", hint="Try again.") from None


class _Login:
    """A login node's Slurm.

    :param environ: what env(1) prints there
    """

    def __init__(self, connection: Connection, environ: str) -> None:
        self.connection = connection
        names = re.findall(r"^(\w+)=", environ, re.MULTILINE)
        kept = commands.query_env(dict.fromkeys(names, ""))
        self._unset = [f"--unset={name}" for name in dict.fromkeys(names) if name not in kept]
        self._user = (re.findall(r"^USER=(.+)$", environ, re.MULTILINE) or [""])[0]  # sshd(8) sets it

    async def users_jobs(self) -> dict[int, QueueEntry]:
        host = self.connection.host
        try:
            done = await self.run(commands.squeue_of_user_argv(self._user))
        except TimeoutError as error:
            raise FarkernelError(f"Slurm on {host} does not answer: {error}.") from error
        if done.returncode:
            raise FarkernelError(f"Slurm on {host} does not say which jobs there are.", said=done.stderr)
        entries = commands.parse_squeue(done.stdout).items()
        return {
            job_id: replace(entry, start=_here(entry.start), submitted=_here(entry.submitted))
            for job_id, entry in entries
        }

    async def run(self, argv: Sequence[str]) -> Finished:
        """Run one of Slurm's commands.

        :raises TimeoutError: it did not end in time
        :raises FarkernelError: it is not there, or the connection was lost
        """
        words = ["env", *self._unset, "SLURM_TIME_FORMAT=standard", _UTC, *argv]
        try:
            done = await self.connection.run(shlex.join(words), input=b"", timeout=_TIMEOUT)
        except TimeoutError:
            raise TimeoutError(f"{argv[0]} did not end within {_TIMEOUT:g} s on {self.connection.host}") from None
        if done.returncode == _NOT_FOUND:
            raise CommandMissing(
                f"The program {argv[0]} cannot be run on {self.connection.host}.",
                said=done.stderr,
                hint=f"See that `ssh {self.connection.login} {argv[0]} --version` works: commands of ssh may have "
                "another PATH than a login there.",
            )
        return done


def _here(time: datetime | None) -> datetime | None:
    """Return a time that was printed in UTC as this host's local time."""
    return time and time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
