"""A real Enterprise Gateway with kernels of this machine, by its REST interface and its websockets."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient

from farkernel.kernelspecs.templates import load_template
from tests import gateways
from tests.gateways import Client, Gateway
from tests.launcher import processes
from tests.slurm.gateway_laptop import Lab
from tests.test_imports import ENVIRONMENT

T = TypeVar("T")
Start = Callable[..., contextlib.AbstractContextManager[Gateway]]

_PATIENCE = 60.0
_MARK = "KERNEL_TEST"  # a client may send what begins with KERNEL_
_HOME = Path.home().resolve()
_LAUNCHER = "import os; print(os.getppid())"


class Place:
    """A user's directories, and what is left of the kernels."""

    def __init__(self, folder: Path, short: Path) -> None:
        self.folder = folder
        self.short = short
        self.mark = uuid.uuid4().hex
        self.runtime = folder / "runtime"
        self.state = folder / "state"

    def kernelspec(self, name: str = "far", *, proxy: dict[str, Any] | None = None, **changes: Any) -> None:
        """Install a kernelspec that differs from the template `local`."""
        spec = json.loads(json.dumps(load_template("local").spec))
        spec["argv"][0] = sys.executable
        config = {"launcher": {"directory": str(self.short)}, **changes.pop("config", {})}
        spec["metadata"]["kernel_provisioner"]["config"] = config
        spec["metadata"]["process_proxy"].update(proxy or {})
        folder = self.folder / "kernels" / name
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps({**spec, **changes}))

    def left(self) -> list[str]:
        """What there is of processes, sockets, connection files and records."""
        pids = processes.with_variable(_MARK, self.mark)
        files = [*self.short.iterdir(), *self.runtime.glob("kernel-*"), *self.state.glob("farkernel/kernels/*")]
        return processes.described(pids) + [str(file) for file in files]

    async def nothing_is_left(self) -> None:
        await until(lambda: not self.left(), self.left)


async def until(condition: Callable[[], T], told: Callable[[], object] = lambda: "") -> T:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + _PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, told()
        await asyncio.sleep(0.05)
    return value


@pytest.fixture
def place(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A user's home; a test that leaves anything behind fails."""
    place = Place(tmp_path, short)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(place.runtime))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    monkeypatch.setenv("XDG_STATE_HOME", str(place.state))
    place.kernelspec()
    yield place
    asyncio.run(place.nothing_is_left())


@pytest.fixture
def start(place: Place, gateway_python: Path | None) -> Start:
    """Start a gateway with some options and variables."""

    def running(*options: str, **env: str) -> contextlib.AbstractContextManager[Gateway]:
        kind = gateways.enterprise_gateway(gateway_python, *options, **env)
        return gateways.running(kind, "127.0.0.1", place.folder)

    return running


@pytest.fixture
def gateway(start: Start) -> Iterator[Gateway]:
    with start() as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway, place: Place) -> Client:
    return user(gateway, place)


def user(gateway: Gateway, place: Place) -> Client:
    """Alice, whose kernels can be told from others."""
    return Client(gateway, KERNEL_USERNAME="alice", **{_MARK: place.mark})


# ---- the environment ----


def test_farkernel_goes_where_enterprise_gateway_is(place: Place, gateway_python: Path | None) -> None:
    python = str(gateways.enterprise_gateway(gateway_python).argv[0])

    check = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert check.stdout.strip() == "No broken requirements found."
    doctor = _doctor(python)
    assert "jupyter_client 6." in doctor
    assert "for Enterprise Gateway: farkernel.provisioners.enterprise_gateway" in doctor
    assert "problem" not in doctor


def test_a_kernelspec_that_enterprise_gateway_would_run_itself_is_a_problem(
    place: Place, gateway_python: Path | None
) -> None:
    python = str(gateways.enterprise_gateway(gateway_python).argv[0])
    file = place.folder / "kernels/far/kernel.json"
    spec = json.loads(file.read_text())
    del spec["metadata"]["process_proxy"]
    file.write_text(json.dumps(spec))

    doctor = _doctor(python)

    assert f"{file}:" in doctor
    assert "metadata.process_proxy.class_name" in doctor
    assert "it is missing: Enterprise Gateway would not run the kernel by farkernel" in doctor


def _doctor(python: str) -> str:
    argv = [python, "-m", "farkernel.provisioners.cli", "doctor"]
    env = {**os.environ, "COLUMNS": "300", "PATH": "/nowhere"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=env).stdout


def test_the_adapter_does_not_read_the_environment_at_import(gateway_python: Path | None) -> None:
    python = str(gateways.enterprise_gateway(gateway_python).argv[0])
    argv = [python, "-c", ENVIRONMENT, "farkernel.provisioners.enterprise_gateway"]

    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")

    assert done.stdout == "1\n", done.stderr


# ---- a kernel's life ----


async def test_all_that_one_does_with_a_kernel(client: Client, place: Place) -> None:
    async with client.kernel() as (_, notebook):
        launcher = (await notebook.run(f"x = 1; {_LAUNCHER}")).stdout
        asked = await notebook.run("print('hello', input('who? '))", answer="alice")
        sleeper = await notebook.send("import time; print('sleeps', flush=True); time.sleep(600)")
        await sleeper.prints("sleeps")
        await notebook.press("interrupt")
        await sleeper.done()
        kept = (await notebook.run("print(x)")).stdout
        await notebook.press("restart")
        lost = (await notebook.run("print(x)")).errors
        launcher_then = (await notebook.run(_LAUNCHER)).stdout
        assert processes.command(int(launcher)).find(b"-c") > 0

    assert asked.stdout == "hello alice\n"
    assert sleeper.errors == ["KeyboardInterrupt: "]
    assert kept == "1\n"
    assert lost == ["NameError: name 'x' is not defined"]
    assert launcher_then == launcher
    assert place.left() == []  # when the request to end it is answered, not some time later


async def test_a_kernel_that_crashes_is_started_again_where_it_was(client: Client) -> None:
    async with client.kernel() as (_, notebook):
        launcher = (await notebook.run(_LAUNCHER)).stdout
        crash = await notebook.run("import os; os._exit(3)")
        assert [error.partition(":")[0] for error in crash.errors] == ["KernelDied"]
        again = await notebook.run(_LAUNCHER)
        while not again.stdout:  # it came before the next one
            again = await notebook.run(_LAUNCHER)

    assert again.stdout == launcher


async def test_a_kernel_is_ended_while_a_cell_runs(client: Client, place: Place) -> None:
    async with client.kernel() as (kernel_id, notebook):
        cell = await notebook.send("import time; print('sleeps', flush=True); time.sleep(600)")
        await cell.prints("sleeps")
        await client.delete(kernel_id)
        assert place.left() == []

    assert not [error for error in cell.errors if "KernelDied" in error]


async def test_kernels_do_not_meddle_with_each_other(client: Client) -> None:
    async with client.kernel() as (_, one), client.kernel() as (other_id, other):
        await asyncio.gather(one.run("x = 1"), other.run("x = 2"))
        await client.delete(other_id)
        assert (await one.run("print(x)")).stdout == "1\n"


async def test_an_interrupt_by_message(client: Client, place: Place) -> None:
    place.kernelspec("message", interrupt_mode="message")
    async with client.kernel("message") as (_, notebook):
        sleeper = await notebook.send("import time; print('sleeps', flush=True); time.sleep(600)")
        await sleeper.prints("sleeps")
        await notebook.press("interrupt")
        await sleeper.done()

    assert sleeper.errors == ["KeyboardInterrupt: "]
    assert place.left() == []


async def test_the_connection_file_is_one(client: Client, place: Place) -> None:
    async with client.kernel() as (kernel_id, notebook):
        await notebook.run("x = 7")
        console = AsyncKernelClient(connection_file=str(place.runtime / f"kernel-{kernel_id}.json"))
        console.load_connection_file()
        console.start_channels()
        try:
            reply = await console.execute("", user_expressions={"x": "x"}, reply=True, timeout=_PATIENCE)
        finally:
            console.stop_channels()

    assert reply["content"]["user_expressions"]["x"]["data"]["text/plain"] == "7"


async def test_an_idle_kernel_is_culled_and_a_busy_one_is_not(start: Start, place: Place) -> None:
    options = ("--RemoteMappingKernelManager.cull_idle_timeout=10", "--RemoteMappingKernelManager.cull_interval=1")
    with start(*options, "--RemoteMappingKernelManager.cull_connected=True") as gateway:
        client = user(gateway, place)
        async with client.kernel() as (busy, worker):
            cell = await worker.send("import time; print('works', flush=True); time.sleep(600)")
            await cell.prints("works")
            idle = await client.create()
            await client.gone(idle)
            assert await client.kernels() == [busy]


# ---- what it sees ----

_SEEN = ("EG_AUTH_TOKEN", "KG_AUTH_TOKEN", "EG_REMOTE_PWD", "SECRET", "HOME", "KERNEL_ANY", "GIVEN")


async def test_the_gateways_own_variables_stay_there(start: Start, place: Place) -> None:
    with start(EG_INHERITED_ENVS="GIVEN", GIVEN="g", SECRET="s", KG_AUTH_TOKEN="k", EG_REMOTE_PWD="p") as gateway:
        async with user(gateway, place).kernel(KERNEL_ANY="a") as (_, notebook):
            own = await notebook.run(f"import os; print(*[os.environ.get(name) for name in {_SEEN}])")
            launcher = await notebook.run("print(open(f'/proc/{os.getppid()}/environ').read())")

    assert own.stdout.split() == ["None", "None", "None", "None", os.environ["HOME"], "a", "g"]
    assert gateway.token not in launcher.stdout
    assert not [name for name in _SEEN[:4] if f"{name}=" in launcher.stdout]


async def test_nor_where_the_client_sends_none_of_its_own(start: Start, place: Place) -> None:
    # such a kernel gets all of the gateway's variables
    with start(KG_AUTH_TOKEN="k", EG_REMOTE_PWD="p", KERNEL_USERNAME="alice", KERNEL_TEST=place.mark) as gateway:
        lab = Lab(gateway.place, gateway.token)
        kernel_id = json.loads((await lab.fetch("/api/kernels", "POST", {"name": "far"})).body)["id"]
        async with lab.page(kernel_id) as notebook:
            own = await notebook.run(
                "import os; print([name for name in os.environ if 'AUTH' in name or 'PWD' == name[-3:]])"
            )
            launcher = await notebook.run("print(open(f'/proc/{os.getppid()}/environ').read())")
        await lab.fetch(f"/api/kernels/{kernel_id}", "DELETE")

    assert "EG_" not in own.stdout
    assert "KG_" not in own.stdout
    assert gateway.token not in launcher.stdout
    assert "EG_REMOTE_PWD" not in launcher.stdout


async def test_the_notebooks_directory_where_client_and_cluster_share_it(start: Start, place: Place) -> None:
    where = "import os; print(os.getcwd())"
    with start() as gateway:
        async with user(gateway, place).kernel(KERNEL_WORKING_DIR=str(place.folder)) as (_, notebook):
            apart = (await notebook.run(where)).stdout.strip()
    with start(EG_MIRROR_WORKING_DIRS="True") as gateway:
        async with user(gateway, place).kernel(KERNEL_WORKING_DIR=str(place.folder)) as (_, notebook):
            shared = (await notebook.run(where)).stdout.strip()

    assert (apart, shared) == (str(_HOME), str(place.folder))


# ---- what cannot be ----


async def test_what_is_wrong_in_a_kernelspec_is_told(client: Client, place: Place) -> None:
    place.kernelspec("key", config={"slurm": {"acount": "m1"}})
    place.kernelspec("proxy", proxy={"config": {"slurm": {"account": "m1"}}})

    key, proxy = await client.refusal("key"), await client.refusal("proxy")

    file = place.folder / "kernels/key/kernel.json"
    assert key == (500, f'{file}: slurm.acount: unknown key (value "m1"); did you mean slurm.account?')
    assert proxy[0] == 500
    assert "metadata.process_proxy.config.slurm: unknown key" in proxy[1]
    assert "stands in metadata.kernel_provisioner.config" in proxy[1]
    assert await client.kernels() == []
    assert place.left() == []


async def test_who_may_not_have_a_kernel_gets_none(client: Client, place: Place) -> None:
    place.kernelspec("bobs", proxy={"config": {"authorized_users": "bob"}})

    status, told = await client.refusal("bobs")

    assert status == 403
    assert "User 'alice' is not in the set of users authorized" in told


async def test_nobody_is_impersonated(start: Start, place: Place) -> None:
    with start(EG_IMPERSONATION_ENABLED="True") as gateway:
        status, told = await user(gateway, place).refusal()

    assert status == 500
    assert "is to impersonate alice" in told
    assert "Run a gateway for each user" in told


async def test_a_kernel_that_does_not_come_up_is_told_once(client: Client, place: Place) -> None:
    place.kernelspec("false", argv=["/bin/false"])
    async with client.kernel("false") as (kernel_id, notebook):
        cell = await notebook.run("1")
        await client.gone(kernel_id)

    assert [error.partition(":")[0] for error in cell.errors] == ["KernelFailed"]
    log = place.state / f"farkernel/logs/{kernel_id}.log"
    assert log.read_text().count("job submitted") == 1


# ---- the gateway's own end ----


async def test_a_gateway_that_is_stopped_ends_its_kernels(start: Start, place: Place) -> None:
    with start() as gateway:
        client = user(gateway, place)
        for _ in range(2):
            async with client.lab.page(await client.create()) as notebook:
                await notebook.run("1")
    assert place.left() == []


async def test_a_gateway_that_was_killed_forgets_its_kernels(start: Start, place: Place) -> None:
    keeping = {"EG_KERNEL_SESSION_PERSISTENCE": "True", "EG_AVAILABILITY_MODE": "standalone"}
    keeping["EG_PERSISTENCE_ROOT"] = str(place.folder)
    with start(**keeping) as gateway:
        client = user(gateway, place)
        async with client.lab.page(await client.create()) as notebook:
            await notebook.run("1")
        gateway.process.kill()
        gateway.process.wait()
    assert list((place.folder / "kernel_sessions").iterdir())
    await until(lambda: not processes.with_variable(_MARK, place.mark), place.left)
    for directory in place.short.iterdir():
        os.utime(directory, (0, 0))  # some time later: what is young is not taken for left

    with start(**keeping) as gateway:
        client = user(gateway, place)
        assert await client.kernels() == []
        async with client.kernel() as (_, notebook):  # what the killed one has left goes with the next one's kernel
            assert (await notebook.run("print(1)")).stdout == "1\n"
    for file in place.runtime.glob("kernel-*"):
        file.unlink()  # Enterprise Gateway's own
