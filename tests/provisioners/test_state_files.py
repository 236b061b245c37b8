"""Records and logs lie where only their user can read them, and never keep a kernel from starting."""

import asyncio
import logging
import os
import pathlib
import stat
import threading
import time
from typing import Any

import pytest

from farkernel.launcher.protocol import KernelLog, Usage
from farkernel.provisioners import recorder
from farkernel.provisioners.errors import DirectoryUnusable
from farkernel.provisioners.life import Phase, Step
from farkernel.provisioners.recorder import Recorder
from farkernel.provisioners.records import Record
from farkernel.provisioners.server_process import fate, this_server
from farkernel.provisioners.state_files import LOG_AGE, LOG_LIMIT, StateFiles, state_directory
from farkernel.provisioners.sweep import sweep
from farkernel.provisioners.writer import Writer
from tests.patience import PATIENCE


@pytest.fixture
def files(tmp_path: pathlib.Path) -> StateFiles:
    return StateFiles(tmp_path / "state/farkernel")


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is closed is written, however long that takes."""
    monkeypatch.setattr(recorder, "_SETTLE", PATIENCE)


def record(kernel_id: str = "one", **changes: Any) -> Record:
    return Record(kernel_id, "spec", "Spec", "", **{"server": this_server(), **changes})


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(files: StateFiles) -> list[str]:
    return sorted(str(path.relative_to(files.base)) for path in files.base.rglob("*") if path.is_file())


# ---- files ----


def test_all_is_the_users_alone(files: StateFiles) -> None:
    old = os.umask(0)
    try:
        files.write(record())
        files.append("one", "text\n")
        files.retire(record())
    finally:
        os.umask(old)

    assert {mode(path) for path in files.base.rglob("*") if path.is_dir()} | {mode(files.base)} == {0o700}
    assert {mode(path) for path in files.base.rglob("*") if path.is_file()} == {0o600}


def test_a_record_is_there_until_the_kernel_has_ended(files: StateFiles) -> None:
    assert files.there() == files.ended() == []
    files.write(record())
    files.write(record(phase=Phase.RUNNING))
    assert files.there() == [record(phase=Phase.RUNNING)]
    files.retire(record(phase=Phase.ENDED))
    assert files.there() == []
    assert files.ended() == [record(phase=Phase.ENDED)]
    assert names(files) == ["logs/one.json"]


def test_a_directory_that_is_open_to_others_is_closed(files: StateFiles) -> None:
    files.write(record())
    files.base.chmod(0o755)
    assert len(files.there()) == 1
    assert mode(files.base) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(files: StateFiles) -> None:
    files.base.mkdir(parents=True, mode=0o700)
    os.chown(files.base, 12345, 12345)
    with pytest.raises(DirectoryUnusable, match=r"farkernel belongs to user 12345\.\nName a directory of yours"):
        files.write(record())
    with pytest.raises(DirectoryUnusable):
        files.there()
    assert names(files) == []


def test_a_file_in_its_place_is_refused(files: StateFiles) -> None:
    files.base.parent.mkdir(parents=True)
    files.base.touch()
    with pytest.raises(DirectoryUnusable, match=r"farkernel is not a directory"):
        files.there()


def test_what_is_no_record_says_nothing(files: StateFiles) -> None:
    files.write(record())
    (files.base / "kernels/half.json").write_bytes(b'{"kernel_id": ')
    assert files.there() == [record()]


def test_a_log_is_bounded(files: StateFiles) -> None:
    for number in range(40):
        files.append("one", f"{number} {'x' * (LOG_LIMIT // 8)}\n")

    text = files.read_log("one")
    assert text.splitlines()[-1].startswith("39 ")
    assert LOG_LIMIT < len(text) < 2.5 * LOG_LIMIT
    assert names(files) == ["logs/one.log", "logs/one.log.1"]


def test_old_logs_go_but_not_those_of_kernels_that_are_there(files: StateFiles) -> None:
    for name in ("old", "new", "there"):
        files.append(name, "text\n")
        files.write(record(name))
    for name in ("old", "new"):
        files.retire(record(name))
    for path in [*files.base.glob("logs/old*"), *files.base.glob("logs/there*")]:
        os.utime(path, (0, time.time() - LOG_AGE - 60))
    files.sweep()
    assert names(files) == ["kernels/there.json", "logs/new.json", "logs/new.log", "logs/there.log"]


def test_half_a_file_of_long_ago_goes(files: StateFiles) -> None:
    files.write(record())
    for name in (".a.json.1.tmp", ".b.json.1.tmp"):
        (files.base / "kernels" / name).touch()
    os.utime(files.base / "kernels/.a.json.1.tmp", (0, 0))
    files.sweep()
    assert names(files) == ["kernels/.b.json.1.tmp", "kernels/one.json"]


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", given)
        assert state_directory() == pathlib.Path("/home/alice/.local/state/farkernel")
    monkeypatch.setenv("XDG_STATE_HOME", "/scratch/alice")
    assert state_directory() == pathlib.Path("/scratch/alice/farkernel")


# ---- sweep ----


def test_what_a_server_that_is_gone_has_left_goes(files: StateFiles) -> None:
    here = this_server()
    files.write(record("mine"))
    files.write(record("gone", server=type(here)(here.host, here.boot, here.space, here.pid, "1")))
    files.write(record("elsewhere", server=type(here)("elsewhere", here.boot, here.space, 1, "1")))

    async def check() -> None:
        writer = Writer()
        await sweep(files, writer)
        await writer.settle(PATIENCE)

    asyncio.run(check())
    assert sorted(kept.kernel_id for kept in files.there()) == ["elsewhere", "mine"]


def test_this_process_lives() -> None:
    here = this_server()
    assert fate(here, here) == "alive"


# ---- the recorder ----


def test_what_happens_is_written_down(files: StateFiles) -> None:
    async def check() -> None:
        told = Recorder(record(), files, Writer())
        told.step(Step.SUBMITTED, Phase.PENDING)
        told.event(KernelLog(1, 1, "no line's end"))
        told.say("It went wrong.")
        told.event(Usage(1, 1, 1000, 0.5))
        await asyncio.sleep(0)  # the first is due at once
        await told.closed()
        (written,) = files.there()
        assert (written.phase, written.memory) == ("pending", 1000)
        told.event(Usage(1, 1, 2000, 0.5))
        await asyncio.sleep(0)
        await told.closed()
        assert files.there() == [written]  # not so soon again
        told.step(Step.RELEASED, Phase.ENDED)
        await told.closed()

    asyncio.run(check())
    (ended,) = files.ended()
    assert (ended.memory, ended.why) == (2000, "It went wrong.")
    text = files.read_log("one").splitlines()
    assert [line.partition("] ")[2] or line for line in text] == [
        "pending: job submitted",
        "no line's end",
        "It went wrong.",
        "ended: all released",
    ]


def test_of_a_flood_the_log_keeps_the_end_and_says_what_is_missing(files: StateFiles) -> None:
    """The end says why a kernel has ended."""
    pieces = [f"\n{number} {'x' * (LOG_LIMIT // 8)}" for number in range(20)]

    async def check() -> None:
        told = Recorder(record(), files, Writer())
        for piece in [*pieces, "\nMemoryError\n"]:
            told.event(KernelLog(1, 1, piece))
        await told.closed()

    asyncio.run(check())
    text = files.read_log("one")
    written = sum(map(len, filter(text.__contains__, pieces)))
    assert f"] {sum(map(len, pieces)) - written} characters are missing here" in text
    assert text.endswith(pieces[-1] + "\nMemoryError\n")


def test_what_a_kernel_takes_is_written_later_if_not_at_once(
    files: StateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "USAGE_INTERVAL", 0.1)

    async def check() -> None:
        first = Recorder(record(), files, Writer())
        for memory in (1000, 2000, 3000):
            first.event(Usage(1, 1, memory, 0.5))
            await asyncio.sleep(0)
        while [kept.memory for kept in files.there()] != [3000]:
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(check(), PATIENCE))


def test_a_record_stays_as_long_as_its_job_does(files: StateFiles) -> None:
    async def check() -> None:
        gone = asyncio.Event()
        told = Recorder(record(), files, Writer())
        told.step(Step.SUBMITTED, Phase.PENDING)
        told.stays_until(gone)
        told.step(Step.RELEASED, Phase.ENDED)
        await told.closed()
        assert [kept.kernel_id for kept in files.there()] == [record().kernel_id]
        gone.set()
        while files.there():
            await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(check(), PATIENCE))


def test_a_file_system_that_hangs_holds_up_nobody(files: StateFiles, caplog: pytest.LogCaptureFixture) -> None:
    hangs = threading.Event()

    def hang() -> None:
        hangs.wait()

    async def check() -> None:
        writer = Writer()
        writer.do(hang)
        for _ in range(1000):
            writer.do(lambda: None, droppable=True)
        kept = []
        writer.do(lambda: kept.append("a record"))
        await writer.settle(0.2)
        assert not kept
        hangs.set()
        await writer.settle(PATIENCE)
        assert kept == ["a record"]

    with caplog.at_level(logging.WARNING, "farkernel"):
        asyncio.run(check())
    assert [entry.getMessage() for entry in caplog.records] == [
        "Records and logs of kernels are not written: they are not written fast enough"
    ]


def test_what_cannot_be_written_is_told_once(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "farkernel").touch()

    async def check() -> None:
        told = Recorder(record(), StateFiles(tmp_path / "farkernel"), Writer())
        for step in (Step.SUBMITTED, Step.READY, Step.RELEASED):
            told.step(step, Phase.PENDING)
        await told.closed()

    with caplog.at_level(logging.WARNING, "farkernel"):
        asyncio.run(check())
    assert len(caplog.records) == 1
    assert "Records and logs of kernels are not written" in caplog.text
