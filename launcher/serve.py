"""The launcher's loop: orders come in, events and the kernels' messages go out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
from typing import Any, BinaryIO

import zmq

from farkernel.launcher import node
from farkernel.launcher.endpoints import LinkServer
from farkernel.launcher.kernel import Kernel
from farkernel.launcher.main import UNDISMISSED, CannotListen, block_signals, say, start_kernel
from farkernel.launcher.process import KernelProcess
from farkernel.launcher.protocol import (
    Channel,
    Event,
    KernelRefused,
    Order,
    ProtocolError,
    Setup,
    SignalKernel,
    Started,
    StartKernel,
    Walltime,
    decode_order,
    encode,
)
from farkernel.launcher.sockets import Frames
from farkernel.launcher.walltime import Alarm

_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL when everything is ended."""

_CLEANUP = 3.0
"""Seconds for container runtimes to remove what they have left."""

_FAREWELL = 500
"""Milliseconds for the last messages to leave."""


class Launcher:
    """Serves one login side until it is told to end, or until that has been gone for too long."""

    def __init__(self, loop: asyncio.AbstractEventLoop, setup: Setup, base: pathlib.Path) -> None:
        self._loop = loop
        self._setup = setup
        self._base = base
        self._context: zmq.Context[Any] = zmq.Context(io_threads=2)
        self._kernels: dict[int, Kernel] = {}
        self.dismissed = False
        self._ending = asyncio.Event()
        self._no_kernels = asyncio.Event()
        self._closed: list[KernelProcess] = []
        self._walltime = Walltime(0, [])
        self._alarm = Alarm(loop, self._on_mark)
        first, last = setup.ports or (0, -1)
        self._server = LinkServer(
            loop,
            self._context,
            client_key=setup.client_key,
            address=node.interface_address(setup.interface) if setup.interface else "*",
            ports=range(first, last + 1),
            deliver=self._on_message,
            on_full=self._on_full,
        )

    async def run(self, first: KernelProcess | KernelRefused | None, stdin: BinaryIO) -> None:
        """Serve until the end."""
        self._loop.add_signal_handler(signal.SIGUSR2, self._ending.set)  # our login side is gone
        for signum in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(signum, self._dismiss)  # Slurm ends the job itself
        self._loop.add_signal_handler(signal.SIGINT, lambda: None)  # `scancel -s INT` is meant for the kernel
        self._loop.add_signal_handler(signal.SIGCHLD, self._on_child)
        self._loop.add_reader(stdin.fileno(), self._on_stdin, stdin)
        say(self._started())
        if first:
            self._take(first)
        watch = self._loop.create_task(self._watch_for_orphan())
        await self._ending.wait()
        block_signals()
        watch.cancel()
        self._alarm.cancel()
        self._loop.remove_reader(stdin.fileno())
        await self._end_kernels()
        self._server.close(_FAREWELL)
        self._context.term()

    def _started(self) -> Started:
        name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        interface = self._setup.interface
        return Started(
            node=name,
            addresses=[node.interface_address(interface)] if interface else node.addresses(name),
            port=self._server.port,
            server_key=self._server.public_key,
            job_id=os.environ.get("SLURM_JOB_ID", ""),
            pid=os.getpid(),
        )

    # ---- the end ----

    def _dismiss(self) -> None:
        self.dismissed = True
        self._ending.set()

    def _on_stdin(self, stdin: BinaryIO) -> None:
        # Nothing more is said there: what arrives is its end.
        if not os.read(stdin.fileno(), 4096):
            self._ending.set()

    async def _watch_for_orphan(self) -> None:
        while (left := self._server.link.heard + self._setup.orphan_timeout - self._loop.time()) > 0:
            await asyncio.sleep(left)
        self._ending.set()

    async def _end_kernels(self) -> None:
        for kernel in self._kernels.values():
            kernel.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE if self._kernels else 0):
                await self._no_kernels.wait()
        for kernel in self._kernels.values():
            self._close(kernel)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLEANUP):
                while not all(process.removed() for process in self._closed):
                    await asyncio.sleep(0.02)

    def _close(self, kernel: Kernel) -> None:
        kernel.close()
        self._closed = [process for process in (*self._closed, kernel.process) if not process.removed()]

    # ---- orders ----

    def _on_message(self, channel: Channel, kernel: int, generation: int, frames: list[Any]) -> None:
        if channel == Channel.ORDER:
            self._on_order(decode_order(bytes(frames[0])))
            return
        target = self._kernels.get(kernel)
        # A kernel that is gone takes its requests with it: they are not for the next one.
        if target and target.process.order.generation == generation:
            target.send(channel, frames)

    def _on_order(self, order: Order) -> None:
        if isinstance(order, StartKernel):
            old = self._kernels.pop(order.kernel, None)
            if old:
                self._close(old)
            self._take(start_kernel(order, self._base))
        elif isinstance(order, SignalKernel):
            if order.kernel in self._kernels:
                self._kernels[order.kernel].signal(order.signum)
        elif isinstance(order, Walltime):
            self._walltime = order
            self._alarm.set(order.end)
        else:
            self._dismiss()

    def _on_mark(self, seconds: float) -> None:
        variables = {
            "FARKERNEL_JOB_ID": os.environ.get("SLURM_JOB_ID", ""),
            "FARKERNEL_JOB_END": str(int(self._walltime.end)),
            "FARKERNEL_SECONDS_LEFT": str(int(seconds)),
        }
        for kernel in self._kernels.values():
            kernel.warn(seconds, self._walltime.hook, variables)

    # ---- kernels ----

    def _take(self, outcome: KernelProcess | KernelRefused) -> None:
        if isinstance(outcome, KernelRefused):
            self._report(outcome)
            return
        number, generation = outcome.order.kernel, outcome.order.generation

        def forward(channel: Channel, frames: Frames) -> None:
            self._server.link.send(channel, number, generation, frames)

        self._kernels[number] = Kernel(
            self._loop,
            self._context,
            outcome,
            forward=forward,
            report=self._report,
            ended=lambda: self._on_ended(number),
        )
        self._kernels[number].hold_output(self._server.link.full)
        self._no_kernels.clear()
        self._on_child()

    def _report(self, event: Event) -> None:
        self._server.link.send(Channel.EVENT, event.kernel, event.generation, [encode(event)])

    def _on_child(self) -> None:
        for kernel in self._kernels.values():
            kernel.check()

    def _on_ended(self, number: int) -> None:
        self._close(self._kernels.pop(number))
        if not self._kernels:
            self._no_kernels.set()

    def _on_full(self, full: bool) -> None:
        for kernel in self._kernels.values():
            kernel.hold_output(full)


def serve(setup: Setup, first: KernelProcess | KernelRefused | None, base: pathlib.Path, stdin: BinaryIO) -> int:
    """Run the launcher's loop; return the exit code.

    :raises CannotListen: there is nothing to listen on
    """

    async def run() -> int:
        try:
            launcher = Launcher(asyncio.get_running_loop(), setup, base)
        except (OSError, ProtocolError, ValueError) as error:
            raise CannotListen(str(error)) from error
        await launcher.run(first, stdin)
        return 0 if launcher.dismissed else UNDISMISSED

    return asyncio.run(run())
