"""A notebook server on any login node, started and ended as its user, or fate, does it."""

import contextlib
import json
import secrets
import shlex
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.cluster import Site
from tests.cluster.site import HOSTS
from tests.slurm.helpers import PATIENCE

_PORT = 18888  # every host has a network of its own

_TERMINAL = """
import os, pty, signal, sys
pid, screen = pty.fork()
if pid == 0:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # not so if the tests were started by nohup
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
with open("pids", "w") as file:
    file.write(f"{pid} {os.getpid()}")
while True:
    try:
        os.write(1, os.read(screen, 65536))
    except OSError:  # it has ended
        break
os.waitpid(pid, 0)
"""


class Server:
    """A Jupyter server of alice's with one kernel, in a terminal of its own.

    :param folder: what it reads and writes, where every host sees it
    """

    def __init__(self, site: Site, host: str, folder: Path) -> None:
        self._site = site
        self._host = host
        self._folder = folder
        self._token = secrets.token_hex(16)

    def start(self, env: Mapping[str, str]) -> None:
        """Start it, and wait until it answers."""
        server = ["-m", "jupyter", "server", "--no-browser", "--ServerApp.ip=0.0.0.0", f"--ServerApp.port={_PORT}"]
        terminal = shlex.join([sys.executable, "-c", _TERMINAL, *server])
        script = f"cd {self._folder} && setsid {terminal} >server.log 2>&1 </dev/null &"
        done = self._site.run(self._host, "alice", ["sh", "-c", script], None, {**env, "JUPYTER_TOKEN": self._token})
        assert done.returncode == 0, done.stderr
        self._wait(lambda: self._answer("api") is not None)

    def start_kernel(self, name: str) -> None:
        """Start its kernel, and wait until that has been heard."""
        kernel = self._answer("api/kernels", {"name": name})
        self._wait(lambda: (self._answer(f"api/kernels/{kernel['id']}") or {}).get("execution_state") == "idle")

    def kill(self, signal: str) -> None:
        """Send the server a signal."""
        self._signal(self._pids[0], signal)

    def close_terminal(self) -> None:
        """Close the window of its terminal."""
        self._signal(self._pids[1], "KILL")

    def wait(self) -> None:
        """Wait until there is no such process any more."""
        self._wait(lambda: self._signal(self._pids[0], "0"))

    def _signal(self, pid: str, signal: str) -> int:
        return self._site.run(self._host, "alice", ["kill", f"-{signal}", pid]).returncode

    @property
    def _pids(self) -> list[str]:
        return (self._folder / "pids").read_text().split()

    def _answer(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://{HOSTS[self._host].address}:{_PORT}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self._token}"},
        )
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return json.load(reply)
        return None

    def _wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text(errors="replace")[-5000:]
            time.sleep(0.1)
