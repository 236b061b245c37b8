"""A login node that only ssh leads to: Slurm's commands run there, and the link goes through it.

Nothing of farkernel has to be installed on it, only a Python: what runs there comes on the standard input of a command
that is the same for everybody. So neither arguments nor a shell see anything of a kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import weakref
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farkernel.launcher import protocol
from farkernel.launcher.private import PrivateDirectory
from farkernel.launcher.protocol import (
    MARK,
    Attach,
    CloseInput,
    Failed,
    Gone,
    Keep,
    Kept,
    Missing,
    ProtocolError,
    SignalProgram,
    encode,
)
from farkernel.provisioners.errors import CommandMissing, LoginFailed, LoginLost, PythonMissing
from farkernel.provisioners.front import runtime_directory
from farkernel.provisioners.hosts import OnLine, Program
from farkernel.provisioners.payload import as_code, payload, python_code
from farkernel.provisioners.process import Finished
from farkernel.provisioners.queue import Queue
from farkernel.provisioners.ssh import Channel, Connection, NothingThere, sockets_refused

_START = 60.0
"""Seconds for a Python to start on a login node that is busy."""

_HEARTBEAT = 10.0
"""Seconds between two words to a keeper."""

_AGAIN = 0.5
"""Seconds until a keeper is looked for again whose connection has broken."""

_IDLE = 60.0
"""Seconds between two looks at whether the connection is needed."""

_NOT_FOUND = 127
"""The exit code for a command that there is not: a shell's, and that of `_RUN`."""

_LOOK = """
import json, os, socket, sys
def real(path):
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        return "" if error.errno == 40 else os.path.realpath(path)
if sys.version_info < (3, 11):
    sys.exit("Python %d.%d" % sys.version_info[:2])
paths = {paths!r}
print({mark!r} + json.dumps([dict(os.environ), socket.gethostname(), {{path: real(path) for path in paths}}]))
"""
"""Says what has to be known of the host: variables, name, and where paths lead (nowhere for a circle of links)."""

_RUN = """
import os, sys
try:
    os.execvpe({argv!r}[0], {argv!r}, {env!r})
except FileNotFoundError:
    sys.exit(127)
"""


@dataclass(frozen=True)
class Seen:
    """What has to be known of a login node before a job is submitted there.

    :param host: its own name
    :param paths: where paths lead when links are followed; empty for a circle of links
    """

    environ: Mapping[str, str]
    host: str
    paths: Mapping[str, str]


class LoginNode:
    """A `Host` at the other end of an ssh connection, which is closed when nothing has needed it for a while.

    :param login: user and host, as for ssh(1)
    """

    def __init__(self, login: str) -> None:
        self.queue = Queue(self)
        self._connection = Connection(login)
        self._python = ""
        self._programs: weakref.WeakSet[KeptProgram] = weakref.WeakSet()
        self._closing: asyncio.Task[None] | None = None
        self._looked = 0.0
        self._seen = Seen({}, "", {})
        self._forwards: dict[str, tuple[asyncio.Server, PrivateDirectory]] = {}
        self._carrying: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """The host's name, for messages."""
        return self._connection.host

    @property
    def environ(self) -> Mapping[str, str]:
        """As a command of ssh finds it there."""
        return self._seen.environ

    @property
    def trouble(self) -> str:
        """Since when the connection is lost."""
        return self._connection.trouble

    async def look(self, python: str, paths: Sequence[str]) -> Seen:
        """Connect, if need be, and look at the host; what was seen before does while the connection is lost.

        :param python: the Python that runs there from now on
        :param paths: what to follow there
        :raises LoginFailed: there is no connection
        :raises PythonMissing: there is no Python, or one that is too old
        """
        self._python = python
        self._looked = asyncio.get_running_loop().time()
        await self._connection.open()
        if self.trouble and self._seen.host and self._seen.paths.keys() >= set(paths):
            return self._seen  # a start in a job that is there needs no more
        with contextlib.suppress(NothingThere):
            (await self._connection.connect_tcp("127.0.0.1", 1)).close()  # whether any are let through at all
        if self._closing is None or self._closing.done():
            self._closing = asyncio.get_running_loop().create_task(self._close_when_idle())
        try:
            done = await self._run_code(_LOOK.format(paths=list(paths), mark=MARK), timeout=_START)
        except TimeoutError as error:
            raise LoginFailed(f"{error}.", hint="Try again.") from error
        answer = _marked(done.stdout)
        if done.returncode or answer is None:
            raise PythonMissing(
                f"The Python {self._python} cannot be used on {self.name}.",
                said=done.stderr,  # not what it printed: that is all of the user's variables
                hint="Name a Python 3.11 or later that is there, and on the compute nodes with pyzmq, in "
                "launcher.python of the kernelspec.",
            )
        self._seen = Seen(*json.loads(answer))
        return self._seen

    async def close(self) -> None:
        """Close the connection; `look` makes it again."""
        if self._closing:
            self._closing.cancel()
        await self._connection.close()

    async def _close_when_idle(self) -> None:
        while True:
            await asyncio.sleep(_IDLE)
            busy = bool(self._forwards) or self.queue.busy or any(program.going_on for program in self._programs)
            if not busy and asyncio.get_running_loop().time() - self._looked > _IDLE:
                break
        await self._connection.close()

    # ---- programs ----

    async def run(self, argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Finished:
        """Run a program to its end; the arguments are those of `Host.run`."""
        try:
            done = await self._run_code(_RUN.format(argv=list(argv), env=dict(env)), timeout=timeout, name=argv[0])
        except LoginLost as error:
            raise TimeoutError(str(error)) from error  # nothing is known, as when Slurm does not answer
        if done.returncode == _NOT_FOUND:
            raise self._missing(argv[0])
        return done

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        input: bytes,  # noqa: A002
        on_stdout: OnLine,
        on_stderr: OnLine,
        orphan_timeout: float,
    ) -> Program:
        """Have a keeper start a program; the arguments are those of `Host.start`."""
        order = Keep(list(argv), dict(env), cwd, len(input), orphan_timeout)
        command = shlex.join(payload().keeper(self._python))
        data = payload().on_keepers_stdin() + encode(order) + b"\n" + input
        try:
            done = await self._connection.run(command, input=data, timeout=_START)
        except TimeoutError:
            raise LoginFailed(f"{self.name} did not start {argv[0]} within {_START:g} s.", hint="Try again.") from None
        kept = self._kept(done, argv[0])
        heartbeat = min(_HEARTBEAT, orphan_timeout / 4)
        program = KeptProgram(self._connection, kept, on_stdout, on_stderr, heartbeat=heartbeat)
        self._programs.add(program)
        await program.attached()
        return program

    def _kept(self, done: Finished, program: str) -> Kept:
        try:
            answer = protocol.decode_kept(_marked(done.stdout) or "")
        except ProtocolError:
            answer = Failed(done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")
        if isinstance(answer, Kept):
            return answer
        if isinstance(answer, Missing):
            raise self._missing(program)
        raise LoginFailed(
            f"{program} cannot be started on {self.name}.",
            said=answer.reason,
            hint=f"See that `ssh {self._connection.login} {self._python} --version` works, and that the "
            "directory /tmp there is not full.",
        )

    def _missing(self, program: str) -> CommandMissing:
        return CommandMissing(
            f"The program {program} cannot be run on {self.name}.",
            said=f"PATH is {self.environ.get('PATH', '')}",
            hint=f"See that `ssh {self._connection.login} {program} --version` works: commands of ssh may have another "
            "PATH than a login there.",
        )

    async def _run_code(self, source: str, *, timeout: float, name: str = "") -> Finished:
        command = shlex.join(python_code(self._python))
        try:
            return await self._connection.run(command, input=as_code(source), timeout=timeout)
        except TimeoutError:
            what = name or self._python
            raise TimeoutError(f"{what} did not end within {timeout:g} s on {self.name}") from None

    # ---- the link's way ----

    async def probe(self, address: str, port: int) -> tuple[str, str]:
        """Try to connect from there."""
        try:
            channel = await self._connection.connect_tcp(address, port)
        except NothingThere as error:
            return "", str(error)
        channel.close()
        return address, ""

    async def endpoint(self, address: str, port: int) -> str:
        """Listen at a unix socket that nobody else can connect to, and carry what comes to the port."""
        directory = await asyncio.to_thread(PrivateDirectory, runtime_directory(), "link")
        path = str(directory.path / "link")

        def begin(reader: StreamReader, writer: StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._carry(reader, writer, address, port))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

        endpoint = f"ipc://{path}"
        self._forwards[endpoint] = (await asyncio.start_unix_server(begin, path), directory)
        return endpoint

    def leave(self, endpoint: str) -> None:
        """Listen there no more."""
        if endpoint in self._forwards:
            server, directory = self._forwards.pop(endpoint)
            server.close()
            directory.remove()

    async def _carry(self, reader: StreamReader, writer: StreamWriter, address: str, port: int) -> None:
        far: Channel | None = None
        try:
            far = await self._connection.connect_tcp(address, port)
            ways = [asyncio.ensure_future(way) for way in (_pump(reader, far), _pump(far, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
        except (NothingThere, LoginFailed):
            pass  # ZeroMQ tries again by itself
        finally:
            writer.close()
            if far:
                far.close()


async def _pump(reader: StreamReader | Channel, writer: StreamWriter | Channel) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def _marked(text: str) -> str | None:
    """Return what was said after our mark; what the user's shell prints at its start stands before it."""
    return next((line.partition(MARK)[2] for line in text.splitlines() if MARK in line), None)


class KeptProgram:
    """A program that a keeper on a login node holds; goes on when the connection is lost.

    :param heartbeat: seconds between two words to the keeper
    """

    def __init__(
        self, connection: Connection, kept: Kept, on_stdout: OnLine, on_stderr: OnLine, *, heartbeat: float
    ) -> None:
        self.returncode: int | None = None
        self._connection = connection
        self._path = kept.path
        self._take = (on_stdout, on_stderr)
        self._heartbeat = heartbeat
        self._known = 0
        self._instructions: list[bytes] = []
        self._news = asyncio.Event()
        self._attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._following = asyncio.get_running_loop().create_task(self._follow())

    @property
    def going_on(self) -> bool:
        """Whether more may come from it."""
        return not self._following.done()

    async def attached(self) -> None:
        """Wait for the first connection.

        :raises LoginFailed: there can be none
        """
        await asyncio.wait({self._attached, self._following}, return_when=asyncio.FIRST_COMPLETED)
        if not self._attached.done():
            await self._following
            raise sockets_refused(self._connection.host, self._path)

    def close_input(self) -> None:
        """Tell the keeper, now or when there is a connection again."""
        self._instruct(CloseInput())

    def signal(self, number: int) -> None:
        """Tell the keeper, now or when there is a connection again."""
        self._instruct(SignalProgram(number))

    def _instruct(self, instruction: CloseInput | SignalProgram) -> None:
        self._instructions.append(encode(instruction) + b"\n")
        self._news.set()

    async def wait(self) -> None:
        """Wait until it has ended, or its keeper cannot be found any more."""
        await asyncio.shield(self._following)

    async def _follow(self) -> None:
        while True:
            try:
                channel = await self._connection.connect_unix(self._path)
            except NothingThere:
                return  # it was ended with its host, or we are on another one now
            except LoginLost:
                continue  # it has waited
            if not self._attached.done():
                self._attached.set_result(None)
            speaking = asyncio.get_running_loop().create_task(self._speak(channel))
            try:
                while line := await channel.readline():
                    self._hear(line)
            except (OSError, ProtocolError):
                pass  # the line was cut short with the connection: it is told again
            finally:
                speaking.cancel()
                channel.close()
            if self.returncode is not None:
                return
            await asyncio.sleep(_AGAIN)

    async def _speak(self, channel: Channel) -> None:
        told = 0  # what a connection that broke has taken may not have arrived
        while True:
            channel.write(encode(Attach(self._known)) + b"\n")
            for instruction in self._instructions[told:]:
                channel.write(instruction)
            told = len(self._instructions)
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._heartbeat)

    def _hear(self, line: bytes) -> None:
        news = protocol.decode_news(line)
        if isinstance(news, Gone):
            self.returncode = news.returncode
        elif news.number > self._known:
            self._known = news.number
            self._take[news.error](news.line)
