"""A `farkernel` command with a home of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE

Farkernel = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make an empty home directory."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def farkernel(home: Path) -> Farkernel:
    """Run `farkernel` with some arguments; keywords go to its environment."""

    def call(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "VIRTUAL_ENV") if key in os.environ}
        env = {**kept, "HOME": str(home), "COLUMNS": "300", "TERMINAL_WIDTH": "300", **changes}
        return subprocess.run(
            [sys.executable, "-m", "farkernel.provisioners.cli", *arguments],
            capture_output=True,
            check=False,
            env=env,
            text=True,
            timeout=2 * PATIENCE,
        )

    return call
