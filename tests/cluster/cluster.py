"""A whole cluster: brought up by entering it, gone without a trace by leaving it."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, CompletedProcess
from types import FrameType, TracebackType
from typing import Any, Self

from tests.cluster import packages
from tests.cluster.host import Host, RemoteProcess
from tests.cluster.leftovers import Process, outside, user_processes
from tests.cluster.site import CONTROLLER, HOSTS, ClusterError, Role
from tests.cluster.state import State
from tests.cluster.switch import Switch

_JOBS = ("squeue", "-h", "-o", "job %i of %u: %j %T %R")
_NODES = ("sinfo", "-h", "-N", "-p", "cori", "-o", "node %N is %T")


class Cluster:
    """The hosts of `site.HOSTS`. Needs root."""

    hosts = tuple(HOSTS)

    def __init__(self) -> None:
        # the process whose descendants are no leftovers: the one that runs the tests
        self.tests: int | None = None
        self._hosts: dict[str, Host] = {}
        self._pulled: set[str] = set()
        self._state: State | None = None
        self._switch: Switch | None = None

    def __enter__(self) -> Self:
        packages.install()
        try:
            self._up()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._down()

    @property
    def state(self) -> Path:
        """The directory that holds the hosts' files and logs."""
        assert self._state
        return self._state.path

    def root(self, host: str) -> Path:
        """The host's file system, for the machine's root."""
        return Path(f"/proc/{self._hosts[host].pid}/root")

    def namespace(self, host: str) -> Path:
        """The host's network."""
        return Path(f"/proc/{self._hosts[host].pid}/ns/net")

    def run(
        self,
        host: str,
        user: str,
        argv: Sequence[str],
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> CompletedProcess[str]:
        stdin = DEVNULL if input is None else PIPE
        with self.popen(host, user, argv, env, stdin=stdin, stdout=PIPE, stderr=PIPE) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        return CompletedProcess(list(argv), process.returncode, out, err)

    def popen(
        self,
        host: str,
        user: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> RemoteProcess:
        """Start a command on a host; `terminate` and the like reach the command and its children."""
        return self._hosts[host].popen(user, argv, env, **options)

    def power_off(self, host: str) -> None:
        self._hosts[host].power_off()

    def power_on(self, host: str) -> None:
        assert self._switch
        if not self._hosts[host].on:
            self._pulled.discard(host)
            self._hosts[host].power_on()
            self._hosts[host].plug_in(self._switch)
            self._hosts[host].wait()

    def cable(self, host: str, up: bool) -> None:
        assert self._switch
        self._switch.cable(host, up)
        (self._pulled.discard if up else self._pulled.add)(host)

    def suspend(self, host: str) -> None:
        self._hosts[host].suspend(True)

    def resume(self, host: str) -> None:
        self._hosts[host].suspend(False)

    def idle(self, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        # By itself Slurm finds a lost node that is back after up to a minute.
        for host in self._lost():
            self.run(host.spec.name, "root", ["sh", "-c", "kill -HUP $(cat /run/slurmd.pid)"])
        while busy := self._slurm():
            if time.monotonic() > deadline:
                logs = [f"{host.spec.name}:\n{host.tails()}" for host in self._lost()]
                raise ClusterError("\n".join(["not idle:", *busy, *logs]))
            time.sleep(0.1)

    def leftovers(self) -> list[str]:
        off = [f"{name} is powered off" for name, host in self._hosts.items() if not host.on]
        suspended = [f"{name} is suspended" for name, host in self._hosts.items() if host.suspended]
        pulled = [f"the cable of {name} is pulled" for name in sorted(self._pulled)]
        lines = [process.line for process in self._stray()]
        return [*off, *suspended, *pulled, *lines, *self._slurm()]

    def clean(self) -> None:
        for name, host in self._hosts.items():
            if host.suspended:
                self.resume(name)
            if name in self._pulled:
                self.cable(name, True)
            self.power_on(name)
        jobs = self.run(CONTROLLER, "root", ["squeue", "-h", "-o", "%A"]).stdout.split()
        if jobs:
            self.run(CONTROLLER, "root", ["scancel", *jobs])
        for process in self._stray():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.idle()

    def _slurm(self) -> list[str]:
        """What keeps Slurm from being idle: a line for each job and for each node."""
        controller = self._hosts[CONTROLLER]
        if not controller.on or controller.suspended:
            return ["Slurm has no controller"]
        jobs, nodes = (self.run(CONTROLLER, "root", argv) for argv in (_JOBS, _NODES))
        lines = [line for line in nodes.stdout.splitlines() if not line.endswith(" is idle")]
        return [*jobs.stdout.splitlines(), *lines, *(jobs.stderr + nodes.stderr).splitlines()]

    def _lost(self) -> list[Host]:
        """The nodes that have power and that Slurm does not hear of."""
        lines = [line for line in self._slurm() if line.startswith("node ") and line.endswith("*")]
        hosts = [self._hosts[line.split()[1]] for line in lines]
        return [host for host in hosts if host.on]

    def _stray(self) -> list[Process]:
        return outside(self.tests, user_processes(list(self._hosts.values())))

    def _up(self) -> None:
        self._state = State()
        self._state.fill()
        self._switch = Switch()
        self._hosts = {name: Host(spec, self._state.host(name)) for name, spec in HOSTS.items()}
        for host in self._hosts.values():
            host.power_on()
        # Compute nodes after the controller: a slurmd that does not find it tries again only 5 s later.
        nodes = [host for host in self._hosts.values() if host.spec.role is Role.COMPUTE]
        others = [host for host in self._hosts.values() if host not in nodes]
        for wave in (others, nodes):
            for host in wave:
                host.plug_in(self._switch)
            for host in wave:
                host.wait()
        self.idle()

    def _down(self) -> None:
        for host in self._hosts.values():
            host.power_off()
        if self._switch:
            self._switch.down()
        if self._state:
            self._state.remove()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that it leaves `with` blocks in order. For the main thread.

    SIGINT too: a shell's background job ignores it unless told otherwise.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
