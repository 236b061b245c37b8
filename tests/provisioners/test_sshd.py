"""OpenSSH's own server, run by whoever runs the tests: what it does not do as asyncssh's does."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from farkernel.provisioners.connect import Forward, GatewayHost
from farkernel.provisioners.errors import ForwardingRefused, GatewayUnusable, LoginDenied
from farkernel.provisioners.ssh import Connection
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.provisioners.test_login_node import until
from tests.provisioners.test_ssh import add_to_agent, agent, keygen

__all__ = ["agent"]

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
SEPARATION = Path("/run/sshd")
"""What Debian's sshd wants to be there when root starts it; a service manager makes it."""


def unavailable() -> str:
    """Why there can be no server here; empty if there can."""
    if SSHD is None:
        return "there is no sshd"
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:
        return "sshd lets in nobody who is not in the password database"
    return "" if os.access(user.pw_shell, os.X_OK) else f"no shell {user.pw_shell}"


pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())


class Sshd:
    """A server that takes certificates, and a home with what leads to it by the name `login`.

    :ivar ssh: that home's .ssh
    :ivar user: whoever runs the tests; a server that is not root's has no other
    """

    def __init__(self, home: Path) -> None:
        self.ssh = home / ".ssh"
        self.ssh.mkdir(mode=0o700)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self._folder = home / "sshd"
        self._folder.mkdir()
        self._home = home
        self._process: subprocess.Popen[str] | None = None
        for key in (self._folder / "host", self._folder / "ca", self.ssh / "nersc"):
            keygen("-t", "ed25519", "-N", "", "-f", key)
        port = free_port()
        (self.ssh / "known_hosts").write_text(f"login {(self._folder / 'host.pub').read_text()}")
        (self.ssh / "config").write_text(
            f"Host login\n HostName 127.0.0.1\n Port {port}\n User {self.user}\n HostKeyAlias login\n"
            " IdentityFile ~/.ssh/nersc\n"
        )
        self._lines = [
            f"ListenAddress 127.0.0.1:{port}",
            f"HostKey {self._folder / 'host'}",
            f"TrustedUserCAKeys {self._folder / 'ca.pub'}",
            "AuthorizedKeysFile none",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "UsePAM no",
            "PidFile none",
            f"SetEnv HOME={home} XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']} XDG_STATE_HOME={home}/state",
        ]

    def certify(self, validity: str, *options: str) -> None:
        """Write a certificate as NERSC's sshproxy does."""
        keygen(
            *("-s", self._folder / "ca", "-I", self.user, "-n", self.user, "-V", validity),
            *options,
            self.ssh / "nersc.pub",
        )

    def start(self, *lines: str) -> None:
        """Let users in.

        :param lines: of its configuration
        """
        file = self._folder / "config"
        file.write_text("\n".join([*lines, *self._lines, ""]))
        self._process = subprocess.Popen(
            [str(SSHD), "-D", "-e", "-f", file], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stderr
        said = ""
        for line in self._process.stderr:
            said += line
            if line.startswith("Server listening"):
                return
        pytest.fail(f"sshd has ended: {said}")

    def stop(self) -> None:
        """End it with all its connections."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            said = self._process.communicate(timeout=PATIENCE)[1]  # its end: nothing of it holds that any more
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise
        print(said)
        self._process = None


@pytest.fixture
def sshd(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A server that is to be started, in a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    missing = os.geteuid() == 0 and not SEPARATION.exists()
    if missing:
        SEPARATION.mkdir(mode=0o755)
    host = Sshd(tmp_path)
    try:
        yield host
    finally:
        host.stop()
        if missing:
            SEPARATION.rmdir()


def play(test: Callable[[Connection], Awaitable[None]]) -> None:
    async def scene() -> None:
        connection = Connection("login")
        try:
            async with asyncio.timeout(4 * PATIENCE):
                await test(connection)
        finally:
            await connection.close()

    asyncio.run(scene())


async def whoami(connection: Connection) -> str:
    await connection.open()
    return (await connection.run("whoami", input=b"", timeout=PATIENCE)).stdout.strip()


# ---- certificates ----


def test_a_certificate_lets_its_user_in_as_long_as_it_is_valid(sshd: Sshd) -> None:
    sshd.start()

    async def test(connection: Connection) -> None:
        sshd.certify("-1m:+1d")
        assert await whoami(connection) == sshd.user
        await connection.close()
        sshd.certify("20200101:20200102120000")
        words = rf"login does not let {sshd.user} in by ssh: your certificate .*/nersc-cert\.pub has expired at 2020-"
        with pytest.raises(LoginDenied, match=words) as caught:
            await connection.open()
        assert "It takes: publickey" in caught.value.said
        assert caught.value.hint.startswith("Get a new one")
        sshd.certify("-1m:+1d")  # sshproxy was run again
        assert await whoami(connection) == sshd.user

    play(test)


def test_a_certificate_in_the_agent_alone(
    sshd: Sshd, agent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sshd.start()
    sshd.certify("-1m:+1d")
    add_to_agent(sshd.ssh / "nersc", str(tmp_path / "agent"))
    for name in ("nersc", "nersc.pub", "nersc-cert.pub"):
        (sshd.ssh / name).unlink()

    async def test(connection: Connection) -> None:
        assert await whoami(connection) == sshd.user
        await connection.close()
        monkeypatch.delenv("SSH_AUTH_SOCK")
        with pytest.raises(LoginDenied, match="there is no agent"):
            await connection.open()

    play(test)


# ---- what it carries ----


@pytest.mark.parametrize(
    "line", ["AllowTcpForwarding no", "AllowStreamLocalForwarding no", "DisableForwarding yes", "certificate"]
)
def test_a_host_that_carries_no_connections(sshd: Sshd, short: Path, line: str) -> None:
    if line == "certificate":
        sshd.certify("-1m:+1d", "-O", "no-port-forwarding")
        sshd.start()
    else:
        sshd.certify("-1m:+1d")
        sshd.start(line)
    path = short / "relay"

    async def test(connection: Connection) -> None:
        await connection.open()
        async with await asyncio.start_unix_server(lambda *_: None, path):
            with pytest.raises(ForwardingRefused) as caught:
                await Forward(connection, GatewayHost(connection, "farkernel"), str(path), print).check()
        path.unlink(missing_ok=True)  # Python 3.13 has removed it
        assert str(caught.value).splitlines() == [
            f"login lets you in by ssh, and carries no connections to the unix socket {path} of your own.",
            "Its sshd_config has to allow that (AllowTcpForwarding and AllowStreamLocalForwarding, both yes by "
            "default), and so have the options of your key or certificate: ask the site's support, or use another "
            "login node.",
        ]

    play(test)


# ---- a gateway there ----


@pytest.mark.parametrize("cut", [False, True], ids=["given up", "cut"])
def test_a_gateway_that_starts_for_nobody_ends(sshd: Sshd, short: Path, tmp_path: Path, cut: bool) -> None:
    sshd.certify("-1m:+1d")
    sshd.start()
    command = tmp_path / "farkernel"  # tests may run as root
    command.write_text(
        f'#!/bin/sh\nword=$1\nshift\nexec {sys.executable} -m farkernel.provisioners.cli "$word" --allow-root "$@"\n'
    )
    command.chmod(0o755)
    place = short / f"farkernel-gateway-{os.getuid()}"

    async def test(connection: Connection) -> None:
        await connection.open()
        finding = asyncio.create_task(GatewayHost(connection, str(command)).find())
        await until((place / "lock").exists)
        if cut:
            assert connection._connection
            connection._connection.abort()
            with pytest.raises(GatewayUnusable, match="The ssh connection to login was lost before"):
                await finding
        finding.cancel()
        await asyncio.wait({finding})
        await until(lambda: not place.exists())

    play(test)
