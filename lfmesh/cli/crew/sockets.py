"""Listening sockets on one port, between which the kernel shares out new connections (SO_REUSEPORT, Linux).

The supervisor holds them all, also while a worker is away: its connections wait for its successor, and none is refused.
The kernel chooses by a hash of both ends' addresses and ports, so shares are even only over many connections.
"""

import socket
from typing import cast

from lfmesh.errors import ConfigError
from lfmesh.observe.http import listening

BACKLOG = 4096


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets that listen on one port (0: the system chooses); ConfigError, PortInUse or BadEndpoint.

    A name is listened on at its first address, an IPv4 one if there is any.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError(f"gateway.workers = {count} needs SO_REUSEPORT, which this platform has not; use 1")
    sockets: list[socket.socket] = []
    try:
        with listening(host, port):
            family, address = _resolve(host, port)
            # Bound before it may share its port, the first one meets whoever is there already, as any server does;
            # otherwise two gateways that are given the same port by mistake would share it without a word.
            sockets.append(_bound(family, address, shared=False))
            sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            same = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.extend(_bound(family, same, shared=True) for _ in range(1, count))
            for one in sockets:
                one.listen(BACKLOG)
    except BaseException:
        close(sockets)
        raise
    return sockets


def close(sockets: list[socket.socket]) -> None:
    """Let go of them."""
    for one in sockets:
        one.close()


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str | int, ...]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda one: one[0] is not socket.AF_INET)
    return family, cast("tuple[str | int, ...]", address)  # as bytes only in a Python without IPv6


def _bound(family: socket.AddressFamily, address: tuple[str | int, ...], *, shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one
