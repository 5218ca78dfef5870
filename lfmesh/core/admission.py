"""Who may connect: bounds on connections, in total and for one client address. Pure; who asks holds the port's side.

What counts as one address is what one party has: an IPv4 address however it is written (`::ffff:192.0.2.1` is
192.0.2.1, RFC 4291, 2.5.5.2), and of IPv6 the first 64 bits, since whoever has one address there has all that begin
alike (RFC 6177) and could connect from each of them.
"""

from ipaddress import IPv6Address
from typing import Literal

_PREFIX_BITS = 64

Refusal = Literal["", "full", "address"]
"""Empty: admitted; `full`: too many in total; `address`: too many of this address."""


class Admissions:
    """Connections that were admitted and have not ended. `max_per_address` 0: no bound for one address.

    `full` comes first: it is the answer that does not depend on who asks.
    """

    __slots__ = ("_by_party", "_max_clients", "_max_per_address", "clients")

    def __init__(self, max_clients: int, max_per_address: int = 0) -> None:
        self.clients = 0
        """How many there are now."""
        self._max_clients = max_clients
        self._max_per_address = max_per_address
        self._by_party: dict[str, int] = {}

    def admit(self, address: str) -> Refusal:
        """Take one more connection of this address, or say why not. Every one that is taken is ended by a `leave`."""
        if self.clients >= self._max_clients:
            return "full"
        if self._max_per_address:
            party = party_of(address)
            count = self._by_party.get(party, 0)
            if count >= self._max_per_address:
                return "address"
            self._by_party[party] = count + 1
        self.clients += 1
        return ""

    def leave(self, address: str) -> None:
        """A connection that was admitted under this address has ended."""
        assert self.clients > 0
        self.clients -= 1
        if self._max_per_address:
            party = party_of(address)
            count = self._by_party[party] - 1
            if count:
                self._by_party[party] = count
            else:
                del self._by_party[party]


def party_of(address: str) -> str:
    """What is counted as one: see the module's docstring. What is no IP address stands for itself."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    shift = 128 - _PREFIX_BITS
    return f"{IPv6Address(int(parsed) >> shift << shift)}/{_PREFIX_BITS}"
