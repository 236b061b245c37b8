"""One start of a kernel, as the launcher carries it: its process and the sockets towards it."""

from __future__ import annotations

import asyncio
import collections
import functools
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from farkernel.launcher import usage, wire
from farkernel.launcher.losses import Losses
from farkernel.launcher.process import Hook, KernelProcess
from farkernel.launcher.protocol import (
    PORT_NAMES,
    Channel,
    Event,
    HookFailed,
    KernelEnded,
    KernelLog,
    KernelReady,
    KernelStarted,
    OutputDropped,
    TimeLeft,
    Usage,
)
from farkernel.launcher.sockets import Frames, LoopSocket, size

PROBE_INTERVAL = 0.1
"""Seconds between two questions to a kernel that has not been heard on iopub yet."""

_NOT_YET = 0.05
"""Seconds between two attempts to signal a process that is not the user's yet."""

_BURST = 10_000
"""Messages of iopub that may wait for us: a kernel that prints drops what we are late for."""

_LAST_WORDS = 0.5
"""Seconds for what a kernel that has ended has still sent: a process that it has left may keep its connection open."""

_FLUSH = 0.005
"""Seconds from the end of a connection, as libzmq tells it, until all that came is there to be received."""

_HELD = 256 * 2**20
"""Bytes of iopub that are kept while the link is full; beyond that output is dropped, and counted."""

_REPLIES = 64 * 2**20
"""Bytes on the other channels that a full link takes all the same; what follows is left with the kernel."""

_UNREAD = 32
"""Messages of these that ZeroMQ then keeps here; and of what a kernel leaves unread on stdin and as heartbeats."""


class Kernel:
    """Carries one start of a kernel until it is closed.

    :param process: the kernel's process
    :param forward: `forward(channel, frames)` takes what the kernel says
    :param report: `report(event)` takes what happens to it
    :param ended: called when its process has ended, and all that it has said was taken
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        process: KernelProcess,
        *,
        forward: Callable[[Channel, Frames], None],
        report: Callable[[Event], None],
        ended: Callable[[], None],
    ) -> None:
        order = process.order
        self.process = process
        self._ids = (order.kernel, order.generation)
        self._loop = loop
        self._forward = forward
        self._report = report
        self._ended = ended
        self._exit_code: int | None = None
        self._telling_end = True
        signer = wire.Signer(order.key.encode(), order.signature_scheme)
        self._probe = _Probe(signer)
        self._losses = Losses(loop, signer, ask=self.send, publish=self._publish)
        self._probe_timer: asyncio.TimerHandle | None = None
        self._ready = False
        self._holding = False
        self._held: collections.deque[Frames] = collections.deque()
        self._held_bytes = 0
        self._dropped = 0
        self._replies_bytes = 0
        self._hooks: list[Hook] = []
        self._meter = usage.Meter()
        self._usage_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._sockets = self._connect(context)
        self._line = self._watch_line()
        loop.add_reader(process.output.fileno(), self._on_output)
        report(KernelStarted(*self._ids, process.pid, process.cwd))
        self._ask()

    def signal(self, signum: int) -> None:
        """Signal the process group, again and again while that is not permitted.

        A setuid container runtime is root's until it has set up its image, and not even SIGKILL reaches it before.
        """
        try:
            self.process.signal(signum)
        except PermissionError:
            self._loop.call_later(_NOT_YET, self.signal, signum)

    def end_with_launcher(self) -> None:
        """Have the process end; the end of the launcher, and its reason, is what the login side has to tell."""
        self._telling_end = self._exit_code is not None
        self.signal(signal.SIGTERM)

    def send(self, channel: Channel, frames: Frames) -> None:
        """Pass a client's message on to the kernel."""
        self._sockets[channel].send(frames)
        self._losses.sent(channel, frames)

    def hold_output(self, hold: bool) -> None:
        """Keep what the kernel publishes, or let it go: the link is full, or free again.

        What is kept is bounded; beyond that output is dropped, and counted. Replies are not: there is room for many,
        and then they are left with the kernel.
        """
        self._holding = hold
        while self._held and not self._holding:
            frames = self._held.popleft()
            self._held_bytes -= size(frames)
            self._forward(Channel.IOPUB, frames)
        if self._dropped and not self._holding:
            self._report(OutputDropped(*self._ids, self._dropped))
            self._dropped = 0
        if not self._holding:
            self._replies_bytes = 0
            for socket in self._sockets.values():
                socket.resume()

    def warn(self, seconds: float, hook: list[str], variables: Mapping[str, str]) -> None:
        """Tell that the job ends soon, and run a hook beside the kernel.

        :param variables: what the hook finds in its environment
        """
        self._report(TimeLeft(*self._ids, seconds))
        if not hook:
            return
        try:
            self._hooks.append(self.process.start_hook(hook, variables))
        except OSError as error:
            self._report(HookFailed(*self._ids, f"{hook[0]} cannot be run: {error.strerror}"))

    def _check_hooks(self) -> None:
        for hook in [hook for hook in self._hooks if hook.ended()]:
            self._hooks.remove(hook)
            if failure := hook.failure():
                self._report(HookFailed(*self._ids, failure))

    def check(self) -> None:
        """Look after children that may have ended."""
        self._check_hooks()
        if self._exit_code is None and (exit_code := self.process.poll()) is not None:
            self._exit_code = exit_code
            self._end_in(_FLUSH if self._line.closed else _LAST_WORDS)

    def _end_in(self, seconds: float) -> None:
        if self._end_timer:
            self._end_timer.cancel()
        self._end_timer = self._loop.call_later(seconds, self._end)

    def _end(self) -> None:
        """Take what the kernel has still said, and report its end unless that is ours."""
        assert self._exit_code is not None
        for socket in self._sockets.values():
            socket.receive_all()
        self._on_output()
        self.hold_output(False)
        if self._telling_end:
            memory, words = self.process.out_of_memory(), self.process.tail_text()
            self._report(KernelEnded(*self._ids, self._exit_code, memory, words))
        self._ended()

    def close(self) -> None:
        """End what is left of the process group, close the sockets, remove the files."""
        self.signal(signal.SIGKILL)
        for hook in self._hooks:
            hook.kill()
        for timer in (self._probe_timer, self._usage_timer, self._end_timer):
            if timer:
                timer.cancel()
        self._losses.close()
        if not self.process.output.closed:
            self._loop.remove_reader(self.process.output.fileno())
            self.process.output.close()
        self._watch_no_line()
        for socket in self._sockets.values():
            socket.close()
        self.process.remove()

    # ---- sockets ----

    def _connect(self, context: zmq.Context[Any]) -> dict[Channel, LoopSocket]:
        # A kernel answers on stdin to the identity that it saw on shell: one identity for both.
        identity = os.urandom(8).hex().encode()
        return {channel: self._connect_one(context, channel, identity) for channel in PORT_NAMES}

    def _connect_one(self, context: zmq.Context[Any], channel: Channel, identity: bytes) -> LoopSocket:
        socket: zmq.Socket[bytes] = context.socket(zmq.SUB if channel == Channel.IOPUB else zmq.DEALER)
        socket.linger = 0
        socket.reconnect_ivl = 10  # the kernel binds when it is ready: milliseconds count
        if channel == Channel.IOPUB:
            socket.rcvhwm = _BURST
            socket.subscribe(b"")
        else:
            socket.rcvhwm = _UNREAD
            # A kernel that is busy for hours still gets every request; it asks for what comes on the others.
            socket.sndhwm = 0 if channel in {Channel.SHELL, Channel.CONTROL} else _UNREAD
            socket.routing_id = identity
        info = self.process.connection
        separator = "-" if info["transport"] == "ipc" else ":"
        socket.connect(f"{info['transport']}://{info['ip']}{separator}{info[PORT_NAMES[channel]]}")
        return LoopSocket(self._loop, socket, functools.partial(self._on_message, channel))

    def _watch_line(self) -> LoopSocket:
        """Hear of the end of the connection that output comes by."""
        monitor = self._sockets[Channel.IOPUB].socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        monitor.linger = 0
        return LoopSocket(self._loop, monitor, self._on_hung_up)

    def _watch_no_line(self) -> None:
        # libzmq's thread would wait for ever to tell a monitor that is closed (socket_base.cpp): all links stand still.
        self._sockets[Channel.IOPUB].socket.disable_monitor()
        self._line.close()

    def _on_hung_up(self, _: list[Any]) -> None:
        self._watch_no_line()
        if self._exit_code is not None:
            self._end_in(_FLUSH)

    def _on_message(self, channel: Channel, frames: list[Any]) -> None:
        if self._probe.answered_by(channel, frames):
            self._losses.count(channel)
            self._on_probe_answered()
        elif self._losses.passed(channel, frames):
            pass
        elif channel == Channel.IOPUB:
            if self._ready or not _is_welcome(frames):
                self._publish(frames)
        else:
            self._forward(channel, frames)
            if self._holding:
                self._count_reply(frames)

    def _publish(self, frames: Frames) -> None:
        if self._holding or self._held:
            self._hold(frames)
        else:
            self._forward(Channel.IOPUB, frames)

    def _hold(self, frames: Frames) -> None:
        if self._held_bytes > _HELD and self._held_bytes > wire.patience(wire.parse(frames)) * _HELD:
            self._dropped += 1
            return
        self._held.append(frames)
        self._held_bytes += size(frames)

    def _count_reply(self, frames: list[Any]) -> None:
        self._replies_bytes += size(frames)
        if self._replies_bytes > _REPLIES:
            for channel, socket in self._sockets.items():
                if channel != Channel.IOPUB:
                    socket.pause()

    # ---- is it there? ----

    def _ask(self) -> None:
        # Each question costs the kernel time before its first cell: one waits in its queue, and another is sent only
        # when that was answered and nothing was heard on iopub.
        if self._probe.replied or not self._probe.asked:
            self.send(Channel.SHELL, self._probe.request())
        self._probe_timer = self._loop.call_later(PROBE_INTERVAL, self._ask)

    def _on_probe_answered(self) -> None:
        # Subscriptions reach the kernel some time after the connection (the "slow joiner"): only what was
        # heard proves that nothing that follows is lost.
        if not self._ready and self._probe.replied and self._probe.heard:
            self._ready = True
            if self._probe_timer:
                self._probe_timer.cancel()
            self._report(KernelReady(*self._ids))
            self._usage_timer = self._loop.call_later(usage.FIRST, self._tell_usage)

    # ---- what it takes ----

    def _tell_usage(self) -> None:
        if not self._holding and (reading := self._meter.news(self.process.roots)):
            self._report(Usage(*self._ids, reading.memory, reading.cpu))
        self._usage_timer = self._loop.call_later(usage.INTERVAL, self._tell_usage)

    # ---- the process's own output ----

    def _on_output(self) -> None:
        if self.process.output.closed:
            return
        data = self.process.read_output()
        if data is None:
            self._loop.remove_reader(self.process.output.fileno())
        elif data and not self._holding:  # its end is kept all the same, for the report of the kernel's own end
            self._report(KernelLog(*self._ids, data.decode(errors="replace")))


def _is_welcome(frames: list[Any]) -> bool:
    """Whether a kernel says that our own subscription has arrived (JEP 65).

    That is not for clients: xeus says it with a null for a parent, which nbclient and jupyter_console do not survive.
    """
    message = wire.parse(frames)
    return message is not None and message.type == "iopub_welcome"


class _Probe:
    """Our own `kernel_info_request`s, and what the kernel says to them."""

    def __init__(self, signer: wire.Signer) -> None:
        self.replied = False
        self.heard = False
        self._signer = signer
        self._open: dict[str, set[str]] = {}

    @property
    def asked(self) -> bool:
        return bool(self._open)

    def request(self) -> list[bytes]:
        self.replied = False
        header = self._signer.header("kernel_info_request")
        self._open[header["msg_id"]] = {"kernel_info_reply", "idle"}
        return self._signer.frames(header, {})

    def answered_by(self, channel: Channel, frames: list[Any]) -> bool:
        """Whether a message is an answer to a probe; once all have their answers, nothing is looked at."""
        if not self._open or channel not in {Channel.SHELL, Channel.IOPUB}:
            return False
        message = wire.parse(frames)
        if message is None or message.parent_id not in self._open:
            return False
        self.replied |= channel == Channel.SHELL
        self.heard |= channel == Channel.IOPUB
        awaited = self._open[message.parent_id]
        awaited.discard(message.type)
        if message.type == "status":
            awaited.discard(str(message.content.get("execution_state")))
        if not awaited:
            del self._open[message.parent_id]
        return True
