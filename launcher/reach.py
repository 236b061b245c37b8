"""Which of a host's addresses can be reached: asked by the side that is to connect, whichever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence


class Unreachable(Exception):
    """No address lets us connect; the text names each with the system's words."""


Probe = Callable[[str, int], Awaitable[tuple[str, str]]]
"""Tries an address and a port: returns the address that a connection leads to, or none and why."""


async def try_address(address: str, port: int) -> tuple[str, str]:
    """Try to connect from this host: a `Probe` that returns a numeric address."""
    try:
        _, writer = await asyncio.open_connection(address, port)
    except (OSError, OverflowError, ValueError) as error:  # a port or a name that there cannot be
        return "", getattr(error, "strerror", None) or str(error)
    reached: str = writer.get_extra_info("peername")[0]
    writer.close()
    return reached, ""


async def first_reachable(addresses: Sequence[str], port: int, *, timeout: float, probe: Probe = try_address) -> str:
    """Try all at once, and return the address of the first that takes a TCP connection, a numeric one from this host.

    :param addresses: host names, IPv4 and IPv6 addresses
    :param timeout: seconds for all of them
    :raises Unreachable: none does
    """
    attempts = {address: asyncio.ensure_future(probe(address, port)) for address in addresses}
    why = dict.fromkeys(addresses, "no answer")
    try:
        async with asyncio.timeout(timeout):
            for attempt in asyncio.as_completed(attempts.values()):
                await attempt
                for address, task in attempts.items():
                    if task.done():
                        reached, why[address] = task.result()
                        if reached:
                            return reached
    except TimeoutError:
        pass
    finally:
        for task in attempts.values():
            task.cancel()
    raise Unreachable("; ".join(f"{with_port(address, port)}: {reason}" for address, reason in why.items()))


def with_port(address: str, port: int) -> str:
    """Write an address and a port as URLs have them (RFC 3986, 3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
