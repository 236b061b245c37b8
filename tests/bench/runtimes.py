"""What users type to have a command run in an image, without farkernel: each runtime of the simulated cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.containers import IMAGE
from tests.cluster.image import PODMAN_NAME
from tests.cluster.shifter.images import PYHEP


@dataclass(frozen=True)
class Runtime:
    """One of them.

    :param image: as `container.image` names it
    :param argv: what stands before the command, on a node
    :param srun: options of srun's for it
    """

    image: str
    argv: tuple[str, ...]
    srun: tuple[str, ...] = ()


_HOME = Path.home()
_SHIFTERS = f"--image={PYHEP.name}"

RUNTIMES: Mapping[str, Runtime] = {
    "shifter": Runtime(PYHEP.name, ("shifter", _SHIFTERS), (_SHIFTERS,)),
    "podman-hpc": Runtime(
        PODMAN_NAME,
        ("podman-hpc", "run", "--rm", "--network=host", "--env=HOME", f"--volume={_HOME}:{_HOME}", PODMAN_NAME),
    ),
    "charliecloud": Runtime(str(IMAGE), ("ch-run", "--home", str(IMAGE), "--")),
}
"""By the name that `container.runtime` has for it. The image is the same: Debian's Python and ipykernel."""
