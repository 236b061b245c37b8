"""What any process can write to a ZeroMQ socket that it can reach, from nonsense to nearly right (ZMTP 3.1, RFC 37)."""

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

from tests.patience import PATIENCE

KINDS = [b"DEALER", b"ROUTER", b"SUB", b"XSUB", b"REQ", b"PUSH", b"PAIR", b"nonsense", b""]
MECHANISMS = [b"NULL", b"CURVE", b"PLAIN", b"GSSAPI", b"\xff" * 20, b""]
SIZES = [0, 1, 255, 2**31, 2**62, 2**63, 2**64 - 1]
"""What a frame says of its length."""


def attack(address: str | tuple[str, int], seed: int, count: int) -> None:
    """Connect so many times, write something, and go.

    :param address: a unix socket's path, or host and port
    """
    chance = random.Random(seed)
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    for _ in range(count):
        with socket.socket(family) as connection:
            connection.settimeout(PATIENCE)  # one that is busy takes connections later
            connection.connect(address)
            with contextlib.suppress(OSError):  # it is closed as soon as it is seen to be wrong
                for piece in _conversation(chance):
                    connection.sendall(piece)
                    if chance.random() < 0.5:
                        connection.settimeout(0.02)
                        connection.recv(1000)
                    connection.settimeout(PATIENCE)
                if chance.random() < 0.3:
                    connection.shutdown(socket.SHUT_WR)


def subscribe(path: str, length: int) -> bool:
    """Ask a publisher for a topic of so many bytes, in another way than libzmq's; return whether it takes that.

    That shows once something is published: all topics are asked for, too.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(path)
        connection.sendall(_greeting(b"NULL") + _command(b"READY", {b"Socket-Type": b"XSUB"}))
        said = b""
        while b"Socket-Type" not in said:
            said += connection.recv(1000)
        try:
            connection.sendall(b"\2" + struct.pack("!Q", length + 1) + b"\1" + bytes(length) + b"\0\1\1")
            while heard := connection.recv(1000):
                if b"published" in heard:
                    return True
        except ConnectionError:
            pass
        return False


def _conversation(chance: random.Random) -> Iterator[bytes]:
    if chance.random() < 0.2:
        yield chance.randbytes(chance.randrange(300))
        return
    version = b"\3\1" if chance.random() < 0.9 else chance.randbytes(2)
    greeting = _greeting(chance.choice(MECHANISMS[:2] if chance.random() < 0.8 else MECHANISMS), version)
    yield greeting if chance.random() < 0.9 else greeting[: chance.randrange(64)]
    if chance.random() < 0.9:
        yield _ready(chance)
    for _ in range(chance.randrange(6)):
        yield _frame(chance)


def _greeting(mechanism: bytes, version: bytes = b"\3\0") -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + version + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


def _ready(chance: random.Random) -> bytes:
    ready = _command(
        b"READY", {b"Socket-Type": chance.choice(KINDS), b"Identity": chance.randbytes(chance.randrange(9))}
    )
    return ready if chance.random() < 0.8 else ready[: chance.randrange(2, len(ready))] + chance.randbytes(5)


def _command(name: bytes, properties: dict[bytes, bytes]) -> bytes:
    body = bytes([len(name)]) + name
    for key, value in properties.items():
        body += bytes([len(key)]) + key + struct.pack("!I", len(value)) + value
    return bytes([4, len(body)]) + body


def _frame(chance: random.Random) -> bytes:
    body = chance.choice([b"", b"\1", b"\0", b"<IDS|MSG>", b"\x05HELLO", b"\x04PING\0\0", chance.randbytes(50)])
    flags = chance.choice([0, 1, 2, 3, 4, 6, chance.randrange(256)])
    if flags & 2:
        return bytes([flags]) + struct.pack("!Q", chance.choice(SIZES)) + body
    return bytes([flags, len(body) if chance.random() < 0.8 else chance.randrange(256)]) + body
