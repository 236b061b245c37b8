"""The launcher's loop: orders come in, events and the kernels' messages go out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pathlib
import signal
import socket
from collections.abc import Callable
from typing import Any, BinaryIO

import zmq

from farkernel.launcher import node
from farkernel.launcher.endpoints import Deliver, LinkClient, LinkServer
from farkernel.launcher.kernel import Kernel
from farkernel.launcher.main import UNDISMISSED, CannotConnect, CannotListen, block_signals, say, start_kernel
from farkernel.launcher.process import KernelProcess
from farkernel.launcher.protocol import (
    Channel,
    Event,
    KernelRefused,
    Order,
    Setup,
    SignalKernel,
    Started,
    StartKernel,
    Walltime,
    decode_order,
    encode,
)
from farkernel.launcher.reach import Unreachable, first_reachable, with_port
from farkernel.launcher.sockets import Frames
from farkernel.launcher.walltime import Alarm

_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL when everything is ended."""

_CLEANUP = 3.0
"""Seconds for container runtimes to remove what they have left."""

_FAREWELL = 500
"""Milliseconds for the last messages to leave."""


_LOOK = 5.0
"""Seconds between two looks whether the login side is still there; after twice as many it was we that stood still."""

MakeEnd = Callable[[Deliver, Callable[[bool], None]], LinkServer | LinkClient]
"""Makes our end of the link, given what takes messages, and what is told that it is full."""


class Launcher:
    """Serves one login side until it is told to end, or until that has been gone for too long."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        base: pathlib.Path,
        make_end: MakeEnd,
        *,
        orphan_timeout: float,
    ) -> None:
        self._loop = loop
        self._context = context
        self._orphan_timeout = orphan_timeout
        self._base = base
        self._kernels: dict[int, Kernel] = {}
        self.dismissed = False
        self._ending = asyncio.Event()
        self._no_kernels = asyncio.Event()
        self._closed: list[KernelProcess] = []
        self._walltime = Walltime(0, [])
        self._alarm = Alarm(loop, self._on_mark)
        self._end = make_end(self._on_message, self._on_full)

    async def run(self, first: KernelProcess | KernelRefused | None, stdin: BinaryIO) -> None:
        """Serve until the end."""
        self._loop.add_signal_handler(signal.SIGUSR2, self._ending.set)  # our login side is gone
        for signum in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(signum, self._dismiss)  # Slurm ends the job itself
        self._loop.add_signal_handler(signal.SIGCHLD, self._on_child)
        self._loop.add_reader(stdin.fileno(), self._on_stdin, stdin)
        if first:
            self._take(first)
        watch = self._loop.create_task(self._watch_for_orphan())
        await self._ending.wait()
        block_signals()
        watch.cancel()
        self._alarm.cancel()
        self._loop.remove_reader(stdin.fileno())
        await self._end_kernels()
        self._end.close(_FAREWELL)
        self._context.term()

    # ---- the end ----

    def _dismiss(self) -> None:
        self.dismissed = True
        self._ending.set()

    def _on_stdin(self, stdin: BinaryIO) -> None:
        # Nothing more is said there: what arrives is its end.
        if not os.read(stdin.fileno(), 4096):
            self._ending.set()

    async def _watch_for_orphan(self) -> None:
        since = looked = self._loop.time()
        while (left := max(self._end.link.heard, since) + self._orphan_timeout - looked) > 0:
            await asyncio.sleep(min(left, _LOOK))
            before, looked = looked, self._loop.time()
            if looked - before > 2 * _LOOK:  # a job may be suspended, and what was said meanwhile is yet to be read
                since = looked
        self._ending.set()

    async def _end_kernels(self) -> None:
        for kernel in self._kernels.values():
            kernel.end_with_launcher()
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
        assert self._walltime.end is not None  # there would be no mark
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
            self._end.link.send(channel, number, generation, frames)

        self._kernels[number] = Kernel(
            self._loop,
            self._context,
            outcome,
            forward=forward,
            report=self._report,
            ended=lambda: self._on_ended(number),
        )
        self._kernels[number].hold_output(self._end.link.full)
        self._no_kernels.clear()
        self._on_child()

    def _report(self, event: Event) -> None:
        self._end.link.send(Channel.EVENT, event.kernel, event.generation, [encode(event)])

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
    :raises CannotConnect: no address of the login side answers
    """

    async def run() -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # `scancel -s INT` is meant for the kernel
        context: zmq.Context[Any] = zmq.Context(io_threads=2)
        make_end: MakeEnd
        if setup.addresses:
            endpoint = await _login_side(setup)
            keys = zmq.curve_keypair()
            say(_started([], 0, keys[0]))
            if not await _next_line(loop, stdin, timeout=setup.orphan_timeout):
                return UNDISMISSED
            make_end = functools.partial(_connect, loop, context, setup, endpoint, keys)
        else:
            make_end = functools.partial(_listen, loop, context, setup)
        launcher = Launcher(loop, context, base, make_end, orphan_timeout=setup.orphan_timeout)
        await launcher.run(first, stdin)
        return 0 if launcher.dismissed else UNDISMISSED

    return asyncio.run(run())


def _started(addresses: list[str], port: int, key: bytes) -> Started:
    return Started(
        node=_node_name(),
        addresses=addresses,
        port=port,
        launcher_key=key.decode(),
        job_id=os.environ.get("SLURM_JOB_ID", ""),
        pid=os.getpid(),
    )


def _node_name() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


# ---- listening ----


def _listen(
    loop: asyncio.AbstractEventLoop,
    context: zmq.Context[Any],
    setup: Setup,
    deliver: Deliver,
    on_full: Callable[[bool], None],
) -> LinkServer:
    first, last = setup.ports or (0, -1)
    try:
        own = node.interface_addresses(setup.interface) if setup.interface else []
        end = LinkServer(
            loop,
            context,
            client_key=setup.login_key,
            addresses=own or ["*"],
            ports=range(first, last + 1),
            deliver=deliver,
            on_full=on_full,
        )
    except (OSError, ValueError) as error:
        raise CannotListen(getattr(error, "strerror", None) or str(error)) from error
    say(_started(own or node.names_and_addresses(_node_name()), end.port, end.public_key.encode()))
    return end


# ---- connecting ----


async def _login_side(setup: Setup) -> str:
    """Return the endpoint of the login side that can be reached."""
    try:
        address = await first_reachable(setup.addresses, setup.port, timeout=setup.connect_timeout)
    except Unreachable as error:
        raise CannotConnect(str(error)) from error
    return f"tcp://{with_port(address, setup.port)}"


async def _next_line(loop: asyncio.AbstractEventLoop, stdin: BinaryIO, *, timeout: float) -> bytes:
    """Wait for the line that says that our key is let in; nothing comes when the login side is gone."""
    readable = asyncio.Event()
    loop.add_reader(stdin.fileno(), readable.set)
    try:
        async with asyncio.timeout(timeout):
            await readable.wait()
    except TimeoutError:
        return b""
    finally:
        loop.remove_reader(stdin.fileno())
    return stdin.readline()


def _connect(
    loop: asyncio.AbstractEventLoop,
    context: zmq.Context[Any],
    setup: Setup,
    endpoint: str,
    keys: tuple[bytes, bytes],
    deliver: Deliver,
    on_full: Callable[[bool], None],
) -> LinkClient:
    return LinkClient(
        loop,
        context,
        endpoint=endpoint,
        server_key=setup.login_key,
        keys=keys,
        deliver=deliver,
        on_full=on_full,
        login=False,
    )
