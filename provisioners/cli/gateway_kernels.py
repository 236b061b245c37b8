"""What `farkernel gateway` answers to a request for a kernel: as jupyter_server does, with the client's choices.

jupyter_server takes none of the variables that clients send. Ours are what one start chooses (`per_launch`): they
belong to one request, and reach its kernel alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from jupyter_server.services.kernels.handlers import MainKernelHandler

from farkernel.provisioners.errors import FarkernelError
from farkernel.provisioners.per_launch import choices


class KernelsHandler(MainKernelHandler):
    """`/api/kernels`."""

    @property
    def kernel_manager(self) -> Any:
        """The server's; a kernel that it starts for this request has the request's choices."""
        manager = super().kernel_manager
        chosen = self._chosen() if self.request.method == "POST" else {}
        return _Choosing(manager, chosen) if chosen else manager

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tell the client why there is no kernel: jupyter_server says "Unhandled error"."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        if not isinstance(error, FarkernelError):
            super().write_error(status_code, **kwargs)
            return
        self.log.error("%s", error)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"message": str(error), "reason": None}))

    def _chosen(self) -> dict[str, str]:
        body = self.get_json_body()
        env = body.get("env") if isinstance(body, Mapping) else None
        return choices({str(name): str(text) for name, text in env.items()}) if isinstance(env, Mapping) else {}


class _Choosing:
    """A kernel manager that gives a client's choices to what it starts."""

    def __init__(self, manager: Any, chosen: Mapping[str, str]) -> None:
        self._manager = manager
        self._chosen = chosen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def start_kernel(self, **kwargs: Any) -> Any:
        return self._manager.start_kernel(env={**os.environ, **self._chosen}, **kwargs)


default_handlers = [(r"/api/kernels", KernelsHandler)]
