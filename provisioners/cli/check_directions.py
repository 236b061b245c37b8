"""Which of the two sides can connect to the other one: this host to a compute node, or the node to this host."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from farkernel.launcher import node
from farkernel.launcher.reach import Unreachable, first_reachable
from farkernel.provisioners.cli.findings import Finding, ok, problem
from farkernel.provisioners.request import LauncherRequest

_TRIES = 5.0
"""Seconds in which one of a host's addresses has to answer."""

# Runs on the node after check_launcher.PROBE, in the launcher's Python, which may be an old one. It says where it
# listens, and then whether it reaches this host; it stays until its input ends, so that this host can try, too.
PROBE = """
import fcntl, os, socket, struct
asked = json.loads(sys.stdin.readline())
def address(interface):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", interface.encode()[:15]))
            return socket.inet_ntoa(answer[20:24])
    except OSError:
        return ""
own = address(asked["interface"]) or asked["interface"]
names = [os.environ.get("SLURMD_NODENAME"), socket.gethostname()]
names += [address(name) for _, name in socket.if_nameindex()]
said = {"listens": "there is no port"}
for port in asked["ports"]:
    server = socket.socket()
    try:
        server.bind((own, port))
        server.listen(8)
        said = {"addresses": [own] if own else [name for name in names if name and not name.startswith("127.")]}
        said["port"] = server.getsockname()[1]
        break
    except OSError as error:
        said = {"listens": str(error)}
print(json.dumps(said), flush=True)
why = []
for host in asked["addresses"]:
    try:
        socket.create_connection((host, asked["port"]), 3).close()
        why = []
        break
    except OSError as error:
        why.append("%s:%d: %s" % (host, asked["port"], error.strerror or error))
print(json.dumps({"reaches": "; ".join(why)}), flush=True)
sys.stdin.read()
"""


class Directions:
    """Tries both directions in a conversation with the probe; use it by `with`.

    The ports are the kernelspec's. So is the interface of the side that is to listen; the other one listens on all.

    :param launcher: what the kernelspec says
    """

    def __init__(self, launcher: LauncherRequest) -> None:
        self._launcher = launcher
        self._stack = contextlib.ExitStack()
        self._server: socket.socket | None = None
        self._to_node: str | None = None
        self._to_login: str | None = None

    def __enter__(self) -> Directions:
        interface = self._launcher.interface if self._launcher.connect == "login" else None
        try:
            own = node.interface_addresses(interface)[:1] if interface else node.addresses() or ["127.0.0.1"]
            self._server = self._stack.enter_context(_listen(own[0] if interface else "", self._ports()))
        except OSError as error:
            self._to_login = f"this host cannot listen: {error.strerror or error}"
            own = []
        self._asked = {
            "addresses": own,
            "port": self._server.getsockname()[1] if self._server else 0,
            "interface": (self._launcher.interface or "") if self._launcher.connect == "node" else "",
            "ports": self._ports(),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def first_line(self) -> bytes:
        """What the probe reads."""
        return json.dumps(self._asked).encode() + b"\n"

    async def take(self, line: str) -> bool:
        """Take a line of the probe's; True when it has said all."""
        facts = _object(line)
        if "listens" in facts:
            self._to_node = f"the node cannot listen: {facts['listens']}"
        elif "addresses" in facts:
            try:
                await first_reachable(list(map(str, facts["addresses"])), int(facts["port"]), timeout=_TRIES)
            except (Unreachable, TypeError, ValueError) as error:
                self._to_node = f"no: {error}"
            else:
                self._to_node = "yes"
        elif "reaches" in facts and self._to_login is None:
            self._to_login = f"no: {facts['reaches']}" if facts["reaches"] else "yes"
        return "reaches" in facts

    def findings(self, kernelspec: str, source: str) -> list[Finding]:
        """Say what was found; nothing if the probe has not come so far."""
        if self._to_node is None or self._to_login is None:
            return []
        subject = f"link to a node, {kernelspec}"
        ways = {"node": self._to_node, "login": self._to_login}
        chosen = self._launcher.connect
        other = "login" if chosen == "node" else "node"
        found = (
            f"this host connects to the node (launcher.connect: node): {ways['node']}\n"
            f"the node connects to this host (launcher.connect: login): {ways['login']}"
        )
        if ways[chosen] == "yes":
            return [ok(subject, found)]
        advice = (
            f'Put "connect": "{other}" into "launcher"' if ways[other] == "yes" else "Ask the site for an open range"
        )
        more = (
            ""
            if ways[other] == "yes"
            else " of ports, and name it in launcher.ports, or a network in launcher.interface"
        )
        return [problem(subject, found, f"{advice}{more} ({source})")]

    def _ports(self) -> list[int]:
        return list(self._launcher.port_range) or [0]


def _object(line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _listen(address: str, ports: list[int]) -> Iterator[socket.socket]:
    """Listen on an address, or on all; who connects learns that it has reached us, and no more."""
    both = not address and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in address else socket.AF_INET
    problem: OSError | None = None
    for port in ports:
        try:
            server = socket.create_server((address, port), family=family, dualstack_ipv6=both)
        except OSError as error:
            problem = error
            continue
        with server:
            yield server
        return
    raise problem or OSError("there is no port")
