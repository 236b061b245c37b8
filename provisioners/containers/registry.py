"""The container runtimes that are installed: farkernel's own, and those that a site has added by an entry point."""

from __future__ import annotations

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


def container_of(request: Request, *, source: str) -> Container:
    """Return the container of a request.

    :param source: where the request comes from, usually the path of the kernel.json; every message begins with it
    :raises RequestError: its runtime does not exist, or would not take it: one line for each thing that is wrong
    """
    runtime = find_runtime(request.container.runtime, source=f"{source}: container.runtime")
    container = runtime(request.container)
    if problems := container.problems(directory=request.launcher.on_node):
        raise RequestError("\n".join(f"{source}: {problem}" for problem in problems))
    return container
