"""Addresses as others must use them: what listens on every interface is reached under a name of the machine."""

import re

_ENDPOINT = re.compile(r"tcp://(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})|ipc://\S{1,100}")
_WILDCARDS = {"*", "0.0.0.0", "::", "[::]"}  # noqa: S104 - recognised, not bound


def is_endpoint(address: str) -> bool:
    """True if a ZeroMQ socket can connect there, so far as its form shows."""
    match = _ENDPOINT.fullmatch(address)
    return match is not None and (match[1] is None or 0 < int(match[1]) < 65536)


def host_of(address: str) -> str:
    """Host of `scheme://host:port`, without the brackets of IPv6; empty for an address without one (`ipc://…`)."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        return ""
    return rest.partition("/")[0].rpartition(":")[0].strip("[]")


def reachable(address: str, advertise_host: str) -> str:
    """`address` with the advertised host, if it listens on every interface; else unchanged."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme == "ipc" or host not in _WILDCARDS:
        return address
    shown = f"[{advertise_host}]" if ":" in advertise_host else advertise_host
    return f"{scheme}://{shown}:{port}"
