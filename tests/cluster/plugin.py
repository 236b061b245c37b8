"""Tests that use the fixture `cluster` run on a cluster's login node as an ordinary user.

The pytest that is started brings the cluster up and starts a second one inside it (outer.py, relay.py,
inner.py); this plugin is loaded into both.
"""

import os
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.cluster.control import Client
from tests.cluster.inner import VARIABLE, Inner
from tests.cluster.outer import Outer
from tests.cluster.site import ClusterError, Site

_GRACE = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-cluster", action="store_true", help="leave out the tests that need the cluster")
    parser.addoption("--only-cluster", action="store_true", help="leave out all others")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Inner(config) if VARIABLE in os.environ else Outer(config))


@pytest.fixture(scope="session")
def cluster() -> Site:
    """The cluster that this test runs in."""
    return Client()


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves jobs, processes or broken nodes behind, and remove them for the next one."""
    yield
    if "cluster" not in request.fixturenames:
        return
    site: Site = request.getfixturevalue("cluster")
    deadline = time.monotonic() + _GRACE
    while left := site.leftovers():
        if time.monotonic() > deadline:
            _clean(site, left)
        time.sleep(0.1)


def _clean(site: Site, left: list[str]) -> NoReturn:
    try:
        site.clean()
    except ClusterError as error:
        left = [*left, "and it could not be removed:", str(error)]
    pytest.fail("left behind by this test:\n" + "\n".join(left), pytrace=False)
