"""The one thread of a process in which farkernel works.

A synchronous client (`jupyter console`) runs its event loop only inside each call, so that a task started there
would freeze in between; and a busy server must not delay the link. So all work is done on a loop of our own.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from farkernel.provisioners.hosts import ThisHost
from farkernel.provisioners.queue import Queue
from farkernel.provisioners.recorder import Recorder
from farkernel.provisioners.records import Record
from farkernel.provisioners.state_files import StateFiles, state_directory
from farkernel.provisioners.sweep import sweep
from farkernel.provisioners.writer import Writer

if TYPE_CHECKING:
    from farkernel.provisioners.login_node import LoginNode

T = TypeVar("T")


class Background:
    """A thread with an asyncio loop, and what all kernels of the process share on it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.context: zmq.Context[Any] = zmq.Context(io_threads=2)
        self.context.max_sockets = 65536
        self.queue = Queue(ThisHost())
        self._login_nodes: dict[str, LoginNode] = {}
        self._writer = Writer()
        self._sweeping: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, name="farkernel", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work there and await it from any other loop; cancellation is passed on."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    async def login_node(self, login: str) -> LoginNode:
        """Return the login node that ssh leads to: one for all kernels of the process, with one connection."""
        # asyncssh takes a while to import, and few need it
        module = await asyncio.to_thread(importlib.import_module, "farkernel.provisioners.login_node")
        if login not in self._login_nodes:
            self._login_nodes[login] = module.LoginNode(login)
        return self._login_nodes[login]

    def recorder(self, record: Record) -> Recorder:
        """Return what writes down a kernel's life; the first one has what is left of others removed."""
        files = StateFiles(state_directory())
        if self._sweeping is None:
            self._sweeping = self.loop.create_task(sweep(files, self._writer))
        return Recorder(record, files, self._writer)


@functools.cache
def _of_process(_pid: int) -> Background:
    return Background()


def background() -> Background:
    """Return this process's; a forked child gets its own."""
    return _of_process(os.getpid())
