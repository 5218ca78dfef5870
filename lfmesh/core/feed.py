"""What a consumer of the mesh makes of one shard's frames and beacons: facts per stream, in order.

    frame, beacon ──► fence (terms) ──► a Follower per stream ──► facts ──► the service applies, asks, counts

A `Feed` is pure: it gets unpacked frames, beacons and answers together with the time, and returns what they mean.
`Accepted` and `Opened` (their items are `(header, message)`), `Based`, `Replaced` and `Told` are to be applied,
in the order of the list; `Wanted` is a request to send to the publisher (or, rung "snapshot", to a snapshotter); the
rest is to be counted and logged. Snapshotter and gateway differ in what they do with facts, and in `join`.

Terms. A live frame or beacon below the highest term is ignored (`StaleTerm`). A retransmitted frame may be of an
older term than the fence's (it fills a gap from before a take-over) but not of an older one than the stream's own.

Two histories. A publisher that has been replaced without noticing (a partition) may have opened an epoch with a higher
number than its successor's. What it said is void: when the publisher of a newer term stands in a *lower* epoch
than ours, the stream's position is forgotten (`Replaced`) and the stream is joined anew.

Answers. For each `Wanted` that was sent call, in the end, exactly one of: `answered` (after `retransmitted` for
each of its frames), `unavailable`, or `based`; and nothing if no answer came: `tick` asks again. An answer to a request
that was sent under another `term` than the one in force now counts as none: its sender may have been replaced.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, NamedTuple

from lfmesh.core import topics
from lfmesh.core.codec import Flags, Header, Increments, MarketFrame
from lfmesh.core.fence import Fence
from lfmesh.core.recovery import DEFAULT_LIMITS, Accepted, Fact, Follower, FollowerLimits, Opened
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Beacon
from lfmesh.types import Position, StreamKey

BEACON_INTERVAL_NS = 100_000_000
"""Publishers send a beacon this often."""
MISSED_BEACONS = 3
"""So many missed beacons mean that the link or the publisher is down."""

_STATUS = int(Flags.STATUS)  # arithmetic on IntFlag costs more than all the rest of a frame's path
_SNAPSHOT = int(Flags.SNAPSHOT)

type Item = tuple[Header, bytes]
"""One message, as clients receive it, with the header of the frame it came in (term, input position, times)."""


@dataclass(frozen=True, slots=True)
class StaleTerm:
    """`count` messages of a publisher that has been replaced; ignored."""

    term: int
    count: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """What we hold of the stream, up to `position`, was published by a replaced publisher and is void.

    A snapshot follows, in this call or later; until then the stream has no state.
    """

    position: Position


@dataclass(frozen=True, slots=True)
class Told:
    """The stream's status has changed; `message` as clients receive it. Repeats of the same are not told."""

    message: bytes


type FeedFact = Fact[Item] | StaleTerm | Replaced | Told


class StreamFacts(NamedTuple):
    """What one call means for one stream; `facts` in order, possibly none."""

    stream: StreamKey
    facts: list[FeedFact]


@dataclass(slots=True, eq=False)
class _Stream:
    """`term` is that of the newest unit applied: frames and snapshots before it are void."""

    key: StreamKey
    follower: Follower[Item]
    term: int = 0
    gapped: bool = False
    status: bytes = b""


class Feed:
    """One shard as one consumer sees it; see the module's docstring.

    `join`: "snapshot" for who holds state (a stream begins with a snapshot), "anywhere" for who only passes on.
    Frames and beacons of another shard raise BadMeshFrame, as do frames that contradict themselves.
    """

    def __init__(
        self,
        shard: int,
        join: Literal["anywhere", "snapshot"] = "snapshot",
        limits: FollowerLimits = DEFAULT_LIMITS,
        term: int = 0,
    ) -> None:
        self._shard = shard
        self._join = join
        self._limits = limits
        self._fence = Fence(term)
        self._streams: dict[StreamKey, _Stream] = {}
        self._by_topic: dict[bytes, _Stream] = {}
        self._gapped: dict[StreamKey, _Stream] = {}
        self._publisher = 0
        self._heard_at: int | None = None
        self._stale_beacons = 0

    # What it knows ----------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The highest term seen, 0 before the first."""
        return self._fence.highest

    @property
    def publisher(self) -> int:
        """Instance id of the publisher of the highest term; 0 before its first frame or beacon."""
        return self._publisher

    @property
    def heard_at(self) -> int | None:
        """When the last beacon of the highest term came."""
        return self._heard_at

    def silent(self, now: int) -> bool:
        """True before the first beacon and after three missed ones: the publisher or the link to it is down."""
        return self._heard_at is None or now - self._heard_at > MISSED_BEACONS * BEACON_INTERVAL_NS

    @property
    def stale_beacons(self) -> int:
        """Beacons that were ignored because their publisher has been replaced."""
        return self._stale_beacons

    @property
    def streams(self) -> int:
        """How many streams were heard of."""
        return len(self._streams)

    @property
    def gapped(self) -> int:
        """How many streams are known to miss something now, those without a first snapshot included."""
        return len(self._gapped)

    @property
    def waiting(self) -> int:
        """How many streams have no position yet."""
        return sum(stream.follower.position is None for stream in self._gapped.values())

    @property
    def held_items(self) -> int:
        """Messages held back until their stream's gap is healed."""
        return sum(stream.follower.held_items for stream in self._gapped.values())

    def position(self, key: StreamKey) -> Position | None:
        """Where we stand in a stream; None where that is unknown."""
        stream = self._streams.get(key)
        return None if stream is None else stream.follower.position

    def in_gap(self, key: StreamKey) -> bool:
        """True while the stream is known to miss something."""
        return key in self._gapped

    def status(self, key: StreamKey) -> bytes:
        """The last status message of a stream from the publisher of the highest term, empty if there was none."""
        stream = self._streams.get(key)
        return b"" if stream is None else stream.status

    # What arrives -----------------------------------------------------------------------------------------------

    def frame(self, frame: MarketFrame, now: int) -> StreamFacts:
        """A frame has arrived on the publisher's socket."""
        stream = self._by_topic.get(frame.topic) or self._stream_of_topic(frame.topic)
        header = frame.header
        if header.term != self._fence.highest and not self._admit(header.term):
            return StreamFacts(stream.key, [StaleTerm(header.term, len(frame.messages))])
        self._publisher = header.instance
        if header.flags & _STATUS:
            return StreamFacts(stream.key, self._tell(stream, frame.messages))
        void = self._void(stream, header.term, header.epoch) if header.term != stream.term else None
        facts = self._take(stream, frame, now)
        return StreamFacts(stream.key, facts if void is None else [void, *facts])

    def follows(self, increments: Increments) -> bool:
        """True, and taken, if these are the next increments of a stream that misses nothing, from its known publisher.

        That is nearly always so, and costs a fraction of `frame`, which is for all else.
        """
        stream = self._by_topic.get(increments.topic)
        if stream is None or increments.term != stream.term or increments.term != self._fence.highest:
            return False
        follower = stream.follower
        at = follower.position
        if at is None or at.epoch != increments.epoch or at.seq + 1 != increments.first_seq or follower.gapped:
            return False
        follower.position = Position(increments.epoch, at.seq + len(increments.messages))
        return True

    def retransmitted(self, frame: MarketFrame, now: int) -> StreamFacts:
        """One frame of the answer to a Wanted("retransmit")."""
        stream = self._by_topic.get(frame.topic) or self._stream_of_topic(frame.topic)
        header = frame.header
        if header.term < stream.term:
            return StreamFacts(stream.key, [StaleTerm(header.term, len(frame.messages))])
        if header.flags & _STATUS:
            return StreamFacts(stream.key, [])
        return StreamFacts(stream.key, self._take(stream, frame, now))

    def beacon(self, beacon: Beacon, now: int) -> list[StreamFacts]:
        """A beacon has arrived; the streams for which it means something."""
        if beacon.shard != self._shard:
            raise BadMeshFrame(f"a beacon of shard {beacon.shard} where shard {self._shard} was subscribed")
        if beacon.term != self._fence.highest and not self._admit(beacon.term):
            self._stale_beacons += 1
            return []
        self._publisher = beacon.instance
        self._heard_at = now
        told = []
        for here in beacon.positions:
            key = StreamKey(here.product, here.channel)
            epoch, seq = here.epoch, here.seq
            stream = self._streams.get(key) or self._stream(key)
            at = stream.follower.position
            if at is not None and at.seq == seq and at.epoch == epoch:
                continue
            void = self._void(stream, beacon.term, epoch)
            facts = self._after(stream, stream.follower.beacon(Position(epoch, seq), now))
            if at is None and stream.follower.position is not None:
                stream.term = beacon.term
            if void is not None:
                facts.insert(0, void)
            if facts:
                told.append(StreamFacts(key, facts))
        return told

    def based(self, key: StreamKey, position: Position, term: int, now: int) -> StreamFacts:
        """The answer to a Wanted("snapshot"): a state of this term holds at `position`.

        Taken only if the facts begin with `Based`; what was held back and fits onto it comes after that.
        """
        stream = self._streams.get(key) or self._stream(key)
        if term < stream.term:
            return StreamFacts(key, [StaleTerm(term, 1)])
        facts = stream.follower.base(position, now)
        if facts:
            stream.term = term
        return StreamFacts(key, self._after(stream, facts))

    def answered(self, key: StreamKey, now: int) -> StreamFacts:
        """Every frame of the answer to a Wanted("retransmit") has been given to `retransmitted`."""
        stream = self._streams.get(key) or self._stream(key)
        return StreamFacts(key, self._after(stream, stream.follower.answered(now)))

    def unavailable(self, key: StreamKey, now: int) -> StreamFacts:
        """Who was asked has not got it (any more)."""
        stream = self._streams.get(key) or self._stream(key)
        return StreamFacts(key, self._after(stream, stream.follower.unavailable(now)))

    def tick(self, now: int) -> list[StreamFacts]:
        """Requests that are due again; call it several times a second."""
        told = []
        for key, stream in self._gapped.items():
            facts = stream.follower.tick(now)
            if facts:
                told.append(StreamFacts(key, [*facts]))
        return told

    def restore(self, key: StreamKey, position: Position, term: int) -> bool:
        """A state of this term, kept from earlier, holds at `position`; False if the stream is known already.

        Before the first beacon the term also becomes the least that a publisher must have.
        """
        if key in self._streams:
            return False
        stream = self._stream(key)
        stream.follower = Follower(self._join, self._limits, position)
        stream.term = term
        if self._heard_at is None:
            self._fence.admit(term)
        return True

    def forget(self, key: StreamKey) -> None:
        """What we hold of the stream turned out to be unusable: join it anew, with the next frame or beacon."""
        stream = self._streams.get(key)
        if stream is not None:
            self._join_anew(stream)

    # Inside -----------------------------------------------------------------------------------------------------

    def _stream_of_topic(self, topic: bytes) -> _Stream:
        shard, key = topics.parse_market_data(topic)
        if shard != self._shard:
            raise BadMeshFrame(f"a frame of shard {shard} where shard {self._shard} was subscribed")
        stream = self._streams.get(key) or self._stream(key)
        self._by_topic[topic] = stream
        return stream

    def _stream(self, key: StreamKey) -> _Stream:
        stream = self._streams[key] = _Stream(key, Follower(self._join, self._limits))
        self._by_topic[topics.market_data(self._shard, key)] = stream
        return stream

    def _admit(self, term: int) -> bool:
        """True if the term may speak. With a new one, what others may have said wrongly is forgotten.

        That is the state of streams (`Told`), and of streams in a gap what was held back and which positions were
        seen: the new publisher's frames and beacons show what is really missing.
        """
        if self._fence.admit(term) == "stale":
            return False
        for stream in self._streams.values():
            stream.status = b""
        for stream in tuple(self._gapped.values()):
            self._join_anew(stream, stream.follower.position)
        return True

    def _tell(self, stream: _Stream, messages: list[bytes]) -> list[FeedFact]:
        if len(messages) != 1:
            raise BadMeshFrame(f"a status frame with {len(messages)} messages")
        if messages[0] == stream.status:
            return []
        stream.status = messages[0]
        return [Told(messages[0])]

    def _void(self, stream: _Stream, term: int, epoch: int) -> Replaced | None:
        """Forget the position if a newer term's publisher stands in an older epoch than it."""
        at = stream.follower.position
        if at is None or term <= stream.term or epoch >= at.epoch:
            return None
        self._join_anew(stream)
        stream.term = term
        return Replaced(at)

    def _join_anew(self, stream: _Stream, position: Position | None = None) -> None:
        stream.follower = Follower(self._join, self._limits, position)
        self._note_gap(stream)

    def _take(self, stream: _Stream, frame: MarketFrame, now: int) -> list[FeedFact]:
        header = frame.header
        items = list(zip(repeat(header), frame.messages))
        follower = stream.follower
        if not header.flags & _SNAPSHOT:
            if not items:
                raise BadMeshFrame("a frame without messages")
            facts = follower.increments(header.epoch, header.first_seq, items, now)
            if len(facts) == 1 and header.term == stream.term and type(facts[0]) is Accepted:
                return [facts[0]]  # by far the most frequent case: the next numbers of a known epoch
        else:
            previous = Position(header.prev_epoch, header.prev_seq) if header.prev_epoch else None
            facts = follower.snapshot(Position(header.epoch, header.first_seq), previous, items, now)
        return self._after(stream, facts)

    def _after(self, stream: _Stream, facts: Iterable[Fact[Item]]) -> list[FeedFact]:
        told: list[FeedFact] = list(facts)
        for fact in told:
            if type(fact) is Accepted or type(fact) is Opened:
                stream.term = fact.items[-1][0].term
        if stream.follower.gapped is not stream.gapped:
            self._note_gap(stream)
        return told

    def _note_gap(self, stream: _Stream) -> None:
        stream.gapped = stream.follower.gapped
        if stream.gapped:
            self._gapped[stream.key] = stream
        else:
            self._gapped.pop(stream.key, None)
