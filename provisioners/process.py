"""The one module that starts programs on the login node."""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farkernel.provisioners.errors import CommandMissing, CommandRefused

SRUNS_END = "USR2"
"""`die_by` for srun.

A waiting srun does not notice that its pipes are closed: the job of a server that was killed would stay in the queue.
At SIGUSR2 it withdraws the job; a running srun passes it to the launcher and prints nothing. (SIGTERM makes it kill
the launcher at once, and so does SIGINT, of which it wants to tell on a pipe that nobody reads any more: neither can
tidy up.)
"""

# How long a program may take to end after a signal. srun needs it to give its allocation back.
GRACE = 3.0

_MOST = 2**24
"""Bytes that are kept of what a program prints on a stream: one that prints without end must not fill the memory."""

_TAIL = 2**16
"""Bytes of its end that are kept of a program whose lines are handed on."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program that has ended left behind."""

    returncode: int
    stdout: str
    stderr: str


# The parameter is named as subprocess names it.
async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float,
    grace: float = GRACE,
    input: bytes = b"",  # noqa: A002
    die_by: str = "",
) -> Finished:
    """Run a program to its end.

    On timeout and on cancellation it is ended, with `die_by` and SIGTERM before SIGKILL (an srun that is killed
    leaves its job behind), and reaped.

    :param env: its whole environment; this process's own when None
    :param grace: how many seconds it may take to end after each of them
    :param input: what it reads on stdin, which is then closed
    :param die_by: as for `start`
    :raises CommandMissing: there is no such program
    :raises TimeoutError: it did not end in time; the text names it
    """
    process = await start(argv, env=env, die_by=die_by)
    assert process.stdout
    assert process.stderr
    try:
        async with asyncio.timeout(timeout):
            feeding = _feed(process, input)
            out, err, *_ = await asyncio.gather(_read(process.stdout), _read(process.stderr), feeding, process.wait())
    except TimeoutError:
        raise TimeoutError(f"{argv[0]} did not end within {timeout:g} s") from None
    finally:
        if process.returncode is None:
            await end(process, grace=grace, die_by=die_by)
    returncode = process.returncode
    assert returncode is not None
    return Finished(returncode, out.decode(errors="replace"), err.decode(errors="replace"))


async def _read(pipe: asyncio.StreamReader) -> bytes:
    """Read to the end; what is beyond the limit is thrown away."""
    said = bytearray()
    while data := await pipe.read(65536):
        said += data[: _MOST - len(said)]
    return bytes(said)


async def _feed(process: Process, data: bytes) -> None:
    assert process.stdin
    process.stdin.write(data)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may end without reading
        await process.stdin.drain()
    process.stdin.close()


async def converse(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float,
    first: bytes,
    on_line: Callable[[str], Awaitable[bool]],
) -> Finished:
    """Run a program to its end that says something and then waits for the end of its input; ended as by `run`.

    :param first: what it reads at first
    :param on_line: takes a line of its stdout; returns whether it has said all
    :raises CommandMissing: there is no such program
    :raises TimeoutError: it did not end in time; the text names it
    """
    process = await start(argv, env=env)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    stdin, stdout = process.stdin, process.stdout

    async def read() -> bytes:
        said = bytearray()
        with contextlib.suppress(ValueError):  # a line without end
            async for line in stdout:
                said += line[: _MOST - len(said)]
                if await on_line(line.decode(errors="replace")):
                    stdin.close()
        return bytes(said) + await _read(stdout)

    try:
        stdin.write(first)
        async with asyncio.timeout(timeout):
            out, err, _ = await asyncio.gather(read(), _read(process.stderr), process.wait())
    except TimeoutError:
        raise TimeoutError(f"{argv[0]} did not end within {timeout:g} s") from None
    finally:
        if process.returncode is None:
            await end(process)
    returncode = process.returncode
    assert returncode is not None
    return Finished(returncode, out.decode(errors="replace"), err.decode(errors="replace"))


async def stream(argv: Sequence[str], *, on_line: Callable[[str], None]) -> Finished:
    """Run a program that takes as long as it takes; its lines, on either stream, are handed on as they come.

    On cancellation it is ended, as by `run`, and when this process dies.

    :param on_line: takes a line without its end; a carriage return ends one too, where it is written over
    :raises CommandMissing: there is no such program
    """
    process = await start(argv, die_by="TERM")
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.close()

    async def read(pipe: asyncio.StreamReader) -> str:
        said = rest = b""
        while data := await pipe.read(65536):
            said = (said + data)[-_TAIL:]
            *lines, rest = re.split(rb"[\r\n]+", (rest + data)[-_TAIL:])
            for line in lines:
                on_line(line.decode(errors="replace"))
        on_line(rest.decode(errors="replace"))
        return said.decode(errors="replace")

    try:
        out, err = await asyncio.gather(read(process.stdout), read(process.stderr))
        returncode = await process.wait()
    finally:
        if process.returncode is None:
            await end(process)
    return Finished(returncode, out, err)


async def start(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None, die_by: str = ""
) -> Process:
    """Start a program with pipes for its three streams, in a process group of its own.

    :param cwd: its working directory; this process's own when None
    :param die_by: the signal that it gets when this process dies, however that comes about; none if empty
    :raises CommandMissing: there is no such program
    :raises CommandRefused: the system does not start it
    """
    environ = os.environ if env is None else env
    if shutil.which(argv[0], path=environ.get("PATH")) is None:
        raise CommandMissing(
            f"The program {argv[0]} cannot be run on this host.",
            hint="See that it is installed, and that PATH leads to it.",
        )
    wrapper = _dying_with_us(die_by) if die_by else []
    try:
        return await asyncio.create_subprocess_exec(
            *wrapper, *argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, cwd=cwd, start_new_session=True
        )
    except OSError as error:
        raise _refused(argv, environ, error) from error


def _refused(argv: Sequence[str], env: Mapping[str, str], error: OSError) -> CommandRefused:
    hint = ""
    if error.errno == errno.E2BIG:
        parts = {f"the variable {name}": value for name, value in env.items()}
        parts |= {f'the argument "{word[:20]}…"': word for word in argv}
        largest = max(parts, key=lambda part: len(os.fsencode(parts[part])))
        size = len(os.fsencode(parts[largest]))
        hint = f"The largest of what it is given is {largest} ({size} bytes): make it shorter, or leave it out."
    return CommandRefused(f"The program {argv[0]} cannot be started on this host: {error.strerror}.", hint=hint)


def _dying_with_us(name: str) -> list[str]:
    """Return what runs a program so that it gets a signal when this process dies, where there is such a thing."""
    # prctl(2), PR_SET_PDEATHSIG, without running Python between fork and exec
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", name, "--"] if setpriv else []


def detach(argv: Sequence[str], *, log: Path) -> tuple[int, str]:
    """Start a program that outlives us, our terminal and our ssh connection.

    It is ended if we are interrupted before it has said a line.

    :param log: takes what it says on stderr; the user's alone
    :return: its process id, and its first line on stdout: empty if it has ended without one
    :raises OSError: there can be no log
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    errors = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=errors, start_new_session=True, text=True
        )
    finally:
        os.close(errors)
    assert child.stdout
    with child.stdout:
        try:
            return child.pid, child.stdout.readline()
        except BaseException:  # nobody will know of it
            child.terminate()
            raise


async def start_beside(argv: Sequence[str], *, env: Mapping[str, str]) -> Process:
    """Start a program that shares our terminal's output, gets none of its signals, and does not outlive us."""
    return await asyncio.create_subprocess_exec(
        *_dying_with_us("TERM"), *argv, stdin=subprocess.DEVNULL, env=env, start_new_session=True
    )


async def end(process: Process, *, grace: float = GRACE, die_by: str = "") -> None:
    """End a program and what it started: SIGTERM, and after `grace` seconds SIGKILL. Reaps it.

    :param die_by: a signal that it gets before, with as much time; none if empty
    """
    first = [signal.Signals[f"SIG{die_by}"]] if die_by else []
    try:
        for number in dict.fromkeys((*first, signal.SIGTERM)):
            _signal_group(process, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace)
                break
    finally:
        if process.returncode is None:
            _signal_group(process, signal.SIGKILL)
    await process.wait()


def _signal_group(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


async def foreground(argv: Sequence[str]) -> int:
    """Run a program that talks to the user on our own terminal, such as an editor, and return its exit code.

    Ctrl-C is its own affair meanwhile.

    :raises CommandMissing: there is no such program
    """
    if shutil.which(argv[0]) is None:
        raise CommandMissing(
            f"The program {argv[0]} cannot be run on this host.",
            hint="See that it is installed, and that PATH leads to it.",
        )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # exec resets it for the program
    try:
        process = await asyncio.create_subprocess_exec(*argv)
        return await process.wait()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
