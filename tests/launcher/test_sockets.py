"""A ZeroMQ socket on a loop: nothing is left lying, and waiting takes no CPU."""

import asyncio
import pathlib
from typing import Any

import pytest
import zmq

from farkernel.launcher.sockets import BATCH, LoopSocket
from tests.launcher.ends import assert_at_rest, until


class Line:
    """A socket that is looked at, and one that sends to it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.received: list[bytes] = []
        self.context: zmq.Context[Any] = zmq.Context()
        receiver = self.context.socket(zmq.PULL)
        receiver.bind(f"ipc://{path}")
        self.sender = self.context.socket(zmq.PUSH)
        self.sender.sndhwm = 0
        self.sender.connect(f"ipc://{path}")
        self.socket = LoopSocket(asyncio.get_running_loop(), receiver, self._take)

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.context.destroy(0)

    def _take(self, frames: list[zmq.Frame]) -> None:
        self.received.append(frames[0].bytes)
        if frames[0].bytes == b"bad":
            raise ValueError("a message that nobody understands")


def test_all_arrives_in_order(tmp_path: pathlib.Path) -> None:
    async def receive() -> None:
        with Line(tmp_path / "s") as line:
            bodies = [b"%d" % number for number in range(20 * BATCH)]
            for body in bodies:
                line.sender.send(body)
            await until(lambda: len(line.received) == len(bodies))
            assert line.received == bodies

    asyncio.run(receive())


def test_a_message_that_fails_does_not_hold_up_the_others(tmp_path: pathlib.Path) -> None:
    async def receive() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        with Line(tmp_path / "s") as line:
            line.socket.pause()
            bodies = [b"bad", b"good", b"bad", *[b"good"] * 200]
            for body in bodies:
                line.sender.send(body)
            await asyncio.sleep(0.1)
            line.socket.resume()
            await until(lambda: len(line.received) == len(bodies))

    asyncio.run(receive())


@pytest.mark.parametrize("waiting", [0, 1, 100])
def test_while_it_is_paused_messages_wait_without_taking_cpu(tmp_path: pathlib.Path, waiting: int) -> None:
    async def receive() -> None:
        with Line(tmp_path / "s") as line:
            line.sender.send(b"first")
            await until(lambda: line.received)
            line.socket.pause()
            for _ in range(waiting):
                line.sender.send(b"more")
            await asyncio.sleep(0.1)

            await assert_at_rest()
            assert line.received == [b"first"]

            line.socket.resume()
            line.sender.send(b"last")
            await until(lambda: line.received == [b"first", *[b"more"] * waiting, b"last"])

    asyncio.run(receive())


def test_nothing_comes_after_it_is_closed(tmp_path: pathlib.Path) -> None:
    async def receive() -> None:
        with Line(tmp_path / "s") as line:
            line.socket.pause()
            line.sender.send(b"more")
            await asyncio.sleep(0.1)
            line.socket.resume()
            line.socket.close()
            await asyncio.sleep(0.05)

            assert line.received == []
            assert not line.socket.send([b"x"])
            line.socket.close()

    asyncio.run(receive())
