"""The pytest inside the login node: tells the one outside what it does, a line of JSON per event."""

import json
import os
from typing import Any

import pytest

# names the file descriptor that the events go to; where it is set, this is the inner pytest
VARIABLE = "FARKERNEL_CLUSTER_EVENTS"


class Inner:
    def __init__(self, config: pytest.Config) -> None:
        fd = int(os.environ.pop(VARIABLE))  # not for a pytest that a test starts
        os.set_inheritable(fd, False)
        self._config = config
        self._events = os.fdopen(fd, "w", buffering=1)

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._tell("start", nodeid=nodeid, location=location)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._tell("report", data=data)

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._tell("finish", nodeid=nodeid, location=location)

    def _tell(self, event: str, **details: Any) -> None:
        self._events.write(json.dumps({"event": event, **details}, default=str) + "\n")
