"""What Jupyter in this Python has: the libraries, the provisioners, and the kernelspecs that use them."""

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import zmq
from jupyter_client._version import __version__ as jupyter_client
from jupyter_client._version import version_info

from farkernel.kernelspecs.check import PROVISIONERS as ENTRY_POINTS
from farkernel.kernelspecs.flaws import PROXIES, PROXY_MODULE
from farkernel.provisioners.cli.check_file import check_file
from farkernel.provisioners.cli.findings import Finding, ok, problem, warning
from farkernel.provisioners.jupyter_version import too_old

PROVISIONERS = tuple(PROXIES)


def check_jupyter(files: Iterable[Path]) -> list[Finding]:
    """Look at this Python's Jupyter, and at each kernel.json, as `farkernel kernelspec check` does."""
    found = [finding for file in files for finding in check_file(file)]
    none = warning(
        "kernelspecs",
        "none of farkernel's is installed",
        "Install one: `farkernel kernelspec install cori-haswell`",
    )
    adapters = _check_proxies() if _has_enterprise_gateway() else _check_provisioners()
    return [_check_libraries(), adapters, *(found or [none])]


def _has_enterprise_gateway() -> bool:
    return find_spec("enterprise_gateway") is not None


def _check_libraries() -> Finding:
    subject = "libraries"
    found = f"jupyter_client {jupyter_client}, pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}"
    if not zmq.has("curve"):
        return problem(
            subject,
            f"{found} without CURVE",
            "Links cannot be encrypted: install pyzmq's own wheel from PyPI.",
        )
    if (error := too_old(version_info, sys.executable)) and not _has_enterprise_gateway():
        return problem(subject, error.what, error.hint)
    return ok(subject, f"{found} with CURVE")


def _check_provisioners() -> Finding:
    subject = "provisioners"
    registered = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if missing := [name for name in PROVISIONERS if name not in registered]:
        return problem(
            subject,
            f"not registered with Jupyter: {', '.join(missing)}",
            "Install farkernel again in this Python.",
        )
    for name in PROVISIONERS:
        try:
            registered[name].load()
        except (ImportError, AttributeError) as error:
            return problem(subject, f"{name} cannot be loaded: {error}", "Install farkernel again in this Python.")
    return ok(subject, f"registered with Jupyter: {', '.join(PROVISIONERS)}")


def _check_proxies() -> Finding:
    subject = "process proxies"
    try:
        module = import_module(PROXY_MODULE)
    except ImportError as error:
        return problem(subject, f"{PROXY_MODULE} cannot be loaded: {error}", "Install farkernel again in this Python.")
    return ok(subject, f"for Enterprise Gateway: {module.__name__}")
