"""Slurm on a login node, asked for a command of the user's by a real ssh server of this process."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from farkernel.provisioners import slurms
from farkernel.provisioners.census import check_counts
from farkernel.provisioners.errors import CommandMissing, FarkernelError, LoginFailed, PolicyRefused
from farkernel.provisioners.login_node import LoginNode
from farkernel.provisioners.policy import parse_policy
from farkernel.provisioners.policy_check import InForce
from farkernel.provisioners.slurms import Slurms
from tests.patience import PATIENCE
from tests.provisioners.test_login_node import SshHost, Test, until, with_host

__all__ = ["with_host"]

WHEN = 1_795_700_000
SQUEUE = f"""#!/bin/sh
echo "$*" > "$HOME/asked"
[ -z "$SQUEUE_STATES$SLURM_CLUSTERS" ] || exit 3
start=$(date --date=@{WHEN} +%Y-%m-%dT%H:%M:%S)
echo "7|RUNNING|$start|OK|30:00|$start|nid0001|None"
"""


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs of the login node, which is in another time zone than its user."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("env", "sh", "cat", "date", "touch"):  # not a Slurm that is on this machine
        (folder / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("SQUEUE_STATES", "CANCELLED")
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    monkeypatch.setenv("USER", "alice")
    return folder


def test_the_jobs_of_the_user_there(with_host: Callable[[Test], None], there: Path) -> None:
    program(there, "squeue", SQUEUE)

    async def test(host: SshHost, node: LoginNode) -> None:
        async with Slurms() as asked:
            entries, again = await asyncio.gather(asked.jobs("login"), asked.jobs("login"))
            assert entries == again
            assert entries[7].start == datetime.fromtimestamp(WHEN)  # noqa: DTZ006
            assert len(host.connections) == 1
        assert "--user=alice " in (host.home / "asked").read_text()

    with_host(test)


def test_a_job_there_is_cancelled(with_host: Callable[[Test], None], there: Path) -> None:
    program(
        there, "scancel", f"#!/bin/sh\n[ $1 = 7 ] && touch {there}/cancelled || {{ echo no such job >&2; exit 1; }}\n"
    )

    async def test(host: SshHost, node: LoginNode) -> None:
        async with Slurms() as asked:
            await asked.cancel("login", 7)
            assert (there / "cancelled").exists()
            with pytest.raises(FarkernelError, match="job 8 was not cancelled") as caught:
                await asked.cancel("login", 8)
            assert caught.value.said == "no such job"
            with pytest.raises(CommandMissing, match="squeue cannot be run on login"):
                await asked.jobs("login")

    with_host(test)


def test_a_host_that_does_not_answer_is_not_waited_for(
    with_host: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurms, "_CONNECT", 0.5)

    async def test(host: SshHost, node: LoginNode) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host.port = silent.getsockname()[1]
            host.configure()
            async with Slurms() as asked:
                for _ in range(2):
                    with pytest.raises(LoginFailed, match=r"login does not answer by ssh within 0\.5 s"):
                        await asked.jobs("login")

    with_host(test)


def test_a_question_that_is_given_up_leaves_no_connection(with_host: Callable[[Test], None], there: Path) -> None:
    (there / "sleep").symlink_to("/usr/bin/sleep")
    (there / "env").unlink()
    busy = there / "busy"
    program(there, "env", f"#!/bin/sh\ntouch {busy}\nwhile [ -e {busy} ]; do sleep 0.1; done\n")

    async def test(host: SshHost, node: LoginNode) -> None:
        async with Slurms() as asked:
            asking = asyncio.create_task(asked.jobs("login"))
            await until(busy.exists)
            asking.cancel()
        (connection,) = host.connections
        await asyncio.wait_for(connection.wait_closed(), PATIENCE)
        busy.unlink()

    with_host(test)


@pytest.mark.parametrize(("most", "fine"), [(1, False), (2, True)])
def test_a_policy_counts_the_jobs_there(
    with_host: Callable[[Test], None], there: Path, monkeypatch: pytest.MonkeyPatch, most: int, fine: bool
) -> None:
    program(there, "squeue", SQUEUE)
    monkeypatch.setenv("XDG_STATE_HOME", str(there / "none"))
    policy = InForce(parse_policy(f"[maximum]\njobs_per_user = {most}\n", source="policy"), "policy")

    async def test(host: SshHost, node: LoginNode) -> None:
        await node.look(sys.executable, [])
        counted = check_counts(policy, slurm=True, login="login", host=node)
        if fine:
            await counted
        else:
            with pytest.raises(PolicyRefused, match=r"your jobs in Slurm's queue: 1: maximum[.]jobs_per_user is 1"):
                await counted
        assert "--user=alice " in (host.home / "asked").read_text()

    with_host(test)
