"""Kernels on the cluster as their users see them: clients that keep all they get, and looks at Slurm."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from queue import Empty
from typing import Any, Protocol, Self, TypeVar

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import Session
from jupyter_core.paths import jupyter_runtime_dir
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from farkernel.provisioners.errors import FarkernelError
from tests.servers import shut_down

Message = dict[str, Any]
T = TypeVar("T")

PATIENCE = 120.0
"""Seconds after which a wait is a failure; says nothing of how long anything takes."""

_ROUND = 1.0
"""Seconds until a client asks anew whether there is a message."""


class Specs(Protocol):
    """Installs a kernelspec and gives its name; the fixture `specs`."""

    def __call__(
        self,
        template: str = "cori-knl",
        *,
        name: str | None = None,
        argv: list[str] | None = None,
        env: dict[str, str] | None = None,
        interrupt_mode: str | None = None,
        **config: dict[str, Any],
    ) -> str:
        """`config` is merged into the template's, part by part."""
        ...


class Cell:
    """One execution, as a client sees it."""

    def __init__(self, client: "Client") -> None:
        self.messages: list[Message] = []
        self.reply: Message | None = None
        self._client = client
        self._idle = False

    def take(self, message: Message) -> None:
        """Take what was published for it."""
        self.messages.append(message)
        self._idle |= message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"

    @property
    def kinds(self) -> list[str]:
        """The types of what was published for it, in order; without busy and input."""
        return [message["msg_type"] for message in self.messages if message["msg_type"] != "execute_input"]

    @property
    def told(self) -> str:
        """What a front-end shows of its errors."""
        lines = [line for content in self.contents("error") for line in content["traceback"]]
        return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(lines))

    @property
    def stdout(self) -> str:
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        return self._stream("stderr")

    @property
    def result(self) -> str:
        """What Out[] shows."""
        return "".join(content["data"]["text/plain"] for content in self.contents("execute_result"))

    @property
    def errors(self) -> list[str]:
        """What was published as an error: name and text."""
        return [f"{content['ename']}: {content['evalue']}" for content in self.contents("error")]

    @property
    def status(self) -> str:
        """The reply's: ok, error or aborted."""
        assert self.reply
        return str(self.reply["content"]["status"])

    def contents(self, *kinds: str) -> list[Message]:
        return [message["content"] for message in self.messages if message["msg_type"] in kinds]

    def texts(self, kind: str) -> list[str]:
        """What the display messages of a kind show."""
        return [content["data"]["text/plain"] for content in self.contents(kind)]

    @property
    def shown(self) -> list[str]:
        """What its displays have shown, one after the other."""
        return self.texts("display_data") + self.texts("update_display_data")

    async def done(self) -> Self:
        """Wait until a front-end would show it as done: it has its reply, and the kernel is idle."""
        await self._client.until(lambda: self.reply is not None and self._idle)
        return self

    async def has(self, kind: str, count: int = 1) -> Self:
        """Wait until so many messages of a type were published for it."""
        await self._client.until(lambda: len(self.contents(kind)) >= count)
        return self

    async def prints(self, text: str) -> Self:
        await self._client.until(lambda: text in self.stdout)
        return self

    def _stream(self, name: str) -> str:
        return "".join(content["text"] for content in self.contents("stream") if content["name"] == name)


class Client:
    """A front-end: reads every channel all the time, and answers `input` from `answers`."""

    def __init__(self, manager: Any) -> None:
        self.answers: list[str] = []
        self.published: list[Message] = []
        self._manager = manager
        # every front-end has a session of its own
        session = Session(key=manager.session.key, signature_scheme=manager.session.signature_scheme)
        self._client: AsyncKernelClient = manager.client(session=session)
        self._cells: dict[str, Cell] = {}
        self._replies: dict[str, Message] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._client.start_channels(hb=False)
        client = self._client
        for channel, take in (
            (client.iopub_channel, self._on_iopub),
            (client.shell_channel, self._on_reply),
            (client.control_channel, self._on_reply),
            (client.stdin_channel, self._on_stdin),
        ):
            self._tasks.append(asyncio.create_task(self._pump(channel, take)))
        await self._nudge()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._client.stop_channels()

    def send(self, code: str, *, subshell: str | None = None) -> Cell:
        """Run a cell without waiting for it."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": True,
            "stop_on_error": True,
        }
        message = self._client.session.msg("execute_request", content)
        message["header"]["subshell_id"] = subshell
        cell = self._cells[message["header"]["msg_id"]] = Cell(self)
        self._client.shell_channel.send(message)
        return cell

    async def run(self, code: str, *, subshell: str | None = None) -> Cell:
        """Run a cell to its end."""
        return await self.send(code, subshell=subshell).done()

    async def run_anew(self, code: str) -> Cell:
        """Run a cell after an error, or after the kernel has died: again if it came too soon, and was aborted."""
        while (cell := await self.run(code)).status == "aborted":
            pass
        return cell

    async def request(self, msg_type: str, content: Message, *, control: bool = False) -> Message:
        """Send any request, and return its reply's content."""
        message = self._client.session.msg(msg_type, content)
        (self._client.control_channel if control else self._client.shell_channel).send(message)
        await self.until(lambda: message["header"]["msg_id"] in self._replies)
        return self._replies[message["header"]["msg_id"]]["content"]  # type: ignore[no-any-return]

    def tell(self, msg_type: str, content: Message) -> None:
        """Send something on shell that has no reply."""
        self._client.shell_channel.send(self._client.session.msg(msg_type, content))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so; looked at whenever a message has come."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def _pump(self, channel: Any, take: Callable[[Message], None]) -> None:
        while True:
            # jupyter_client sends past pyzmq's event loop: what arrives at that moment wakes nobody who waits already
            # (zmq_getsockopt(3), ZMQ_FD), and nothing after it does. Who asks anew finds it.
            with contextlib.suppress(Empty):
                take(await channel.get_msg(timeout=_ROUND))
                self._news.set()

    def _on_iopub(self, message: Message) -> None:
        self.published.append(message)
        if cell := self._cells.get(message["parent_header"].get("msg_id", "")):
            cell.take(message)

    def _on_reply(self, message: Message) -> None:
        parent = message["parent_header"]["msg_id"]
        self._replies[parent] = message
        if cell := self._cells.get(parent):
            assert cell.reply is None, "a second reply"
            cell.reply = message

    def _on_stdin(self, message: Message) -> None:
        self._client.input(self.answers.pop(0))

    async def _nudge(self) -> None:
        """Provoke output until some is heard, as a server does: what comes before a subscription is lost."""
        shell = self._manager.connect_shell()
        try:
            while not self.published:
                self._client.session.send(shell, "kernel_info_request", {})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self.until(lambda: self.published)
        finally:
            shell.close(linger=0)


@contextlib.asynccontextmanager
async def kernel(name: str, **options: Any) -> AsyncIterator[tuple[AsyncKernelManager, Client]]:
    """A kernel outside a server, with a client."""
    manager = AsyncKernelManager(kernel_name=name)
    await manager.start_kernel(**options)
    try:
        async with Client(manager) as client:
            yield manager, client
    finally:
        await manager.shutdown_kernel()


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[AsyncMappingKernelManager]:
    """What a notebook server starts its kernels with."""
    directory = jupyter_runtime_dir()
    await asyncio.to_thread(os.makedirs, directory, exist_ok=True)
    manager = AsyncMappingKernelManager(root_dir="/", connection_dir=directory)  # type: ignore[no-untyped-call]
    try:
        yield manager
    finally:
        await shut_down(manager)
        # left to the garbage collector it would wait, without end, for messages to kernels that are gone
        manager.context.destroy(linger=0)


KEEPS_ALL = """
def _keep_all():
    import zmq
    thread = get_ipython().kernel.iopub_thread
    thread.schedule(lambda: thread.socket.set(zmq.SNDHWM, 0))
_keep_all()
"""
"""Code that has ipykernel drop nothing: its own queue holds a thousand messages, and a launcher may stand still."""


def flood(seconds: int, rate: int) -> str:
    """Return code that prints so many numbers a second, and keeps them all until they are read."""
    return f"""{KEEPS_ALL}
import time
for number in range({seconds} * {rate}):
    print(number, flush=True)
    if number % 20 == 19:
        time.sleep(16 / {rate})
"""


SLEEPS = "print('sleeps', flush=True); import time; time.sleep(600)"


@contextlib.asynccontextmanager
async def busy(name: str) -> AsyncIterator[tuple[AsyncMappingKernelManager, str, Client, Cell]]:
    """A server with a kernel in which a cell runs."""
    async with server() as manager:
        kernel_id = await manager.start_kernel(kernel_name=name)
        async with Client(manager.get_kernel(kernel_id)) as client:
            cell = await client.send(SLEEPS).prints("sleeps")
            yield manager, kernel_id, client, cell


async def gone(manager: AsyncMappingKernelManager, kernel_id: str) -> None:
    """Wait until the server has dropped the kernel; a new job must not follow."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while kernel_id in manager:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
    await eventually(lambda: not jobs())


async def failure(name: str) -> FarkernelError:
    """Start a kernel that cannot be started, as nbconvert and others would."""
    manager = AsyncKernelManager(kernel_name=name)
    with pytest.raises(FarkernelError) as caught:
        await manager.start_kernel()
    assert not await manager.is_alive()
    await eventually(lambda: not jobs())
    return caught.value


SERVER = """
import asyncio, sys
from jupyter_client.manager import AsyncKernelManager
async def main():
    manager = AsyncKernelManager(kernel_name=sys.argv[1])
    await manager.start_kernel()
    print("up", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
"""A server with one kernel, as a program; says "up"."""


def start_server(name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    return process


def sruns() -> list[int]:
    """The ids of this user's processes of srun."""
    done = subprocess.run(["pgrep", "-u", str(os.getuid()), "-x", "srun"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]


def slurm(*argv: str) -> str:
    """Run one of Slurm's commands as this user, and return what it prints."""
    return subprocess.run(argv, capture_output=True, check=True, text=True, timeout=PATIENCE).stdout.strip()


def jobs(states: str = "PENDING,CONFIGURING,RUNNING") -> list[str]:
    """The ids of this user's jobs."""
    return slurm("squeue", "--me", "--noheader", f"--states={states}", "--format=%i").split()


def all_jobs() -> set[str]:
    """The ids of this user's jobs, those that have ended too, until Slurm forgets them after some minutes."""
    return set(jobs("all"))


async def eventually(condition: Callable[[], T]) -> T:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (value := await asyncio.to_thread(condition)):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.1)
    return value
