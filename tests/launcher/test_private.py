"""Private directories are private, and do not outlive their owner."""

import os
import pathlib
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest

from farkernel.launcher.private import PrivateDirectory

_HOLD = """
import pathlib, sys, time
from farkernel.launcher.private import PrivateDirectory
held = PrivateDirectory(pathlib.Path(sys.argv[1]), "x")
(held.path / "file").write_text("content")
print(held.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def base() -> Iterator[pathlib.Path]:
    """A directory with a short name."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="fk") as name:
        yield pathlib.Path(name)


@pytest.fixture
def owner(base: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a directory."""
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(base)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline()
        yield process
        process.kill()


def _make_old(path: pathlib.Path) -> None:
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))


def _only(base: pathlib.Path) -> pathlib.Path:
    (path,) = base.iterdir()
    return path


def test_it_is_the_users_alone(base: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        directory = PrivateDirectory(base, "x")
    finally:
        os.umask(before)

    status = directory.path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == os.getuid()
    directory.remove()


def test_it_is_removed_with_all_that_lies_in_it(base: pathlib.Path) -> None:
    directory = PrivateDirectory(base, "x")
    (directory.path / "deep").mkdir()
    (directory.path / "deep" / "file").write_text("content")

    directory.remove()

    assert list(base.iterdir()) == []


@pytest.mark.usefixtures("owner")
def test_one_that_is_held_stays(base: pathlib.Path) -> None:
    held = _only(base)
    _make_old(held)

    PrivateDirectory(base, "x").remove()

    assert (held / "file").read_text() == "content"


def test_one_whose_owner_was_killed_is_swept(base: pathlib.Path, owner: subprocess.Popen[str]) -> None:
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert _only(base).exists()  # nobody has tidied up yet
    _make_old(_only(base))

    PrivateDirectory(base, "x").remove()

    assert list(base.iterdir()) == []


def test_one_that_is_young_stays_for_its_owner_may_be_about_to_lock_it(base: pathlib.Path) -> None:
    (base / "farkernel-young").mkdir(mode=0o700)

    PrivateDirectory(base, "x").remove()

    assert _only(base).name == "farkernel-young"


def test_one_whose_owner_was_killed_before_it_had_locked_it_is_swept(base: pathlib.Path) -> None:
    (base / "farkernel-old").mkdir(mode=0o700)
    _make_old(base / "farkernel-old")

    PrivateDirectory(base, "x").remove()

    assert list(base.iterdir()) == []


def test_what_is_no_directory_of_ours_stays(base: pathlib.Path) -> None:
    (base / "elsewhere").mkdir()
    (base / "farkernel-file").write_text("content")
    (base / "farkernel-link").symlink_to(base / "elsewhere")
    for path in base.iterdir():
        _make_old(path)

    PrivateDirectory(base, "x").remove()

    assert {path.name for path in base.iterdir()} == {"elsewhere", "farkernel-file", "farkernel-link"}


def test_a_path_that_is_too_long_for_a_socket_is_refused(base: pathlib.Path) -> None:
    deep = base / ("d" * 80)
    deep.mkdir()

    with pytest.raises(OSError, match=r"too long: a unix socket below it would have 1\d\d bytes .* 107 are possible"):
        PrivateDirectory(deep, "1000.1000-5")

    assert list(deep.iterdir()) == []


def test_a_name_that_is_taken_is_not_used(base: pathlib.Path) -> None:
    held = [PrivateDirectory(base, "x", letters=1) for _ in range(8)]

    assert len({directory.path for directory in held}) == 8
    for directory in held:
        directory.remove()


def test_somebody_who_takes_all_short_names_keeps_nobody_out(base: pathlib.Path) -> None:
    for letter in "abcdefghijklmnopqrstuvwxyz234567":
        (base / f"farkernel-{letter}").touch()

    directory = PrivateDirectory(base, "x", letters=1)

    assert len(directory.path.name) == len("farkernel-abcdefgh")
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    directory.remove()
    assert len(list(base.iterdir())) == 32  # and what is the other's stays


def test_a_directory_that_does_not_exist_is_named(base: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such"):
        PrivateDirectory(base / "no-such", "x")
