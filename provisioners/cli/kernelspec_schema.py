"""`farkernel kernelspec schema`."""

import json
from typing import Annotated

import typer


def schema(
    config_only: Annotated[
        bool, typer.Option("--config-only", help="Of metadata.kernel_provisioner.config alone.")
    ] = False,
) -> None:
    """Print the JSON Schema of a kernel.json, for editors that complete and check it."""
    from farkernel.kernelspecs.model import kernelspec_schema  # noqa: PLC0415 (imports late, see app.py)
    from farkernel.provisioners.request import request_schema  # noqa: PLC0415

    typer.echo(json.dumps(request_schema() if config_only else kernelspec_schema(), indent=2))
