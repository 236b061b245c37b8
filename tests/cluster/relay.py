"""Runs a pytest on the cluster's login node, as an ordinary user, and replays what it reports in this one."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any, Literal

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.control import ControlServer
from tests.cluster.host import RemoteProcess
from tests.cluster.inner import VARIABLE
from tests.cluster.site import CHECKOUT, LOGIN, PATH

_USER = "alice"
_OPTIONS = ("-q", "-p", "no:cacheprovider", "--no-header", "--no-summary", f"--rootdir={CHECKOUT}")
_ENVIRONMENT = {
    "PATH": f"{sys.prefix}/bin:{PATH}",
    "PYTHONDONTWRITEBYTECODE": "1",
    # the checkout is read-only
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
}


class Relay:
    """The tests that are to run inside; each is reported here exactly once, whatever happens there."""

    def __init__(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        self.ran = 0
        self._session = session
        self._hook = session.config.hook
        self.items = items
        self._rest = {item.nodeid: item for item in items}

    def run(self, cluster: Cluster) -> None:
        with (cluster.state / "inner.log").open("w+") as log, ControlServer(cluster, _USER):
            inner, events = self._start(cluster, log)
            cluster.tests = inner.pid
            try:
                for line in _lines(inner, events):
                    self._replay(**json.loads(line))
                code = inner.wait(120)
            finally:
                os.close(events)
                inner.kill()
                inner.wait()
            log.seek(0)
            self._conclude(code, log.read())

    def skip_all(self, reason: str) -> None:
        for item in list(self._rest.values()):
            # the same place for all of them makes pytest's summary one line
            self._invent(item, "setup", "skipped", (__file__, 0, f"Skipped: {reason}"))

    def fail_rest(self, text: str) -> None:
        for item in list(self._rest.values()):
            self._invent(item, "call", "failed", text)

    def _start(self, cluster: Cluster, log: IO[str]) -> tuple[RemoteProcess, int]:
        """Start the inner pytest; its events come out of the file descriptor."""
        events, theirs = os.pipe()
        try:
            inner = cluster.popen(
                LOGIN,
                _USER,
                [sys.executable, "-m", "pytest", *_OPTIONS, *self._rest],
                {**_ENVIRONMENT, VARIABLE: str(theirs)},
                cwd=CHECKOUT,
                pass_fds=(theirs,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        finally:
            os.close(theirs)
        return inner, events

    def _replay(self, event: str, **details: Any) -> None:
        if event == "start":
            self._hook.pytest_runtest_logstart(**details)
        elif event == "report":
            report = self._report(details["data"])
            self.ran += report.when == "call" and (not report.skipped or hasattr(report, "wasxfail"))
            self._hook.pytest_runtest_logreport(report=report)
        else:
            self._finish(**details)

    def _report(self, data: dict[str, Any]) -> pytest.TestReport:
        if isinstance(data["longrepr"], list):  # a skip's place and reason; JSON has no tuples
            data["longrepr"] = tuple(data["longrepr"])
        config = self._session.config
        report = self._hook.pytest_report_from_serializable(config=config, data=data)
        assert isinstance(report, pytest.TestReport)
        return report

    def _finish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._rest.pop(nodeid, None)
        self._hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _invent(
        self,
        item: pytest.Item,
        when: Literal["setup", "call"],
        outcome: Literal["failed", "skipped"],
        text: str | tuple[str, int, str],
    ) -> None:
        """Report what this pytest itself knows about a test."""
        self._hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        report = pytest.TestReport(item.nodeid, item.location, {item.name: 1}, outcome, text, when)
        self._hook.pytest_runtest_logreport(report=report)
        self._finish(item.nodeid, item.location)

    def _conclude(self, code: int, output: str) -> None:
        tail = f"The pytest inside the cluster ended with exit code {code}:\n{output[-5000:]}"
        if self._rest:
            self.fail_rest(tail)
        elif code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            raise RuntimeError(tail)


def _lines(inner: RemoteProcess, events: int) -> Iterator[bytes]:
    """Yield the lines that come out of the pipe, until it ends or the inner pytest does.

    Its end alone is not enough: a child that a test forked may hold the pipe open.
    """
    buffer = b""
    while True:
        readable, _, _ = select.select([events], [], [], 0.5)
        if readable:
            chunk = os.read(events, 65536)
            if not chunk:
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            yield from lines
        elif inner.poll() is not None:
            return
