"""Kernelspecs for the tests on the cluster."""

import asyncio
import copy
import inspect
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farkernel.kernelspecs.folder import Content
from farkernel.kernelspecs.install import write
from farkernel.kernelspecs.templates import load_template
from tests.cluster import Site
from tests.slurm.helpers import PATIENCE, Specs
from tests.slurm.squeue import Occupation

_DIRECTORIES = "find /tmp/farkernel-* /dev/shm/farkernel-* /run/user/*/farkernel-* 2>/dev/null"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are coroutines."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    marker = pyfuncitem.get_closest_marker("timeout")
    limit = marker.args[0] - PATIENCE if marker else 3 * PATIENCE
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), limit))
    return True


@pytest.fixture
def no_directories_left(cluster: Site) -> Iterator[None]:
    """Whatever happened to a kernel, its sockets and files are gone, on every host."""
    yield
    deadline = time.monotonic() + PATIENCE
    hosts = [host for host in cluster.hosts if host != "ctl"]
    while left := {host: found for host in hosts if (found := _directories(cluster, host))}:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def _directories(cluster: Site, host: str) -> list[str]:
    return cluster.run(host, "root", ["sh", "-c", _DIRECTORIES]).stdout.split()


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_directories_left: None) -> Specs:
    """Install kernelspecs where only this test's Jupyter finds them."""
    for variable, folder in (("DATA", "data"), ("CONFIG", "config"), ("RUNTIME", "runtime")):
        monkeypatch.setenv(f"JUPYTER_{variable}_DIR", str(tmp_path / folder))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)

    def add(
        template: str = "cori-knl",
        *,
        name: str | None = None,
        argv: list[str] | None = None,
        env: dict[str, str] | None = None,
        interrupt_mode: str | None = None,
        **config: dict[str, Any],
    ) -> str:
        content = load_template(template).content
        spec = copy.deepcopy(content.spec)
        spec["argv"] = argv or spec["argv"]
        spec |= {"interrupt_mode": interrupt_mode} if interrupt_mode else {}
        spec["env"] = {**spec.get("env", {}), **(env or {})}
        parts = spec["metadata"]["kernel_provisioner"].setdefault("config", {})
        if template != "local":
            parts["slurm"]["time"] = "10"
            parts.setdefault("launcher", {})["start_timeout"] = PATIENCE
        for part, values in config.items():
            parts.setdefault(part, {}).update(values)
        return write(Content(spec, content.files), name or template, prefix=tmp_path, replace=True).name

    return add


@pytest.fixture
def no_free_knl(cluster: Site) -> Iterator[Occupation]:
    """Somebody else has all knl nodes, until the test ends that."""
    occupation = Occupation(cluster)
    yield occupation
    occupation.end()


@pytest.fixture
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server that is killed leave its sockets, which nobody can remove, where they harm no other test."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
