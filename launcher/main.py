"""The launcher: runs on a job's first node, starts kernels and carries their messages.

It is started by `farkernel.launcher.bootstrap`. Its standard input brings a `Setup`, then a first order or an
empty line; its end tells that the login side is gone. Its standard output takes one `Started` (or `Failed`).
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NoReturn

from farkernel.launcher import node
from farkernel.launcher.private import PrivateDirectory
from farkernel.launcher.process import KernelProcess
from farkernel.launcher.protocol import (
    MARK,
    Failed,
    KernelRefused,
    ProtocolError,
    Setup,
    StartKernel,
    decode,
    encode,
)

UNDISMISSED = 3
"""The exit code of a launcher that has ended without an order: whoever could have given it is gone."""

UNUSABLE = "cannot use the directory "
"""Begins the reason of a launcher that has found no place for its files."""

_ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


CUT_OFF = "cannot connect to the login side: "
"""Begins the reason of a launcher that was to connect, and has reached no address."""


class CannotListen(Exception):
    """There is no address or no port on the node to listen on."""


class CannotConnect(Exception):
    """No address of the login side answers."""


def say(message: object) -> None:
    """Say one thing to the login side on standard output."""
    sys.stdout.write(f"{MARK}{encode(message).decode()}\n")
    sys.stdout.flush()


def start_kernel(order: StartKernel, base: pathlib.Path) -> KernelProcess | KernelRefused:
    """Start a kernel's process."""
    try:
        return KernelProcess(order, base, node.without_step(os.environ))
    except OSError as error:
        path = str(error.filename or order.argv[0])
        reason = error.strerror or str(error)
        return KernelRefused(order.kernel, order.generation, error.errno or 0, path, reason)
    except ValueError as error:  # no command, or text that the system does not take
        return KernelRefused(order.kernel, order.generation, 0, " ".join(order.argv), str(error))


def main(stdin: BinaryIO) -> int:
    """Run the launcher with what is left of its standard input; return the exit code."""
    return _end_job(run(stdin))


def _end_job(code: int) -> int:
    """End the job of a launcher that nobody has dismissed: one whose srun was killed outlives its only step."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if code == UNDISMISSED and job_id:  # this ends us too: nothing may follow
        with contextlib.suppress(OSError):
            # no shell wanted; sites install it where they like
            os.execvpe("scancel", ["scancel", job_id], _without_filters(os.environ))  # noqa: S606
    return code


def _without_filters(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which scancel ends the job that it is given, whatever the user has set (scancel(1))."""
    return {name: value for name, value in env.items() if not name.startswith(("SCANCEL_", "SLURM_CLUSTERS"))}


def block_signals() -> None:
    """Let no further signal keep us from tidying up; each thread of a login side that dies sends one (prctl(2))."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)


class _Leaving:
    """Tidies up; until the loop takes care of the signals that end a launcher, as soon as one comes.

    A handler that raises would not do: Python ignores what is raised in a callback of a weak reference, and imports
    have many.

    :ivar base: the launcher's directory
    :ivar kernel: the kernel that was started
    """

    def __init__(self) -> None:
        self.base: PrivateDirectory | None = None
        self.kernel: KernelProcess | KernelRefused | None = None
        self._code: int | None = None
        self._held = False
        for signum in _ENDINGS:
            signal.signal(signum, self._on_signal)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Leave afterwards only: what is just being made would not be known."""
        self._held = True
        yield
        self._held = False
        if self._code is not None:
            self._leave(self._code)

    def tidy_up(self) -> None:
        """End the kernel, and remove the directory."""
        if isinstance(self.kernel, KernelProcess) and self.kernel.poll() is None:
            with contextlib.suppress(PermissionError):  # of a job Slurm ends it
                self.kernel.signal(signal.SIGKILL)
        if self.base:
            self.base.remove()

    def _on_signal(self, signum: int, _frame: object) -> None:
        block_signals()
        self._code = UNDISMISSED if signum == signal.SIGUSR2 else 0
        if not self._held:
            self._leave(self._code)

    def _leave(self, code: int) -> NoReturn:
        self.tidy_up()
        os._exit(_end_job(code))


def run(stdin: BinaryIO) -> int:
    """Serve until the end, and tidy up."""
    try:
        setup = decode(stdin.readline(), Setup)
        line = stdin.readline()
        order = decode(line, StartKernel) if line.strip() else None
    except (ProtocolError, OSError) as error:
        say(Failed(f"cannot begin: {error}"))
        return 1
    # Never below /run/user: that does not exist inside a container.
    place = setup.directory or "/tmp"  # noqa: S108
    leaving = _Leaving()
    try:
        with leaving.held():
            # `KernelProcess` says why so short
            leaving.base = base = PrivateDirectory(pathlib.Path(place), "1000.1000-5", letters=3)
    except (OSError, ValueError) as error:
        say(Failed(f"{UNUSABLE}{place}: {getattr(error, 'strerror', None) or error}"))
        return 1
    code, problem = 1, ""
    try:
        # The kernel's process is started before ZeroMQ and asyncio are imported, which takes a tenth as long
        # as its own start does.
        with leaving.held():
            leaving.kernel = start_kernel(order, base.path) if order else None
        from farkernel.launcher.serve import serve  # noqa: PLC0415

        code = serve(setup, leaving.kernel, base.path, stdin)
    except ImportError as error:
        problem = f"no pyzmq: {sys.executable} cannot import it: {error}"
    except CannotListen as error:
        problem = f"cannot listen on the node: {error}"
    except CannotConnect as error:
        problem = f"{CUT_OFF}{error}"
    finally:
        leaving.tidy_up()
    if problem:  # said when all is tidy: the login side ends a launcher that has failed
        say(Failed(problem))
    return code
