"""Who publishes this shard, and the sockets towards them.

One SUB is connected to every normalizer of the shard (active and standby: terms tell whose word counts), and one DEALER
to each for requests. A peer that is listed no more is kept as long as its beacons come.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lfmesh.core.sharding import stable_id
from lfmesh.errors import BadEndpoint
from lfmesh.messages import ServiceRecord
from lfmesh.transport import Requester, Subscriber, Transport
from lfmesh.types import Role


@dataclass(slots=True)
class _Link:
    record: ServiceRecord
    market_data: str
    requester: Requester
    listed: bool = True


class NormalizerLinks:
    """The links of one shard's consumer; `subscriber` is connected and disconnected here."""

    def __init__(self, transport: Transport, subscriber: Subscriber, shard: int) -> None:
        self._transport = transport
        self._subscriber = subscriber
        self._shard = shard
        self._links: dict[str, _Link] = {}

    @property
    def names(self) -> list[str]:
        """Instances that are linked."""
        return sorted(self._links)

    def update(self, peers: Iterable[ServiceRecord]) -> tuple[list[ServiceRecord], list[BadEndpoint]]:
        """Follow the mesh's view; returns who was linked now, and addresses that are none."""
        attached = []
        faults = []
        for link in self._links.values():
            link.listed = False
        for record in peers:
            if record.role is not Role.NORMALIZER or record.shard != self._shard:
                continue
            if "market_data" not in record.endpoints or "requests" not in record.endpoints:
                continue
            known = self._links.get(record.instance)
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

    def leave_silent(self, publisher: int, *, silent: bool) -> list[str]:
        """Drop the links that are listed no more, but for a publisher that is heard; returns the names."""
        left = [
            name for name, link in self._links.items() if not link.listed and (silent or stable_id(name) != publisher)
        ]
        for name in left:
            link = self._links.pop(name)
            self._subscriber.disconnect(link.market_data)
            link.requester.close()
        return left

    def requester(self, publisher: int) -> Requester | None:
        """Where to ask: the publisher of the highest term, else the newest process there is."""
        newest: _Link | None = None
        for name, link in self._links.items():
            if stable_id(name) == publisher:
                return link.requester
            if newest is None or link.record.incarnation > newest.record.incarnation:
                newest = link
        return None if newest is None else newest.requester

    def _attach(self, record: ServiceRecord, known: _Link | None) -> None:
        market_data, requests = record.endpoints["market_data"], record.endpoints["requests"]
        requester = Requester(self._transport, requests)
        if known is None or known.market_data != market_data:
            try:
                self._subscriber.connect(market_data)
            except BadEndpoint:
                requester.close()
                raise
            if known is not None:
                self._subscriber.disconnect(known.market_data)
        if known is not None:
            known.requester.close()
        self._links[record.instance] = _Link(record, market_data, requester)


def _supersedes(record: ServiceRecord, known: ServiceRecord) -> bool:
    """True if it is a newer process, or has moved."""
    if record.incarnation != known.incarnation:
        return record.incarnation > known.incarnation
    return record.endpoints != known.endpoints
