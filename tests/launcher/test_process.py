"""A kernel's process: what it is given, how it is signalled, and what is left of it."""

import json
import os
import pathlib
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from farkernel.launcher import node
from farkernel.launcher.process import KernelProcess
from farkernel.launcher.protocol import PORT_NAMES, StartKernel
from tests.launcher.processes import runs, wait_until_none_runs
from tests.patience import PATIENCE

Start = Callable[..., KernelProcess]


@pytest.fixture
def base(tmp_path: pathlib.Path) -> pathlib.Path:
    """The launcher's directory."""
    return tmp_path


@pytest.fixture
def start(base: pathlib.Path) -> Iterator[Start]:
    """Start processes, and end them after the test."""
    started: list[KernelProcess] = []

    def call(
        *argv: str,
        env: dict[str, str] | None = None,
        cwd: tuple[str, ...] = ("/",),
        transport: str = "ipc",
        files: dict[str, str] | None = None,
        cleanup: tuple[str, ...] = (),
    ) -> KernelProcess:
        order = StartKernel(
            kernel=1,
            generation=len(started) + 1,
            argv=list(argv),
            env=env or {},
            cwd=list(cwd),
            transport=transport,
            key="a-secret-key",
            signature_scheme="hmac-sha256",
            kernel_name="name",
            files=files or {},
            cleanup=list(cleanup),
        )
        started.append(KernelProcess(order, base, {"PATH": os.environ["PATH"], "OF_THE_JOB": "1", "BOTH": "job"}))
        return started[-1]

    yield call
    for process in started:
        process.signal(signal.SIGKILL)
        wait_until_none_runs([process.pid])
        process.poll()
        process.output.close()


def _python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


def _read_until(process: KernelProcess, done: Callable[[bytes], bool], seconds: float = PATIENCE) -> bytes:
    """Read its output until that is what is wanted."""
    text = b""
    deadline = time.monotonic() + seconds
    while not done(text):
        assert time.monotonic() < deadline, text
        select.select([process.output], [], [], 1)
        data = process.read_output()
        assert data is not None, text
        text += data
    return text


def _all_output(process: KernelProcess) -> bytes:
    text = b""
    while True:
        select.select([process.output], [], [], 30)
        data = process.read_output()
        if data is None:
            return text
        text += data


def _exit_code(process: KernelProcess) -> int:
    wait_until_none_runs([process.pid])
    code = process.poll()
    assert code is not None
    return code


def test_the_connection_file_is_the_users_alone(start: Start, base: pathlib.Path) -> None:
    process = start(*_python("import sys; print(sys.argv[1:])"), "-f", "{connection_file}", "--file={connection_file}")

    (file,) = base.glob("*/kernel.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert _all_output(process).decode() == f"{['-f', str(file), f'--file={file}']}\n"
    info = json.loads(file.read_text())
    assert {**info, "key": "", "ip": ""} == {
        "transport": "ipc",
        "ip": "",
        "key": "",
        "signature_scheme": "hmac-sha256",
        "kernel_name": "name",
        "shell_port": 1,
        "iopub_port": 2,
        "stdin_port": 3,
        "control_port": 4,
        "hb_port": 5,
    }
    assert info["key"] == "a-secret-key"
    assert pathlib.Path(info["ip"]) == file.parent


def test_its_sockets_go_with_it(start: Start, base: pathlib.Path) -> None:
    process = start("true")
    for port in range(1, 6):
        (base / f"{process.directory.name}-{port}").touch()

    process.remove()
    assert list(base.iterdir()) == []


def test_a_second_start_has_a_directory_of_its_own(start: Start, base: pathlib.Path) -> None:
    first, second = start("true"), start("true")
    first.remove()

    assert [path.name for path in base.iterdir()] == [second.directory.name]
    second.remove()
    assert list(base.iterdir()) == []


def test_its_variables_go_on_top_of_the_jobs(start: Start) -> None:
    code = "import os; print(dict(os.environ))"
    process = start(*_python(code), env={"BOTH": "kernelspec", "OWN": "x"}, cwd=("/tmp",))

    env = json.loads(_all_output(process).decode().replace("'", '"'))
    assert {name: env[name] for name in ("OF_THE_JOB", "BOTH", "OWN")} == {
        "OF_THE_JOB": "1",
        "BOTH": "kernelspec",
        "OWN": "x",
    }
    assert env["JPY_PARENT_PID"] == str(os.getpid())
    assert env["PWD"] == "/tmp"


def test_it_runs_in_the_first_directory_that_exists(start: Start, tmp_path: pathlib.Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    code = "import os; print(os.getcwd())"

    process = start(*_python(code), cwd=("/no/such", str(there), "/"))

    assert process.cwd == str(there)
    assert _all_output(process).decode() == f"{there}\n"


def test_it_runs_at_the_root_if_none_does(start: Start) -> None:
    process = start(*_python("import os; print(os.getcwd())"), cwd=("/no/such", "/none/either"))

    assert process.cwd == "/"
    assert _all_output(process) == b"/\n"


def test_the_only_directory_has_to_exist(start: Start, base: pathlib.Path) -> None:
    with pytest.raises(OSError, match="No such directory on the node") as caught:
        start("true", cwd=("/no/such",))

    assert caught.value.filename == "/no/such"
    assert list(base.iterdir()) == []


@pytest.mark.parametrize(("command", "cwd"), [("true", "/no/such"), ("no-such-command", "/")])
def test_one_that_did_not_start_has_nothing_to_clean_up(
    start: Start, base: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, command: str, cwd: str
) -> None:
    trace = tmp_path_factory.mktemp("trace") / "cleaned"

    with pytest.raises(FileNotFoundError) as caught:
        start(command, cwd=(cwd,), cleanup=("touch", str(trace), "{kernel_cwd}"))

    assert caught.value.filename in {command, cwd}
    assert list(base.iterdir()) == []
    assert not trace.exists()


@pytest.mark.parametrize("command", ["no-such-command", "/no/such/command", "/etc/passwd"])
def test_a_command_that_cannot_be_run_is_named(start: Start, base: pathlib.Path, command: str) -> None:
    with pytest.raises(OSError, match=r"No such file|Permission denied") as caught:
        start(command, "-f", "{connection_file}")

    assert caught.value.filename == command
    assert list(base.iterdir()) == []


_TELLS = """
import os, signal, sys, time
def tell(number, _):
    os.write(1, f"{sys.argv[1]} {signal.Signals(number).name}\\n".encode())
signal.signal(signal.SIGINT, tell)
signal.signal(signal.SIGTERM, tell)
"""


def test_a_signal_reaches_what_the_kernel_has_started(start: Start) -> None:
    inner = f"{_TELLS}os.write(1, b'up')\nwhile True: time.sleep(0.05)"
    outer = f"{_TELLS}import subprocess\nsubprocess.Popen([sys.executable, '-c', {inner!r}, 'grandchild'])\n"
    process = start(*_python(f"{outer}while True: time.sleep(0.05)"), "child")
    _read_until(process, lambda text: b"up" in text)

    for number in (signal.SIGINT, signal.SIGTERM):
        process.signal(number)
        text = _read_until(process, lambda text: text.count(b"\n") == 2)
        assert sorted(text.decode().splitlines()) == [f"child {number.name}", f"grandchild {number.name}"]

    process.signal(signal.SIGKILL)
    assert _all_output(process) == b""  # nobody holds the pipe any more
    assert _exit_code(process) == -signal.SIGKILL
    assert not process.out_of_memory()


def test_a_signal_for_one_that_has_ended_does_nothing(start: Start) -> None:
    process = start("true")
    assert _exit_code(process) == 0

    process.signal(signal.SIGINT)


def test_it_is_not_in_our_own_process_group_or_session(start: Start) -> None:
    process = start("sleep", "60")

    assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
    assert runs(process.pid)


def test_the_end_of_its_output_is_kept(start: Start) -> None:
    code = "import sys; sys.stdout.write('x' * 100_000 + 'out '); sys.stdout.flush(); sys.stderr.write('last words\\n')"
    process = start(*_python(code))

    assert len(_all_output(process)) == 100_000 + len("out last words\n")
    assert process.tail_text().endswith("xxxout last words")
    assert len(process.tail_text()) < 10_000


def test_half_a_character_at_the_beginning_of_the_end_does_no_harm(start: Start) -> None:
    process = start(*_python("import sys; sys.stdout.buffer.write('ü'.encode() * 5000 + b'x')"))
    _all_output(process)

    assert process.tail_text().endswith("üüüx")


def test_tcp_ports_are_free_and_not_those_of_outgoing_connections(start: Start) -> None:
    info = start("true", transport="tcp").connection

    assert info["ip"] == "127.0.0.1"
    ports = [int(info[name]) for name in PORT_NAMES.values()]
    assert len(set(ports)) == 5
    assert all(1024 <= port < node.ephemeral_floor() for port in ports)
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_files_lie_beside_the_connection_file(start: Start, base: pathlib.Path) -> None:
    process = start("cat", "{kernel_directory}/environment", files={"environment": "TOKEN=secret\n"})

    (file,) = base.glob("*/environment")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert _all_output(process) == b"TOKEN=secret\n"


def test_a_command_may_name_the_directory_that_it_runs_in(start: Start, tmp_path: pathlib.Path) -> None:
    process = start("echo", "--workdir={kernel_cwd}", cwd=("/not/there", str(tmp_path)))

    assert _all_output(process).decode() == f"--workdir={tmp_path}\n"
