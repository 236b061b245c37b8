"""Work on files in a thread of its own: a file system that hangs holds up nobody, not even the process's end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from farkernel.provisioners.errors import FarkernelError

_WAITING = 200
"""Pieces of work that may wait; what may be dropped, and comes then, is."""

T = TypeVar("T")
log = logging.getLogger("farkernel")


class Writer:
    """Does work in order. What fails is told in the log, once: kernels run without it."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._told = False

    def do(self, work: Callable[[], None], *, droppable: bool = False) -> None:
        """Do some work soon.

        :param droppable: it may come without end, and is left out where the file system is too slow for it
        """
        if self._thread is None:
            # a daemon: the thread of a pool would be waited for at the process's end
            self._thread = threading.Thread(target=self._run, name="farkernel-writer", daemon=True)
            self._thread.start()
        if droppable and self._work.qsize() >= _WAITING:
            self._tell("they are not written fast enough")
        else:
            self._work.put(work)

    async def ask(self, work: Callable[[], T]) -> T:
        """Do some work after all that waits, and return its result."""
        result: concurrent.futures.Future[T] = concurrent.futures.Future()

        def answer() -> None:
            if not result.set_running_or_notify_cancel():
                return  # nobody waits any more
            try:
                result.set_result(work())
            except Exception as error:  # noqa: BLE001 (it is raised where it was asked for)
                result.set_exception(error)

        self.do(answer)
        return await asyncio.wrap_future(result)

    async def settle(self, timeout: float) -> None:
        """Wait until all work is done, but not for long."""
        asked = asyncio.ensure_future(self.ask(lambda: None))
        await asyncio.wait({asked}, timeout=timeout)
        asked.cancel()

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
            except (OSError, FarkernelError) as error:
                self._tell(str(error))
            except Exception:
                log.exception("farkernel")

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            log.warning("Records and logs of kernels are not written: %s", why)
