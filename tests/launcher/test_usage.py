"""What a kernel takes is the sum over its processes, and is told when it has changed."""

import asyncio
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from farkernel.launcher.protocol import Usage
from farkernel.launcher.usage import Meter, Reading, worth_telling
from tests.launcher.launched import Launched, ipykernel

MIB = 2**20
HOLDS = "held = b'x' * (64 * 2**20); print('held', flush=True); input()"
WORKS = "import time\nwhile time.process_time() < 0.3: pass"


@pytest.fixture
def parent() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """A process that runs some Python; it and what it has started go when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        argv = [sys.executable, "-c", code]
        started.append(subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_the_memory_of_what_a_process_has_started_counts(parent: Callable[[str], subprocess.Popen[str]]) -> None:
    alone = parent("print('there', flush=True); input()")
    with_child = parent(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}])")
    assert (_line(alone), _line(with_child)) == ("there", "held")

    assert Meter().measure({alone.pid}).memory < 64 * MIB < Meter().measure({with_child.pid}).memory


def test_one_that_has_left_its_parent_counts_if_it_was_seen(parent: Callable[[str], subprocess.Popen[str]]) -> None:
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {HOLDS!r}]); input()"
    process = parent(script)
    assert _line(process) == "held"
    meter = Meter()
    before = meter.measure({process.pid}).memory
    process.kill()
    process.wait()

    assert before > meter.measure({process.pid}).memory > 64 * MIB


def test_the_time_of_children_that_have_ended_counts(parent: Callable[[str], subprocess.Popen[str]]) -> None:
    process = parent(
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKS!r}]); print('done', flush=True); input()"
    )
    assert _line(process) == "done"

    assert Meter().measure({process.pid}).cpu >= 0.3


def test_time_does_not_go_back(parent: Callable[[str], subprocess.Popen[str]]) -> None:
    process = parent(f"{WORKS}\nprint('done', flush=True)\ninput()")
    assert _line(process) == "done"
    meter = Meter()
    before = meter.measure({process.pid})
    process.kill()
    process.wait()

    assert meter.measure({process.pid}) == Reading(0, before.cpu)


@pytest.mark.parametrize(
    ("now", "worth"),
    [
        (Reading(1000 * MIB, 1000.0), False),
        (Reading(1049 * MIB, 1049.0), False),
        (Reading(1050 * MIB, 1000.0), True),
        (Reading(950 * MIB, 1000.0), True),
        (Reading(1000 * MIB, 1050.0), True),
    ],
)
def test_what_is_worth_telling(now: Reading, worth: bool) -> None:
    assert worth_telling(Reading(1000 * MIB, 1000.0), now) is worth


def test_a_little_is_never_worth_telling() -> None:
    assert not worth_telling(Reading(0, 0.0), Reading(15 * MIB, 4.9))


def test_what_is_as_before_is_no_news() -> None:
    meter = Meter()

    assert meter.news({os.getpid()})
    assert meter.news({os.getpid()}) is None


def test_a_launcher_reports_what_its_kernel_takes(short: pathlib.Path) -> None:
    async def check() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            began = time.monotonic()
            usage = await launched.event(Usage)
            assert usage.memory > 20 * MIB
            assert 0 < usage.cpu < time.monotonic() - began + 60

    asyncio.run(check())
