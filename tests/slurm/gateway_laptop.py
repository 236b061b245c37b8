"""A user's laptop: a JupyterLab that gets its kernels from a gateway, and what a browser makes of it.

`python gateway_laptop.py < request.json`, where the request is `{"story": NAME, "gateway": URL, "token": TOKEN,
"kernel": NAME, ...}`; what was seen is JSON on standard output. It judges nothing.
"""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jupyter_server.services.kernels.connection.base import deserialize_binary_message, serialize_binary_message
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

Message = dict[str, Any]

_PATIENCE = 120.0
_LARGEST = 2**30
"""Bytes of a message; a browser takes any."""

_NOTEBOOK = "work.ipynb"
_JOB = "import os; print(os.environ['SLURM_JOB_ID'])"


# ---- JupyterLab ----


class Lab:
    """The server on the laptop's loopback, as a browser reaches it."""

    def __init__(self, place: str, token: str) -> None:
        self.place = place
        self._headers = {"Authorization": f"token {token}"}

    async def fetch(self, path: str, method: str = "GET", body: Message | None = None) -> HTTPResponse:
        request = HTTPRequest(
            f"http://{self.place}{path}",
            method=method,
            headers=self._headers,
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,  # a POST without a body
            request_timeout=_PATIENCE,
        )
        return await AsyncHTTPClient().fetch(request)

    async def get(self, path: str) -> Any:
        return json.loads((await self.fetch(path)).body)

    @contextlib.asynccontextmanager
    async def notebook(self, kernel: str) -> AsyncIterator["Notebook"]:
        """Open a notebook, which starts its kernel; closing it ends the kernel."""
        wanted = {"path": _NOTEBOOK, "name": _NOTEBOOK, "type": "notebook", "kernel": {"name": kernel}}
        session = json.loads((await self.fetch("/api/sessions", "POST", wanted)).body)
        try:
            async with self.page(session["kernel"]["id"]) as notebook:
                yield notebook
        finally:
            await self.fetch(f"/api/sessions/{session['id']}", "DELETE")

    @contextlib.asynccontextmanager
    async def page(self, kernel_id: str, before: "Notebook | None" = None) -> AsyncIterator["Notebook"]:
        """Connect to a kernel; as a page that was connected before."""
        session = before.session if before else str(uuid.uuid4())
        path = f"/api/kernels/{kernel_id}/channels?session_id={session}"
        request = HTTPRequest(f"ws://{self.place}{path}", headers=self._headers)
        connection = await websocket_connect(request, max_message_size=_LARGEST)
        notebook = Notebook(self, kernel_id, connection, session, before.cells if before else {})
        reading = asyncio.create_task(notebook.read())
        try:
            yield notebook
        finally:
            reading.cancel()
            connection.close()

    async def ready(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    await self.fetch("/api/status")
                    return
                await asyncio.sleep(0.1)


@contextlib.contextmanager
def jupyterlab(gateway: str, token: str, *options: str, **env: str) -> Iterator[Lab]:
    """Start JupyterLab with nothing on the laptop that it could know of kernels."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="laptop-") as home, Path(home, "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                f"--port={port}",
                f"--gateway-url={gateway}",
                *options,
            ],
            cwd=home,
            env={**os.environ, "HOME": home, "JUPYTER_TOKEN": own, "JUPYTER_GATEWAY_AUTH_TOKEN": token, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield Lab(f"127.0.0.1:{port}", own)
        except BaseException:
            print(Path(home, "log").read_text(errors="replace")[-10_000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            finally:
                process.kill()
                process.wait()


# ---- a notebook in it ----


class Cell:
    """One execution: what was published for it, and its reply."""

    def __init__(self, notebook: "Notebook") -> None:
        self.messages: list[Message] = []
        self._notebook = notebook

    @property
    def stdout(self) -> str:
        return "".join(content["text"] for content in self.contents("stream") if content["name"] == "stdout")

    @property
    def stderr(self) -> str:
        return "".join(content["text"] for content in self.contents("stream") if content["name"] == "stderr")

    @property
    def errors(self) -> list[str]:
        return [f"{content['ename']}: {content['evalue']}" for content in self.contents("error")]

    @property
    def kinds(self) -> list[str]:
        return [message["header"]["msg_type"] for message in self.messages]

    def contents(self, kind: str) -> list[Message]:
        return [message["content"] for message in self.messages if message["header"]["msg_type"] == kind]

    async def prints(self, text: str) -> None:
        await self._notebook.until(lambda: text in self.stdout)

    @property
    def shown(self) -> list[str]:
        """What it has displayed, one after the other."""
        contents = self.contents("display_data") + self.contents("update_display_data")
        return [content["data"]["text/plain"] for content in contents]

    async def shows(self, text: str = "") -> list[str]:
        """Wait until something with this text is displayed, and return all that was."""
        await self._notebook.until(lambda: any(text in shown for shown in self.shown))
        return self.shown

    async def done(self) -> "Cell":
        """Wait until it has its reply and the kernel is idle."""
        idle = {"execution_state": "idle"}
        await self._notebook.until(lambda: self.contents("execute_reply") and idle in self.contents("status"))
        return self


class Notebook:
    """What a browser's page knows of one kernel: a websocket with all channels, and the kernel's REST."""

    def __init__(
        self, lab: Lab, kernel_id: str, connection: WebSocketClientConnection, session: str, cells: "dict[str, Cell]"
    ) -> None:
        self.session = session
        self.cells = cells
        self._lab = lab
        self._path = f"/api/kernels/{kernel_id}"
        self._connection = connection
        self._answer = ""
        self._news = asyncio.Event()
        self._here = asyncio.Event()
        self._here.set()

    async def send(self, code: str, answer: str = "") -> Cell:
        """Run a cell without waiting for it; `answer` is what the user types when asked."""
        self._answer = answer
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": True,
            "stop_on_error": True,
        }
        message_id = str(uuid.uuid4())
        cell = self.cells[message_id] = Cell(self)
        await self._write("shell", "execute_request", content, message_id)
        return cell

    async def send_comm(self, comm: str, *buffers: bytes) -> Cell:
        """Send a widget's message to the kernel."""
        message_id = str(uuid.uuid4())
        cell = self.cells[message_id] = Cell(self)
        await self._write("shell", "comm_msg", {"comm_id": comm, "data": {}}, message_id, *buffers)
        return cell

    async def run(self, code: str, answer: str = "") -> Cell:
        """Run a cell to its end."""
        return await (await self.send(code, answer)).done()

    async def run_after_error(self, code: str) -> Cell:
        """Run a cell, again if it came too soon: IPython aborts what comes in the moment after an error."""
        while (cell := await self.run(code)).contents("execute_reply")[0]["status"] == "aborted":
            pass
        return cell

    async def press(self, button: str) -> None:
        """Press `interrupt` or `restart`."""
        await self._lab.fetch(f"{self._path}/{button}", "POST")

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so; looked at whenever a message has come."""
        async with asyncio.timeout(_PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def leave(self, away: bool) -> None:
        """Read nothing, or read on."""
        if away:
            self._here.clear()
        else:
            self._here.set()

    async def read(self) -> None:
        """Take whatever comes, until the connection ends."""
        while True:
            await self._here.wait()
            if not (text := await self._connection.read_message()):
                return
            binary = isinstance(text, bytes)
            message = deserialize_binary_message(text) if binary else json.loads(text)  # type: ignore[no-untyped-call]
            if message["header"]["msg_type"] == "input_request":
                await self._write("stdin", "input_reply", {"value": self._answer}, str(uuid.uuid4()))
            if cell := self.cells.get(message["parent_header"].get("msg_id", "")):
                cell.messages.append(message)
            self._news.set()

    async def _write(self, channel: str, kind: str, content: Message, message_id: str, *buffers: bytes) -> None:
        header = {
            "msg_id": message_id,
            "msg_type": kind,
            "session": self.session,
            "username": "alice",
            "date": "",
            "version": "5.4",
        }
        message = {"channel": channel, "header": header, "parent_header": {}, "metadata": {}, "content": content}
        if buffers:
            binary = serialize_binary_message({**message, "buffers": buffers})  # type: ignore[no-untyped-call]
            await self._connection.write_message(binary, binary=True)
        else:
            await self._connection.write_message(json.dumps({**message, "buffers": []}))


# ---- what the user does ----


async def work(lab: Lab, request: Mapping[str, Any]) -> Message:
    """Look at the launcher, then do with a kernel what one does with a kernel."""
    spec = (await lab.get("/api/kernelspecs"))["kernelspecs"][request["kernel"]]
    logo = await lab.fetch(spec["resources"]["logo-svg"])
    async with lab.notebook(request["kernel"]) as notebook:
        where = await notebook.run("import socket; x = 1; print(socket.gethostname())")
        job = await notebook.run(_JOB)
        mark = await notebook.run(f"import os; print(os.path.exists({request.get('mark', '')!r}))")
        asked = await notebook.run("print('hello', input('who? '))", answer="alice")
        sleeper = await notebook.send("import time; print('sleeps', flush=True); time.sleep(600)")
        await sleeper.prints("sleeps")
        await notebook.press("interrupt")
        await sleeper.done()
        kept = await notebook.run_after_error("print(x)")
        await notebook.press("restart")
        lost = await notebook.run("print(x)")
        job_then = await notebook.run_after_error(_JOB)
    return {
        "name": spec["spec"]["display_name"],
        "logo": [logo.headers["Content-Type"], logo.body.decode()],
        "where": where.stdout,
        "marked": mark.stdout,
        "jobs": [job.stdout.strip(), job_then.stdout.strip()],
        "prompts": [content["prompt"] for content in asked.contents("input_request")],
        "asked": asked.stdout,
        "interrupted": sleeper.errors,
        "kept": kept.stdout,
        "lost": lost.errors,
        "left": await lab.get("/api/kernels"),
    }


async def wait(lab: Lab, request: Mapping[str, Any]) -> Message:
    """Start a kernel whose job has to wait, run a cell at once, and ring `request["bell"]` when it shows something."""
    async with lab.notebook(request["kernel"]) as notebook:
        listed = await lab.get("/api/kernels")
        cell = await notebook.send("print('mine')")
        shown = await cell.shows("PENDING")  # before that, it may still be on its way to Slurm
        _, bell = await asyncio.open_connection(*request["bell"])
        bell.close()
        await cell.done()
    return {
        "listed": [kernel["name"] for kernel in listed],
        "shown": shown,
        "kinds": cell.kinds,
        "stdout": cell.stdout,
        "errors": cell.errors,
        "left": await lab.get("/api/kernels"),
    }


async def fail(lab: Lab, request: Mapping[str, Any]) -> Message:
    """Ask for a kernel that there cannot be."""
    told = ""
    try:
        async with lab.notebook(request["kernel"]):
            pass
    except HTTPClientError as error:
        if error.response:
            told = json.loads(error.response.body)["message"]
    return {"told": told, "left": await lab.get("/api/kernels")}


STORIES = {"work": work, "wait": wait, "fail": fail}


async def tell(lab: Lab, request: Mapping[str, Any]) -> Message:
    await lab.ready()
    return await STORIES[request["story"]](lab, request)


def main() -> None:
    request = json.load(sys.stdin)
    with jupyterlab(request["gateway"], request["token"]) as lab:
        saw = asyncio.run(tell(lab, request))
    print(json.dumps(saw))


if __name__ == "__main__":
    main()
