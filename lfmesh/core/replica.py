"""A shard's streams followed as state, pure: frames, beacons and answers in; state, requests and events out.

    frames, beacons ──► Feed ──► facts ──► ShardState, Wants, counters, events

The snapshotter and a standby normalizer follow alike. The owner sends what `wants` holds, gives the answers to
`answer`, and logs the events; subclasses are told what has changed (`_changed`, `_forgotten`, `_published`, `_based`).

How far the records of each ingestor are in the states (`inputs`), so that a normalizer can go on from there: the last
frame of a publisher's turn and each beacon say it, and they come on the same ordered socket as what they speak of. That
is proof as long as no frame was missed on the way, which the publisher's count of its frames (`sent`) shows at once.
After a miss, or a new publisher, one full beacon brings to light which streams miss something, and the next one is
preceded by every status that is not live; from then on it is believed again. A stream that is in a gap, or not live,
may not hold what others do: for it only the input of its own newest frame counts (`input_of`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, assert_never

from lfmesh.core import codec, topics
from lfmesh.core.codec import Flags, Header, MarketFrame
from lfmesh.core.contents import BookContent
from lfmesh.core.feed import Feed, FeedFact, Replaced, StaleTerm, StreamFacts, Told
from lfmesh.core.recovery import Accepted, Based, Dropped, GapClosed, GapOpened, Opened, Wanted
from lfmesh.core.state import ShardState, StreamState
from lfmesh.core.trouble import BadInput, GapFound, GapHealed
from lfmesh.core.wants import Wants
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import (
    Beacon,
    Rejected,
    Reply,
    RetransmitRequest,
    SnapshotReply,
    SnapshotRequest,
    StatesReply,
    StreamSummary,
    Unavailable,
    View,
    decode_beacon,
    decode_reply,
    encode,
)
from lfmesh.ports import StoredState
from lfmesh.types import CHANNELS, NO_INPUT, Channel, InputPosition, Position, StreamKey

MAX_REQUESTS = 32
"""Requests to the normalizer under way at once."""

_SENT_MODULUS = 1 << 16
_TURN_END = int(Flags.TURN_END)
_LIVE = b'"state":"live"'
_BELIEVED = 2
"""Full beacons without a miss after which `inputs` goes on."""


@dataclass(frozen=True, slots=True)
class TermRaised:
    """A publisher with a higher term has appeared."""

    before: int
    term: int


@dataclass(frozen=True, slots=True)
class StateDiscarded:
    """A stream's state was thrown away; it will be taken anew."""

    stream: StreamKey
    why: str


class Asked(NamedTuple):
    """A request that was sent, and the term in force at that time."""

    wanted: Wanted
    term: int


def request_of(key: StreamKey, wanted: Wanted) -> bytes:
    """What is sent to the publisher for what is wanted."""
    if wanted.rung == "retransmit" and wanted.after is not None:
        return encode(RetransmitRequest(key.product, key.channel, *wanted.after))
    return encode(SnapshotRequest(key.product, key.channel))


Event = GapFound | GapHealed | TermRaised | StateDiscarded | BadInput


@dataclass(slots=True)
class ReplicaCounters:
    """What following has brought so far."""

    frames_received_total: int = 0
    messages_received_total: int = 0
    beacons_received_total: int = 0
    bad_frames_total: int = 0
    state_updates_total: int = 0
    snapshots_received_total: int = 0
    states_discarded_total: int = 0
    gaps_total: int = 0
    recovery_timeouts_total: int = 0
    term_changes_total: int = 0
    input_lag_ms: float | None = None
    messages_dropped_total: Counter[str] = field(default_factory=Counter)
    recoveries_total: Counter[str] = field(default_factory=Counter)
    recovery_requests_total: Counter[str] = field(default_factory=Counter)


class Replica:
    """One shard; see the module's docstring."""

    def __init__(self, shard: int, counters: ReplicaCounters | None = None) -> None:
        self._shard = shard
        self._beacon_prefix = topics.beacon(shard) + b"\0"
        self.feed = Feed(shard, join="snapshot")
        self.state = ShardState()
        self.wants = Wants(MAX_REQUESTS)
        self.counts = counters or ReplicaCounters()
        self._events: list[Event] = []
        self._gaps: set[StreamKey] = set()
        self._inputs: dict[int, InputPosition] = {}
        self._sent: int | None = None
        self._full_beacons = 0
        self.left = False
        """True once the publisher has said that it ends."""
        # Counts the returns of streams to live: what was reached before one says nothing of the stream that returned.
        self._returns = 0
        self._live_since: dict[StreamKey, int] = {}
        self._reached_at: dict[int, int] = {}

    def take_events(self) -> list[Event]:
        """What happened since the last call, to be logged."""
        events, self._events = self._events, []
        return events

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> list[InputPosition]:
        """How far the records of each ingestor are in the states of all streams but those that say otherwise."""
        return list(self._inputs.values())

    @property
    def believes(self) -> bool:
        """True while `inputs` goes on: nothing of the publisher in force has been missed for long enough."""
        return self._full_beacons >= _BELIEVED

    def input_of(self, state: StreamState) -> tuple[InputPosition, bool]:
        """How far an ingestor's records are in this state, and whether the stream was whole with them."""
        source = state.input
        key = state.key
        status = self.feed.status(key)
        whole = source != NO_INPUT and not self.feed.in_gap(key) and (not status or _LIVE in status)
        if whole:
            reached = self._inputs.get(source.ingestor, NO_INPUT)
            recent = self._reached_at.get(source.ingestor, 0) >= self._live_since.get(key, 0)
            if recent and reached.incarnation == source.incarnation and reached.number > source.number:
                source = reached
        return source, whole

    def page(self, after: str, max_bytes: int) -> tuple[list[StreamSummary], bool]:
        """Summaries of the products after this one, by name, and whether there are more.

        Of so many products that their books' texts are about `max_bytes`, and of one at least.
        """
        products = sorted({state.key.product for state in self.state if state.key.product > after})
        summaries: list[StreamSummary] = []
        room = max_bytes
        for number, product in enumerate(products):
            book = self.state.get(StreamKey(product, Channel.BOOK))
            room -= book.content.size if book is not None and isinstance(book.content, BookContent) else 0
            if number and room < 0:
                return summaries, True
            summaries += self.summaries_of(product)
        return summaries, False

    def summaries_of(self, product: str) -> list[StreamSummary]:
        """Summaries of one product's streams; a state that can't be read is left out, and taken anew."""
        summaries = []
        for channel in CHANNELS:
            state = self.state.get(StreamKey(product, channel))
            if state is None:
                continue
            source, whole = self.input_of(state)
            try:
                summaries.append(state.summary(source, whole=whole))
            except BadMeshFrame as error:
                self.discard(state.key, str(error))
        return summaries

    # What arrives -----------------------------------------------------------------------------------------------

    def restore(self, stored: StoredState) -> bool:
        """A state that a store kept; False if more is known of the stream already."""
        key = stored.stream
        if not self.feed.restore(key, stored.position, stored.term):
            return False
        try:
            self.state.base(key, stored.term, stored.position, stored.input, stored.ts, [stored.state])
        except BadMeshFrame as error:
            self.discard(key, str(error))
            return False
        return True

    def adopt(self, state: StreamState) -> bool:
        """A state that the owner has put together of what was kept; False if more is known of the stream already."""
        if not self.feed.restore(state.key, state.position, state.term):
            return False
        self.state.adopt(state)
        return True

    def frames(self, frames: Sequence[bytes], now: int) -> None:
        """What one turn of the loop has brought on the subscription."""
        counts = self.counts
        for frame in frames:
            try:
                if frame.startswith(self._beacon_prefix):
                    counts.beacons_received_total += 1
                    self._take_beacon(decode_beacon(frame[len(self._beacon_prefix) :]), now)
                else:
                    market = codec.unpack(frame)
                    counts.frames_received_total += 1
                    counts.messages_received_total += len(market.messages)
                    counts.input_lag_ms = (now - market.header.ts_publish) / 1e6
                    self._take_frame(market, frame, now)
            except BadMeshFrame as error:
                self.bad("frame", str(error))

    def answer(self, key: StreamKey, asked: Asked, parts: Sequence[bytes] | None, now: int) -> None:
        """[header, frame…] of the normalizer's answer to what this stream wanted, or None if there was none."""
        self.wants.settle(key)
        wanted, term = asked
        rung = wanted.rung
        if parts is None:
            self.counts.recovery_timeouts_total += 1
            return
        if term != self.feed.term:
            return
        try:
            header = decode_reply(parts[0])
            match header:
                case Reply() if rung == "retransmit":
                    for frame in parts[1:]:
                        market = codec.unpack(frame)
                        self._apply(self.feed.retransmitted(market, now), now, market, frame)
                    self._apply(self.feed.answered(key, now, wanted), now)
                case SnapshotReply() if rung == "snapshot" and (header.product, header.channel) == key:
                    self._base(key, header, parts[1:], now)
                case Unavailable() | Rejected():
                    self._apply(self.feed.unavailable(key, now, wanted), now)
                case Reply() | SnapshotReply() | StatesReply() | View():
                    self.bad("answer", f"a {rung} request for {key.product} {key.channel} got another answer")
                case _:
                    assert_never(header)
        except BadMeshFrame as error:
            self.bad("answer", str(error))

    def tick(self, now: int) -> None:
        """Several times a second: what is due to be asked again."""
        for stream in self.feed.tick(now):
            self._apply(stream, now)

    def discard(self, key: StreamKey, why: str) -> None:
        """The stream's state is void: it is taken anew."""
        self.counts.states_discarded_total += 1
        self._forget(key)
        self.feed.forget(key)
        self._events.append(StateDiscarded(key, why))

    def bad(self, what: str, why: str) -> None:
        """Something arrived that cannot be read."""
        self.counts.bad_frames_total += 1
        self._events.append(BadInput(what, why))

    # What subclasses are told -----------------------------------------------------------------------------------

    def _changed(self, key: StreamKey, now: int) -> None:
        """The stream's state has changed."""

    def _forgotten(self, key: StreamKey) -> None:
        """The stream has no state any more, or one that does not follow from what was published before."""

    def _published(self, key: StreamKey, header: Header, count: int, frame: bytes, now: int) -> None:
        """These messages, `count` from header.first_seq on, are next in order; `frame` is them on the mesh."""

    def _based(self, key: StreamKey, reply: SnapshotReply, parts: Sequence[bytes], now: int) -> None:
        """A publisher's answer took the place of what can't be had any more; after `_forgotten`."""

    # Inside -----------------------------------------------------------------------------------------------------

    def _take_frame(self, market: MarketFrame, frame: bytes, now: int) -> None:
        before = self._publisher
        header = market.header
        facts = self.feed.frame(market, now)
        if (header.term, header.instance) != self._publisher:
            self._apply(facts, now)
            return
        self._note_publisher(before)
        if self._sent is None or (self._sent + 1) % _SENT_MODULUS != header.sent:
            self._full_beacons = 0
        self._sent = header.sent
        self._apply(facts, now, market, frame)
        if header.flags & _TURN_END and self.believes:
            self._reach(header.input)

    def _take_beacon(self, beacon: Beacon, now: int) -> None:
        before = self._publisher
        found = self.feed.beacon(beacon, now)
        if (beacon.term, beacon.instance) == self._publisher:
            self._note_publisher(before)
            if beacon.sent % _SENT_MODULUS != self._sent:
                self._full_beacons = 0
            self._sent = beacon.sent % _SENT_MODULUS
            self._full_beacons += beacon.full
            self.left = beacon.leaving
        for stream in found:
            self._apply(stream, now)
        if (beacon.term, beacon.instance) == self._publisher and self.believes:
            for source in beacon.inputs:
                self._reach(source)

    @property
    def _publisher(self) -> tuple[int, int]:
        return self.feed.term, self.feed.publisher

    def _note_publisher(self, before: tuple[int, int]) -> None:
        """What a publisher says of its input holds for what it has said itself."""
        if before == self._publisher:
            return
        if before[0] != self.feed.term:
            self.counts.term_changes_total += 1
            self._events.append(TermRaised(before[0], self.feed.term))
        self._inputs.clear()
        self._reached_at.clear()
        self._sent, self._full_beacons = None, 0
        self.left = False

    def _reach(self, source: InputPosition) -> None:
        known = self._inputs.get(source.ingestor)
        if source == NO_INPUT:
            return
        self._reached_at[source.ingestor] = self._returns
        if known is None or source > known:
            self._inputs[source.ingestor] = source

    def _base(self, key: StreamKey, reply: SnapshotReply, parts: Sequence[bytes], now: int) -> None:
        if not parts:
            raise BadMeshFrame(f"a snapshot of {key.product} {key.channel} without a state")
        position = Position(reply.epoch, reply.seq)
        stream = self.feed.based(key, position, reply.term, now)
        if any(type(fact) is Based for fact in stream.facts):
            try:
                self.state.base(key, reply.term, position, reply.input, reply.ts_snapshot, parts)
            except BadMeshFrame as error:
                self.discard(key, str(error))
                return
            self._forgotten(key)
            self._changed(key, now)
            self._based(key, reply, parts, now)
        self._apply(stream, now)

    def _apply(self, stream: StreamFacts, now: int, market: MarketFrame | None = None, frame: bytes = b"") -> None:
        key, facts = stream
        try:
            for fact in facts:
                if type(fact) is Accepted:
                    self.state.accept(key, fact)
                    self._changed(key, now)
                    self.counts.state_updates_total += len(fact.items)
                    self._tell_published(key, fact, market, frame, now)
                else:
                    self._note(key, fact, market, frame, now)
        except BadMeshFrame as error:
            self.discard(key, str(error))

    def _tell_published(
        self, key: StreamKey, fact: Accepted[tuple[Header, bytes]] | Opened[tuple[Header, bytes]],
        market: MarketFrame | None, frame: bytes, now: int,
    ) -> None:  # fmt: skip
        """The frame as it came where the fact is all of it; else (what was held, or the rest of one) frames anew."""
        items = fact.items
        header = items[0][0]
        if market is not None and header is market.header and len(items) == len(market.messages):
            self._published(key, header, len(items), frame, now)
            return
        topic = topics.market_data(self._shard, key)
        first = fact.first_seq if isinstance(fact, Accepted) else fact.position.seq
        for header, group in groupby(items, itemgetter(0)):
            messages = [message for _, message in group]
            header = header._replace(first_seq=first)
            self._published(key, header, len(messages), codec.pack(topic, header, messages), now)
            first += len(messages)

    def _note(self, key: StreamKey, fact: FeedFact, market: MarketFrame | None, frame: bytes, now: int) -> None:
        counts = self.counts
        match fact:
            case Opened():
                self.state.open(key, fact)
                self._changed(key, now)
                counts.snapshots_received_total += 1
                self._tell_published(key, fact, market, frame, now)
            case Wanted():
                self.wants.add(key, fact)
            case GapOpened():
                counts.gaps_total += 1
                self._gaps.add(key)
                self._events.append(GapFound(key, fact.last, fact.seen))
            case GapClosed():
                self.wants.drop(key)
                counts.recoveries_total[fact.rung] += 1
                if key in self._gaps:  # else the stream has got its first state
                    self._gaps.discard(key)
                    self._events.append(GapHealed(key, fact.rung, fact.open_ns / 1e6))
            case Dropped():
                counts.messages_dropped_total[fact.why] += fact.count
            case StaleTerm():
                counts.messages_dropped_total["stale_term"] += fact.count
            case Replaced():
                counts.states_discarded_total += 1
                self._forget(key)
                self._events.append(StateDiscarded(key, "published by a process that has been replaced"))
            case Told():
                if _LIVE in fact.message:
                    self._returns += 1
                    self._live_since[key] = self._returns
            case Accepted() | Based():
                pass  # Accepted is dealt with before, Based where the answer is at hand
            case _:
                assert_never(fact)

    def _forget(self, key: StreamKey) -> None:
        self.state.forget(key)
        self.wants.drop(key)
        self._forgotten(key)
