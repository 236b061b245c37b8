"""The login side of one launcher: its job, its link, and the kernels that it carries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from farkernel.launcher import node, protocol
from farkernel.launcher.endpoints import Deliver, LinkClient, LinkServer
from farkernel.launcher.protocol import Channel, EndLauncher, Event, Order, Setup, Started, StartKernel
from farkernel.launcher.reach import Unreachable, first_reachable
from farkernel.launcher.sockets import Frames
from farkernel.provisioners import launch_failures
from farkernel.provisioners.hosts import Host
from farkernel.provisioners.job import Job
from farkernel.provisioners.request import LauncherRequest

_CONNECT_TIMEOUT = 10.0
"""Seconds in which an address has to answer, on either side."""

_FAREWELL = 200
"""Milliseconds for the last messages to leave."""

log = logging.getLogger("farkernel")


@dataclass(frozen=True)
class Tenant:
    """Who takes what comes from one kernel."""

    on_message: Callable[[int, Channel, list[Any]], None]
    on_event: Callable[[Event], None]
    on_full: Callable[[bool], None]


class Listening:
    """This host listens for one launcher.

    The ZeroMQ context is its own: one that is shared would let in by one ZAP handler, at each job's port, whatever is
    let in at any.

    :ivar addresses: by which the launcher may reach it
    :raises CannotListen: there is no port, or no such interface
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        launcher: LauncherRequest,
        *,
        deliver: Deliver,
        on_full: Callable[[bool], None],
    ) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        try:
            own = node.interface_addresses(launcher.interface) if launcher.interface else []
            self.end = LinkServer(
                loop,
                self._context,
                client_key="",
                addresses=own or ["*"],
                ports=launcher.port_range,
                deliver=deliver,
                on_full=on_full,
                login=True,
            )
        except OSError as error:
            self._context.term()
            raise launch_failures.cannot_listen("this host", error.strerror or str(error)) from error
        # Numbers only: a name has to be resolved on the node, where that may take longer than there is time.
        self.addresses = own or node.addresses() or ["127.0.0.1"]

    async def close(self) -> None:
        """Close the port."""
        self.end.close(_FAREWELL)
        await asyncio.to_thread(self._context.term)  # waits for the last messages


class Remote:
    """A launcher as the login side sees it.

    :param job: what it runs in, not submitted yet
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: zmq.Context[Any], job: Job) -> None:
        self.job = job
        self._loop = loop
        self._context = context
        self._keys = zmq.curve_keypair()
        self._tenants: dict[int, Tenant] = {}
        self._listening: Listening | None = None
        self._end: LinkClient | LinkServer | None = None
        self._endpoint = ""

    def first_input(self, launcher: LauncherRequest, orphan_timeout: float, order: StartKernel) -> bytes:
        """Return what the launcher reads on its standard input: how to come together, and the first kernel to start.

        If it is to connect to this host, that is listened on from now on; nobody is let in before `connect`.

        :raises CannotListen: there is no port, or no such interface
        """
        key, addresses, port = self._keys[0].decode(), [], 0
        if launcher.connect == "login":
            self._listening = listening = Listening(self._loop, launcher, deliver=self._deliver, on_full=self._on_full)
            key, addresses, port = listening.end.public_key, listening.addresses, listening.end.port
        ports = launcher.port_range
        setup = Setup(
            login_key=key,
            interface=launcher.interface or "",
            ports=[ports[0], ports[-1]] if ports else [],
            addresses=addresses,
            port=port,
            connect_timeout=min(_CONNECT_TIMEOUT, launcher.start_timeout / 2),
            directory=launcher.directory or "",
            orphan_timeout=orphan_timeout,
        )
        return protocol.encode(setup) + b"\n" + protocol.encode(order) + b"\n"

    def let(self, kernel: int, tenant: Tenant) -> None:
        """Give what comes from a kernel to `tenant`."""
        self._tenants[kernel] = tenant

    async def connect(self, started: Started) -> None:
        """Make the link, or let the launcher make it.

        :raises NodeUnreachable: no address of the node answers
        """
        if self._listening:
            self._end = end = self._listening.end
            end.admit(started.launcher_key)
            self.job.tell(b"\n")
            return
        self._endpoint = await _endpoint(started, self.job.host)
        self._end = LinkClient(
            self._loop,
            self._context,
            endpoint=self._endpoint,
            server_key=started.launcher_key,
            keys=self._keys,
            deliver=self._deliver,
            on_full=self._on_full,
        )

    @property
    def connected(self) -> bool:
        """Whether there is a link, be it cut for the moment."""
        return self._end is not None

    @property
    def heard(self) -> float:
        """When the launcher was last heard, on the loop's clock; now, if there is no link."""
        return self._end.heard if self._end else self._loop.time()

    def order(self, order: Order) -> None:
        """Give the launcher an order; nothing happens when there is no link."""
        if self._end:
            self._end.link.send(Channel.ORDER, 0, 0, [protocol.encode(order)])

    def send(self, channel: Channel, kernel: int, generation: int, frames: Frames) -> None:
        """Send a kernel a client's message."""
        if self._end:
            self._end.link.send(channel, kernel, generation, frames)

    def hold_back(self, hold: bool) -> None:
        """Leave with the launcher what it has for us, or go on: the link's bounds take care of the rest."""
        if self._end:
            self._end.hold_back(hold)

    async def end(self) -> None:
        """End the launcher and its job; close the link."""
        self.order(EndLauncher())
        try:
            await self.job.end()
        finally:
            if self._end and not self._listening:
                self._end.close(_FAREWELL)
            listening, self._end, self._listening = self._listening, None, None
            if listening:
                await listening.close()
            self.job.host.leave(self._endpoint)

    def _deliver(self, channel: Channel, kernel: int, generation: int, frames: list[Any]) -> None:
        tenant = self._tenants.get(kernel)
        if tenant is None:
            return
        if channel == Channel.EVENT:
            tenant.on_event(protocol.decode_event(bytes(frames[0])))
        else:
            tenant.on_message(generation, channel, frames)

    def _on_full(self, full: bool) -> None:
        for tenant in self._tenants.values():
            tenant.on_full(full)


async def _endpoint(started: Started, host: Host) -> str:
    """Return where the launcher can be reached.

    :raises NodeUnreachable: nowhere
    """
    try:
        address = await first_reachable(started.addresses, started.port, timeout=_CONNECT_TIMEOUT, probe=host.probe)
    except Unreachable as error:
        raise launch_failures.unreachable(started.node, str(error), from_node=False, host=host.name) from error
    return await host.endpoint(address, started.port)
