"""Names of registry replicas to addresses: a name may stand for several (a headless service), and they may change.

Look-ups run on a daemon thread, so that a name server that does not answer never holds up the end of the process.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from lfmesh.core.addresses import host_of

Resolved = dict[str, tuple[str, ...]]
"""Endpoint as configured → endpoints with numeric addresses; empty where the name is not known (now)."""


def is_numeric(endpoint: str) -> bool:
    """True if there is no name in it to look up (`ipc://`, or a numeric address)."""
    host = host_of(endpoint)
    if not host:
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def resolve(endpoints: Iterable[str], on_resolved: Callable[[Resolved], None]) -> None:
    """Look the names up; `on_resolved` is called in the running loop, unless that has been closed by then."""
    loop = asyncio.get_running_loop()
    asked = tuple(endpoints)

    def work() -> None:
        found = {endpoint: _addresses(endpoint) for endpoint in asked}
        try:
            loop.call_soon_threadsafe(on_resolved, found)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits for the answer any more
            return

    threading.Thread(target=work, name="resolve", daemon=True).start()


def _addresses(endpoint: str) -> tuple[str, ...]:
    if is_numeric(endpoint):
        return (endpoint,)
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    try:
        # IPv4: ZeroMQ sockets speak IPv6 only when told to.
        found = socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(sorted({f"{scheme}://{address[4][0]}:{port}" for address in found}))
