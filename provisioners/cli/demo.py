"""`farkernel demo`: the main job from end to end, shown step by step."""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from farkernel.provisioners.errors import FarkernelError

NAME = "farkernel-demo"

CELLS = (
    "import os, socket\nprint(socket.gethostname())",
    "print(len(os.sched_getaffinity(0)), 'CPUs')",
    "sum(range(10**6))",
)
EXPECTED = "499999500000"


def demo(
    account: Annotated[str | None, typer.Option(help="slurm.account of the job.")] = None,
    qos: Annotated[str | None, typer.Option(help="slurm.qos of the job.")] = None,
    partition: Annotated[str | None, typer.Option(help="slurm.partition of the job.")] = None,
    constraint: Annotated[str | None, typer.Option(help="slurm.constraint of the job.")] = None,
    time_limit: Annotated[str, typer.Option("--time", help="slurm.time of the job.")] = "5",
    python: Annotated[str, typer.Option(help="Python on the node, with ipykernel and pyzmq.")] = sys.executable,
    local: Annotated[bool, typer.Option("--local", help="On this machine, also where there is a Slurm.")] = False,
) -> None:
    """Start a kernel (through Slurm where there is one), run a small notebook on it, show each step with its time."""
    slurm = {"account": account, "qos": qos, "partition": partition, "constraint": constraint, "time": time_limit}
    asyncio.run(_demo({key: value for key, value in slurm.items() if value is not None}, python, local))


async def _demo(slurm: dict[str, str], python: str, local: bool) -> None:
    from farkernel.provisioners.cli.check_slurm import slurm_answers  # noqa: PLC0415 (imports late, see app.py)

    console = Console()
    through_slurm = not local and await slurm_answers()
    provisioner, config = ("farkernel-slurm", {"slurm": slurm}) if through_slurm else ("farkernel-local", {})
    console.print(f"A kernel through [bold]{provisioner}[/bold]", highlight=False)
    config["launcher"] = {"python": python}
    with tempfile.TemporaryDirectory(prefix=f"{NAME}-") as folder:
        _write_kernelspec(Path(folder, NAME), provisioner, config, python)
        await _run(console, folder)


def _write_kernelspec(folder: Path, provisioner: str, config: dict[str, Any], python: str) -> None:
    spec = {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "farkernel demo",
        "language": "python",
        "metadata": {"kernel_provisioner": {"provisioner_name": provisioner, "config": config}},
    }
    folder.mkdir()
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


async def _run(console: Console, kernels: str) -> None:
    from jupyter_client.kernelspec import KernelSpecManager  # noqa: PLC0415
    from jupyter_client.manager import AsyncKernelManager  # noqa: PLC0415

    manager = AsyncKernelManager(
        kernel_name=NAME, kernel_spec_manager=KernelSpecManager(kernel_dirs=[kernels], ensure_native_kernel=False)
    )
    await manager.start_kernel()
    try:
        session = manager.provisioner.session  # type: ignore[union-attr]
        first_result, outputs = await _execute(manager)
        _show(console, session, first_result, outputs)
    finally:
        began = time.monotonic()
        await manager.shutdown_kernel()
        console.print(f"  shutdown      {time.monotonic() - began:6.2f} s", highlight=False)
    if outputs[-1] != EXPECTED:
        raise FarkernelError(f"The notebook's last cell gave {outputs[-1]!r} instead of {EXPECTED}.")
    console.print("[green]The notebook ran as if the kernel were local.[/green]")


async def _execute(manager: Any) -> tuple[float, list[str]]:
    """Run the notebook; return when its first result was there, and what each cell gave."""
    try:
        import nbformat  # noqa: PLC0415
        from nbclient import NotebookClient  # noqa: PLC0415
    except ImportError as error:
        raise FarkernelError(
            f"The demo runs a notebook, and {error.name} is not installed.", hint="pip install 'farkernel[demo]'"
        ) from error
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    arrived: list[float] = []

    def note(**_: Any) -> None:
        arrived.append(time.monotonic())

    await NotebookClient(notebook, km=manager, on_cell_executed=note).async_execute(reset_kc=True)
    return arrived[0], [_text(cell.outputs) for cell in notebook.cells]


def _text(outputs: list[Any]) -> str:
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs).strip()


def _show(console: Console, session: Any, first_result: float, outputs: list[str]) -> None:
    times = session.timeline
    job = session.job
    assert job
    where = f"Slurm job {job.status.job_id} on {session.node}" if job.status.job_id else f"on {session.node}"
    steps = {
        "queue": (times.submitted, times.allocated),
        "launcher": (times.allocated, times.launcher),
        "kernel": (times.launcher, times.kernel),
        "first result": (times.kernel, first_result),
        "in all": (times.submitted, first_result),
    }
    console.print(f"[bold]{where}[/bold]: {', '.join(outputs[:2])}", highlight=False)
    for name, (begin, end) in steps.items():
        console.print(f"  {name:13} {end - begin:6.2f} s", highlight=False)
