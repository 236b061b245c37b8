"""Which of a host's addresses can be reached: asked by the side that is to connect, whichever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


class Unreachable(Exception):
    """No address lets us connect; the text names each with the system's words."""


async def first_reachable(addresses: Sequence[str], port: int, *, timeout: float) -> str:
    """Try all at once, and return the numeric address of the first that takes a TCP connection.

    :param addresses: host names, IPv4 and IPv6 addresses
    :param timeout: seconds for all of them
    :raises Unreachable: none does
    """
    attempts = {address: asyncio.ensure_future(_try(address, port)) for address in addresses}
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


async def _try(address: str, port: int) -> tuple[str, str]:
    """Return the numeric address that a connection leads to, or why there is none."""
    try:
        _, writer = await asyncio.open_connection(address, port)
    except (OSError, OverflowError, ValueError) as error:  # a port or a name that there cannot be
        return "", getattr(error, "strerror", None) or str(error)
    reached: str = writer.get_extra_info("peername")[0]
    writer.close()
    return reached, ""
