"""A Jupyter server on the login node, with kernelspecs that the real command has installed."""

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nbformat

_PATIENCE = 120.0
_NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


class Own:
    """What a server keeps for itself: kernelspecs, settings, what it writes down.

    :param folder: everything goes below this
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "server.log"
        config = folder / "config/labconfig"
        config.mkdir(parents=True)
        (config / "page_config.json").write_text(json.dumps(_NO_NEWS))

    @property
    def env(self) -> dict[str, str]:
        """Return the variables by which Jupyter finds it."""
        return {
            "JUPYTER_PATH": str(self._folder / "share/jupyter"),
            "JUPYTER_CONFIG_DIR": str(self._folder / "config"),
            "JUPYTER_DATA_DIR": str(self._folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self._folder / "runtime"),
        }

    def install(self, template: str, *options: str) -> None:
        """Install a kernelspec as a user does."""
        argv = ["kernelspec", "install", template, "--prefix", str(self._folder), *options]
        program = [sys.executable, "-m", "farkernel.provisioners.cli"]
        subprocess.run([*program, *argv], check=True, timeout=_PATIENCE, env={**os.environ, **self.env})


class Server:
    """JupyterLab and Notebook 7 in one process, while it is entered.

    :param notebooks: what it serves
    """

    def __init__(self, own: Own, notebooks: Path) -> None:
        self.notebooks = notebooks
        self.install = own.install
        self._own = own
        self._token = secrets.token_hex(16)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def notebook(self, name: str, *cells: str, kernel: str) -> Path:
        """Write a notebook that wants this kernel."""
        book = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        )
        path = self.notebooks / name
        nbformat.write(book, path)
        return path

    def url(self, path: str) -> str:
        """Return where a page is, with the token."""
        return f"http://127.0.0.1:{self._port}/{path}?token={self._token}"

    def kernels(self) -> list[dict[str, Any]]:
        """Return the kernels that the server has."""
        with urllib.request.urlopen(self.url("api/kernels"), timeout=_PATIENCE) as answer:
            kernels: list[dict[str, Any]] = json.load(answer)
        return kernels

    def wait_for_client(self) -> None:
        """Wait until a page is connected to a kernel: what is run before that, JupyterLab drops without a word."""
        self._wait_for_kernels(lambda kernels: any(kernel["connections"] for kernel in kernels))

    def wait_for_no_kernel(self) -> None:
        """Wait until the server has taken note of its kernels' ends."""
        self._wait_for_kernels(lambda kernels: not kernels)

    def _wait_for_kernels(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not self._has(wanted):
            assert time.monotonic() < deadline, self.kernels()
            time.sleep(0.05)

    def _has(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> bool:
        try:
            return wanted(self.kernels())
        except urllib.error.HTTPError:
            return False  # jupyter_server cannot list a kernel whose start has not returned

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        with self._own.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={self._port}"],
                cwd=self.notebooks,
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        print(self._own.log.read_text(errors="replace")[-10_000:])  # pytest shows it when the test has failed

    def _wait(self) -> None:
        assert self._process
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.kernels()
            except (urllib.error.URLError, http.client.HTTPException, OSError):
                alive = self._process.poll() is None
                assert alive, self._own.log.read_text()
                assert time.monotonic() < deadline, self._own.log.read_text()
                time.sleep(0.2)
            else:
                return

    def _end(self) -> None:
        assert self._process
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self._own.env, "JUPYTER_TOKEN": self._token}
