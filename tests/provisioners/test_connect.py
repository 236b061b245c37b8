"""`farkernel connect` with a real ssh server of this process, and a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncssh
import pexpect  # type: ignore[import-untyped]
import pytest
from pexpect.fdpexpect import fdspawn  # type: ignore[import-untyped]
from tornado.httpclient import HTTPClientError

from farkernel.provisioners.cli.connect import _Session
from farkernel.provisioners.connect import Forward, Gateway, GatewayHost, listen
from farkernel.provisioners.errors import (
    ConnectFailed,
    ForwardingRefused,
    GatewayUnusable,
    HostNotFound,
    LoginDenied,
    LoginFailed,
)
from farkernel.provisioners.relay import Relay
from farkernel.provisioners.ssh import Connection
from tests.launcher.conftest import short
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.provisioners.test_login_node import TITLE, SshHost, until
from tests.slurm.gateway_laptop import Lab

__all__ = ["short"]

pytestmark = pytest.mark.usefixtures("home")

_ARGV = [sys.executable, "-m", "farkernel.provisioners.cli", "connect", "login"]


@pytest.fixture
def home(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of both the laptop's user and the login node's; what runs there at the end is ended."""
    for name in ("data", "config", "jupyter-runtime"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    command = tmp_path / "bin/farkernel"  # tests may run as root
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\nword=$1\nshift\nexec {sys.executable} -m farkernel.provisioners.cli "$word" --allow-root "$@"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    yield tmp_path
    subprocess.run([command, "gateway", "--stop"], check=True, timeout=PATIENCE, capture_output=True)


@pytest.fixture
def scene(home: Path) -> Callable[[Callable[[SshHost], Any]], None]:
    """Runs a coroutine with a host that ssh leads to by the name `login`."""

    async def play(test: Callable[[SshHost], Any]) -> None:
        host = SshHost(home)
        await host.up()
        try:
            async with asyncio.timeout(4 * PATIENCE):
                await test(host)
        finally:
            await host.down()
            await asyncio.sleep(0.1)

    return lambda test: asyncio.run(play(test))


Scene = Callable[[Callable[[SshHost], Any]], None]


def running() -> dict[str, Any] | None:
    """Return what the gateway of the login node says, if there is one."""
    done = subprocess.run(["farkernel", "gateway", "--status", "--json"], check=False, timeout=PATIENCE, stdout=-1)
    told: dict[str, Any] | None = json.loads(done.stdout or "null")
    return told


@contextlib.asynccontextmanager
async def connected(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """`farkernel connect` without a terminal, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *_ARGV, "--json", *options, stdout=-1, stderr=-1, start_new_session=True
    )
    try:
        assert process.stdout
        yield process, json.loads(await process.stdout.readline() or b"null")
    finally:
        if process.returncode is None:
            process.terminate()
        print((await process.communicate())[1].decode())


class Terminal:
    """`farkernel connect` on a terminal; made without pty.fork(), which is not for a process with threads."""

    def __init__(self, *options: str) -> None:
        own, its = os.openpty()
        self._process = subprocess.Popen(["setsid", "--ctty", *_ARGV, *options], stdin=its, stdout=its, stderr=its)
        os.close(its)
        self._child = fdspawn(own, encoding="utf-8", timeout=PATIENCE)
        self.seen = ""

    async def shows(self, words: str) -> None:
        await asyncio.to_thread(self._child.expect_exact, words)
        self.seen += self._child.before + self._child.after

    async def type(self, words: str) -> None:
        self._child.sendline(words)

    def interrupt(self) -> None:
        self._child.send("\x03")

    async def ends(self) -> int:
        await asyncio.to_thread(self._child.expect, pexpect.EOF)
        self.seen += self._child.before
        return await asyncio.to_thread(self._process.wait, PATIENCE)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._child.close()


@contextlib.asynccontextmanager
async def terminal(*options: str) -> AsyncIterator[Terminal]:
    one = Terminal(*options)
    try:
        yield one
    finally:
        await asyncio.to_thread(one.close)


def lab(told: dict[str, Any]) -> Lab:
    return Lab(told["url"].removeprefix("http://"), told["token"])


# ---- what goes through ----


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_thrice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        for _ in range(3):
            writer.write(data)
        await writer.drain()
    writer.close()


Target = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def forward(
    short: Path, away: float = 60, target: Target = echo
) -> AsyncIterator[tuple[Forward, Connection, list[str]]]:
    """A port that leads to a relay, and through it to what echoes, in the order in which it comes."""
    said: list[str] = []
    connection = Connection("login")
    await connection.open()
    one = Forward(connection, GatewayHost(connection, "farkernel"), str(short / "relay"), said.append, away=away)
    async with await asyncio.start_unix_server(target, short / "target"):
        relay = Relay(short / "relay", short / "target")
        await relay.start()
        try:
            await one.check()
            await one.start(listen(0))
            yield one, connection, said
        finally:
            await one.close()
            await connection.close()
            relay.close()
            for name in ("relay", "target"):
                (short / name).unlink(missing_ok=True)


def test_nothing_is_lost_however_often_the_connection_breaks(scene: Scene, short: Path) -> None:
    data = os.urandom(24_000_000)  # more than all that keeps it on the way

    async def test(host: SshHost) -> None:
        async with forward(short) as (one, connection, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)

            async def send() -> None:
                for start in range(0, len(data), 100_000):
                    writer.write(data[start : start + 100_000])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            got = bytearray()
            for part in range(1, 6):
                while len(got) < part * 4_000_000:
                    got += await reader.read(65536)
                host.cut()
            got += await reader.read()
            await sending
            assert got == data
            assert connection.times > 3
            writer.close()

    scene(test)


def test_both_directions_may_be_full_at_once(scene: Scene, short: Path) -> None:
    data = b"0123456789abcdef" * 2_000_000

    async def test(host: SshHost) -> None:
        async with forward(short, target=echo_thrice) as (one, *_):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            sent = 0

            async def send() -> None:
                nonlocal sent
                for start in range(0, len(data), 100_000):
                    writer.write(data[start : start + 100_000])
                    await writer.drain()
                    sent = start
                writer.write_eof()

            sending = asyncio.create_task(send())
            before = -1
            while before < sent:  # whoever echoes waits for room, and reads no more
                before = sent
                await asyncio.sleep(1)
            assert not sending.done()
            host.cut()
            got = bytearray()
            while len(got) < 3_000_000:
                got += await reader.read(65536)
            host.cut()
            got += await reader.read()
            await sending
            assert len(got) == 3 * len(data)
            counted = [got.count(sign) for sign in b"0123456789abcdef"]
            assert counted == 16 * [len(got) // 16]
            writer.close()

    scene(test)


def test_what_came_before_the_farewell_arrives(scene: Scene, short: Path) -> None:
    data, got = bytes(1_000_000), bytearray()  # more than the sockets on the way hold

    async def test(host: SshHost) -> None:
        reads = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reads.wait()
            while some := await reader.read(65536):
                got.extend(some)
            writer.close()

        async with forward(short, target=slow) as (one, *_):
            _, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(data)
            await writer.drain()
            for _ in range(50):  # it is at the other end; in one long pause this process may stand still
                await asyncio.sleep(0.05)
            closing = asyncio.create_task(one.close())
            await asyncio.sleep(0.5)
            reads.set()
            await closing
            await until(lambda: got == data)
            writer.close()

    scene(test)


def test_a_pause_breaks_nothing_and_a_new_connection_waits_a_while_only(scene: Scene, short: Path) -> None:
    async def test(host: SshHost) -> None:
        async with forward(short) as (one, connection, said):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"before\n")
            assert await reader.readline() == b"before\n"
            await host.down()
            await until(lambda: connection.trouble)
            writer.write(b"meanwhile\n")
            late, asking = await asyncio.open_connection("127.0.0.1", one.port)
            asking.write(b"GET / HTTP/1.1\r\n\r\n")
            answer = await late.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"The ssh connection to login is lost since" in answer
            await host.up()
            assert await reader.readline() == b"meanwhile\n"
            assert said == []  # ssh has told it
            writer.close()
            asking.close()

    scene(test)


def test_a_client_that_stays_away_is_given_up(scene: Scene, short: Path) -> None:
    async def test(host: SshHost) -> None:
        async with forward(short, away=4) as (one, _, said):
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"before\n")
            assert await reader.readline() == b"before\n"
            await host.down()
            await asyncio.sleep(7)
            await host.up()
            assert await reader.read() == b""
            assert said == []  # others can still begin
            writer.close()

    scene(test)


def test_a_gateway_that_has_ended_is_told(scene: Scene, short: Path) -> None:
    async def test(host: SshHost) -> None:
        async with forward(short) as (one, _, said):

            async def ask() -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
                writer.write(b"there\n")
                writer.write_eof()
                try:
                    return await reader.read()
                finally:
                    writer.close()

            words = "The gateway on login has ended. Start farkernel connect again for another."
            for times in (1, 2):  # what was told is told again once it is news
                assert await ask() == b"there\n"
                (short / "relay").rename(short / "away")
                for _ in range(2):
                    assert (await ask()).endswith(b"The gateway on login has ended.\n")
                assert said == times * [words]
                (short / "away").rename(short / "relay")

    scene(test)


@contextlib.asynccontextmanager
async def version_two(short: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A relay whose streams are of another version."""
    monkeypatch.setattr("farkernel.provisioners.relay.VERSION", 2)
    relay = Relay(short / "relay", short / "target")
    await relay.start()
    try:
        yield
    finally:
        relay.close()
        (short / "relay").unlink(missing_ok=True)


def test_a_gateway_with_streams_of_another_version(
    scene: Scene, home: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"token": "t", "pid": 1, "version": "9", "relay": str(short / "relay")}
    command = home / "other"
    command.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    command.chmod(0o755)

    async def test(_: SshHost) -> None:
        async with version_two(short, monkeypatch), terminal("--farkernel", str(command)) as one:
            assert await one.ends() == 1
        assert "speak versions 1 and 2 of their streams." in one.seen
        assert "install the same farkernel here and there" in one.seen
        assert "leads to it" not in one.seen

    scene(test)


def test_a_gateway_that_comes_back_with_another_version(
    scene: Scene, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(host: SshHost) -> None:
        async with forward(short) as (one, _, said):
            (short / "relay").unlink()
            async with version_two(short, monkeypatch):
                for _ in range(2):
                    reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
                    assert b"speak versions 1 and 2 of their streams." in await reader.read()
                    writer.close()
            assert [words.partition("\n")[0] for words in said] == [
                "The gateway on login refuses: the farkernel on the two sides speak versions 1 and 2 of their streams."
            ]

    scene(test)


@pytest.mark.parametrize("answers", [b"", b"220 mail.example.org ready\n"])
def test_what_is_no_gateway_is_told(scene: Scene, short: Path, answers: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answers)
        writer.close()

    async def test(_: SshHost) -> None:
        connection = Connection("login")
        await connection.open()
        one = Forward(connection, GatewayHost(connection, "farkernel"), str(short / "other"), print)
        async with await asyncio.start_unix_server(other, short / "other"):
            with pytest.raises(GatewayUnusable, match="The gateway on login has not answered"):
                await one.check()
        (short / "other").unlink(missing_ok=True)
        await connection.close()

    scene(test)


@pytest.fixture
def node(home: Path) -> Callable[[str], None]:
    """Gives the login node another name of its own: that its name for ssh leads to another one."""

    def call(name: str) -> None:
        command = home / "bin/uname"
        command.write_text(f"#!/bin/sh\necho {name}\n")
        command.chmod(0o755)

    call("login03")
    return call


def test_another_login_node_than_the_one_of_the_gateway(scene: Scene, short: Path, node: Callable[[str], None]) -> None:
    async def test(host: SshHost) -> None:
        async with terminal() as one:
            await one.shows("http://127.0.0.1:")
            await one.shows(" leads to it.")
            port = int(one.seen.rpartition("http://127.0.0.1:")[2].split()[0])
            await one.shows("Ctrl-C ends this.")
            node("login05")
            host.cut()
            with pytest.raises(HTTPClientError) as caught:
                await Lab(f"127.0.0.1:{port}", "").get("/api")
            assert caught.value.response
            assert b"login leads to login05 now, and your gateway is on login03." in caught.value.response.body
            await one.shows("login leads to login05 now, and your gateway is on login03.")
            await one.shows("It goes on there, with its kernels")
            one.interrupt()
            await one.shows("The gateway on login could not be ended.")
            assert await one.ends() == 1
        assert await asyncio.to_thread(running)

    scene(test)


def test_another_login_node_is_told_after_the_end_of_the_gateway(
    scene: Scene, short: Path, node: Callable[[str], None]
) -> None:
    async def test(host: SshHost) -> None:
        async with terminal() as one:
            await one.shows("http://127.0.0.1:")
            await one.shows("Ctrl-C ends this.")
            gateway = Lab(f"127.0.0.1:{one.seen.partition('http://127.0.0.1:')[2].split()[0]}", "")
            await asyncio.to_thread(subprocess.run, ["farkernel", "gateway", "--stop"], check=True, stdout=-1)
            with pytest.raises(HTTPClientError):
                await gateway.get("/api")
            await one.shows("The gateway on login has ended.")
            node("login05")
            host.cut()
            with pytest.raises(HTTPClientError):
                await gateway.get("/api")
            await one.shows("login leads to login05 now, and your gateway is on login03.")

    scene(test)


# ---- the command ----


def test_it_starts_a_gateway_and_ends_it(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        host.noise = 'Welcome!\\n{"motd": 1}\\n'
        async with connected() as (process, told):
            assert told["started"] is True
            assert await lab(told).get("/api/kernels") == []
            for _ in range(3):
                asked = asyncio.create_task(lab(told).get("/api/kernelspecs"))
                await asyncio.sleep(0)
                host.cut()  # the gateway does not notice
                assert (await asked)["kernelspecs"]
            own = Path(f"/proc/{process.pid}")
            assert told["token"] not in (own / "cmdline").read_text() + (own / "environ").read_text()
            process.send_signal(signal.SIGHUP)
            assert await process.wait() == 0
        assert await asyncio.to_thread(running) is None

    scene(test)


@pytest.mark.parametrize("options", [["--keep"], []], ids=["keep", "was there"])
def test_it_leaves_a_gateway_that_is_to_stay(scene: Scene, options: list[str]) -> None:
    async def test(host: SshHost) -> None:
        if not options:
            await asyncio.create_subprocess_exec("farkernel", "gateway", "--background", "--json", stdout=-1)
            await asyncio.sleep(0)
            while await asyncio.to_thread(running) is None:
                await asyncio.sleep(0.1)
        async with connected(*options) as (process, told):
            assert told["started"] is bool(options)
            process.terminate()
            assert await process.wait() == 0
        still = await asyncio.to_thread(running)
        assert still
        assert still["pid"] == told["pid"]
        async with connected() as (_, again):
            assert again["token"] == told["token"]
            assert again["started"] is False

    scene(test)


def test_jupyterlab_is_not_a_file_beside_the_notebooks(scene: Scene, tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab")  # the fast tests have none on the other interpreters
    (tmp_path / "jupyterlab.py").write_text("raise SystemExit('not this one')")

    async def test(_: SshHost) -> None:
        process = await asyncio.create_subprocess_exec(
            *_ARGV[:1], "-P", *_ARGV[1:], "--lab", "--", "--version", cwd=tmp_path, stdout=-1, stderr=-1
        )
        printed, errors = await process.communicate()
        assert process.returncode == 0, errors
        assert printed.decode().strip() == version("jupyterlab")

    scene(test)


@pytest.fixture
def far(home: Path) -> None:
    """A kernelspec that only the login node has."""
    spec = home / "there/kernels/far/kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Far", "language": "python"}))
    command = home / "bin/farkernel"
    command.write_text(command.read_text().replace("\n", f"\nexport JUPYTER_PATH={home}/there\n", 1))


@pytest.mark.parametrize("by_itself", [False, True], ids=["Ctrl-C", "shut down"])
def test_a_lab_has_the_kernels_of_the_gateway_and_ends_with_it(
    scene: Scene, far: None, tmp_path: Path, by_itself: bool
) -> None:
    pytest.importorskip("jupyterlab")
    runtime = tmp_path / f"a directory with a long name{80 * '-'}"  # no socket could be below it
    runtime.mkdir(mode=0o700)
    port = free_port()
    options = ["--no-browser", f"--port={port}", "--allow-root", f"--notebook-dir={tmp_path}"]

    async def test(_: SshHost) -> None:
        process = await asyncio.create_subprocess_exec(
            *_ARGV, "--lab", "--", *options, env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "JUPYTER_TOKEN": "own"}
        )
        one = Lab(f"127.0.0.1:{port}", "own")
        try:
            await one.ready()
            assert "far" in (await one.get("/api/kernelspecs"))["kernelspecs"]
            async with one.notebook("far") as notebook:
                assert (await notebook.run("print(6 * 7)")).stdout == "42\n"
            if by_itself:
                await one.fetch("/api/shutdown", "POST")
            else:
                process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
        assert await asyncio.to_thread(running) is None
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert list(runtime.iterdir()) == []

    scene(test)


@pytest.mark.parametrize("menu", [True, False], ids=["shut down", "signal"])
def test_kernels_that_are_to_stay_outlive_jupyterlab_whose_log_has_no_token(scene: Scene, menu: bool) -> None:
    pytest.importorskip("jupyterlab")
    port = free_port()

    async def test(host: SshHost) -> None:
        process = await asyncio.create_subprocess_exec(
            *(*_ARGV, "--lab", "--keep", "--", "--no-browser", "--allow-root", "--debug", f"--port={port}"),
            env={**os.environ, "JUPYTER_TOKEN": "own"},
            stdout=-1,
            stderr=-1,
        )
        said = asyncio.create_task(process.communicate())
        jupyterlab = Lab(f"127.0.0.1:{port}", "own")
        await jupyterlab.ready()
        kernel = json.loads((await jupyterlab.fetch("/api/kernels", "POST", {"name": "python3"})).body)["id"]
        async with jupyterlab.page(kernel) as page:
            assert (await page.run("x = 6 * 7; print(x)")).stdout == "42\n"
        if menu:
            await jupyterlab.fetch("/api/shutdown", "POST")
        else:
            process.terminate()
        log = b"".join(await said).decode()
        async with connected() as (_, told), lab(told).page(kernel) as page:
            assert (await page.run("print(x)")).stdout == "42\n"
        assert "Config changed" in log
        assert told["token"] not in log

    scene(test)


def test_no_token_is_left_of_a_jupyterlab_that_cannot_be_started(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")

    async def test() -> None:
        session = _Session("login", "farkernel", 0, keep=False)
        with pytest.raises(ConnectFailed, match="/nowhere/python3 cannot be run"):
            await session._run_lab(asyncio.Event(), [], Gateway("secret", 1, "1"))

    asyncio.run(test())
    assert list(short.iterdir()) == []


def test_no_token_is_left_of_a_jupyterlab_that_is_not_waited_for(short: Path) -> None:
    def tokens() -> list[str]:
        return [file.read_text() for file in short.rglob("token")]

    async def test() -> None:
        session = _Session("login", "farkernel", 0, keep=False)
        starting = asyncio.create_task(session._run_lab(asyncio.Event(), ["--version"], Gateway("secret", 1, "1")))
        await asyncio.sleep(0)
        assert tokens() == ["secret"]
        starting.cancel()
        await asyncio.wait({starting})

    asyncio.run(test())
    assert list(short.iterdir()) == []


def test_it_leaves_a_gateway_that_has_taken_the_place_of_its_own(scene: Scene) -> None:
    async def test(_: SshHost) -> None:
        async with connected() as (process, told):
            for options in (["--stop"], ["--background", "--json"]):
                await asyncio.to_thread(subprocess.run, ["farkernel", "gateway", *options], check=True, stdout=-1)
            process.terminate()
            assert await process.wait() == 0
        other = await asyncio.to_thread(running)
        assert other
        assert other["token"] != told["token"]

    scene(test)


def test_a_gateway_that_stays_knows_that_nobody_is_there(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        async with connected("--keep") as (process, told):
            body = (await lab(told).fetch("/api/kernels", "POST", {"name": "python3"})).body
            async with lab(told).page(json.loads(body)["id"]):
                assert [kernel["connections"] for kernel in await lab(told).get("/api/kernels")] == [1]
                process.terminate()
                assert await process.wait() == 0
        async with connected() as (_, told), asyncio.timeout(PATIENCE):
            while (await lab(told).get("/api/kernels"))[0]["connections"]:  # as long as there are, nothing is culled
                await asyncio.sleep(0.1)

    scene(test)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("exit 127", "There is no /tmp/farkernel on login."),
        ("echo 'No such option: --background' >&2; exit 2", "The /tmp/farkernel on login is too old."),
        ("echo 'needs jupyter_server' >&2; exit 1", "`/tmp/farkernel gateway` cannot be had on login.\nneeds jupyter"),
        (
            """echo '{"token": "t", "pid": 1, "version": "1", "started": true, "url": "https://here:1"}'""",
            "Your gateway on login listens at https://here:1.",
        ),
    ],
)
def test_a_login_node_without_a_gateway(scene: Scene, home: Path, program: str, words: str) -> None:
    command = home / "other"
    command.write_text(f"#!/bin/sh\n{program}\n")
    command.chmod(0o755)

    async def test(host: SshHost) -> None:
        connection = Connection("login")
        await connection.open()
        try:
            with pytest.raises(GatewayUnusable) as caught:
                await GatewayHost(connection, str(command)).find()
            assert words.replace("/tmp/farkernel", str(command)) in str(caught.value)
        finally:
            await connection.close()

    scene(test)


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (
            "echo No account here.; cat >/dev/null; exit 1",
            "(exit code 1) before it ran farkernel.\nNo account here.",
        ),
        ("cat >/dev/null", "ended (exit code 0) before it ran farkernel.\nSee that no start-up file"),
    ],
)
def test_a_login_shell_that_does_not_come_to_it(scene: Scene, profile: str, words: str) -> None:
    async def test(host: SshHost) -> None:
        host.profile = profile
        connection = Connection("login")
        connection.node = _no_name  # type: ignore[method-assign]
        await connection.open()
        try:
            with pytest.raises(GatewayUnusable) as caught:
                await GatewayHost(connection, "farkernel").find()
            assert words in str(caught.value)
        finally:
            await connection.close()

    scene(test)


async def _no_name() -> str:
    return ""


def test_a_login_shell_that_sets_the_title_of_a_terminal(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        host.noise = TITLE
        async with connected() as (process, told):
            assert told["started"]
            process.terminate()
            assert await process.wait() == 0
        assert await asyncio.to_thread(running) is None

    scene(test)


def test_a_name_that_a_shell_would_expand_is_refused() -> None:
    with pytest.raises(GatewayUnusable, match="no name of a program"):
        GatewayHost(Connection("login"), "farkernel; rm x")


def test_a_host_that_carries_no_unix_sockets(scene: Scene, short: Path) -> None:
    async def test(host: SshHost) -> None:
        host.no_sockets = True
        with pytest.raises(ForwardingRefused, match="AllowStreamLocalForwarding"):
            async with forward(short):
                pass

    scene(test)


def test_options_of_no_jupyterlab(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        process = await asyncio.create_subprocess_exec(*_ARGV, "--", "--debug", stdout=-1, stderr=-1)
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert "What stands after -- is for JupyterLab." in errors.decode()
        assert host.connections == []

    scene(test)


@pytest.mark.parametrize("found", ["2.8.0", "1.24.0"])
def test_a_jupyter_server_that_is_too_old_for_lab(scene: Scene, tmp_path: Path, found: str) -> None:
    pytest.importorskip("jupyterlab")
    old = tmp_path / f"old/jupyter_server-{found}.dist-info/METADATA"
    old.parent.mkdir(parents=True)
    old.write_text(f"Metadata-Version: 2.1\nName: jupyter_server\nVersion: {found}\n")

    async def test(host: SshHost) -> None:
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "old")}
        process = await asyncio.create_subprocess_exec(*_ARGV, "--lab", stdout=-1, stderr=-1, env=env)
        _, errors = await process.communicate()
        assert process.returncode == 1
        words = " ".join(errors.decode().split())
        assert f"needs jupyter_server 2.9 or later, and {sys.executable} has {found}." in words
        assert f"`{sys.executable} -m pip install --upgrade 'jupyter_server>=2.9'`" in words
        assert host.connections == []

    scene(test)


def test_a_port_that_is_taken_is_told_before_anybody_is_asked(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        host.ask("111111")
        async with terminal("--port", str(host.port)) as one:
            await one.shows(f"Port {host.port} of this machine cannot be had.")
            assert await one.ends() == 1
            assert "Password" not in one.seen
        assert host.connections == []

    scene(test)


def test_the_port_that_was_asked_for(scene: Scene) -> None:
    port = free_port()

    async def test(host: SshHost) -> None:
        async with connected("--port", str(port)) as (_, told):
            assert told["url"] == f"http://127.0.0.1:{port}"
            assert await lab(told).get("/api/kernels") == []

    scene(test)


# ---- an end before it is up ----


Slow = Callable[[str], Callable[[], None]]


@pytest.fixture
def slow(home: Path) -> Iterator[Slow]:
    """Makes the login node take its time with an option of `farkernel gateway`, until it is let go on."""
    command, go = home / "bin/farkernel", home / "go"
    start, line = command.read_text().split("\nword", 1)

    def call(option: str) -> Callable[[], None]:
        command.write_text(
            f'{start}\nif [ "$2" = {option} ]; then\n'
            f"touch {home}/waits; while ! [ -e {go} ]; do sleep 0.1; done\nfi\nword{line}"
        )
        return go.touch

    yield call
    go.touch()


@pytest.mark.parametrize("there", [False, True], ids=["starts", "was there"])
def test_ctrl_c_while_a_gateway_starts(scene: Scene, home: Path, slow: Slow, there: bool) -> None:
    async def test(_: SshHost) -> None:
        go = slow("--background")
        if there:
            argv = [sys.executable, "-m", "farkernel.provisioners.cli", "gateway", "--allow-root", "--background"]
            await asyncio.to_thread(subprocess.run, argv, check=True, stdout=-1)
        async with terminal() as one:
            await until((home / "waits").exists)
            one.interrupt()
            await one.shows("Ending: ")
            go()
            assert await one.ends() == 130
        still = await asyncio.to_thread(running)
        assert bool(still) is there

    scene(test)


def test_a_second_ctrl_c_leaves_the_gateway_and_says_how_to_end_it(scene: Scene, home: Path, slow: Slow) -> None:
    async def test(_: SshHost) -> None:
        slow("--stop")
        async with terminal() as one:
            await one.shows("Ctrl-C ends this.")
            one.interrupt()
            await one.shows("(Ctrl-C: leave it.)")
            await until((home / "waits").exists)
            one.interrupt()
            await one.shows("The gateway on login may go on, and its kernels: `farkernel gateway --stop` there ends")
            assert await one.ends() == 130
        assert await asyncio.to_thread(running)

    scene(test)


def test_a_terminal_that_is_closed_is_told_twice(scene: Scene, home: Path, slow: Slow) -> None:
    async def test(_: SshHost) -> None:
        go = slow("--stop")
        async with connected() as (process, _told):
            process.send_signal(signal.SIGHUP)
            await until((home / "waits").exists)
            process.send_signal(signal.SIGHUP)
            go()
            assert await process.wait() == 0
        assert await asyncio.to_thread(running) is None

    scene(test)


def test_nobody_is_told_that_a_gateway_goes_on_which_has_ended(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(_: SshHost) -> None:
        await asyncio.to_thread(subprocess.run, ["farkernel", "gateway", "--background"], check=True, stdout=-1)
        async with connected() as (process, told):
            assert not told["started"]
            await asyncio.to_thread(subprocess.run, ["farkernel", "gateway", "--stop"], check=True)
            with pytest.raises(HTTPClientError, match="503"):
                await lab(told).get("/api/kernels")
            process.terminate()
            assert await process.wait() == 0

    scene(test)
    said = capsys.readouterr().out
    assert "The gateway on login has ended." in said
    assert "goes on" not in said


def test_one_ctrl_c_leaves_the_gateway_where_nobody_has_asked_for_the_end(scene: Scene, home: Path) -> None:
    told = {"token": "t", "pid": 1, "version": "1", "started": True, "relay": "/nowhere"}
    command = home / "other"
    command.write_text(
        f"#!/bin/sh\n[ $2 = --stop ] || exec echo '{json.dumps(told)}'\n"
        f"touch {home}/waits; while ! [ -e {home}/go ]; do sleep 0.1; done\n"
    )
    command.chmod(0o755)

    async def test(_: SshHost) -> None:
        async with terminal("--farkernel", str(command)) as one:
            await until((home / "waits").exists)
            one.interrupt()
            await one.shows("The gateway on login may go on")
            assert await one.ends() == 130
        (home / "go").touch()

    scene(test)


def test_a_gateway_that_cannot_be_used_is_not_left(scene: Scene, home: Path) -> None:
    command, calls = home / "other", home / "calls"
    told = '{"token": "t", "pid": 1, "version": "1", "started": true}'
    command.write_text(f"#!/bin/sh\necho $* >> {calls}\necho '{told}'\n")
    command.chmod(0o755)

    async def test(_: SshHost) -> None:
        connection = Connection("login")
        await connection.open()
        try:
            with pytest.raises(GatewayUnusable, match="listens at an older socket"):
                await GatewayHost(connection, str(command)).find()
            assert calls.read_text().split("\n")[-2] == "gateway --stop"
        finally:
            await connection.close()

    scene(test)


# ---- getting in ----


def test_a_one_time_password_is_asked_for_and_again_when_the_connection_was_lost(scene: Scene, home: Path) -> None:
    async def test(host: SshHost) -> None:
        host.ask("secret-111111", "secret-222222")
        async with terminal() as one:
            await one.shows("login asks: MFA is required.")
            await one.shows("Password + OTP: ")
            await one.type("wrong-000000")
            await one.shows("Password + OTP: ")
            await one.type("secret-111111")
            await one.shows("Ctrl-C ends this.")
            host.cut()
            await one.shows("The ssh connection to login is lost since")
            await one.shows("login asks: MFA is required.")
            await one.shows("Password + OTP: ")
            await one.type("wrong-000000")
            for _ in range(2):
                await one.shows("Password + OTP: ")
                await one.type("wrong-000000")
            await one.shows("login does not let alice in by ssh.")
            await one.shows("Press Enter for another attempt.")
            attempts = host.attempts
            await asyncio.sleep(3)
            assert host.attempts == attempts  # it waits for somebody
            await one.type("")
            await one.shows("Password + OTP: ")
            await one.type("secret-222222")
            await one.shows("the ssh connection to login is back")
            one.interrupt()
            assert await one.ends() == 0
            assert "secret" not in one.seen
            assert "wrong" not in one.seen

    scene(test)
    files = [file for file in home.rglob("*") if file.is_file()]
    assert [file for file in files if "secret-" in file.read_text(errors="ignore")] == []


def test_without_a_terminal_nobody_can_be_asked(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        host.ask("111111")
        process = await asyncio.create_subprocess_exec(*_ARGV, stderr=-1, start_new_session=True)
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert "login asks: MFA is required. There is no terminal to answer on." in errors.decode()
        assert host.attempts == 0
        with pytest.raises(LoginDenied, match="login does not let alice in"):
            await Connection("login").open()  # a kernel's own connection asks nobody

    scene(test)


@pytest.mark.parametrize("public", [True, False])
def test_the_passphrase_of_a_key_is_asked_for(scene: Scene, public: bool) -> None:
    async def test(host: SshHost) -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_public_key(host.ssh / "authorized")
        key.write_private_key(host.ssh / "id_ed25519", passphrase="open sesame", rounds=50)
        if public:
            key.write_public_key(host.ssh / "id_ed25519.pub")
        async with terminal() as one:
            await one.shows(f"The key {host.ssh / 'id_ed25519'} has a passphrase.")
            await one.shows("Passphrase: ")
            await one.type("open sesame")
            await one.shows("Ctrl-C ends this.")
            one.interrupt()
            assert await one.ends() == 0
            assert "sesame" not in one.seen
        async with terminal() as one:
            await one.shows("Passphrase: ")
            for _ in range(2):
                await one.type("close sesame")
                await one.shows(f"That is not the passphrase of the key {host.ssh / 'id_ed25519'}.")
                await one.shows("Passphrase: ")
            await one.type("close sesame")
            await one.shows("login does not let alice in by ssh.")
            assert await one.ends() == 1
            assert "agent: " not in one.seen  # as if nobody had been asked

    scene(test)


def test_a_passphrase_is_right_at_the_third_attempt(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        key = host.ssh / "id_ed25519"
        asyncssh.read_private_key(key).write_private_key(key, "pkcs8-pem", passphrase="open sesame")
        asyncssh.read_private_key(key, "open sesame").write_public_key(f"{key}.pub")
        async with terminal() as one:
            for word in ("close sesame", "open wheat", "open sesame"):
                await one.shows("Passphrase: ")
                await one.type(word)
            await one.shows("Ctrl-C ends this.")
            one.interrupt()
            assert await one.ends() == 0

    scene(test)


def test_a_key_that_is_passed_over(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        key = host.ssh / "id_ed25519"
        asyncssh.read_private_key(key).write_private_key(key, passphrase="open sesame", rounds=50)
        host.codes = ["111111"]
        async with terminal() as one:
            await one.shows("Passphrase: ")
            await one.type("")
            await one.shows("Password + OTP: ")
            await one.type("111111")
            await one.shows("Ctrl-C ends this.")
            one.interrupt()
            assert await one.ends() == 0

    scene(test)


def test_ctrl_c_instead_of_a_passphrase(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        key = host.ssh / "id_ed25519"
        asyncssh.read_private_key(key).write_private_key(key, passphrase="open sesame", rounds=50)
        async with terminal() as one:
            await one.shows("Passphrase: ")
            one.interrupt()
            assert await one.ends() == 130

    scene(test)


@pytest.mark.parametrize(
    ("login", "hint"),
    [
        ("alice@login:22", "Write alice@login."),
        ("login:2222", "Write login, and into ~/.ssh/config: Host login, and Port 2222 below it."),
    ],
)
def test_a_port_is_no_part_of_a_login(login: str, hint: str) -> None:
    async def test() -> None:
        with pytest.raises(HostNotFound, match="a port is no part of its name") as caught:
            await Connection(login).open()
        assert caught.value.hint == hint

    asyncio.run(test())


@pytest.mark.parametrize("login", ["", "@", "alice@", "@login", "ssh://alice@login"])
def test_what_is_no_login(login: str) -> None:
    async def test() -> None:
        with pytest.raises(HostNotFound, match=f'There is no host "{login}".'):
            await Connection(login).open()

    asyncio.run(test())


def test_a_certificate_that_lives_for_a_day(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        authority = asyncssh.generate_private_key("ssh-ed25519")
        public = authority.export_public_key().decode()
        (host.ssh / "authorized").write_text(f"cert-authority {public}")
        key = asyncssh.generate_private_key("ssh-ed25519")
        (host.ssh / "id_ed25519").unlink()
        key.write_private_key(host.ssh / "nersc")
        key.write_public_key(host.ssh / "nersc.pub")
        host.configure(" IdentityFile ~/.ssh/nersc\n IdentitiesOnly yes\n")

        def certify(begins: str, ends: str) -> None:
            certificate = authority.generate_user_certificate(
                key, "alice", principals=["alice"], valid_after=begins, valid_before=ends
            )
            certificate.write_certificate(host.ssh / "nersc-cert.pub")

        connection = Connection("login")
        certify("-2d", "-1d")
        with pytest.raises(LoginDenied, match="login does not let alice in"):
            await connection.open()
        certify("-1h", "+1d")  # sshproxy was run again
        await connection.open()
        await connection.close()

    scene(test)


def test_ctrl_c_ends_it_before_it_is_up(scene: Scene) -> None:
    async def test(host: SshHost) -> None:
        host.ask("111111")
        async with terminal() as one:
            await one.shows("Password + OTP: ")
            one.interrupt()
            assert await one.ends() == 130
        assert await asyncio.to_thread(running) is None
        with pytest.raises(LoginFailed):
            await Connection("login").open()

    scene(test)
