"""JupyterHub on the login node, run by an ordinary user."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.site import HOSTS, LOGIN, PATH
from tests.slurm.browser.server import Own

_PATIENCE = 120.0
_PUBLIC, _HUB, _PROXY = (f"http://{HOSTS[LOGIN].address}:{port}" for port in (18000, 18001, 18002))
_BESIDE = {
    "JupyterHub": {"spawner_class": "simple"},
    "SimpleLocalProcessSpawner": {"home_dir_template": "/home/{username}"},
}


class Hub:
    """A hub with its proxy, while it is entered.

    :param own: what the user's server finds
    :param folder: what the hub keeps for itself
    :param notebooks: what the user's server serves
    :param spawner: configuration, by class, of what starts servers; a process beside the hub if not given
    """

    url = _PUBLIC

    def __init__(self, own: Own, folder: Path, notebooks: Path, spawner: Mapping[str, Any] = _BESIDE) -> None:
        self._own = own
        self._folder = folder
        self._notebooks = notebooks
        self._spawner = spawner
        self._token = secrets.token_hex(16)
        self._proxys = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def secrets(self) -> dict[str, str]:
        """Return what the hub, its proxy and the user's server know alone."""
        (pid,) = self.servers()
        pairs = (pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        tokens = {name: value for name, _, value in pairs if name in {"JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN"}}
        assert len(tokens) == 2
        cookies = (self._folder / "jupyterhub_cookie_secret").read_text().strip()
        return {**tokens, "the service's": self._token, "the proxy's": self._proxys, "the cookies'": cookies}

    def servers(self) -> list[int]:
        """Return the process of the user's server, if there is one."""
        pattern = f"{sys.prefix}/bin/jupyterhub-singleuser"
        done = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    def request(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Ask the hub, or the user's server through it, as one of the hub's services."""
        request = urllib.request.Request(
            f"{_PUBLIC}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            return json.loads(answer.read() or "null")

    def spawn(self) -> None:
        """Start alice's server without her, and wait until it is there."""
        self.request("hub/api/users/alice/server", "POST")
        self._wait(lambda: self.request("hub/api/users/alice")["servers"][""]["ready"])

    def stop(self) -> None:
        """End alice's server, as an administrator or a culler does."""
        self.request("hub/api/users/alice/server", "DELETE")
        self.wait_for_no_server()

    def wait_for_no_server(self) -> None:
        """Wait until the user's server has ended."""
        deadline = time.monotonic() + _PATIENCE
        while self.servers():
            assert time.monotonic() < deadline, self.servers()
            time.sleep(0.1)

    def wait_for_client(self) -> None:
        """Wait until a page is connected to a kernel: what is run before that, JupyterLab drops without a word."""
        self._wait(lambda: any(kernel["connections"] for kernel in self.request("user/alice/api/kernels")))

    def wait_for_kernel(self) -> None:
        """Wait until alice's server has heard that its kernel is idle."""
        self._wait(lambda: [kernel["execution_state"] for kernel in self.request("user/alice/api/kernels")] == ["idle"])

    def __enter__(self) -> Self:
        config = self._folder / "jupyterhub_config.json"
        config.write_text(json.dumps(self._config()))
        with (self._folder / "hub.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", f"--config={config}"],
                cwd=self._folder,
                env={
                    **{
                        name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "XDG_RUNTIME_DIR"}
                    },
                    "PATH": f"{sys.prefix}/bin:{PATH}",
                    "CONFIGPROXY_AUTH_TOKEN": self._proxys,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait(lambda: self.request("hub/api/users/alice")["name"] == "alice")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        print((self._folder / "hub.log").read_text(errors="replace")[-10_000:])  # shown when the test has failed

    def end(self) -> None:
        """End the hub, which ends its servers and its proxy."""
        assert self._process
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()

    def _wait(self, condition: Callable[[], object]) -> None:
        assert self._process
        deadline = time.monotonic() + _PATIENCE
        while not self._holds(condition):
            log = (self._folder / "hub.log").read_text(errors="replace")
            assert self._process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)

    def _holds(self, condition: Callable[[], object]) -> bool:
        try:
            return bool(condition())
        except OSError:  # it does not answer yet, or not with this
            return False

    def _config(self) -> Any:
        service = {"name": "tests", "api_token": self._token}
        role = {"name": "tests", "services": ["tests"], "scopes": ["admin:users", "admin:servers", "access:servers"]}
        config: dict[str, dict[str, Any]] = {
            "JupyterHub": {
                "authenticator_class": "dummy",  # whoever can reach it is let in
                "bind_url": _PUBLIC,
                "hub_bind_url": _HUB,
                "services": [service],
                "load_roles": [role],
            },
            "Authenticator": {"allowed_users": ["alice"]},
            "ConfigurableHTTPProxy": {"api_url": _PROXY, "command": [f"{sys.prefix}/bin/configurable-http-proxy"]},
            "Spawner": {
                "start_timeout": 300,
                "http_timeout": 120,
                "cmd": [f"{sys.prefix}/bin/jupyterhub-singleuser"],
                "environment": self._own.env,
                "notebook_dir": str(self._notebooks),
            },
        }
        return {name: {**config.get(name, {}), **self._spawner.get(name, {})} for name in {*config, *self._spawner}}
