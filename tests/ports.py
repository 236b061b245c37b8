"""Ports for servers that are started a while later."""

import random
import socket

from farkernel.launcher import node

_LOWEST = 10_000


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody has, and that nobody is given who asks for any: others might have that meanwhile."""
    while True:
        port = random.randrange(_LOWEST, node.ephemeral_floor())
        try:
            socket.create_server((address, port)).close()
        except OSError:
            continue
        return port
