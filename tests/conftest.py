"""What all tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests import gateway_python as environment

pytest.register_assert_rewrite("tests.gateways")
pytest_plugins = ("tests.cluster.plugin",)

# No test asserts a time; and what fails is to fail for who has changed something, each time.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def gateway_python() -> Path | None:
    """A Python with Enterprise Gateway and farkernel; None where there can be none."""
    return environment.gateway_python()
