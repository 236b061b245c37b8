"""Runs tests, and those that failed once more, if they are few: `python -m tests.again PYTEST_OPTIONS`.

They run real programs on machines that stand still now and then. What fails for that passes when it runs again, with
nothing beside it; its failure stays in what is printed, and its name stands at the end. What is broken fails twice.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FEW = 3
"""Tests that run again; if more have failed, something is broken."""


@dataclass(frozen=True)
class Suite:
    """Some tests on one interpreter.

    :param options: pytest's
    :param cache: a directory of their own, in which pytest notes what failed
    :param prefix: of each line that they print
    :param root: where they are
    """

    python: Path
    options: Sequence[str]
    cache: Path
    prefix: str = ""
    root: Path = ROOT

    def run(self, *options: str) -> int:
        """Run them and show what they print; return pytest's exit code."""
        command = [str(self.python), "-m", "pytest", *self.options, "-o", f"cache_dir={self.cache}", *options]
        output = (subprocess.PIPE, subprocess.STDOUT) if self.prefix else (None, None)
        with subprocess.Popen(command, cwd=self.root, stdout=output[0], stderr=output[1], text=True) as tests:
            for line in tests.stdout or ():
                print(f"{self.prefix}{line}", end="", flush=True)
        return tests.returncode

    def run_failed(self) -> int:
        """Run those that failed once more, if they are few, and name them; return pytest's exit code."""
        failed, code = self._failed(), int(pytest.ExitCode.TESTS_FAILED)
        if not 0 < len(failed) <= FEW:
            for name in failed:
                print(f"{self.prefix}Failed: {name}", flush=True)
            return code
        print(f"{self.prefix}Once more what failed:", flush=True)
        code, again = self.run("--last-failed"), self._failed()
        for name in failed:
            verdict = "Failed twice" if name in again else "Failed, and passed when run again"
            print(f"{self.prefix}{verdict}: {name}", flush=True)
        return code

    def _failed(self) -> list[str]:
        noted = self.cache / "v/cache/lastfailed"
        return list(json.loads(noted.read_text())) if noted.exists() else []


def run(suites: Sequence[Suite]) -> int:
    """Run them at once, then one after the other what failed; return a process's exit code."""
    with ThreadPoolExecutor(len(suites)) as pool:
        codes = list(pool.map(Suite.run, suites))
    failed = int(pytest.ExitCode.TESTS_FAILED)
    codes = [suite.run_failed() if code == failed else code for suite, code in zip(suites, codes, strict=True)]
    return next((code for code in codes if code), 0)  # that of one that was killed is negative


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="farkernel-tests-") as folder:
        sys.exit(run([Suite(Path(sys.executable), sys.argv[1:], Path(folder))]))
