"""The container runtimes that are installed: farkernel's own, and those that a site has added by an entry point."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Mapping
from importlib.metadata import entry_points

from farkernel.provisioners.containers.base import Container
from farkernel.provisioners.errors import RequestError
from farkernel.provisioners.request import Request

GROUP = "farkernel.container_runtimes"


def runtime_names() -> list[str]:
    """Name every runtime, in alphabetical order."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def find_runtime(name: str, *, source: str) -> type[Container]:
    """Load a runtime.

    :param source: who asks for it; the message begins with it
    :raises RequestError: there is none of that name, or it cannot be loaded
    """
    entry = next(iter(entry_points(group=GROUP, name=name)), None)
    if entry is None:
        raise RequestError(f'{source}: there is no container runtime "{name}"; there are {", ".join(runtime_names())}')
    try:
        found = entry.load()
    except Exception as error:
        raise RequestError(
            f'{source}: the container runtime "{name}" cannot be loaded from {entry.value}: {error!r}'
        ) from error
    if not (isinstance(found, type) and issubclass(found, Container)):
        raise RequestError(f'{source}: the container runtime "{name}" ({entry.value}) is no subclass of {Container}')
    return found


def container_of(request: Request, *, source: str, paths: Mapping[str, str] | None = None) -> Container:
    """Return the container of a request, its volumes' links resolved where the runtime needs that.

    :param source: where the request comes from, usually the path of the kernel.json; every message begins with it
    :param paths: where links lead on another login node, empty for a circle; None to follow them on this host
    :raises RequestError: its runtime does not exist, or would not take it: one line for each thing that is wrong
    """
    runtime = find_runtime(request.container.runtime, source=f"{source}: container.runtime")
    container = runtime(request.container)
    problems = container.problems(directory=request.launcher.on_node)
    if not problems:
        try:
            container = container.resolved(_real_path if paths is None else functools.partial(_known_path, paths))
        except RequestError as error:
            raise RequestError(f"{source}: {error}") from error
        # a link may lead to what the runtime would not take
        problems = container.problems(directory=request.launcher.on_node)
    if problems:
        raise RequestError("\n".join(f"{source}: {problem}" for problem in problems))
    return container


def _known_path(paths: Mapping[str, str], path: str) -> str:
    if (found := paths.get(path, path)) == "":
        raise _circle(path)
    return found


def _circle(path: str) -> RequestError:
    return RequestError(f'container.volumes: the links of "{path}" lead in a circle')


def _real_path(path: str) -> str:
    """Resolve links; what does not exist stays as it is.

    :raises RequestError: they lead in a circle, from which Shifter never comes back, in Slurm's prolog neither
    """
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _circle(path) from error
        return os.path.realpath(path)
