"""What somebody runs who wants to get at another user's kernel.

`python intruder.py < request.json`, where the request is `{"attempt": NAME, ...}`; the answer is JSON on standard
output. It judges nothing: the owner's own attempts are to succeed where those of others fail.
"""

import contextlib
import json
import os
import pwd
import resource
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

_PATIENCE = 60.0
_REFUSALS = 2
_LISTEN = "0A"
_BOUND = "07"
"""A UDP socket that is not connected (proc(5) has states of TCP for it: TCP_CLOSE)."""
_ACCEPTS = 1 << 16
"""What listens at a unix socket (linux/net.h, SO_ACCEPTCON)."""


# ---- sockets of ZeroMQ ----


def knock(
    endpoint: str,
    kind: str = "DEALER",
    frames: Iterable[str] = (),
    identity: str = "",
    curve: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Connect, send, and listen until something comes or it is clear that nothing will.

    :param frames: of one message, each as Latin-1
    :param curve: `server`, `public` and `secret`; without it the mechanism is NULL
    """
    with zmq.Context() as context, context.socket(getattr(zmq, kind)) as client:
        client.linger = 1000 if kind == "PUSH" else 0
        client.reconnect_ivl = 20
        if identity:
            client.routing_id = identity.encode()
        if curve:
            client.curve_serverkey = curve["server"].encode()
            client.curve_publickey, client.curve_secretkey = curve["public"].encode(), curve["secret"].encode()
        if kind == "SUB":
            client.subscribe(b"")
        with client.get_monitor_socket() as monitor:
            client.connect(endpoint)
            if frames:
                client.send_multipart([frame.encode("latin-1") for frame in frames], zmq.NOBLOCK)
            seen, received = _watch(client, monitor, listens=kind != "PUSH")
            client.disable_monitor()
    return {"errno": _errno(endpoint), "seen": seen, "received": [frame.decode("latin-1") for frame in received]}


def knock_all(doors: list[dict[str, Any]]) -> dict[str, Any]:
    """Try one door after the other."""
    return {"doors": [knock(**door) for door in doors]}


def _watch(client: zmq.Socket[bytes], monitor: zmq.Socket[bytes], *, listens: bool) -> tuple[list[str], list[bytes]]:
    poller = zmq.Poller()
    if listens:
        poller.register(client, zmq.POLLIN)
    poller.register(monitor, zmq.POLLIN)
    seen: list[str] = []
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        ready = dict(poller.poll(100))
        if client in ready:
            return seen, client.recv_multipart()
        if monitor in ready:
            event = zmq.Event(recv_monitor_message(monitor)["event"])
            seen.append(event.name or "")
        if _over(seen) or (not listens and "HANDSHAKE_SUCCEEDED" in seen):
            break
    return seen, []


def _over(seen: list[str]) -> bool:
    """Whether nothing will come of a connection any more."""
    failed = any(event.startswith("HANDSHAKE_FAILED") for event in seen)
    return failed or sum(event in {"CONNECT_RETRIED", "DISCONNECTED"} for event in seen) > _REFUSALS


def _errno(endpoint: str) -> int:
    """What connect(2) says of a unix socket."""
    if not endpoint.startswith("ipc://"):
        return 0
    with socket.socket(socket.AF_UNIX) as plain:
        return plain.connect_ex(endpoint.removeprefix("ipc://"))


# ---- plain TCP ----


def speak(address: str, port: int, said: str, patience: float = 1) -> dict[str, Any]:
    """Connect without ZeroMQ, say some bytes (Latin-1), and return all that is answered.

    :param patience: seconds of silence after which nothing more is to come
    """
    heard = b""
    try:
        with socket.create_connection((address, port), timeout=10) as plain:
            plain.sendall(said.encode("latin-1"))
            plain.settimeout(patience)
            while data := plain.recv(65536):
                heard += data
    except ConnectionRefusedError:
        return {"refused": True, "heard": ""}
    except OSError:
        pass  # it was closed, or there is nothing more to come
    return {"refused": False, "heard": heard.decode("latin-1")}


def flood(address: str, port: int, connections: int, garbage: list[str], ready: str, stop: str) -> dict[str, Any]:
    """Keep many connections open, and renew those that are closed, until the file `stop` exists."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held: list[socket.socket] = []
    made = 0
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: _close(held))
        while not Path(stop).exists():
            while len(held) < connections:
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex((address, port))
                held.append(one)
                made += 1
            time.sleep(0.2)
            held = [one for number, one in enumerate(held) if _pester(one, garbage[number % len(garbage)])]
            Path(ready).touch()
    return {"made": made}


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _pester(one: socket.socket, garbage: str) -> bool:
    """Send some garbage; whether the connection is still of use."""
    try:
        one.send(garbage.encode("latin-1"))
        one.recv(65536)
    except BlockingIOError:
        return True
    except OSError:
        one.close()
        return False
    return True


# ---- files, processes, listeners ----


def search(roots: list[str], needles: dict[str, str]) -> dict[str, Any]:
    """Look for each needle in the names and the contents of every file that can be read.

    :param needles: Latin-1, by what they are called in the answer
    """
    wanted = {name: needle.encode("latin-1") for name, needle in needles.items()}
    found, read = [], 0
    for file in _files(roots):
        with contextlib.suppress(OSError):
            content = os.fsencode(file) + b"\0" + file.read_bytes()
            read += 1
            found += [[name, str(file)] for name, needle in wanted.items() if needle in content]
    return {"found": found, "read": read}


def _files(roots: list[str]) -> Iterator[Path]:
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                file = Path(folder, name)
                with contextlib.suppress(OSError):
                    if stat.S_ISREG(file.lstat().st_mode):
                        yield file


def processes(needles: dict[str, str]) -> dict[str, Any]:
    """Look for each needle in all command lines and environments that can be read."""
    texts = {"ps": subprocess.run(["ps", "-ef", "ww"], capture_output=True, check=True).stdout}
    owners: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                texts[f"{part} of {_comm(process)}"] = (
                    texts.get(f"{part} of {_comm(process)}", b"") + (process / part).read_bytes()
                )
                if part == "environ":
                    owners.add(pwd.getpwuid(process.stat().st_uid).pw_name)
    found = [
        [name, place]
        for place, text in texts.items()
        for name, needle in needles.items()
        if needle.encode("latin-1") in text
    ]
    return {"found": found, "environments of": sorted(owners), "places": sorted(texts)}


def _comm(process: Path) -> str:
    return (process / "comm").read_text().strip()


def listeners(uid: int) -> dict[str, Any]:
    """Return the user's TCP listeners, and for our own processes which they are, and their abstract unix sockets."""
    programs = _socket_programs()
    tcp = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[7]) == uid:
                tcp.append([int(fields[1].rpartition(":")[2], 16), programs.get(fields[9], "")])
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    named = [[fields[7], programs.get(fields[6], "")] for fields in unix if len(fields) > 7]
    return {"tcp": tcp, "abstract": [entry for entry in named if entry[0].startswith("@")], "unix": named}


def bound(uid: int) -> dict[str, Any]:
    """Return all at which our own processes can be reached: protocol, place, whether only we can get there, command.

    Other processes of the user that cannot be looked into have no command.
    """
    programs = {
        inode: _command(Path("/proc", program.rpartition(" ")[2])) for inode, program in _socket_programs().items()
    }
    seen = []
    for protocol, state in (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _BOUND), ("udp6", _BOUND)):
        for line in Path("/proc/net", protocol).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and int(fields[7]) == uid:
                address, _, port = fields[1].rpartition(":")
                seen.append([protocol[:3], [_address(address), int(port, 16)], False, programs.get(fields[9], "")])
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, kind, _, inode, *path = line.split()
        reachable = int(flags, 16) & _ACCEPTS or int(kind, 16) == socket.SOCK_DGRAM
        if inode in programs and path and reachable:
            seen.append(["unix", path[0], _is_private(Path(path[0]), uid), programs[inode]])
    return {"bound": seen}


def _address(digits: str) -> str:
    """Read an address of /proc/net/tcp (proc(5)): words in the order of this machine's bytes."""
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))


def _command(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _is_private(path: Path, uid: int) -> bool:
    """Whether a directory on the way is one that only the user may enter."""
    status = [parent.stat() for parent in path.parents if parent.is_dir()]
    return path.is_absolute() and any(one.st_uid == uid and not one.st_mode & 0o077 for one in status)


def _socket_programs() -> dict[str, str]:
    """Return the name and the id of the process that holds a socket, by its inode."""
    programs = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    programs[target[8:-1]] = f"{_comm(process)} {process.name}"
    return programs


def modes(roots: list[str]) -> dict[str, Any]:
    """Return owner and mode of everything below the roots that can be seen."""
    seen = {}
    for root in roots:
        for folder, _, names in os.walk(root):
            for path in [Path(folder), *(Path(folder, name) for name in names)]:
                with contextlib.suppress(OSError):
                    status = path.lstat()
                    seen[str(path)] = [pwd.getpwuid(status.st_uid).pw_name, stat.filemode(status.st_mode)]
    return seen


_ATTEMPTS = (knock_all, speak, flood, search, processes, listeners, bound, modes)
ATTEMPTS = {attempt.__name__: attempt for attempt in _ATTEMPTS}

if __name__ == "__main__":
    request = json.load(sys.stdin)
    answer = ATTEMPTS[request.pop("attempt")](**request)
    print(json.dumps({"host": socket.gethostname(), "user": pwd.getpwuid(os.getuid()).pw_name, **answer}))
