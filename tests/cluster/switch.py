"""The network between the hosts: a bridge in a namespace of its own."""

import os
import subprocess
import time
from pathlib import Path

from tests.cluster.site import HOSTS, ClusterError


class Switch:
    def __init__(self) -> None:
        # cat ends when the pipe does, so with this process, however that ends
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        self._wait_for_namespace()
        self._ip("link set lo up", "link add br0 type bridge", "link set br0 up")

    def plug_in(self, host: str, pid: int) -> None:
        """Lay a cable between the switch and the booting host that has this process id."""
        self._ip(f"link del {_cable(host)}", check=False)  # that of a host which just lost power may still be there
        self._ip(
            f"link add {_cable(host)} type veth peer name eth0 address {_mac(host)} netns {pid}",
            f"link set {_cable(host)} master br0 up",
        )

    def cable(self, host: str, up: bool) -> None:
        self._ip(f"link set {_cable(host)} {'up' if up else 'down'}")

    def down(self) -> None:
        self._holder.kill()
        self._holder.communicate()

    def _ip(self, *commands: str, check: bool = True) -> None:
        batch = ["nsenter", f"--target={self._holder.pid}", "--net", "ip", "-batch", "-"]
        done = subprocess.run(batch, input="\n".join(commands), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise ClusterError(f"switch: {'; '.join(commands)}: {done.stderr.strip()}")

    def _wait_for_namespace(self) -> None:
        """Wait until unshare has become cat: before that, the namespace is still the machine's."""
        deadline = time.monotonic() + 60
        while _namespace(self._holder.pid) == _namespace(os.getpid()):
            if time.monotonic() > deadline or self._holder.poll() is not None:
                raise ClusterError("the switch did not come up")
            time.sleep(0.005)


def _cable(host: str) -> str:
    return f"v-{host}"


def _mac(host: str) -> str:
    """The address of a host's card: it is the same after a boot, or the others would look for it at the old one."""
    octets = HOSTS[host].address.split(".")
    return ":".join(["02", "00", *(f"{int(octet):02x}" for octet in octets)])


def _namespace(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()
