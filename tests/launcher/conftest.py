"""What the launcher's tests share."""

import pathlib
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def short() -> Iterator[pathlib.Path]:
    """A directory whose name is short enough for sockets; a test that leaves something in it fails."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="fk") as name:
        path = pathlib.Path(name)
        yield path
        assert list(path.iterdir()) == []
