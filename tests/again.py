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

from tests.cluster.site import CHECKOUT

FEW = 3
"""Tests that run again; if more have failed, something is broken."""


@dataclass(frozen=True)
class Suite:
    """Some tests on one interpreter.

    :param options: pytest's
    :param prefix: of each line that they print
    :param root: where they are
    """

    python: Path
    options: Sequence[str]
    prefix: str = ""
    root: Path = CHECKOUT

    def run(self, cache: Path, *more: str) -> int:
        """Run them and show what they print; return pytest's exit code.

        :param cache: a directory of their own, in which pytest notes what failed
        :param more: of pytest's options
        """
        command = [str(self.python), "-m", "pytest", *self.options, "-o", f"cache_dir={cache}", *more]
        output = (subprocess.PIPE, subprocess.STDOUT) if self.prefix else (None, None)
        with subprocess.Popen(command, cwd=self.root, stdout=output[0], stderr=output[1], text=True) as tests:
            for line in tests.stdout or ():
                print(f"{self.prefix}{line}", end="", flush=True)
        return tests.returncode

    def run_failed(self, cache: Path) -> int:
        """Run those that failed once more, if they are few, and name them; return pytest's exit code."""
        failed = _failed(cache)
        if not 0 < len(failed) <= FEW:
            for name in failed:
                print(f"{self.prefix}Failed: {name}", flush=True)
            return pytest.ExitCode.TESTS_FAILED
        print(f"{self.prefix}Once more what failed:", flush=True)
        code, again = self.run(cache, "--last-failed"), _failed(cache)
        for name in failed:
            verdict = "Failed twice" if name in again else "Failed, and passed when run again"
            print(f"{self.prefix}{verdict}: {name}", flush=True)
        return code


def _failed(cache: Path) -> list[str]:
    noted = cache / "v/cache/lastfailed"
    return list(json.loads(noted.read_text())) if noted.exists() else []


def run(suites: Sequence[Suite]) -> int:
    """Run them at once, then one after the other what failed; return a process's exit code."""
    with tempfile.TemporaryDirectory(prefix="farkernel-tests-") as folder:
        caches = [Path(folder, str(number)) for number in range(len(suites))]
        with ThreadPoolExecutor() as pool:  # of five threads or more
            codes = list(pool.map(Suite.run, suites, caches))
        codes = [
            suite.run_failed(cache) if code == pytest.ExitCode.TESTS_FAILED else code
            for suite, cache, code in zip(suites, caches, codes, strict=True)
        ]
    return next((code for code in codes if code), 0)  # that of one that was killed is negative


if __name__ == "__main__":
    sys.exit(run([Suite(Path(sys.executable), sys.argv[1:])]))
