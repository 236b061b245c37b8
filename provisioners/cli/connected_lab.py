"""What `farkernel connect --lab` gives to the JupyterLab that it starts, by its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_server.gateway.gateway_client import GatewayTokenRenewerBase
from jupyter_server.gateway.managers import GatewayMappingKernelManager
from traitlets import Unicode

from farkernel.provisioners.cli.lab_connection import LARGEST, LabConnection


class TokenFile(GatewayTokenRenewerBase):
    """The gateway's token: in JupyterLab's settings, as in its arguments and variables, `--debug` would log it."""

    path = Unicode(config=True, help="The file that has the token.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._token = Path(self.path).read_text(encoding="ascii")  # once: the file may not last as long

    def get_token(self, auth_header_key: str, auth_scheme: str | None, auth_token: str, **kwargs: Any) -> str:
        """Return it, whatever JupyterLab's own settings say."""
        return self._token


class LastingKernels(GatewayMappingKernelManager):
    """The gateway's kernels, where they outlive JupyterLab: each can be ended, and its own end does not end all."""

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override]
        """End none: this is what JupyterLab does at its end."""


def settings(token: Path, *, lasting: bool) -> dict[str, Any]:
    """Return JupyterLab's settings.

    :param token: the file that has the gateway's token
    :param lasting: whether kernels outlive JupyterLab
    """
    server: dict[str, Any] = {
        "kernel_websocket_connection_class": f"{LabConnection.__module__}.{LabConnection.__name__}",
        "tornado_settings": {"websocket_max_message_size": LARGEST},
    }
    if lasting:
        server["kernel_manager_class"] = f"{__name__}.{LastingKernels.__name__}"
    renewer = f"{__name__}.{TokenFile.__name__}"
    return {
        "ServerApp": server,
        "GatewayClient": {"gateway_token_renewer_class": renewer},
        "TokenFile": {"path": str(token)},
    }
