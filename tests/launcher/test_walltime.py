"""The time before a job's end, as a launcher tells it."""

import asyncio
import pathlib
import time

import pytest

from farkernel.launcher.protocol import HookFailed, KernelReady, TimeLeft, Walltime
from farkernel.launcher.walltime import MARKS, Alarm
from tests.launcher.ends import until
from tests.launcher.launched import Launched, ipykernel

SOON = MARKS[-1] + 0.3  # the last mark comes at once
IN_TIME = MARKS[-1] + 5  # it is still to come when a launcher that is busy hears of it
PASSED = MARKS[-1] - 10


def _marks(*ends: float | None) -> list[float]:
    """Set an alarm to ends that are so many seconds from now, None for no limit; return the marks that come at once."""

    async def use() -> list[float]:
        seen: list[float] = []
        alarm = Alarm(asyncio.get_running_loop(), seen.append)
        for end in ends:
            alarm.set(None if end is None else time.time() + end)
        await asyncio.sleep(0.5)
        alarm.cancel()
        return seen

    return asyncio.run(use())


@pytest.mark.parametrize("mark", MARKS)
def test_each_mark_is_told(mark: float) -> None:
    assert _marks(mark + 0.2) == [mark]


def test_a_mark_that_has_passed_is_not_told() -> None:
    assert _marks(MARKS[-1] - 5) == []


def test_an_end_that_is_put_off_is_told_at_its_new_time() -> None:
    assert _marks(SOON, 3600) == []
    assert _marks(SOON, None) == []


@pytest.mark.parametrize("left", [250.0, 30.0])
def test_an_end_that_comes_nearer_past_marks_is_told_at_once_with_the_time_left(left: float) -> None:
    (told,) = _marks(None, left)
    assert left - 5 < told <= left


def test_an_end_that_comes_nearer_and_passes_no_mark_is_told_in_time() -> None:
    assert _marks(3600, 1000) == []
    assert _marks(MARKS[-1] - 5, MARKS[-1] - 15) == []


def test_a_launcher_tells_no_end_once_the_job_has_no_limit(short: pathlib.Path) -> None:
    async def use() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            launched.order(Walltime(time.time() + IN_TIME, []))
            launched.order(Walltime(None, []))
            await asyncio.sleep(IN_TIME - MARKS[-1] + 1)
            assert await launched.printed("print('on')") == "on\n"
            assert not [event for event in launched.events if isinstance(event, TimeLeft)]
            await launched.end_input()
            _, stderr = await launched.ended()
            assert "Traceback" not in stderr, stderr

    asyncio.run(use())


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (["/not/there"], "/not/there cannot be run: No such file or directory"),
        (["sh", "-c", "echo no space; exit 4"], "sh has ended with exit code 4: no space"),
        (["sh", "-c", "kill -9 $$"], "sh has ended with signal 9"),
    ],
)
def test_a_hook_that_fails_is_told(short: pathlib.Path, hook: list[str], reason: str) -> None:
    async def use() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            launched.order(Walltime(time.time() + 3600, hook))
            launched.order(Walltime(time.time() + PASSED, hook))
            assert 0 < (await launched.event(TimeLeft)).seconds <= PASSED
            assert (await launched.event(HookFailed)).reason == reason

    asyncio.run(use())


def test_a_hook_runs_beside_the_kernel_and_ends_with_it(short: pathlib.Path, tmp_path: pathlib.Path) -> None:
    seen = tmp_path / "seen"
    words = "$FARKERNEL_SECONDS_LEFT $FARKERNEL_KERNEL_PID $OF_THE_KERNELSPEC $$"
    script = f'echo "{words}" >{seen}.new; mv {seen}.new {seen}'

    async def use() -> None:
        async with Launched(short, ipykernel()) as launched:
            await launched.connect()
            await launched.event(KernelReady)
            launched.order(Walltime(time.time() + IN_TIME, ["sh", "-c", f"{script}; exec sleep 1000"]))
            assert (await launched.event(TimeLeft)).seconds == MARKS[-1]
            await until(seen.exists)
            pid = await launched.printed("import os; print(os.getpid())")
            assert seen.read_text().split()[:3] == ["60", pid.strip(), "yes"]

    asyncio.run(use())
    hook = pathlib.Path("/proc", seen.read_text().split()[3])
    asyncio.run(until(lambda: not hook.exists()))
