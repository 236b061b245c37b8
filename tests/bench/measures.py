"""What is measured with clients: how long a start takes, round trips, throughput, prints."""

import contextlib
import random
import statistics
import time
from collections.abc import Iterator

from farkernel.launcher import wire
from tests.bench.client import Client
from tests.bench.kernels import Server, all_ways, bare_kernel, server, tunnel
from tests.bench.place import Place
from tests.bench.report import Sample
from tests.bench.rows import image_row

_STARTS = 5
_TRIPS = 200
_TRIPS_OF_SSH = 40  # each takes as long as ten of the others
_WARMUP = 10
_DISPLAYS = 200
_BURSTS = 3
_MEGABYTE = 1_000_000
_PRINTS = 10_000

# Not through IPython's display: what is measured is the way, not JSON and signatures in the kernel.
_PUBLISH = f"""
def publish(count):
    kernel, data = get_ipython().kernel, bytes({_MEGABYTE})
    for _ in range(count):
        kernel.session.send(
            kernel.iopub_socket, "display_data", {{"data": {{}}, "metadata": {{}}}},
            parent=kernel.get_parent(), ident=b"display_data", buffers=[data],
        )
"""


def start(place: Place) -> Iterator[Sample]:
    """From the call to the reply of the first execute_request.

    A server on a laptop has its ssh connection from the start before, after the first one.
    """
    others = ["direct"] if place.is_direct else list(place.tunnels)
    with server(place, shared=False) as serving:
        for _ in range(_STARTS):
            for way in _shuffled(["farkernel", *others]):
                place.settle()
                seconds = _farkernel_start(serving) if way == "farkernel" else _bare_start(place, way)
                yield Sample("start to first result", way, seconds)


def start_in_image(place: Place) -> Iterator[Sample]:
    """The same in an image, beside the same kernel in the same image started by srun and the runtime alone."""
    with contextlib.ExitStack() as stack:
        servers = {
            runtime: stack.enter_context(server(place, shared=False, runtime=runtime)) for runtime in place.runtimes
        }
        for _ in range(_STARTS):
            for runtime in _shuffled(list(servers)):
                for way in _shuffled(["farkernel", "direct"]):
                    place.settle()
                    ours = way == "farkernel"
                    seconds = _farkernel_start(servers[runtime]) if ours else _runtimes_start(place, runtime)
                    yield Sample(image_row(runtime), way, seconds)


def _runtimes_start(place: Place, runtime: str) -> float:
    begin = time.perf_counter()
    with bare_kernel(place, runtime=runtime) as info, Client(info) as client:
        client.reply(client.send("1"))
        seconds = time.perf_counter() - begin
        client.send("quit()")  # a runtime that is killed may leave something to the next start
        place.settle()
    return seconds


def _farkernel_start(serving: Server) -> float:
    begin = time.perf_counter()
    kernel, info = serving.start()
    with Client(info) as client:
        client.reply(client.send("1"))
        seconds = time.perf_counter() - begin
    serving.stop(kernel)
    return seconds


def _bare_start(place: Place, way: str) -> float:
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        info = stack.enter_context(bare_kernel(place))
        if way != "direct":
            info = stack.enter_context(tunnel(info, place.tunnels[way]))
        client = stack.enter_context(Client(info))
        client.reply(client.send("1"))
        return time.perf_counter() - begin


def roundtrip(place: Place) -> Iterator[Sample]:
    """One execute_request after the other; the ways take turns with each."""
    with all_ways(place) as clients:
        taken: dict[str, list[float]] = {way: [] for way in clients}
        for number in range(-_WARMUP, _TRIPS):
            for way in _shuffled(list(clients)):
                if way in place.tunnels and number >= _TRIPS_OF_SSH:
                    continue
                begin = time.perf_counter()
                clients[way].run("1")
                if number >= 0:
                    taken[way].append((time.perf_counter() - begin) * 1e3)
    for way, times in taken.items():
        p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        yield Sample("execute_request p50", way, p50)
        yield Sample("execute_request p95", way, p95)
        if place.is_direct:
            yield Sample("execute_request p50, beside ssh", way, p50)


def throughput(place: Place) -> Iterator[Sample]:
    """Bursts of large messages on iopub."""
    with all_ways(place) as clients:
        for client in clients.values():
            client.run(_PUBLISH)
            client.run("publish(10)")
        for _ in range(_BURSTS):
            for way in _shuffled(list(clients)):
                arrived, seconds = _burst(clients[way])
                yield Sample("iopub, 200 messages of 1 MB", way, arrived * _MEGABYTE / 1e6 / seconds)
                yield Sample("the same, messages lost", way, _DISPLAYS - arrived)


def _burst(client: Client) -> tuple[int, float]:
    received: list[str] = []
    begin = time.perf_counter()
    client.run(f"publish({_DISPLAYS})", lambda message: received.append(message.type))
    return received.count("display_data"), time.perf_counter() - begin


def prints(place: Place) -> Iterator[Sample]:
    """A cell that prints line by line."""
    with all_ways(place) as clients:
        for way in _shuffled(list(clients)):
            lines = 0

            def on_output(message: wire.Message) -> None:
                nonlocal lines
                if message.type == "stream":
                    lines += message.content["text"].count("\n")

            begin = time.perf_counter()
            clients[way].run(f"for i in range({_PRINTS}): print(i, flush=True)", on_output)
            yield Sample("10,000 prints", way, time.perf_counter() - begin)
            yield Sample("the same, lines lost", way, _PRINTS - lines)


def _shuffled(ways: list[str]) -> list[str]:
    return random.sample(ways, len(ways))
