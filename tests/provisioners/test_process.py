"""Programs are run to their end, and do not outlive the call."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farkernel.provisioners.errors import CommandMissing, CommandRefused
from farkernel.provisioners.process import run, stream


def test_what_a_program_leaves_behind() -> None:
    code = "import os, sys; print(sys.stdin.read() + os.environ['WORD']); sys.stderr.write('err'); sys.exit(3)"

    done = asyncio.run(run([sys.executable, "-c", code], env={"WORD": "x"}, timeout=30, input=b"in "))

    assert (done.returncode, done.stdout, done.stderr) == (3, "in x\n", "err")


def test_bytes_that_are_no_text_are_replaced() -> None:
    code = r"import sys; sys.stdout.buffer.write(b'a\xffb')"

    assert asyncio.run(run([sys.executable, "-c", code], timeout=30)).stdout == "a�b"


ENDLESS = "import os, sys\nfor _ in range(64):\n    os.write(1, bytes(2**20))\nos.write(2, b'done')"


def test_a_program_that_prints_too_much_is_run_to_its_end_and_cut_off() -> None:
    done = asyncio.run(run([sys.executable, "-c", ENDLESS], timeout=60))

    assert (done.returncode, done.stderr, len(done.stdout)) == (0, "done", 2**24)


def test_of_a_line_without_end_only_the_end_is_kept() -> None:
    lines: list[str] = []

    done = asyncio.run(stream([sys.executable, "-c", ENDLESS], on_line=lines.append))

    assert (done.returncode, done.stderr) == (0, "done")
    assert len(done.stdout) <= 2**16
    assert max(map(len, lines)) <= 2**16


def test_a_program_that_reads_nothing_ends_all_the_same() -> None:
    assert asyncio.run(run(["true"], timeout=60, input=bytes(2**22))).returncode == 0


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(CommandMissing, match="no-such-program"):
        asyncio.run(run(["no-such-program"], timeout=30))


def test_an_environment_that_the_system_does_not_take_is_told_with_its_largest_variable() -> None:
    with pytest.raises(CommandRefused) as caught:
        asyncio.run(run(["true"], env={**os.environ, "BIG": "x" * 2**17}, timeout=30))
    assert "The program true cannot be started on this host: Argument list too long." in str(caught.value)
    assert "the variable BIG (131072 bytes)" in str(caught.value)
    with pytest.raises(CommandRefused, match='the argument "yyyyyyyyyyyyyyyyyyyy…"'):
        asyncio.run(run(["true", "y" * 2**17], timeout=30))


def test_a_program_that_is_not_executable_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")

    with pytest.raises(CommandMissing, match="text cannot be run"):
        asyncio.run(run([str(tmp_path / "text")], timeout=30))


def test_on_timeout_it_is_asked_to_end_first(tmp_path: Path) -> None:
    # a shell: a Python may take longer than that until it has set a handler
    script = "trap 'echo TERM > $0; exit' TERM; while true; do sleep 0.1; done"
    trace = tmp_path / "trace"

    with pytest.raises(TimeoutError, match="sh did not end within 3 s"):
        asyncio.run(run(["sh", "-c", script, str(trace)], timeout=3))

    assert trace.read_text() == "TERM\n"


@pytest.mark.parametrize(("heeded", "told"), [("USR2 TERM", "USR2\n"), ("TERM", "USR2\nTERM\n")])
def test_the_signal_that_lets_it_tidy_up_comes_first(tmp_path: Path, heeded: str, told: str) -> None:
    tell = 'tell() { echo $1 >> "$0"; case " $heeded " in *" $1 "*) exit; esac; }'
    script = f"heeded='{heeded}'; {tell}; trap 'tell USR2' USR2; trap 'tell TERM' TERM; while true; do sleep 0.1; done"
    trace = tmp_path / "trace"

    with pytest.raises(TimeoutError):
        asyncio.run(run(["bash", "-c", script, str(trace)], timeout=3, die_by="USR2"))

    assert trace.read_text() == told


def test_one_that_ignores_that_is_killed_with_what_it_started() -> None:
    inner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {inner!r}]); {inner}"

    with pytest.raises(TimeoutError):
        asyncio.run(run([sys.executable, "-c", code], timeout=0.5, grace=0.2))


def test_cancellation_ends_it(tmp_path: Path) -> None:
    code = "import os, pathlib, sys, time\npathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\ntime.sleep(60)"
    trace = tmp_path / "pid"

    async def cancel_once_it_runs() -> None:
        task = asyncio.create_task(run([sys.executable, "-c", code, str(trace)], timeout=60))
        while not (trace.exists() and trace.read_text()):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_once_it_runs())

    assert not Path(f"/proc/{trace.read_text()}").exists()


def test_lines_are_handed_on_whole_and_as_they_come(tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = (
        "import pathlib, sys, time\n"
        "def say(text): sys.stdout.buffer.write(text); sys.stdout.flush()\n"
        r"say(b'one\r\x1b[2Ktw'); say(b'o \xc3')"
        "\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
        r"say(b'\xa4\nthree')"
    )
    lines = []

    def take(line: str) -> None:
        lines.append(line)
        go.touch()

    done = asyncio.run(stream([sys.executable, "-c", code, str(go)], on_line=take))

    assert [line for line in lines if line] == ["one", "\x1b[2Ktwo ä", "three"]
    assert (done.returncode, done.stdout) == (0, "one\r\x1b[2Ktwo ä\nthree")


def test_what_is_streamed_ends_with_the_one_who_listens(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    pids: list[int] = []

    async def leave() -> None:
        task = asyncio.create_task(stream([sys.executable, "-c", code], on_line=lambda line: pids.append(int(line))))
        while not pids:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


LISTENER = """
import asyncio, sys
from farkernel.provisioners.process import stream
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
asyncio.run(stream([sys.executable, "-c", code], on_line=lambda line: print(line, flush=True)))
"""


@pytest.mark.parametrize("end", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_what_is_streamed_ends_with_a_listener_that_is_killed(end: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout
        pid = int(listener.stdout.readline())
        listener.send_signal(end)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
