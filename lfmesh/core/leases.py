"""Leases of one registry replica: who lives, by its own word of less than a lease ago.

    announce ──► Joined | Renewed | Outdated | Full        leave ──► bool        expire ──► those whose lease ended

Soft state: a replica that has just started knows nobody and says that it is `warming` for one lease, after which
every living service has announced itself. A replica that was itself held up (its `expire` came too late) can't tell
who was silent from what it has not yet read, so it grants everybody a new lease and warms again.

Times are ns of a clock that never goes back (not the wall clock: a lease is a duration).
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from lfmesh.core.addresses import is_endpoint
from lfmesh.messages import ServiceName, ServiceRecord
from lfmesh.types import Role

MAX_NAME = 100
MAX_PRODUCTS = 2000
MAX_ENDPOINTS = 16
MAX_ADDRESS = 300


class Joined(NamedTuple):
    """The service is new, or a new incarnation, or says something else than before: the picture has changed."""

    record: ServiceRecord


class Renewed(NamedTuple):
    """The service was known; its lease goes on."""


class Outdated(NamedTuple):
    """A newer incarnation of this service is known; this one is not listed."""

    incarnation: int


class Full(NamedTuple):
    """No room for another service."""

    max_services: int


Announced = Joined | Renewed | Outdated | Full


class Leases:
    """Who lives. `version` grows by one with each call that changed the picture."""

    def __init__(self, ttl_ns: int, now: int, max_services: int = 10_000) -> None:
        self.version = 0
        self._ttl_ns = ttl_ns
        self._max_services = max_services
        self._warm_at = now + ttl_ns
        self._expired_at = now
        # Ordered by the end of the lease: every renewal goes to the end, all leases are equally long.
        self._leases: OrderedDict[ServiceName, tuple[ServiceRecord, int]] = OrderedDict()
        self._own: ServiceRecord | None = None

    def list_own(self, record: ServiceRecord) -> None:
        """List the replica itself, for as long as it lives."""
        self._own = record
        self.version += 1

    def announce(self, record: ServiceRecord, now: int) -> Announced:
        """A service says that it lives: one lease from now."""
        name = name_of(record)
        known = self._leases.get(name)
        if known is None:
            if len(self._leases) >= self._max_services:
                return Full(self._max_services)
        elif record.incarnation < known[0].incarnation:
            return Outdated(known[0].incarnation)
        self._leases[name] = (record, now + self._ttl_ns)
        self._leases.move_to_end(name)
        if known is not None and known[0] == record:
            return Renewed()
        self.version += 1
        return Joined(record)

    def leave(self, record: ServiceRecord) -> bool:
        """A service ends: True if that changed the picture (an older incarnation's farewell does not)."""
        name = name_of(record)
        known = self._leases.get(name)
        if known is None or record.incarnation < known[0].incarnation:
            return False
        del self._leases[name]
        self.version += 1
        return True

    def expire(self, now: int) -> list[ServiceRecord]:
        """End the leases that are over, and return whose they were. Call it several times a lease."""
        late, self._expired_at = now - self._expired_at > self._ttl_ns // 2, now
        if late:
            self._warm_at = now + self._ttl_ns
            self._leases = OrderedDict((name, (record, self._warm_at)) for name, (record, _) in self._leases.items())
            return []
        ended = []
        while self._leases:
            name, (record, until) = next(iter(self._leases.items()))
            if until > now:
                break
            del self._leases[name]
            ended.append(record)
        self.version += bool(ended)
        return ended

    def warming(self, now: int) -> bool:
        """True while it may not know everybody."""
        return now < self._warm_at

    def services(self) -> list[ServiceRecord]:
        """Everybody listed, the replica itself first."""
        listed = [record for record, _ in self._leases.values()]
        return listed if self._own is None else [self._own, *listed]


def name_of(record: ServiceRecord) -> ServiceName:
    """What a service is known by."""
    return ServiceName(record.role, record.instance)


def fault(record: ServiceRecord) -> str | None:
    """Why a registry does not list such a record, or None."""
    return next(_faults(record), None)


def _faults(record: ServiceRecord) -> Iterator[str]:
    if not 1 <= len(record.instance) <= MAX_NAME or not record.instance.isprintable():
        yield f"an instance's name has 1 to {MAX_NAME} printable characters"
    if record.role is Role.REGISTRY:
        yield "registry replicas do not list one another"
    if record.incarnation < 0:
        yield "an incarnation is not negative"
    if len(record.products) > MAX_PRODUCTS or any(len(product) > MAX_NAME for product in record.products):
        yield f"a service names at most {MAX_PRODUCTS} products of at most {MAX_NAME} characters"
    if len(record.endpoints) > MAX_ENDPOINTS:
        yield f"a service has at most {MAX_ENDPOINTS} endpoints"
    for name, address in record.endpoints.items():
        if len(name) > MAX_NAME or len(address) > MAX_ADDRESS or not is_endpoint(address):
            yield f"the endpoint {name[:MAX_NAME]!r} must be tcp://HOST:PORT or ipc://PATH, not {address[:60]!r}"
