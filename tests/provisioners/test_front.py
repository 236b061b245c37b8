"""The sockets that clients connect to."""

import asyncio
import contextlib
import os
import pathlib
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from farkernel.launcher.protocol import PORT_NAMES, Channel
from farkernel.provisioners.front import Front, Publisher, runtime_directory
from tests.launcher import garbage
from tests.launcher.ends import assert_at_rest, until
from tests.patience import PATIENCE


class Subscriber(threading.Thread):
    """A client that reads a publisher's messages in a thread of its own, until it has the last one.

    :param pause: seconds that it does something else after every hundredth message
    :param room: messages that wait for it, 0 for any number; ZeroMQ's own number by default
    """

    def __init__(self, endpoint: str, pause: float = 0.0, room: int = 1000) -> None:
        super().__init__()
        self.received: list[bytes] = []
        self._pause = pause
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.rcvhwm = room
        self._socket.subscribe(b"")
        self._socket.connect(endpoint)
        self.start()

    def run(self) -> None:
        try:
            while self._socket.poll(int(PATIENCE * 1000)):
                body = self._socket.recv_multipart()[-1]
                if body == b"last":
                    return
                if body != b"hello":
                    self.received.append(body)
                    if self._pause and len(self.received) % 100 == 0:
                        time.sleep(self._pause)
        finally:
            self._context.destroy(0)


class Publishing:
    """A publisher on a unix socket."""

    def __init__(self, directory: pathlib.Path, **limits: Any) -> None:
        self._path = directory / "pub"
        self.endpoint = f"ipc://{self._path}"
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)  # as PUB, and tells who has subscribed
        self._socket.xpub_verbose = True
        self._socket.bind(self.endpoint)
        self.publisher = Publisher(asyncio.get_running_loop(), self._socket, **limits)

    def __enter__(self) -> "Publishing":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._socket.closed:
            self.publisher.close(0)
        self._context.destroy(0)
        self._path.unlink(missing_ok=True)

    async def subscribed(self, count: int = 1) -> None:
        for _ in range(count):
            await until(lambda: self._socket.poll(0))
            self._socket.recv()

    def deaf(self) -> zmq.Socket[bytes]:
        """Return a subscriber that reads nothing."""
        socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        socket.subscribe(b"")
        socket.connect(self.endpoint)
        return socket


async def _joined(subscriber: Subscriber) -> None:
    await until(lambda: not subscriber.is_alive())


def _bodies(count: int, size: int = 1) -> list[bytes]:
    return [b"%d " % number + bytes(size) for number in range(count)]


@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["quick", "slow"])
def test_a_client_gets_all_of_a_burst(short: pathlib.Path, pause: float) -> None:
    async def publish() -> None:
        with Publishing(short) as publishing:
            subscriber = Subscriber(publishing.endpoint, pause)
            await publishing.subscribed()
            bodies = _bodies(10_000, 100)
            for body in bodies:
                publishing.publisher.send([b"topic", body])
            publishing.publisher.send([b"topic", b"last"])
            await _joined(subscriber)
            assert subscriber.received == bodies

    asyncio.run(publish())


def test_it_is_told_when_a_client_is_behind_and_when_it_is_no_more(short: pathlib.Path) -> None:
    async def publish() -> None:
        told: list[bool] = []
        with Publishing(short, on_behind=told.append) as publishing:
            subscriber = Subscriber(publishing.endpoint, 0.02)
            await publishing.subscribed()
            publishing.publisher.send([b"topic", b"first"])
            assert told == []
            for body in _bodies(5_000, 100):
                publishing.publisher.send([b"topic", body])
            assert told == [True]
            publishing.publisher.send([b"topic", b"last"])
            await _joined(subscriber)
            assert told == [True, False]

    asyncio.run(publish())


def _memory() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_bounded_when_a_client_does_not_read(short: pathlib.Path) -> None:
    async def publish() -> None:
        with Publishing(short) as publishing:
            deaf = publishing.deaf()
            await publishing.subscribed()
            before = _memory()
            for number in range(40_000):
                publishing.publisher.send([b"topic", bytes(10_000)])
                if number % 100 == 0:
                    await asyncio.sleep(0.001)
            assert _memory() - before < 150 * 2**20  # of 400
            deaf.close(0)

    asyncio.run(publish())


def test_a_client_that_does_not_read_does_not_stop_the_others(short: pathlib.Path) -> None:
    async def publish() -> None:
        with Publishing(short, patience=0.2) as publishing:
            deaf = publishing.deaf()
            # what its own thread is late for waits with it: it is not to be one that does not read
            subscriber = Subscriber(publishing.endpoint, room=0)
            await publishing.subscribed(2)
            bodies = _bodies(6000, 1000)
            for number, body in enumerate(bodies):
                publishing.publisher.send([b"topic", body])
                if number % 50 == 0:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            publishing.publisher.send([b"topic", b"last"])
            await _joined(subscriber)
            assert subscriber.received == bodies
            deaf.close(0)

    asyncio.run(publish())


def test_of_a_burst_only_the_client_that_does_not_read_loses_messages(short: pathlib.Path) -> None:
    async def publish() -> None:
        with Publishing(short, patience=0.2) as publishing:
            deaf = publishing.deaf()
            # what its own thread is late for waits with it: it is not to be one that does not read
            subscriber = Subscriber(publishing.endpoint, room=0)
            await publishing.subscribed(2)
            bodies = _bodies(10_000, 1000)
            for body in bodies:
                publishing.publisher.send([b"topic", body])
            await asyncio.sleep(1.5)
            publishing.publisher.send([b"topic", b"last"])
            await _joined(subscriber)
            assert len(subscriber.received) == len(bodies)
            deaf.close(0)

    asyncio.run(publish())


def test_what_is_published_last_goes_before_it_closes(short: pathlib.Path) -> None:
    async def publish() -> None:
        with Publishing(short) as publishing:
            subscriber = Subscriber(publishing.endpoint)
            await publishing.subscribed()
            for body in _bodies(100):
                publishing.publisher.send([b"topic", body])
            publishing.publisher.send([b"topic", b"last"])
            publishing.publisher.close(30_000)
            await _joined(subscriber)
            assert len(subscriber.received) == 100

    asyncio.run(publish())


# ---- all five ----


class Fronted:
    """A front that sends back what it gets."""

    def __init__(self, base: pathlib.Path) -> None:
        self.requests: list[tuple[Channel, list[bytes]]] = []
        self.context: zmq.Context[Any] = zmq.Context()
        self.front = Front(asyncio.get_running_loop(), self.context, self._take, lambda behind: None, base)

    def __enter__(self) -> "Fronted":
        return self

    def __exit__(self, *_: object) -> None:
        self.front.close(0)
        self.context.destroy(0)

    @contextlib.contextmanager
    def client(self, channel: Channel, kind: int = zmq.DEALER, identity: bytes = b"") -> Iterator[zmq.Socket[bytes]]:
        info = self.front.connection_info
        socket: zmq.Socket[bytes] = self.context.socket(kind)
        if identity:
            socket.routing_id = identity
        if kind == zmq.SUB:
            socket.subscribe(b"")
        socket.connect(f"{info['transport']}://{info['ip']}-{info[PORT_NAMES[channel]]}")
        yield socket
        socket.close(0)

    def _take(self, channel: Channel, frames: list[Any]) -> None:
        self.requests.append((channel, [bytes(frame) for frame in frames]))
        self.front.send(channel, [bytes(frame) for frame in frames])


REQUESTS = [channel for channel in PORT_NAMES if channel != Channel.IOPUB]


def test_each_channel_is_reached_and_answers(short: pathlib.Path) -> None:
    async def ask() -> None:
        with Fronted(short) as fronted:
            for channel in REQUESTS:
                with fronted.client(channel, identity=b"me") as client:
                    client.send_multipart([b"a", b"b"])
                    await until(lambda client=client: client.poll(0))  # type: ignore[misc]
                    assert client.recv_multipart() == [b"a", b"b"]
            assert fronted.requests == [(channel, [b"me", b"a", b"b"]) for channel in REQUESTS]

    asyncio.run(ask())


def test_it_publishes(short: pathlib.Path) -> None:
    async def listen() -> None:
        with Fronted(short) as fronted, fronted.client(Channel.IOPUB, zmq.SUB) as client:
            async with asyncio.timeout(PATIENCE):
                while not client.poll(0):
                    fronted.front.send(Channel.IOPUB, [b"topic", b"body"])
                    await asyncio.sleep(0.02)
            assert client.recv_multipart() == [b"topic", b"body"]

    asyncio.run(listen())


@pytest.mark.parametrize(("length", "taken"), [(0, True), (10_000, True), (2**20, False)])
def test_a_topic_that_is_none_is_not_kept(short: pathlib.Path, length: int, taken: bool) -> None:
    async def subscribe() -> None:
        with Fronted(short) as fronted:
            info = fronted.front.connection_info
            path = f"{info['ip']}-{info['iopub_port']}"
            asked = asyncio.create_task(asyncio.to_thread(garbage.subscribe, path, length))
            while not asked.done():
                fronted.front.send(Channel.IOPUB, [b"topic", b"published"])
                await asyncio.sleep(0.02)
            assert await asked == taken

    asyncio.run(subscribe())


def test_a_client_that_connects_again_with_its_name_takes_over(short: pathlib.Path) -> None:
    async def ask() -> None:
        with Fronted(short) as fronted, fronted.client(Channel.SHELL, identity=b"tab") as old:
            old.send(b"1")
            await until(lambda: old.poll(0))
            with fronted.client(Channel.SHELL, identity=b"tab") as new:
                new.send(b"2")
                await until(lambda: new.poll(0))
                assert new.recv() == b"2"

    asyncio.run(ask())


def test_names_that_were_removed_come_again(short: pathlib.Path) -> None:
    async def renew() -> None:
        with Fronted(short) as fronted:
            info = fronted.front.connection_info
            for name in PORT_NAMES.values():
                os.remove(f"{info['ip']}-{info[name]}")  # noqa: PTH107 (as jupyter_client does at a restart)
            fronted.front.renew()
            fronted.front.renew()

            assert fronted.front.connection_info == info
            for channel in REQUESTS:
                with fronted.client(channel) as client:
                    client.send(b"x")
                    await until(lambda client=client: client.poll(0))  # type: ignore[misc]

    asyncio.run(renew())


def test_it_is_the_users_alone_and_is_removed(short: pathlib.Path) -> None:
    async def look() -> None:
        with Fronted(short) as fronted:
            directory = pathlib.Path(fronted.front.connection_info["ip"]).parent
            assert directory.parent == short
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    asyncio.run(look())
    assert list(short.iterdir()) == []


def test_requests_that_are_held_wait_and_control_passes(short: pathlib.Path) -> None:
    async def hold() -> None:
        with (
            Fronted(short) as fronted,
            fronted.client(Channel.SHELL) as shell,
            fronted.client(Channel.CONTROL) as control,
        ):
            fronted.front.hold_requests(True)
            for number in range(100):
                shell.send(b"%d" % number)
            control.send(b"interrupt")
            await until(lambda: control.poll(0))
            await asyncio.sleep(0.1)
            await assert_at_rest()
            assert [channel for channel, _ in fronted.requests] == [Channel.CONTROL]

            fronted.front.hold_requests(False)
            await until(lambda: len(fronted.requests) == 101)
            assert [frames[-1] for _, frames in fronted.requests[1:]] == [b"%d" % number for number in range(100)]

    asyncio.run(hold())


async def _known(fronted: Fronted, channel: Channel, *clients: zmq.Socket[bytes]) -> None:
    """Wait until the front knows its clients by their names."""
    for client in clients:
        client.send(b"hello")
        await until(lambda client=client: client.poll(0))  # type: ignore[misc]
        client.recv_multipart()


async def _read(client: zmq.Socket[bytes], count: int) -> list[bytes]:
    """Read so many messages, in haste."""
    bodies: list[bytes] = []
    async with asyncio.timeout(PATIENCE):
        while len(bodies) < count:
            if client.poll(0):
                bodies.append(client.recv_multipart()[-1])
            else:
                await asyncio.sleep(0.001)
    return bodies


@pytest.mark.parametrize("kind", [Channel.SHELL, Channel.CONTROL, Channel.STDIN])
def test_a_client_that_is_late_gets_every_reply_in_order_and_others_do_not_wait_for_it(
    short: pathlib.Path, kind: Channel
) -> None:
    async def answer() -> None:
        with (
            Fronted(short) as fronted,
            fronted.client(kind, identity=b"late") as late,
            fronted.client(kind, identity=b"quick") as quick,
        ):
            await _known(fronted, kind, late, quick)
            bodies = _bodies(10_000, 100)
            for body in bodies:
                fronted.front.send(kind, [b"late", b"", body])
            fronted.front.send(kind, [b"quick", b"", b"for you"])
            assert await _read(quick, 1) == [b"for you"]
            assert await _read(late, len(bodies)) == bodies
            fronted.front.send(kind, [b"late", b"", b"and more"])
            assert await _read(late, 1) == [b"and more"]

    asyncio.run(answer())


def test_a_client_that_reads_no_reply_costs_bounded_memory_and_no_cpu(
    short: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer() -> None:
        with Fronted(short) as fronted, fronted.client(Channel.SHELL, identity=b"deaf") as deaf:
            await _known(fronted, Channel.SHELL, deaf)
            before = _memory()
            for _ in range(2000):
                fronted.front.send(Channel.SHELL, [b"deaf", bytes(100_000)])
                await asyncio.sleep(0)
            assert _memory() - before < 180 * 2**20  # of 200 here, and what ZeroMQ has let the client take
            assert caplog.messages == ["a client does not read its replies: what is more than 32 MB is lost"]
            await asyncio.sleep(0.5)
            await assert_at_rest()

    asyncio.run(answer())


def test_what_waits_for_a_client_that_is_gone_goes_with_it(short: pathlib.Path) -> None:
    async def answer() -> None:
        with Fronted(short) as fronted:
            with fronted.client(Channel.SHELL, identity=b"tab") as old:
                await _known(fronted, Channel.SHELL, old)
                for body in _bodies(5_000, 100):
                    fronted.front.send(Channel.SHELL, [b"tab", body])
            await until(lambda: not fronted.front._sockets[Channel.SHELL]._waiting)
            with fronted.client(Channel.SHELL, identity=b"tab") as new:
                fronted.front.send(Channel.SHELL, [b"nobody", b"x"])
                new.send(b"hello")
                await until(lambda: new.poll(0))
                assert new.recv() == b"hello"

    asyncio.run(answer())


def test_what_is_answered_last_reaches_a_client_that_is_late_after_the_front_is_closed(short: pathlib.Path) -> None:
    """A job that ends answers all that is open, and the front is closed at once."""

    async def answer() -> None:
        with (
            Fronted(short) as fronted,
            fronted.client(Channel.SHELL, identity=b"me") as shell,
            fronted.client(Channel.IOPUB, zmq.SUB) as iopub,
        ):
            await _known(fronted, Channel.SHELL, shell)
            async with asyncio.timeout(PATIENCE):
                while not iopub.poll(0):
                    fronted.front.send(Channel.IOPUB, [b"hello"])
                    await asyncio.sleep(0.02)
            bodies = _bodies(5_000, 100)
            for body in bodies:
                fronted.front.send(Channel.SHELL, [b"me", body])
                fronted.front.send(Channel.IOPUB, [body])
            fronted.front.close(30_000)
            assert not pathlib.Path(fronted.front.connection_info["ip"]).parent.exists()
            # both at once: what nobody takes is not waited for without end
            replies, output = await asyncio.gather(_read(shell, len(bodies)), _read(iopub, len(bodies)))
            assert replies == bodies
            output += await _read(iopub, output.count(b"hello"))
            assert [body for body in output if body != b"hello"] == bodies

    asyncio.run(answer())


# ---- where ----


def test_sockets_go_to_the_users_own_runtime_directory(short: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = short / "run"
    own.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))

    assert runtime_directory() == own
    own.chmod(0o755)
    assert runtime_directory() != own  # others can look in
    own.rmdir()
    assert runtime_directory().is_dir()
