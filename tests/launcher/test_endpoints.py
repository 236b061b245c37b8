"""Both ends of a link over a real connection that is treated badly, and who is let in."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from farkernel.launcher import endpoints
from farkernel.launcher.endpoints import LinkServer
from farkernel.launcher.link import Kind
from farkernel.launcher.reach import Unreachable, first_reachable
from tests.launcher.ends import Ends, assert_at_rest, until
from tests.launcher.relay import Relay
from tests.patience import PATIENCE


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that notices silence after a moment."""
    monkeypatch.setattr(endpoints, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(endpoints, "SILENCE", 0.4)


CONNECT = pytest.mark.parametrize("connect", ["node", "login"])
"""Which side is connected to."""


# ---- each message once, in order ----


async def _mistreat(relay: Relay, chance: random.Random, times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(chance.uniform(0, 0.15))
        what = chance.choice([relay.reset, relay.reset, relay.cut, relay.pause])
        what()
        await asyncio.sleep(chance.choice([0, 0.05, 0.6]))
        relay.mend()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("seed", range(3))
@CONNECT
def test_each_message_arrives_once_and_in_order(connect: str, seed: int) -> None:
    async def talk() -> None:
        chance = random.Random(seed)
        with Ends(connect) as ends:
            async with Relay(ends.server.port) as relay:
                client = ends.client(relay.endpoint)
                trouble = asyncio.ensure_future(_mistreat(relay, chance, 6))
                number = 0
                while not trouble.done() or number < 3000:
                    for _ in range(20):
                        body = b"%d " % number + bytes(chance.choice([1, 100, 20_000]))
                        chance.choice([client, ends.listens]).send(body)
                        number += 1
                    await asyncio.sleep(0.005)
                await trouble

                await until(lambda: len(ends.listens.received) >= len(client.sent))
                await until(lambda: len(client.received) >= len(ends.listens.sent))

                assert ends.listens.received == client.sent
                assert client.received == ends.listens.sent

    asyncio.run(talk())


@pytest.mark.usefixtures("impatient")
@CONNECT
def test_it_is_full_while_it_is_cut_and_free_afterwards(connect: str) -> None:
    async def talk() -> None:
        with Ends(connect) as ends:
            async with Relay(ends.server.port) as relay:
                login, launcher = ends.pair(relay.endpoint)
                await until(lambda: login.link.connected)
                relay.cut()
                for _ in range(70):
                    launcher.send(bytes(2**20))
                assert launcher.full == [True]

                relay.mend()
                await until(lambda: launcher.full == [True, False])
                await until(lambda: len(login.received) == 70)

    asyncio.run(talk())


@CONNECT
def test_what_is_held_back_stays_with_the_launcher_and_is_no_silence(
    connect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(endpoints, "SILENCE", 2.0)

    async def talk() -> None:
        with Ends(connect) as ends:
            login, launcher = ends.pair()
            await until(lambda: login.link.connected)
            login.hold_back(True)
            epoch = login.link.epoch
            for _ in range(70):
                launcher.send(bytes(2**20))
            await until(lambda: launcher.full == [True])
            await asyncio.sleep(2.5)  # more than the silence that is borne here
            assert login.link.epoch == epoch
            assert login.received == []

            login.hold_back(False)
            await until(lambda: launcher.full == [True, False])
            await until(lambda: len(login.received) == 70)

    asyncio.run(talk())


@CONNECT
def test_a_message_may_be_larger_than_a_frame_of_a_server(connect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_FRAME", 2**20)

    async def talk() -> None:
        with Ends(connect) as ends:
            login, launcher = ends.pair()
            for size in (2**20, 2**20 + 1, 5 * 2**20, 0):
                launcher.send(random.Random(size).randbytes(size))
            await until(lambda: len(login.received) == 4)
            assert login.received == launcher.sent

    asyncio.run(talk())


@pytest.mark.usefixtures("impatient")
@CONNECT
def test_a_side_that_has_slept_goes_on(connect: str) -> None:
    """Its loop has stood still for longer than the silence that is borne, and nobody has broken a connection."""

    async def talk() -> None:
        with Ends(connect) as ends:
            async with Relay(ends.server.port) as relay:
                login, launcher = ends.pair(relay.endpoint)
                await until(lambda: login.link.connected)
                for seconds in (0.1, 1):
                    relay.pause()
                    launcher.send(b"from the node")
                    await asyncio.sleep(seconds)
                    relay.mend()
                    login.send(b"from the login node")
                await until(lambda: login.received == launcher.sent and launcher.received == login.sent)

    asyncio.run(talk())


# ---- who is let in ----


class Stranger:
    """A socket that knows the server's public key, and says what becomes of its connections."""

    def __init__(self, server: LinkServer, keys: tuple[bytes, bytes] | None = None, name: bytes = b"99999999") -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.routing_id = name
        self.socket.curve_serverkey = server.public_key.encode()
        self.socket.curve_publickey, self.socket.curve_secretkey = keys or zmq.curve_keypair()
        self.socket.reconnect_ivl = 20
        self._monitor = self.socket.get_monitor_socket()
        self.socket.connect(f"tcp://127.0.0.1:{server.port}")

    def events(self) -> Iterator[int]:
        while self._monitor.poll(0):
            yield recv_monitor_message(self._monitor)["event"]

    def close(self) -> None:
        self.socket.disable_monitor()
        self._monitor.close()
        self._context.destroy(0)


_GONE = {zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_DISCONNECTED}


async def _is_let_in(stranger: Stranger) -> bool:
    """Whether a handshake succeeds; no is said when the server says it, or after several have failed."""
    failures = 0
    async with asyncio.timeout(PATIENCE):
        while True:
            for event in stranger.events():
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    return True
                if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    return False
                failures += event in _GONE
            if failures >= 3:
                return False
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("zap", ["running", "stopped"])
@CONNECT
def test_a_key_that_is_not_the_clients_is_not_let_in(connect: str, zap: str) -> None:
    async def knock() -> None:
        with Ends(connect) as ends:
            if zap == "stopped":
                ends.server._zap.close()
            stranger = Stranger(ends.server)
            try:
                stranger.socket.send(b"anything")
                assert not await _is_let_in(stranger)
                assert ends.listens.received == []
                assert not ends.server.link.connected
            finally:
                stranger.close()

    asyncio.run(knock())


def test_nobody_is_let_in_before_it_is_said_who() -> None:
    async def knock() -> None:
        with Ends("login", client_key="") as ends:
            early = Stranger(ends.server, ends.keys)
            assert not await _is_let_in(early)
            early.close()

            ends.server.admit(ends.keys[0].decode())
            late = Stranger(ends.server, ends.keys)
            assert await _is_let_in(late)
            late.close()
            stranger = Stranger(ends.server)
            assert not await _is_let_in(stranger)
            stranger.close()

    asyncio.run(knock())


@CONNECT
def test_nobody_new_is_let_in_when_the_handler_has_stopped(connect: str) -> None:
    async def knock() -> None:
        with Ends(connect) as ends:
            right = Stranger(ends.server, ends.keys)
            assert await _is_let_in(right)
            right.close()

            ends.server._zap.close()
            late = Stranger(ends.server, ends.keys)
            assert not await _is_let_in(late)
            late.close()

    asyncio.run(knock())


@CONNECT
def test_a_stranger_that_tries_does_not_disturb_the_client(connect: str) -> None:
    async def knock() -> None:
        with Ends(connect) as ends:
            client = ends.client()
            await until(lambda: client.link.connected)
            stranger = Stranger(ends.server)
            assert not await _is_let_in(stranger)
            stranger.close()

            client.send(b"one")
            ends.listens.send(b"two")
            await until(lambda: ends.listens.received == [b"one"] and client.received == [b"two"])

    asyncio.run(knock())


def test_an_older_connection_that_still_says_something_gets_no_answer() -> None:
    async def talk() -> None:
        with Ends() as ends:
            old = Stranger(ends.server, ends.keys, b"00000001")
            new = Stranger(ends.server, ends.keys, b"00000002")
            try:
                new.socket.send(_frame(Kind.HELLO, epoch=2))
                await until(lambda: new.socket.poll(0))
                assert new.socket.recv() == _frame(Kind.WELCOME, epoch=2)

                old.socket.send(_frame(Kind.PING, epoch=1))
                await asyncio.sleep(0.3)
                ends.listens.send(b"body")
                await until(lambda: new.socket.poll(0))
                assert new.socket.recv_multipart()[-1] == b"body"
                assert not old.socket.poll(0)
            finally:
                old.close()
                new.close()

    asyncio.run(talk())


def _frame(kind: Kind, epoch: int) -> bytes:
    return struct.pack("!BBIIQQ", kind, 0, 0, epoch, 0, 0)


@pytest.mark.usefixtures("impatient")
@CONNECT
def test_a_client_tells_a_false_server(connect: str) -> None:
    async def knock() -> None:
        other_key = zmq.curve_keypair()[0].decode()
        with Ends(connect) as ends:
            async with Relay(ends.server.port) as relay:
                client = ends.client(relay.endpoint, server_key=other_key)
                client.send(b"a secret")
                await until(lambda: relay.accepted >= 3)

                assert not client.link.connected
                assert ends.listens.received == []

    asyncio.run(knock())


@CONNECT
def test_a_client_without_encryption_is_not_let_in(connect: str) -> None:
    async def knock() -> None:
        with Ends(connect) as ends:
            plain: zmq.Context[Any] = zmq.Context()
            socket = plain.socket(zmq.DEALER)
            socket.linger = 0
            monitor = socket.get_monitor_socket()
            socket.connect(f"tcp://127.0.0.1:{ends.server.port}")
            socket.send(b"anything")
            events: list[int] = []

            def refused() -> bool:
                while monitor.poll(0):
                    events.append(recv_monitor_message(monitor)["event"])
                return bool(_GONE.intersection(events))

            await until(refused)
            assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in events
            assert ends.listens.received == []
            socket.disable_monitor()
            monitor.close()
            plain.destroy(0)

    asyncio.run(knock())


@contextlib.contextmanager
def _server(addresses: list[str], ports: range) -> Iterator[LinkServer]:
    with zmq.Context() as context:
        server = LinkServer(
            asyncio.get_running_loop(),
            context,
            client_key=zmq.curve_keypair()[0].decode(),
            addresses=addresses,
            ports=ports,
            deliver=lambda *_: None,
            on_full=lambda full: None,
        )
        yield server
        server.close()


def test_it_listens_in_the_range_that_it_is_given() -> None:
    async def bind() -> None:
        with _server(["127.0.0.1"], range(0)) as first:
            ports = range(first.port, first.port + 1)
            for addresses in (["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]):  # all of them, or none
                with (
                    pytest.raises(OSError, match=f"no free port in {first.port}-{first.port}"),
                    _server(addresses, ports),
                ):
                    pass
            with _server(["127.0.0.2"], ports) as second:
                assert second.port == first.port

    asyncio.run(bind())


def test_it_listens_on_what_it_is_given_and_nothing_else() -> None:
    async def bind() -> None:
        with _server(["127.0.0.1", "127.0.0.2"], range(0)) as server:
            for address in ("127.0.0.1", "127.0.0.2"):
                assert await first_reachable([address], server.port, timeout=PATIENCE) == address
            with pytest.raises(Unreachable, match=rf"^127\.0\.0\.3:{server.port}: .+; \[::1\]:{server.port}: .+$"):
                await first_reachable(["127.0.0.3", "::1"], server.port, timeout=PATIENCE)
        with (
            pytest.raises(OSError, match=r"192\.0\.2\.1: Cannot assign requested address"),
            _server(["192.0.2.1"], range(0)),
        ):
            pass

    asyncio.run(bind())


def test_on_all_interfaces_it_can_be_reached_by_both_kinds_of_addresses() -> None:
    async def bind() -> None:
        with _server(["*"], range(0)) as server:
            for address in ("127.0.0.1", *(("::1",) if _has_ipv6() else ())):
                assert await first_reachable([address], server.port, timeout=PATIENCE) == address

    asyncio.run(bind())


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


# ---- at rest ----


@pytest.mark.parametrize("state", ["idle", "cut", "paused"])
@CONNECT
def test_a_link_at_rest_takes_no_cpu(connect: str, state: str) -> None:
    async def rest() -> None:
        with Ends(connect) as ends:
            async with Relay(ends.server.port) as relay:
                client = ends.client(relay.endpoint)
                await until(lambda: client.link.connected and ends.server.link.connected)
                if state != "idle":
                    {"cut": relay.cut, "paused": relay.pause}[state]()
                    for end in (client, ends.listens):
                        for _ in range(500):
                            end.send(bytes(20_000))
                await asyncio.sleep(0.5)

                await assert_at_rest()

    asyncio.run(rest())


# ---- what strangers can cost ----


@CONNECT
def test_a_handshake_cannot_announce_more_than_a_frame(connect: str) -> None:
    """libzmq takes what is announced, before it knows who it is: it must not be without end."""
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"CURVE".ljust(20, b"\x00") + bytes(32)
    command = b"\x06" + struct.pack("!Q", 4 * 2**30)  # ZMTP 3.1: a long command, of 4 GB

    async def flood(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting + command)
        for _ in range(4 * endpoints.MAX_FRAME // 2**20):
            writer.write(bytes(2**20))
            await writer.drain()

    async def attack() -> None:
        with Ends(connect) as ends, pytest.raises(ConnectionError):
            await asyncio.wait_for(flood(ends.server.port), PATIENCE)

    asyncio.run(attack())
