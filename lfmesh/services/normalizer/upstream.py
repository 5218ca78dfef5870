"""The ingestors of a shard: their numbered records in order, and what is missing asked of their replay rings.

Per process of an ingestor (its id and incarnation) one `Follower` of record numbers. It begins after the record that is
known to have been dealt with by an earlier normalizer, else before number 1, so that whatever comes first leads to a
replay from there; what the ring no longer has is given up, and said so.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from lfmesh import messages
from lfmesh.core.codec import RawHeader, RawRecord, unpack_raw
from lfmesh.core.feed import BEACON_INTERVAL_NS, MISSED_BEACONS
from lfmesh.core.recovery import (
    Accepted,
    Based,
    Dropped,
    Fact,
    Follower,
    FollowerLimits,
    GapClosed,
    GapOpened,
    Opened,
    Wanted,
)
from lfmesh.core.repeat import Repeats
from lfmesh.core.sharding import stable_id
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import (
    BackfillRequest,
    Rejected,
    RelinkRequest,
    ReplayRequest,
    Reply,
    ResyncRequest,
    ServiceRecord,
    Unavailable,
)
from lfmesh.ports import Context
from lfmesh.transport import Requester, Transport
from lfmesh.types import InputPosition, Position, Role

LIMITS = FollowerLimits(held_items=50_000, held_bytes=64 * 1024 * 1024, retry_ns=1_000_000_000, retransmit_attempts=3)
REPLAY_TIMEOUT_S = 2.0
RELINK_TICKS = frozenset((10, 30, 70, 150, 310, 630))
"""After so many missed beacons an ingestor is asked to push over a new connection."""
RELINK_TIMEOUT_S = 1.0
RESYNC_TIMEOUT_S = 2.0
BACKFILL_TIMEOUT_S = 1.0
SLICE_BYTES = 256 * 1024
"""A replay's answer is worked off in slices of this size, one a turn of the loop: live frames come in between."""
FRUITLESS_ASKS = 3
"""After so many refusals that nothing explains, what is missing is given up."""

type Take = Callable[[int, int, int, Sequence[RawRecord]], None]


@dataclass(slots=True, eq=False)
class Upstream:
    """One process of an ingestor. `unproven`: it begins after a restored record, and the next one has not come yet."""

    ingestor: int
    incarnation: int
    follower: Follower[RawRecord]
    oldest_number: int = 1
    newest_number: int = 0
    heard: bool = True
    missed_ticks: int = 0
    silent: bool = False
    asking: bool = False
    asked_first: int = 0
    met: bool = False
    unproven: bool = False
    fruitless: int = 0
    replayed: deque[bytes] = field(default_factory=deque)


@dataclass(slots=True)
class Peer:
    """An ingestor as the registry knows it, and the way to ask it."""

    record: ServiceRecord
    requester: Requester


@dataclass(frozen=True, slots=True)
class Events:
    """What the owner of the ingestors is told.

    `take`: records, in order. `lost`: some of this ingestor's can't be had any more. `replaced`: a new process of this
    ingestor speaks. `broken`, before one of these: nothing came of this ingestor that follows the record at which it
    was to begin. `behind`: an ingestor was met that has so many records already. `heard`: it has fallen silent (True),
    or is heard again. `begin` and `flush` enclose what happens beside the owner's own turns: answers of ingestors.
    """

    take: Take
    lost: Callable[[int], None]
    replaced: Callable[[int], None]
    broken: Callable[[int], None]
    behind: Callable[[int, int], None]
    heard: Callable[[int, bool], None]
    begin: Callable[[], int]
    flush: Callable[[], None]


class Upstreams:
    """All ingestors of one shard. Call its methods between `begin` and `flush` of the owner's turn.

    `begins` are the last records that were dealt with before, one of each ingestor that is known. `instance` is our
    own name.
    """

    def __init__(
        self, shard: int, transport: Transport, context: Context, events: Events,
        begins: Iterable[InputPosition] = (), instance: str = "",
    ) -> None:  # fmt: skip
        self._instance = instance
        self._shard = shard
        self._transport = transport
        self._log = context.log
        self._events = events
        self._by_id = {begin.ingestor: _upstream(begin, unproven=True) for begin in begins}
        self._peers: dict[int, Peer] = {}
        self._loop = asyncio.get_running_loop()
        self._ticked_at = 0
        self._repeats = Repeats()
        self.refused: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.gaps = 0
        self.lost_records = 0
        self.replay_requests = 0
        self.resync_requests = 0
        self.backfill_requests = 0
        self.backfills_refused = 0

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def attached(self) -> int:
        """Ingestors that are heard."""
        return sum(upstream.met and not upstream.silent for upstream in self._by_id.values())

    @property
    def held(self) -> int:
        """Records held back until those before them have come."""
        return sum(upstream.follower.held_items for upstream in self._by_id.values())

    @property
    def waiting(self) -> int:
        """Frames of replays that are not worked off yet."""
        return sum(len(upstream.replayed) for upstream in self._by_id.values())

    def gapped(self) -> list[str]:
        """Names of the ingestors of which records are known to be missing."""
        return [
            self._name(upstream)
            for upstream in self._by_id.values()
            if upstream.follower.gapped and not upstream.silent
        ]

    # What arrives -----------------------------------------------------------------------------------------------

    def frame(self, frame: bytes, now: int) -> None:
        """A frame from the raw socket."""
        try:
            header, records = unpack_raw(frame)
        except BadMeshFrame as error:
            self._refuse_unreadable(error, now)
            return
        if header.shard != self._shard:
            self.refused["other_shard"] += 1
            return
        upstream = self._upstream(header)
        if upstream is None:
            self.refused["old_incarnation"] += 1
            return
        upstream.heard = True
        upstream.oldest_number = header.oldest_number
        upstream.newest_number = max(upstream.newest_number, header.first_number + len(records) - 1)
        if not upstream.met:
            upstream.met = True
            self._log.info(
                "ingestor attached", ingestor=self._name(upstream), incarnation=header.incarnation,
                after=upstream.follower.position.seq if upstream.follower.position else 0,
            )  # fmt: skip
            if upstream.follower.position is None or header.first_number > upstream.follower.position.seq + 1:
                self._events.behind(upstream.ingestor, upstream.newest_number)
        follower = upstream.follower
        if records:
            facts = follower.increments(header.incarnation, header.first_number, records, now)
        else:  # a beacon, or a batch of nothing, which says no more
            facts = follower.beacon(Position(header.incarnation, header.first_number - 1), now)
        self._carry_out(upstream, facts, now)

    def _refuse_unreadable(self, error: BadMeshFrame, now: int) -> None:
        self.refused["bad_frame"] += 1
        if (held_back := self._repeats.admit("bad_frame", now)) is not None:
            self._log.warning("an ingestor's frame can't be read", error=str(error), held_back=held_back)

    def _upstream(self, header: RawHeader) -> Upstream | None:
        """Who the frame is from; None for a process that has been replaced."""
        known = self._by_id.get(header.ingestor)
        if known is not None:
            if known.incarnation == header.incarnation:
                return known
            if known.incarnation > header.incarnation:
                return None
            self._prove(known, broken=True)
            self._events.replaced(header.ingestor)
        begin = InputPosition(header.ingestor, header.incarnation, 0)
        upstream = self._by_id[header.ingestor] = _upstream(begin, unproven=False)
        return upstream

    def _prove(self, upstream: Upstream, *, broken: bool) -> None:
        """Whether what comes of this ingestor follows the record at which it began has turned out."""
        if upstream.unproven:
            upstream.unproven = False
            if broken:
                self._events.broken(upstream.ingestor)

    def _carry_out(self, upstream: Upstream, facts: Iterable[Fact[RawRecord]], now: int) -> None:
        for fact in facts:
            match fact:
                case Accepted(_, first, items):
                    upstream.fruitless = 0
                    upstream.unproven = False
                    self._events.take(upstream.ingestor, upstream.incarnation, first, items)
                case Dropped(count, why):
                    self.dropped[why] += count
                case Wanted():
                    self._want(upstream, now)
                case GapOpened(last, seen):
                    self.gaps += 1
                    first = last.seq + 1 if last is not None else 1
                    self._log.info("raw records missing", ingestor=self._name(upstream), first=first, newest=seen.seq)
                case GapClosed(rung, open_ns):
                    self._log.info(
                        "raw records whole again",
                        ingestor=self._name(upstream), rung=rung, after_ms=round(open_ns / 1e6, 1),
                    )  # fmt: skip
                case Based() | Opened():
                    pass
                case _:
                    assert_never(fact)

    # Replay -----------------------------------------------------------------------------------------------------

    def _want(self, upstream: Upstream, now: int) -> None:
        """Give up what no ring has any more; ask for the rest, whatever rung the follower is on: there is one."""
        follower = upstream.follower
        assert follower.position is not None
        first = follower.position.seq + 1
        oldest = upstream.oldest_number
        if upstream.fruitless >= FRUITLESS_ASKS:
            oldest = upstream.newest_number + 1
        if oldest > first:
            self._give_up(upstream, first, oldest - 1, now)
            if not follower.gapped:
                return
            first = oldest
        peer = self._peers.get(upstream.ingestor)
        if peer is None or upstream.asking or upstream.replayed:
            return
        upstream.asking, upstream.asked_first = True, first
        self.replay_requests += 1
        request = ReplayRequest(self._shard, upstream.incarnation, first, 0)
        peer.requester.ask(
            messages.encode(request), lambda reply: self._replay_answered(upstream, reply), REPLAY_TIMEOUT_S
        )

    def _give_up(self, upstream: Upstream, first: int, last: int, now: int) -> None:
        self.lost_records += last - first + 1
        upstream.fruitless = 0
        self._log.warning("raw records lost", ingestor=self._name(upstream), first=first, last=last)
        self._prove(upstream, broken=True)
        self._events.lost(upstream.ingestor)
        self._carry_out(upstream, upstream.follower.base(Position(upstream.incarnation, last), now), now)

    def _replay_answered(self, upstream: Upstream, reply: Sequence[bytes] | None) -> None:
        upstream.asking = False
        if reply is None or self._by_id.get(upstream.ingestor) is not upstream:
            return  # the follower asks again when its time has come
        try:
            header = messages.decode_reply(reply[0])
        except BadMeshFrame as error:
            self._log.warning("an ingestor's answer can't be read", error=str(error))
            return
        match header:
            case Reply():
                upstream.replayed.extend(reply[1:])
                self._work_off(upstream)
            case Unavailable(reason) | Rejected(reason):
                upstream.fruitless += 1
                self._log.info("replay refused", ingestor=self._name(upstream), reason=reason)
                now = self._events.begin()
                self._carry_out(upstream, upstream.follower.unavailable(now), now)
                self._events.flush()
            case _:
                self._log.warning("an ingestor's answer has the wrong kind", kind=type(header).__name__)

    def _work_off(self, upstream: Upstream) -> None:
        """One slice of a replay's answer."""
        if self._by_id.get(upstream.ingestor) is not upstream:
            return
        now = self._events.begin()
        replayed, size = upstream.replayed, 0
        while replayed and size < SLICE_BYTES:
            frame = replayed.popleft()
            size += len(frame)
            self._replayed(upstream, frame, now)
        if replayed:
            self._loop.call_soon(self._work_off, upstream)
        else:
            at = upstream.follower.position
            if at is not None and at.seq < upstream.asked_first:
                upstream.fruitless += 1
            self._carry_out(upstream, upstream.follower.answered(now), now)
        self._events.flush()

    def _replayed(self, upstream: Upstream, frame: bytes, now: int) -> None:
        try:
            header, records = unpack_raw(frame)
        except BadMeshFrame as error:
            self._refuse_unreadable(error, now)
            return
        if header.shard != self._shard or header.incarnation != upstream.incarnation or not records:
            self.refused["not_asked_for"] += 1
            return
        facts = upstream.follower.increments(header.incarnation, header.first_number, records, now, answer=True)
        self._carry_out(upstream, facts, now)

    # Time and peers ---------------------------------------------------------------------------------------------

    def tick(self, now: int) -> None:
        """Call at each beacon: who is silent, and what is to be asked again.

        A tick that comes late itself says nothing about the ingestors: what they sent may be waiting to be read.
        """
        late = now - self._ticked_at > 2 * BEACON_INTERVAL_NS
        self._ticked_at = now
        for upstream in self._by_id.values():
            if upstream.heard:
                upstream.heard, upstream.missed_ticks = False, 0
                if upstream.silent:
                    upstream.silent = False
                    self._note_silence(upstream)
            elif not late:
                upstream.missed_ticks += 1
                if upstream.missed_ticks > MISSED_BEACONS and not upstream.silent:
                    upstream.silent = True
                    self._note_silence(upstream)
                if upstream.missed_ticks in RELINK_TICKS:
                    self._relink(upstream)
            if upstream.follower.gapped and not upstream.replayed:
                self._carry_out(upstream, upstream.follower.tick(now), now)

    def _relink(self, upstream: Upstream) -> None:
        """Its link may swallow what it sends while it does not notice; if it is away itself, nobody answers."""
        peer = self._peers.get(upstream.ingestor)
        if peer is not None:
            peer.requester.reconnect()
            peer.requester.ask(messages.encode(RelinkRequest(self._instance)), lambda _: None, RELINK_TIMEOUT_S)

    def _note_silence(self, upstream: Upstream) -> None:
        event = "ingestor silent" if upstream.silent else "ingestor heard again"
        self._log.warning(event, ingestor=self._name(upstream))
        self._events.heard(upstream.ingestor, upstream.silent)

    def on_peers(self, records: Iterable[ServiceRecord], now: int) -> None:
        """The merged view of the mesh has changed."""
        present = {stable_id(record.instance): record for record in records if record.role is Role.INGESTOR}
        for ingestor, record in present.items():
            self._meet(ingestor, record, now)
        for ingestor in self._peers.keys() - present.keys():
            upstream = self._by_id.get(ingestor)
            if upstream is None or upstream.silent:
                self._peers.pop(ingestor).requester.close()

    def _meet(self, ingestor: int, record: ServiceRecord, now: int) -> None:
        endpoint = record.endpoints.get("requests")
        known = self._peers.get(ingestor)
        if endpoint is None:
            return
        if known is not None:
            if record.incarnation < known.record.incarnation:
                return
            if known.requester.endpoint == endpoint and known.record.incarnation == record.incarnation:
                known.record = record
                return
            known.requester.close()
        self._peers[ingestor] = Peer(record, Requester(self._transport, endpoint))
        upstream = self._by_id.get(ingestor)
        if upstream is not None and upstream.follower.gapped:
            self._want(upstream, now)

    def close(self) -> None:
        """Ask nobody any more."""
        for peer in self._peers.values():
            peer.requester.close()
        self._peers.clear()
        self._by_id.clear()

    # Resync -----------------------------------------------------------------------------------------------------

    def ask_resync(self, products: Iterable[tuple[str, int | None]]) -> None:
        """Ask for these products' books anew, each of the ingestor that brings it (None: of any that carries it)."""
        wanted: dict[int, list[str]] = {}
        for product, source in products:
            ingestor = source if source in self._peers else self._carrier_of(product)
            if ingestor is not None:
                wanted.setdefault(ingestor, []).append(product)
        for ingestor, names in wanted.items():
            self.resync_requests += len(names)
            peer = self._peers[ingestor]
            self._log.info("books asked anew", ingestor=peer.record.instance, products=names)
            peer.requester.ask(messages.encode(ResyncRequest(names)), self._resync_answered, RESYNC_TIMEOUT_S)

    def _carrier_of(self, product: str) -> int | None:
        for ingestor, peer in self._peers.items():
            if not peer.record.products or product in peer.record.products:
                return ingestor
        return None

    # Backfill ---------------------------------------------------------------------------------------------------

    def ask_backfill(self, product: str, ingestors: Sequence[int], first: int, last: int) -> None:
        """Ask for these trades over REST, of the first of these ingestors that takes the request."""
        known = [ingestor for ingestor in ingestors if ingestor in self._peers]
        if known:
            self.backfill_requests += 1
            self._peers[known[0]].requester.ask(
                messages.encode(BackfillRequest(product, first, last)),
                lambda reply: self._backfill_answered(product, known[1:], first, last, reply),
                BACKFILL_TIMEOUT_S,
            )

    def _backfill_answered(
        self, product: str, others: Sequence[int], first: int, last: int, reply: Sequence[bytes] | None
    ) -> None:
        try:
            header = messages.decode_reply(reply[0]) if reply is not None else None
        except BadMeshFrame as error:
            self._log.warning("an ingestor's answer can't be read", error=str(error))
            return
        if isinstance(header, Reply):
            return
        self.backfills_refused += 1
        reason = getattr(header, "reason", "no answer")
        self._log.info("backfill refused", product=product, from_trade_id=first, to_trade_id=last, reason=reason)
        self.ask_backfill(product, others, first, last)

    def _resync_answered(self, reply: Sequence[bytes] | None) -> None:
        if reply is None:
            return  # asked again in time
        try:
            header = messages.decode_reply(reply[0])
        except BadMeshFrame as error:
            self._log.warning("an ingestor's answer can't be read", error=str(error))
            return
        if isinstance(header, Unavailable | Rejected):
            self._log.warning("resync refused", reason=header.reason)

    def _name(self, upstream: Upstream) -> str:
        return self.name_of(upstream.ingestor)

    def name_of(self, ingestor: int) -> str:
        """The name of an ingestor for the log; its id where the registry does not know it."""
        peer = self._peers.get(ingestor)
        return peer.record.instance if peer is not None else f"{ingestor:016x}"


def _upstream(begin: InputPosition, *, unproven: bool) -> Upstream:
    follower: Follower[RawRecord] = Follower(
        "snapshot", LIMITS, Position(begin.incarnation, begin.number), size_of=lambda record: len(record.body)
    )
    return Upstream(begin.ingestor, begin.incarnation, follower, heard=not unproven, unproven=unproven)
