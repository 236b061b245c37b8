"""What clients of one kernel are told and what they can cost, over real sockets."""

import asyncio
import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session

from farkernel.launcher.protocol import PORT_NAMES, Channel
from farkernel.launcher.sockets import size
from farkernel.provisioners import clients as clients_module
from farkernel.provisioners.clients import Clients
from farkernel.provisioners.unanswered import Problem
from tests.launcher.ends import until
from tests.patience import PATIENCE

KEY = b"key"
LIMIT = 2**20


class Site:
    """A kernel's clients, one of them here, and what has come to the kernel."""

    def __init__(self) -> None:
        self.session = Session(key=KEY)
        self.kernel = Session(key=KEY)
        self.to_kernel: list[tuple[Channel, list[bytes]]] = []
        self.interrupts = 0
        self._context: zmq.Context[Any] = zmq.Context()
        self.clients = Clients(
            asyncio.get_running_loop(),
            self._context,
            key=KEY,
            signature_scheme="hmac-sha256",
            show_queue=True,
            language="python",
            to_kernel=lambda channel, frames: self.to_kernel.append((channel, [bytes(frame) for frame in frames])),
            on_interrupt=self._on_interrupt,
            on_behind=lambda behind: None,
        )
        self.sockets = {channel: self._connected(channel) for channel in PORT_NAMES}

    def _on_interrupt(self) -> None:
        self.interrupts += 1

    def _connected(self, channel: Channel) -> zmq.Socket[bytes]:
        info = self.clients.connection_info
        socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB if channel == Channel.IOPUB else zmq.DEALER)
        if channel == Channel.IOPUB:
            socket.subscribe(b"")
        else:
            socket.routing_id = b"me"
            socket.sndhwm = 0  # waiting for room it would keep the front, in the same loop, from making any
        socket.connect(f"ipc://{info['ip']}-{info[PORT_NAMES[channel]]}")
        return socket

    def send(self, msg_type: str, content: dict[str, Any] | None = None, channel: Channel = Channel.SHELL) -> str:
        """Send a message; return its id."""
        message = self.session.msg(msg_type, content or {})
        self.sockets[channel].send_multipart(self.session.serialize(message))
        return str(message["msg_id"])

    def execute(self, length: int = 0) -> str:
        return self.send("execute_request", {"code": "#" * length, "silent": False})

    async def reply(self, channel: Channel = Channel.SHELL) -> Any:
        """Wait for the next reply."""
        await until(lambda: self.sockets[channel].poll(0))
        return self.session.deserialize(self.session.feed_identities(self.sockets[channel].recv_multipart())[1])

    async def said(self, text: str) -> None:
        """Wait until a cell has said something."""

        def heard() -> bool:
            while self.sockets[Channel.IOPUB].poll(0):
                if text.encode() in b"".join(self.sockets[Channel.IOPUB].recv_multipart()):
                    return True
            return False

        await until(heard)

    async def subscribed(self) -> None:
        """Wait until what is published is heard."""
        async with asyncio.timeout(PATIENCE):
            while not self.sockets[Channel.IOPUB].poll(0):
                self.clients.tell("waiting")
                await asyncio.sleep(0.01)

    def answer(self, frames: list[bytes], channel: Channel = Channel.SHELL) -> None:
        """Let the kernel answer what has come to it."""
        identities, rest = self.kernel.feed_identities(frames)
        request: Any = self.kernel.deserialize(rest)
        reply = self.kernel.msg("execute_reply", {"status": "ok"}, parent=request)
        self.clients.from_kernel(channel, self.kernel.serialize(reply, ident=identities))

    def close(self) -> None:
        self.clients.close()
        # With 0, libzmq 4.3.5 aborts now and then where a message of several parts was half on its way to a client that
        # leaves at the same moment (its issue 3442).
        self._context.destroy(1000)


@pytest.fixture(autouse=True)
def small(short: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sockets in a directory of the test's, and a limit that is soon reached."""
    run = short / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    monkeypatch.setattr(clients_module, "OPEN_LIMIT", LIMIT)
    yield
    run.rmdir()


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "running"])
@pytest.mark.parametrize("length", [0, 100_000], ids=["small", "large"])
def test_requests_without_end_are_refused_in_words_and_memory_is_bounded(waiting: bool, length: int) -> None:
    async def flood() -> None:
        with contextlib.closing(Site()) as site:
            if not waiting:
                site.clients.open("up")
            sent = 2 * LIMIT // (length + 1000)
            for _ in range(sent):
                site.execute(length)
            refusal = await site.reply()
            assert (refusal["content"]["status"], refusal["content"]["ename"]) == ("error", "TooManyRequests")
            assert "wait for this kernel" in refusal["content"]["evalue"]

            site.send("interrupt_request", channel=Channel.CONTROL)  # which may end what is too much
            if waiting:
                await until(lambda: site.interrupts == 1)
                site.clients.open("up")
            await until(lambda: waiting or site.to_kernel[-1][0] == Channel.CONTROL)
            taken = [frames for channel, frames in site.to_kernel if channel == Channel.SHELL]
            assert 0 < len(taken) < sent
            assert sum(map(size, taken)) <= LIMIT

            for _ in range(sent - len(taken) - 1):  # the others that were refused
                await site.reply()
            for frames in taken:
                site.answer(frames)
            later = site.execute()  # there is room again
            await until(lambda: later.encode() in b"".join(site.to_kernel[-1][1]))

    asyncio.run(flood())


def test_messages_without_a_reply_are_bounded_too_and_the_cell_says_so() -> None:
    async def flood() -> None:
        with contextlib.closing(Site()) as site:
            await site.subscribed()
            site.execute()
            for _ in range(30):
                site.send("comm_msg", {"data": "x" * 100_000})
            await site.said("a message of type comm_msg was dropped")
            site.clients.open("up")
            assert 5 < len(site.to_kernel) < 15

    asyncio.run(flood())


@pytest.mark.parametrize("kind", ["comm_msg", "usage_request"])
@pytest.mark.parametrize("channel", [Channel.SHELL, Channel.CONTROL])
def test_what_a_kernel_says_nothing_to_is_bounded_and_not_for_ever(kind: str, channel: Channel) -> None:
    async def flood() -> None:
        with contextlib.closing(Site()) as site:
            site.clients.open("up")
            for _ in range(30):
                site.send(kind, {"data": "x" * 100_000}, channel)
                await asyncio.sleep(0.001)
            last = site.send("history_request", {"data": "x" * 100_000}, channel)
            while (await site.reply(channel))["parent_header"]["msg_id"] != last:  # it is refused, after all of these
                pass
            assert len(site.to_kernel) > 8
            assert sum(size(frames) for _, frames in site.to_kernel) < 1.1 * LIMIT

            (question,) = [frames for _, frames in site.to_kernel if b"kernel_info_request" in b"".join(frames)]
            site.answer(question, channel)
            site.to_kernel.clear()
            later = site.execute()
            await until(lambda: any(later.encode() in b"".join(frames) for _, frames in site.to_kernel))

    asyncio.run(flood())


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "running"])
def test_interrupts_without_end_are_bounded_too(waiting: bool) -> None:
    async def flood() -> None:
        with contextlib.closing(Site()) as site:
            if not waiting:
                site.clients.open("up")
            for _ in range(40):
                site.send("interrupt_request", {"data": "x" * 100_000}, Channel.CONTROL)
                await asyncio.sleep(0.001)
            replies = [await site.reply(Channel.CONTROL) for _ in range(40 if waiting else 19)]
            assert {reply["content"]["status"] for reply in replies} == {"ok" if waiting else "error"}
            assert sum(size(frames) for _, frames in site.to_kernel) < 2.2 * LIMIT

    asyncio.run(flood())


def test_an_interrupt_that_is_too_large_for_the_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the connection, again and again: nothing could be done for any kernel of the job."""
    monkeypatch.setattr(clients_module, "MAX_FRAME", 100_000)

    async def send() -> None:
        with contextlib.closing(Site()) as site:
            site.clients.open("up")
            site.send("interrupt_request", {"data": "x" * 100_000}, Channel.CONTROL)
            assert (await site.reply(Channel.CONTROL))["content"]["ename"] == "RequestTooLarge"
            assert site.to_kernel == []

    asyncio.run(send())


def test_every_open_request_of_a_kernel_that_dies_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and though the client did not read meanwhile."""
    monkeypatch.setattr(clients_module, "OPEN_LIMIT", 64 * LIMIT)

    async def die() -> None:
        with contextlib.closing(Site()) as site:
            site.clients.open("up")
            requests = []
            for _ in range(5000):
                requests.append(site.execute())
                await asyncio.sleep(0)
            await until(lambda: len(site.to_kernel) == len(requests))
            site.clients.end_requests(Problem("KernelDied", "it is dead"))
            replies = [await site.reply() for _ in requests]
            assert [reply["parent_header"]["msg_id"] for reply in replies] == requests
            assert {reply["content"]["ename"] for reply in replies} == {"KernelDied"}

    asyncio.run(die())


def test_heartbeats_that_are_none_are_dropped() -> None:
    async def beat() -> None:
        with contextlib.closing(Site()) as site:
            site.clients.open("up")
            site.sockets[Channel.HB].send(bytes(2**20))
            site.sockets[Channel.HB].send(b"ping")
            await until(lambda: site.to_kernel)
            assert [frames[-1] for _, frames in site.to_kernel] == [b"ping"]

    asyncio.run(beat())
