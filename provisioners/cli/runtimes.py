"""The container runtimes of this host, as far as their images go."""

import shutil
from typing import NamedTuple

from farkernel.provisioners.containers.base import Command, Container, ImageStore
from farkernel.provisioners.containers.registry import find_runtime, runtime_names
from farkernel.provisioners.errors import FarkernelError


class Here(NamedTuple):
    """A runtime whose program for images is on this host."""

    name: str
    container: type[Container]
    store: ImageStore


def runtimes_here(runtime: str | None) -> list[Here]:
    """Find the runtimes whose images can be listed and fetched on this host, Shifter first.

    :param runtime: no other one
    :raises FarkernelError: there is none
    """
    names = [runtime] if runtime else sorted(runtime_names(), key=lambda name: (name != "shifter", name))
    found = [(name, find_runtime(name, source="--runtime")) for name in names]
    known = [Here(name, container, container.images) for name, container in found if container.images]
    if not known:
        raise FarkernelError(f"farkernel does not know how images of {runtime} are listed and fetched.")
    if here := [one for one in known if shutil.which(one.store.program)]:
        return here
    programs = " or ".join(one.store.program for one in known)
    raise FarkernelError(
        f"There is no {programs} on this host.",
        hint="Load the module that brings it, or try a login node; the site's support knows which runtime there is.",
    )


def program_of(command: Command) -> str:
    """Name the program that puts a command inside its image."""
    words = command.argv[1:] if command.argv[0].rpartition("/")[2] == "env" else command.argv
    return next(word for word in words if not word.startswith("-") and "=" not in word)
