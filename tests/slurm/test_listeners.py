"""All that can be reached of a user's processes while a kernel runs, in each way to have one, on every host.

Nothing listens where another user could use it: sockets lie in a 0700 directory, or what comes there needs a key.
"""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster import Site
from tests.cluster.site import LOGIN
from tests.gateways import Client, Gateway
from tests.slurm import intruder
from tests.slurm import test_connect as connecting
from tests.slurm.helpers import PATIENCE, Specs, eventually, flood, jobs, kernel, slurm
from tests.slurm.test_connect import on_laptop as with_lab
from tests.slurm.test_edge import OnLaptop, bell, login, nothing_left, on_laptop, ssh_alone
from tests.slurm.test_enterprise_gateway import client, gateway
from tests.slurm.test_farkernel_gateway import told

__all__ = ["client", "gateway", "login", "on_laptop", "ssh_alone", "told", "with_lab"]

UID = os.getuid()
LAPTOP = "laptop"
BY_TOKEN = "HTTP on loopback, by a token"
ON_NODE = {"launcher: CURVE": 1, "kernel: its own, on loopback": 1}
"""ipykernel takes the prints of forked processes there: docs/security.md."""


def try_as(cluster: Site, user: str, host: str, attempt: str, **request: Any) -> Any:
    argv = [sys.executable, "-B", intruder.__file__]
    done = cluster.run(host, user, argv, json.dumps({"attempt": attempt, **request}))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Reached:
    """What can be reached of alice's on one host.

    :ivar curve: the ports of links
    :ivar kinds: how many there are of each kind; without sockets in private directories
    :ivar by_token: address and port of what takes HTTP requests with a token
    :ivar private: how many sockets there are in private directories
    """

    def __init__(self, cluster: Site, host: str, listens: str, ours: int) -> None:
        self.kinds: Counter[str] = Counter()
        self.curve: list[int] = []
        self.by_token: list[tuple[str, int]] = []
        self.private = 0
        for protocol, place, private, command in try_as(cluster, "alice", host, "bound", uid=UID)["bound"]:
            if private:
                self.private += 1
            elif protocol == "tcp" and place[1] != ours:
                self._take(place, command, listens)
            elif protocol != "tcp":
                self.kinds[f"{protocol} {place} of {command}"] += 1

    def _take(self, place: tuple[str, int], command: str, listens: str) -> None:
        address, port = place
        if command.split()[:1] == ["srun"]:
            self.kinds["srun's own"] = 1  # it has some for its steps, as any srun
            return
        is_launcher = "launcher.main import main" in command and not command.endswith(" keeper")
        if is_launcher or (listens and listens in command):
            self.kinds["launcher: CURVE" if is_launcher else "login side: CURVE"] += 1
            self.curve.append(port)
        elif address in {"127.0.0.1", "::1"} and ("cli connect" in command or "jupyterlab" in command):
            self.kinds[BY_TOKEN] = 1
            self.by_token.append(place)
        elif "ipykernel_launcher" in command and address == "127.0.0.1":
            self.kinds["kernel: its own, on loopback"] += 1
        else:
            self.kinds[f"{address}:{port} of {command}"] += 1


async def assert_closed(
    cluster: Site,
    on_node: dict[str, int],
    on_login: dict[str, int],
    on_laptop: dict[str, int] | None = None,
    *,
    listens: str = "",
    ours: int = 0,
) -> None:
    """Assert that there is nothing but what is expected, and that bob gets no further than a greeting at any link.

    :param listens: in the command of a process of the login node that listens for launchers
    :param ours: a port of the test itself
    """
    (node,) = slurm("squeue", "--noheader", "--me", "--states=RUNNING", "--format=%N").split()
    expected = {node: Counter(on_node), LOGIN: Counter(on_login), LAPTOP: Counter(on_laptop or {})}

    def look() -> dict[str, Reached]:
        return {host: Reached(cluster, host, listens, ours) for host in expected}

    with contextlib.suppress(TimeoutError, AssertionError):
        await eventually(lambda: {host: one.kinds for host, one in look().items()} == expected)
    seen = await asyncio.to_thread(look)
    assert {host: one.kinds for host, one in seen.items()} == expected
    assert seen[node].private
    assert [port for one in seen.values() for port in one.curve]
    for host, one in seen.items():
        for port in one.curve:
            said = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            heard = try_as(cluster, "bob", LOGIN, "speak", address=host, port=port, said="")
            assert not heard["refused"]
            # ZMTP's greeting, whose mechanism is CURVE
            assert heard["heard"].replace("\0", "") in "\xff\x01\x7f\x03\x01CURVE"
            assert len(try_as(cluster, "bob", LOGIN, "speak", address=host, port=port, said=said)["heard"]) <= 64


@pytest.mark.parametrize(
    ("connect", "on_node", "on_login"),
    [
        ("node", ON_NODE, {"srun's own": 1}),
        ("login", {"kernel: its own, on loopback": 1}, {"srun's own": 1, "login side: CURVE": 1}),
    ],
)
async def test_a_kernel_of_a_server_on_the_login_node(
    cluster: Site, specs: Specs, connect: str, on_node: dict[str, int], on_login: dict[str, int]
) -> None:
    async with kernel(specs(launcher={"connect": connect})) as (_, client):
        assert (await client.run("1 + 1")).result == "2"
        await assert_closed(cluster, on_node, on_login, listens="pytest" if connect == "login" else "")


async def test_a_kernel_of_a_laptop(cluster: Site, login: Callable[..., dict[str, Any]], on_laptop: OnLaptop) -> None:
    async with bell() as one:
        story = asyncio.create_task(on_laptop("work", spec=login(), bell=one.place))
        async with one.rung(story):
            await assert_closed(cluster, ON_NODE, {"srun's own": 1}, ours=one.place[1])
            for host in (LOGIN, LAPTOP):  # the keeper's; the front's and the link's
                assert Reached(cluster, host, "", one.place[1]).private
        await story
    await nothing_left(cluster)


async def test_a_kernel_of_farkernel_connect(cluster: Site, with_lab: connecting.OnLaptop) -> None:
    async with bell() as one:
        code = flood(30, connecting.RATE)
        story = asyncio.create_task(with_lab("flood", code=code, bell=one.place))
        async with one.rung(story):
            await assert_closed(cluster, ON_NODE, {"srun's own": 1}, {BY_TOKEN: 1}, ours=one.place[1])
            laptop = Reached(cluster, LAPTOP, "", one.place[1])
            assert len({port for _, port in laptop.by_token}) == 2  # JupyterLab's, and the gateway's
            for address, port in laptop.by_token:
                said = f"GET /api/kernels HTTP/1.1\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n"
                place = {"address": address, "port": port}
                heard = try_as(cluster, "bob", LAPTOP, "speak", **place, said=said, patience=PATIENCE)
                assert heard["heard"].startswith("HTTP/1.1 403")
            assert Reached(cluster, LOGIN, "", one.place[1]).private
        await story
    await connecting.nothing_left(cluster)


class UnixConnection(http.client.HTTPConnection):
    """HTTP at a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


async def test_a_kernel_of_a_gateway(cluster: Site, told: dict[str, Any]) -> None:
    def ask(method: str, path: str, body: str | None = None) -> int:
        connection = UnixConnection(told["socket"])
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Authorization": f"token {told['token']}"})
            return connection.getresponse().status

    assert await asyncio.to_thread(ask, "POST", "/api/kernels", '{"name": "far"}') == 201
    await eventually(lambda: jobs("RUNNING"))
    await assert_closed(cluster, ON_NODE, {"srun's own": 1})
    assert Reached(cluster, LOGIN, "", 0).private


async def test_a_kernel_of_enterprise_gateway(cluster: Site, gateway: Gateway, client: Client) -> None:
    async with client.kernel("cori-knl") as (_, notebook):
        cell = await notebook.send("print(1 + 1)")
        await cell.done()
        assert cell.stdout == "2\n"
        its_own = int(gateway.place.rpartition(":")[2])  # HTTP, by its token
        await assert_closed(cluster, ON_NODE, {"srun's own": 1}, ours=its_own)
        assert Reached(cluster, LOGIN, "", its_own).private
