"""A consumer's links into the mesh: who publishes and who holds state, and the sockets towards them.

Snapshotter and gateway use it alike. One SUB is connected to every normalizer (active and standby: terms tell whose
word counts), and one DEALER to each normalizer and snapshotter for requests. A normalizer that is listed no more is
kept as long as its beacons come.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from lfmesh.core.sharding import stable_id
from lfmesh.errors import BadEndpoint
from lfmesh.messages import ServiceRecord
from lfmesh.transport import Requester, Subscriber, Transport
from lfmesh.types import Role

_NEEDED = {Role.NORMALIZER: ("market_data", "requests"), Role.SNAPSHOTTER: ("requests",)}


@dataclass(slots=True)
class _Link:
    record: ServiceRecord
    requester: Requester
    listed: bool = True


class Links:
    """The links to services of these roles and shards; `subscriber` is connected and disconnected here."""

    def __init__(
        self, transport: Transport, subscriber: Subscriber, roles: Collection[Role], shards: Collection[int]
    ) -> None:
        self._transport = transport
        self._subscriber = subscriber
        self._roles = roles
        self._shards = shards
        self._links: dict[tuple[Role, str], _Link] = {}

    def names(self, role: Role, shard: int) -> list[str]:
        """Instances of a role that are linked for a shard."""
        return sorted(link.record.instance for link in self._of(role, shard))

    def update(self, peers: Iterable[ServiceRecord]) -> tuple[list[ServiceRecord], list[BadEndpoint]]:
        """Follow the mesh's view; returns who was linked now, and addresses that are none."""
        attached = []
        faults = []
        for link in self._links.values():
            link.listed = False
        for record in peers:
            if not self._wanted(record):
                continue
            known = self._links.get((record.role, record.instance))
            if known is not None and not _supersedes(record, known.record):
                known.listed = True
                continue
            try:
                self._attach(record, known)
            except BadEndpoint as error:
                faults.append(error)
            else:
                attached.append(record)
        return attached, faults

    def leave_unlisted(self, heard: Callable[[ServiceRecord], bool]) -> list[ServiceRecord]:
        """Drop the links that are listed no more, but for those that are `heard`; returns them."""
        left = [name for name, link in self._links.items() if not link.listed and not heard(link.record)]
        gone = []
        for name in left:
            link = self._links.pop(name)
            if link.record.role is Role.NORMALIZER:
                self._subscriber.disconnect(link.record.endpoints["market_data"])
            link.requester.close()
            gone.append(link.record)
        return gone

    def normalizer(self, shard: int, publisher: int) -> Requester | None:
        """Where to ask for what was published: the publisher of the highest term, else the newest process there is."""
        links = list(self._of(Role.NORMALIZER, shard))
        active = next((link for link in links if stable_id(link.record.instance) == publisher), None)
        return (active or _newest(links)).requester if links else None

    def snapshotter(self, shard: int) -> Requester | None:
        """Where to ask for state first."""
        links = list(self._of(Role.SNAPSHOTTER, shard))
        return _newest(links).requester if links else None

    def _of(self, role: Role, shard: int) -> Iterator[_Link]:
        return (link for (kind, _), link in self._links.items() if kind is role and link.record.shard == shard)

    def _wanted(self, record: ServiceRecord) -> bool:
        if record.role not in self._roles or record.shard not in self._shards:
            return False
        return all(name in record.endpoints for name in _NEEDED[record.role])

    def _attach(self, record: ServiceRecord, known: _Link | None) -> None:
        requester = Requester(self._transport, record.endpoints["requests"])
        if record.role is Role.NORMALIZER:
            market_data = record.endpoints["market_data"]
            before = known.record.endpoints["market_data"] if known is not None else None
            if before != market_data:
                try:
                    self._subscriber.connect(market_data)
                except BadEndpoint:
                    requester.close()
                    raise
                if before is not None:
                    self._subscriber.disconnect(before)
        if known is not None:
            known.requester.close()
        self._links[record.role, record.instance] = _Link(record, requester)


def _newest(links: list[_Link]) -> _Link:
    return max(links, key=lambda link: link.record.incarnation)


def _supersedes(record: ServiceRecord, known: ServiceRecord) -> bool:
    """True if it is a newer process, or has moved."""
    if record.incarnation != known.incarnation:
        return record.incarnation > known.incarnation
    return record.endpoints != known.endpoints
