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

SILENT_NS = 1_000_000_000
"""A publisher that is not heard for so long, or a link to it, is down."""
UNLISTED_NS = 60_000_000_000
"""Who is neither listed nor heard for so long is left."""
REBUILD_MAX_PAUSE_NS = 8_000_000_000
LATE_NS = 400_000_000
"""Who comes to `watch` later than this after the last time was held up itself, and can't say who was silent."""
UNANSWERED = 2
"""So many requests in a row without an answer make a new socket."""

_NEEDED = {Role.NORMALIZER: ("market_data", "requests"), Role.SNAPSHOTTER: ("requests",)}


@dataclass(slots=True)
class _Link:
    record: ServiceRecord
    requester: Requester
    listed: bool = True
    unlisted_at: int | None = None
    well_at: int | None = None
    """When its shard was last heard, or its sockets were made."""
    pause_ns: int = SILENT_NS


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
        self._turns = 0
        self._watched_at = 0
        self.awake_since = 0
        """Before that we were held up ourselves: what came meanwhile may be unread, and nobody was silent."""
        self.rebuilt_total = 0
        """Links that were given new sockets because nothing came over them."""

    def names(self, role: Role, shard: int) -> list[str]:
        """Instances of a role that are linked for a shard, and listed."""
        return sorted(link.record.instance for link in self._of(role, shard) if link.listed)

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

    def leave_unlisted(self, heard: Callable[[ServiceRecord], bool], now: int | None = None) -> list[ServiceRecord]:
        """Drop the links that are listed no more, but for those that are `heard`; returns them.

        With the time they are kept for UNLISTED_NS, without it they are dropped at once.
        """
        left = [name for name, link in self._links.items() if not heard(link.record) and _is_left(link, now)]
        gone = []
        for name in left:
            link = self._links.pop(name)
            if link.record.role is Role.NORMALIZER:
                self._subscriber.disconnect(link.record.endpoints["market_data"])
            link.requester.close()
            gone.append(link.record)
        return gone

    def normalizer(self, shard: int, publisher: int) -> Requester | None:
        """Where to ask for what was published: the publisher of the highest term; while none is known, by turns."""
        links = list(self._of(Role.NORMALIZER, shard))
        for link in links:
            if stable_id(link.record.instance) == publisher:
                return link.requester
        return self._by_turns(links)

    def snapshotter(self, shard: int) -> Requester | None:
        """Where to ask for state first; of several, by turns."""
        return self._by_turns(list(self._of(Role.SNAPSHOTTER, shard)))

    def snapshotters(self, shard: int) -> list[Requester]:
        """All of those that can be asked, in the order of their names."""
        links = list(self._of(Role.SNAPSHOTTER, shard))
        links = [link for link in links if link.listed] or links
        return [link.requester for link in sorted(links, key=lambda link: link.record.instance)]

    def watch(self, shard: int, heard_at: int | None, now: int) -> None:
        """Make new sockets where nothing comes; call it for each shard, about ten times a second.

        `heard_at` is when the shard's publisher was heard last.
        """
        if now - self._watched_at > LATE_NS:
            self.awake_since = now
        self._watched_at = now
        for link in (*self._of(Role.NORMALIZER, shard), *self._of(Role.SNAPSHOTTER, shard)):
            if link.well_at is None:
                link.well_at = now
            silent = link.record.role is Role.NORMALIZER
            if silent and heard_at is not None and now - heard_at < SILENT_NS:
                link.well_at, link.pause_ns, silent = heard_at, SILENT_NS, False
            link.well_at = max(link.well_at, self.awake_since)
            if silent and now - link.well_at >= link.pause_ns:
                link.well_at, link.pause_ns = now, min(2 * link.pause_ns, REBUILD_MAX_PAUSE_NS)
                self._subscriber.reconnect(link.record.endpoints["market_data"])
                link.requester.reconnect()
                self.rebuilt_total += 1
            elif link.requester.unanswered >= UNANSWERED:
                link.requester.reconnect()
                self.rebuilt_total += 1

    def _by_turns(self, links: list[_Link]) -> Requester | None:
        links = [link for link in links if link.listed] or links
        links.sort(key=lambda link: link.record.incarnation, reverse=True)
        self._turns += 1
        return links[self._turns % len(links)].requester if links else None

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


def _is_left(link: _Link, now: int | None) -> bool:
    if link.listed:
        link.unlisted_at = None
        return False
    if now is None:
        return True
    if link.unlisted_at is None:
        link.unlisted_at = now
    return now - link.unlisted_at >= UNLISTED_NS


def _supersedes(record: ServiceRecord, known: ServiceRecord) -> bool:
    """True if it is a newer process, or has moved."""
    if record.incarnation != known.incarnation:
        return record.incarnation > known.incarnation
    return record.endpoints != known.endpoints
