"""`farkernel ps`, `logs`, `cancel` and `clean` with kernels of this machine, and without a Slurm."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.launcher import processes
from tests.patience import PATIENCE
from tests.provisioners.cli.conftest import Farkernel
from tests.provisioners.conftest import short

__all__ = ["short"]

SERVER = """
import asyncio, os, sys
from jupyter_client.manager import AsyncKernelManager

async def main():
    manager = AsyncKernelManager(kernel_name=sys.argv[1])
    try:
        await manager.start_kernel(env={**os.environ, "JPY_SESSION_NAME": "work/a.ipynb"})
        print(manager.kernel_id, flush=True)
        while await manager.is_alive():
            await asyncio.sleep(0.1)
        print(manager.provisioner.session.error, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    except Exception as error:
        print("failed", flush=True)
    finally:
        await manager.shutdown_kernel()

asyncio.run(main())
"""
CRASHES = "import sys; sys.exit('there is no licence left')"


class Home:
    """A user's directories, with servers that have one kernel each."""

    def __init__(self, folder: pathlib.Path, short: pathlib.Path, farkernel: Farkernel) -> None:
        self.sockets = short / "run"
        self.nodes = short / "nodes"
        self.state = folder / "state/farkernel"
        for directory in (self.sockets, self.nodes):
            directory.mkdir(mode=0o700)
        self.env = {
            "JUPYTER_PATH": str(folder / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "XDG_RUNTIME_DIR": str(self.sockets),
            "XDG_STATE_HOME": str(folder / "state"),
            "PATH": f"{pathlib.Path(sys.executable).parent}:/usr/bin:/bin",
        }
        self.servers: list[subprocess.Popen[str]] = []
        self._folder = folder
        self._farkernel = farkernel

    def kernelspec(self, name: str, argv: list[str] | None = None) -> None:
        file = self._folder / f"jupyter/kernels/{name}/kernel.json"
        file.parent.mkdir(parents=True)
        stanza = {"provisioner_name": "farkernel-local", "config": {"launcher": {"directory": str(self.nodes)}}}
        ipykernel = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv or ipykernel, "display_name": f"Far {name}", "language": "python"}
        file.write_text(json.dumps({**spec, "metadata": {"kernel_provisioner": stanza}}))

    def start(self, name: str = "far") -> str:
        """Start a server with a kernel; return the kernel's id."""
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, name],
            env={**os.environ, **self.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.servers.append(server)
        return self.says()

    def says(self) -> str:
        stdout = self.servers[-1].stdout
        assert stdout
        return stdout.readline().strip()

    def start_recorded(self) -> str:
        """Start a server with a kernel, and wait until its record says that it runs; return the kernel's id."""
        kernel_id = self.start()
        _until(lambda: self.record(kernel_id).get("phase") == "running")
        return kernel_id

    def crash(self) -> None:
        """Start a server whose kernel does not come up, and wait for the server's end."""
        assert self.start("crash") == "failed"
        self.servers[-1].wait(PATIENCE)

    def kill(self) -> None:
        self.servers[-1].kill()
        self.servers[-1].wait()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._farkernel(*arguments, **self.env)

    def ps(self) -> list[dict[str, Any]]:
        done = self.run("ps", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def record(self, kernel_id: str) -> dict[str, Any]:
        """What is written down of a kernel; nothing as long as nothing is."""
        file = self.state / f"kernels/{kernel_id}.json"
        record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return record

    def records(self) -> list[str]:
        return [file.stem for file in self.state.glob("kernels/*.json")]


@pytest.fixture
def user(tmp_path: pathlib.Path, short: pathlib.Path, farkernel: Farkernel) -> Iterator[Home]:
    """A user with the kernelspecs `far` and `crash`; the servers go when the test ends."""
    user = Home(tmp_path, short, farkernel)
    user.kernelspec("far")
    user.kernelspec("crash", [sys.executable, "-c", CRASHES, "{connection_file}"])
    yield user
    for server in user.servers:
        server.send_signal(signal.SIGINT)
        server.communicate()
    _until(lambda: not list(user.nodes.iterdir()))
    for directory in (user.sockets, user.nodes):
        subprocess.run(["rm", "-r", directory], check=True)


def _until(condition: Callable[[], object], seconds: float = 2 * PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_kernels(user: Home) -> None:
    assert user.ps() == []
    assert user.run("ps").stdout == "There are no kernels.\n"
    assert user.run("cancel", "--all").stdout == "There are no kernels.\n"
    assert user.run("clean").stdout == "There is nothing to clean.\n"
    done = user.run("logs", "far")
    assert done.returncode == 1
    assert done.stderr.startswith("There is no kernel 'far'.\nName the beginning of its id")
    assert not user.state.exists()


def test_a_kernel_is_listed_while_it_is_there(user: Home) -> None:
    kernel_id = user.start()
    _until(lambda: user.ps()[0]["memory"])
    (row,) = user.ps()
    assert (row["kernel_id"], row["kernelspec"], row["display_name"]) == (kernel_id, "far", "Far far")
    assert (row["state"], row["notebook"], row["job_id"]) == ("running", "work/a.ipynb", None)
    assert row["server_pid"] == user.servers[-1].pid
    assert row["memory"] > 20 * 2**20
    table = user.run("ps").stdout
    for text in (kernel_id[:6], "Far far", "work/a.ipynb", "running", "MiB", row["server"]):
        assert text in table
    user.servers[-1].send_signal(signal.SIGINT)
    user.servers[-1].wait()
    assert user.ps() == []
    assert user.records() == []


def test_the_log_of_a_kernel_that_has_ended_says_why(user: Home) -> None:
    user.crash()
    for wanted in ("crash", next(user.state.glob("logs/*.log")).stem[:7]):
        done = user.run("logs", wanted)
        assert done.returncode == 0
        assert "\nthere is no licence left\n" in done.stdout
        assert "start failed" in done.stdout
    assert user.run("logs", "crash", "--lines", "1").stdout.endswith(
        "ended: all released (on " + os.uname().nodename + ")\n"
    )
    assert user.run("logs", "crash", "--follow").stdout == user.run("logs", "crash").stdout


def test_a_log_can_be_followed(user: Home) -> None:
    kernel_id = user.start()
    with subprocess.Popen(
        [sys.executable, "-m", "farkernel.provisioners.cli", "logs", "-f", "far"],
        env={**os.environ, **user.env},
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout
        while "running" not in follower.stdout.readline():
            pass
        done = user.run("cancel", kernel_id[:8])
        assert done.stdout == f"The kernel {kernel_id[:8]} (Far far) has ended.\n", done.stderr
        rest = follower.stdout.read()
    assert "The launcher on this machine has ended" in rest
    assert "ended: all released" in rest


def test_a_log_is_followed_no_longer_than_its_server_lives(user: Home) -> None:
    kernel_id = user.start_recorded()
    user.kill()
    done = user.run("logs", "-f", kernel_id)
    assert user.records() == [kernel_id]
    assert "running" in done.stdout
    assert done.returncode == 0, done.stderr


def test_a_kernel_is_cancelled_and_its_server_knows(user: Home) -> None:
    launcher = user.record(user.start_recorded())["launcher"]
    done = user.run("cancel", "far")
    assert (done.returncode, done.stderr) == (0, "")
    assert not processes.runs(launcher)
    assert user.says().startswith("The launcher on this machine has ended")
    assert user.ps() == []


@pytest.mark.parametrize("arguments", [(), ("far", "--all")])
def test_cancel_wants_to_know_what(user: Home, arguments: tuple[str, ...]) -> None:
    done = user.run("cancel", *arguments)
    assert done.returncode == 2
    assert "name a KERNEL, or give --all" in done.stderr


def test_what_a_killed_server_has_left_is_cleaned(user: Home) -> None:
    kernel_id = user.start_recorded()
    user.kill()
    assert user.records() == [kernel_id]
    assert user.ps() == []
    (sockets,) = user.sockets.glob("farkernel-*")
    os.utime(sockets, (0, 0))  # younger ones may be about to be used
    name = f"kernel {kernel_id[:8]} (Far far)"
    dry = user.run("clean", "--dry-run").stdout.splitlines()
    assert f"Would remove the record of {name}." in dry
    assert f"Would remove {sockets}." in dry
    assert user.records() == [kernel_id]
    said = user.run("clean").stdout.splitlines()
    assert f"Removed the record of {name}." in said
    assert f"Removed {sockets}." in said
    assert user.records() == []
    assert "was killed" in user.run("logs", kernel_id).stdout
    assert user.run("clean").stdout == "There is nothing to clean.\n"
    assert user.run("clean", "--logs").stdout == "Removed the log of 1 kernel that has ended.\n"
    assert [path for path in user.state.rglob("*") if path.is_file()] == []
    assert not sockets.exists()


def test_the_next_kernel_sweeps_what_a_killed_server_has_left(user: Home) -> None:
    first = user.start_recorded()
    user.kill()
    second = user.start()
    _until(lambda: user.records() == [second])
    said = user.run("logs", first[:8]).stdout
    assert "running" in said
    assert said.endswith(f"Its server, process {user.servers[0].pid} on {os.uname().nodename}, was killed.\n")


def test_a_log_that_is_older_than_two_weeks_is_cleaned(user: Home) -> None:
    user.crash()
    assert user.run("clean").stdout == "There is nothing to clean.\n"
    for file in user.state.glob("logs/*"):
        os.utime(file, (0, 0))
    assert user.run("clean").stdout == "Removed the log of 1 kernel that has ended.\n"
    assert user.run("logs", "crash").returncode == 1


def test_a_kernel_that_has_ended_is_listed_if_it_is_asked_for(user: Home) -> None:
    user.crash()
    kernel_id = user.start_recorded()
    assert [row["kernel_id"] for row in user.ps()] == [kernel_id]
    over, there = json.loads(user.run("ps", "--all", "--json").stdout)
    assert (over["kernelspec"], there["kernel_id"], there["ended"]) == ("crash", kernel_id, None)
    assert over["ended"] <= time.time()
    assert "ended on" in over["why"]
    assert over["state"].startswith("ended 20")
    assert over["left"] is None
    assert "Far crash" in user.run("ps", "--all").stdout


def test_clean_leaves_what_is_there(user: Home) -> None:
    kernel_id = user.start_recorded()
    assert user.run("clean").stdout == "There is nothing to clean.\n"
    assert [row["state"] for row in user.ps()] == ["running"]
    assert user.run("logs", kernel_id).returncode == 0


@pytest.mark.parametrize("flaw", ["not writable", "not a directory"])
def test_a_state_directory_that_cannot_be_used_keeps_no_kernel_from_starting(user: Home, flaw: str) -> None:
    if flaw == "not a directory":
        user.state.parent.mkdir()
        user.state.touch()
    else:
        user.env["XDG_STATE_HOME"] = "/proc"  # not even root can write there
    user.start()
    server = user.servers[-1]
    server.send_signal(signal.SIGINT)
    _, err = server.communicate()
    assert err.count("Records and logs of kernels are not written") == 1


def test_a_state_directory_of_somebody_else_is_refused(user: Home) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    user.state.mkdir(parents=True, mode=0o700)
    os.chown(user.state, 12345, 12345)
    for command in (["ps"], ["logs", "far"], ["cancel", "far"], ["clean"]):
        done = user.run(*command)
        assert done.returncode == 1
        assert done.stderr == (
            f"The directory {user.state} belongs to user 12345.\n"
            "Name a directory of yours in XDG_STATE_HOME, or mend this one.\n"
        )
