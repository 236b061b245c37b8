"""A cluster to play with, for developers: python -m tests.cluster (as root).

Brings the cluster up, with JupyterLab on its login node, until Ctrl-C. Meanwhile, in another terminal,
`python -m tests.cluster on HOST USER [COMMAND...]` runs a command on a host, or a shell.
"""

import argparse
import contextlib
import http.client
import os
import secrets
import signal
import socket
import sys
import time
import urllib.request
from subprocess import DEVNULL, STDOUT
from typing import NoReturn

from tests.cluster.cluster import Cluster, ended_by_signals
from tests.cluster.forward import forward
from tests.cluster.host import RemoteProcess, enter
from tests.cluster.site import HOSTS, LOGIN, PATH, USERS, ClusterError
from tests.cluster.state import running

_USER = "alice"
_LAB_PORT = 8888
_FOREGROUND = "foreground"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=8888, help="where JupyterLab is reached (0: any free port)")
    parser.add_argument("--no-lab", action="store_true", help="start no JupyterLab")
    commands = parser.add_subparsers(dest="command")
    on = commands.add_parser("on", help="run a command on a host of the running cluster")
    on.add_argument("host", choices=list(HOSTS))
    on.add_argument("user", choices=["root", *USERS])
    on.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND", help="by default a login shell")
    options = parser.parse_args()
    try:
        if options.command == "on":
            run_on(options.host, options.user, options.argv or ["bash", "--login"])
        foreground(None if options.no_lab else options.port)
    except ClusterError as error:
        sys.exit(str(error))


def run_on(host: str, user: str, argv: list[str]) -> NoReturn:
    """Become the command."""
    # one that was started here before those of tests that happen to run
    for state in sorted(running(), key=lambda state: not (state / _FOREGROUND).exists()):
        with contextlib.suppress(FileNotFoundError):  # this host is powered off
            pid = int((state / "hosts" / host / "pid").read_text())
            command = enter(HOSTS[host], pid, user, argv)
            os.execvp(command[0], command)
    raise ClusterError(f"no running cluster has a host {host}; start one with: python -m tests.cluster")


def foreground(port: int | None) -> None:
    """Keep a cluster until Ctrl-C or SIGTERM, with JupyterLab on the port unless that is None."""
    with contextlib.suppress(KeyboardInterrupt), ended_by_signals():
        # bound before the rest, so that a port in use is known at once
        listener = None if port is None else _listen(port)
        print("bringing the cluster up…", flush=True)
        with Cluster() as cluster:
            (cluster.state / _FOREGROUND).touch()
            print(f"hosts: {' '.join(HOSTS)}; users: root {' '.join(USERS)}")
            print("a shell: python -m tests.cluster on HOST USER [COMMAND...]", flush=True)
            if listener:
                _serve_lab(cluster, listener)
            else:
                signal.pause()
    print("the cluster is down")


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ClusterError(f"port {port}: {error.strerror}; choose another with --port") from error


def _serve_lab(cluster: Cluster, listener: socket.socket) -> None:
    """Run JupyterLab on the login node for as long as it lives."""
    token = secrets.token_hex(16)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    log = cluster.state / "lab.log"
    argv = [f"{sys.prefix}/bin/jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={_LAB_PORT}"]
    with log.open("wb") as output:
        lab = cluster.popen(
            LOGIN,
            _USER,
            argv,
            {"PATH": f"{sys.prefix}/bin:{PATH}", "JUPYTER_TOKEN": token},
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
        )
    forward(listener, cluster.namespace(LOGIN), _LAB_PORT)
    if _answers(lab, url):
        print(f"JupyterLab of {_USER} on {LOGIN}: {url}/lab?token={token}", flush=True)
    else:
        lab.terminate()
    lab.wait()
    raise ClusterError(f"JupyterLab ended:\n{log.read_text()[-3000:]}")


def _answers(lab: RemoteProcess, url: str, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while lab.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException), urllib.request.urlopen(f"{url}/api"):
            return True
        time.sleep(0.2)
    return False


if __name__ == "__main__":
    main()
