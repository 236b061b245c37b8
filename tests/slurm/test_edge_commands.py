"""`farkernel ps`, `cancel`, `clean` and `doctor` on a laptop whose kernels' jobs are behind ssh."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Site
from tests.cluster.site import CHECKOUT, LOGIN
from tests.slurm.helpers import jobs
from tests.slurm.test_edge import OnLaptop, login, nothing_left, on_host, on_laptop, ssh_alone

__all__ = ["login", "on_laptop", "ssh_alone"]

Login = Callable[..., dict[str, Any]]


async def test_a_kernel_is_shown_and_cancelled(cluster: Site, login: Login, on_laptop: OnLaptop) -> None:
    saw = await on_laptop("cancel", spec=login())

    assert saw["doctor"]["code"] == 0, saw["doctor"]
    for line in ("it lets you in without a question", "to a unix socket of yours", "is UP"):
        assert line in saw["doctor"]["stdout"]
    assert f"Python on {LOGIN}" in saw["doctor"]["stdout"]

    shown = {row["kernel_id"]: row for row in json.loads(saw["ps"]["stdout"])}
    row = shown[saw["id"]]
    assert (row["state"], row["login"], row["server"], row["job_id"]) == ("running", LOGIN, "laptop", saw["job"])
    assert row["node"].startswith("nid023")
    assert 0 < row["left"] <= 600
    assert 0 <= row["elapsed"] < 300
    assert shown["other"]["login"] == "no-such-host"
    assert saw["ps"]["code"] == 0
    assert saw["ps"]["stderr"].startswith("Their jobs may differ: There is no host no-such-host.")
    assert f"{saw['job']} on {LOGIN}" in saw["table"]["stdout"]
    assert saw["other"]["code"] == 1
    assert "There is no host no-such-host." in saw["other"]["stderr"]
    assert "Traceback" not in saw["other"]["stderr"]

    assert saw["cancel"]["code"] == 0, saw["cancel"]
    assert f"Slurm job {saw['job']} of " in saw["cancel"]["stdout"]
    assert saw["cancel"]["stdout"].endswith(" is cancelled.\n")
    assert re.search(rf"Slurm job {saw['job']} on nid\d+ was cancelled\.", saw["told"])
    assert f"Slurm job {saw['job']}" in saw["logs"]["stdout"]
    assert saw["after"]["stdout"] == "There are no kernels.\n"
    await nothing_left(cluster)


async def test_what_a_laptop_that_was_killed_leaves_is_cleaned(
    cluster: Site, login: Login, on_laptop: OnLaptop
) -> None:
    saw = await on_laptop("clean", spec=login(job={"orphan_timeout": "1m"}), checkout=str(CHECKOUT))

    (row,) = json.loads(saw["ps"]["stdout"])
    assert row["orphan"]
    assert row["state"] == "orphan: its server is gone, its job is running"
    assert f"Would cancel Slurm job {row['job_id']} " in saw["dry"]["stdout"]
    assert saw["clean"]["code"] == 0, saw["clean"]
    assert f"Cancelled Slurm job {row['job_id']} " in saw["clean"]["stdout"]
    assert (saw["after"]["stdout"], saw["records"]) == ("There are no kernels.\n", 0)
    assert not jobs()
    on_host(cluster, "laptop", "rm -rf /tmp/farkernel-*")  # what was left a moment ago may be somebody's still
    await nothing_left(cluster)


@pytest.mark.parametrize(
    ("setting", "text", "advice"),
    [
        ("AllowTcpForwarding no", "carries no connections to the nodes", "AllowTcpForwarding"),
        ("AllowStreamLocalForwarding no", "carries no connections to the unix socket", "AllowStreamLocalForwarding"),
    ],
)
async def test_doctor_sees_a_login_node_that_carries_no_connections(
    cluster: Site, login: Login, on_laptop: OnLaptop, setting: str, text: str, advice: str
) -> None:
    # a second sshd, for the first one's configuration is all hosts'
    sshd = f"/usr/sbin/sshd -p 2222 -o PidFile=/run/sshd-2222.pid -o '{setting}'"
    on_host(cluster, LOGIN, sshd)
    try:
        key = (Path.home() / ".ssh/id_ed25519").read_text()
        config = f"Host {LOGIN}\n Port 2222\n HostKeyAlias {LOGIN}\n"
        saw = await on_laptop("doctor", spec=login(), ssh={"id_ed25519": key, "config": config})
    finally:
        on_host(cluster, LOGIN, "kill $(cat /run/sshd-2222.pid)")
    assert saw["code"] == 1
    assert text in saw["stdout"]
    assert advice in saw["stdout"]


@pytest.mark.parametrize(
    ("config", "files", "text"),
    [
        ({"launcher": {"python": "/no/python3"}}, {}, "The Python /no/python3 cannot be used on cori01."),
        ({"login": "no-such-host"}, {}, "There is no host no-such-host."),
        ({}, {"config": "GlobalKnownHostsFile /dev/null\n"}, "The key of cori01 is in no known_hosts."),
    ],
)
async def test_doctor_says_what_is_wrong_there(
    cluster: Site, login: Login, on_laptop: OnLaptop, config: dict[str, Any], files: dict[str, str], text: str
) -> None:
    key = await asyncio.to_thread((Path.home() / ".ssh/id_ed25519").read_text)
    saw = await on_laptop("doctor", spec=login(**config), ssh={"id_ed25519": key, **files})
    assert saw["code"] == 1
    assert text in saw["stdout"]
