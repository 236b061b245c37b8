"""Where Slurm's commands run: this host, or a login node that only ssh leads to (`login_node`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from farkernel.launcher.lines import each_line
from farkernel.launcher.node import can_run_in
from farkernel.launcher.reach import try_address, with_port
from farkernel.provisioners import process
from farkernel.provisioners.process import GRACE, Finished

OnLine = Callable[[str], None]


class Program(Protocol):
    """A program that was started, and what it may be told."""

    @property
    def returncode(self) -> int | None:
        """As `subprocess` gives it; None while it runs, and for ever if that cannot be known."""

    def close_input(self) -> None:
        """Let it read the end of its input."""

    def signal(self, number: int) -> None:
        """Send a signal to it and to what it has started."""

    async def wait(self) -> None:
        """Wait until it has ended and all that it has said was handed on, or until nothing more can be known of it."""


class Host(Protocol):
    """A host with Slurm's commands."""

    @property
    def name(self) -> str:
        """What to call it in a sentence."""

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of a program that is started there."""

    @property
    def trouble(self) -> str:
        """Why it cannot be reached just now, and since when, for messages; empty if it can."""

    async def run(self, argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Finished:
        """Run a program to its end; as `process.run`.

        :raises LoginFailed: the host cannot be reached
        """

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        input: bytes,  # noqa: A002 (named as subprocess names it)
        on_stdout: OnLine,
        on_stderr: OnLine,
        orphan_timeout: float,
    ) -> Program:
        """Start a program whose lines are handed on as they come, and which keeps its input open.

        :param cwd: passed over if there is no such directory, or it may not be entered
        :param input: what it reads first
        :param orphan_timeout: seconds without us after which a program that waits ends by itself
        :raises CommandMissing: there is no such program
        :raises CommandRefused: the system does not start it
        :raises LoginFailed: the host cannot be reached
        """

    async def probe(self, address: str, port: int) -> tuple[str, str]:
        """Try a TCP port from there; a `Probe` of `farkernel.launcher.reach`."""

    async def endpoint(self, address: str, port: int) -> str:
        """Return the ZeroMQ endpoint here that leads to a TCP port which that host can connect to."""

    def leave(self, endpoint: str) -> None:
        """Take back what `endpoint` has set up."""


async def end(program: Program, *, grace: float = GRACE) -> None:
    """End a program: SIGTERM, and after `grace` seconds SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        program.signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(program.wait(), grace)
            return


class ThisHost:
    """The host that we run on."""

    name = "this host"
    trouble = ""

    @property
    def environ(self) -> Mapping[str, str]:
        """This process's own."""
        return os.environ

    async def run(self, argv: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Finished:
        """Run a program to its end."""
        return await process.run(argv, env=env, timeout=timeout)

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
        """Start a program that does not outlive us."""
        place = cwd if can_run_in(cwd) else "/"
        child = await process.start(argv, env=env, cwd=place, die_by=process.SRUNS_END)
        assert child.stdin
        child.stdin.write(input)
        return LocalProgram(child, on_stdout, on_stderr)

    async def probe(self, address: str, port: int) -> tuple[str, str]:
        """Try to connect."""
        return await try_address(address, port)

    async def endpoint(self, address: str, port: int) -> str:
        """Return the port itself."""
        return f"tcp://{with_port(address, port)}"

    def leave(self, endpoint: str) -> None:
        """Do nothing: there is nothing in between."""


class LocalProgram:
    """A program that is our child."""

    def __init__(self, child: asyncio.subprocess.Process, on_stdout: OnLine, on_stderr: OnLine) -> None:
        self._child = child
        assert child.stdout
        assert child.stderr
        loop = asyncio.get_running_loop()
        readers = [
            loop.create_task(each_line(child.stdout, on_stdout)),
            loop.create_task(each_line(child.stderr, on_stderr)),
        ]
        self._following = loop.create_task(self._follow(readers))

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._child.returncode

    def tell(self, data: bytes) -> None:
        """Give it more to read."""
        assert self._child.stdin
        if self._child.returncode is None:
            self._child.stdin.write(data)

    def close_input(self) -> None:
        """Close its standard input."""
        assert self._child.stdin
        self._child.stdin.close()

    def signal(self, number: int) -> None:
        """Signal its process group."""
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    async def wait(self) -> None:
        """Wait until it was reaped."""
        await asyncio.shield(self._following)

    async def _follow(self, readers: list[asyncio.Task[None]]) -> None:
        await self._child.wait()
        assert self._child.stdin
        self._child.stdin.close()
        with contextlib.suppress(OSError):  # it has ended without reading all that it was given
            await self._child.stdin.wait_closed()
        with contextlib.suppress(TimeoutError):
            # A grandchild may hold the pipes open.
            await asyncio.wait_for(asyncio.gather(*readers, return_exceptions=True), 1.0)
