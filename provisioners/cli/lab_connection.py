"""The websockets of the JupyterLab that `farkernel connect --lab` starts, from a page to the gateway.

jupyter_server (2.21) has them for text of up to 10 MiB: it takes binary messages, which have a widget's buffers, for
UTF-8, and tornado breaks a connection for what is larger. A page then waits for a cell that has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from jupyter_server.gateway.connections import GatewayWebSocketConnection
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.utils import url_escape, url_path_join
from tornado.httpclient import HTTPRequest
from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketClosedError, websocket_connect

LARGEST = 96 * 2**20
"""Bytes of a message; tornado's client breaks a connection at 100 MiB whatever it is told."""


class LabConnection(GatewayWebSocketConnection):
    """A page's websocket, and one to the gateway behind it; what comes by one goes out by the other as it came.

    Nothing is taken of the gateway before the page has taken what was before: what waits for a page waits in the
    gateway, where there is an end to it.
    """

    async def connect(self) -> None:
        """Make the one to the gateway."""
        gateway = GatewayClient.instance()
        url = url_path_join(gateway.ws_url or "", gateway.kernels_endpoint, url_escape(self.kernel_id), "channels")
        if self.session_id:
            url += f"?session_id={url_escape(self.session_id)}"
        request = HTTPRequest(url, **gateway.load_connection_args())  # type: ignore[no-untyped-call]
        made = asyncio.ensure_future(websocket_connect(request, max_message_size=LARGEST))
        made.add_done_callback(self._connection_done)
        made.add_done_callback(lambda _: IOLoop.current().spawn_callback(self._read_messages))
        self.ws, self.ws_future = None, made

    async def _read_messages(self) -> None:
        """Pass on what comes, until the connection ends; jupyter_server then makes another one, where one is wanted."""
        while self.ws is not None and not self.disconnected:
            message = await self.ws.read_message()
            if message is None:
                self.ws.on_message(None)  # type: ignore[arg-type]  # for jupyter_server to read, too
                break
            with contextlib.suppress(WebSocketClosedError):  # the page has gone
                await self.websocket_handler.write_message(message, binary=isinstance(message, bytes))
        await super()._read_messages()  # type: ignore[no-untyped-call]

    def _write_message(self, message: Any) -> None:
        if self.disconnected or self.ws is None:
            return
        try:
            self.ws.write_message(message, binary=isinstance(message, bytes))
        except WebSocketClosedError:
            self.log.error("The gateway cannot be reached: a message to kernel %s is lost.", self.kernel_id)
