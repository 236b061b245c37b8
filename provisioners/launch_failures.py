"""Why a launcher did not come up, from what srun and the launcher's bootstrap have printed. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence

from farkernel.provisioners import states
from farkernel.provisioners.commands import (
    Allocated,
    CommandFailed,
    NodeFailed,
    OutOfMemory,
    Queued,
    SrunNotice,
    StepCancelled,
    Withdrawn,
)
from farkernel.provisioners.containers.base import Container
from farkernel.provisioners.errors import FarkernelError, ImportFailed, JobFailed, LauncherFailed, PythonMissing
from farkernel.provisioners.image_failures import image_failure
from farkernel.provisioners.places import unusable
from farkernel.provisioners.refusals import explain_refusal, slurm_words

_IMPORT = re.compile(r"(farkernel-bootstrap: old python|no pyzmq): (.*)")
_PLACE = re.compile(r"cannot use the directory (/[^:]*): (.*)")
_BOOTSTRAP = "farkernel-bootstrap: "


def explain(text: str, *, python: str, node: str) -> FarkernelError:
    """Say why the launcher has ended before it was up.

    :param text: what it has printed
    """
    where = f"on {node}" if node else "on the node"
    problem = _IMPORT.search(text)
    if problem:
        return ImportFailed(
            f"The launcher cannot be imported {where} by {python}.",
            said=problem[2],
            hint="It needs Python 3.11 or later with pyzmq there: name one in launcher.python of the kernelspec.",
        )
    if place := _PLACE.search(text):
        return unusable(place[1], place[2], host=node or "the node", key="launcher.directory of the kernelspec")
    said = slurm_words(text).replace(_BOOTSTRAP, "")
    return LauncherFailed(
        f"The launcher did not come up {where}.", said=said, hint="`farkernel doctor --on-node` tries it alone."
    )


def explain_srun(
    text: str,
    notices: Sequence[SrunNotice],
    *,
    returncode: int,
    kernel: str,
    kernelspec: str,
    container: Container,
    python: str,
    node: str,
) -> FarkernelError:
    """Say why srun has ended before the launcher was up.

    :param text: what it and the launcher have printed
    :param notices: what was understood of it
    """
    queued = next((notice for notice in notices if isinstance(notice, Queued)), None)
    if not any(isinstance(notice, Allocated) for notice in notices):
        if queued and any(isinstance(notice, Withdrawn) for notice in notices):
            return JobFailed(
                f'Slurm job {queued.job_id} of kernel "{kernel}" was cancelled while it waited in the queue.',
                said=slurm_words(text),
                hint="Start the kernel again if it was not you who cancelled it.",
            )
        if queued and returncode < 0:
            name = states.signal_name(-returncode)
            return JobFailed(
                f'Slurm job {queued.job_id} of kernel "{kernel}" was withdrawn: its srun was killed ({name}).',
                hint="Start the kernel again.",
            )
        said = slurm_words(text)
        about_image = image_failure(container, returncode, said, kernel=kernel, kernelspec=kernelspec)
        return about_image or explain_refusal(text, returncode, kernel=kernel)
    for notice in notices:
        error = _on_the_node(notice, python)
        if error:
            return error
    return explain(text, python=python, node=node)


def _on_the_node(notice: SrunNotice, python: str) -> FarkernelError | None:
    again = "Start the kernel again."
    if isinstance(notice, CommandFailed):
        return PythonMissing(
            f"The launcher's Python {python} cannot be run on {notice.node}.",
            said=notice.why,
            hint="Name a Python that exists on the compute nodes in launcher.python of the kernelspec.",
        )
    if isinstance(notice, StepCancelled):
        cause = f" ({notice.cause})" if notice.cause else ""
        return JobFailed(f"Slurm job {notice.job_id} was cancelled before the launcher was up{cause}.", hint=again)
    if isinstance(notice, NodeFailed):
        return JobFailed(f"Node {notice.nodes} failed before the launcher was up.", hint=again)
    if isinstance(notice, OutOfMemory):
        return JobFailed(
            f"Slurm job {notice.job_id} had too little memory even for the launcher.",
            hint="Ask for more in slurm.mem of the kernelspec.",
        )
    return None
