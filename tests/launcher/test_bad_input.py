"""What nobody expects on the launcher's standard input, on its port, and from its kernel."""

import asyncio
import itertools
import os
import pathlib
import sys
import textwrap
from typing import Any, cast

import pytest
import zmq

from farkernel.launcher import main, protocol
from farkernel.launcher.endpoints import MAX_FRAME
from farkernel.launcher.link import Kind
from farkernel.launcher.protocol import Channel, Failed, KernelEnded, KernelReady, KernelRefused
from farkernel.provisioners.payload import payload
from tests.launcher import garbage
from tests.launcher.ends import Ends, until
from tests.launcher.launched import Launched, command, ipykernel
from tests.launcher.test_endpoints import Stranger, _frame

CODE = payload().on_stdin()
DEEP = b"[" * 200_000


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"\xff\xfe\n",
        DEEP + b"\n",
        b"1" * 5000 + b"\n",
        b'{"type": "Setup"}\n',
        b'{"type": "Setup", "client_key": "", "interface": 1, "ports": [], "directory": "", "orphan_timeout": 1}\n',
        protocol.encode(protocol.Setup("k" * 40, "", [], [], 0, 1.0, "/\0", 1.0)) + b"\n\n",
        protocol.encode(protocol.Setup("k" * 40, "", [], [], 0, 1.0, "", 5.5)).replace(b"5.5", b"NaN") + b"\n\n",
    ],
    ids=range(8),
)
def test_a_beginning_that_is_garbage_ends_with_a_sentence(short: pathlib.Path, data: bytes) -> None:
    async def begin() -> None:
        async with Launched(short, data=CODE + data) as launched:
            answer = await launched.answer()
            assert isinstance(answer, Failed)
            await launched.end_input()
            code, stderr = await launched.ended()
            assert (code, "Traceback" in stderr) == (1, False)

    asyncio.run(begin())


@pytest.mark.parametrize("length", [b"x", b"-1", b"9" * 30, b"", b"\xff"])
def test_a_length_that_is_garbage_ends_it(length: bytes) -> None:
    async def begin() -> None:
        process = await asyncio.create_subprocess_exec(
            *payload().command(sys.executable),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(length + b"\n" + bytes(1000)), 60)
        assert process.returncode
        assert not out
        assert err

    asyncio.run(begin())


@pytest.mark.parametrize("argv", [[], ["a\0b"], ["\ud800"]], ids=["empty", "nul", "surrogate"])
def test_a_command_that_cannot_be_is_refused_and_the_next_one_is_run(short: pathlib.Path, argv: list[str]) -> None:
    async def order() -> None:
        async with Launched(short, command(*argv)) as launched:
            await launched.connect()
            assert (await launched.event(KernelRefused)).reason
            launched.order(command(*argv, generation=2))
            assert (await launched.event(KernelRefused, generation=2)).reason
            launched.order(command("/bin/sh", "-c", "exit 7", generation=3))
            assert (await launched.event(KernelEnded, generation=3)).exit_code == 7

    asyncio.run(order())


GARBAGE: list[tuple[Channel, list[bytes]]] = [
    *[(Channel.ORDER, [data]) for data in (b"", b"\xff", DEEP, b"1" * 5000, b'{"type": "KernelReady"}')],
    (Channel.ORDER, []),
    (Channel.EVENT, [b"x"]),
    (Channel.SHELL, []),
    (Channel.IOPUB, [b"x"]),
    (Channel.CONTROL, [b"x"] * 10_000),
    (Channel.SHELL, [b"<IDS|MSG>", b"", DEEP, b"{}", b"{}", b"{}"]),
]


def test_garbage_on_the_link_and_from_the_kernel_disturbs_no_cell(short: pathlib.Path) -> None:
    """Both can only come from the user's own processes; each is dropped, and what comes after it is done."""

    async def use() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            client = launched._client
            assert client
            for channel, frames in GARBAGE:
                client.link.send(channel, 1, 1, frames)
            for data in (b"", b"x", DEEP[:1000], bytes([1, 99]) + bytes(24), bytes([1, 7]) + b"\xff" * 24):
                client._socket.send([data, b"more"])
            assert await launched.printed("print('on')") == "on\n"
            assert await launched.printed(KERNEL_SENDS_GARBAGE) == "sent\n"
            assert await launched.printed("print('still on')") == "still on\n"

    asyncio.run(use())


@pytest.mark.parametrize("seed", range(3))
def test_connections_that_are_none_disturb_no_cell(short: pathlib.Path, seed: int) -> None:
    """To the launcher's port, which everybody on the network can reach."""

    async def use() -> None:
        async with Launched(short, ipykernel()) as launched:
            started = await launched.connect()
            await launched.event(KernelReady)
            await asyncio.to_thread(garbage.attack, ("127.0.0.1", started.port), seed, 200)
            assert await launched.printed("print('on')") == "on\n"

    asyncio.run(use())


def test_a_frame_that_is_larger_than_any_is_not_taken_and_the_link_goes_on(short: pathlib.Path) -> None:
    """From a peer that has the key: the front takes care that none is sent."""

    async def use() -> None:
        async with Launched(short, ipykernel()) as launched:
            started = await launched.connect()
            await launched.event(KernelReady)
            with zmq.Context() as context:
                peer = context.socket(zmq.DEALER)
                peer.routing_id = b"00000000"  # sorts before the link's own
                peer.curve_serverkey = started.launcher_key.encode()
                peer.curve_publickey, peer.curve_secretkey = launched._keys
                peer.connect(f"tcp://127.0.0.1:{started.port}")
                for frames in [bytes(MAX_FRAME + 1)], [b"x" * 26, bytes(MAX_FRAME + 1)], [b""] * 1000:
                    peer.send_multipart(frames)
                assert await launched.printed("print('on')") == "on\n"
                peer.close(0)
            assert await launched.printed("print('still on')") == "still on\n"

    asyncio.run(use())


KERNEL_SENDS_GARBAGE = textwrap.dedent("""
    socket = get_ipython().kernel.iopub_socket
    for frames in [b""], [b"x"] * 1000, [b"<IDS|MSG>"], [b"t", b"<IDS|MSG>", b"", b"[" * 100000, b"{}", b"{}", b"{}"]:
        socket.send_multipart(frames)
    print("sent")
""")

# Answers what it is asked as it should, and says nonsense on every channel in between.
NONSENSE = textwrap.dedent("""
    import json, os, sys, zmq
    info = json.load(open(sys.argv[-1]))
    context = zmq.Context()
    sockets = {}
    for name, kind in ("shell", zmq.ROUTER), ("control", zmq.ROUTER), ("stdin", zmq.ROUTER), ("iopub", zmq.PUB), \
            ("hb", zmq.ROUTER):
        sockets[name] = context.socket(kind)
        sockets[name].bind(f"ipc://{info['ip']}-{info[name + '_port']}")
    deep = [b"<IDS|MSG>", b"", b"[" * 100000, b"{}", b"{}", b"{}"]
    nulls = [b"<IDS|MSG>", b"", b"null", b"null", b"null", b"null"]
    while True:
        frames = sockets["shell"].recv_multipart()
        at = frames.index(b"<IDS|MSG>")
        for name, socket in sockets.items():
            for body in [b""], [b"x"] * 1000, [b"<IDS|MSG>"], deep, nulls, [os.urandom(2**20)]:
                socket.send_multipart([frames[0], *body])
        def message(kind, content):
            header = json.dumps({"msg_id": "1", "msg_type": kind}).encode()
            return [*frames[1:at], b"<IDS|MSG>", b"", header, frames[at + 2], b"{}", json.dumps(content).encode()]
        for state in "busy", "idle":
            sockets["iopub"].send_multipart(message("status", {"execution_state": state}))
        kind = json.loads(frames[at + 2])["msg_type"].replace("_request", "_reply")
        sockets["shell"].send_multipart([frames[0], *message(kind, {"status": "ok"})])
""")


def test_nonsense_from_a_kernel_on_every_channel_disturbs_no_reply(short: pathlib.Path) -> None:
    async def use() -> None:
        async with Launched(short, command(sys.executable, "-c", NONSENSE, "{connection_file}")) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            wanted = {Channel.SHELL, Channel.CONTROL, Channel.STDIN}
            for number in itertools.count():
                if number >= 5 and wanted <= {channel for channel, *_ in launched.messages}:
                    break  # some connections may be made later than others
                assert (await launched.reply(launched.execute("1"))).content == {"status": "ok"}
            await launched.end_input()
            _, stderr = await launched.ended()
            assert "Traceback" not in stderr

    asyncio.run(use())


# Answers the launcher's question with states that are none, before it is a kernel.
SILLY_ANSWERS = textwrap.dedent("""
    import json, runpy, sys, time, zmq
    info = json.load(open(sys.argv[-1]))
    context = zmq.Context()
    shell, iopub = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
    for name, socket in ("shell", shell), ("iopub", iopub):
        socket.bind(f"ipc://{info['ip']}-{info[name + '_port']}")
    frames = shell.recv_multipart()
    at = frames.index(b"<IDS|MSG>")
    def message(kind, content):
        header = json.dumps({"msg_id": "1", "msg_type": kind}).encode()
        return [b"<IDS|MSG>", b"", header, frames[at + 2], b"{}", json.dumps(content).encode()]
    while True:
        for state in [], {}, 5, None, "idle":
            iopub.send_multipart(message("status", {"execution_state": state}))
        shell.send_multipart([frames[0], *message("kernel_info_reply", [1])])
        time.sleep(0.05)
""")


def test_a_kernel_with_silly_states_is_heard(short: pathlib.Path) -> None:
    async def start() -> None:
        order = command(sys.executable, "-c", SILLY_ANSWERS, "{connection_file}")
        async with Launched(short, order) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            await launched.end_input()
            _, stderr = await launched.ended()
            assert "Traceback" not in stderr

    asyncio.run(start())


def test_a_peer_that_is_let_in_and_breaks_the_rules_does_not_end_the_link() -> None:
    async def talk() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        with Ends() as ends:
            stranger = Stranger(ends.server, ends.keys, b"00000001")
            try:
                for frames in ([b""], [b"x" * 26], [_frame(Kind.ACK, 1)[:-8] + b"\xff" * 8], [b"y"] * 1000):
                    stranger.socket.send_multipart(frames)
                stranger.socket.send(_frame(Kind.HELLO, epoch=1))
                await until(lambda: stranger.socket.poll(0))
                assert stranger.socket.recv() == _frame(Kind.WELCOME, epoch=1)
                assert len(told) == 4  # each is told in the log
            finally:
                stranger.close()

    asyncio.run(talk())


def test_the_launchers_scancel_does_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """SCANCEL_STATE=PENDING would leave the job, SCANCEL_INTERACTIVE would ask (scancel(1))."""
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(main, "run", lambda _: main.UNDISMISSED)
    monkeypatch.setattr(os, "execvpe", lambda _, argv, env: calls.append((argv, env)))
    for name in ("SCANCEL_STATE", "SCANCEL_INTERACTIVE", "SCANCEL_USER", "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    assert main.main(cast("Any", None)) == main.UNDISMISSED

    ((argv, env),) = calls
    assert argv == ["scancel", "7"]
    assert env["SLURM_CONF"] == "/etc/slurm.conf"
    assert not [name for name in env if name.startswith(("SCANCEL_", "SLURM_CLUSTERS"))]
