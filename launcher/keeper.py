"""Holds srun on a login node for a login side that has only ssh to it, and may lose that for a while.

srun in a command of ssh would read the end of its input when the connection breaks, and its launcher would leave. The
keeper is no child of the connection: it goes on, listens at a unix socket in a 0700 directory of its own, and tells
whoever attaches what srun has said since. It ends with srun. An srun whose launcher is not up yet is ended when nobody
has been there for the orphan timeout; afterwards the launcher itself listens for its login side, on the link.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import socket
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections import deque
from typing import BinaryIO

from farkernel.launcher import protocol
from farkernel.launcher.lines import each_line
from farkernel.launcher.main import say
from farkernel.launcher.node import can_run_in
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
    Said,
    SignalProgram,
    decode,
    encode,
)

_BASE = "/tmp"  # noqa: S108 (never below /run/user: that goes with the user's last connection)

_LINES = 500
"""Lines that are kept for whoever attaches."""

_LEAVE = 8.0
"""Seconds that a program has to end once it has read the end of its input, and after SIGTERM."""

_FIRST = 15.0
"""Seconds until the first word of whoever has started it."""

_LOOK = 1.0
"""Seconds between two looks at whether anybody is there."""


def main(stdin: BinaryIO) -> int:
    """Start the program that the standard input names, and stay with it in the background; return the exit code."""
    try:
        order = decode(stdin.readline(), Keep)
        data = stdin.read(order.size)
        if len(data) != order.size:
            return 1  # the connection is gone already
        if os.fork():
            os._exit(0)
        os.setsid()
        base = PrivateDirectory(pathlib.Path(_BASE), "s")
    except (ProtocolError, OSError) as error:
        say(Failed(f"cannot begin: {error}"))
        return 1
    try:
        asyncio.run(Keeper(order, base.path / "s").run(data))
    finally:
        base.remove()
    return 0


class Keeper:
    """One program, and those who are attached.

    :param path: the socket to listen at
    """

    def __init__(self, order: Keep, path: pathlib.Path) -> None:
        self._order = order
        self._path = path
        self._news: deque[Said] = deque(maxlen=_LINES)
        self._number = 0
        self._up = False
        self._gone: Gone | None = None
        self._told = False
        self._clients: dict[StreamWriter, int] = {}
        self._heard = 0.0
        self._spoken_to = False
        self._changed = asyncio.Event()
        self._program: Process

    async def run(self, data: bytes) -> None:
        """Start the program, and return when it has ended and somebody knows."""
        try:
            self._program = await self._start()
        except FileNotFoundError:
            say(Missing(self._order.argv[0]))
            return
        except (OSError, ValueError) as error:
            say(Failed(f"cannot run {self._order.argv[0]}: {error}"))
            return
        assert self._program.stdin
        self._program.stdin.write(data)
        ending = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            loop.add_signal_handler(signum, ending.set)
        server = await asyncio.start_unix_server(self._serve, self._path)
        say(Kept(str(self._path), socket.gethostname()))
        _leave_connection()
        watch = loop.create_task(self._watch(ending))
        await self._follow(self._program)
        await watch
        server.close()
        if leaving := [asyncio.ensure_future(_close(writer)) for writer in self._clients]:
            await asyncio.wait(leaving, timeout=_LEAVE)

    async def _start(self) -> Process:
        order = self._order
        program = shutil.which(order.argv[0], path=order.env.get("PATH"))
        if program is None:
            raise FileNotFoundError(order.argv[0])
        # prctl(2), PR_SET_PDEATHSIG: an srun that waits does not notice that its input has ended. See the login side's
        # own way to start programs.
        setpriv = shutil.which("setpriv")
        wrapper = [setpriv, "--pdeathsig", "USR2", "--"] if setpriv else []
        cwd = order.cwd if can_run_in(order.cwd) else "/"
        return await asyncio.create_subprocess_exec(
            *wrapper, *order.argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=order.env, cwd=cwd, start_new_session=True
        )

    # ---- the program ----

    async def _follow(self, program: Process) -> None:
        """Take what it says until it has ended."""
        assert program.stdout
        assert program.stderr
        streams = (program.stdout, self._on_stdout), (program.stderr, self._on_stderr)
        readers = [asyncio.ensure_future(each_line(stream, on_line)) for stream, on_line in streams]
        returncode = await program.wait()
        await asyncio.wait(readers, timeout=1.0)  # a grandchild may hold the pipes open
        for reader in readers:
            reader.cancel()
        self._gone = Gone(returncode)
        self._changed.set()

    def _on_stdout(self, line: str) -> None:
        self._up |= line.startswith(MARK)
        self._say(line, error=False)

    def _on_stderr(self, line: str) -> None:
        self._say(line, error=True)

    def _say(self, line: str, *, error: bool) -> None:
        self._number += 1
        self._news.append(Said(self._number, error, line))
        self._changed.set()

    # ---- who is there ----

    async def _watch(self, ending: asyncio.Event) -> None:
        """Tell the news; end a program that nobody wants any more; return when all is over."""
        loop = asyncio.get_running_loop()
        self._heard = loop.time()
        while not (self._gone and self._told):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _LOOK)
            self._changed.clear()
            self._tell()
            # that a connection is there says little: sshd may not know for hours that nobody is at its other end
            limit = self._order.orphan_timeout if self._spoken_to else min(self._order.orphan_timeout, _FIRST)
            alone = loop.time() - self._heard > limit
            if self._gone and (alone or ending.is_set()):
                return
            if ending.is_set() or (alone and not self._up):
                await self._end()

    def _tell(self) -> None:
        for writer, known in list(self._clients.items()):
            for said in self._news:
                if said.number > known:
                    self._clients[writer] = said.number
                    writer.write(encode(said) + b"\n")
            if self._gone:
                writer.write(encode(self._gone) + b"\n")
                self._told = True

    async def _end(self) -> None:
        self._close_input()
        for signum in (0, signal.SIGTERM, signal.SIGKILL):
            self._signal(signum)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._program.wait(), _LEAVE)
                return

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self._heard, self._spoken_to = asyncio.get_running_loop().time(), True
                self._obey(protocol.decode_instruction(line), writer)
        except (ProtocolError, ValueError, OSError):
            pass  # it is none of ours, or its connection is gone
        finally:
            self._clients.pop(writer, None)
            self._changed.set()
            writer.close()

    def _obey(self, instruction: Attach | CloseInput | SignalProgram, writer: StreamWriter) -> None:
        if isinstance(instruction, Attach):
            self._clients.setdefault(writer, instruction.after)
            self._changed.set()
        elif isinstance(instruction, CloseInput):
            self._close_input()
        else:
            self._signal(instruction.signum)

    def _close_input(self) -> None:
        assert self._program.stdin
        self._program.stdin.close()

    def _signal(self, signum: int) -> None:
        if self._program.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._program.pid, signum)


async def _close(writer: StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()


def _leave_connection() -> None:
    """Hold none of the streams of the ssh connection, so that its command is over."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
