"""A login node that is reached by ssh: a real ssh server of this process, which can be broken and repaired."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import asyncssh
import pytest

from farkernel.launcher.protocol import MARK
from farkernel.provisioners.errors import (
    CommandMissing,
    ForwardingRefused,
    HostKeyChanged,
    HostKeyUnknown,
    LoginDenied,
    LoginFailed,
    PythonMissing,
)
from farkernel.provisioners.login_node import KeptProgram, LoginNode
from tests.patience import PATIENCE


class SshHost:
    """A host with an ssh server, and a home in which a user has what is needed to reach it by the name `login`.

    :ivar noise: what the user's shell prints when it starts
    :ivar profile: what it runs then
    :ivar forwards: whether the server carries connections
    :ivar no_sockets: whether it carries none to unix sockets
    :ivar codes: one-time passwords that it takes, in order, instead of a key; none are asked for by default
    :ivar attempts: how often it was given one
    :ivar path: where a login shell finds programs
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ssh = home / ".ssh"
        self.noise = ""
        self.profile = ""
        self.forwards = True
        self.no_sockets = False
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.codes: list[str] = []
        self.attempts = 0
        self.path = os.environ["PATH"]
        self.port = 0
        self.connections: list[asyncssh.SSHServerConnection] = []
        self._server: asyncssh.SSHAcceptor
        users = asyncssh.generate_private_key("ssh-ed25519")
        self.ssh.mkdir(mode=0o700, parents=True)
        users.write_private_key(self.ssh / "id_ed25519")
        (self.ssh / "id_ed25519").chmod(0o600)  # OpenSSH's programs take no other
        users.write_public_key(self.ssh / "authorized")

    async def up(self) -> None:
        self._server = await asyncssh.create_server(
            lambda: _Server(self),
            "127.0.0.1",
            self.port,
            server_host_keys=[self.key],
            authorized_client_keys=str(self.ssh / "authorized"),
            process_factory=self._run,
            encoding=None,
        )
        self.port = self._server.get_port()
        (self.ssh / "known_hosts").write_text(f"login {self.key.export_public_key().decode()}")
        self.configure()

    def configure(self, more: str = "") -> None:
        lines = f"Host login\n HostName 127.0.0.1\n Port {self.port}\n User alice\n HostKeyAlias login\n"
        (self.ssh / "config").write_text(f"{lines}{more}")

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or "/bin/sh"  # a login shell
        # What a command leaves unread is taken here: asyncssh's server loses its exit code over a pipe that breaks.
        script = f"printf '{self.noise}'; {self.profile or ':'}; {command}; code=$?; cat >/dev/null; exit $code"
        child = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", script),
            env={**os.environ, "PATH": self.path},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await process.redirect(child.stdin, child.stdout, child.stderr)
            process.exit(await child.wait())
            await process.wait_closed()
        finally:  # also when the connection was cut
            child._transport.close()  # type: ignore[attr-defined]

    def ask(self, *codes: str) -> None:
        """Take no keys any more, but one-time passwords."""
        self.codes = list(codes)
        asyncssh.generate_private_key("ssh-ed25519").write_public_key(self.ssh / "authorized")

    def cut(self) -> None:
        """Break every connection."""
        for connection in self.connections:
            connection.abort()
        self.connections.clear()

    async def down(self) -> None:
        """Break every connection, and let nobody in."""
        self._server.close()
        self.cut()
        await self._server.wait_closed()


class _Server(asyncssh.SSHServer):
    """What a host lets in, and what it carries."""

    def __init__(self, host: SshHost) -> None:
        self._host = host

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._host.connections.append(conn)

    def kbdint_auth_supported(self) -> bool:
        return bool(self._host.codes)

    def get_kbdint_challenge(self, *_: object) -> tuple[str, str, str, list[tuple[str, bool]]]:
        return "", "MFA is required.", "", [("Password + OTP: ", True)]

    def validate_kbdint_response(self, _: str, responses: Sequence[str]) -> bool:
        self._host.attempts += 1
        if list(responses) != self._host.codes[:1]:
            return False
        if len(self._host.codes) > 1:
            self._host.codes.pop(0)
        return True

    def connection_requested(self, *place: object) -> bool:
        if not self._host.forwards:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "prohibited")
        return True

    def unix_connection_requested(self, dest_path: str) -> bool:
        return self._host.forwards and not self._host.no_sockets


Test = Callable[[SshHost, LoginNode], Awaitable[None]]


@pytest.fixture
def with_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Test], None]:
    """Runs a coroutine with such a host, and a login node that leads there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)

    async def scene(test: Test) -> None:
        host, node = SshHost(tmp_path), LoginNode("login")
        await host.up()
        try:
            async with asyncio.timeout(4 * PATIENCE):
                await test(host, node)
        finally:
            await node._connection.close()
            await host.down()
            gc.collect()  # what a connection that was cut has left is closed while there is a loop
            await asyncio.sleep(0.1)

    return lambda test: asyncio.run(scene(test))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def started(
    node: LoginNode, script: str, *, given: bytes = b"", orphan_timeout: float = 60
) -> AsyncIterator[tuple[KeptProgram, list[str]]]:
    """A shell script that a keeper holds, and what it has said; its standard error stands behind an `!`."""
    said: list[str] = []
    await node.look(sys.executable, [])
    program = await node.start(
        ["sh", "-c", script],
        env={**os.environ},
        cwd="/nowhere",
        input=given,
        on_stdout=said.append,
        on_stderr=lambda line: said.append(f"!{line}"),
        orphan_timeout=orphan_timeout,
    )
    assert isinstance(program, KeptProgram)
    try:
        yield program, said
    finally:
        program.signal(9)
        await asyncio.wait_for(program.wait(), PATIENCE)


# ---- getting there ----


TITLE = "\\033]0;login\\007"
"""What sets a terminal's title: no line of its own."""


@pytest.mark.parametrize("noise", ["Welcome!\\n", TITLE], ids=["a line", "a title"])
def test_what_is_there(with_host: Callable[[Test], None], tmp_path: Path, noise: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / ".ssh")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    paths = [str(tmp_path / name) for name in ("link", "circle", "none")]

    async def test(host: SshHost, node: LoginNode) -> None:
        host.noise = noise
        seen = await node.look(sys.executable, paths)
        assert seen.environ["HOME"] == str(tmp_path)
        assert seen.host
        assert list(seen.paths.values()) == [str(tmp_path / ".ssh"), "", str(tmp_path / "none")]

    with_host(test)


def test_a_host_that_is_not_known(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        (host.ssh / "known_hosts").unlink()
        with pytest.raises(HostKeyUnknown, match="`ssh alice@login` once"):
            await node.look(sys.executable, [])
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        (host.ssh / "known_hosts").write_text(f"login {other}")
        with pytest.raises(HostKeyChanged, match="ssh-keygen -R login"):
            await node.look(sys.executable, [])
        (host.ssh / "known_hosts").write_text(f"@revoked * {host.key.export_public_key().decode()}")
        with pytest.raises(HostKeyChanged, match="login has a key that was revoked"):
            await node.look(sys.executable, [])
        host.configure(" UserKnownHostsFile none\n")
        with pytest.raises(LoginFailed, match="UserKnownHostsFile none"):
            await node.look(sys.executable, [])

    with_host(test)


def test_a_user_that_is_not_let_in(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(host.ssh / "id_ed25519")
        with pytest.raises(LoginDenied, match="login does not let alice in") as caught:
            await node.look(sys.executable, [])
        assert "It takes: publickey" in caught.value.said

    with_host(test)


def test_a_host_by_its_own_name(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        (host.ssh / "config").write_text(f"Host *\n Port {host.port}\n")
        key = host.key.export_public_key().decode()
        (host.ssh / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {key}")
        other = LoginNode("alice@127.0.0.1")
        assert (await other.look(sys.executable, [])).host
        await other._connection.close()

    with_host(test)


def test_a_host_that_is_not_there(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        await host.down()
        with pytest.raises(LoginFailed, match=rf"no ssh connection to login \(127.0.0.1:{host.port}\)"):
            await node.look(sys.executable, [])
        await host.up()
        await node.look(sys.executable, [])

    with_host(test)


def test_a_host_without_the_python(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        with pytest.raises(PythonMissing, match="/no/python3 cannot be used on login"):
            await node.look("/no/python3", [])

    with_host(test)


def test_a_host_that_carries_no_connections(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        host.forwards = False
        with pytest.raises(ForwardingRefused, match="AllowTcpForwarding"):
            await node.look(sys.executable, [])
        host.forwards, host.no_sockets = True, True
        with pytest.raises(ForwardingRefused, match="AllowStreamLocalForwarding"):
            async with started(node, "cat"):
                pass

    with_host(test)


def test_by_way_of_a_jump_host(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        jump = f"Host jump\n HostName 127.0.0.1\n Port {host.port}\n User alice\n HostKeyAlias login\n"
        host.configure(f" ProxyJump jump\n{jump}")
        await node.look(sys.executable, [])
        assert len(host.connections) == 2
        await node._connection.close()
        host.configure(f" ProxyJump jump\n{jump.replace('Alias login', 'Alias jump')}")
        with pytest.raises(HostKeyUnknown, match="The key of jump"):
            await node.look(sys.executable, [])

    with_host(test)


# ---- programs ----


def test_a_command_has_the_environment_that_it_is_to_have(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        await node.look(sys.executable, [])
        env = {"PATH": os.environ["PATH"], "WORD": 'it\'s "so"\n$HOME \N{SNOWMAN}', "LANG": "C.UTF-8"}
        code = "import os, sys; print(ascii(os.environ['WORD']), len(sys.argv), 'HOME' in os.environ); sys.exit(3)"
        done = await node.run([sys.executable, "-c", code, "a b"], env=env, timeout=PATIENCE)
        assert (done.returncode, done.stdout) == (3, f"{env['WORD']!a} 2 False\n")
        with pytest.raises(CommandMissing, match="no-such-program cannot be run on login"):
            await node.run(["no-such-program"], env=env, timeout=PATIENCE)
        with pytest.raises(TimeoutError, match=r"sleep did not end within 0\.5 s on login"):
            await node.run(["sleep", "5"], env=env, timeout=0.5)

    with_host(test)


def test_a_program_is_held(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        script = "read a; echo got $a; echo err >&2; cat; exit 3"
        async with started(node, script, given=b"word\n") as (program, said):
            await until(lambda: len(said) == 2)
            assert sorted(said) == ["!err", "got word"]
            assert program.returncode is None
            program.close_input()
            await program.wait()
            assert program.returncode == 3
        with pytest.raises(CommandMissing):
            await node.start(
                ["no-such-program"],
                env={},
                cwd="/",
                input=b"",
                on_stdout=print,
                on_stderr=print,
                orphan_timeout=60,
            )

    with_host(test)


def test_what_is_said_while_the_connection_is_lost_is_not(with_host: Callable[[Test], None], tmp_path: Path) -> None:
    go = tmp_path / "go"

    async def test(host: SshHost, node: LoginNode) -> None:
        script = f"echo 1; while ! [ -e {go} ]; do sleep 0.1; done; echo 2; cat; echo 3"
        async with started(node, script) as (program, said):
            await until(lambda: said == ["1"])
            await host.down()
            await until(lambda: node.trouble.startswith("the ssh connection to login is lost since "))
            go.touch()
            program.close_input()  # is told when there is a connection again
            await host.up()
            await asyncio.wait_for(program.wait(), PATIENCE)
            assert said == ["1", "2", "3"]
            assert program.returncode == 0
            assert node.trouble == ""

    with_host(test)


def test_a_program_that_waits_ends_when_nobody_is_there(with_host: Callable[[Test], None], tmp_path: Path) -> None:
    over = tmp_path / "over"

    async def test(host: SshHost, node: LoginNode) -> None:
        await node.look(sys.executable, [])
        script = f"trap 'touch {over}; exit' TERM; while true; do sleep 0.1; done"
        async with started(node, script, orphan_timeout=4) as (program, _):
            await asyncio.sleep(5)  # somebody is there
            assert not over.exists()
            await host.down()
            await until(over.exists)
            await host.up()
            await asyncio.wait_for(program.wait(), PATIENCE)

    with_host(test)


def test_a_program_that_is_up_goes_on_without_anybody(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        async with started(node, f"echo '{MARK}x'; cat; echo done", orphan_timeout=3) as (program, said):
            await until(lambda: said)
            await host.down()
            await asyncio.sleep(6)  # its launcher would end it, not the keeper
            await host.up()
            await until(lambda: not node.trouble)
            program.close_input()
            await asyncio.wait_for(program.wait(), PATIENCE)
            assert said[1:] == ["done"]

    with_host(test)


def test_a_keeper_that_is_gone(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        async with started(node, "echo $PPID; cat") as (program, said):
            await until(lambda: said)
            os.kill(int(said[0]), 9)
            await asyncio.wait_for(program.wait(), PATIENCE)
            assert program.returncode is None
            shutil.rmtree(Path(program._path).parent)  # a keeper that comes later would do it

    with_host(test)


# ---- the link's way ----


def test_a_connection_is_carried(with_host: Callable[[Test], None]) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def test(host: SshHost, node: LoginNode) -> None:
        await node.look(sys.executable, [])
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert await node.probe("127.0.0.1", port) == ("127.0.0.1", "")
            endpoint = await node.endpoint("127.0.0.1", port)
            path = Path(endpoint.removeprefix("ipc://"))
            assert path.parent.stat().st_mode & 0o777 == 0o700
            reader, writer = await asyncio.open_unix_connection(path)
            data = os.urandom(3_000_000)
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            node.leave(endpoint)
            assert not path.parent.exists()
        assert (await node.probe("127.0.0.1", port))[1]

    with_host(test)
