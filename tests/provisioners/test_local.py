"""The whole of it on this machine, through the clients that Jupyter has."""

import asyncio
import contextlib
import json
import logging
import os
import pathlib
import re
import signal
import socket
import stat
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import nbformat
import pytest
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.multikernelmanager import AsyncMultiKernelManager
from nbclient import NotebookClient
from traitlets.config import Config

from farkernel.launcher.endpoints import MAX_FRAME
from farkernel.provisioners import clients
from farkernel.provisioners.containers.base import NoContainer
from farkernel.provisioners.errors import (
    CannotListen,
    CommandRefused,
    FarkernelError,
    ImportFailed,
    KernelCommandMissing,
    KernelFailed,
    PythonMissing,
    RequestError,
    StartCancelled,
)
from farkernel.provisioners.hosts import ThisHost
from farkernel.provisioners.job import LocalJob
from farkernel.provisioners.queue import Queue
from farkernel.provisioners.request import ContainerRequest, Request
from tests.launcher import garbage, processes
from tests.launcher.ends import until
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.servers import shut_down

MARK = "FARKERNEL_TEST"
IPYKERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


class Site:
    """A user's kernelspecs and directories, and what is left of the kernels."""

    def __init__(self, folder: pathlib.Path, short: pathlib.Path) -> None:
        self.folder = folder
        self.fronts = short / "fronts"
        self.nodes = short / "nodes"
        self.mark = uuid.uuid4().hex
        for directory in (self.fronts, self.nodes):
            directory.mkdir(mode=0o700)

    def kernelspec(
        self, argv: list[str] | None = None, *, env: dict[str, str] | None = None, **config: Any
    ) -> pathlib.Path:
        """Write the kernelspec `far`."""
        file = self.folder / "kernels/far/kernel.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        config["launcher"] = {"directory": str(self.nodes), **config.get("launcher", {})}
        spec = {
            "argv": argv or IPYKERNEL,
            "display_name": "Far",
            "language": "python",
            "env": env or {},
            "metadata": {"kernel_provisioner": {"provisioner_name": "farkernel-local", "config": config}},
        }
        file.write_text(json.dumps(spec))
        return file

    def left(self) -> list[str]:
        """Return what there is of processes, directories and sockets."""
        pids = processes.with_variable(MARK, self.mark)
        return processes.described(pids) + processes.all_below(self.fronts) + processes.all_below(self.nodes)

    def assert_nothing_is_left(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while left := self.left():
            assert time.monotonic() < deadline, left
            time.sleep(0.02)


@pytest.fixture
def site(tmp_path: pathlib.Path, short: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A user's home; a test that leaves a process, a directory or a socket behind fails."""
    site = Site(tmp_path / "jupyter", short)
    site.kernelspec()
    monkeypatch.setenv("JUPYTER_PATH", str(site.folder))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(site.fronts))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv(MARK, site.mark)
    yield site
    site.assert_nothing_is_left()
    for directory in (site.fronts, site.nodes):
        directory.rmdir()


# ---- asynchronous ----


class Notebook:
    """A kernel and its client."""

    def __init__(self, manager: AsyncKernelManager) -> None:
        self.manager = manager
        self.client: AsyncKernelClient = manager.client()
        self.client.start_channels()

    async def run(self, code: str, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Run a cell; return its reply's content, and the messages of its output up to its idle."""
        request = self.client.execute(code, **options)
        return await self.result(request)

    async def result(self, request: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Wait for a cell's reply and idle."""
        reply, output = await asyncio.wait_for(asyncio.gather(self._reply(request), self._output(request)), 60)
        return reply, output

    async def begin(self, code: str, word: str) -> str:
        """Begin to run a cell, and wait until it has printed a word; return its id."""
        request: str = self.client.execute(code)
        while word not in (await self.client.get_iopub_msg(timeout=PATIENCE))["content"].get("text", ""):
            pass
        return request

    async def sleep(self) -> str:
        """Begin to run a cell that sleeps for long: a kernel that is not yet at it takes no interrupt."""
        return await self.begin("import time\nprint('sleeps', flush=True)\ntime.sleep(600)", "sleeps")

    async def text(self, code: str) -> str:
        """Run a cell; return what it prints."""
        reply, output = await self.run(code)
        assert reply["status"] == "ok", reply
        return _text(output)

    async def text_anew(self, code: str) -> str:
        """Run a cell after the kernel has died, again if it came before the next one; return what it prints."""
        reply, output = await self.run(code)
        while reply["status"] == "aborted":
            reply, output = await self.run(code)
        assert reply["status"] == "ok", reply
        return _text(output)

    async def _reply(self, request: str) -> dict[str, Any]:
        while True:
            message = await self.client.get_shell_msg()
            if message["parent_header"].get("msg_id") == request:
                content: dict[str, Any] = message["content"]
                return content

    async def _output(self, request: str) -> list[dict[str, Any]]:
        output: list[dict[str, Any]] = []
        while True:
            message = await self.client.get_iopub_msg()
            if message["parent_header"].get("msg_id") == request:
                output.append(message)
                if message["content"].get("execution_state") == "idle":
                    return output


def _text(output: list[dict[str, Any]], name: str = "stdout") -> str:
    streams = (message["content"] for message in output if message["msg_type"] == "stream")
    return "".join(content["text"] for content in streams if content["name"] == name)


@contextlib.asynccontextmanager
async def _notebook(**options: Any) -> AsyncIterator[Notebook]:
    manager = AsyncKernelManager(kernel_name="far")
    await manager.start_kernel(**options)
    try:
        notebook = Notebook(manager)
        await notebook.client.wait_for_ready(timeout=60)
        yield notebook
    finally:
        await manager.shutdown_kernel(now=True)
        notebook.client.stop_channels()


@pytest.mark.usefixtures("site")
def test_a_cell_has_its_result_its_output_and_its_errors() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            reply, output = await notebook.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
            assert reply["status"] == "ok"
            assert (_text(output), _text(output, "stderr")) == ("out\n", "err\n")
            (result,) = [message for message in output if message["msg_type"] == "execute_result"]
            assert result["content"]["data"]["text/plain"] == "42"

            reply, output = await notebook.run("1 / 0")
            assert (reply["status"], reply["ename"]) == ("error", "ZeroDivisionError")
            assert [message["msg_type"] for message in output].count("error") == 1

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_a_request_that_is_too_large_is_told_so() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            reply, _ = await notebook.run(f"'{'x' * (MAX_FRAME + 1)}'")
            assert (reply["status"], reply["ename"]) == ("error", "RequestTooLarge")
            assert await notebook.text("print(6 * 7)") == "42\n"

    asyncio.run(use())


# A kernel's own socket drops what its own I/O thread does not take in time, on a busy machine: hence the pauses.
_COUNT = """
import time
for i in range({}):
    print(i, flush=True)
    if i % 200 == 0:
        time.sleep(0.02)
"""


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", ["unknown_request", "comm_msg", ""])
@pytest.mark.parametrize("channel", ["shell", "control"])
def test_what_a_kernel_says_nothing_to_does_not_use_up_its_room(
    monkeypatch: pytest.MonkeyPatch, kind: str, channel: str
) -> None:
    monkeypatch.setattr(clients, "OPEN_LIMIT", 2**20)

    async def use() -> None:
        async with _notebook() as notebook:
            session = notebook.client.session
            socket = getattr(notebook.client, f"{channel}_channel").socket
            for _ in range(8):
                for _ in range(5):
                    message = session.msg(kind or "none", {"comm_id": "x", "data": "x" * 100_000})
                    socket.send_multipart(session.serialize(message) if kind else [bytes(100_000)])
                assert await notebook.text("print('on')") == "on\n"

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_no_line_of_ten_thousand_is_lost() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            _, output = await notebook.run(_COUNT.format(10_000))
            _assert_all_are_there_or_told(output, 10_000)

    asyncio.run(use())


def _assert_all_are_there_or_told(output: list[dict[str, Any]], count: int) -> None:
    """What a kernel's own I/O thread does not take in time never leaves it: how much is to be told."""
    lines = _text(output).split()
    told = sum(map(int, re.findall(r"about (\d+) messages were dropped", _text(output, "stderr"))))
    if told:
        assert 0 < count - len(lines) <= told <= 2 * (count - len(lines))  # a line and its end may be two messages
    else:
        assert lines == [str(number) for number in range(count)]


_PRINT_WHILE_STOPPED = """
import pathlib, time
print("begun", flush=True)
while not pathlib.Path({stopped!r}).exists():
    time.sleep(0.01)
for number in range(5000):
    print(number, flush=True)
pathlib.Path({printed!r}).touch()
"""


@pytest.mark.usefixtures("site")
def test_a_cell_ends_and_says_so_when_the_kernels_own_queue_has_dropped_its_end(tmp_path: pathlib.Path) -> None:
    """Nobody takes what it prints: the launcher gets no processor time."""
    stopped, printed = tmp_path / "stopped", tmp_path / "printed"

    async def use() -> None:
        async with _notebook() as notebook:
            launcher = int(await notebook.text("import os; print(os.environ['JPY_PARENT_PID'])"))
            code = _PRINT_WHILE_STOPPED.format(stopped=str(stopped), printed=str(printed))
            request = await notebook.begin(code, "begun")
            os.kill(launcher, signal.SIGSTOP)
            try:
                stopped.touch()
                await until(printed.exists)
            finally:
                os.kill(launcher, signal.SIGCONT)
            reply, output = await notebook.result(request)
            assert reply["status"] == "ok"
            assert 900 < len(_text(output).split()) < 5000
            assert _text(output, "stderr").count("output is missing here") == 1
            assert await notebook.text("print('next')") == "next\n"

    asyncio.run(use())


_PRINT_AND_END = """
import os, pathlib, time
print("begun", flush=True)
while not pathlib.Path({stopped!r}).exists():
    time.sleep(0.01)
for number in range(900):
    print(number, flush=True)
time.sleep(3)  # until they have left the process
os._exit(3)
"""


def test_the_last_words_of_a_kernel_are_not_lost(site: Site, tmp_path: pathlib.Path) -> None:
    """The launcher hears of its end and of what it has printed at the same time."""
    site.kernelspec(kernel={"transport": "tcp"})  # that takes more from a process that ends than a unix socket
    stopped = tmp_path / "stopped"

    async def use() -> None:
        async with _notebook() as notebook:
            launcher, kernel = (await notebook.text("import os; print(os.getppid(), os.getpid())")).split()
            request = await notebook.begin(_PRINT_AND_END.format(stopped=str(stopped)), "begun")
            os.kill(int(launcher), signal.SIGSTOP)
            try:
                stopped.touch()
                await until(lambda: not processes.runs(int(kernel)))
            finally:
                os.kill(int(launcher), signal.SIGCONT)
            reply, output = await notebook.result(request)
            assert reply["ename"] == "KernelDied"
            assert _text(output).split() == [str(number) for number in range(900)]

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_much_output_arrives_whole() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            text = await notebook.text("print('0123456789' * 2_000_000)")
            assert text == "0123456789" * 2_000_000 + "\n"
            await notebook.text("data = '0123456789' * 2_000_000")
            reply, _ = await notebook.run("", user_expressions={"size": "len(data)"})
            assert reply["user_expressions"]["size"]["data"]["text/plain"] == "20000000"

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_much_input_arrives_whole() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            assert await notebook.text(f"print(len({'x' * 2_000_000!r}))") == "2000000\n"

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_a_cell_is_interrupted_and_the_kernel_lives_on() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            await notebook.text("kept = 1")
            request = await notebook.sleep()
            await notebook.manager.interrupt_kernel()
            reply, _ = await notebook.result(request)
            assert reply["ename"] == "KeyboardInterrupt"
            assert await notebook.text("print(kept)") == "1\n"

    asyncio.run(use())


@pytest.mark.parametrize("now", [True, False])
def test_a_restarted_kernel_is_new_and_clients_stay_connected(site: Site, now: bool) -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            await notebook.text("import os; kept = 1")
            before = notebook.manager.get_connection_info()
            fronts, old = list(site.fronts.iterdir()), await notebook.text("print(os.getpid())")

            await notebook.manager.restart_kernel(now=now)
            await notebook.client.wait_for_ready(timeout=60)

            assert notebook.manager.get_connection_info() == before
            assert list(site.fronts.iterdir()) == fronts
            assert await notebook.text("print('kept' in dir())") == "False\n"
            assert await notebook.text("import os; print(os.getpid())") != old
            processes.wait_until_none_runs([int(old)])

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_a_cell_that_runs_at_a_restart_is_ended() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            request = await notebook.sleep()
            await notebook.manager.restart_kernel(now=True)
            reply, _ = await notebook.result(request)
            assert reply["status"] in {"error", "aborted"}

    asyncio.run(use())


@pytest.mark.parametrize("interface", [None, "lo", "127.0.0.2", "::1"])
@pytest.mark.parametrize("connect", ["node", "login"])
def test_either_side_may_be_the_one_that_connects(site: Site, connect: str, interface: str | None) -> None:
    if interface == "::1" and not pathlib.Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    site.kernelspec(launcher={"connect": connect, "interface": interface})

    async def use() -> None:
        async with _notebook() as notebook:
            assert await notebook.text("kept = 42; print(kept)") == "42\n"
            request = await notebook.sleep()
            await notebook.manager.interrupt_kernel()
            reply, _ = await notebook.result(request)
            assert reply["ename"] == "KeyboardInterrupt"
            assert await notebook.text("print(kept)") == "42\n"

            await notebook.manager.restart_kernel()
            await notebook.client.wait_for_ready(timeout=60)
            assert await notebook.text("print('kept' in dir())") == "False\n"

    asyncio.run(use())


@pytest.mark.parametrize("connect", ["node", "login"])
def test_an_output_that_is_larger_than_any_request_may_be_arrives_whole(site: Site, connect: str) -> None:
    site.kernelspec(launcher={"connect": connect})

    async def use() -> None:
        async with _notebook() as notebook:
            length = MAX_FRAME + 1000
            code = f"display({{'text/plain': 'x' * {length} + 'end'}}, raw=True)"
            _, output = await notebook.run(code)
            (shown,) = [message["content"] for message in output if message["msg_type"] == "display_data"]
            assert shown["data"]["text/plain"] == "x" * length + "end"
            assert await notebook.text("print(6 * 7)") == "42\n"

    asyncio.run(use())


def test_the_login_sides_port_is_closed_with_the_kernel(site: Site) -> None:
    port = free_port()
    site.kernelspec(launcher={"connect": "login", "interface": "lo", "ports": f"{port}-{port}"})

    async def use() -> None:
        async with _notebook() as notebook:
            assert await notebook.text("print(6 * 7)") == "42\n"
            socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    asyncio.run(use())


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_cell_that_ends_its_kernel_is_told_how_and_so_is_what_waits_behind_it(code: str, how: str) -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            first = notebook.client.execute(code)
            second = notebook.client.execute("print('never')")

            reply, output = await notebook.result(first)
            assert (reply["status"], reply["ename"]) == ("error", "KernelDied")
            assert how in reply["evalue"]
            (error,) = [message["content"] for message in output if message["msg_type"] == "error"]
            assert how in "".join(error["traceback"])

            reply = (await notebook.client.get_shell_msg(timeout=60))["content"]
            assert reply["status"] in {"error", "aborted"}
            async with asyncio.timeout(PATIENCE):  # the cell is told before the server is
                while await notebook.manager.is_alive():
                    await asyncio.sleep(0.02)
            assert second

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_a_crash_is_told_also_after_a_signal_that_the_kernel_has_handled() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            handle = "import signal; signal.signal(signal.SIGTERM, lambda *_: globals().update(told=True))"
            await notebook.run(handle)
            await notebook.manager.signal_kernel(signal.SIGTERM)
            waits = "import time\nwhile 'told' not in globals(): time.sleep(0.02)"
            assert (await notebook.run(waits))[0]["status"] == "ok"

            reply, _ = await notebook.run("import os; os._exit(3)")

            assert (reply["status"], reply["ename"]) == ("error", "KernelDied")
            assert "exit code 3" in reply["evalue"]

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_what_is_asked_of_a_kernel_that_has_crashed_is_not_done_by_the_next() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            await notebook.run("import os; os._exit(1)")
            late = [notebook.client.execute("late = 1") for _ in range(3)]
            question = notebook.client.kernel_info()
            await notebook.manager.restart_kernel(now=True)
            replies = {m["parent_header"]["msg_id"]: m["content"] for m in [await _answer(notebook) for _ in range(4)]}
            assert [replies[request]["status"] for request in late] == ["aborted"] * 3
            assert replies[question]["language_info"]["name"] == "python"
            assert await notebook.text("print('late' in dir())") == "False\n"

    async def _answer(notebook: Notebook) -> dict[str, Any]:
        return await notebook.client.get_shell_msg(timeout=60)

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_garbage_on_the_sockets_disturbs_no_cell() -> None:
    """Only the user's own processes can send any."""

    async def use() -> None:
        async with _notebook() as notebook:
            await notebook.text("count = 0")
            session = notebook.client.session
            message = session.msg("execute_request", {"code": "count += 1", "silent": True})
            replayed = session.serialize(message)
            deep = [b"<IDS|MSG>", b"", b"[" * 100_000, b"{}", b"{}", b"{}"]
            garbage = [[b""], [b"x"] * 1000, [b"<IDS|MSG>"], deep, [os.urandom(2**20)], replayed, replayed, replayed]
            with zmq.Context() as context:
                sockets = [_raw(context, notebook.manager, port) for port in (1, 3, 4, 5)]
                for frames in garbage:
                    for socket in sockets:
                        socket.send_multipart(frames)
                assert await notebook.text("print('on')") == "on\n"
                while await notebook.text("print(count)") == "0\n":
                    pass  # what is right among it may be later than this
                context.destroy(0)
            assert await notebook.text("print(count)") == "1\n"  # ipykernel itself knows a signature that it has seen
            await notebook.manager.interrupt_kernel()
            assert await notebook.text("print('still')") == "still\n"

    asyncio.run(use())


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("seed", range(3))
def test_connections_that_are_none_disturb_no_cell(site: Site, seed: int) -> None:
    """To the front's sockets, and to those between the launcher and the kernel."""

    async def use() -> None:
        async with _notebook() as notebook:
            sockets = [file for place in (site.fronts, site.nodes) for file in place.rglob("*") if file.is_socket()]
            real = sorted({str(file.resolve()) for file in sockets})
            assert len(real) == 10
            for socket in real:
                await asyncio.to_thread(garbage.attack, socket, seed, 60)
            assert await notebook.text("print('on')") == "on\n"
            assert (await notebook.run("input()", allow_stdin=False))[0]["status"] == "error"
            await notebook.manager.interrupt_kernel()
            await notebook.manager.restart_kernel()
            assert await notebook.text_anew("print('still')") == "still\n"

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_subscriptions_that_are_none_disturb_no_cell() -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            await notebook.text("1")
            with zmq.Context() as context:
                subscriber = context.socket(zmq.XSUB)
                subscriber.connect(f"ipc://{notebook.manager.ip}-{notebook.manager.iopub_port}")
                for number in range(3000):
                    subscriber.send(b"\1" + b"%d" % number + os.urandom(100))  # a topic that there is none of
                for frames in [b""], [b"\2x"], [b"\0never"], [b"\1"] * 50, [b"\1" + bytes(10_000)], [b"x"] * 100:
                    subscriber.send_multipart(frames)
                assert await notebook.text("print('on')") == "on\n"
                subscriber.close(0)
            assert await notebook.text("print('still')") == "still\n"

    asyncio.run(use())


# In a process of its own, whose memory is looked at: it starts the kernel and reads nothing of what that prints.
_SERVER = """
import asyncio, json, sys
from jupyter_client.manager import AsyncKernelManager
async def main():
    manager = AsyncKernelManager(kernel_name="far")
    await manager.start_kernel()
    print(json.dumps({**manager.get_connection_info(), "key": manager.session.key.decode()}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await manager.shutdown_kernel(now=True)
asyncio.run(main())
"""

# Large outputs and small ones, with a number now and then that a client looks for.
_ENDLESS = """
import itertools
for number in itertools.count():
    print("x" * 1_000_000, flush=True)
    for _ in range(20):
        print("-", flush=True)
    print(f"<{number}>", flush=True)
"""


def _resident(pid: int) -> int:
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.usefixtures("site")
def test_memory_is_bounded_when_a_client_does_not_read_what_a_kernel_prints_without_end() -> None:
    async def use() -> None:
        pipe = asyncio.subprocess.PIPE
        server = await asyncio.create_subprocess_exec(sys.executable, "-c", _SERVER, stdin=pipe, stdout=pipe)
        assert server.stdin
        assert server.stdout
        info = json.loads(await asyncio.wait_for(server.stdout.readline(), 60))
        client = AsyncKernelClient()
        client.load_connection_info(info)
        client.start_channels()
        with zmq.Context() as context:
            deaf = context.socket(zmq.SUB)
            deaf.rcvhwm = 1
            deaf.subscribe(b"")
            deaf.connect(f"ipc://{info['ip']}-{info['iopub_port']}")
            try:
                await client.wait_for_ready(timeout=60)
                before = _resident(server.pid)
                client.execute(_ENDLESS)
                numbers = await _numbers(client, 300)  # 300 MB
                assert numbers == sorted(set(numbers))  # the client that reads gets its output, once and in order
                assert _resident(server.pid) - before < 200 * 2**20
            finally:
                client.stop_channels()
                deaf.close(0)
                server.stdin.close()
                await asyncio.wait_for(server.wait(), 60)

    asyncio.run(use())


async def _numbers(client: AsyncKernelClient, last: int) -> list[int]:
    """Read what is printed up to a number; return the numbers."""
    numbers: list[int] = []
    while not numbers or numbers[-1] < last:
        content = (await client.get_iopub_msg(timeout=60))["content"]
        numbers += [int(number) for number in re.findall(r"<(\d+)>", content.get("text", ""))]
    return numbers


def _raw(context: zmq.Context[Any], manager: AsyncKernelManager, port: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.connect(f"ipc://{manager.ip}-{port}")
    return socket


def _manager(managers: AsyncMultiKernelManager, kernel_id: str) -> AsyncKernelManager:
    return cast("AsyncKernelManager", managers.get_kernel(kernel_id))  # its annotation names the other one


@contextlib.asynccontextmanager
async def _server() -> AsyncIterator[tuple[AsyncMultiKernelManager, str, Notebook]]:
    """Have a kernel as a notebook server has it: with a restarter, and started before it is up."""
    config = Config()
    config.KernelRestarter.time_to_dead = 0.2
    config.KernelRestarter.restart_limit = 3
    managers = AsyncMultiKernelManager(
        config=config, kernel_manager_class="jupyter_client.ioloop.AsyncIOLoopKernelManager"
    )
    kernel_id = await managers.start_kernel(kernel_name="far")
    notebook = Notebook(_manager(managers, kernel_id))
    try:
        yield managers, kernel_id, notebook
    finally:
        await shut_down(managers)
        notebook.client.stop_channels()


@pytest.mark.usefixtures("site")
def test_under_a_server_a_cell_that_is_run_at_once_waits_for_its_kernel() -> None:
    async def use() -> None:
        async with _server() as (_, _, notebook):
            assert await notebook.text("print('out')") == "out\n"

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_under_a_server_a_kernel_that_dies_is_started_anew() -> None:
    async def use() -> None:
        async with _server() as (managers, kernel_id, notebook):
            await notebook.text("kept = 1")
            for _ in range(2):
                reply, _ = await notebook.run("import os; os._exit(1)")
                assert reply["ename"] == "KernelDied"

                assert await notebook.text_anew("print('kept' in dir())") == "False\n"
                assert await _manager(managers, kernel_id).is_alive()

    asyncio.run(use())


def test_under_a_server_a_kernel_that_cannot_be_had_is_told_in_the_cell(site: Site) -> None:
    async def use() -> None:
        site.kernelspec(["sh", "-c", "sleep 3; echo broken >&2; exit 3"])  # the cell is to be there before
        async with _server() as (_, _, notebook):
            reply, output = await notebook.run("print('never')")
            assert reply["ename"] == "KernelFailed"
            assert "broken" in "".join(reply["traceback"])
            assert [message["msg_type"] for message in output].count("error") == 1

    asyncio.run(use())


def test_a_kernel_that_is_stopped_before_it_is_up_says_so_to_whoever_waits_for_it(site: Site) -> None:
    async def use() -> None:
        site.kernelspec(["sleep", "600"])
        manager = AsyncKernelManager(kernel_name="far")
        start = asyncio.ensure_future(manager.start_kernel())
        while not any(site.nodes.rglob("kernel.json")):
            await asyncio.sleep(0.02)
        with contextlib.suppress(
            asyncio.InvalidStateError
        ):  # jupyter_client has one future for both; it is its last step
            await manager.shutdown_kernel(now=True)
        with pytest.raises(StartCancelled, match="was stopped"):
            await start

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_starts_that_overlap_leave_one_kernel_that_works() -> None:
    """As when two pages ask for a restart: Jupyter does not keep them apart."""

    async def use() -> None:
        async with _server() as (managers, kernel_id, notebook):
            provisioner = _manager(managers, kernel_id).provisioner
            assert provisioner
            launcher = await notebook.text("import os; print(os.getppid())")

            async def start() -> None:
                options = await provisioner.pre_launch()
                await provisioner.launch_kernel(options.pop("cmd"), **options)

            for pause in (0, 0.01, 0.3):
                starts = [asyncio.create_task(start())]
                await asyncio.sleep(pause)
                await asyncio.gather(*starts, start(), start())
                assert await notebook.text_anew("print('kept' in dir()); kept = 1") == "False\n"
                assert await notebook.text("import os; print(os.getppid())") == launcher

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_a_restart_that_waits_for_the_end_of_anothers_kernel_does_not_call_it_dead() -> None:
    async def use() -> None:
        async with _server() as (managers, kernel_id, notebook):
            await notebook.text("kept = 1")
            provisioner = _manager(managers, kernel_id).provisioner
            assert provisioner
            await provisioner.cleanup(restart=True)  # it was to follow a kernel's end, and there was none
            assert await provisioner.poll() is None
            assert await notebook.text("print(kept)") == "1\n"

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_three_kernels_of_one_server_do_not_meet() -> None:
    async def use() -> None:
        managers = AsyncMultiKernelManager()
        names = [await managers.start_kernel(kernel_name="far") for _ in range(3)]
        notebooks = [Notebook(_manager(managers, name)) for name in names]
        for notebook, name in zip(notebooks, names, strict=True):
            await notebook.text(f"name = {name!r}")
        assert [await notebook.text("print(name)") for notebook in notebooks] == [f"{name}\n" for name in names]
        await managers.shutdown_all()
        for notebook in notebooks:
            notebook.client.stop_channels()

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_widgets_can_talk_both_ways() -> None:
    code = (
        "def opened(comm, message):\n"
        "    comm.on_msg(lambda m: comm.send({'echo': m['content']['data']}, buffers=m['buffers']))\n"
        "    comm.send({'hello': message['content']['data']})\n"
        "get_ipython().kernel.comm_manager.register_target('echo', opened)"
    )

    async def use() -> None:
        async with _notebook() as notebook:
            await notebook.text(code)
            client = notebook.client

            async def said() -> dict[str, Any]:
                while True:
                    message = await client.get_iopub_msg(timeout=60)
                    if message["msg_type"] == "comm_msg":
                        return dict(message)

            opening = {"comm_id": "1", "target_name": "echo", "data": {"a": 1}}
            client.shell_channel.send(client.session.msg("comm_open", opening))
            assert (await said())["content"]["data"] == {"hello": {"a": 1}}

            message = client.session.msg("comm_msg", {"comm_id": "1", "data": {"b": 2}})
            client.session.send(client.shell_channel.socket, message, buffers=[b"\x00<IDS|MSG>\xff"])
            answer = await said()
            assert answer["content"]["data"] == {"echo": {"b": 2}}
            assert [bytes(buffer) for buffer in answer["buffers"]] == [b"\x00<IDS|MSG>\xff"]

    asyncio.run(use())


def test_what_the_kernel_sees_of_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "very-secret")
    monkeypatch.setenv("OF_THE_USER", "1")
    site.kernelspec(env={"OMP_NUM_THREADS": "68"})

    async def use() -> None:
        async with _notebook() as notebook:
            text = await notebook.text("import json, os; print(json.dumps(dict(os.environ)))")
            env = json.loads(text)
            assert (env["OMP_NUM_THREADS"], env["OF_THE_USER"]) == ("68", "1")
            assert not set(secrets) & set(env)
            for pid in processes.with_variable(MARK, site.mark):
                assert b"very-secret" not in processes.environ(pid)
                key = notebook.manager.session.key
                assert key not in processes.environ(pid) + processes.command(pid)

    asyncio.run(use())


@pytest.mark.usefixtures("site")
def test_it_runs_where_the_notebook_is(tmp_path: pathlib.Path) -> None:
    async def use() -> None:
        async with _notebook(cwd=str(tmp_path)) as notebook:
            assert await notebook.text("import os; print(os.getcwd())") == f"{tmp_path}\n"

    asyncio.run(use())


def test_only_the_user_can_reach_the_sockets(site: Site) -> None:
    async def use() -> None:
        async with _notebook() as notebook:
            info = notebook.manager.get_connection_info()
            assert info["transport"] == "ipc"
            front = pathlib.Path(info["ip"]).parent
            assert front.parent == site.fronts
            assert stat.S_IMODE(front.stat().st_mode) == 0o700
            assert [stat.S_IMODE(node.stat().st_mode) for node in site.nodes.iterdir()] == [0o700]

    asyncio.run(use())


def test_a_kernel_that_is_reached_by_tcp(site: Site) -> None:
    site.kernelspec(kernel={"transport": "tcp"})

    async def use() -> None:
        async with _notebook() as notebook:
            assert await notebook.text("print('out')") == "out\n"

    asyncio.run(use())


# ---- synchronous ----


@contextlib.contextmanager
def _console() -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager = KernelManager(kernel_name="far")
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.usefixtures("site")
def test_a_blocking_client_runs_cells_and_answers_questions(capsys: pytest.CaptureFixture[str]) -> None:
    with _console() as (_, client):
        outputs: list[dict[str, Any]] = []
        reply = client.execute_interactive(
            "import sys\nname = input('name? ')\nprint('hello', name)\nprint('err', file=sys.stderr)",
            stdin_hook=lambda message: client.input(f"answer to {message['content']['prompt']}"),
            output_hook=outputs.append,
            timeout=60,
        )

        assert reply["content"]["status"] == "ok"
        assert _text(outputs) == "hello answer to name? \n"
        assert _text(outputs, "stderr") == "err\n"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("site")
def test_a_blocking_client_interrupts_and_restarts() -> None:
    with _console() as (manager, client):
        sleeps = threading.Event()

        def interrupt() -> None:
            sleeps.wait(PATIENCE)
            manager.interrupt_kernel()

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        reply = client.execute_interactive(
            "import time\nkept = 1\nprint('sleeps', flush=True)\ntime.sleep(600)",
            timeout=60,
            output_hook=lambda message: sleeps.set() if message["msg_type"] == "stream" else None,
        )
        interrupting.join()
        assert reply["content"]["ename"] == "KeyboardInterrupt"

        manager.restart_kernel()
        client.wait_for_ready(timeout=60)
        reply = client.execute_interactive("kept", timeout=60, output_hook=lambda message: None)
        assert reply["content"]["ename"] == "NameError"
        assert manager.is_alive()


@pytest.mark.usefixtures("site")
def test_messages_flow_while_a_blocking_client_does_nothing() -> None:
    with _console() as (_, client):
        request = client.execute(_COUNT.format(3000))
        time.sleep(1.5)
        output: list[dict[str, Any]] = []
        while not output or output[-1]["content"].get("execution_state") != "idle":
            message = client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") == request:
                output.append(message)
        _assert_all_are_there_or_told(output, 3000)


@pytest.mark.usefixtures("site")
def test_a_notebook_is_run_by_nbclient() -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in ("a = 6", "print(a)\na * 7")]
    notebook = nbformat.v4.new_notebook(cells=cells)

    NotebookClient(notebook, kernel_name="far", timeout=60).execute()

    printed, result = notebook.cells[1].outputs
    assert printed.text == "6\n"
    assert result.data["text/plain"] == "42"


def test_a_client_that_is_killed_leaves_nothing(site: Site) -> None:
    code = (
        "import sys\nfrom jupyter_client.manager import start_new_kernel\n"
        "manager, client = start_new_kernel(kernel_name='far')\nprint('up', flush=True)\nsys.stdin.read()"
    )

    async def use() -> None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=pipe, stdout=pipe)
        assert process.stdout
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"up\n"
        assert len(processes.with_variable(MARK, site.mark)) >= 3
        process.send_signal(signal.SIGKILL)
        await process.wait()

    asyncio.run(use())
    deadline = time.monotonic() + PATIENCE
    while processes.with_variable(MARK, site.mark) or any(site.nodes.iterdir()):
        assert time.monotonic() < deadline, "\n".join(site.left())
        time.sleep(0.05)

    (front,) = site.fronts.iterdir()
    os.utime(front, (time.time() - 3600,) * 2)
    with _console():
        assert not front.exists()  # swept by the next


# ---- failures ----


def _fail(expected: type[FarkernelError]) -> FarkernelError:
    """Start the kernel by both kinds of manager; return the error of the latter."""

    async def start() -> None:
        await AsyncKernelManager(kernel_name="far").start_kernel()

    with pytest.raises(expected):
        asyncio.run(start())
    with pytest.raises(expected) as caught:
        KernelManager(kernel_name="far").start_kernel()
    assert type(caught.value) is expected
    return caught.value


def test_a_config_that_is_wrong_is_named_with_file_and_key(site: Site) -> None:
    file = site.kernelspec(slurm={"acount": "m1234"}, kernel={"transport": "pigeon"})

    text = str(_fail(RequestError))

    assert f"{file}: slurm.acount" in text
    assert "slurm.account" in text
    assert f'{file}: kernel.transport: expected "auto", "ipc" or "tcp"' in text


@pytest.mark.parametrize("part", [{"env": {"OMP_NUM_THREADS": 4}}, {"argv": [*IPYKERNEL, 4]}], ids=["env", "argv"])
def test_a_number_where_a_text_belongs_is_named_with_file_and_key(site: Site, part: dict[str, Any]) -> None:
    file = site.kernelspec(**part)

    text = str(_fail(RequestError))

    key = "env.OMP_NUM_THREADS" if "env" in part else f"argv.{len(IPYKERNEL)}"
    assert text.startswith(f"{file}: {key}: expected a text, not 4\n")
    assert "in double quotes" in text


def test_a_kernel_of_this_machine_is_not_one_behind_ssh(site: Site) -> None:
    async def make() -> None:
        LocalJob(
            Request(login="alice@cori01"),
            queue=Queue(ThisHost()),
            kernel="Far",
            kernelspec="far",
            container=NoContainer(ContainerRequest()),
            python="python3",
            env={},
            cwd="/",
            on_status=print,
        )

    with pytest.raises(RequestError, match="names the login node alice@cori01"):
        asyncio.run(make())
    site.kernelspec(login="alice@nowhere.invalid")
    assert "login: alice@nowhere.invalid is another host" in str(_fail(RequestError))  # before ssh looks for it


@pytest.mark.parametrize("command", ["no-such-kernel", "/no/such/kernel"])
def test_a_kernel_command_that_does_not_exist_is_named(site: Site, command: str) -> None:
    site.kernelspec([command, "-f", "{connection_file}"])

    error = _fail(KernelCommandMissing)

    assert "Far" in error.what
    assert command in error.what
    assert "argv" in error.hint


def test_a_launchers_python_that_does_not_exist_is_named(site: Site) -> None:
    site.kernelspec(launcher={"python": "/no/such/python"})

    error = _fail(PythonMissing)

    assert "/no/such/python" in error.what
    assert "launcher.python" in error.hint


def test_a_launchers_python_without_pyzmq_is_named(site: Site, tmp_path: pathlib.Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    site.kernelspec(launcher={"python": str(python)})

    error = _fail(ImportFailed)

    assert str(python) in error.what
    assert "zmq" in error.said


def test_a_kernel_that_ends_at_once_is_quoted(site: Site) -> None:
    site.kernelspec(["sh", "-c", "echo first words; echo its last words >&2; exit 3"])

    error = _fail(KernelFailed)

    assert "exit code 3" in error.what
    assert "its last words" in error.said


def test_a_kernel_that_never_answers_is_given_up(site: Site) -> None:
    site.kernelspec(["sleep", "600"], launcher={"start_timeout": "10s"})  # its launcher is to come up within that

    async def start() -> None:
        await AsyncKernelManager(kernel_name="far").start_kernel()

    with pytest.raises(KernelFailed, match="did not answer"):
        asyncio.run(start())


@pytest.mark.parametrize(("connect", "host"), [("node", "the node"), ("login", "this host")])
def test_ports_that_are_all_in_use_are_named(site: Site, connect: str, host: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        site.kernelspec(launcher={"connect": connect, "ports": f"{port}-{port}"})

        error = _fail(CannotListen)

    assert host in error.what
    assert error.said == f"no free port in {port}-{port}"
    assert "launcher.ports" in error.hint


@pytest.mark.parametrize(("connect", "host"), [("node", "the node"), ("login", "this host")])
def test_a_network_interface_that_does_not_exist_is_named(site: Site, connect: str, host: str) -> None:
    site.kernelspec(launcher={"connect": connect, "interface": "nosuch0"})

    error = _fail(CannotListen)

    assert host in error.what
    assert error.said.startswith("no address on network interface 'nosuch0'; there are lo")
    assert "launcher.interface" in error.hint


def test_a_directory_of_the_kernelspec_that_does_not_exist_is_named(site: Site) -> None:
    site.kernelspec(kernel={"cwd": "/no/such/directory"})

    error = _fail(KernelFailed)

    assert "/no/such/directory" in error.what
    assert "kernel.cwd" in error.hint


def test_a_variable_that_is_too_large_is_named(site: Site) -> None:
    site.kernelspec(env={"BIG": "x" * 2**17})

    error = _fail(CommandRefused)

    assert "cannot be started on this host" in error.what
    assert "the variable BIG (131072 bytes)" in error.hint


def test_after_a_failure_the_same_kernel_can_be_started(site: Site) -> None:
    site.kernelspec(["no-such-kernel"])
    _fail(KernelCommandMissing)
    site.kernelspec()

    with _console() as (_, client):
        assert client.execute_interactive("1", timeout=60, output_hook=lambda message: None)


def test_nothing_secret_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site.kernelspec()

    with _console() as (manager, _):
        key = manager.session.key.decode()

    assert key
    assert key not in caplog.text
