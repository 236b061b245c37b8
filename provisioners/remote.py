"""The login side of one launcher: its job, its link, and the kernels that it carries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from farkernel.launcher import protocol
from farkernel.launcher.endpoints import LinkClient
from farkernel.launcher.protocol import Channel, EndLauncher, Event, Order, Setup, Started, StartKernel
from farkernel.launcher.sockets import Frames
from farkernel.provisioners.errors import NodeUnreachable
from farkernel.provisioners.job import Job
from farkernel.provisioners.request import LauncherRequest

_CONNECT_TIMEOUT = 10.0
_FAREWELL = 200
"""Milliseconds for the last messages to leave."""

log = logging.getLogger("farkernel")


@dataclass(frozen=True)
class Tenant:
    """Who takes what comes from one kernel."""

    on_message: Callable[[int, Channel, list[Any]], None]
    on_event: Callable[[Event], None]
    on_full: Callable[[bool], None]


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
        self._client: LinkClient | None = None

    def first_input(self, launcher: LauncherRequest, orphan_timeout: float, order: StartKernel) -> bytes:
        """Return what the launcher reads on its standard input: how to listen, and the first kernel to start."""
        setup = Setup(
            client_key=self._keys[0].decode(),
            interface=launcher.interface or "",
            ports=[int(port) for port in launcher.ports.split("-")] if launcher.ports else [],
            directory=launcher.directory or "",
            orphan_timeout=orphan_timeout,
        )
        return protocol.encode(setup) + b"\n" + protocol.encode(order) + b"\n"

    def let(self, kernel: int, tenant: Tenant) -> None:
        """Give what comes from a kernel to `tenant`."""
        self._tenants[kernel] = tenant

    async def connect(self, started: Started) -> None:
        """Make the link.

        :raises NodeUnreachable: no address of the node answers
        """
        address = await _first_reachable(started)
        self._client = LinkClient(
            self._loop,
            self._context,
            endpoint=f"tcp://{address}:{started.port}",
            server_key=started.server_key,
            keys=self._keys,
            deliver=self._deliver,
            on_full=self._on_full,
        )

    @property
    def connected(self) -> bool:
        """Whether there is a link, be it cut for the moment."""
        return self._client is not None

    @property
    def heard(self) -> float:
        """When the launcher was last heard, on the loop's clock; now, if there is no link."""
        return self._client.heard if self._client else self._loop.time()

    def order(self, order: Order) -> None:
        """Give the launcher an order; nothing happens when there is no link."""
        if self._client:
            self._client.link.send(Channel.ORDER, 0, 0, [protocol.encode(order)])

    def send(self, channel: Channel, kernel: int, generation: int, frames: Frames) -> None:
        """Send a kernel a client's message."""
        if self._client:
            self._client.link.send(channel, kernel, generation, frames)

    def hold_back(self, hold: bool) -> None:
        """Leave with the launcher what it has for us, or go on: the link's bounds take care of the rest."""
        if self._client:
            self._client.hold_back(hold)

    async def end(self) -> None:
        """End the launcher and its job; close the link."""
        self.order(EndLauncher())
        try:
            await self.job.end()
        finally:
            if self._client:
                self._client.close(_FAREWELL)
                self._client = None

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


async def _first_reachable(started: Started) -> str:
    attempts = {address: asyncio.ensure_future(_try(address, started.port)) for address in started.addresses}
    try:
        for attempt in asyncio.as_completed(attempts.values(), timeout=_CONNECT_TIMEOUT):
            await attempt
            if reached := [a for a, task in attempts.items() if task.done() and task.result() == ""]:
                return reached[0]
    except TimeoutError:
        pass
    finally:
        for task in attempts.values():
            task.cancel()
    tried = "; ".join(
        f"{address}:{started.port}: {task.result() if task.done() and not task.cancelled() else 'no answer'}"
        for address, task in attempts.items()
    )
    raise NodeUnreachable(
        f"The launcher runs on {started.node}, and this host cannot connect to it.",
        said=f"Tried {tried}",
        hint="Name the network that both share in launcher.interface, or the ports that are open in launcher.ports, "
        "of the kernelspec.",
    )


async def _try(address: str, port: int) -> str:
    """Return why a connection fails, empty if it does not."""
    try:
        _, writer = await asyncio.open_connection(address, port)
    except (OSError, OverflowError, ValueError) as error:  # a port or a name that there cannot be
        return getattr(error, "strerror", None) or str(error)
    writer.close()
    return ""
