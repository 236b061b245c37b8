"""Where a user's gateway is: a private directory with its socket and what a client has to know of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from json import dumps

from pydantic import TypeAdapter, ValidationError

from farkernel.launcher.private import PREFIX, SOCKET_PATH_LIMIT
from farkernel.provisioners.errors import GatewayUnusable

_PATIENCE = 60.0
"""Seconds that a gateway has for its start or its end; an end cancels the kernels' jobs."""
_INTERVAL = 0.05


@dataclass(frozen=True)
class Running:
    """A gateway that answers, as `farkernel gateway --json` tells it.

    :param token: a secret
    :param version: farkernel's
    :param socket: a unix socket, or else empty
    :param relay: with a socket: where `farkernel connect` attaches
    :param url: where it is if it has no unix socket
    """

    token: str
    pid: int
    version: str
    socket: str = ""
    relay: str = ""
    url: str = ""

    def json(self) -> str:
        """Return it as one line, with either `socket` and `relay`, or `url`."""
        return dumps({name: value for name, value in asdict(self).items() if value})


_ADAPTER = TypeAdapter(Running)

_PASSING = pathlib.Path("/run/user")


def lasting(directory: pathlib.Path) -> pathlib.Path:
    """Return a directory for what is to outlive the user's logins: another one than pam_systemd(8) removes then."""
    return pathlib.Path(tempfile.gettempdir()) if directory.is_relative_to(_PASSING) else directory


class GatewayPlace:
    """The one directory of a user's gateway on this host, which whoever holds the lock in it owns.

    It bears the name of the kernels' directories and has their lock, so that what a killed gateway leaves goes with
    theirs.

    :param base: the user's runtime directory, or a directory that everybody writes in
    """

    def __init__(self, base: pathlib.Path) -> None:
        self.path = base / f"{PREFIX}gateway-{os.getuid()}"
        self.socket = self.path / "socket"
        self.relay = self.path / "relay"
        self._record = self.path / "gateway.json"
        self._lock = -1

    def take(self) -> bool:
        """Become the user's gateway, and clear what one that was killed has left; False if one runs or starts.

        :raises GatewayUnusable: the directory cannot be made, or is not the user's own
        """
        try:
            self._lock = self._locked()
        except BlockingIOError:
            return False
        except OSError as error:
            raise GatewayUnusable(
                f"farkernel cannot use the directory {self.path}.",
                said=error.strerror or str(error),
                hint="Let XDG_RUNTIME_DIR name another, private directory of this host.",
            ) from error
        for left in (self.socket, self.relay, self._record):
            left.unlink(missing_ok=True)
        return True

    def publish(self, running: Running) -> None:
        """Let others find this gateway, which now answers."""
        new = self.path / "new"
        with os.fdopen(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(running.json())
        new.replace(self._record)

    def leave(self) -> None:
        """Remove the directory; whoever looks for a gateway finds none then."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def find(self) -> Running | None:
        """Return the gateway that runs, once it answers; None if there is none.

        :raises GatewayUnusable: one is there, and does not come up
        """
        for _ in _until(time.monotonic() + _PATIENCE):
            if not self._held():
                return None
            with contextlib.suppress(OSError, ValidationError):
                return _ADAPTER.validate_json(self._record.read_bytes())
        raise GatewayUnusable(f"The gateway that holds {self.path} does not come up.", hint="End its process.")

    def wait_until_gone(self) -> None:
        """Wait until no gateway holds the directory.

        :raises GatewayUnusable: it does not end
        """
        for _ in _until(time.monotonic() + _PATIENCE):
            if not self._held():
                return
        raise GatewayUnusable(f"The gateway that holds {self.path} still ends its kernels.", hint="Try again later.")

    def _locked(self) -> int:
        while True:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            self._check()
            lock = self.path / "lock"
            try:
                descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:  # another gateway has just removed it
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    return descriptor
            except FileNotFoundError:
                pass
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _check(self) -> None:
        """See that nobody else has made the directory, and that a socket's name in it can be used."""
        with contextlib.suppress(FileNotFoundError):
            status = self.path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
                raise PermissionError(0, "It is not this user's own, or others may enter it.")
        if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT:
            raise OSError(0, f"Its path is too long for a unix socket, which may have {SOCKET_PATH_LIMIT} bytes.")

    def _held(self) -> bool:
        try:
            self._check()
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)


def _until(deadline: float) -> Iterator[None]:
    while time.monotonic() < deadline:
        yield
        time.sleep(_INTERVAL)
