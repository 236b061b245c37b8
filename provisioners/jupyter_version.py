"""The jupyter_client that the provisioners are made for. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from farkernel.provisioners.errors import JupyterTooOld

_OLDEST = (8, 6)
"""pip may leave an older one: Enterprise Gateway, which has process proxies instead of provisioners, needs 6."""


def too_old(version: Sequence[int | str], python: str) -> JupyterTooOld | None:
    """Say that a jupyter_client is too old, if it is.

    :param version: its `version_info`
    :param python: whose it is
    """
    if tuple(map(int, version[:2])) >= _OLDEST:
        return None
    needed, found = (".".join(map(str, numbers)) for numbers in (_OLDEST, version))
    return JupyterTooOld(
        f"farkernel's provisioners need jupyter_client {needed} or later, and {python} has {found}.",
        hint=f"Install it: `{python} -m pip install --upgrade 'jupyter_client>={needed}'`",
    )
