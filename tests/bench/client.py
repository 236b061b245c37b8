"""A front-end without the waits of jupyter_client: what it measures is the way to the kernel."""

import time
from collections.abc import Callable
from typing import Any, Self

import zmq

from farkernel.launcher import wire

PATIENCE = 90.0
_RETRY = 10
"""Milliseconds: a direct client connects before the kernel has bound, and must not lose time by that."""

Info = dict[str, Any]
OnOutput = Callable[[wire.Message], None]


class Client:
    """Shell and iopub of one kernel; its sockets connect at once, whether or not somebody listens yet.

    :param info: what the connection file says
    """

    def __init__(self, info: Info) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._signer = wire.Signer(_bytes(info["key"]), info["signature_scheme"])
        self._shell = self._connected(zmq.DEALER, info, "shell_port")
        self._iopub = self._connected(zmq.SUB, info, "iopub_port")
        self._poller = zmq.Poller()
        self._poller.register(self._shell, zmq.POLLIN)
        self._poller.register(self._iopub, zmq.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._context.destroy(linger=0)

    def send(self, code: str) -> str:
        """Send an execute_request; return its id."""
        header = self._signer.header("execute_request")
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        self._shell.send_multipart(self._signer.frames(header, content))
        return str(header["msg_id"])

    def reply(self, request: str) -> wire.Message:
        """Wait for a request's reply, without a look at iopub."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._shell.poll(1000):
                message = _received(self._shell)
                if message.parent_id == request:
                    return message
        raise TimeoutError(f"no reply within {PATIENCE:.0f} s")

    def run(self, code: str, on_output: OnOutput = lambda message: None) -> None:
        """Run a cell until its reply and its idle are there."""
        self._finish(self.send(code), PATIENCE, on_output)

    def until_ready(self) -> None:
        """Wait until iopub is heard: a subscription takes effect some time after the connection."""
        self.reply(self.send("pass"))
        for _ in range(100):
            if self._finish(self.send("pass"), 0.2, lambda message: None, strict=False):
                return
        raise TimeoutError("the kernel's iopub is not heard")

    def value(self, expression: str) -> str:
        """Return what an expression shows."""
        results: list[str] = []

        def on_output(message: wire.Message) -> None:
            if message.type == "execute_result":
                results.append(message.content["data"]["text/plain"])

        self.run(expression, on_output)
        return results[0]

    def _connected(self, kind: int, info: Info, port: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.reconnect_ivl = _RETRY
        if kind == zmq.SUB:
            socket.rcvhwm = 100_000  # it is the way that may lose something here, not the client
            socket.subscribe(b"")
        separator = "-" if info["transport"] == "ipc" else ":"
        socket.connect(f"{info['transport']}://{info['ip']}{separator}{info[port]}")
        return socket

    def _finish(self, request: str, patience: float, on_output: OnOutput, *, strict: bool = True) -> bool:
        deadline = time.monotonic() + patience
        open_ends = {"reply", "idle"}
        while open_ends and time.monotonic() < deadline:
            for socket, _ in self._poller.poll(100):
                message = _received(socket)
                if message.parent_id != request:
                    continue
                if socket is self._shell:
                    assert message.content["status"] == "ok", message.content
                    open_ends.discard("reply")
                elif message.type == "status":
                    open_ends.discard(message.content["execution_state"])
                else:
                    on_output(message)
        if open_ends and strict:
            raise TimeoutError(f"no {' and no '.join(open_ends)} within {patience:.0f} s")
        return not open_ends


class DeafClient:
    """Subscribes to a kernel's iopub and never reads: a browser tab that hangs."""

    def __init__(self, info: Info) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = self._context.socket(zmq.SUB)
        socket.rcvhwm = 1000
        socket.subscribe(b"")
        separator = "-" if info["transport"] == "ipc" else ":"
        socket.connect(f"{info['transport']}://{info['ip']}{separator}{info['iopub_port']}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._context.destroy(linger=0)


def _received(socket: "zmq.Socket[bytes]") -> wire.Message:
    message = wire.parse(socket.recv_multipart(copy=False))
    assert message, "not a message of Jupyter"
    return message


def _bytes(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.encode()
