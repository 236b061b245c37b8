"""What farkernel takes on both sides: CPU when nothing moves, memory and threads for each kernel."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import rows
from tests.bench.client import Client, DeafClient
from tests.bench.place import Place
from tests.bench.processes import children, usage
from tests.bench.report import Sample
from tests.bench.serve import ServerProcess

_SECONDS = 5.0
_FADING = 4.0
"""Seconds after which what is still on its way should be where it belongs: a lagging client has two."""

_MORE = 5
_PRINTING = "import time\nfor i in range(5000): print(i, flush=True); time.sleep(0.0005)"
_FLOODING = "for i in range(20000): print(i, flush=True)"


class _Meter:
    """The CPU time of the server's process and of the launcher's."""

    def __init__(self, place: Place, server: ServerProcess, node: str, client: Client) -> None:
        launcher = client.value("__import__('os').getppid()")
        self._place = place
        self._processes = {
            rows.SIDES[0]: ("", f"/proc/{server.pid}/stat"),
            rows.SIDES[1]: (node, f"/proc/{launcher}/stat"),
        }

    def watch(self, what: str, seconds: float = _SECONDS) -> Iterator[Sample]:
        """Look twice; what was taken meanwhile, in percent of a core."""
        before, begin = self._look(), time.monotonic()
        time.sleep(seconds)
        after, passed = self._look(), time.monotonic() - begin
        for side in self._processes:
            yield Sample(rows.cpu_row(what, side), "farkernel", 100 * (after[side] - before[side]) / passed)

    def _look(self) -> dict[str, float]:
        return {
            side: usage(self._place.read(node, path)).cpu if node else usage(_read(path)).cpu
            for side, (node, path) in self._processes.items()
        }


def cpu(place: Place) -> Iterator[Sample]:
    """A kernel that does nothing, a client that does not read, a cable that is pulled."""
    with ServerProcess(place.key) as server:
        kernel, info = server.start()
        with Client(info) as client:
            client.until_ready()
            node = server.node(kernel)
            meter = _Meter(place, server, node, client)
            yield from meter.watch(rows.IDLE)
            with DeafClient(info):
                time.sleep(0.5)
                client.run(_FLOODING)
                time.sleep(_FADING)
                yield from meter.watch(rows.DEAF)
            yield from _while_cut(place, node, meter, client)


def _while_cut(place: Place, node: str, meter: _Meter, client: Client) -> Iterator[Sample]:
    client.send(_PRINTING)
    if not place.cut(node, True):
        return
    try:
        yield from meter.watch(rows.CUT, 2.0)
        time.sleep(_FADING)
        yield from meter.watch(rows.CUT_DONE)
    finally:
        place.cut(node, False)
    client.run("1")  # the link mends itself, and everything printed has come


def memory(place: Place) -> Iterator[Sample]:
    """One kernel, then more of them."""
    with ServerProcess(place.key) as server, contextlib.ExitStack() as stack:
        _start_and_use(server, stack)
        before = usage(_read(f"/proc/{server.pid}/stat"))
        for _ in range(_MORE):
            _start_and_use(server, stack)
        after = usage(_read(f"/proc/{server.pid}/stat"))
        names = children(server.pid)
    yield Sample("memory for each kernel more", "farkernel", (after.rss - before.rss) / _MORE / 1e6)
    yield Sample("threads for each kernel more", "farkernel", (after.threads - before.threads) / _MORE)
    if place.tunnels:  # else the kernels themselves are among them
        yield Sample("child processes besides srun", "farkernel", len(names) - names.count("srun"))


def _start_and_use(server: ServerProcess, stack: contextlib.ExitStack) -> None:
    _, info = server.start()
    client = stack.enter_context(Client(info))
    client.until_ready()
    client.run("for i in range(100): print(i, flush=True)")


def _read(path: str) -> str:
    return Path(path).read_text()
