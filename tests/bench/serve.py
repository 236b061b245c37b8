"""A server in a process of its own, so that all that the process takes is what farkernel takes."""

import json
import os
import subprocess
import sys
from typing import Any, Self

from tests.bench.client import PATIENCE, Info
from tests.bench.kernels import server
from tests.bench.place import PLACES


class ServerProcess:
    """The process, seen from outside. Its kernels share nodes."""

    def __init__(self, place: str) -> None:
        argv = [sys.executable, "-m", "tests.bench.serve", place]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def start(self) -> tuple[str, Info]:
        """Start a kernel; return its id and what to connect to."""
        kernel, info = self._ask("start")
        return kernel, info

    def node(self, kernel: str) -> str:
        """Return where a kernel runs."""
        return str(self._ask("node", kernel))

    def _ask(self, *words: str) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        print(*words, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def main() -> None:
    """Answer a line of JSON to each line, until there are no more."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w", buffering=1), sys.stderr
    with server(PLACES[sys.argv[1]](), shared=True) as serving:
        for line in sys.stdin:
            command, *kernels = line.split()
            answer = serving.start() if command == "start" else serving.job(*kernels)[1]
            print(json.dumps(answer, default=bytes.decode), file=answers)


if __name__ == "__main__":
    main()
