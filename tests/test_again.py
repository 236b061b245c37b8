"""What fails once is run once more, and a failure stays a failure."""

import sys
from pathlib import Path

import pytest

from tests.again import Suite, run

SOMETIMES = """
def test_sometimes(pytestconfig):
    mark = pytestconfig.rootpath / "mark"
    if not mark.exists():
        mark.touch()
        assert "the first time" == "wrong"
"""
NEVER = "def test_never():\n    assert 'again' == 'wrong'\n"
ALWAYS = "def test_always(pytestconfig):\n    (pytestconfig.rootpath / 'runs').open('a').write('x')\n"


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return Suite(Path(sys.executable), ["--quiet"], prefix="3.99: ", root=tmp_path)


def test_one_that_passes_the_second_time_is_named_with_what_was_wrong(
    suite: Suite, capfd: pytest.CaptureFixture[str]
) -> None:
    (suite.root / "test_it.py").write_text(SOMETIMES + ALWAYS)
    assert run([suite]) == 0
    told = capfd.readouterr().out
    assert "AssertionError: assert 'the first time' == 'wrong'" in told
    assert told.endswith("3.99: Failed, and passed when run again: test_it.py::test_sometimes\n")
    assert (suite.root / "runs").read_text() == "x"  # only what has failed


def test_one_that_fails_twice_has_failed(suite: Suite, capfd: pytest.CaptureFixture[str]) -> None:
    (suite.root / "test_it.py").write_text(SOMETIMES + NEVER)
    assert run([suite]) == 1
    told = capfd.readouterr().out
    assert told.count("3.99: E       AssertionError: assert 'again' == 'wrong'") == 2
    assert told.endswith(
        "3.99: Failed, and passed when run again: test_it.py::test_sometimes\n"
        "3.99: Failed twice: test_it.py::test_never\n"
    )


def test_many_that_fail_are_not_run_again(suite: Suite, capfd: pytest.CaptureFixture[str]) -> None:
    (suite.root / "test_it.py").write_text("".join(NEVER.replace("never", f"never_{n}") for n in range(4)))
    assert run([suite]) == 1
    told = capfd.readouterr().out
    assert told.count("4 failed") == 1
    assert told.endswith("3.99: Failed: test_it.py::test_never_3\n")


def test_what_is_no_failure_of_a_test_is_not_run_again(suite: Suite, capfd: pytest.CaptureFixture[str]) -> None:
    (suite.root / "test_it.py").write_text("def test(\n")
    assert run([suite]) == 2
    assert "again" not in capfd.readouterr().out


def test_a_run_that_fails_without_a_test_has_failed(suite: Suite) -> None:
    (suite.root / "conftest.py").write_text("def pytest_sessionfinish(session):\n    session.exitstatus = 1\n")
    (suite.root / "test_it.py").write_text(ALWAYS)
    assert run([suite]) == 1
    assert (suite.root / "runs").read_text() == "x"


def test_tests_that_are_killed_have_not_passed(suite: Suite) -> None:
    (suite.root / "test_it.py").write_text(ALWAYS + "def test_kill():\n    import os\n    os.kill(os.getpid(), 9)\n")
    passing = Suite(suite.python, ["--quiet", "--version"], root=suite.root)
    assert run([suite, passing]) == -9


def test_each_interpreter_runs_its_own_once_more(suite: Suite) -> None:
    (suite.root / "test_it.py").write_text(NEVER)
    assert run([suite, Suite(suite.python, ["--quiet", "--version"], root=suite.root)]) == 1
