"""The two ends of a link's connection: one CURVE-encrypted ZeroMQ socket each.

One listens (`LinkServer`), the other one connects (`LinkClient`): as a rule the launcher listens, and where login nodes
cannot reach compute nodes the login side does. Both only move frames; numbers and acknowledgements are the link's.

CURVE (ZeroMQ RFC 26) proves to the client that it talks to the holder of the server's key. The other
direction is the ZAP handler's (RFC 27), and libzmq fails open: without a handler *any* client key is let in.
Hence ZMQ_ZAP_ENFORCE_DOMAIN, with which a missing handler lets nobody in, and a handler that runs before
the bind.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

import zmq
import zmq.utils.z85

from farkernel.launcher.link import PING_INTERVAL, SILENCE, Link
from farkernel.launcher.protocol import Channel
from farkernel.launcher.reach import with_port
from farkernel.launcher.sockets import Frames, LoopSocket

ZAP_DOMAIN = b"farkernel"

MAX_FRAME = 64 * 2**20
"""Bytes in the largest frame that the launcher takes; Jupyter's server takes requests of 10 MB."""

_HANDSHAKE = 5000
"""Milliseconds for a handshake."""

_KEEPALIVE = (60, 10, 6)
"""Seconds without traffic until TCP asks, seconds between its questions, and how many go without an answer (tcp(7))."""

_ANY_PORT = 10
"""How often the system is asked for a port that all addresses have free."""

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"

Deliver = Callable[[Channel, int, int, list[Any]], None]


class ZapHandler:
    """Lets exactly one CURVE key in (ZeroMQ RFC 27), and none before it is told which; a context has one handler."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: zmq.Context[Any]) -> None:
        self._key: bytes | None = None
        socket = context.socket(zmq.REP)
        socket.bind(_ZAP_ENDPOINT)
        self._socket = LoopSocket(loop, socket, self._on_request)

    def admit(self, key: str) -> None:
        """Let this key (Z85) in from now on.

        :raises ValueError: it is none
        """
        self._key = zmq.utils.z85.decode(key)

    def close(self) -> None:
        """Stop answering; nobody new is let in from then on."""
        self._socket.close()

    def _on_request(self, request: list[zmq.Frame]) -> None:
        version, request_id, domain, _address, _identity, mechanism, *credentials = [frame.bytes for frame in request]
        known = domain == ZAP_DOMAIN and mechanism == b"CURVE" and self._key is not None and credentials == [self._key]
        status, text = (b"200", b"OK") if known else (b"400", b"this key is not let in")
        self._socket.send([version, request_id, status, text, b"", b""])


# A listening login side takes no larger frames than a listening launcher, but what kernels publish has no bound. A
# message with a frame that is too large goes in pieces: before them stands a frame that begins with 0, which no header
# of the link does, and tells how many pieces each of the others has.
_PIECES = b"\0"


def _in_pieces(frames: Frames) -> Frames:
    piece = MAX_FRAME // 2  # encryption adds a little
    if max(map(len, frames)) <= piece:
        return frames
    cut = [
        [memoryview(frame)[start : start + piece] for start in range(0, max(len(frame), 1), piece)] for frame in frames
    ]
    counts = struct.pack(f"!{len(cut)}I", *map(len, cut))
    return [_PIECES + counts, *(piece for pieces in cut for piece in pieces)]


def _joined(frames: list[Any]) -> list[Any]:
    """Undo `_in_pieces`."""
    if not frames or bytes(frames[0])[:1] != _PIECES:
        return frames
    counts = struct.iter_unpack("!I", bytes(frames[0])[1:])
    pieces = iter(frames[1:])
    return [b"".join(memoryview(piece) for piece in itertools.islice(pieces, count)) for (count,) in counts]


class _End:
    """What both ends have in common.

    :param login: this is the login side, which opens connections and pings
    """

    _socket: LoopSocket

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, login: bool, deliver: Deliver, on_full: Callable[[bool], None]
    ) -> None:
        self.link = Link(loop, self._transmit, deliver, on_full)
        self._loop = loop
        self._login = login
        self._holding = False
        self._fresh = loop.time()
        self._timer: asyncio.TimerHandle

    def close(self, linger: int = 0) -> None:
        """Leave; `linger` is the time in ms for what is still to be sent."""
        self._timer.cancel()
        self.link.close()
        self._socket.close(linger)

    def hold_back(self, hold: bool) -> None:
        """Read nothing, or go on: what is not read is not acknowledged, and stays with the other side."""
        if self._holding and not hold:
            self._fresh = self._loop.time()  # it could not be heard meanwhile
        self._holding = hold
        if hold:
            self._socket.pause()
        else:
            self._socket.resume()

    @property
    def heard(self) -> float:
        """When the other side was last heard, on the loop's clock; now, while nothing is read."""
        return self._loop.time() if self._holding else self.link.heard

    def _start_timer(self) -> None:
        self._timer = self._loop.call_later(PING_INTERVAL, self._on_timer)

    def _on_timer(self) -> None:
        self._start_timer()
        self._tick()

    def _tick(self) -> None:
        """Do what is to be done from time to time."""
        raise NotImplementedError

    def _transmit(self, frames: Frames) -> None:
        raise NotImplementedError


def _link_socket(context: zmq.Context[Any], kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = 0
    # Messages are bounded in bytes by the link; a bound in messages would drop or block.
    socket.sndhwm = socket.rcvhwm = 0
    return socket


class LinkServer(_End):
    """The end that listens.

    :param context: it has no other server, since it has one ZAP handler
    :param client_key: the one public key (Z85) that is let in; empty for none before `admit`
    :param addresses: the addresses to bind, all with the same port; `*` for all that there are
    :param ports: ports to try; empty for any
    :raises OSError: an address is not this host's, or no port is free
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[Any],
        *,
        client_key: str,
        addresses: Sequence[str],
        ports: range,
        deliver: Deliver,
        on_full: Callable[[bool], None],
        login: bool = False,
    ) -> None:
        public, secret = zmq.curve_keypair()
        self.public_key = public.decode()
        self._zap = ZapHandler(loop, context)
        if client_key:
            self._zap.admit(client_key)
        socket = _link_socket(context, zmq.ROUTER)
        socket.router_handover = True
        # What is not authenticated yet must cost little: libzmq takes whatever a handshake announces.
        socket.maxmsgsize = MAX_FRAME
        socket.handshake_ivl = _HANDSHAKE
        socket.curve_server = True
        socket.curve_secretkey = secret
        socket.zap_domain = ZAP_DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        # Connections that were cut and have a successor would stay as long as we do.
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = _KEEPALIVE
        try:
            self.port = _bind(socket, addresses, ports)
        except BaseException:
            socket.close()
            self._zap.close()
            raise
        super().__init__(loop, login=login, deliver=deliver, on_full=on_full)
        self._peer = b""
        self._socket = LoopSocket(loop, socket, self._on_frames)
        self._start_timer()

    def admit(self, key: str) -> None:
        """Let this key (Z85) in from now on, and no other.

        :raises ValueError: it is none
        """
        self._zap.admit(key)
        self.link.heard = self._loop.time()  # there was nobody to be heard before

    def close(self, linger: int = 0) -> None:
        """Leave; `linger` is the time in ms for what is still to be sent."""
        super().close(linger)
        self._zap.close()

    def _transmit(self, frames: Frames) -> None:
        if self._peer:
            self._socket.send([self._peer, *frames])

    def _tick(self) -> None:
        if self._login and self._peer:
            self.link.ping()

    def _on_frames(self, frames: list[Any]) -> None:
        # Each connection of the client has an identity that sorts after the one before, so that what an
        # older one still brings is passed over.
        peer = bytes(frames[0])
        if peer >= self._peer:
            self._peer = peer
            self.link.receive(_joined(frames[1:]) if self._login else frames[1:])


def _bind(socket: zmq.Socket[bytes], addresses: Sequence[str], ports: range) -> int:
    """Bind all addresses to one port, and return that; raises as `LinkServer`."""
    socket.ipv6 = True  # `*` takes IPv4 too; without IPv6 in the system it is IPv4 alone
    for port in random.sample(ports, len(ports)) if ports else [0] * _ANY_PORT:
        bound: list[str] = []
        try:
            for address in addresses:
                socket.bind(f"tcp://{with_port(address, port)}")
                bound.append(cast("bytes", socket.last_endpoint).decode())
                port = int(bound[0].rpartition(":")[2])  # if it was 0, the one that the system has chosen
        except zmq.ZMQError as error:
            for endpoint in bound:
                socket.unbind(endpoint)
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise OSError(error.errno, f"{address}: {error.strerror}") from error
        else:
            return port
    where = f"in {ports.start}-{ports.stop - 1}" if ports else "at all"
    raise OSError(errno.EADDRINUSE, f"no free port {where}")


class LinkClient(_End):
    """The end that connects.

    It makes a fresh connection when the other side is silent; what the old one still held is sent again there.

    :param endpoint: the server's, `tcp://HOST:PORT`
    :param server_key: the server's public key (Z85)
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
        login: bool = True,
    ) -> None:
        super().__init__(loop, login=login, deliver=deliver, on_full=on_full)
        self._context = context
        self._endpoint = endpoint
        self._server_key = server_key.encode()
        self._keys = keys
        self._connections = 0
        self._connect()
        self._start_timer()

    def _connect(self) -> None:
        self._connections += 1
        socket = _link_socket(self._context, zmq.DEALER)
        socket.routing_id = b"%08d" % self._connections
        socket.ipv6 = "[" in self._endpoint
        socket.curve_serverkey = self._server_key
        socket.curve_publickey, socket.curve_secretkey = self._keys
        socket.connect_timeout = int(SILENCE * 1000)
        socket.reconnect_ivl = 200
        socket.reconnect_ivl_max = 2000
        socket.connect(self._endpoint)
        self._socket = LoopSocket(self._loop, socket, self.link.receive)
        self.hold_back(self._holding)
        self._fresh = self._loop.time()
        if self._login:
            self.link.hello()
        else:
            self.link.knock()

    def _transmit(self, frames: Frames) -> None:
        self._socket.send(frames if self._login else _in_pieces(frames))

    def _tick(self) -> None:
        if self._loop.time() - max(self.heard, self._fresh) > SILENCE:
            self._socket.close()
            self._connect()
        elif self._login:
            self.link.ping()
        elif not self.link.connected:
            self.link.knock()
