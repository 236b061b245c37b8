"""Whether what a kernelspec names is on this host. The nodes may have what this host lacks: most of it is a warning."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from farkernel.kernelspecs.flaws import CONFIG, Flaw, problem, warning
from farkernel.provisioners.containers.base import NODES_OWN, Volume, within
from farkernel.provisioners.kinds import BurstBufferFile
from farkernel.provisioners.request import Request

_NODES = "See that the nodes have it, or correct the path."


def path_flaws(request: Request, argv: Sequence[str], *, local: bool) -> Iterator[Flaw]:
    """Look for what a valid kernelspec names.

    :param argv: the kernel's command
    :param local: its kernels run on this host
    """
    if request.login is not None:  # all of it is on another host
        return
    yield from _command(request, argv, local=local)
    program, hook = request.launcher.python, request.job.walltime_hook[:1]
    for key, path in (("launcher.python", program), ("job.walltime_hook", hook[0] if hook else None)):
        if path and path.startswith("/") and shutil.which(path) is None:
            yield _missing(key, f"{path} is no program on this host", local=local)
    for key, path in (("kernel.cwd", request.kernel.cwd), ("launcher.directory", request.launcher.directory)):
        if path and not _on_node_only(path) and not Path(path).is_dir():
            yield _missing(key, f"{path} is no directory on this host", local=local)
    for number, volume in enumerate(map(Volume.parse, request.container.volumes)):
        if not (
            _on_node_only(volume.source) or volume.flags.startswith("perNodeCache") or Path(volume.source).exists()
        ):
            yield _missing(f"container.volumes.{number}", f"{volume.source} does not exist on this host", local=local)
    burst = request.slurm.burst_buffer
    if isinstance(burst, BurstBufferFile) and not Path(burst.file).is_file():
        found = f"{burst.file} is no file on this host, where srun reads it"
        yield problem((*CONFIG, "slurm", "burst_buffer"), found, "Write the file, or correct its path.")


def _missing(key: str, found: str, *, local: bool) -> Flaw:
    path = (*CONFIG, *(int(part) if part.isdigit() else part for part in key.split(".")))
    return problem(path, found, "Correct the path.") if local else warning(path, found, _NODES)


def _on_node_only(path: str) -> bool:
    return any(within(path, place) for place in NODES_OWN)


def _command(request: Request, argv: Sequence[str], *, local: bool) -> Iterator[Flaw]:
    program = argv[0]
    path = ("argv", 0)
    if "{" in program:  # Jupyter's own places, such as {prefix}
        return
    here = shutil.which(program) is not None
    if request.container.runtime != "none":
        if program.startswith("/") and not any(within(program, place) for place in ("/bin", "/usr/bin")):
            found = f"{program} is a path of {'this host' if here else 'a host'}, and the kernel runs in an image"
            advice = (
                "Write a program of the image, such as python3; `farkernel images check` looks whether it is there."
            )
            yield warning(path, found, advice)
    elif program.startswith("/"):
        if not here:
            found = f"{program} is no program on this host"
            yield problem(path, found, "Correct the path.") if local else warning(path, found, _NODES)
    elif not local and not request.kernel.modules:
        found = f"{program} is whatever PATH leads to on the node"
        advice = "Write the absolute path of the one that has the kernel, or load it by kernel.modules."
        yield warning(path, found, advice)
