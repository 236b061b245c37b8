"""Both ends of a link in one loop, and what passes between them."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import zmq

from farkernel.launcher.endpoints import LinkClient, LinkServer
from farkernel.launcher.link import Link
from farkernel.launcher.protocol import Channel
from tests.patience import PATIENCE


class End:
    """What one end has sent and received."""

    link: Link
    hold_back: Callable[[bool], None]

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.full: list[bool] = []

    def send(self, body: bytes) -> None:
        self.sent.append(body)
        self.link.send(Channel.IOPUB, 1, 1, [b"", body])

    def take(self, _channel: Channel, _kernel: int, _generation: int, frames: list[Any]) -> None:
        self.received.append(bytes(frames[1]))


class Ends:
    """A server, and any number of clients; use it by `with`, inside a loop.

    :param connect: which side is connected to: the launcher on its "node", or the "login" side
    :param client_key: whom the server lets in; its clients if not given
    """

    def __init__(self, connect: str = "node", *, client_key: str | None = None) -> None:
        self.keys = zmq.curve_keypair()
        self.listens = End()
        self._client_is_login = connect == "node"
        self._loop = asyncio.get_running_loop()
        self._stack = contextlib.ExitStack()
        self.server = LinkServer(
            self._loop,
            self._context(),
            client_key=self.keys[0].decode() if client_key is None else client_key,
            addresses=["127.0.0.1"],
            ports=range(0),
            deliver=self.listens.take,
            on_full=self.listens.full.append,
            login=not self._client_is_login,
        )
        self._stack.callback(self.server.close)
        self.listens.link, self.listens.hold_back = self.server.link, self.server.hold_back

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def client(
        self, endpoint: str = "", *, keys: tuple[bytes, bytes] | None = None, server_key: str | None = None
    ) -> End:
        """Make a client, with the right keys or with others."""
        end = End()
        client = LinkClient(
            self._loop,
            self._context(),
            endpoint=endpoint or f"tcp://127.0.0.1:{self.server.port}",
            server_key=server_key or self.server.public_key,
            keys=keys or self.keys,
            deliver=end.take,
            on_full=end.full.append,
            login=self._client_is_login,
        )
        self._stack.callback(client.close)
        end.link, end.hold_back = client.link, client.hold_back
        return end

    def pair(self, endpoint: str = "") -> tuple[End, End]:
        """Make a client; return the login side and the launcher."""
        end = self.client(endpoint)
        return (end, self.listens) if self._client_is_login else (self.listens, end)

    def _context(self) -> zmq.Context[Any]:
        context: zmq.Context[Any] = zmq.Context()
        self._stack.callback(context.term)
        return context


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something; fail if it does not come."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def assert_at_rest(cpu: Callable[[], float] = time.process_time) -> None:
    """Assert that a process, all its threads, soon takes nearly no CPU; a loop that spins is never at rest.

    :param cpu: what it has taken, in seconds; this process by default
    """
    for _ in range(50):
        before, seconds = cpu(), 0.6
        await asyncio.sleep(seconds)
        used = cpu() - before
        if used < seconds / 4:
            return
    raise AssertionError(f"{used:.2f} s of CPU")
