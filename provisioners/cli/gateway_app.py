"""The application behind `farkernel gateway`: a Jupyter server that has kernels, and nothing else."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from jupyter_server.serverapp import ServerApp
from traitlets.config import Config

from farkernel.provisioners.cli.gateway_output import Connection, Kernels
from farkernel.provisioners.cli.lab_connection import LARGEST
from farkernel.provisioners.errors import GatewayUnusable


class GatewayApp(ServerApp):
    """A Jupyter server without files, terminals, pages and extensions.

    Of a request's own variables (KERNEL_*) those are taken that choose something for its kernel alone
    (`gateway_kernels`). Its settings are its own
    (`farkernel_gateway_config.py`): those of the user's notebook server, a password for example, are not for it.

    :ivar on_ready: awaited once it listens
    """

    name = "farkernel-gateway"
    no_browser_open_file = True
    default_services = ("api", "kernels", "kernelspecs")  # type: ignore[assignment]
    on_ready: Callable[[GatewayApp], Awaitable[None]]

    def write_server_info_file(self) -> None:
        """Write none: `farkernel gateway` has its own, and this one would offer the gateway as a notebook server."""

    def init_signal(self) -> None:
        """Have each signal that ends it end its kernels, too: ServerApp leaves them behind when SIGINT ends it."""
        super().init_signal()
        for number in (signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
                signal.signal(number, self._signal_stop)

    def start_app(self) -> None:
        """Start, and tell when the server listens."""
        super().start_app()
        self.io_loop.add_callback(self.on_ready, self)  # the one that makes it listen comes before


def config(*, token: str, cull_after: int, cull_connected: bool, allow_root: bool, listen: dict[str, Any]) -> Config:
    """Return the settings of a gateway; no configuration file beats them.

    :param cull_after: seconds after which an idle kernel ends; 0 for never
    :param listen: what ServerApp has for its address
    """
    # Who is at the other end of a unix socket is known; pings would only end what `farkernel connect` keeps while its
    # laptop sleeps. (An older jupyter_server has the one setting, a newer one the other.)
    tornado, pings = {"websocket_max_message_size": LARGEST}, {}
    if "sock" in listen:
        tornado["ws_ping_interval"] = pings["websocket_ping_interval"] = 0
    server = {
        "open_browser": False,
        "allow_root": allow_root,
        "answer_yes": True,
        # A login counts as long as this gateway, and nothing depends on the file that signs those of the user's Jupyter
        # servers: it stays empty, and anybody can sign, where the disk was full when it was written.
        "cookie_secret": secrets.token_bytes(32),
        "kernel_manager_class": Kernels,
        "kernel_websocket_connection_class": Connection,
        "tornado_settings": tornado,
        "extra_services": ["farkernel.provisioners.cli.gateway_kernels"],  # come before jupyter_server's own
    }
    culling = {
        "cull_idle_timeout": cull_after,
        "cull_interval": max(1, min(60, cull_after // 4)),
        "cull_connected": cull_connected,
    }
    return Config(
        {
            "ServerApp": {**server, "terminals_enabled": False, "log_level": "WARN", **pings, **listen},
            "IdentityProvider": {"token": token},
            "MappingKernelManager": culling,
            # with JUPYTER_GATEWAY_URL in the environment it would pass on another gateway's kernels
            "GatewayClient": {"url": ""},
        }
    )


def run(settings: Config, on_ready: Callable[[GatewayApp], Awaitable[None]]) -> None:
    """Run a gateway until a signal ends it and its kernels.

    :raises GatewayUnusable: it cannot listen
    """
    app = GatewayApp(config=settings)
    app.on_ready = on_ready
    try:
        app.initialize(argv=[], find_extensions=False)
    except OSError as error:
        raise GatewayUnusable(
            "The gateway cannot listen there.", said=str(error), hint="Give --ip an address of this host, or localhost."
        ) from error
    app.start()
