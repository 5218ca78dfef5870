"""From what the mesh says to what the hub does, pure: frames, beacons and answers in; hub calls, asks and events out.

    frames, beacons ──► a Feed per shard ──► facts ──► Hub, StatusBoard, Asks, counters, events

The service sends what `asks` holds, gives the answers to `answer`, and logs the events.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from lfmesh.core import codec, topics
from lfmesh.core.codec import Flags, MarketFrame
from lfmesh.core.feed import Feed, FeedFact, Replaced, StaleTerm, Told
from lfmesh.core.followed import Followed
from lfmesh.core.hub import Hub
from lfmesh.core.hub_archive import WantArchive
from lfmesh.core.hub_joins import WantSnapshot
from lfmesh.core.hub_older import WantOlder
from lfmesh.core.hub_snapshots import State
from lfmesh.core.hub_status import StatusBoard
from lfmesh.core.hub_streams import Stream
from lfmesh.core.recovery import Accepted, Based, Dropped, GapClosed, GapOpened, Opened, Wanted
from lfmesh.core.sharding import shard_of
from lfmesh.core.trouble import BadInput, GapFound, GapHealed
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Rejected, Reply, SnapshotReply, StatesReply, Unavailable, View, decode_beacon, decode_reply
from lfmesh.services.gateway.asks import Ask, Asks, Party
from lfmesh.services.gateway.replies import state_in, units_in
from lfmesh.services.gateway.statistics import Counters
from lfmesh.types import InputPosition, Position, StreamKey

GAP_TOLD_AFTER_NS = 300_000_000
"""Clients are told of a gap that is not healed by then."""
SILENT_NS = 1_000_000_000
"""A shard whose beacons have not come for so long is down, as clients and probes are told. (Three missed beacons would
be 300 ms, which a busy machine can take for itself. Nothing waits for this: what is missing, positions show.)"""

_STATUS = int(Flags.STATUS)
_SNAPSHOT = int(Flags.SNAPSHOT)


@dataclass(frozen=True, slots=True)
class TermRaised:
    """A publisher with a higher term has appeared."""

    shard: int
    before: int
    term: int


@dataclass(frozen=True, slots=True)
class Voided:
    """What clients were told of a stream came from a publisher that had been replaced; they get a snapshot."""

    stream: StreamKey


Event = GapFound | GapHealed | TermRaised | Voided | BadInput


_Noted = Wanted | GapOpened | GapClosed | Dropped | StaleTerm | Replaced


class _Route(NamedTuple):
    feed: Feed
    followed: Followed
    stream: Stream


class Intake:
    """The input side of a gateway; see the module's docstring."""

    def __init__(self, shards: int, hub: Hub, board: StatusBoard) -> None:
        self.feeds = [Feed(shard, join="anywhere") for shard in range(shards)]
        self.asks = Asks()
        self.counters = Counters()
        self._hub = hub
        self._board = board
        self._routes: dict[bytes, _Route] = {}
        self._beacons = {topics.beacon(shard): shard for shard in range(shards)}
        self._gaps: dict[StreamKey, int] = {}
        self._attempts: Counter[StreamKey] = Counter()
        self._terms = [0] * shards
        self._inputs: list[tuple[int, list[InputPosition]]] = [(0, [])] * shards
        self._flowed_at: list[int | None] = [None] * shards
        self.heard_sent: int | None = None
        """How many frames the publisher heard last had sent before its last beacon; None before any."""
        self._published_at = 0
        self._awake_since = 0
        self._events: list[Event] = []

    def take_events(self) -> list[Event]:
        """What happened since the last call, to be logged."""
        events, self._events = self._events, []
        return events

    def silent(self, shard: int, now: int) -> bool:
        """True while the shard's publisher is not heard, though we ourselves were awake to hear it."""
        heard_at = self.feeds[shard].heard_at
        return heard_at is None or now - max(heard_at, self._awake_since) > SILENT_NS

    def flowed_at(self, shard: int) -> int | None:
        """When the shard's publisher said last that it had got further in an ingestor's records; None: never."""
        return self._flowed_at[shard]

    # What arrives -----------------------------------------------------------------------------------------------

    def frames(self, frames: Sequence[bytes], now: int) -> None:
        """What one turn of the loop brought from the publishers."""
        counters = self.counters
        self._published_at = 0  # a turn that brought no market data says nothing about the lag
        routes, unpack, publish = self._routes, codec.unpack_increments, self._hub.increments
        messages_total = published_at = 0
        for frame in frames:
            increments = unpack(frame)
            route = None if increments is None else routes.get(increments[0])
            if increments is not None and route is not None:
                feed, followed, stream = route
                position = feed.follows(followed, increments)
                if position is not None:
                    # The usual case, in short: the next increments of a stream go to the hub as they are.
                    messages = increments[5]
                    messages_total += len(messages)
                    published_at = increments[4]
                    publish(stream, position, messages, now)
                    continue
            self._other(frame, now)
        counters.messages_total += messages_total
        counters.frames_total += len(frames)
        self._published_at = published_at or self._published_at
        if self._published_at:
            counters.lag_ms = (now - self._published_at) / 1e6
        self._note_terms()
        self._end_turn(now)

    def answer(self, ask: Ask, term: int, parts: Sequence[bytes] | None, now: int) -> State | None:
        """[header, frame…] of the answer to what was asked under `term`, None if there was none.

        Returns the state, if it was one.
        """
        parties = self.asks.settle(ask)
        state: State | None = None
        if parts is None:
            self.counters.ask_timeouts_total += 1
        try:
            match ask.kind:
                case "retransmit":
                    if parts is not None and term == self._feed(ask.key).term:
                        self._retransmitted(ask, parts, now)
                case "older":
                    self._older(ask.key, parts if term == self._feed(ask.key).term else None, now)
                case "archive":
                    self._archived(ask.key, parts, now)
                case "snapshot":
                    state = None if parts is None else state_in(ask.key, parts)
        except BadMeshFrame as error:
            self.bad("answer", str(error))
            if ask.kind == "older":
                self._hub.no_older(ask.key, now)
            elif ask.kind == "archive":
                self._hub.not_archived(ask.key, "none", now)
        if ask.kind == "snapshot":
            self._snapshot(ask.key, state, parties, now)
        self._end_turn(now)
        return state

    def tick(self, now: int, awake_since: int) -> None:
        """Several times a second. `awake_since`: before that we were held up, and others were not silent for it."""
        self._awake_since = awake_since
        for shard, feed in enumerate(self.feeds):
            for told in feed.tick(now):
                self._apply(self._hub.stream(told.stream), feed, told.facts, now)
            self._board.heard(shard, feed.heard_at, now, silent=self.silent(shard, now))
        for key, since in tuple(self._gaps.items()):
            if not self._feed(key).in_gap(key):  # a new publisher can end a gap without a word
                self._gap_over(key)
            elif now - since > GAP_TOLD_AFTER_NS:
                self._board.gap(key, since)
        self._hub.tick(now)
        self._end_turn(now)

    def rewound(self, term: int, begun: Collection[StreamKey], now: int) -> None:
        """The publisher goes on from another moment of its history, under this term: of every stream in `begun` with a
        snapshot, which is yet to come; of the others with nothing until they begin."""
        for feed in self.feeds:
            feed.begin_anew(term)
        for key in tuple(self._gaps):
            self._gap_over(key)
        for stream in self._hub.streams:
            self._hub.rewound(stream, term, now)
            if stream.key not in begun:
                self._board.no_data(stream.key)
        self._end_turn(now)

    def collect(self) -> None:
        """Take what the hub wants into `asks`."""
        for want in self._hub.take_wants():
            match want:
                case WantSnapshot(key, attempt):
                    self.asks.add(Ask("snapshot", key, attempt=attempt), "hub")
                case WantOlder(key, after):
                    self.asks.add(Ask("older", key, after), "hub")
                case WantArchive(key, after, attempt):
                    self.asks.add(Ask("archive", key, after, attempt), "hub")

    def bad(self, what: str, why: str) -> None:
        """Something arrived that cannot be read."""
        self.counters.bad_frames_total += 1
        self._events.append(BadInput(what, why))

    # Frames and beacons -----------------------------------------------------------------------------------------

    def _other(self, frame: bytes, now: int) -> None:
        try:
            if frame.startswith(b"bc."):
                self.counters.beacons_total += 1
                self.counters.frames_total -= 1
                self._beacon(frame, now)
            else:
                self._market(codec.unpack(frame), now)
        except BadMeshFrame as error:
            self.bad("frame", str(error))

    def _market(self, market: MarketFrame, now: int) -> None:
        feed, _, stream = self._routes.get(market.topic) or self._route(market.topic)
        self.counters.messages_total += len(market.messages)
        self._published_at = market.header.ts_publish
        self._apply(stream, feed, feed.frame(market, now).facts, now)

    def _beacon(self, frame: bytes, now: int) -> None:
        topic, offset = codec.split_topic(frame)
        shard = self._beacons.get(topic)
        if shard is None:
            raise BadMeshFrame(f"a beacon under {topic[:80]!r}")
        feed, beacon = self.feeds[shard], decode_beacon(frame[offset:])
        for told in feed.beacon(beacon, now):
            self._apply(self._hub.stream(told.stream), feed, told.facts, now)
        if beacon.term != feed.term:
            return
        self.heard_sent = beacon.sent
        inputs = [beacon.input, *beacon.inputs]
        term, before = self._inputs[shard]
        if inputs != before:
            self._inputs[shard] = (beacon.term, inputs)
            if term == beacon.term:
                self._flowed_at[shard] = now
        if self._board.shard_down(shard):
            self._board.heard(shard, now, now, silent=False)

    def _route(self, topic: bytes) -> _Route:
        shard, key = topics.parse_market_data(topic)
        if shard != shard_of(key.product, len(self.feeds)):
            raise BadMeshFrame(f"{key.product} from shard {shard}, to which it does not belong")
        feed = self.feeds[shard]
        route = self._routes[topic] = _Route(feed, feed.followed(key), self._hub.stream(key))
        return route

    def _feed(self, key: StreamKey) -> Feed:
        return self.feeds[shard_of(key.product, len(self.feeds))]

    def _note_terms(self) -> None:
        for shard, feed in enumerate(self.feeds):
            before = self._terms[shard]
            if feed.term != before:
                self._terms[shard] = feed.term
                self._board.new_publisher(shard)
                self._events.append(TermRaised(shard, before, feed.term))

    def _tell(self, now: int) -> None:
        for key, message in self._board.changes(now):
            self._hub.status(self._hub.stream(key), message)

    def _end_turn(self, now: int) -> None:
        self._tell(now)
        self._hub.flush()

    # Answers ----------------------------------------------------------------------------------------------------

    def _retransmitted(self, ask: Ask, parts: Sequence[bytes], now: int) -> None:
        key = ask.key
        feed, stream = self._feed(key), self._hub.stream(key)
        asked = Wanted("retransmit", ask.after)
        header = decode_reply(parts[0])
        match header:
            case Reply():
                for frame in parts[1:]:
                    told = feed.retransmitted(codec.unpack(frame), now)
                    self._apply(self._hub.stream(told.stream), feed, told.facts, now)
                self._apply(stream, feed, feed.answered(key, now, asked).facts, now)
            case Unavailable() | Rejected():
                self._apply(stream, feed, feed.unavailable(key, now, asked).facts, now)
            case SnapshotReply() | StatesReply() | View():
                raise BadMeshFrame(f"a retransmission of {key.product} {key.channel} was answered otherwise")
            case _:
                assert_never(header)

    def _older(self, key: StreamKey, parts: Sequence[bytes] | None, now: int) -> None:
        if parts is None:
            self._hub.unanswered_older(key, now)
            return
        header = decode_reply(parts[0])
        if isinstance(header, Reply):
            self._hub.older(key, units_in(key, parts[1:]), header.more, now)
        else:
            self._hub.no_older(key, now)

    def _archived(self, key: StreamKey, parts: Sequence[bytes] | None, now: int) -> None:
        header = None if parts is None else decode_reply(parts[0])
        if parts is None:
            self._hub.not_archived(key, "silent", now)
        elif isinstance(header, Reply):
            self._hub.archived(key, units_in(key, parts[1:]), header.more, now)
        else:
            later = isinstance(header, Unavailable) and header.later
            self._hub.not_archived(key, "busy" if later else "none", now)

    def _snapshot(self, key: StreamKey, state: State | None, parties: set[Party], now: int) -> None:
        feed, stream = self._feed(key), self._hub.stream(key)
        if state is not None and ("feed" in parties or feed.position(key) is None):
            self._apply(stream, feed, feed.based(key, state.position, state.term, now).facts, now, state)
        if "hub" in parties:
            if state is not None:
                self._hub.snapshot(key, state, now)
            else:
                self._hub.no_snapshot(key, now)

    # Facts ------------------------------------------------------------------------------------------------------

    def _apply(
        self, stream: Stream, feed: Feed, facts: Sequence[FeedFact], now: int, state: State | None = None
    ) -> None:
        """`state` is the one on which the stream was based, where these facts came of it."""
        hub, key = self._hub, stream.key
        for fact in facts:
            match fact:
                case Accepted():
                    messages = [message for _, message in fact.items]
                    position = Position(fact.epoch, fact.first_seq + len(messages) - 1)
                    hub.increments(stream, position, messages, now)
                case Opened():
                    self._board.has_data(key)
                    term = fact.items[-1][0].term
                    hub.opened(stream, fact.position, term, [message for _, message in fact.items], now)
                case Based():
                    self._board.has_data(key)
                    if state is not None and stream.position is not None:
                        hub.healed(stream, state, now)
                    else:
                        hub.based(stream, fact.position, now)
                case Told():
                    self._note_terms()  # before it: what former publishers said is forgotten then
                    self._board.told(key, fact.message, now)
                    self._tell(now)  # in its place among the stream's messages
                case _:
                    self._note(stream, feed, fact, now)

    def _note(
        self,
        stream: Stream,
        feed: Feed,
        fact: Wanted | GapOpened | GapClosed | Dropped | StaleTerm | Replaced,
        now: int,
    ) -> None:
        key, counters = stream.key, self.counters
        match fact:
            case Wanted("retransmit", after):
                self.asks.add(Ask("retransmit", key, after), "feed")
            case Wanted():
                self._attempts[key] += 1
                self.asks.add(Ask("snapshot", key, attempt=self._attempts[key]), "feed")
            case GapOpened():
                counters.gaps_total += 1
                self._gaps[key] = now
                self._events.append(GapFound(key, fact.last, fact.seen))
            case GapClosed():
                counters.recoveries_total[fact.rung] += 1
                self._gap_over(key)
                self._events.append(GapHealed(key, fact.rung, fact.open_ns / 1e6))
            case Dropped():
                counters.messages_dropped_total[fact.why] += fact.count
            case StaleTerm():
                counters.messages_dropped_total["stale_term"] += fact.count
            case Replaced():
                counters.voided_total += 1
                self._hub.voided(stream, feed.term, now)
                self._events.append(Voided(key))
            case _:
                assert_never(fact)

    def _gap_over(self, key: StreamKey) -> None:
        self._gaps.pop(key, None)
        self._attempts.pop(key, None)
        self._board.gap(key, None)
