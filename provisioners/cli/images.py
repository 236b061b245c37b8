"""`farkernel images`: the images that the user may run here; fetch one, look into one."""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farkernel.provisioners.errors import FarkernelError

if TYPE_CHECKING:
    from farkernel.provisioners.cli.runtimes import Here
    from farkernel.provisioners.containers.base import ImageEntry

app = typer.Typer(help="The images that kernels can run in.", no_args_is_help=True)

_WIDE = 10_000

_NAME = typer.Argument(metavar="IMAGE", help="Its name, as the runtime knows it.")
_RUNTIME = typer.Option(metavar="R", help="The container runtime; by default one that is here, Shifter first.")
_RUNTIME_OF_IMAGE = typer.Option(metavar="R", help="The container runtime; by default the one that lists the image.")


@app.command("list")
def list_command(
    runtime: Annotated[str | None, _RUNTIME] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the images that you may run."""
    from farkernel.provisioners.cli.runtimes import images_of, runtimes_here  # noqa: PLC0415  (late, see app.py)

    rows: list[tuple[str, ImageEntry]] = []
    failed = []
    here = runtimes_here(runtime)
    for one in here:
        try:
            rows += [(one.name, entry) for entry in asyncio.run(images_of(one))]
        except FarkernelError as error:
            failed.append(f"{one.name}: {error}")
    if as_json:
        typer.echo(json.dumps([{"runtime": name, **asdict(entry)} for name, entry in rows], indent=2))
    elif rows:
        _show(rows)
    elif not failed:
        typer.echo("There are no images.")
    for text in failed:
        Console(stderr=True, soft_wrap=True).print(Text(text, style="yellow"))
    if len(failed) == len(here):
        raise typer.Exit(1)


@app.command("pull")
def pull_command(image: Annotated[str, _NAME], runtime: Annotated[str | None, _RUNTIME] = None) -> None:
    """Fetch an image."""
    from farkernel.provisioners.cli.runtimes import runtimes_here  # noqa: PLC0415
    from farkernel.provisioners.containers.registry import container_of  # noqa: PLC0415
    from farkernel.provisioners.request import parse_request  # noqa: PLC0415

    here = runtimes_here(runtime)[0]
    container = {"runtime": here.name, "image": image}
    container_of(parse_request({"container": container}, source="IMAGE"), source="IMAGE")
    if why := here.store.not_pullable(image):
        raise FarkernelError(
            f"{image}: {why}.", hint="Pull it by its name; `farkernel images list` shows what there is."
        )
    why = asyncio.run(_pull(here, image))
    if why:
        raise FarkernelError(
            f"{here.name} could not pull {image}.",
            said=why,
            hint="`farkernel images list` shows what there is.",
        )
    Console(soft_wrap=True).print(Text(f"{image} can be used now."))


@app.command("check")
def check_command(
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="Its name, as the runtime knows it; --kernel has one too.")
    ] = None,
    runtime: Annotated[str | None, _RUNTIME_OF_IMAGE] = None,
    kernel: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A kernelspec: its command, image, volumes, modules and variables."),
    ] = None,
    command: Annotated[str | None, typer.Option(metavar="C", help="The kernel's command; python3 by default.")] = None,
    on_node: Annotated[
        bool, typer.Option("--on-node", help="On a compute node, in a short job with the kernelspec's slurm keys.")
    ] = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="How long --on-node waits for its job.")] = 120,
) -> None:
    """Look into an image: is the kernel's command there; which Python, which ipykernel. Ends with 1 if one lacks."""
    from farkernel.provisioners.cli.check_image import check_image, wanted  # noqa: PLC0415
    from farkernel.provisioners.cli.findings import Level, as_table  # noqa: PLC0415

    if image is None and kernel is None:
        raise typer.BadParameter("name an IMAGE, or a kernelspec by --kernel.")
    what = wanted(image, runtime=runtime, kernel=kernel, command=command)
    findings = asyncio.run(check_image(what, wait=wait if on_node else None))
    Console().print(as_table(findings))
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


def _show(rows: "list[tuple[str, ImageEntry]]") -> None:
    table = Table("runtime")
    for title in ("image", "id", "size", "pulled"):
        table.add_column(title, overflow="fold")
    for name, entry in rows:
        table.add_row(*map(Text, (name, entry.name, entry.identity, entry.size, entry.pulled)))
    console = Console()
    # what is read by a program is not to be cut off, or broken into lines
    (console if console.is_terminal else Console(width=_WIDE)).print(table)


async def _pull(here: "Here", image: str) -> str:
    """Fetch an image and tell how it goes: on a terminal in one line, else in one for each news; return the problem."""
    from farkernel.provisioners.cli.runtimes import last_lines, plain  # noqa: PLC0415
    from farkernel.provisioners.process import stream  # noqa: PLC0415

    console = Console(soft_wrap=True)
    told = ""

    def tell(line: str) -> None:
        nonlocal told
        news = here.store.parse_progress(plain(line))
        if not news or news == told:
            return
        told = news
        if console.is_terminal:
            status.update(Text(f"{image}: {news}"))
        else:
            console.print(Text(f"{image}: {news}"))

    with console.status(Text(f"{here.name} pulls {image}")) as status:
        done = await stream(here.store.pull_argv(image), on_line=tell)
    return last_lines(here.store.pull_problem(done.returncode, f"{done.stdout}{done.stderr}"))
