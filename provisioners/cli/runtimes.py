"""The container runtimes of this host, as far as their images go."""

import asyncio
import re
import shutil
from typing import NamedTuple

from farkernel.provisioners.containers.base import Command, Container, ImageEntry, ImageStore
from farkernel.provisioners.containers.registry import find_runtime, runtime_names
from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.process import run

_LIST_TIMEOUT = 60.0
_LAST_LINES = 6
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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


def runtime_of(image: str) -> str:
    """Name the runtime that lists an image; the first one of this host if none does, which says so itself.

    :raises FarkernelError: several do, or there is no runtime
    """
    here = runtimes_here(None)
    names = asyncio.run(_that_list(here, image)) if len(here) > 1 else []
    if len(names) > 1:
        raise FarkernelError(f"{image} is an image of {' and of '.join(names)}.", hint="Say which with --runtime.")
    return names[0] if names else here[0].name


async def images_of(here: Here) -> list[ImageEntry]:
    """List a runtime's images.

    :raises FarkernelError: they cannot be listed
    """
    try:
        done = await run(here.store.list_argv(), timeout=_LIST_TIMEOUT, die_by="TERM")
    except TimeoutError as error:
        raise FarkernelError(f"{error}.", hint="Try again later.") from error
    if why := here.store.list_problem(done.returncode, f"{done.stdout}{done.stderr}"):
        raise FarkernelError(last_lines(why))
    return here.store.parse_list(done.stdout)


def plain(text: str) -> str:
    """Return what a program has printed, without a terminal's colours and movements."""
    return _ESCAPE.sub("", text)


def last_lines(text: str) -> str:
    """Return the end of what a program has printed."""
    lines = [line.strip() for line in plain(text).splitlines()]
    return "\n".join([line for line in lines if line][-_LAST_LINES:])


async def _that_list(here: list[Here], image: str) -> list[str]:
    found = await asyncio.gather(*(_lists(one, image) for one in here))
    return [one.name for one, has in zip(here, found, strict=True) if has]


async def _lists(here: Here, image: str) -> bool:
    try:
        return any(here.store.means(image, entry) for entry in await images_of(here))
    except FarkernelError:
        return False


def program_of(command: Command) -> str:
    """Name the program that puts a command inside its image."""
    words = command.argv[1:] if command.argv[0].rpartition("/")[2] == "env" else command.argv
    return next(word for word in words if not word.startswith("-") and "=" not in word)
