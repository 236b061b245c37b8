"""What a job is submitted from: this host, or a login node that only ssh leads to."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from farkernel.provisioners.background import Background
from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.queue import Queue
from farkernel.provisioners.request import Request


@dataclass(frozen=True)
class Surroundings:
    """Where a job is submitted, and what is there.

    :param queue: asks Slurm; its host runs Slurm's commands
    :param environ: the environment of a program that is started there
    :param python: the Python for the launcher
    :param cwd: the kernel's directory, if it can be had on the node
    :param paths: where links lead, empty for a circle; None where they can be followed here
    """

    queue: Queue
    environ: Mapping[str, str]
    home: str
    python: str
    cwd: str
    paths: Mapping[str, str] | None = None


async def surroundings(shared: Background, request: Request, server: Mapping[str, str], cwd: str) -> Surroundings:
    """Look at where a request's job is to be submitted; belongs to the background loop.

    :param server: the notebook server's own environment
    :param cwd: the notebook's directory, which another host does not have
    :raises FarkernelError: the login node cannot be reached, or lacks a Python
    """
    python = request.launcher.python
    if request.login is None:
        place = os.path.abspath(request.kernel.cwd or cwd)  # noqa: ASYNC240, PTH100 (links stay)
        home = os.path.expanduser("~")  # noqa: ASYNC240, PTH111
        return Surroundings(shared.queue, server, home, python or sys.executable, place)
    if request.launcher.connect == "login":
        raise RequestError(
            f'launcher.connect is "login", and login is {request.login}: no launcher can connect to a host behind ssh.',
            hint="Remove launcher.connect from the kernelspec: it is the login node that connects to the compute node.",
        )
    node = await shared.login_node(request.login)
    sources = [volume.partition(":")[0] for volume in request.container.volumes]
    seen = await node.look(python or "python3", sources)
    home = seen.environ.get("HOME", "/")
    return Surroundings(node.queue, seen.environ, home, python or "python3", request.kernel.cwd or home, seen.paths)
