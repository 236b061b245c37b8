"""One start of a kernel as a process of the node.

Nothing here needs ZeroMQ or a loop, so that the first kernel is on its way while those are still imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping

from farkernel.launcher import node
from farkernel.launcher.protocol import PORT_NAMES, StartKernel

_TAIL = 4096
"""Bytes kept of what a kernel's process writes itself."""

_HOOK_TAIL = 500
"""Bytes of a failed hook's output that are told."""

_LOWEST_PORT = 10000

_CONNECTION_FILE = "kernel.json"
_HOOK_FILE = "hook"
_PID_FILE = "pid"


class KernelProcess:
    """The process of one start of a kernel, its private directory and connection file.

    Its sockets are `<directory>-<channel>`. xeus, which many kernels in C++ are made with, has room for an endpoint of
    31 bytes (`get_socket_port` in xeus-zmq's xmiddleware.cpp): "ipc:///tmp/farkernel-abc/1.99-5" is one.

    :param order: what to start
    :param base: the launcher's 0700 directory
    :param env: the environment that the order's variables go on top of
    :raises OSError: the command or the working directory does not exist, or cannot be used
    :raises ValueError: there is no command, or there is text that the system does not take
    """

    def __init__(self, order: StartKernel, base: pathlib.Path, env: Mapping[str, str]) -> None:
        self.order = order
        self.tail = b""
        self._cleanup: subprocess.Popen[bytes] | None = None
        self.directory = base / f"{order.kernel}.{order.generation}"
        self.directory.mkdir(mode=0o700)
        self.connection = self._connection_info()
        self._oom_before = node.out_of_memory_kills()
        try:
            self.cwd = _first_directory(order.cwd)
            for name, content in {**order.files, _CONNECTION_FILE: json.dumps(self.connection)}.items():
                file = self.directory / name
                file.touch(mode=0o600)
                file.write_text(content, encoding="utf-8")
            argv = [self._filled(part) for part in order.argv]
            if not argv:
                raise ValueError("there is no command")
            # A kernel that finds its parent gone ends itself; its parent is this process.
            own = {"JPY_PARENT_PID": str(os.getpid()), "PWD": self.cwd}
            self._env = {**env, **order.env, **own}
            self._process = subprocess.Popen(
                argv,
                env=self._env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError):
            self._remove_files()  # nothing has run that the cleanup command could remove
            raise
        assert self._process.stdout
        self.output = self._process.stdout
        os.set_blocking(self.output.fileno(), False)

    @property
    def pid(self) -> int:
        """The process id; also its process group's and session's."""
        return self._process.pid

    @property
    def roots(self) -> set[int]:
        """The processes that have started all others of the kernel, inside its container too."""
        return {self.pid, self._pid_inside() or self.pid}

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def out_of_memory(self) -> bool:
        """Whether the node's memory limit ended it."""
        return self.poll() == -signal.SIGKILL and node.out_of_memory_kills() > self._oom_before

    def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group: what it has started gets it too.

        A container runtime may be a process of its own, beside the kernel's; it gets SIGKILL alone.

        :raises PermissionError: it is somebody else's for the moment: a setuid program that sets up a container
        """
        inside = self._pid_inside()
        groups = {inside or self.pid, *((self.pid,) if signum == signal.SIGKILL else ())}
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signum)

    def read_output(self) -> bytes | None:
        """Return what the process has written since; None at the end."""
        try:
            data = os.read(self.output.fileno(), 65536)
        except BlockingIOError:
            return b""
        self.tail = (self.tail + data)[-_TAIL:]
        return data or None

    def tail_text(self) -> str:
        """Return the end of what the process has written."""
        return self.tail.decode(errors="replace").strip()

    def start_hook(self, argv: list[str], variables: Mapping[str, str]) -> Hook:
        """Start a command beside the kernel, in its directory and with its environment.

        :raises OSError: it cannot be run
        """
        own = {"FARKERNEL_KERNEL_PID": str(self._pid_inside() or self.pid), "FARKERNEL_CWD": self.cwd}
        own["FARKERNEL_CONNECTION_FILE"] = str(self.directory / _CONNECTION_FILE)
        return Hook(argv, {**self._env, **own, **variables}, self.cwd, self.directory / _HOOK_FILE)

    def remove(self) -> None:
        """Remove what lies on disk, and begin with what the order's cleanup command removes."""
        if self.order.cleanup and self._cleanup is None:
            argv = [self._filled(part) for part in self.order.cleanup]
            with contextlib.suppress(OSError):  # it was there for the start
                self._cleanup = subprocess.Popen(
                    argv,
                    env=self._env,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        self._remove_files()

    def removed(self) -> bool:
        """Whether nothing is left of it: the cleanup command has ended too."""
        return self._cleanup is None or self._cleanup.poll() is not None

    def _remove_files(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        for path in self.directory.parent.glob(f"{self.directory.name}-*"):
            path.unlink(missing_ok=True)

    def _pid_inside(self) -> int:
        """Return the process id that a container runtime has noted; 0 for none."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / _PID_FILE).read_text(encoding="ascii"))
            return pid if pid > 1 else 0
        return 0

    def _filled(self, part: str) -> str:
        places = {
            "{connection_file}": self.directory / _CONNECTION_FILE,
            "{kernel_directory}": self.directory,
            "{kernel_cwd}": self.cwd,
        }
        for word, place in places.items():
            part = part.replace(word, str(place))
        return part

    def _connection_info(self) -> dict[str, str | int]:
        order = self.order
        if order.transport == "ipc":
            ip, ports = str(self.directory), [int(channel) for channel in PORT_NAMES]
        else:
            ip, ports = "127.0.0.1", _free_ports(len(PORT_NAMES))
        return {
            "transport": order.transport,
            "ip": ip,
            "key": order.key,
            "signature_scheme": order.signature_scheme,
            "kernel_name": order.kernel_name,
            **dict(zip(PORT_NAMES.values(), ports, strict=True)),
        }


class Hook:
    """A command that runs beside a kernel.

    :param output: the file that takes what it writes
    :raises OSError: it cannot be run
    """

    def __init__(self, argv: list[str], env: Mapping[str, str], cwd: str, output: pathlib.Path) -> None:
        self._argv = argv
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def failure(self) -> str:
        """Say how it has failed; empty if it has not, or not ended."""
        code = self._process.poll()
        if not code:
            return ""
        said = ""
        with contextlib.suppress(OSError):
            said = self._output.read_bytes()[-_HOOK_TAIL:].decode(errors="replace").strip()
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        return f"{self._argv[0]} has ended with {how}" + (f": {said}" if said else "")

    def kill(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if not self.ended():
                os.killpg(self._process.pid, signal.SIGKILL)


def _first_directory(candidates: list[str]) -> str:
    for directory in candidates:
        if node.can_run_in(directory):
            return directory
    if len(candidates) == 1:
        raise FileNotFoundError(2, "No such directory on the node", candidates[0])
    return "/"


def _free_ports(count: int) -> list[int]:
    """Choose ports that nothing listens on.

    Below the range of outgoing connections: there a client that connects before the kernel has bound could
    be given the very port as its own, and be connected to itself.
    """
    ports: list[int] = []
    candidates = list(range(_LOWEST_PORT, node.ephemeral_floor()))
    random.shuffle(candidates)
    for port in candidates:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            break
    return ports
