"""What the simulated site consists of, and what a test may do to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from subprocess import CompletedProcess
from typing import Protocol

CHECKOUT = Path(__file__).resolve().parents[2]
PATH = "/usr/local/bin:/usr/bin:/bin"


class Role(StrEnum):
    CONTROLLER = "controller"
    LOGIN = "login"
    COMPUTE = "compute"
    LAPTOP = "laptop"


@dataclass(frozen=True)
class HostSpec:
    name: str
    address: str
    role: Role


HOSTS = {
    spec.name: spec
    for spec in (
        HostSpec("ctl", "10.99.0.2", Role.CONTROLLER),
        HostSpec("cori01", "10.99.0.10", Role.LOGIN),
        HostSpec("cori02", "10.99.0.11", Role.LOGIN),
        HostSpec("nid00001", "10.99.0.21", Role.COMPUTE),
        HostSpec("nid00002", "10.99.0.22", Role.COMPUTE),
        HostSpec("nid02301", "10.99.0.31", Role.COMPUTE),
        HostSpec("nid02302", "10.99.0.32", Role.COMPUTE),
        HostSpec("laptop", "10.99.0.100", Role.LAPTOP),
    )
}
CONTROLLER = "ctl"
LOGIN = "cori01"
"""Where the tests run; the other login node is for what they could not do to themselves."""

# They exist in the hosts' own /etc only. carol has no Slurm association.
USERS = {"alice": 20001, "bob": 20002, "carol": 20003}


class ClusterError(Exception):
    """Something about the cluster itself went wrong: not what a test is about."""


class UnavailableError(ClusterError):
    """There can be no cluster on this machine."""


class Site(Protocol):
    """What tests may do: the cluster itself offers it, and its client inside the login node."""

    @property
    def hosts(self) -> tuple[str, ...]: ...

    def run(
        self,
        host: str,
        user: str,
        argv: Sequence[str],
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> CompletedProcess[str]:
        """Run a command to its end as a user (also root) in the user's home on a host."""
        ...

    def power_off(self, host: str) -> None:
        """Take the power away: every process of the host is gone at once."""
        ...

    def power_on(self, host: str) -> None:
        """Boot the host and wait until its daemons run."""
        ...

    def cable(self, host: str, up: bool) -> None:
        """Plug the network cable in, or pull it."""
        ...

    def suspend(self, host: str) -> None:
        """Stop every process of the host, as a laptop's closed lid does."""
        ...

    def resume(self, host: str) -> None:
        """Let a suspended host go on."""
        ...

    def idle(self, timeout: float = 120) -> None:
        """Wait until there is no job and every node is idle."""
        ...

    def leftovers(self) -> list[str]:
        """What is not as it was when the cluster came up: jobs, processes, nodes; one line for each."""
        ...

    def clean(self) -> None:
        """Remove the leftovers and wait until the cluster is idle."""
        ...
