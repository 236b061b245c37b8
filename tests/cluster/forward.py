"""Lets the machine's loopback reach a port on a host's loopback."""

import asyncio
import contextlib
import ctypes
import os
import socket
import threading
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def forward(listener: socket.socket, namespace: Path, port: int) -> None:
    """Carry what connects to the listener to the port inside the network namespace, until this process ends.

    A thread of its own moves into the namespace: that changes where it connects to, while the listener stays
    where it was made.
    """

    def serve() -> None:
        with namespace.open() as fd:
            if _LIBC.setns(fd.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        asyncio.run(_serve(listener, port))

    threading.Thread(target=serve, daemon=True).start()


async def _serve(listener: socket.socket, port: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # either side may go away at any time
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        writer.close()

    async with await asyncio.start_server(connected, sock=listener) as server:
        await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
