"""What a test can do to the stand-in, on all hosts at once."""

import contextlib
from collections.abc import Iterator

from tests.cluster.shifter.install import PLACE, plugstack
from tests.cluster.site import LOGIN, Site


@contextlib.contextmanager
def gateway_down(site: Site) -> Iterator[None]:
    """No name of an image can be looked up meanwhile."""
    _root(site, f"touch {PLACE}/gateway/down")
    try:
        yield
    finally:
        _root(site, f"rm -f {PLACE}/gateway/down")


@contextlib.contextmanager
def set_up_takes(site: Site, seconds: float) -> Iterator[None]:
    """Every start takes so long, apart from those of images that have a time of their own."""
    _root(site, f"echo seconds={seconds} >{PLACE}/delay")
    try:
        yield
    finally:
        _root(site, f"rm -f {PLACE}/delay")


@contextlib.contextmanager
def long_options(site: Site) -> Iterator[None]:
    """The plugin's options are `--shifter.image` and so on meanwhile."""
    _root(site, f"echo '{plugstack(long_options=True).strip()}' >/etc/slurm/plugstack.conf")
    try:
        yield
    finally:
        _root(site, f"echo '{plugstack().strip()}' >/etc/slurm/plugstack.conf")


def forget_pulls(site: Site) -> None:
    """What was pulled has to be pulled again."""
    _root(site, f"rm -f {PLACE}/gateway/pulls/*")


def _root(site: Site, script: str) -> None:
    done = site.run(LOGIN, "root", ["sh", "-c", script])
    assert done.returncode == 0, done.stderr
