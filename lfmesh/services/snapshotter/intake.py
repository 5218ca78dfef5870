"""From what arrives to state, pure: frames, beacons and answers in; state, requests and events out.

    frames, beacons ──► Feed ──► facts ──► ShardState, WriteSchedule, Wants, Counters, events

The service sends what `wants` holds, gives the answers to `answer`, and logs the `events`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from lfmesh.core import codec
from lfmesh.core.feed import Feed, FeedFact, Replaced, StaleTerm, StreamFacts, Told
from lfmesh.core.recovery import Accepted, Based, Dropped, GapClosed, GapOpened, Opened, Rung, Wanted
from lfmesh.core.state import ShardState
from lfmesh.core.wants import Wants
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Rejected, Reply, SnapshotReply, StatesReply, Unavailable, View, decode_beacon, decode_reply
from lfmesh.ports import StoredState
from lfmesh.services.snapshotter.schedule import WriteSchedule
from lfmesh.services.snapshotter.statistics import Counters, SnapshotterStatistics
from lfmesh.types import Position, StreamKey

MAX_REQUESTS = 32
"""Requests to the normalizer under way at once."""


@dataclass(frozen=True, slots=True)
class GapFound:
    """A stream misses what comes after `last`."""

    stream: StreamKey
    last: Position | None
    seen: Position


@dataclass(frozen=True, slots=True)
class GapHealed:
    """A stream is whole again."""

    stream: StreamKey
    rung: str
    open_ms: float


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


@dataclass(frozen=True, slots=True)
class BadInput:
    """Something that cannot be read; it was ignored."""

    what: str
    why: str


class Asked(NamedTuple):
    """A request that was sent: which rung, and the term in force at that time."""

    rung: Rung
    term: int


Event = GapFound | GapHealed | TermRaised | StateDiscarded | BadInput


class Intake:
    """One shard's input side; see the module's docstring."""

    def __init__(self, shard: int, book_interval_ns: int) -> None:
        self._beacon_prefix = f"bc.{shard}.\0".encode("ascii")
        self.feed = Feed(shard, join="snapshot")
        self.state = ShardState()
        self.schedule = WriteSchedule(book_interval_ns)
        self.wants = Wants(MAX_REQUESTS)
        self.counters = Counters()
        self._events: list[Event] = []

    def take_events(self) -> list[Event]:
        """What happened since the last call, to be logged."""
        events, self._events = self._events, []
        return events

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

    def frames(self, frames: Sequence[bytes], now: int) -> None:
        """What one turn of the loop has brought on the subscription."""
        term = self.feed.term
        counters = self.counters
        for frame in frames:
            try:
                if frame.startswith(self._beacon_prefix):
                    counters.beacons_received_total += 1
                    for stream in self.feed.beacon(decode_beacon(frame[len(self._beacon_prefix) :]), now):
                        self._apply(stream, now)
                else:
                    market = codec.unpack(frame)
                    counters.frames_received_total += 1
                    counters.messages_received_total += len(market.messages)
                    counters.input_lag_ms = (now - market.header.ts_publish) / 1e6
                    self._apply(self.feed.frame(market, now), now)
            except BadMeshFrame as error:
                self.bad("frame", str(error))
        if self.feed.term != term:
            counters.term_changes_total += 1
            self._events.append(TermRaised(term, self.feed.term))

    def answer(self, key: StreamKey, asked: Asked, parts: Sequence[bytes] | None, now: int) -> None:
        """[header, frame…] of the normalizer's answer to what this stream wanted, or None if there was none."""
        self.wants.settle(key)
        rung, term = asked
        if parts is None:
            self.counters.recovery_timeouts_total += 1
            return
        if term != self.feed.term:
            return
        try:
            header = decode_reply(parts[0])
            match header:
                case Reply() if rung == "retransmit":
                    for frame in parts[1:]:
                        self._apply(self.feed.retransmitted(codec.unpack(frame), now), now)
                    self._apply(self.feed.answered(key, now), now)
                case SnapshotReply() if rung == "snapshot" and (header.product, header.channel) == key:
                    self._base(key, header, parts[1:], now)
                case Unavailable() | Rejected():
                    self._apply(self.feed.unavailable(key, now), now)
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
        self.counters.states_discarded_total += 1
        self._forget(key)
        self.feed.forget(key)
        self._events.append(StateDiscarded(key, why))

    def bad(self, what: str, why: str) -> None:
        """Something arrived that cannot be read."""
        self.counters.bad_frames_total += 1
        self._events.append(BadInput(what, why))

    def statistics(self, now: int, *, store_up: bool) -> SnapshotterStatistics:
        """The figures of now."""
        feed = self.feed
        return SnapshotterStatistics(
            **self.counters.figures(),
            store_unwritten=len(self.schedule),
            store_up=store_up,
            streams=len(self.state),
            streams_gapped=feed.gapped,
            streams_waiting=feed.waiting,
            held_messages=feed.held_items,
            requests_waiting=self.wants.waiting,
            term=feed.term,
            beacon_age_ms=None if feed.heard_at is None else (now - feed.heard_at) / 1e6,
        )

    # Inside -----------------------------------------------------------------------------------------------------

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
            self.schedule.changed(key, now)
        self._apply(stream, now)

    def _apply(self, stream: StreamFacts, now: int) -> None:
        key, facts = stream
        try:
            for fact in facts:
                if type(fact) is Accepted:
                    self.state.accept(key, fact)
                    self.schedule.changed(key, now)
                    self.counters.state_updates_total += len(fact.items)
                else:
                    self._note(key, fact, now)
        except BadMeshFrame as error:
            self.discard(key, str(error))

    def _note(self, key: StreamKey, fact: FeedFact, now: int) -> None:
        counters = self.counters
        match fact:
            case Opened():
                self.state.open(key, fact)
                self.schedule.changed(key, now)
                counters.snapshots_received_total += 1
            case Wanted():
                self.wants.add(key, fact)
            case GapOpened():
                counters.gaps_total += 1
                self._events.append(GapFound(key, fact.last, fact.seen))
            case GapClosed():
                self.wants.drop(key)
                counters.recoveries_total[fact.rung] += 1
                self._events.append(GapHealed(key, fact.rung, fact.open_ns / 1e6))
            case Dropped():
                counters.messages_dropped_total[fact.why] += fact.count
            case StaleTerm():
                counters.messages_dropped_total["stale_term"] += fact.count
            case Replaced():
                counters.states_discarded_total += 1
                self._forget(key)
                self._events.append(StateDiscarded(key, "published by a process that has been replaced"))
            case Accepted() | Based() | Told():
                pass  # Accepted is dealt with before; Based where the answer is at hand; a status is no state
            case _:
                assert_never(fact)

    def _forget(self, key: StreamKey) -> None:
        self.state.forget(key)
        self.schedule.drop(key)
        self.wants.drop(key)
