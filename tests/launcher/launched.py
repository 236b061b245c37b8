"""A launcher as a process, started as the login side starts it, and a link to it."""

import asyncio
import os
import pathlib
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any, TypeVar

import zmq

from farkernel.launcher import protocol, wire
from farkernel.launcher.endpoints import LinkClient
from farkernel.launcher.protocol import Channel, Event, Failed, Order, Setup, Started, StartKernel
from farkernel.provisioners.payload import payload
from tests.launcher.ends import until
from tests.patience import PATIENCE

KEY = "a-key-that-nobody-may-read"
E = TypeVar("E", bound=Event)


def ipykernel(kernel: int = 1, generation: int = 1) -> StartKernel:
    return command(
        sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", kernel=kernel, generation=generation
    )


def command(*argv: str, kernel: int = 1, generation: int = 1) -> StartKernel:
    return StartKernel(
        kernel=kernel,
        generation=generation,
        argv=list(argv),
        env={"OF_THE_KERNELSPEC": "yes"},
        cwd=["/"],
        transport="ipc",
        key=KEY,
        signature_scheme="hmac-sha256",
        kernel_name="name",
        files={},
        cleanup=[],
    )


class Launched:
    """A launcher; use it by `async with`."""

    def __init__(
        self,
        directory: pathlib.Path,
        order: StartKernel | None = None,
        *,
        argv: list[str] | None = None,
        data: bytes | None = None,
        env: dict[str, str] | None = None,
        orphan_timeout: float = 60.0,
        interface: str = "",
        addresses: list[str] | None = None,
        port: int = 0,
    ) -> None:
        self.events: list[Event] = []
        self.messages: list[tuple[Channel, int, int, list[bytes]]] = []
        self.process: Process
        self._keys = zmq.curve_keypair()
        self._argv = argv or payload().command(sys.executable)
        self._env = env or {}
        key, place = self._keys[0].decode(), str(directory)
        setup = Setup(key, interface, [], addresses or [], port, 10.0, place, orphan_timeout)
        first = protocol.encode(order) if order else b""
        self._data = (payload().on_stdin() if data is None else data) + protocol.encode(setup) + b"\n" + first + b"\n"
        self._context: zmq.Context[Any] = zmq.Context()
        self._client: LinkClient | None = None
        self._signer = wire.Signer(KEY.encode(), "hmac-sha256")

    async def __aenter__(self) -> "Launched":
        self.process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **self._env}, start_new_session=True
        )
        assert self.process.stdin
        self.process.stdin.write(self._data)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client:
            self._client.close()
        self._context.destroy(0)
        if self.process.returncode is None:
            await self.end_input()
            await self.process.wait()

    async def answer(self) -> Started | Failed:
        """Return what it says on its standard output."""
        assert self.process.stdout
        line = (await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)).decode()
        assert line.startswith(protocol.MARK), line
        return protocol.decode_answer(line.removeprefix(protocol.MARK))

    async def connect(self) -> Started:
        """Wait for it, and make the link."""
        started = await self.answer()
        assert isinstance(started, Started), started
        self._client = LinkClient(
            asyncio.get_running_loop(),
            self._context,
            endpoint=f"tcp://127.0.0.1:{started.port}",
            server_key=started.launcher_key,
            keys=self._keys,
            deliver=self._deliver,
            on_full=lambda full: None,
        )
        return started

    def hold_back(self, hold: bool) -> None:
        """Read nothing of what the launcher sends, or go on."""
        assert self._client
        self._client.hold_back(hold)

    async def end_input(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    async def ended(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it has written to stderr."""
        assert self.process.stderr
        text = await asyncio.wait_for(self.process.stderr.read(), PATIENCE)
        return await asyncio.wait_for(self.process.wait(), PATIENCE), text.decode()

    # ---- orders and events ----

    def order(self, order: Order) -> None:
        assert self._client
        self._client.link.send(Channel.ORDER, 0, 0, [protocol.encode(order)])

    async def event(self, kind: type[E], kernel: int = 1, generation: int = 1) -> E:
        """Wait for an event."""

        def found() -> list[E]:
            return [
                event
                for event in self.events
                if isinstance(event, kind) and (event.kernel, event.generation) == (kernel, generation)
            ]

        await until(found)
        return found()[0]

    # ---- messages ----

    def request(
        self,
        msg_type: str,
        content: dict[str, Any],
        *,
        kernel: int = 1,
        generation: int = 1,
        channel: Channel = Channel.SHELL,
        subshell: str = "",
    ) -> str:
        """Send a request; return its id."""
        assert self._client
        header = self._signer.header(msg_type) | ({"subshell_id": subshell} if subshell else {})
        frames = self._signer.frames(header, content, identities=[b"a-client"])
        self._client.link.send(channel, kernel, generation, frames)
        return str(header["msg_id"])

    def execute(self, code: str, kernel: int = 1, generation: int = 1) -> str:
        """Run some code; return the request's id."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        return self.request("execute_request", content, kernel=kernel, generation=generation)

    def answers(self, request: str, msg_type: str) -> list[wire.Message]:
        parsed = [wire.parse(frames) for *_, frames in self.messages]
        return [message for message in parsed if message and (message.parent_id, message.type) == (request, msg_type)]

    async def reply(self, request: str, msg_type: str = "execute_reply") -> wire.Message:
        """Wait for the answer to a request."""
        await until(lambda: self.answers(request, msg_type))
        return self.answers(request, msg_type)[0]

    async def printed(self, code: str, kernel: int = 1, generation: int = 1) -> str:
        """Run some code, and return what it prints."""
        request = self.execute(code, kernel, generation)
        reply = await self.reply(request)
        assert reply.content["status"] == "ok", reply.content
        await until(lambda: any(m.content["execution_state"] == "idle" for m in self.answers(request, "status")))
        return "".join(message.content["text"] for message in self.answers(request, "stream"))

    def _deliver(self, channel: Channel, kernel: int, generation: int, frames: list[Any]) -> None:
        if channel == Channel.EVENT:
            self.events.append(protocol.decode_event(bytes(frames[0])))
        else:
            self.messages.append((channel, kernel, generation, [bytes(frame) for frame in frames]))
