"""A laptop that has only ssh to the login node: Slurm's commands run there, and the link goes through it."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.cluster import Site
from tests.cluster.site import CHECKOUT, HOSTS, LOGIN, Role
from tests.slurm.helpers import PATIENCE, Specs, eventually, flood, jobs
from tests.slurm.squeue import Occupation

ADDRESS = HOSTS[LOGIN].address
NODES = [spec.address for spec in HOSTS.values() if spec.role is Role.COMPUTE]
RATE = 1000


class OnLaptop(Protocol):
    """Lets alice do something on her laptop, and returns what she saw; the fixture `on_laptop`."""

    async def __call__(self, story: str, *, ssh: dict[str, str] | None = None, **details: object) -> Any: ...


@pytest.fixture
def ssh_alone(cluster: Site) -> Iterator[None]:
    """No way leads from the laptop to a compute node."""
    routes = [f"prohibit {address}/32" for address in NODES]
    on_host(cluster, "laptop", "; ".join(f"ip route add {route}" for route in routes))
    yield
    on_host(cluster, "laptop", "; ".join(f"ip route del {route}" for route in routes))


@pytest.fixture
def login(specs: Specs, ssh_alone: None) -> Callable[..., dict[str, Any]]:
    """Returns a kernelspec that goes by ssh; what it is given is merged into its config."""

    def make(**config: Any) -> dict[str, Any]:
        name = specs(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
        found = subprocess.run(
            [sys.executable, "-m", "jupyter", "kernelspec", "list", "--json"], capture_output=True, check=True
        )
        spec: dict[str, Any] = json.loads(found.stdout)["kernelspecs"][name]["spec"]
        spec["env"] = {**spec["env"], "FROM_SPEC": "yes"}
        parts = spec["metadata"]["kernel_provisioner"]["config"]
        parts |= {"login": LOGIN, "launcher": {"python": sys.executable}, **config}
        return spec

    return make


@pytest.fixture
def on_laptop(cluster: Site) -> OnLaptop:
    key = (Path.home() / ".ssh/id_ed25519").read_text()

    async def tell(story: str, *, ssh: dict[str, str] | None = None, **details: object) -> Any:
        files = {"id_ed25519": key} if ssh is None else ssh
        request = json.dumps({"story": story, "ssh": files, **details})
        argv = [sys.executable, "-B", "-m", "tests.slurm.edge_laptop"]
        env = {"PYTHONPATH": str(CHECKOUT)}
        done = await asyncio.to_thread(cluster.run, "laptop", "alice", argv, request, env, 2.5 * PATIENCE)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    return tell


class Bell:
    """Rung by the laptop, which then waits until it is let go on."""

    def __init__(self) -> None:
        self.rings: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self.place: tuple[str, int] = ("", 0)

    @contextlib.asynccontextmanager
    async def rung(self, story: asyncio.Task[Any]) -> AsyncIterator[None]:
        """Wait for a ring of somebody's story; it goes on when this is over."""
        ring = asyncio.create_task(self.rings.get())
        await asyncio.wait({ring, story}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if not ring.done():
            ring.cancel()
            story.cancel()
            await story
        yield
        ring.result().close()


@contextlib.asynccontextmanager
async def bell() -> AsyncIterator[Bell]:
    one = Bell()
    async with await asyncio.start_server(lambda _, writer: one.rings.put_nowait(writer), ADDRESS, 0) as listening:
        one.place = listening.sockets[0].getsockname()
        yield one


def on_host(site: Site, host: str, script: str) -> str:
    done = site.run(host, "root", ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout


def processes(site: Site, host: str, pattern: str) -> list[str]:
    return on_host(site, host, f"pgrep -u alice -a -f '{pattern}' || true").splitlines()


def break_ssh(site: Site) -> None:
    """End what serves alice's ssh connections on the login node, once there is one again."""
    on_host(site, LOGIN, "until pkill -KILL -u alice -x sshd; do sleep 0.1; done")


async def ssh_lost_in_a_flood(
    site: Site, on_laptop: Callable[..., Awaitable[Any]], *, rate: int, **details: object
) -> Any:
    """Lose ssh three times while a cell prints: all of it arrives, from the same job. Return what alice saw."""
    seconds = 40  # each time, a connection may take a while to come back
    async with bell() as one:
        story = asyncio.ensure_future(on_laptop("flood", code=flood(seconds, rate), bell=one.place, **details))
        async with one.rung(story):
            job = jobs()
            await asyncio.to_thread(break_ssh, site)
        for _ in range(2):
            await asyncio.sleep(4)
            await asyncio.to_thread(break_ssh, site)
        assert jobs() == job
        saw = await story
    assert saw["stdout"].split() == [str(number) for number in range(seconds * rate)]
    return saw


async def nothing_left(site: Site) -> None:
    """Wait until nothing of the kernel is there; the directories are the fixture's."""
    await eventually(lambda: not jobs())
    await eventually(lambda: not processes(site, LOGIN, " keeper$"))
    await eventually(lambda: not processes(site, LOGIN, "^srun "))
    await eventually(lambda: not processes(site, "laptop", "farkernel|ipykernel"))


async def test_a_notebook_on_a_laptop(cluster: Site, login: Callable[..., dict[str, Any]], on_laptop: OnLaptop) -> None:
    async with bell() as one:
        story = asyncio.create_task(on_laptop("work", spec=login(), bell=one.place))
        async with one.rung(story):
            seen = on_host(cluster, LOGIN, "ps -ww -u alice -o args")
            links = on_host(cluster, "laptop", "ss -Htn state established").split()
        saw = await story
    job, node, *rest = saw["where"]
    assert job.isdecimal()
    assert node.startswith("nid023")
    assert rest == ["/home/alice", "yes", "None"]
    assert saw["asked"] == "hello alice\n"
    assert saw["interrupted"] == ["KeyboardInterrupt: "]
    assert saw["kept"] == "1\n"
    assert saw["lost"] == ["NameError: name 'x' is not defined"]
    assert saw["then"] == saw["where"]
    assert seen.count(" keeper\n") == 1
    assert f"{ADDRESS}:22" in links
    assert not [place for place in links if place.rpartition(":")[0] in NODES]
    await nothing_left(cluster)


async def test_ssh_is_lost_in_the_middle_of_a_cell(
    cluster: Site, login: Callable[..., dict[str, Any]], on_laptop: OnLaptop
) -> None:
    saw = await ssh_lost_in_a_flood(cluster, on_laptop, rate=RATE, spec=login())
    assert saw["after"] == "42"
    await nothing_left(cluster)


@pytest.fixture
def sshd(cluster: Site) -> Iterator[None]:
    """Whatever happened, users are let in again."""
    yield
    on_host(cluster, LOGIN, "kill -CONT $(cat /run/sshd.pid)")


@pytest.mark.usefixtures("sshd")
async def test_ssh_is_lost_while_the_job_waits(
    cluster: Site, no_free_knl: Occupation, login: Callable[..., dict[str, Any]], on_laptop: OnLaptop
) -> None:
    async with bell() as one:
        story = asyncio.create_task(on_laptop("queue", spec=login(), bell=one.place))
        async with one.rung(story):
            pending = jobs("PENDING")
            on_host(cluster, LOGIN, "kill -STOP $(cat /run/sshd.pid)")  # nobody new is let in
            await asyncio.to_thread(break_ssh, cluster)
        async with one.rung(story):
            on_host(cluster, LOGIN, "kill -CONT $(cat /run/sshd.pid)")
            await asyncio.to_thread(no_free_knl.end)
        saw = await story
    assert len(pending) == 1
    assert any(text.startswith(f"Slurm job {pending[0]} PENDING") for text in saw["shown"])
    assert [text for text in saw["shown"] if f"the ssh connection to {LOGIN} is lost since" in text]
    assert saw["stdout"] == "mine\n"
    await nothing_left(cluster)


@pytest.mark.parametrize("running", [True, False], ids=["running", "pending"])
async def test_the_laptop_is_gone_for_good(
    cluster: Site,
    request: pytest.FixtureRequest,
    login: Callable[..., dict[str, Any]],
    on_laptop: OnLaptop,
    running: bool,
) -> None:
    if not running:
        request.getfixturevalue("no_free_knl")
    async with bell() as one:
        spec = login(job={"orphan_timeout": "20s"})
        story = asyncio.create_task(on_laptop("die", spec=spec, running=running, bell=one.place))
        async with one.rung(story):
            await eventually(lambda: len(jobs("RUNNING" if running else "PENDING")) == 1)
        await story
    on_host(cluster, "laptop", "rm -rf /tmp/farkernel-* /tmp/laptop-*")  # what a process that is killed cannot remove
    await nothing_left(cluster)


UNKNOWN = "UserKnownHostsFile ~/.ssh/known_hosts\nGlobalKnownHostsFile /dev/null\n"


async def test_a_host_that_nobody_knows(
    cluster: Site, login: Callable[..., dict[str, Any]], on_laptop: OnLaptop
) -> None:
    key = (Path.home() / ".ssh/id_ed25519").read_text()
    files = {"id_ed25519": key, "config": UNKNOWN}
    saw = await on_laptop("fail", spec=login(), ssh=files)
    assert saw["name"] == "HostKeyUnknown"
    assert f"The key of {LOGIN} is in no known_hosts." in saw["text"]
    assert f"`ssh alice@{LOGIN}` once" in saw["text"]
    # alice's own key stands for one that the host does not have
    public = (Path.home() / ".ssh/id_ed25519.pub").read_text()
    saw = await on_laptop("fail", spec=login(), ssh={**files, "known_hosts": f"{LOGIN} {public}"})
    assert saw["name"] == "HostKeyChanged"
    assert f"ssh-keygen -R {LOGIN}" in saw["text"]


async def test_a_user_that_is_not_let_in(
    cluster: Site, login: Callable[..., dict[str, Any]], on_laptop: OnLaptop, tmp_path: Path
) -> None:
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    await asyncio.to_thread(subprocess.run, make, check=True)
    saw = await on_laptop("fail", spec=login(), ssh={"id_ed25519": (tmp_path / "key").read_text()})
    assert saw["name"] == "LoginDenied"
    assert f"{LOGIN} does not let alice in by ssh." in saw["text"]
    assert "It takes: publickey" in saw["text"]


@pytest.mark.parametrize(
    ("config", "name", "text"),
    [
        ({"login": "no-such-host"}, "HostNotFound", "There is no host no-such-host."),
        ({"launcher": {"connect": "login"}}, "RequestError", "no launcher can connect to a host behind ssh"),
        ({"login": "alice@ctl", "launcher": {"python": "/no/python3"}}, "PythonMissing", "/no/python3"),
        ({"slurm": {"constraint": "knl", "qos": "wrong"}}, "SubmissionRefused", "Invalid qos specification"),
    ],
)
async def test_what_is_wrong_is_said(
    cluster: Site,
    login: Callable[..., dict[str, Any]],
    on_laptop: OnLaptop,
    config: dict[str, Any],
    name: str,
    text: str,
) -> None:
    saw = await on_laptop("fail", spec=login(**config))
    assert saw["name"] == name
    assert text in saw["text"]
    await nothing_left(cluster)
