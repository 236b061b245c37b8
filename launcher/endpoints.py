"""The two ends of a link's connection: one CURVE-encrypted ZeroMQ socket each.

The launcher binds (`LinkServer`), the login side connects (`LinkClient`). Both only move frames; numbers and
acknowledgements are the link's.

CURVE (ZeroMQ RFC 26) proves to the client that it talks to the holder of the server's key. The other
direction is the ZAP handler's (RFC 27), and libzmq fails open: without a handler *any* client key is let in.
Hence ZMQ_ZAP_ENFORCE_DOMAIN, with which a missing handler lets nobody in, and a handler that runs before
the bind.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import zmq
import zmq.utils.z85

from farkernel.launcher.link import PING_INTERVAL, SILENCE, Link
from farkernel.launcher.protocol import Channel
from farkernel.launcher.sockets import Frames, LoopSocket

ZAP_DOMAIN = b"farkernel"

MAX_FRAME = 64 * 2**20
"""Bytes in the largest frame that the launcher takes; Jupyter's server takes requests of 10 MB."""

_HANDSHAKE = 5000
"""Milliseconds for a handshake."""

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"

Deliver = Callable[[Channel, int, int, list[Any]], None]


class ZapHandler:
    """Lets exactly the given CURVE keys in (ZeroMQ RFC 27)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: zmq.Context[Any], keys: set[bytes]) -> None:
        self._keys = keys
        socket = context.socket(zmq.REP)
        socket.bind(_ZAP_ENDPOINT)
        self._socket = LoopSocket(loop, socket, self._on_request)

    def close(self) -> None:
        """Stop answering; nobody new is let in from then on."""
        self._socket.close()

    def _on_request(self, request: list[zmq.Frame]) -> None:
        version, request_id, domain, _address, _identity, mechanism, *credentials = [frame.bytes for frame in request]
        known = (
            domain == ZAP_DOMAIN and mechanism == b"CURVE" and len(credentials) == 1 and credentials[0] in self._keys
        )
        status, text = (b"200", b"OK") if known else (b"400", b"this key is not let in")
        self._socket.send([version, request_id, status, text, b"", b""])


def _link_socket(context: zmq.Context[Any], kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = 0
    # Messages are bounded in bytes by the link; a bound in messages would drop or block.
    socket.sndhwm = socket.rcvhwm = 0
    return socket


class LinkServer:
    """The launcher's end.

    :param client_key: the one public key (Z85) that is let in
    :param address: the IPv4 address to bind, `*` for all
    :param ports: ports to try; empty for any
    :raises zmq.ZMQError: no port is free
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        *,
        client_key: str,
        address: str,
        ports: range,
        deliver: Deliver,
        on_full: Callable[[bool], None],
    ) -> None:
        public, secret = zmq.curve_keypair()
        self.public_key = public.decode()
        self._zap = ZapHandler(loop, context, {zmq.utils.z85.decode(client_key)})
        socket = _link_socket(context, zmq.ROUTER)
        socket.router_handover = True
        # What is not authenticated yet must cost little: libzmq takes whatever a handshake announces.
        socket.maxmsgsize = MAX_FRAME
        socket.handshake_ivl = _HANDSHAKE
        socket.curve_server = True
        socket.curve_secretkey = secret
        socket.zap_domain = ZAP_DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self.port = _bind(socket, address, ports)
        self.link = Link(loop, self._transmit, deliver, on_full)
        self._peer = b""
        self._socket = LoopSocket(loop, socket, self._on_frames)

    def close(self, linger: int = 0) -> None:
        """Leave; `linger` is the time in ms for what is still to be sent."""
        self.link.close()
        self._socket.close(linger)
        self._zap.close()

    def _transmit(self, frames: Frames) -> None:
        if self._peer:
            self._socket.send([self._peer, *frames])

    def _on_frames(self, frames: list[Any]) -> None:
        # Each connection of the client has an identity that sorts after the one before, so that what an
        # older one still brings is passed over.
        peer = bytes(frames[0])
        if peer >= self._peer:
            self._peer = peer
            self.link.receive(frames[1:])


def _bind(socket: zmq.Socket[bytes], address: str, ports: range) -> int:
    if not ports:
        return socket.bind_to_random_port(f"tcp://{address}")
    for port in random.sample(ports, len(ports)):
        with contextlib.suppress(zmq.ZMQError):
            socket.bind(f"tcp://{address}:{port}")
            return port
    raise zmq.ZMQError(zmq.EADDRINUSE, f"no free port in {ports.start}-{ports.stop - 1}")


class LinkClient:
    """The login side's end.

    It pings, and makes a fresh connection when the other side is silent; what the old one still held is sent
    again there.

    :param endpoint: the launcher's, `tcp://HOST:PORT`
    :param server_key: the launcher's public key (Z85)
    :param keys: our own public and secret key
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        *,
        endpoint: str,
        server_key: str,
        keys: tuple[bytes, bytes],
        deliver: Deliver,
        on_full: Callable[[bool], None],
    ) -> None:
        self.link = Link(loop, self._transmit, deliver, on_full)
        self._loop = loop
        self._context = context
        self._endpoint = endpoint
        self._server_key = server_key.encode()
        self._keys = keys
        self._holding = False
        self._socket: LoopSocket
        self._connected = loop.time()
        self._connect()
        self._timer = loop.call_later(PING_INTERVAL, self._tick)

    def close(self, linger: int = 0) -> None:
        """Leave; `linger` is the time in ms for what is still to be sent."""
        self._timer.cancel()
        self.link.close()
        self._socket.close(linger)

    def hold_back(self, hold: bool) -> None:
        """Read nothing, or go on: what is not read is not acknowledged, and stays with the launcher."""
        if self._holding and not hold:
            self._connected = self._loop.time()  # it could not be heard meanwhile
        self._holding = hold
        if hold:
            self._socket.pause()
        else:
            self._socket.resume()

    @property
    def heard(self) -> float:
        """When the other side was last heard, on the loop's clock; now, while nothing is read."""
        return self._loop.time() if self._holding else self.link.heard

    def _connect(self) -> None:
        socket = _link_socket(self._context, zmq.DEALER)
        socket.routing_id = b"%08d" % (self.link.epoch + 1)
        socket.curve_serverkey = self._server_key
        socket.curve_publickey, socket.curve_secretkey = self._keys
        socket.connect_timeout = int(SILENCE * 1000)
        socket.reconnect_ivl = 200
        socket.reconnect_ivl_max = 2000
        socket.connect(self._endpoint)
        self._socket = LoopSocket(self._loop, socket, self.link.receive)
        self.hold_back(self._holding)
        self._connected = self._loop.time()
        self.link.hello()

    def _transmit(self, frames: Frames) -> None:
        self._socket.send(frames)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(PING_INTERVAL, self._tick)
        if self._loop.time() - max(self.heard, self._connected) > SILENCE:
            self._socket.close()
            self._connect()
        else:
            self.link.ping()
