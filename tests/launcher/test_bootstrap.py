"""The launcher as it runs on a node: fed on its standard input, and spoken to on the link."""

import asyncio
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from farkernel.launcher import bootstrap, endpoints
from farkernel.launcher.main import UNDISMISSED
from farkernel.launcher.protocol import (
    MARK,
    Channel,
    EndLauncher,
    Failed,
    KernelEnded,
    KernelLog,
    KernelReady,
    KernelRefused,
    KernelStarted,
    SignalKernel,
    Started,
    decode_answer,
)
from farkernel.provisioners.payload import payload
from tests.launcher import processes
from tests.launcher.ends import assert_at_rest, until
from tests.launcher.launched import KEY, Launched, command, ipykernel
from tests.patience import PATIENCE


def test_a_kernel_runs_is_interrupted_dies_and_is_started_anew(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, ipykernel()) as launched:
            started = await launched.connect()
            assert started.pid == launched.process.pid
            begun = await launched.event(KernelStarted)
            assert processes.runs(begun.pid)
            await launched.event(KernelReady)

            request = launched.execute("print('out'); 6 * 7")
            reply = await launched.reply(request)
            assert reply.identities == [b"a-client"]
            assert reply.content["status"] == "ok"
            await until(lambda: launched.answers(request, "execute_result"))
            assert launched.answers(request, "execute_result")[0].content["data"]["text/plain"] == "42"
            assert launched.answers(request, "stream")[0].content["text"] == "out\n"

            request = launched.execute("import time\nprint('sleeping', flush=True)\ntime.sleep(600)")
            await until(lambda: launched.answers(request, "stream"))
            launched.order(SignalKernel(1, signal.SIGINT))
            assert (await launched.reply(request)).content["ename"] == "KeyboardInterrupt"

            launched.order(SignalKernel(1, signal.SIGKILL))
            ended = await launched.event(KernelEnded)
            assert (ended.exit_code, ended.out_of_memory) == (-signal.SIGKILL, False)

            launched.order(ipykernel(generation=2))
            await launched.event(KernelReady, generation=2)
            assert (
                await launched.printed("print('sleeping' in dir(), 'time' in dir())", generation=2) == "False False\n"
            )
        processes.wait_until_none_runs([event.pid for event in launched.events if isinstance(event, KernelStarted)])

    asyncio.run(live())


def test_two_kernels_in_one_launcher_do_not_meet(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, ipykernel(kernel=1)) as launched:
            await launched.connect()
            launched.order(ipykernel(kernel=2))
            await launched.event(KernelReady, kernel=1)
            await launched.event(KernelReady, kernel=2)

            await launched.printed("name = 'first'", kernel=1)
            await launched.printed("name = 'second'", kernel=2)
            assert await launched.printed("print(name)", kernel=1) == "first\n"
            assert await launched.printed("print(name)", kernel=2) == "second\n"

            launched.order(SignalKernel(1, signal.SIGKILL))
            await launched.event(KernelEnded, kernel=1)
            assert await launched.printed("print(name)", kernel=2) == "second\n"

    asyncio.run(live())


def test_what_was_meant_for_an_older_kernel_does_not_reach_the_new_one(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            old = (await launched.event(KernelStarted)).pid

            launched.order(ipykernel(generation=2))
            late = launched.request("shutdown_request", {"restart": False}, channel=Channel.CONTROL)
            late_cell = launched.execute("print('late')")
            await launched.event(KernelReady, generation=2)
            late_again = launched.request("shutdown_request", {"restart": False}, channel=Channel.CONTROL)

            assert await launched.printed("print('here')", generation=2) == "here\n"
            processes.wait_until_none_runs([old])
            assert not launched.answers(late, "shutdown_reply")
            assert not launched.answers(late_again, "shutdown_reply")
            assert not launched.answers(late_cell, "stream")
            assert not any(isinstance(event, KernelEnded) and event.generation == 2 for event in launched.events)

    asyncio.run(live())


def test_input_is_asked_of_the_client_that_runs_the_cell(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            content = {"code": "print(input('name? '))", "silent": False, "allow_stdin": True}
            request = launched.request("execute_request", content)
            question = await launched.reply(request, "input_request")
            assert question.identities == [b"a-client"]

            launched.request("input_reply", {"value": "Ada"}, channel=Channel.STDIN)
            await launched.reply(request)
            await until(lambda: launched.answers(request, "stream"))
            assert launched.answers(request, "stream")[0].content["text"] == "Ada\n"

    asyncio.run(live())


def test_a_kernel_that_ends_before_it_answers_tells_its_last_words(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, command("sh", "-c", "echo last words >&2; kill -KILL $$")) as launched:
            await launched.connect()

            ended = await launched.event(KernelEnded)

            assert (ended.exit_code, ended.stderr) == (-signal.SIGKILL, "last words")
            assert (await launched.event(KernelLog)).text == "last words\n"

    asyncio.run(live())


def test_a_command_that_does_not_exist_is_named_and_the_next_one_is_tried(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, command("no-such-command")) as launched:
            await launched.connect()
            refused = await launched.event(KernelRefused)
            assert (refused.path, refused.reason) == ("no-such-command", "No such file or directory")

            launched.order(command("sh", "-c", "exit 3", generation=2))
            assert (await launched.event(KernelEnded, generation=2)).exit_code == 3

    asyncio.run(live())


def test_the_key_stands_in_no_command_line_and_in_no_environment(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            kernel = (await launched.event(KernelStarted)).pid
            await launched.event(KernelReady)

            for pid in (launched.process.pid, kernel):
                assert KEY.encode() not in processes.command(pid)
                assert KEY.encode() not in processes.environ(pid)
            assert b"OF_THE_KERNELSPEC=yes" in processes.environ(kernel)
            assert [(file.name, _mode(file)) for file in _files_with(KEY, short)] == [("kernel.json", 0o600)]
            assert [_mode(short / name) for name in processes.names(short)] == [0o700]

    asyncio.run(live())


def _files_with(text: str, directory: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text in path.read_text(errors="replace")]


def _mode(path: pathlib.Path) -> int:
    return path.stat().st_mode & 0o777


# ---- the end ----


@pytest.mark.parametrize("how", ["end of input", "order", "SIGTERM", "SIGHUP", "SIGUSR2"])
def test_the_end_leaves_nothing(short: pathlib.Path, how: str) -> None:
    async def live() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            kernel = (await launched.event(KernelStarted)).pid
            request = launched.execute("import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)")
            await until(lambda: launched.answers(request, "stream"))
            grandchild = int(launched.answers(request, "stream")[0].content["text"])
            assert processes.runs(grandchild)

            if how == "end of input":
                await launched.end_input()
            elif how == "order":
                launched.order(EndLauncher())
            else:
                launched.process.send_signal(signal.Signals[how])

            assert await launched.ended() == (UNDISMISSED if how in {"end of input", "SIGUSR2"} else 0, "")
            processes.wait_until_none_runs([kernel, grandchild])
            assert processes.names(short) == []
            # the reason is not the kernel's: who reads that it ended by a signal would look for it in the kernel
            assert KernelEnded not in {type(event) for event in launched.events}

    asyncio.run(live())


def test_signals_that_keep_coming_do_not_keep_it_from_tidying_up(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, command("sleep", "600")) as launched:
            await launched.connect()
            await launched.event(KernelStarted)

            ending = asyncio.ensure_future(launched.ended())
            while not ending.done():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(launched.process.pid, signal.SIGUSR2)  # as the threads of a killed parent do, one by one
                await asyncio.sleep(0.002)

            assert await ending == (UNDISMISSED, "")
            assert processes.names(short) == []

    asyncio.run(live())


def test_a_kernel_that_does_not_end_when_asked_is_killed(short: pathlib.Path) -> None:
    async def live() -> None:
        stubborn = command("sh", "-c", "trap '' TERM HUP INT; echo up; while :; do sleep 0.1; done")
        async with Launched(short, stubborn) as launched:
            await launched.connect()
            kernel = (await launched.event(KernelStarted)).pid
            await launched.event(KernelLog)

            await launched.end_input()

            assert await launched.ended() == (UNDISMISSED, "")
            processes.wait_until_none_runs([kernel])

    asyncio.run(live())


def test_every_kernel_is_asked_before_it_is_killed_also_after_an_earlier_one_has_died(
    short: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    async def live() -> None:
        tidy = f"trap 'sleep 0.3; echo tidied > {tmp_path}/trace; exit' TERM; echo up; while :; do sleep 0.1; done"
        async with Launched(short, command("true")) as launched:
            await launched.connect()
            await launched.event(KernelEnded)
            launched.order(command("sh", "-c", tidy, generation=2))
            await launched.event(KernelLog, generation=2)

            await launched.end_input()
            await launched.ended()

            assert (tmp_path / "trace").read_text() == "tidied\n"

    asyncio.run(live())


def test_without_a_word_from_the_login_side_it_ends(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, command("sleep", "600"), orphan_timeout=1.0) as launched:
            await launched.answer()  # and nobody connects

            assert await launched.ended() == (UNDISMISSED, "")

    asyncio.run(live())


def test_with_a_word_from_the_login_side_it_stays(short: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "PING_INTERVAL", 0.2)  # so that the login side may be late with a word

    async def live() -> None:
        async with Launched(short, command("sleep", "600"), orphan_timeout=8.0) as launched:
            await launched.connect()
            kernel = (await launched.event(KernelStarted)).pid
            await asyncio.sleep(9)

            assert launched.process.returncode is None
            assert processes.runs(kernel)

    asyncio.run(live())


def test_a_launcher_that_was_suspended_for_longer_than_that_goes_on(short: pathlib.Path) -> None:
    """The login side was there all the time; its words wait in the launcher's sockets."""

    async def live() -> None:
        async with Launched(short, ipykernel(), orphan_timeout=8.0) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            os.kill(launched.process.pid, signal.SIGSTOP)
            await asyncio.sleep(15)
            os.kill(launched.process.pid, signal.SIGCONT)

            assert await launched.printed("print('on')") == "on\n"

    asyncio.run(live())


def test_a_kernels_own_output_does_not_fill_the_memory(short: pathlib.Path, tmp_path: pathlib.Path) -> None:
    async def live() -> None:
        flood = f"head -c 400000000 /dev/zero; echo > {tmp_path}/done; exec sleep 600"
        async with Launched(short, command("sh", "-c", flood), orphan_timeout=300.0) as launched:
            await launched.answer()  # and nobody takes it
            await until((tmp_path / "done").exists, 2 * PATIENCE)

            assert processes.memory(launched.process.pid) < 300 * 2**20

    asyncio.run(live())


@pytest.mark.parametrize(
    "printing", [False, True], ids=["idle", "with a kernel that prints into a link without a client"]
)
def test_it_takes_no_cpu_at_rest(short: pathlib.Path, printing: bool) -> None:
    async def live() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            if printing:
                launched.execute(f"for _ in range(30):\n    print('x' * 4_000_000, flush=True)\nopen('{done}', 'w')")
                assert launched._client
                launched._client.close()
                await until(done.exists)
                await asyncio.sleep(0.5)
            await assert_at_rest(lambda: processes.cpu_seconds(launched.process.pid))

    done = short.parent / f"{short.name}.done"
    try:
        asyncio.run(live())
    finally:
        done.unlink(missing_ok=True)


# ---- before there is a launcher ----


def _run(argv: list[str], data: bytes, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv, input=data, capture_output=True, timeout=PATIENCE, check=False, env={**os.environ, **(env or {})}
    )


def test_code_that_is_not_what_was_sent_is_not_run() -> None:
    code = payload().data
    changed = b"%d\n%b" % (len(code), code[:-1] + bytes([code[-1] ^ 1]))

    done = _run(payload().command(sys.executable), changed)

    assert done.returncode == 1
    assert b"farkernel-bootstrap: bad hash" in done.stderr
    assert done.stdout == b""


def test_code_that_arrives_in_part_is_not_run() -> None:
    done = _run(payload().command(sys.executable), payload().on_stdin()[:-1000])

    assert done.returncode == 1
    assert b"farkernel-bootstrap: bad hash" in done.stderr


def test_the_other_tasks_of_a_step_leave_at_once() -> None:
    with subprocess.Popen(
        payload().command(sys.executable), stdin=subprocess.PIPE, env={**os.environ, "SLURM_PROCID": "1"}
    ) as task:
        assert task.wait(PATIENCE) == 0  # its input is still open


def test_a_python_without_pyzmq_is_named_and_the_kernel_is_ended(short: pathlib.Path) -> None:
    async def live() -> None:
        python, *rest = payload().command(sys.executable)
        order = command("sh", "-c", f"echo > {short}/up; exec sleep 600")
        async with Launched(short, order, argv=[python, "-S", *rest], env={"PYTHONPATH": ""}) as launched:
            answer = await launched.answer()
            assert isinstance(answer, Failed)
            assert f"no pyzmq: {sys.executable}" in answer.reason
            assert processes.names(short) in ([], ["up"])  # when it is said, all is tidy
            assert (await launched.ended())[0] == 1
        (short / "up").unlink(missing_ok=True)

    asyncio.run(live())


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGUSR2, UNDISMISSED)])
def test_a_start_that_is_cancelled_early_leaves_nothing(
    short: pathlib.Path, tmp_path: pathlib.Path, signum: signal.Signals, code: int
) -> None:
    # an import that takes its time, in a place where Python ignores exceptions, too
    (tmp_path / "zmq.py").write_text(f"""\
import pathlib, time
class Deaf:
    def __del__(self):
        pathlib.Path({str(tmp_path / "deaf")!r}).touch()
        time.sleep(600)
Deaf()
time.sleep(600)
""")

    async def live() -> None:
        order = command("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 600")
        async with Launched(short, order, env={"PYTHONPATH": str(tmp_path)}) as launched:
            await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
            await until((tmp_path / "deaf").exists)
            launched.process.send_signal(signum)
            assert await launched.ended() == (code, "")
        processes.wait_until_none_runs([int((tmp_path / "pid").read_text())])

    asyncio.run(live())


def test_a_network_interface_that_does_not_exist_is_named_and_nothing_is_left(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, command("sleep", "600"), interface="nosuch0") as launched:
            answer = await launched.answer()
            assert isinstance(answer, Failed)
            assert "cannot listen on the node: " in answer.reason
            assert "nosuch0" in answer.reason
            assert processes.names(short) == []  # when it is said, all is tidy
            assert (await launched.ended())[0] == 1

    asyncio.run(live())


def test_a_launcher_that_reaches_nobody_says_where_it_has_tried_and_nothing_is_left(short: pathlib.Path) -> None:
    async def live(port: int) -> None:
        where: dict[str, Any] = {"addresses": ["127.0.0.1", "127.0.0.2"], "port": port}
        async with Launched(short, command("sleep", "600"), **where) as launched:
            answer = await launched.answer()
            assert isinstance(answer, Failed)
            tried = rf"cannot connect to the login side: 127\.0\.0\.1:{port}: .+; 127\.0\.0\.2:{port}: .+"
            assert re.fullmatch(tried, answer.reason)
            assert processes.names(short) == []  # when it is said, all is tidy
            assert (await launched.ended())[0] == 1

    with socket.socket() as closed:
        closed.bind(("", 0))  # and nobody else listens there
        asyncio.run(live(closed.getsockname()[1]))


@pytest.mark.parametrize("gone", ["its input has ended", "nothing is heard"])
def test_a_launcher_that_is_never_let_in_leaves(short: pathlib.Path, gone: str) -> None:
    mark = {"FARKERNEL_TEST": short.name}

    async def live(port: int) -> None:
        timeout = 1.0 if gone == "nothing is heard" else 60.0
        where: dict[str, Any] = {"addresses": ["127.0.0.1"], "port": port}
        async with Launched(short, command("sleep", "600"), env=mark, orphan_timeout=timeout, **where) as launched:
            started = await launched.answer()
            assert isinstance(started, Started)
            assert (started.addresses, started.port) == ([], 0)
            if gone == "its input has ended":
                assert len(processes.with_variable("FARKERNEL_TEST", short.name)) == 2  # with the kernel
                await launched.end_input()
            assert await launched.ended() == (UNDISMISSED, "")
        await until(lambda: not processes.with_variable("FARKERNEL_TEST", short.name))
        assert processes.names(short) == []

    with socket.create_server(("127.0.0.1", 0)) as login:
        asyncio.run(live(login.getsockname()[1]))


def test_a_python_that_is_too_old_is_named() -> None:
    old = "import sys; sys.version_info = (3, 6, 8); sys.argv = ['-c', 'digest']\n"

    done = _run([sys.executable, "-c", old + bootstrap.SOURCE], b"")

    assert done.returncode == 1
    assert done.stderr.decode() == f"farkernel-bootstrap: old python: {sys.executable} is Python 3.6\n"


@pytest.mark.parametrize("line", [b"", b"\n", b"nonsense\n", b'{"type": "Setup"}\n'])
def test_a_beginning_that_is_not_understood_is_refused(line: bytes) -> None:
    done = _run(payload().command(sys.executable), payload().on_stdin() + line)

    assert done.returncode == 1
    answer = decode_answer(done.stdout.decode().removeprefix(MARK))
    assert isinstance(answer, Failed)
    assert answer.reason.startswith("cannot begin: ")


def test_a_directory_that_does_not_exist_is_named() -> None:
    async def live() -> None:
        async with Launched(pathlib.Path("/no/such/directory")) as launched:
            answer = await launched.answer()
            assert isinstance(answer, Failed)
            assert "/no/such/directory" in answer.reason

    asyncio.run(live())


def test_files_of_the_working_directory_are_not_imported(short: pathlib.Path) -> None:
    for name in ("json", "random", "zmq", "asyncio", "farkernel"):
        (short / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")

    async def live() -> None:
        before = pathlib.Path.cwd()
        os.chdir(short)
        try:
            async with Launched(short, command("true")) as launched:
                await launched.connect()
                await launched.event(KernelEnded)
        finally:
            os.chdir(before)

    asyncio.run(live())
    for path in short.glob("*.py"):
        path.unlink()
    shutil.rmtree(short / "__pycache__", ignore_errors=True)


def test_what_a_killed_launcher_leaves_is_swept_by_the_next(short: pathlib.Path) -> None:
    async def live() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            kernel = (await launched.event(KernelStarted)).pid
            await launched.event(KernelReady)
            launched.process.kill()
            await launched.process.wait()
            processes.wait_until_none_runs([kernel])  # it sees that its parent has gone
            (left,) = processes.names(short)
            os.utime(short / left, (time.time() - 3600,) * 2)

        async with Launched(short, command("true")) as launched:
            await launched.connect()
            await launched.event(KernelEnded)

    asyncio.run(live())


def test_the_command_is_the_same_for_all_and_holds_nothing_secret() -> None:
    python, option, source, digest = payload().command("/usr/bin/python3")

    assert (python, option) == ("/usr/bin/python3", "-c")
    assert len(digest) == 64
    assert textwrap.dedent(source) == source
    assert sum(map(len, payload().command(sys.executable))) < 10_000
