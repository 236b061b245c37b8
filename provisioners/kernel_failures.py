"""Why a kernel did not come up, or has ended, in words. No I/O."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Sequence

from farkernel.launcher.protocol import KernelEnded, KernelRefused
from farkernel.provisioners import states
from farkernel.provisioners.errors import DirectoryUnusable, KernelCommandMissing, KernelFailed
from farkernel.provisioners.kernel_command import MODULES_FAILED
from farkernel.provisioners.places import NO_ROOM, unusable

COMMAND_NOT_FOUND = 127
"""The exit code of shells and container runtimes for a command that they do not find."""

_ABOUT_SOCKETS = re.compile(
    r"\b(ipc|zmq|zeromq|transport|protocol|socket|endpoint|bind|address|invalid argument|not supported)", re.IGNORECASE
)


def how(event: KernelEnded) -> str:
    """Say how a process has ended."""
    if event.out_of_memory:
        return "out of memory: killed by the node's memory limit"
    if event.exit_code < 0:
        name = states.signal_name(-event.exit_code)
        return name if name.startswith("signal") else f"signal {name}"
    return f"exit code {event.exit_code}"


def signal_of(event: KernelEnded) -> int:
    """Return the signal that has ended the kernel, 0 for none; a shell in between makes 128 + n of it."""
    if event.exit_code in {128 + signal.SIGTERM, 128 + signal.SIGKILL}:
        return event.exit_code - 128
    return max(0, -event.exit_code)


def death(event: KernelEnded, node: str) -> str:
    """Say that a kernel that was up has ended, with the last that it wrote."""
    sentence = f"The kernel on {node} has ended ({how(event)})."
    return f"{sentence}\n{event.stderr}" if event.stderr else sentence


def may_lack_ipc(event: KernelEnded) -> bool:
    """Whether a kernel that has ended at once may be one that cannot use unix sockets."""
    if event.exit_code in {COMMAND_NOT_FOUND, MODULES_FAILED}:
        return False
    crashed = event.exit_code in {-signal.SIGABRT, -signal.SIGSEGV}  # as C++ does with an exception that nobody expects
    return crashed or not event.stderr or _ABOUT_SOCKETS.search(event.stderr) is not None


def without_ipc(event: KernelEnded, node: str) -> str:
    """Say that a kernel that may lack unix sockets gets another start."""
    return (
        f"The kernel has ended at once on {node} ({how(event)}); it is started again with TCP on the node's loopback."
    )


def early_end(event: KernelEnded, argv: Sequence[str], kernel: str, node: str, *, shared: bool) -> KernelFailed:
    """Return the error of a kernel that has ended before it answered.

    :param shared: whether TCP was not tried because the node may have other users
    """
    if event.exit_code == COMMAND_NOT_FOUND:
        return _command_missing(argv[0], event.stderr, kernel, node)
    if full := NO_ROOM.search(event.stderr):
        said = next(line for line in event.stderr.splitlines() if full[0] in line)
        return KernelFailed(
            f'Kernel "{kernel}" found no room on {node} for {full["path"] or "its files"}.',
            said=said,
            hint="Remove what is not needed there: your home may be full, or your quota used up.",
        )
    if event.exit_code == MODULES_FAILED:
        return KernelFailed(
            f'The environment modules of kernel "{kernel}" cannot be loaded on {node}.',
            said=event.stderr,
            hint="`module avail` lists what there is; correct kernel.modules in the kernelspec.",
        )
    hint = f"Try its command on a compute node by hand: {' '.join(argv)}"
    if shared:
        hint = (
            "If it cannot use unix sockets: give it a node of its own (slurm.exclusive), or ask for kernel.transport "
            "tcp by name, with which every user of the node can read its output."
        )
    what = f'Kernel "{kernel}" ended on {node} before it answered ({how(event)}).'
    return KernelFailed(what, said=event.stderr, hint=hint)


def refused(
    event: KernelRefused, cwd: Sequence[str], kernel: str, node: str, *, directory: str
) -> KernelFailed | DirectoryUnusable:
    """Return the error of a kernel whose process could not be started.

    :param directory: in which the launcher makes its own
    """
    if event.errno in {errno.ENOSPC, errno.EDQUOT}:
        return unusable(directory, event.reason, host=node, key="launcher.directory of the kernelspec")
    if event.path in cwd:
        return KernelFailed(
            f'Kernel "{kernel}" cannot be started on {node} in the directory {event.path}',
            said=event.reason,
            hint="Correct kernel.cwd in the kernelspec.",
        )
    if event.errno in {errno.ENOENT, errno.EACCES, errno.ENOEXEC}:
        return _command_missing(event.path, event.reason, kernel, node)
    return KernelFailed(f'Kernel "{kernel}" cannot be started on {node}: {event.path}', said=event.reason)


def silent(kernel: str, node: str, waited: float) -> KernelFailed:
    """Return the error of a kernel whose process runs and does not answer."""
    return KernelFailed(
        f'Kernel "{kernel}" did not answer within {states.span(waited)} after its start on {node}.',
        hint="See the server's log for what it wrote, or raise launcher.start_timeout in the kernelspec.",
    )


def _command_missing(command: str, said: str, kernel: str, node: str) -> KernelCommandMissing:
    return KernelCommandMissing(
        f'The command of kernel "{kernel}" cannot be run on {node}: {command}',
        said=said,
        hint="Correct argv in the kernelspec, or load the modules that bring the command by kernel.modules.",
    )
