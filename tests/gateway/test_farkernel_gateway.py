"""`farkernel gateway`, as its user and its clients see it."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from tests.gateways import tunnel
from tests.ports import free_port
from tests.provisioners.cli.conftest import Farkernel, farkernel, home
from tests.provisioners.conftest import short
from tests.slurm.gateway_laptop import Lab

__all__ = ["farkernel", "home", "short"]

_SECRET = "of-another-client"


class Gateways:
    """What one user does with gateways, on one host."""

    def __init__(self, short: Path, home: Path, farkernel: Farkernel) -> None:
        self.runtime = short
        self.log = home / "log"
        self.env = {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_PATH": str(home / "jupyter"),
            "IPYTHONDIR": str(home / "ipython"),
        }
        self._farkernel = farkernel
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *options: str, **env: str) -> dict[str, Any]:
        """Start one; return what it tells."""
        argv = [sys.executable, "-m", "farkernel.provisioners.cli", "gateway", "--allow-root", "--json", *options]
        with self.log.open("a") as log:
            process = subprocess.Popen(
                argv, env={**os.environ, **self.env, **env}, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.processes.append(process)
        assert process.stdout
        told: dict[str, Any] = json.loads(process.stdout.readline() or "null")
        return told

    def call(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self._farkernel("gateway", *options, **self.env)

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def gateways(short: Path, home: Path, farkernel: Farkernel) -> Iterator[Gateways]:
    here = Gateways(short, home, farkernel)
    yield here
    here.end()


async def create(lab: Lab, name: str = "python3", /, **env: str) -> str:
    response = await lab.fetch("/api/kernels", "POST", {"name": name, "env": env})
    return str(json.loads(response.body)["id"])


def test_it_tells_how_to_connect_and_a_second_call_finds_it(gateways: Gateways) -> None:
    told = gateways.start()
    assert sorted(told) == ["pid", "relay", "socket", "token", "version"]
    assert told["pid"] == gateways.processes[0].pid
    again = gateways.call("--allow-root", "--json")
    assert json.loads(again.stdout) == told
    assert json.loads(gateways.call("--status", "--json").stdout) == told
    words = gateways.call("--status").stdout
    assert f"-L 9999:{told['socket']} " in words
    assert told["token"] in words


def test_it_stays_in_the_background(gateways: Gateways) -> None:
    told = json.loads(gateways.call("--allow-root", "--background", "--json").stdout)
    assert told["started"] is True
    assert os.getsid(told["pid"]) == told["pid"]
    again = json.loads(gateways.call("--allow-root", "--background", "--json").stdout)
    assert again == {**told, "started": False}
    assert gateways.call("--stop").returncode == 0
    failed = gateways.call("--allow-root", "--background", "--ip", "127.0.0.1", "--port", "1", "--certfile", "none")
    assert failed.returncode == 1
    assert "The gateway does not come up." in failed.stderr
    assert "TLS needs a certificate and its key." in failed.stderr


def test_nobody_else_may_enter_and_the_token_is_in_no_argument_variable_or_log(gateways: Gateways) -> None:
    told = gateways.start()
    socket = Path(told["socket"])
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((socket.parent / "gateway.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(told["relay"]).stat().st_mode) == 0o600
    for name in ("cmdline", "environ"):
        assert told["token"].encode() not in Path(f"/proc/{told['pid']}/{name}").read_bytes()
    assert told["token"] not in gateways.log.read_text()


def test_a_directory_that_others_may_enter_is_refused(gateways: Gateways) -> None:
    directory = gateways.runtime / f"farkernel-gateway-{os.getuid()}"
    directory.mkdir(mode=0o755)
    done = gateways.call("--allow-root")
    directory.rmdir()
    assert done.returncode == 1
    assert "others may enter it" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ip", "0.0.0.0"], "Without TLS the token would cross the network to 0.0.0.0 in clear."),
        (["--port", "80"], "--port, --certfile and --keyfile are for TCP."),
        (["--ip", "0.0.0.0", "--certfile", "c"], "TLS needs a certificate and its key."),
        (
            ["--ip", "127.0.0.1", "--certfile", "/no", "--keyfile", "/no"],
            "no TLS with the certificate /no and the key /no.",
        ),
        (
            ["--ip", "127.0.0.1", "--certfile", __file__, "--keyfile", __file__],
            "There can be no TLS with",
        ),
        (["--token-file", "/dev/null"], "Others may read or have made /dev/null."),
        (["--token-file", "/nowhere"], "There is no token in /nowhere."),
    ],
)
def test_what_is_not_safe_is_refused(gateways: Gateways, options: list[str], words: str) -> None:
    done = gateways.call("--allow-root", *options)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(gateways.runtime.iterdir()) == []


async def test_who_was_logged_in_is_not_so_at_the_next_gateway(gateways: Gateways) -> None:
    address = ("--ip", "127.0.0.1", "--port", str(free_port()))
    told = gateways.start(*address)
    url = told["url"]
    client, jar = AsyncHTTPClient(), SimpleCookie()

    def keep(line: str) -> None:
        if line.startswith("Set-Cookie: "):
            jar.load(line.removeprefix("Set-Cookie: "))

    def cookies() -> dict[str, str]:
        return {"Cookie": "; ".join(f"{morsel.key}={morsel.coded_value}" for morsel in jar.values())}

    async def kernels() -> int:
        return (await client.fetch(f"{url}/api/kernels", headers=cookies(), raise_error=False)).code

    await client.fetch(f"{url}/login", header_callback=keep)
    body = urlencode({"password": told["token"], "_xsrf": jar["_xsrf"].value})
    login = HTTPRequest(f"{url}/login", "POST", cookies(), body=body, header_callback=keep, follow_redirects=False)
    await client.fetch(login, raise_error=False)
    assert await kernels() == 200
    gateways.call("--stop")
    gateways.start(*address)
    assert await kernels() == 403


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
def test_root_has_to_mean_it(gateways: Gateways) -> None:
    done = gateways.call()
    assert done.returncode == 1
    assert "Give --allow-root if you mean it." in done.stderr


async def test_it_has_a_given_token_on_loopback(gateways: Gateways, home: Path) -> None:
    file = home / "token"
    file.touch(mode=0o600)
    file.write_text("given\n")
    told = gateways.start("--ip", "127.0.0.1", "--token-file", str(file))
    assert sorted(told) == ["pid", "token", "url", "version"]
    assert told["token"] == "given"
    assert await Lab(told["url"].removeprefix("http://"), "given").get("/api/kernels") == []


async def test_it_has_kernels_for_who_has_the_token_and_nothing_else(gateways: Gateways) -> None:
    told = gateways.start()
    async with tunnel(told) as lab:
        with pytest.raises(Exception, match="403"):
            async with tunnel({**told, "token": "wrong"}) as stranger:
                await stranger.get("/api/kernels")
        for path in ("/api/contents", "/api/terminals", "/api/sessions", "/tree", "/lab"):
            with pytest.raises(Exception, match="404"):
                await lab.fetch(path)
        kernel = await create(lab)
        assert [one["id"] for one in await lab.get("/api/kernels")] == [kernel]
        async with lab.page(kernel) as page:
            assert (await page.run("print(6 * 7)")).stdout == "42\n"


async def test_a_kernel_has_nothing_of_another_client_nor_the_token(gateways: Gateways) -> None:
    told = gateways.start(JUPYTER_GATEWAY_URL="http://127.0.0.1:1")
    async with tunnel(told) as one, tunnel(told) as other:
        # overlapping starts
        first, second = await asyncio.gather(create(one, KERNEL_OWN=_SECRET), create(other))
        for kernel in (first, second):
            async with other.page(kernel) as page:
                seen = (await page.run("import os; print(dict(os.environ))")).stdout
            assert "HOME" in seen
            assert told["token"] not in seen
            assert _SECRET not in seen


def leave_open(home: Path) -> None:
    """Install a kernelspec of this machine that leaves its kernel's directory open."""
    folder = home / "jupyter" / "kernels" / "far"
    folder.mkdir(parents=True)
    config = {"allow": {"kernel.cwd": [f"{home}/*"]}}
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Far",
        "language": "python",
        "metadata": {"kernel_provisioner": {"provisioner_name": "farkernel-local", "config": config}},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))


async def test_a_client_chooses_for_its_own_kernel_what_the_kernelspec_leaves_open(
    gateways: Gateways, home: Path
) -> None:
    leave_open(home)
    for name in ("one", "other"):
        (home / name).mkdir()
    told = gateways.start()
    async with tunnel(told) as lab:
        wanted = [{"KERNEL_KERNEL_CWD": str(home / name), "KERNEL_SECRET": _SECRET} for name in ("one", "other")]
        started = await asyncio.gather(*(create(lab, "far", **env) for env in wanted))  # overlapping starts
        for kernel, env in zip(started, wanted, strict=True):
            async with lab.page(kernel) as page:
                cell = await page.run(
                    "import os; print(os.getcwd()); print([n for n in os.environ if n.startswith('KERNEL_')])"
                )
            assert cell.stdout == f"{env['KERNEL_KERNEL_CWD']}\n[]\n"


async def test_a_client_is_told_what_it_cannot_choose(gateways: Gateways, home: Path) -> None:
    leave_open(home)
    told = gateways.start()
    async with tunnel(told) as lab:
        for env, words in (
            ({"KERNEL_KERNEL_CWD": "/root"}, "allows kernel.cwd of"),
            ({"KERNEL_SLURM_TIME": "30"}, "does not list slurm.time under allow"),
        ):
            with pytest.raises(HTTPClientError) as caught:
                await create(lab, "far", **env)
            assert caught.value.response
            assert words in json.loads(caught.value.response.body)["message"]
        assert await lab.get("/api/kernels") == []


async def test_idle_kernels_go(gateways: Gateways) -> None:
    told = gateways.start("--cull-after", "10")  # the page is to be opened within that
    async with tunnel(told) as lab:
        kernel = await create(lab)
        async with lab.page(kernel) as page:
            await page.run("1")
        async with asyncio.timeout(60):
            while await lab.get("/api/kernels"):
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, None])
async def test_its_end_leaves_nothing(gateways: Gateways, way: signal.Signals | None) -> None:
    told = gateways.start()
    async with tunnel(told) as lab:
        kernel = await create(lab)
        async with lab.page(kernel) as page:
            pid = int((await page.run("import os; print(os.getpid())")).stdout)
    if way is None:
        assert gateways.call("--stop").returncode == 0
    else:
        os.kill(told["pid"], way)
    assert gateways.processes[0].wait(60) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(gateways.runtime.iterdir()) == []
    assert gateways.call("--status").returncode == 1


def test_what_a_killed_one_has_left_is_cleared(gateways: Gateways) -> None:
    killed = gateways.start()
    gateways.processes[0].kill()
    gateways.processes[0].wait(60)
    assert Path(killed["socket"]).exists()
    assert gateways.call("--status").returncode == 1
    told = gateways.start()
    assert told["pid"] != killed["pid"]
    assert told["token"] != killed["token"]
