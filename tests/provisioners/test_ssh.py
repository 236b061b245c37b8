"""What leads to a login node: certificates, the agent, keys with a passphrase, jump hosts, commands in between."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farkernel.provisioners import ssh
from farkernel.provisioners.errors import HostKeyUnknown, LoginDenied, LoginFailed, LoginLost
from farkernel.provisioners.login_node import LoginNode
from farkernel.provisioners.ssh import Connection, NothingThere
from farkernel.provisioners.ssh_login import connect
from tests.provisioners.test_login_node import SshHost, Test, until, with_host

__all__ = ["with_host"]


def keygen(*arguments: str | Path) -> None:
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True, stdin=subprocess.DEVNULL, timeout=60)


def add_to_agent(key: Path, socket: str) -> None:
    subprocess.run(["ssh-add", "-q", key], check=True, env={"SSH_AUTH_SOCK": socket}, timeout=60)


def certify(host: SshHost, validity: str) -> None:
    """Have the host let in who has a certificate, and write one as NERSC's sshproxy does."""
    ca, key = host.ssh / "ca", host.ssh / "nersc"
    for path in (ca, key):
        keygen("-t", "ed25519", "-N", "", "-f", path)
    keygen("-s", ca, "-I", "alice", "-n", "alice", "-V", validity, host.ssh / "nersc.pub")
    (host.ssh / "authorized").write_text(f"cert-authority {ca.with_suffix('.pub').read_text()}")
    (host.ssh / "id_ed25519").unlink()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real one that has no key yet."""
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert b"SSH_AUTH_SOCK" in process.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield
        process.terminate()


@pytest.mark.parametrize(
    "lines",
    [
        " IdentityFile ~/.ssh/nersc\n",
        " IdentityFile ~/.ssh/nersc\n IdentitiesOnly yes\n",
        " IdentityFile ~/.ssh/nersc\n CertificateFile ~/.ssh/nersc-cert.pub\n",
        " IdentityFile ~/.ssh/not-there\n IdentityFile ~/.ssh/nersc\n CertificateFile ~/.ssh/nor-this\n",
    ],
)
def test_a_certificate(with_host: Callable[[Test], None], lines: str) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        certify(host, "-1m:+1d")
        host.configure(lines)
        assert (await node.look(sys.executable, [])).host

    with_host(test)


def test_a_certificate_by_another_name(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        certify(host, "-1m:+1d")
        (host.ssh / "nersc-cert.pub").rename(host.ssh / "today.pub")
        host.configure(" IdentityFile ~/.ssh/nersc\n CertificateFile ~/.ssh/today.pub\n")
        assert (await node.look(sys.executable, [])).host

    with_host(test)


@pytest.mark.parametrize(
    ("validity", "text"),
    [
        ("20200101:20200102120000", r"nersc-cert\.pub has expired at 2020-01-02 12:00:00\.\n"),
        ("20900101:20900102", r"nersc-cert\.pub is not valid before 2090-01-01 00:00:00\.\n"),
    ],
)
def test_a_certificate_out_of_its_time(with_host: Callable[[Test], None], validity: str, text: str) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        certify(host, validity)
        host.configure(" IdentityFile ~/.ssh/nersc\n")
        with pytest.raises(
            LoginDenied, match=f"login does not let alice in by ssh: your certificate .*/{text}"
        ) as caught:
            await node.look(sys.executable, [])
        assert caught.value.hint.startswith("Get a new one" if "expired" in text else "See that the clock")

    with_host(test)


def test_a_certificate_that_ends_while_the_connection_is_lost(
    with_host: Callable[[Test], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(host: SshHost, _: LoginNode) -> None:
        certify(host, "-1d:+1h")
        host.configure(" IdentityFile ~/.ssh/nersc\n")
        connection = Connection("login")
        await connection.open()
        keygen("-s", host.ssh / "ca", "-I", "alice", "-n", "alice", "-V", "-2d:-1d", host.ssh / "nersc.pub")
        host.cut()
        await until(lambda: "has expired at" in caplog.text)
        assert "Get a new one" in caplog.text
        await connection.close()

    with_host(test)


def test_a_connection_that_is_lost_while_a_channel_is_asked_for(with_host: Callable[[Test], None]) -> None:
    """That nobody answers says nothing of who listens there."""

    async def test(host: SshHost, _: LoginNode) -> None:
        connection = Connection("login")
        await connection.open()
        with pytest.raises(NothingThere):
            await connection.connect_unix("/nowhere")
        for _number in range(3):
            await until(lambda: connection.lost_since is None and bool(host.connections))
            asked = asyncio.create_task(connection.connect_unix("/nowhere"))
            await asyncio.sleep(0)  # it is on its way
            host.cut()
            with pytest.raises(LoginLost):
                await asked
        await connection.close()

    with_host(test)


def test_a_key_that_is_in_the_agent_alone(
    with_host: Callable[[Test], None], agent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = str(tmp_path / "agent")

    async def test(host: SshHost, node: LoginNode) -> None:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        key = host.ssh / "id_ed25519"
        add_to_agent(key, socket)
        key.unlink()
        assert (await node.look(sys.executable, [])).host

    with_host(test)


def test_a_key_with_a_passphrase(
    with_host: Callable[[Test], None], agent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        monkeypatch.delenv("SSH_AUTH_SOCK")
        key = host.ssh / "id_ed25519"
        add_to_agent(key, str(tmp_path / "agent"))
        keygen("-p", "-N", "secret words", "-P", "", "-f", key)
        for lines in ("", " IdentityFile ~/.ssh/id_ed25519\n"):
            host.configure(lines)
            with pytest.raises(LoginDenied, match=r"your key .*/id_ed25519 has a passphrase") as caught:
                await node.look(sys.executable, [])
            assert f"`ssh-add {key}`" in caught.value.hint
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        assert (await node.look(sys.executable, [])).host

    with_host(test)


@pytest.mark.parametrize("broken", ["", "no key\n"], ids=["empty", "garbage"])
@pytest.mark.parametrize("lines", ["", " IdentityFile ~/.ssh/id_rsa\n IdentityFile ~/.ssh/id_ed25519\n"])
def test_a_key_that_cannot_be_used_is_passed_over(with_host: Callable[[Test], None], broken: str, lines: str) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        (host.ssh / "id_rsa").write_text(broken)
        host.configure(lines)
        assert (await node.look(sys.executable, [])).host
        await node.close()
        (host.ssh / "id_ed25519").unlink()
        with pytest.raises(LoginDenied, match=r"your key .*/id_rsa is none that can be used"):
            await node.look(sys.executable, [])

    with_host(test)


def test_an_agents_key_that_its_public_key_names(
    with_host: Callable[[Test], None], agent: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        key = host.ssh / "id_ed25519"
        add_to_agent(key, str(tmp_path / "agent"))
        key.unlink()
        (host.ssh / "authorized").rename(host.ssh / "mine.pub")
        (host.ssh / "authorized").symlink_to("mine.pub")
        for more in ("", " IdentitiesOnly yes\n"):
            host.configure(f" IdentityFile ~/.ssh/mine.pub\n{more}")
            assert (await node.look(sys.executable, [])).host
            await node.close()

    with_host(test)


def place(host: SshHost, name: str, more: str = "") -> str:
    return f"Host {name}\n HostName 127.0.0.1\n Port {host.port}\n User alice\n HostKeyAlias login\n{more}"


@pytest.mark.parametrize("by_each", [False, True], ids=["ProxyJump one,ssh://two", "each names the one before"])
def test_by_way_of_two_jump_hosts(with_host: Callable[[Test], None], by_each: bool) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        one = place(host, "one")
        two = place(host, "two", " ProxyJump one\n" if by_each else "")
        jump = " ProxyJump two\n" if by_each else " ProxyJump one,ssh://two\n"
        host.configure(f"{jump}{one}{two}")
        assert (await node.look(sys.executable, [])).host
        assert len(host.connections) == 3
        await node.close()
        host.configure(f"{jump}{one.replace('Alias login', 'Alias one')}{two}")
        with pytest.raises(HostKeyUnknown, match="The key of one"):
            await node.look(sys.executable, [])

    with_host(test)


def test_a_way_that_leads_back(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, _: LoginNode) -> None:
        host.configure("Host *\n ProxyJump login\n")
        with pytest.raises(LoginFailed, match="the way to login leads by login itself"):
            await Connection("alice@login").open()

    with_host(test)


def test_by_way_of_a_command(with_host: Callable[[Test], None]) -> None:
    async def test(host: SshHost, node: LoginNode) -> None:
        files = f" UserKnownHostsFile {host.ssh}/known_hosts\n IdentityFile {host.ssh}/id_ed25519\n BatchMode yes\n"
        (host.ssh / "jump").write_text(place(host, "jump", files))
        host.configure(f" ProxyCommand ssh -q -F {host.ssh}/jump -W %h:%p jump\n")
        assert (await node.look(sys.executable, [])).host
        assert len(host.connections) == 2

    with_host(test)


def test_a_host_that_was_away_is_found_where_it_was(
    with_host: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_SHORTEST", 0.05)
    monkeypatch.setattr(ssh, "_LONGEST", 0.2)

    async def test(host: SshHost, _: LoginNode) -> None:
        other = SshHost(tmp_path / "other")  # to which the name leads, too
        other.key = host.key
        shutil.copy(host.ssh / "authorized", other.ssh / "authorized")
        await other.up()
        port = host.port

        def lead_to(number: int) -> None:
            host.port = number
            host.configure()
            host.port = port

        connection = Connection("login")
        await connection.open()
        await host.down()
        lead_to(1)  # nobody is there
        await until(lambda: connection.why_lost)
        await asyncio.sleep(2)  # many attempts

        async def attempt(*arguments: Any) -> Any:
            try:
                return await connect(*arguments)
            except LoginFailed:  # it comes up just afterwards
                monkeypatch.setattr(ssh, "connect", connect)
                await host.up()
                lead_to(other.port)
                raise

        monkeypatch.setattr(ssh, "connect", attempt)
        await until(lambda: not connection.trouble)
        assert host.connections
        assert not other.connections
        await host.down()
        await until(lambda: connection.times == 3)
        assert len(other.connections) == 1
        await connection.close()
        await host.up()
        await other.down()

    with_host(test)
