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
from farkernel.provisioners.errors import (
    CannotListen,
    FarkernelError,
    ImportFailed,
    JobFailed,
    LauncherFailed,
    NodeUnreachable,
    PythonMissing,
)
from farkernel.provisioners.image_failures import image_failure
from farkernel.provisioners.places import unusable
from farkernel.provisioners.refusals import explain_refusal, slurm_words

_IMPORT = re.compile(r"(farkernel-bootstrap: old python|no pyzmq): (.*)")
_PLACE = re.compile(r"cannot use the directory (/[^:]*): (.*)")
_LISTEN = re.compile(r"cannot listen on the node: (.*)")
_CUT_OFF = re.compile(r"cannot connect to the login side: (.*)")
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
    if listening := _LISTEN.search(text):
        return cannot_listen(node or "the node", listening[1])
    if cut_off := _CUT_OFF.search(text):
        return unreachable(node or "the node", cut_off[1], from_node=True)
    said = slurm_words(text).replace(_BOOTSTRAP, "")
    return LauncherFailed(
        f"The launcher did not come up {where}.", said=said, hint="`farkernel doctor --on-node` tries it alone."
    )


def cannot_listen(host: str, words: str) -> CannotListen:
    """Return the error of a host without a port or a network interface for the link.

    :param words: the system's
    """
    return CannotListen(
        f"farkernel cannot listen on {host} for the connection between the kernel and the login node.",
        said=words,
        hint="Name an interface that exists there in launcher.interface of the kernelspec, and more ports in "
        "launcher.ports.",
    )


def unreachable(node: str, tried: str, *, from_node: bool, host: str = "this host") -> NodeUnreachable:
    """Return the error of a launcher and a login side that cannot come together.

    :param tried: addresses, and why they do not answer
    :param from_node: it is the launcher that was to connect
    :param host: the one that was to connect otherwise
    """
    if from_node:
        what = f'The launcher runs on {node}, and it cannot connect to this host (launcher.connect is "login").'
        otherwise = '"node" in launcher.connect, with which this host connects to the node'
    else:
        what = f'The launcher runs on {node}, and {host} cannot connect to it (launcher.connect is "node").'
        otherwise = '"login" in launcher.connect, with which the node connects to this host'
    return NodeUnreachable(
        what,
        said=f"Tried {tried}",
        hint="Name the network that both share in launcher.interface of the kernelspec, or the ports that are open in "
        f"launcher.ports; or try {otherwise}. `farkernel doctor --on-node` says what works.",
    )


def refusal(text: str, returncode: int, *, kernel: str, kernelspec: str, container: Container) -> FarkernelError:
    """Say why Slurm does not take a job: Shifter's plugin may have refused its image.

    :param text: what srun has printed
    """
    about_image = image_failure(container, returncode, slurm_words(text), kernel=kernel, kernelspec=kernelspec)
    return about_image or explain_refusal(text, returncode, kernel=kernel)


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
        return refusal(text, returncode, kernel=kernel, kernelspec=kernelspec, container=container)
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
