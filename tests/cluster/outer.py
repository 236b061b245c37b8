"""The pytest that was started: runs the local tests itself, then has those for the cluster run inside it."""

import os
import warnings
from collections.abc import Generator

import pytest

from tests.cluster.cluster import Cluster, ended_by_signals
from tests.cluster.packages import unavailable
from tests.cluster.relay import Relay
from tests.cluster.site import ClusterError, UnavailableError
from tests.gateway_python import NotMade, gateway_python


def needs_cluster(item: pytest.Item) -> bool:
    return "cluster" in getattr(item, "fixturenames", ())


def _make_gateway_python() -> None:
    """Make it here, for there is no network inside; if that fails, the tests that need it do."""
    try:
        gateway_python()
    except NotMade as error:
        warnings.warn(str(error), stacklevel=1)


class Outer:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._required = os.environ.get("FARKERNEL_CLUSTER") == "required"
        self._selected = False
        self._ran = 0
        self._reason = "none selected"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        remote = [item for item in items if needs_cluster(item)]
        local = [item for item in items if not needs_cluster(item)]
        if remote and config.getoption("--no-cluster"):
            self._reason = "--no-cluster"
            items[:] = local
            config.hook.pytest_deselected(items=remote)
        elif config.getoption("--only-cluster"):
            items[:] = remote
            config.hook.pytest_deselected(items=local)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        remote = [item for item in session.items if needs_cluster(item)]
        if not remote or self._config.option.collectonly:
            return (yield)
        self._selected, self._reason = True, "none got as far as running"
        reason = unavailable()
        if reason and self._required:
            self._refuse(reason)
        everything, session.items = session.items, [item for item in session.items if item not in remote]
        try:
            result = yield
        finally:
            session.items = everything
        if reason:
            self._skip(Relay(session, remote), reason)
        else:
            self._run(Relay(session, remote))
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        if self._required and self._selected and not self._ran and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        result = yield
        reason = "" if self._ran else f" ({self._reason})"
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal:
            terminal.write_line(f"cluster tests: {self._ran} ran{reason}")
        return result

    def _run(self, relay: Relay) -> None:
        try:
            if any("gateway_python" in getattr(item, "fixturenames", ()) for item in relay.items):
                _make_gateway_python()
            with ended_by_signals(), Cluster() as cluster:
                relay.run(cluster)
        except UnavailableError as error:
            if self._required:
                self._refuse(str(error))
            self._skip(relay, str(error))
        except ClusterError as error:
            self._reason = "the cluster did not come up"
            relay.fail_rest(str(error))
        finally:
            self._ran = relay.ran

    def _skip(self, relay: Relay, reason: str) -> None:
        self._reason = reason
        relay.skip_all(f"no cluster: {reason}")

    def _refuse(self, reason: str) -> None:
        self._reason = reason
        pytest.exit(f"FARKERNEL_CLUSTER=required, but there can be no cluster: {reason}", returncode=1)
