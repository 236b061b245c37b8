"""What the launcher keeps of a kernel while the link is full, and what it leaves with it."""

import asyncio
import contextlib
import os
import pathlib
import sys
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zmq

from farkernel.launcher import kernel as kernel_module
from farkernel.launcher import wire
from farkernel.launcher.kernel import Kernel
from farkernel.launcher.process import KernelProcess
from farkernel.launcher.protocol import Channel, Event, KernelReady, OutputDropped
from farkernel.launcher.sockets import Frames, size
from tests.launcher.ends import assert_at_rest, until
from tests.launcher.launched import KEY, command

HELD = 2**20

# Answers the launcher's question; then says on a channel a number of messages of a type, when it is told to.
TALKING = textwrap.dedent("""
    import json, sys, time, zmq
    info = json.load(open(sys.argv[-1]))
    context = zmq.Context()
    sockets = {}
    def bind(name, kind):
        sockets[name] = context.socket(kind)
        sockets[name].sndhwm = 0
        if kind == zmq.ROUTER:
            sockets[name].router_mandatory = 1
        sockets[name].bind(f"ipc://{info['ip']}-{info[name + '_port']}")
    for name, kind in ("shell", zmq.ROUTER), ("control", zmq.ROUTER), ("stdin", zmq.ROUTER), ("iopub", zmq.PUB):
        bind(name, kind)
    def send(name, to, kind, parent, content):
        header = json.dumps({"msg_id": "1", "msg_type": kind}).encode()
        frames = [to, b"<IDS|MSG>", b"", header, parent, b"{}", json.dumps(content).encode()]
        while True:
            try:
                return sockets[name].send_multipart(frames)
            except zmq.ZMQError:  # stdin's connection may be later than the others
                time.sleep(0.001)
    while True:
        for name in "shell", "control":
            if not sockets[name].poll(5):
                continue
            frames = sockets[name].recv_multipart()
            at = frames.index(b"<IDS|MSG>")
            kind, parent, content = json.loads(frames[at + 2])["msg_type"], frames[at + 2], json.loads(frames[at + 5])
            if kind == "kernel_info_request":
                for state in "busy", "idle":
                    send("iopub", b"", "status", parent, {"execution_state": state})
                send(name, frames[0], "kernel_info_reply", parent, {})
            elif kind == "hang_up":
                for _ in range(content["count"]):
                    sockets["iopub"].close(0)
                    bind("iopub", zmq.XPUB)
                    sockets["iopub"].recv()  # somebody has subscribed again
                send("control", frames[0], "done", b"{}", {})
            else:
                for number in range(content["count"]):
                    send(content["on"], frames[0], kind, b"{}", {"number": number, "rest": "x" * content["length"]})
                if content["on"] == "iopub":
                    send("iopub", frames[0], "comm_close", b"{}", {})
                send("control", frames[0], "done", b"{}", {})
""")


class Talking:
    """A kernel that says what it is told to, and what the launcher makes of that."""

    def __init__(self, base: pathlib.Path, context: zmq.Context[Any]) -> None:
        self.events: list[Event] = []
        self.said: list[tuple[Channel, Frames]] = []
        self._signer = wire.Signer(KEY.encode(), "hmac-sha256")
        order = command(sys.executable, "-c", TALKING, "{connection_file}")
        self.kernel = Kernel(
            asyncio.get_running_loop(),
            context,
            KernelProcess(order, base, dict(os.environ)),
            forward=lambda channel, frames: self.said.append((channel, frames)),
            report=self.events.append,
            ended=lambda: None,
        )

    def say(self, kind: str, on: str, *, count: int, length: int = 10_000) -> None:
        """Let it say something."""
        content = {"on": on, "count": count, "length": length}
        self.kernel.send(Channel.CONTROL, self._signer.message(kind, content))

    def types(self, channel: Channel) -> list[str]:
        """Return the types of what was passed on."""
        messages = [wire.parse(frames) for passed, frames in self.said if passed == channel]
        return [message.type for message in messages if message]

    def numbers(self, channel: Channel, kind: str) -> list[int]:
        """Return the numbers of the messages that were passed on."""
        messages = [wire.parse(frames) for passed, frames in self.said if passed == channel]
        return [message.content["number"] for message in messages if message and message.type == kind]

    def dropped(self) -> int:
        """Return how many messages were told to be missing."""
        return sum(event.messages for event in self.events if isinstance(event, OutputDropped))


@contextlib.asynccontextmanager
async def talking(base: pathlib.Path) -> AsyncIterator[Talking]:
    with zmq.Context() as context:
        one = Talking(base, context)
        try:
            await until(lambda: any(isinstance(event, KernelReady) for event in one.events))
            yield one
        finally:
            one.kernel.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that are soon reached."""
    monkeypatch.setattr(kernel_module, "_HELD", HELD)
    monkeypatch.setattr(kernel_module, "_REPLIES", HELD)


@pytest.mark.parametrize(
    ("kind", "times"), [("stream", 1), ("comm_msg", 2), ("status", 3), ("", 1)], ids=["output", "widget", "state", "?"]
)
def test_what_is_published_without_end_while_the_link_is_full_is_bounded_and_counted(
    short: pathlib.Path, kind: str, times: int
) -> None:
    async def publish() -> None:
        async with talking(short) as one:
            one.kernel.hold_output(True)
            one.say(kind, "iopub", count=500)
            await until(lambda: len(one.kernel._held) + one.kernel._dropped == 501)  # with the comm_close
            assert not one.types(Channel.IOPUB)
            one.kernel.hold_output(False)

            numbers = one.numbers(Channel.IOPUB, kind)
            kept = sum(size(frames) for channel, frames in one.said if channel == Channel.IOPUB)
            assert numbers == list(range(len(numbers)))
            assert (times - 0.1) * HELD < kept < (times + 0.1) * HELD
            assert len(numbers) + ("comm_close" in one.types(Channel.IOPUB)) + one.dropped() == 501

    asyncio.run(publish())


@pytest.mark.parametrize("channel", [Channel.SHELL, Channel.STDIN, Channel.CONTROL])
def test_replies_without_end_while_the_link_is_full_stay_with_the_kernel_and_none_is_lost(
    short: pathlib.Path, channel: Channel
) -> None:
    async def reply() -> None:
        async with talking(short) as one:
            one.kernel.hold_output(True)
            one.say("a_reply", channel.name.lower(), count=1000)
            await until(lambda: len(one.said) > 90)
            await asyncio.sleep(0.3)
            await assert_at_rest()
            assert sum(size(frames) for _, frames in one.said) < 1.1 * HELD

            one.say("comm_msg", "iopub", count=3)  # the kernel is reached, and heard
            one.kernel.hold_output(False)
            await until(lambda: one.types(Channel.CONTROL).count("done") == 2)
            await until(lambda: len(one.numbers(channel, "a_reply")) == 1000)
            assert one.numbers(channel, "a_reply") == list(range(1000))
            await until(lambda: one.numbers(Channel.IOPUB, "comm_msg") == [0, 1, 2])
            assert one.dropped() == 0

    asyncio.run(reply())


def test_a_connection_that_breaks_more_than_once_does_not_stop_the_launcher(short: pathlib.Path) -> None:
    """A kernel that is killed may still accept a connection after it has lost one."""

    async def hang_up() -> None:
        async with talking(short) as one:
            one.say("hang_up", "iopub", count=3)
            await until(lambda: "done" in one.types(Channel.CONTROL))

    asyncio.run(hang_up())
