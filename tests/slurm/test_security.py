"""Another user can neither read nor disturb a kernel, and finds no secret of it.

bob is on the login node, and has a job of his own on the kernel's node. Whatever he tries, alice tries with the same
program (intruder.py), so that it is seen to work for the one who may.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.manager import AsyncKernelManager

from farkernel.launcher import endpoints
from farkernel.launcher.link import _HEADER, Kind
from farkernel.launcher.wire import Signer
from farkernel.provisioners.payload import payload
from farkernel.provisioners.session import Session
from tests.cluster import Site
from tests.slurm import intruder
from tests.slurm.helpers import PATIENCE, Client, Specs, eventually, kernel, slurm

LOGIN = "cori01"
UID = os.getuid()
LIMIT = 256
PRINTS = "import time\nwhile True: print('private words', flush=True); time.sleep(0.02)"
SERVERS_OWN = ("JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JUPYTER_GATEWAY_AUTH_TOKEN")
PLACES = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/home/alice", "/var/log", "/var/spool"]
GARBAGE = [
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "\xff" + 8 * "\0" + "\1\x7f\3\1CURVE" + 47 * "\0" + "\x06" + "\x7f" + 7 * "\xff" + 1000 * "x",
    "\xff" + 8 * "\0" + "\1\x7f\3\0NULL" + 48 * "\0" + "\4\x19\5READY\x0bSocket-Type\0\0\0\6DEALER",
    "\x01\0\0\0" * 500,
]


@dataclass
class Scene:
    """alice's kernel on a node that bob has a job on, too."""

    cluster: Site
    manager: AsyncKernelManager
    client: Client
    node: str
    job: str
    bobs_job: str

    @property
    def session(self) -> Session:
        provisioner: Any = self.manager.provisioner
        session: Session = provisioner.session
        return session

    @property
    def key(self) -> str:
        """What the kernel's messages are signed with."""
        key: bytes = self.manager.session.key
        return key.decode()

    @property
    def port(self) -> int:
        """The launcher's."""
        return int(self._link_end._endpoint.rpartition(":")[2])

    @property
    def server_key(self) -> str:
        return str(self._link_end._server_key, "ascii")

    @property
    def client_keys(self) -> dict[str, str]:
        """The login side's keys for the link."""
        assert self.session._remote
        public, secret = self.session._remote._keys
        return {"public": public.decode(), "secret": secret.decode()}

    @property
    def front(self) -> Path:
        """The directory of the sockets on the login node."""
        assert self.session._clients
        return self.session._clients._front._directory.path

    @property
    def secrets(self) -> dict[str, str]:
        key, curve = self.key, self.client_keys["secret"]
        decoded = {name: value for name, value in os.environ.items() if name in SERVERS_OWN}
        raw = zmq.utils.z85.decode(curve)
        return {
            "HMAC key": key,
            "HMAC key without dashes": key.replace("-", ""),
            "HMAC key in hex": key.encode().hex(),
            "CURVE key": curve,
            "CURVE key raw": raw.decode("latin-1"),
            "CURVE key in hex": raw.hex(),
            **decoded,
        }

    @property
    def _link_end(self) -> Any:
        assert self.session._remote
        return self.session._remote._end

    async def bob(self, host: str, attempt: str, **request: Any) -> Any:
        """Have bob try something, on a node from inside his job."""
        return await self._attempt("bob", host, self.bobs_job, attempt, request)

    async def bob_is_kept_out(self, host: str, address: str, port: int, server_key: str, door: dict[str, Any]) -> None:
        """Have bob try a port of the link from a host: by a key of his own, by none, and with garbage.

        :param door: how the one who belongs there knocks
        """
        public, secret = (key.decode() for key in zmq.curve_keypair())
        bobs = {"server": server_key, "public": public, "secret": secret}
        doors = [{**door, "curve": bobs}, door, {"endpoint": door["endpoint"], "kind": "SUB"}]
        tried = await self.bob(host, "knock_all", doors=doors)
        for got in tried["doors"]:
            assert got["received"] == []
            assert "HANDSHAKE_SUCCEEDED" not in got["seen"]
        assert "CONNECTED" in tried["doors"][0]["seen"]
        assert "HANDSHAKE_FAILED_AUTH" in tried["doors"][0]["seen"]
        for said in ["", "\r\n", *GARBAGE]:
            got = await self.bob(host, "speak", address=address, port=port, said=said)
            assert not got["refused"]
            # ZMTP's greeting, which says the mechanism
            assert len(got["heard"]) <= 64
            assert got["heard"].replace("\0", "") in "\xff\x01\x7f\x03\x01CURVE"

    async def alice(self, host: str, attempt: str, **request: Any) -> Any:
        """Have alice do the same."""
        return await self._attempt("alice", host, self.job, attempt, request)

    async def _attempt(self, user: str, host: str, job: str, attempt: str, request: Mapping[str, Any]) -> Any:
        step = [] if host == LOGIN else ["srun", f"--jobid={job}", "--overlap", "--quiet"]
        argv = [*step, sys.executable, "-B", intruder.__file__]
        answer = json.loads(await self.run(user, LOGIN, argv, json.dumps({"attempt": attempt, **request})))
        assert (answer.pop("user"), answer.pop("host")) == (user, host)
        return answer

    async def run(self, user: str, host: str, argv: list[str], stdin: str | None = None) -> str:
        """Run a command as some user."""
        done = await asyncio.to_thread(self.cluster.run, host, user, argv, stdin, None, 3 * PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def value(self, expression: str) -> Any:
        """Evaluate something in the kernel."""
        cell = await self.client.run_anew(f"import json; print(json.dumps({expression}))")
        assert cell.status == "ok", cell.errors
        return json.loads(cell.stdout)

    async def kernel_directory(self) -> Path:
        """The directory of the kernel's own sockets, on its node."""
        await self.client.run("import ipykernel")
        return Path(await self.value("ipykernel.get_connection_file()")).parent


Scenes = Callable[..., contextlib.AbstractAsyncContextManager[Scene]]


@pytest.fixture
def scenes(cluster: Site, specs: Specs, monkeypatch: pytest.MonkeyPatch) -> Scenes:
    """Start a kernel of alice, and a job of bob beside it."""
    for name in SERVERS_OWN:
        monkeypatch.setenv(name, f"marked-{name}-marked")

    @contextlib.asynccontextmanager
    async def scene(*, argv: list[str] | None = None, config: Any = None, **options: Any) -> AsyncIterator[Scene]:
        request: dict[str, Any] = {"slurm": {"qos": "shared", "constraint": "haswell"}, **(config or {})}
        name = specs("cori-haswell", argv=argv, env={"DECOY": "in-the-kernels-environment"}, **request)
        async with kernel(name, **options) as (manager, client):
            made = Scene(cluster, manager, client, "", "", "")
            made.node = await made.value("__import__('socket').gethostname()")
            made.job = await made.value("__import__('os').environ['SLURM_JOB_ID']")
            async with bobs_job(cluster, made.node) as made.bobs_job:
                yield made

    return scene


@contextlib.asynccontextmanager
async def bobs_job(cluster: Site, node: str) -> AsyncIterator[str]:
    """A job of bob on the node."""

    def bob(*argv: str) -> str:
        done = cluster.run(LOGIN, "bob", argv)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    options = ["--parsable", "--qos=shared", "--constraint=haswell", f"--nodelist={node}", "--time=10"]
    job = bob("sbatch", *options, "--output=/dev/null", "--wrap=sleep 600")
    try:
        await eventually(lambda: bob("squeue", "--noheader", f"--jobs={job}", "--format=%T %N") == f"RUNNING {node}")
        yield job
    finally:
        bob("scancel", job)
        await eventually(lambda: not bob("squeue", "--noheader", f"--jobs={job}"))


def doors(scene: Scene, stem: Path) -> dict[str, dict[str, Any]]:
    """The ways to read and to send at the five sockets whose paths begin alike."""
    signer = Signer(scene.key.encode(), "hmac-sha256")

    def signed(msg_type: str, content: dict[str, Any]) -> list[str]:
        return [frame.decode("latin-1") for frame in signer.message(msg_type, content)]

    execute = {"code": "intruded = True", "silent": False, "store_history": False, "user_expressions": {}}
    endpoint = f"ipc://{stem}-"
    return {
        "shell": {"endpoint": f"{endpoint}1", "frames": signed("execute_request", execute)},
        "iopub": {"endpoint": f"{endpoint}2", "kind": "SUB"},
        "control": {"endpoint": f"{endpoint}4", "frames": signed("kernel_info_request", {})},
        "heartbeat": {"endpoint": f"{endpoint}5", "frames": ["ping"]},
        "stdin": {"endpoint": f"{endpoint}3", "frames": signed("input_reply", {"value": "x"})},
    }


async def test_both_have_a_job_on_the_node(scenes: Scenes) -> None:
    async with scenes() as scene:
        running = slurm("squeue", "--noheader", "--states=RUNNING", "--format=%u %N").splitlines()
        assert sorted(running) == [f"alice {scene.node}", f"bob {scene.node}"]


@pytest.mark.parametrize("where", ["front, as clients name it", "front", "kernel"])
async def test_the_sockets_let_nobody_else_in(scenes: Scenes, where: str) -> None:
    async with scenes() as scene:
        at_front = where.startswith("front")
        directory = scene.front if at_front else await scene.kernel_directory()
        host = LOGIN if at_front else scene.node
        # the kernel's lie beside its directory
        stem = {"front": directory / "r", "kernel": directory}.get(where, directory / "k")
        ways = doors(scene, stem)
        printing = scene.client.send(PRINTS)
        await printing.prints("private words")

        tried = await scene.bob(host, "knock_all", doors=list(ways.values()))
        for way, got in zip(ways, tried["doors"], strict=True):
            assert got["received"] == [], way
            assert got["errno"] == errno.EACCES, way
            assert set(got["seen"]) <= {"CONNECT_RETRIED", "CLOSED"}, way

        heard = await scene.alice(host, "knock_all", doors=[ways["iopub"]])
        assert "private words" in str(heard["doors"][0]["received"])
        await scene.manager.interrupt_kernel()
        await printing.done()
        assert await scene.value("'intruded' in globals()") is False

        del ways["iopub"], ways["stdin"]
        answered = await scene.alice(host, "knock_all", doors=list(ways.values()))
        assert all(got["received"] for got in answered["doors"])
        assert await scene.value("'intruded' in globals()") is True


def be_patient(patch: pytest.MonkeyPatch) -> None:
    """Make no fresh connection, be it for a launcher that stands still or for a link that is taken over."""
    patch.setattr(endpoints, "SILENCE", 2 * PATIENCE)


@pytest.mark.parametrize("from_login", [True, False], ids=["from the login node", "from the node"])
async def test_the_launchers_port_lets_nobody_else_in(scenes: Scenes, from_login: bool) -> None:
    async with scenes() as scene:
        host = LOGIN if from_login else scene.node
        endpoint = f"tcp://{scene.node}:{scene.port}"
        # sorts after the link's own connection and before its next one: were it let in, it would take the link over
        identity = f"{scene._link_end._socket.socket.routing_id.decode()}5"
        hello = _HEADER.pack(Kind.HELLO, 0, 0, 99, 0, 0).decode("latin-1")
        door = {"endpoint": endpoint, "frames": [hello], "identity": identity}
        printing = scene.client.send(PRINTS)
        await printing.prints("private words")

        epoch = scene._link_end.link.epoch
        with pytest.MonkeyPatch.context() as patch:
            be_patient(patch)
            await scene.bob_is_kept_out(host, scene.node, scene.port, scene.server_key, door)
            heard = len(printing.messages)
            await scene.client.until(lambda: len(printing.messages) > heard)
            assert scene._link_end.link.epoch == epoch

        own = {**scene.client_keys, "server": scene.server_key}
        let_in = await scene.alice(host, "knock_all", doors=[{**door, "curve": own}])
        assert let_in["doors"][0]["received"][0][0] == chr(Kind.WELCOME)
        # the link takes its place back
        await scene.manager.interrupt_kernel()
        await printing.done()
        assert await scene.value("1 + 1") == 2


@pytest.mark.parametrize("from_login", [True, False], ids=["from the login node", "from the node"])
async def test_the_login_sides_port_lets_nobody_else_in(scenes: Scenes, from_login: bool) -> None:
    """It is there where the launcher is to connect."""
    async with scenes(config={"launcher": {"connect": "login"}}) as scene:
        server = scene._link_end
        endpoint = f"tcp://{LOGIN}:{server.port}"
        # sorts after the launcher's own connection and before its next one: were it let in, it would take the link over
        identity = f"{server._peer.decode()}5"
        knock = _HEADER.pack(Kind.KNOCK, 0, 0, 0, 0, 0).decode("latin-1")
        door = {"endpoint": endpoint, "frames": [knock], "identity": identity}
        printing = scene.client.send(PRINTS)
        await printing.prints("private words")

        host = LOGIN if from_login else scene.node
        await scene.bob_is_kept_out(host, LOGIN, server.port, server.public_key, door)
        # a connection of the launcher's; it may have made a fresh one if this host stood still
        assert len(server._peer) < len(identity)
        await scene.manager.interrupt_kernel()
        await printing.done()
        assert await scene.value("1 + 1") == 2


HALF_A_GREETING = "\xff\0\0\0"


@pytest.mark.parametrize("silent", [False, True], ids=["that talk", "that take all its descriptors"])
async def test_a_flood_of_connections_disturbs_no_cell(
    scenes: Scenes, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    be_patient(monkeypatch)
    program = Path.home() / "limited-python"
    program.write_text(f'#!/bin/sh\nulimit -n {LIMIT}\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    async with scenes(config={"launcher": {"python": str(program)}}) as scene:
        request = {
            "address": scene.node,
            "port": scene.port,
            "connections": 2 * LIMIT,
            "garbage": [HALF_A_GREETING] if silent else GARBAGE,
            "ready": "/tmp/flood-ready",
            "stop": "/tmp/flood-stop",
        }
        hosts, epoch = (LOGIN, scene.node), scene._link_end.link.epoch
        floods = [asyncio.create_task(scene.bob(host, "flood", **request)) for host in hosts]
        try:
            for host in hosts:
                await eventually(lambda host=host: exists(scene.cluster, host, "/tmp/flood-ready"))  # type: ignore[misc]
            held = "len(__import__('os').listdir(f\"/proc/{__import__('os').getppid()}/fd\"))"
            if silent:
                await eventually_in_kernel(scene, f"{held} >= {LIMIT - 1}")
            for number in range(20):
                assert await scene.value(f"{number} + 1") == number + 1
            assert scene._link_end.link.epoch == epoch
        finally:
            for host in hosts:
                await scene.run("bob", host, ["touch", "/tmp/flood-stop"])
            made = [(await flood)["made"] for flood in floods]
            for host in hosts:
                await scene.run("bob", host, ["rm", "/tmp/flood-stop", "/tmp/flood-ready"])
        assert all(count >= 2 * LIMIT for count in made)
        await scene.manager.restart_kernel()
        assert await scene.value("'fresh'") == "fresh"


def exists(cluster: Site, host: str, path: str) -> bool:
    return cluster.run(host, "root", ["test", "-e", path]).returncode == 0


async def eventually_in_kernel(scene: Scene, expression: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await scene.value(expression):
            await asyncio.sleep(0.1)


async def test_nothing_else_listens(scenes: Scenes) -> None:
    async with scenes() as scene:
        launcher, own = await scene.value("[__import__('os').getppid(), __import__('os').getpid()]")
        on_node = await scene.alice(scene.node, "listeners", uid=UID)
        by_program = {program.rpartition(" ")[2]: port for port, program in on_node["tcp"]}
        assert by_program.pop(str(launcher)) == scene.port
        # ipykernel takes the prints of forked processes there, each with a secret of its own
        pipe = by_program.pop(str(own))
        assert by_program == {}
        frames = ["x", json.dumps({"text": "forged"})]
        ways: list[dict[str, Any]] = [
            {"endpoint": f"tcp://127.0.0.1:{pipe}", "kind": "SUB"},
            {"endpoint": f"tcp://127.0.0.1:{pipe}", "kind": "PUSH", "frames": frames},
        ]
        tried = await scene.bob(scene.node, "knock_all", doors=ways)
        assert [got["received"] for got in tried["doors"]] == [[], []]
        assert "forged" not in str(scene.client.published)

        # srun has its own, for its steps
        at_login = await scene.alice(LOGIN, "listeners", uid=UID)
        assert {program.split()[0] for _, program in at_login["tcp"]} == {"srun"}
        for port, _ in at_login["tcp"]:
            heard = await scene.bob(LOGIN, "speak", address="localhost", port=port, said=GARBAGE[0])
            assert heard["heard"] == ""

        for host in (LOGIN, scene.node):
            seen = await scene.alice(host, "listeners", uid=UID)
            assert [entry for entry in seen["abstract"] if entry[1]] == []

        await scene.client.run(
            "import socket; tcp = socket.create_server(('127.0.0.1', 0)); unix = socket.socket(socket.AF_UNIX);"
            "unix.bind('\\0decoy'); unix.listen()"
        )
        decoy = await scene.value("tcp.getsockname()[1]")
        on_node = await scene.bob(scene.node, "listeners", uid=UID)
        assert decoy in [port for port, _ in on_node["tcp"]]
        seen = await scene.alice(scene.node, "listeners", uid=UID)
        assert "@decoy" in [name for name, program in seen["abstract"] if program]


async def test_no_file_tells_a_secret(scenes: Scenes) -> None:
    async with scenes() as scene:
        connection_files = {
            LOGIN: scene.manager.connection_file,
            scene.node: f"{await scene.kernel_directory()}/kernel.json",
        }
        for host, file in connection_files.items():
            found = await scene.bob(host, "search", roots=PLACES, needles=scene.secrets)
            assert found["found"] == []
            assert found["read"]
            found = await scene.alice(host, "search", roots=PLACES, needles=scene.secrets)
            assert found["found"] == [["HMAC key", file]]


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_no_process_tells_a_secret(scenes: Scenes, user: str) -> None:
    """Not even its owner finds one in the environment of srun, the launcher and the kernel."""
    async with scenes() as scene:
        attempt = scene.alice if user == "alice" else scene.bob
        needles = {**scene.secrets, "argv": payload().digest, "environ": "DECOY=in-the-kernels-environment"}
        for host in (LOGIN, scene.node):
            seen = await attempt(host, "processes", needles=needles)
            names = {name for name, _ in seen["found"]}
            assert seen["environments of"] == [user]
            assert names == ({"argv", "environ"} if user == "alice" else {"argv"})
            if user == "alice":
                expected = {"environ of srun"} if host == LOGIN else {"environ of python", "environ of python3"}
                assert expected & set(seen["places"])


async def test_slurm_tells_no_secret(scenes: Scenes) -> None:
    async with scenes() as scene:
        commands = [
            ["scontrol", "--details", "show", "job", scene.job],
            ["scontrol", "show", "step", scene.job],
            ["squeue", "--all", "--format=%all"],
            ["squeue", "--all", "--json"],
            ["sacct", "--allusers", f"--jobs={scene.job}", "--parsable", "--format=ALL"],
            ["sacct", "--allusers", f"--jobs={scene.job}", "--parsable", "--format=JobID,Comment,SubmitLine,WorkDir"],
        ]
        recorded = ["sacct", "--allusers", f"--jobs={scene.job}", "--noheader"]
        await eventually(lambda: scene.cluster.run(LOGIN, "bob", recorded).stdout)
        for user in ("bob", "root"):
            for host in (LOGIN, scene.node):
                for argv in commands:
                    done = await asyncio.to_thread(scene.cluster.run, host, user, argv)
                    said = done.stdout + done.stderr
                    assert scene.job in said, argv
                    assert [name for name, secret in scene.secrets.items() if secret in said] == [], argv
        assert payload().digest in (await scene.run("bob", LOGIN, commands[-1]))


async def test_no_log_tells_a_secret(scenes: Scenes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scenes() as scene:
        scene.manager.log.setLevel(logging.DEBUG)
        await scene.client.run("import os; os.write(1, b'the kernel says\\n')")
        await scene.manager.restart_kernel()
        await scene.value("1")
        secrets = scene.secrets
        for host in ("ctl", LOGIN, scene.node):
            argv = [sys.executable, "-B", intruder.__file__]
            needles = {**secrets, "job": scene.job}
            request = {"attempt": "search", "roots": ["/var/log", "/var/spool", "/run/slurm"], "needles": needles}
            found = json.loads(await scene.run("root", host, argv, json.dumps(request)))["found"]
            assert {name for name, _ in found} <= {"job"}
            assert (host == LOGIN) or any(file.endswith(".log") for _, file in found), found
    assert "the kernel says" in caplog.text
    assert [name for name, secret in secrets.items() if secret in caplog.text] == []


async def test_only_the_owner_may_enter_under_any_umask(scenes: Scenes) -> None:
    before = os.umask(0)
    try:
        async with scenes() as scene:
            assert await scene.value("__import__('os').umask(0)") == 0
            base = (await scene.kernel_directory()).parent
            for host, place in ((LOGIN, scene.front), (scene.node, base)):
                seen = await scene.alice(host, "modes", roots=[str(place)])
                assert len(seen) >= 7
                for path, (owner, mode) in seen.items():
                    assert owner == "alice"
                    assert mode in {"d": {"drwx------"}, "-": {"-rw-------"}}.get(mode[0], {mode}), path
                assert (await scene.bob(host, "modes", roots=[str(place)])).keys() <= {str(place)}
            file = scene.manager.connection_file
            seen = await scene.alice(LOGIN, "modes", roots=[str(Path(file).parent)])
            assert seen[file] == ["alice", "-rw-------"]
    finally:
        os.umask(before)


async def test_when_the_kernel_has_ended_nothing_is_left_to_find(scenes: Scenes) -> None:
    async with scenes() as scene:
        port, node, secrets, host = scene.port, scene.node, scene.secrets, scene
        places = [str(scene.front), str(await scene.kernel_directory())]
    await eventually(lambda: not slurm("squeue", "--me", "--noheader"))
    async with bobs_job(scene.cluster, node) as host.bobs_job:
        for where in (LOGIN, node):
            assert (await scene.bob(where, "speak", address=node, port=port, said=""))["refused"]
            assert (await scene.bob(where, "listeners", uid=UID))["tcp"] == []
            names = [name for name, _ in (await scene.bob(where, "listeners", uid=UID))["unix"]]
            assert [name for name in names for place in places if name.startswith(place)] == []
            argv = [sys.executable, "-B", intruder.__file__]
            request = {"attempt": "search", "roots": PLACES, "needles": secrets}
            found = json.loads(await scene.run("root", where, argv, json.dumps(request)))
            assert found["found"] == []


# ---- traps that bob has laid ----


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A file of alice, in a directory that looks like one of farkernel's that nobody holds any more."""
    folder = Path.home() / "farkernel-mine"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "thesis").write_text("all of it")
    os.utime(folder, (0, 0))
    yield folder / "thesis"
    (folder / "thesis").unlink()
    (folder / "lock").unlink()
    folder.rmdir()


def lay_traps(cluster: Site, host: str, precious: Path) -> None:
    """Directories and links in /tmp with the names that farkernel uses, and one that alice's own launcher left."""
    links = "\n".join(f"ln -s {precious} /tmp/farkernel-open/{name}" for name in ("lock", "k-1", "1.1", "thesis"))
    bobs = f"""umask 0; mkdir /tmp/farkernel-open; {links}
        ln -s {precious.parent} /tmp/farkernel-link; mkfifo /tmp/farkernel-fifo
        touch --no-dereference --date=@0 /tmp/farkernel-*"""
    alices = f"""mkdir -m 700 /tmp/farkernel-stale; touch /tmp/farkernel-stale/lock
        ln -s {precious.parent} /tmp/farkernel-stale/link; touch --date=@0 /tmp/farkernel-stale"""
    for user, script in (("bob", bobs), ("alice", alices)):
        done = cluster.run(host, user, ["sh", "-ec", script])
        assert done.returncode == 0, done.stderr


@pytest.fixture
def tmp_for_sockets() -> Iterator[None]:
    """The runtime directory is no place for secrets, so that /tmp is taken."""
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    runtime.chmod(0o755)
    yield
    runtime.chmod(0o700)


@pytest.mark.usefixtures("tmp_for_sockets")
async def test_traps_in_tmp_catch_nothing(scenes: Scenes, cluster: Site, precious: Path) -> None:
    traps = ["/tmp/farkernel-fifo", "/tmp/farkernel-link", "/tmp/farkernel-open"]
    hosts = (LOGIN, "nid00001", "nid00002")
    try:
        for host in hosts:
            lay_traps(cluster, host, precious)
        async with scenes() as scene:
            assert await scene.value("1 + 1") == 2
            used = {LOGIN: scene.front, scene.node: (await scene.kernel_directory()).parent}
            for host, directory in used.items():
                assert directory.parent == Path("/tmp")
                assert str(directory) not in traps
                left = (await scene.run("root", host, ["sh", "-c", "ls -d /tmp/farkernel-*"])).split()
                assert sorted(left) == sorted([*traps, str(directory)])  # that of alice is gone
                assert (await scene.run("bob", host, ["ls", "/tmp/farkernel-open"])).split() == [
                    "1.1",
                    "k-1",
                    "lock",
                    "thesis",
                ]
        assert await scene.run("alice", LOGIN, ["cat", str(precious)]) == "all of it"
    finally:
        for host in hosts:
            cluster.run(host, "root", ["sh", "-c", "rm -rf /tmp/farkernel-*"])


@pytest.mark.parametrize("trap", ["mkdir -m 777", "ln -s /home/alice/.ssh"])
async def test_a_runtime_directory_made_by_somebody_else_is_passed_over(
    scenes: Scenes, cluster: Site, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    name = f"runtime-{UID}"
    cluster.run(LOGIN, "root", ["mv", f"/run/user/{UID}", f"/run/user/{name}"])
    cluster.run(LOGIN, "bob", ["sh", "-c", f"{trap} /tmp/{name}"])
    try:
        async with scenes() as scene:
            assert await scene.value("1 + 1") == 2
            assert scene.front.parent == Path("/tmp")
    finally:
        cluster.run(LOGIN, "root", ["rm", "-r", f"/tmp/{name}"])
        cluster.run(LOGIN, "root", ["mv", f"/run/user/{name}", f"/run/user/{UID}"])


MODULES = ("zmq", "random", "json", "asyncio", "socket", "dataclasses", "sitecustomize", "zipimport", "farkernel")


async def test_modules_in_the_notebooks_directory_are_not_the_launchers(scenes: Scenes, cluster: Site) -> None:
    folder = Path("/home/bob/shared")
    marks = folder / "marks"
    trap = (
        f"import os; open(f'{marks}/{{os.getpid()}}', 'a').write(__name__ + ' ' + open('/proc/self/cmdline').read())\n"
    )
    lay = f"umask 0; mkdir -p {marks} {folder}/farkernel/launcher; cd {folder}; cat > trap; "
    lay += "; ".join(f"cp trap {name}.py" for name in MODULES)
    lay += "; cp trap farkernel/__init__.py; cp trap farkernel/launcher/__init__.py; cp trap farkernel/launcher/main.py"
    assert cluster.run(LOGIN, "bob", ["sh", "-ec", lay], trap).returncode == 0
    try:
        # -P: a kernel's own imports are its own concern
        argv = ["python3", "-P", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        async with scenes(argv=argv, cwd=str(folder)) as scene:
            assert await scene.value("__import__('os').getcwd()") == str(folder)
            launcher = await scene.value("open(f\"/proc/{__import__('os').getppid()}/cmdline\").read()")
            assert payload().digest in launcher
            assert await scene.value("__import__('os').readlink(f\"/proc/{__import__('os').getppid()}/cwd\")") == str(
                folder
            )
            await scene.manager.restart_kernel()
            await scene.value("1")
        assert [mark.read_text() for mark in marks.iterdir()] == []

        await scene.run("alice", LOGIN, ["sh", "-c", f"cd {folder}; {sys.executable} -c 'import random'"])
        assert [mark.read_text().split()[0] for mark in marks.iterdir()] == ["random"]
    finally:
        cluster.run(LOGIN, "root", ["rm", "-r", str(folder)])
