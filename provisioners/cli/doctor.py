"""`farkernel doctor`: look at what kernels need here, and say what to do about what is missing."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from farkernel.provisioners.cli.findings import Finding, Level, as_table


def doctor(
    on_node: Annotated[
        bool, typer.Option("--on-node", help="Try the launcher's Python on a compute node, in a short job.")
    ] = False,
    kernel: Annotated[
        str | None, typer.Option("--kernel", metavar="NAME", help="Look at this kernelspec alone.")
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long --on-node waits for each job.")
    ] = 120.0,
) -> None:
    """Check what kernels need here. Ends with 1 if there is a problem."""
    findings = asyncio.run(_examine(on_node=on_node, kernel=kernel, wait=wait))
    Console().print(as_table(findings))
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


async def _examine(*, on_node: bool, kernel: str | None, wait: float) -> list[Finding]:
    # These load Jupyter, zmq and pydantic.
    from farkernel.kernelspecs.install import find_installed, installed  # noqa: PLC0415
    from farkernel.provisioners.cli.check_container import check_containers  # noqa: PLC0415
    from farkernel.provisioners.cli.check_host import check_host  # noqa: PLC0415
    from farkernel.provisioners.cli.check_jupyter import check_jupyter  # noqa: PLC0415
    from farkernel.provisioners.cli.check_launcher import check_here, check_on_node  # noqa: PLC0415
    from farkernel.provisioners.cli.check_slurm import check_slurm  # noqa: PLC0415

    specs = installed() if kernel is None else [find_installed(kernel)]
    launcher = check_on_node(specs, wait=wait) if on_node else check_here(specs)
    slurm_findings, launcher_findings = await asyncio.gather(check_slurm(), launcher)
    return [*slurm_findings, *check_host(), *check_jupyter(specs), *check_containers(specs), *launcher_findings]
