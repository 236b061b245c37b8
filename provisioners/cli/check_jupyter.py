"""What Jupyter in this Python has: the libraries, the provisioners, and the kernelspecs that use them."""

from collections.abc import Iterable
from importlib.metadata import entry_points, version

import zmq

from farkernel.kernelspecs.install import Installed
from farkernel.provisioners.cli.findings import Finding, ok, problem, warning
from farkernel.provisioners.containers.registry import container_of
from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.request import parse_request

ENTRY_POINTS = "jupyter_client.kernel_provisioners"
PROVISIONERS = ("farkernel-local", "farkernel-slurm")


def check_jupyter(specs: Iterable[Installed]) -> list[Finding]:
    """Look at this Python's Jupyter, and at each of the kernelspecs."""
    found = [_check_spec(spec) for spec in specs]
    none = warning(
        "kernelspecs",
        "none of farkernel's is installed",
        "Install one: `farkernel kernelspec install cori-haswell`",
    )
    return [_check_libraries(), _check_provisioners(), *(found or [none])]


def _check_libraries() -> Finding:
    subject = "libraries"
    found = f"jupyter_client {version('jupyter_client')}, pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}"
    if not zmq.has("curve"):
        return problem(
            subject,
            f"{found} without CURVE",
            "Links cannot be encrypted: install pyzmq's own wheel from PyPI.",
        )
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
    except RequestError as error:
        return problem(subject, str(error), f"Correct {spec.source}, or install it again with --replace.")
    return ok(subject, f"{spec.display_name} ({spec.source})")
