"""Whether this machine can have a cluster, and the Debian packages that it needs."""

import os
import shutil
import subprocess
import sys

from tests.cluster.containers import PACKAGES as CONTAINERS
from tests.cluster.shifter.install import PACKAGES as SHIFTER
from tests.cluster.site import UnavailableError

PACKAGES = (
    "chromium",
    "environment-modules",
    "iproute2",
    "iptables",
    "libpam-slurm-adopt",
    "mariadb-server",
    "munge",
    "openssh-client",
    "openssh-server",
    "procps",
    "r-cran-irkernel",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "util-linux",
    *CONTAINERS,
    *SHIFTER,
)
_ISOLATED = ("unshare", "--net", "--uts", "--mount", "--ipc", "--pid", "--fork")
_CABLE = "ip link add one type veth peer name two && ip link add br0 type bridge"


def unavailable() -> str | None:
    """Why there can be no cluster here, or None."""
    if sys.platform != "linux":
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it needs root"
    if not shutil.which("dpkg-query"):
        return "it needs Debian's packages"
    lacking = missing()
    if lacking and not shutil.which("apt-get"):
        return f"packages are missing, and there is no apt-get: {' '.join(lacking)}"
    # without iproute2 yet, namespaces alone have to do as a proof
    probe = subprocess.run(
        [*_ISOLATED, "sh", "-c", "true" if "iproute2" in lacking else _CABLE],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces or veth here: {probe.stderr.strip()}" if probe.returncode else None


def missing() -> list[str]:
    """The packages that are not installed."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *PACKAGES]
    known = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
    return [name for name in PACKAGES if f"{name} installed" not in known]


def install() -> None:
    """Install what is missing; nothing happens where nothing is."""
    reason = unavailable()
    if reason:
        raise UnavailableError(reason)
    if packages := missing():
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *packages)


def _apt_get(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", "-o", "DPkg::Lock::Timeout=300", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-500:]}")
