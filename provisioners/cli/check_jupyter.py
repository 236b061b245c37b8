"""What Jupyter in this Python has: the libraries, the provisioners, and the kernelspecs that use them."""

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec

import zmq
from jupyter_client._version import __version__ as jupyter_client
from jupyter_client._version import version_info

from farkernel.kernelspecs.install import Installed
from farkernel.provisioners.cli.findings import Finding, ok, problem, warning
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.jupyter_version import too_old
from farkernel.provisioners.request import check_process_proxy, parse_request

ENTRY_POINTS = "jupyter_client.kernel_provisioners"
PROVISIONERS = ("farkernel-local", "farkernel-slurm")
PROXY_MODULE = "farkernel.provisioners.enterprise_gateway"
PROXIES = (f"{PROXY_MODULE}.LocalProcessProxy", f"{PROXY_MODULE}.SlurmProcessProxy")


def check_jupyter(specs: Iterable[Installed]) -> list[Finding]:
    """Look at this Python's Jupyter, and at each of the kernelspecs."""
    found = [_check_spec(spec) for spec in specs]
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


def _check_spec(spec: Installed) -> Finding:
    subject = f"kernelspec {spec.name}"
    if spec.provisioner not in PROVISIONERS:
        return problem(
            subject,
            f"{spec.source} names the provisioner {spec.provisioner}",
            f"There are: {', '.join(PROVISIONERS)}.",
        )
    try:
        container_of(parse_request(spec.config, source=spec.source), source=spec.source)
        check_process_proxy(spec.process_proxy.get("config", {}), source=spec.source)
    except RequestError as error:
        return problem(subject, str(error), f"Correct {spec.source}, or install it again with --replace.")
    proxy = str(spec.process_proxy.get("class_name", ""))
    if proxy not in PROXIES and (proxy.startswith("farkernel.") or _has_enterprise_gateway()):
        return problem(
            subject,
            f"{spec.source} names {proxy or 'nothing'} in metadata.process_proxy.class_name",
            f"Enterprise Gateway would not run its kernels by farkernel. There are: {', '.join(PROXIES)}.",
        )
    return ok(subject, f"{spec.display_name} ({spec.source})")
