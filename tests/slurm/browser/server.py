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

_PATIENCE = 60.0
_NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


class Server:
    """JupyterLab and Notebook 7 in one process, while it is entered.

    :param own: what it keeps for itself goes below this
    :param notebooks: what it serves
    """

    def __init__(self, own: Path, notebooks: Path) -> None:
        self.notebooks = notebooks
        self.log = own / "server.log"
        self._own = own
        self._token = secrets.token_hex(16)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def install(self, template: str, *options: str) -> None:
        """Install a kernelspec as a user does."""
        argv = ["kernelspec", "install", template, "--prefix", str(self._own), *options]
        subprocess.run(
            [sys.executable, "-m", "farkernel.provisioners.cli", *argv], check=True, timeout=60, env=self._env()
        )

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
        config = self._own / "config/labconfig"
        config.mkdir(parents=True)
        (config / "page_config.json").write_text(json.dumps(_NO_NEWS))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        with self.log.open("wb") as log:
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
        print(self.log.read_text(errors="replace")[-10_000:])  # pytest shows it when the test has failed

    def _wait(self) -> None:
        assert self._process
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.kernels()
            except (urllib.error.URLError, http.client.HTTPException, OSError):
                alive = self._process.poll() is None
                assert alive, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
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
        return {
            **os.environ,
            "JUPYTER_PATH": str(self._own / "share/jupyter"),
            "JUPYTER_CONFIG_DIR": str(self._own / "config"),
            "JUPYTER_DATA_DIR": str(self._own / "data"),
            "JUPYTER_RUNTIME_DIR": str(self._own / "runtime"),
            "JUPYTER_TOKEN": self._token,
        }
