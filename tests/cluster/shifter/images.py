"""The images that the stand-in's gateway knows."""

import hashlib
from dataclasses import dataclass, field

from tests.cluster.site import USERS

DEBIAN = "debian"
"""The files of an image that has a Python with ipykernel."""
BUSYBOX = "busybox"
NOWHERE = "nowhere"

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENV = (_PATH, "LANG=C.UTF-8", "PYTHONPATH=/opt/image")


@dataclass(frozen=True)
class Image:
    kind: str
    tags: tuple[str, ...]
    tree: str = DEBIAN
    env: tuple[str, ...] = _ENV
    users: tuple[str, ...] = ()
    """Who may read it; everybody if none is named."""
    ready: bool = True
    """An image that is not is one that `shifterimg pull` makes ready."""
    ipykernel: bool = True
    settings: tuple[str, ...] = field(default=())
    """More lines of its description: entrypoint=, cmd=, workdir=, delay=."""

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.tags[0]}"

    @property
    def id(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def uids(self) -> list[int]:
        return [USERS[user] for user in self.users]


PYHEP = Image("docker", ("nersc/pyhep:2.0", "nersc/pyhep:latest"))
CUSTOM = Image("custom", ("pysci:1.0",))
PULLABLE = Image("docker", ("nersc/new:1.0",), ready=False)
OF_BOB = Image("docker", ("bob/private:1.0",), users=("bob",))
WITHOUT_IPYKERNEL = Image("docker", ("nersc/plain:1.0",), ipykernel=False)
SLOW = Image("docker", ("nersc/slow:1.0",), settings=("delay=3",))
GONE = Image("docker", ("nersc/gone:1.0",), tree=NOWHERE)
BUSY = Image(
    "docker",
    ("busybox:latest", "busybox:1.35"),
    tree=BUSYBOX,
    env=("PATH=/bin",),
    settings=("entrypoint=/bin/echo", "entrypoint=entered", "cmd=the cmd", "workdir=/srv"),
)
"""Without Python: no more than a shell."""

IMAGES = (PYHEP, CUSTOM, PULLABLE, OF_BOB, WITHOUT_IPYKERNEL, SLOW, GONE, BUSY)
