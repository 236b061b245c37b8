"""`farkernel doctor`: look at what kernels need here, and say what to do about what is missing."""

import asyncio
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from farkernel.provisioners.cli.findings import Finding, Level, show
from farkernel.provisioners.cli.kernelspec_places import AsJson


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
    as_json: AsJson = False,
) -> None:
    """Check what kernels need here. Ends with 1 if there is a problem."""
    findings = asyncio.run(_examine(on_node=on_node, kernel=kernel, wait=wait))
    show(findings, as_json=as_json)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


async def _examine(*, on_node: bool, kernel: str | None, wait: float) -> list[Finding]:
    # These load Jupyter, zmq and pydantic.
    from farkernel.kernelspecs.install import installed  # noqa: PLC0415
    from farkernel.provisioners.cli.check_container import check_containers  # noqa: PLC0415
    from farkernel.provisioners.cli.check_file import farkernels_files  # noqa: PLC0415
    from farkernel.provisioners.cli.check_host import check_host  # noqa: PLC0415
    from farkernel.provisioners.cli.check_jupyter import check_jupyter  # noqa: PLC0415
    from farkernel.provisioners.cli.check_launcher import check_here, check_on_node  # noqa: PLC0415
    from farkernel.provisioners.cli.check_login import all_behind_ssh, check_logins  # noqa: PLC0415
    from farkernel.provisioners.cli.check_policy import check_policy  # noqa: PLC0415
    from farkernel.provisioners.cli.check_slurm import check_slurm  # noqa: PLC0415

    specs = [spec for spec in installed() if kernel is None or spec.name == kernel.lower()]
    files = farkernels_files() if kernel is None else [_file_of(kernel)]
    launcher = check_on_node(specs, wait=wait) if on_node else check_here(specs)
    # a laptop may have Slurm's programs and nothing that answers them
    slurms = [check_logins(specs), *([] if all_behind_ssh(specs) else [check_slurm()])]
    launcher_findings, *slurm_findings = await asyncio.gather(launcher, *slurms)
    here = [*chain(*slurm_findings), *check_host(), *check_jupyter(files), *check_policy(), *check_containers(specs)]
    return [*here, *launcher_findings]


def _file_of(kernel: str) -> Path:
    """Return a kernelspec's file, also where Jupyter hides it since it cannot be used.

    :raises FarkernelError: there is none of that name
    """
    from farkernel.kernelspecs.install import find_installed  # noqa: PLC0415
    from farkernel.provisioners.cli.check_file import kernelspec_files  # noqa: PLC0415

    return kernelspec_files().get(kernel.lower()) or Path(find_installed(kernel).source)
