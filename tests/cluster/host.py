"""One simulated host, seen from the machine: its power, and commands that run on it."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.site import CHECKOUT, PATH, USERS, ClusterError, HostSpec, Role
from tests.cluster.switch import Switch

_NAMESPACES = ("--net", "--uts", "--mount", "--ipc", "--pid")
_TAIL = 2000


class RemoteProcess(subprocess.Popen[str]):
    """A command on a host. Signals go to its process group: nsenter, its parent, would keep them."""

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, sig)


class Host:
    """To boot: `power_on`, `plug_in`, `wait`. They are apart so that all hosts can boot at the same time."""

    def __init__(self, spec: HostSpec, own: Path) -> None:
        self.spec = spec
        self.suspended = False
        self._own = own
        self._boot: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def on(self) -> bool:
        return self._boot is not None

    @property
    def pid(self) -> int:
        """The host's first process, as the machine counts."""
        if not self.on:
            raise ClusterError(f"{self.spec.name} is powered off")
        return self._pid

    def power_on(self) -> None:
        """Start the host's first process, which lives as long as the pipe to it."""
        boot = [sys.executable, "-m", "tests.cluster.boot", self.spec.name, str(self._own.parent.parent)]
        with (self._own / "boot.log").open("ab") as log:
            self._boot = subprocess.Popen(
                ["unshare", *_NAMESPACES, "--fork", "--kill-child", *boot],
                cwd=CHECKOUT,
                env={"PATH": f"{PATH}:/usr/sbin:/sbin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def plug_in(self, switch: Switch) -> None:
        """Give the booting host the network that it waits for."""
        self._pid = int(self._hear())
        (self._own / "pid").write_text(str(self._pid))
        switch.plug_in(self.spec.name, self._pid)
        assert self._boot
        assert self._boot.stdin
        self._boot.stdin.write(b"\n")
        self._boot.stdin.flush()

    def wait(self) -> None:
        """Wait until its daemons run."""
        self._hear()

    def power_off(self) -> None:
        if not self._boot:
            return
        (self._own / "pid").unlink(missing_ok=True)
        # Reaping the first process means that the kernel has ended all others of the host before.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid or self._boot.pid, signal.SIGKILL)
        self._boot.communicate()
        self._boot, self._pid, self.suspended = None, 0, False

    def suspend(self, suspended: bool) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if suspended else signal.SIGCONT)
        self.suspended = suspended

    def processes(self) -> list[int]:
        """Every process of the host, as the machine counts, without the first."""
        namespace = _pid_namespace(self.pid)
        return [pid for pid in _pids() if pid != self.pid and _pid_namespace(pid) == namespace]

    def popen(
        self,
        user: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        **streams: Any,
    ) -> RemoteProcess:
        """Start a command as a user, by default in the user's home."""
        command = enter(self.spec, self.pid, user, argv, env, cwd)
        return RemoteProcess(command, start_new_session=True, text=True, **streams)

    def _hear(self, seconds: float = 300) -> str:
        """Return the next line that the first process says."""
        assert self._boot
        assert self._boot.stdout
        readable, _, _ = select.select([self._boot.stdout], [], [], seconds)
        line = os.read(self._boot.stdout.fileno(), 100).decode() if readable else ""
        if not line:
            what = "ended while it booted" if readable else f"has not booted after {seconds:.0f} s"
            raise ClusterError(f"{self.spec.name} {what}:\n{self.tails()}")
        return line

    def tails(self) -> str:
        """Return the ends of the host's logs, the boot's last."""
        logs = [*sorted((self._own / "log").rglob("*.log")), self._own / "boot.log"]
        wanted = [log for log in logs if log.stem.startswith(("boot", "slurm", "mysql", "munge"))]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-_TAIL:]}" for log in wanted)


def enter(
    spec: HostSpec,
    pid: int,
    user: str,
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> list[str]:
    """Return the command that runs argv as the user on the host whose first process this is."""
    home = Path("/root" if user == "root" else f"/home/{user}")
    variables = {"LANG": "C.UTF-8", "PATH": f"{PATH}:/usr/sbin:/sbin" if user == "root" else PATH}
    if spec.role is Role.LOGIN and user in USERS:
        variables["XDG_RUNTIME_DIR"] = f"/run/user/{USERS[user]}"
    variables |= env or {}
    return [
        *("nsenter", f"--target={pid}", *_NAMESPACES, "--wdns=/"),
        *("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env"),
        *("env", f"--chdir={cwd or home}", *(f"{name}={value}" for name, value in variables.items())),
        *argv,
    ]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _pid_namespace(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    return 0
