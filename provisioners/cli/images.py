"""`farkernel images`: the images that the user may run here; fetch one, look into one."""

import asyncio
import json
import shutil
from dataclasses import asdict
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from farkernel.provisioners.containers.base import Container, ImageEntry, ImageStore
from farkernel.provisioners.errors import FarkernelError

app = typer.Typer(help="The images that kernels can run in.", no_args_is_help=True)

_LIST_TIMEOUT = 60.0
_WIDE = 400

Image = Annotated[str, typer.Argument(metavar="IMAGE", help="Its name, as the runtime knows it.")]
Runtime = Annotated[
    str | None, typer.Option(metavar="R", help="The container runtime; by default one that is here, Shifter first.")
]


class _Here(NamedTuple):
    """A runtime whose program for images is on this host."""

    name: str
    container: type[Container]
    store: ImageStore


@app.command("list")
def list_command(
    runtime: Runtime = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the images that you may run."""
    rows: list[tuple[str, ImageEntry]] = []
    problems = []
    for here in _here(runtime):
        try:
            rows += [(here.name, entry) for entry in asyncio.run(_list(here.store))]
        except FarkernelError as error:
            problems.append(f"{here.name}: {error}")
    if as_json:
        typer.echo(json.dumps([{"runtime": name, **asdict(entry)} for name, entry in rows], indent=2))
    else:
        table = Table("runtime", "image", "id", "size", "pulled")
        for name, entry in rows:
            table.add_row(name, entry.name, entry.identity, entry.size, entry.pulled)
        console = Console()
        # what is read by a program is not to be cut off
        (console if console.is_terminal else Console(width=_WIDE)).print(table if rows else "There are no images.")
    for text in problems:
        Console(stderr=True, soft_wrap=True).print(text, style="yellow", markup=False)
    if problems and not rows:
        raise typer.Exit(1)


@app.command("pull")
def pull_command(image: Image, runtime: Runtime = None) -> None:
    """Fetch an image."""
    from farkernel.provisioners.process import stream  # noqa: PLC0415

    here = _here(runtime)[0]
    _container(here, image)
    console = Console(soft_wrap=True)
    told = ""

    def show(text: str) -> None:
        nonlocal told
        if (news := here.store.parse_progress(text)) and news != told:
            told = news
            console.print(f"{image}: {news}", markup=False, highlight=False)

    with console.status(f"{here.name} pulls {image}"):
        done = asyncio.run(stream(here.store.pull_argv(image), on_text=show))
    if why := here.store.pull_problem(done.returncode, f"{done.stdout}{done.stderr}"):
        raise FarkernelError(
            f"{here.name} could not pull {image}.", said=why, hint="`farkernel images list` shows what there is."
        )
    console.print(f"{image} can be used now.", markup=False, highlight=False)


@app.command("check")
def check_command(
    image: Image,
    runtime: Runtime = None,
    command: Annotated[str, typer.Option(metavar="C", help="The kernel's command.")] = "python3",
) -> None:
    """Look into an image, on this host: is the kernel's command there; which Python, which ipykernel."""
    from farkernel.provisioners.cli.check_image import check_image  # noqa: PLC0415
    from farkernel.provisioners.cli.findings import Level, as_table  # noqa: PLC0415

    findings = asyncio.run(check_image(_container(_here(runtime)[0], image), command))
    Console().print(as_table(findings))
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


def _here(runtime: str | None) -> list[_Here]:
    from farkernel.provisioners.containers.registry import find_runtime, runtime_names  # noqa: PLC0415

    names = [runtime] if runtime else sorted(runtime_names(), key=lambda name: (name != "shifter", name))
    found = [(name, find_runtime(name, source="--runtime")) for name in names]
    known = [_Here(name, container, container.images) for name, container in found if container.images]
    here = [one for one in known if shutil.which(one.store.program)]
    if not here:
        programs = " or ".join(one.store.program for one in known)
        raise FarkernelError(
            f"There is no {programs} on this host." if programs else f"farkernel knows no images of {runtime}.",
            hint="Load the site's module for containers, or try a login node.",
        )
    return here


def _container(here: _Here, image: str) -> Container:
    """Return the image's container, after what the runtime has to say of its name."""
    from farkernel.provisioners.containers.registry import container_of  # noqa: PLC0415
    from farkernel.provisioners.request import parse_request  # noqa: PLC0415

    request = parse_request({"container": {"runtime": here.name, "image": image}}, source="IMAGE")
    return container_of(request, source="IMAGE")


async def _list(store: ImageStore) -> list[ImageEntry]:
    from farkernel.provisioners.process import run  # noqa: PLC0415

    try:
        done = await run(store.list_argv(), timeout=_LIST_TIMEOUT)
    except TimeoutError as error:
        raise FarkernelError(f"{error}.", hint="Try again later.") from error
    if why := store.list_problem(done.returncode, f"{done.stdout}{done.stderr}"):
        raise FarkernelError(why)
    return store.parse_list(done.stdout)
