"""The cluster's methods for the tests inside its login node: one line of JSON each way per call.

The tests run as an ordinary user. The server is the root outside, and its socket lies where only that user
and root can reach it.
"""

import contextlib
import json
import os
import socket
import socketserver
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from types import TracebackType
from typing import Any, Self

from tests.cluster.cluster import Cluster
from tests.cluster.site import HOSTS, LOGIN, USERS, ClusterError

_DIRECTORY = "/run/cluster-control"
SOCKET = f"{_DIRECTORY}/socket"
_METHODS = frozenset(("run", "power_off", "power_on", "cable", "suspend", "resume", "idle", "leftovers", "clean"))


class ControlServer:
    """Serves while it is entered, on threads of its own."""

    def __init__(self, cluster: Cluster, user: str) -> None:
        directory = cluster.root(LOGIN) / _DIRECTORY.removeprefix("/")
        directory.mkdir(mode=0o700)
        os.chown(directory, USERS[user], USERS[user])
        path = directory / Path(SOCKET).name
        self._server = _Server(str(path), _Handler)
        self._server.cluster = cluster
        os.chown(path, USERS[user], USERS[user])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False  # a call that still runs ends with the cluster
    cluster: Cluster


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        answer = _answer(self.server.cluster, **json.loads(self.rfile.readline()))
        with contextlib.suppress(BrokenPipeError):  # the test was ended while it waited
            self.wfile.write(json.dumps(answer).encode() + b"\n")


def _answer(cluster: Cluster, method: str, arguments: list[Any]) -> dict[str, Any]:
    if method not in _METHODS:
        return {"error": f"no such method: {method}"}
    try:
        result = getattr(cluster, method)(*arguments)
    except TimeoutExpired as error:
        return {"timeout": error.timeout}
    except Exception as error:  # noqa: BLE001 - whatever it is, the test should hear of it
        return {"error": str(error) if isinstance(error, ClusterError) else repr(error)}
    if isinstance(result, CompletedProcess):
        result = [result.returncode, result.stdout, result.stderr]
    return {"result": result}


@dataclass(frozen=True)
class Client:
    """The cluster, as the tests inside it see it: a `Site`."""

    path: str = SOCKET
    hosts: tuple[str, ...] = tuple(HOSTS)

    def run(
        self,
        host: str,
        user: str,
        argv: Sequence[str],
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> CompletedProcess[str]:
        done = self._call("run", host, user, list(argv), input, dict(env or {}), timeout)
        return CompletedProcess(list(argv), *done)

    def power_off(self, host: str) -> None:
        self._call("power_off", host)

    def power_on(self, host: str) -> None:
        self._call("power_on", host)

    def cable(self, host: str, up: bool) -> None:
        self._call("cable", host, up)

    def suspend(self, host: str) -> None:
        self._call("suspend", host)

    def resume(self, host: str) -> None:
        self._call("resume", host)

    def idle(self, timeout: float = 120) -> None:
        self._call("idle", timeout)

    def leftovers(self) -> list[str]:
        return list(self._call("leftovers"))

    def clean(self) -> None:
        self._call("clean")

    def _call(self, method: str, *arguments: object) -> Any:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path)
            with connection.makefile("rw") as stream:
                stream.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
                stream.flush()
                answer = json.loads(stream.readline() or '{"error": "the cluster is gone"}')
        if "timeout" in answer:
            raise TimeoutExpired(str(arguments), answer["timeout"])
        if "error" in answer:
            raise ClusterError(answer["error"])
        return answer["result"]
