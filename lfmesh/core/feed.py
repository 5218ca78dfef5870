"""What a consumer of the mesh makes of one shard's frames and beacons: facts per stream, in order.

    frame, beacon ──► fence (terms) ──► a Follower per stream ──► facts ──► the service applies, asks, counts

A `Feed` is pure: it gets unpacked frames, beacons and answers together with the time, and returns what they mean.
`Accepted` and `Opened` (their items are `(header, message)`), `Based`, `Replaced` and `Told` are to be applied,
in the order of the list; `Wanted` is a request to send to the publisher (or, rung "snapshot", to a snapshotter); the
rest is to be counted and logged. Snapshotter and gateway differ in what they do with facts, and in `join`.

Terms. A live frame or beacon below the highest term is ignored (`StaleTerm`), and so is one of that term from a lower
instance (`core/fence.py`). A retransmitted frame or a state may be of an older term than the fence's (it is from before
a take-over). Of an older one than the newest unit that we hold it may be only in the epoch that we are in, or in which
the publisher in force stands: there its sender said the same as everybody. A newer term in an answer is in force as if
it had been heard.

Take-over. The new publisher may go on in the epoch, from a position that can be behind ours: what it mints again is
what we have (a message of an epoch is the same whoever publishes it) and is dropped, and its beacons below our position
mean nothing. A stream that was in a gap stays in it, in doubt, until the new publisher's words show what is missing:
its next frame of the stream, or a beacon, at the latest the next full one. A gap that ends so is closed by "takeover".

Two histories. A publisher that has been replaced without noticing (a partition) may have opened an epoch with a higher
number than its successor's. What it said is void: when the publisher of a newer term stands in a *lower* epoch than
ours, the stream's position is forgotten (`Replaced`) and the stream is joined anew. If it stood in one before it opened
its own, on top of that, `Replaced` comes before the `Opened`. Nothing else voids anything.

Answers. For each `Wanted` that was sent call, in the end, exactly one of: `answered` (after `retransmitted` for
each of its frames), `unavailable`, or `based`; and nothing if no answer came: `tick` asks again. The first two are
given the `Wanted` that they answer, since the stream may want something else by now. An answer to a request that was
sent under another `term` than the one in force now counts as none: its sender may have been replaced.
"""

from collections.abc import Iterable
from itertools import repeat
from typing import Literal, NamedTuple

from lfmesh.core import topics
from lfmesh.core.codec import Flags, Increments, MarketFrame
from lfmesh.core.facts import Replaced, StaleTerm, Told
from lfmesh.core.fence import Fence
from lfmesh.core.followed import Followed, Item, size_of
from lfmesh.core.recovery import (
    DEFAULT_LIMITS,
    Accepted,
    Allowance,
    Based,
    Fact,
    Follower,
    FollowerLimits,
    Opened,
    Wanted,
)
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Beacon
from lfmesh.types import Position, StreamKey

__all__ = [
    "BEACON_INTERVAL_NS", "HELD_BYTES", "MISSED_BEACONS", "Feed", "FeedFact", "Item", "Replaced", "StaleTerm",
    "StreamFacts", "Told",
]  # fmt: skip

BEACON_INTERVAL_NS = 100_000_000
"""Publishers send a beacon this often."""
MISSED_BEACONS = 3
"""So many missed beacons mean that the link or the publisher is down."""

HELD_BYTES = 64 * 1024 * 1024
"""What all streams of a shard together may hold back; FollowerLimits bounds each one."""

_STATUS = int(Flags.STATUS)  # arithmetic on IntFlag costs more than all the rest of a frame's path
_SNAPSHOT = int(Flags.SNAPSHOT)
_new = tuple.__new__

type FeedFact = Fact[Item] | StaleTerm | Replaced | Told


class StreamFacts(NamedTuple):
    """What one call means for one stream; `facts` in order, possibly none."""

    stream: StreamKey
    facts: list[FeedFact]


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
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._shard = shard
        self._join = join
        self._limits = limits
        self._allowance = Allowance(held_bytes)
        self._fence = Fence(term)
        self._streams: dict[StreamKey, Followed] = {}
        self._by_topic: dict[bytes, Followed] = {}
        self._gapped: dict[StreamKey, Followed] = {}
        self._in_doubt = False
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
        return self._fence.instance

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

    @property
    def held_bytes(self) -> int:
        """Their size."""
        return self._allowance.used

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
        fence = self._fence
        if (header.term != fence.highest or header.instance != fence.instance) and not self._admit(
            header.term, header.instance
        ):
            return StreamFacts(stream.key, [StaleTerm(header.term, len(frame.messages))])
        if header.flags & _STATUS:
            return StreamFacts(stream.key, self._tell(stream, frame.messages))
        if header.term == stream.term and header.instance == stream.instance:
            return StreamFacts(stream.key, self._take(stream, frame, now))
        void = self._void(stream, header.term, header.instance, header.epoch, now)
        return StreamFacts(stream.key, [*void, *self._take(stream, frame, now)])

    def followed(self, key: StreamKey) -> Followed:
        """The feed's own record of a stream, for `follows`; it stays the same one."""
        return self._streams.get(key) or self._stream(key)

    def follows(self, stream: Followed, increments: Increments) -> Position | None:
        """Where the stream stands now, and they are taken, if these are the next increments of a stream that misses
        nothing, from its known publisher; else None.

        That is nearly always so, and costs a fraction of `frame`, which is for all else. Which instance of the term it
        is from is not asked: within an epoch all publishers say the same.
        """
        _, term, epoch, first_seq, _, messages = increments
        if term != stream.term or term != self._fence.highest or stream.gapped:
            return None
        follower = stream.follower
        at = follower.position
        if at is None:
            return None
        at_epoch, at_seq = at
        if at_epoch != epoch or at_seq + 1 != first_seq:
            return None
        # As Position's own constructor does, in half its time.
        follower.position = position = _new(Position, (epoch, at_seq + len(messages)))
        return position

    def retransmitted(self, frame: MarketFrame, now: int) -> StreamFacts:
        """One frame of the answer to a Wanted("retransmit")."""
        stream = self._by_topic.get(frame.topic) or self._stream_of_topic(frame.topic)
        header = frame.header
        if (header.term, header.instance) > (self._fence.highest, self._fence.instance):
            self._admit(header.term, header.instance)
        if (header.term, header.instance) < (stream.term, stream.instance) and not stream.vouched(header.epoch):
            return StreamFacts(stream.key, [StaleTerm(header.term, len(frame.messages))])
        if header.flags & _STATUS:
            return StreamFacts(stream.key, [])
        return StreamFacts(stream.key, self._take(stream, frame, now, answer=True))

    def beacon(self, beacon: Beacon, now: int) -> list[StreamFacts]:
        """A beacon has arrived; the streams for which it means something."""
        if beacon.shard != self._shard:
            raise BadMeshFrame(f"a beacon of shard {beacon.shard} where shard {self._shard} was subscribed")
        fence = self._fence
        if (beacon.term != fence.highest or beacon.instance != fence.instance) and not self._admit(
            beacon.term, beacon.instance
        ):
            self._stale_beacons += 1
            return []
        returned = self._heard_at is not None and self.silent(now)
        self._heard_at = now
        told = []
        for here in beacon.positions:
            key = StreamKey(here.product, here.channel)
            epoch, seq = here.epoch, here.seq
            stream = self._streams.get(key) or self._stream(key)
            at = stream.follower.position
            if at is not None and at.seq == seq and at.epoch == epoch and not stream.gapped:
                continue
            facts = self._stands(stream, beacon, Position(epoch, seq), now)
            if facts:
                told.append(StreamFacts(key, facts))
        if beacon.full and self._in_doubt:
            told += self._absent(now)
        return told + self._ask_again(now) if returned and self._gapped else told

    def based(self, key: StreamKey, position: Position, term: int, now: int) -> StreamFacts:
        """The answer to a Wanted("snapshot"): a state of this term holds at `position`.

        Taken only if the facts begin with `Based`; what was held back and fits onto it comes after that.
        """
        stream = self._streams.get(key) or self._stream(key)
        if term > self._fence.highest:
            self._admit(term, 0)
        vouched = stream.vouched(position.epoch)
        if term < stream.term and not vouched:
            return StreamFacts(key, [StaleTerm(term, 1)])
        at = stream.follower.position
        facts = stream.follower.base(position, now)
        if facts and type(facts[0]) is Based and (term > stream.term or not vouched):
            stream.term, stream.instance, stream.based_at = term, 0, now
        return StreamFacts(key, self._after(stream, facts, at))

    def answered(self, key: StreamKey, now: int, asked: Wanted | None = None) -> StreamFacts:
        """Every frame of the answer to a Wanted("retransmit"), this one, has been given to `retransmitted`."""
        stream = self._streams.get(key) or self._stream(key)
        return StreamFacts(key, self._after(stream, stream.follower.answered(now, asked)))

    def unavailable(self, key: StreamKey, now: int, asked: Wanted | None = None) -> StreamFacts:
        """Who was asked for this has not got it (any more)."""
        stream = self._streams.get(key) or self._stream(key)
        return StreamFacts(key, self._after(stream, stream.follower.unavailable(now, asked)))

    def tick(self, now: int) -> list[StreamFacts]:
        """Requests that are due again; call it several times a second."""
        told = []
        for key, stream in self._gapped.items():
            facts = stream.follower.tick(now)
            if facts:
                told.append(StreamFacts(key, [*facts]))
        return told

    def restore(self, key: StreamKey, position: Position, term: int) -> bool:
        """A state of this term, kept from before this process, holds at `position`; False if the stream is known
        already.

        Before the first beacon the term also becomes the least that a publisher must have.
        """
        if key in self._streams:
            return False
        stream = self._stream(key)
        stream.follower.position = position
        stream.term = term
        if self._heard_at is None:
            self._fence.admit(term)
        return True

    def forget(self, key: StreamKey) -> None:
        """What we hold of the stream turned out to be unusable: join it anew, with the next frame or beacon."""
        stream = self._streams.get(key)
        if stream is not None:
            stream.follower.abandon(0)
            self._note_gap(stream)

    def begin_anew(self, term: int) -> None:
        """All that was published below this term is void, in all streams: each is joined anew.

        That its publisher is heard is not affected: it is the same one, that has gone back (or ahead) in a history.
        """
        self._fence.admit(term)
        self._in_doubt = False
        for stream in self._streams.values():
            stream.follower.abandon(0)
            stream.term, stream.instance, stream.status = term, 0, b""
            self._note_gap(stream)

    # Inside -----------------------------------------------------------------------------------------------------

    def _stream_of_topic(self, topic: bytes) -> Followed:
        shard, key = topics.parse_market_data(topic)
        if shard != self._shard:
            raise BadMeshFrame(f"a frame of shard {shard} where shard {self._shard} was subscribed")
        stream = self._streams.get(key) or self._stream(key)
        self._by_topic[topic] = stream
        return stream

    def _stream(self, key: StreamKey) -> Followed:
        follower: Follower[Item] = Follower(self._join, self._limits, None, size_of, self._allowance)
        stream = self._streams[key] = Followed(key, follower)
        self._by_topic[topics.market_data(self._shard, key)] = stream
        return stream

    def _admit(self, term: int, instance: int) -> bool:
        """True if they may speak. With a new publisher, what others may have said wrongly is forgotten.

        That is the state of streams (`Told`), and of streams in a gap what was held back and which positions were
        seen: the new publisher's frames and beacons show what is really missing.
        """
        verdict = self._fence.admit(term, instance)
        if verdict == "newer":
            for stream in self._streams.values():
                stream.status = b""
            for stream in self._gapped.values():
                stream.follower.taken_over()
                self._in_doubt = True
        return verdict != "stale"

    def _tell(self, stream: Followed, messages: list[bytes]) -> list[FeedFact]:
        if len(messages) != 1:
            raise BadMeshFrame(f"a status frame with {len(messages)} messages")
        if messages[0] == stream.status:
            return []
        stream.status = messages[0]
        return [Told(messages[0])]

    def _void(self, stream: Followed, term: int, instance: int, epoch: int, now: int) -> list[FeedFact]:
        """Forget the position if a newer publisher than that of what we hold stands in an older epoch."""
        at = stream.follower.position
        if at is None or epoch >= at.epoch or not stream.superseded(term, instance, now):
            return []
        facts: list[FeedFact] = [*stream.follower.abandon(0), Replaced(at)]
        self._note_gap(stream)
        stream.term, stream.instance = term, instance
        return facts

    def _stands(self, stream: Followed, beacon: Beacon, position: Position, now: int) -> list[FeedFact]:
        """What a beacon's position of one stream means."""
        void = self._void(stream, beacon.term, beacon.instance, position.epoch, now)
        joined = stream.follower.position is None
        facts = self._after(stream, stream.follower.beacon(position, now))
        if joined and stream.follower.position is not None:
            stream.term, stream.instance = beacon.term, beacon.instance
        return [*void, *facts]

    def _absent(self, now: int) -> list[StreamFacts]:
        """A full beacon has named all streams of a new publisher: those still in doubt are not among them."""
        self._in_doubt = False
        doubted = [stream for stream in self._gapped.values() if stream.follower.in_doubt]
        return [StreamFacts(stream.key, self._after(stream, stream.follower.absent(now))) for stream in doubted]

    def _ask_again(self, now: int) -> list[StreamFacts]:
        """The publisher is heard again after a silence."""
        told = []
        for key, stream in self._gapped.items():
            facts = stream.follower.heard_again(now)
            if facts:
                told.append(StreamFacts(key, [*facts]))
        return told

    def _take(self, stream: Followed, frame: MarketFrame, now: int, *, answer: bool = False) -> list[FeedFact]:
        header = frame.header
        items = list(zip(repeat(header), frame.messages))
        follower = stream.follower
        at = follower.position
        if not header.flags & _SNAPSHOT:
            if not items:
                raise BadMeshFrame("a frame without messages")
            facts = follower.increments(header.epoch, header.first_seq, items, now, answer=answer)
            same = header.term == stream.term and header.instance == stream.instance
            if same and len(facts) == 1 and type(facts[0]) is Accepted:
                return [facts[0]]  # by far the most frequent case: the next numbers of a known epoch
        else:
            previous = Position(header.prev_epoch, header.prev_seq) if header.prev_epoch else None
            facts = follower.snapshot(Position(header.epoch, header.first_seq), previous, items, now, answer=answer)
        return self._after(stream, facts, at)

    def _after(self, stream: Followed, facts: Iterable[Fact[Item]], at: Position | None = None) -> list[FeedFact]:
        """The facts of a stream that stood `at` this position, and what they mean beside it.

        An epoch that was opened on top of one below ours replaces what we hold: its publisher knew nothing of it.
        """
        told: list[FeedFact] = []
        for fact in facts:
            if isinstance(fact, Opened):
                header = fact.items[-1][0]
                if at is not None and 0 < header.prev_epoch < at.epoch:
                    told.append(Replaced(at))
                at = fact.position
                stream.said_by(header.term, header.instance)
            elif isinstance(fact, Accepted):
                at = Position(fact.epoch, fact.first_seq + len(fact.items) - 1)
                header = fact.items[-1][0]
                stream.said_by(header.term, header.instance)
            elif isinstance(fact, Based):
                at = fact.position
            told.append(fact)
        if stream.follower.gapped is not stream.gapped:
            self._note_gap(stream)
        return told

    def _note_gap(self, stream: Followed) -> None:
        stream.gapped = stream.follower.gapped
        if stream.gapped:
            self._gapped[stream.key] = stream
        else:
            self._gapped.pop(stream.key, None)
