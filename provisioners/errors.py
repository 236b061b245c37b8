"""Every failure that farkernel names.

FarkernelError
├── RequestError            the kernelspec asks for something that is not valid
│   ├── TemplateNotFound    it extends a job template that is not there
│   └── VariableNotValid    a variable of srun's, which counts under the site's policy, is not valid
├── ChoiceRefused           a start chooses something that its kernelspec does not leave open
├── PolicyRefused           the site's policy does not allow what a kernel asks for
├── PolicyUnusable          the site's policy is there, and cannot be read or trusted
├── JupyterTooOld           jupyter_client is older than what farkernel's provisioners are made for
├── NotImpersonated         Enterprise Gateway is to start a kernel as somebody else
├── DirectoryUnusable       a directory on the login node or on the compute node is full, or not there
├── CommandMissing          a program of Slurm is not on the login node
├── CommandRefused          it is there, and the system does not start it: its environment may be too large
├── LoginFailed             there is no ssh connection to the login node, or it does not do what is needed
│   ├── HostNotFound        no such host
│   ├── HostKeyUnknown      nobody has said yet that this is the host
│   ├── HostKeyChanged      it is another host than it was, or somebody in between
│   ├── LoginDenied         it does not let the user in
│   ├── LoginLost           the connection was lost, and is not back yet
│   └── ForwardingRefused   it lets the user in, and carries no connections
├── SubmissionRefused       Slurm refused the job at once
├── JobFailed               the job ended, or was cancelled, before the kernel was up
│   └── QueueTimeout        it waited longer than `job.max_wait`
├── LauncherFailed          the launcher did not come up on the node
│   ├── PythonMissing       `launcher.python` does not exist there
│   └── ImportFailed        it exists, and lacks pyzmq or is too old
├── CannotListen            the side that is to listen has no port, or no such network interface
├── NodeUnreachable         login side and launcher cannot connect
├── JobEnded                the job ended under a kernel that was up
├── NodeLost                nothing was heard from the node for longer than `job.orphan_timeout`
├── StartCancelled          the kernel was stopped, or started anew, before it was up
├── KernelNotFound          no kernel is what the user means, or several are
├── GatewayUnusable         `farkernel gateway` cannot run like this
│   └── GatewayElsewhere    it is on another login node than the one that ssh leads to now
├── ConnectFailed           `farkernel connect` cannot do what it is asked for on this machine
├── ContainerFailed         the kernel's image cannot be had, or lacks what the kernel needs
└── KernelFailed            the kernel did not come up
    └── KernelCommandMissing    its command does not exist on the node
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class FarkernelError(Exception):
    """A failure that has a name.

    Its text is what JupyterLab shows in the "Error Starting Kernel" dialog, verbatim.

    :param what: one sentence: what failed, and where
    :param said: the words of the program that refused, as it printed them
    :param hint: one sentence: what to do
    """

    def __init__(self, what: str, *, said: str = "", hint: str = "") -> None:
        self.what = what
        self.said = said.strip()
        self.hint = hint
        super().__init__("\n".join(part for part in (what, self.said, hint) if part))


class RequestError(FarkernelError):
    """The kernelspec asks for something that is not valid."""


class TemplateNotFound(RequestError):
    """The kernelspec extends a job template that is not there."""


class VariableNotValid(RequestError):
    """Variables of srun's in the environment are not valid; under a site's policy they count as a request's keys.

    :param flaws: what is wrong with each: its value, as JSON has it, the key, what is expected
    """

    def __init__(self, flaws: Mapping[str, tuple[str, str]]) -> None:
        self.flaws = flaws
        super().__init__(
            "\n".join(f"{name}={value}: {what}" for name, (value, what) in flaws.items()),
            hint="Unset it, or correct it: where the site has a policy srun's variables count as a kernelspec's keys.",
        )


class ChoiceRefused(FarkernelError):
    """A start chooses, by a variable KERNEL_..., something that its kernelspec does not leave open."""


@dataclass(frozen=True)
class Refusal:
    """One thing that a rule of the site's policy does not allow; its text is the line that a user reads.

    :param key: of the request, such as `slurm.qos`
    :param text: what is asked for, and the rule
    :param source: where the key comes from; empty if nothing gives it
    :param words: of `slurm.extra_args`, where a key's rule is about an option there
    :param missing: the key has to be given
    """

    key: str
    text: str
    source: str = ""
    words: str = ""
    missing: bool = False

    def __str__(self) -> str:
        source = f" (from {self.source})" if self.source else ""
        words = f', "{self.words}"' if self.words else ""
        return f"{self.key}{source}{words}: {self.text}"


class PolicyRefused(FarkernelError):
    """The site's policy does not allow what a kernel asks for.

    :param refusals: what of a request it does not allow; empty if it is something else
    """

    def __init__(self, what: str, *, said: str = "", hint: str = "", refusals: Iterable[Refusal] = ()) -> None:
        self.refusals = tuple(refusals)
        super().__init__(what, said=said, hint=hint)


class PolicyUnusable(FarkernelError):
    """The site's policy is there, and cannot be read or trusted: no kernel starts."""


class JupyterTooOld(FarkernelError):
    """jupyter_client is older than what farkernel's provisioners are made for."""


class NotImpersonated(FarkernelError):
    """Enterprise Gateway is to start a kernel as somebody else than the user who runs it."""


class DirectoryUnusable(FarkernelError):
    """A directory that farkernel needs, on the login node or on the compute node, is full, or not there."""


class CommandMissing(FarkernelError):
    """A program of Slurm is not on the login node."""


class CommandRefused(FarkernelError):
    """The system does not start a program, such as one whose environment is too large."""


class LoginFailed(FarkernelError):
    """There is no ssh connection to the login node, or it does not do what is needed."""


class HostNotFound(LoginFailed):
    """The login node's name leads nowhere."""


class HostKeyUnknown(LoginFailed):
    """The login node's key is in no known_hosts: nobody has said yet that this is the host."""


class HostKeyChanged(LoginFailed):
    """The login node has another key than known_hosts says."""


class LoginDenied(LoginFailed):
    """The login node does not let the user in."""


class LoginLost(LoginFailed):
    """The ssh connection was lost, and is not back yet."""


class ForwardingRefused(LoginFailed):
    """The login node carries no connections to where we need them."""


class SubmissionRefused(FarkernelError):
    """Slurm refused the job at once."""


class JobFailed(FarkernelError):
    """The job ended, or was cancelled, before the kernel was up."""


class QueueTimeout(JobFailed):
    """The job waited longer than `job.max_wait`."""


class LauncherFailed(FarkernelError):
    """The launcher did not come up on the node."""


class PythonMissing(LauncherFailed):
    """The launcher's Python does not exist on the node."""


class ImportFailed(LauncherFailed):
    """The launcher's Python lacks pyzmq, or is too old."""


class CannotListen(FarkernelError):
    """The side that is to listen has no free port in its range, or no such network interface."""


class NodeUnreachable(FarkernelError):
    """The login side cannot connect to the launcher, or the launcher to the login side: whichever is to."""


class JobEnded(FarkernelError):
    """The job ended under a kernel that was up."""


class NodeLost(FarkernelError):
    """Nothing was heard from the kernel's node for longer than `job.orphan_timeout`."""


class StartCancelled(FarkernelError):
    """The kernel was stopped, or started anew, by somebody else before it was up."""


class KernelNotFound(FarkernelError):
    """No kernel is what the user means, or several are."""


class ContainerFailed(FarkernelError):
    """The kernel's image cannot be had, or lacks what the kernel needs."""


class KernelFailed(FarkernelError):
    """The kernel did not come up."""


class KernelCommandMissing(KernelFailed):
    """The kernel's command does not exist on the node."""


class GatewayUnusable(FarkernelError):
    """`farkernel gateway` cannot run like this, or the one that is there cannot be used."""


class GatewayElsewhere(GatewayUnusable):
    """The gateway is on another login node than the one that ssh leads to now."""


class ConnectFailed(FarkernelError):
    """`farkernel connect` cannot do what it is asked for on this machine."""
