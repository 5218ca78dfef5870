"""`conflate_ms`: the same stream with at most one message per interval, made once for all who wish that interval.

    increments ──► Conflater of each lane ──emit, when its interval is over──► one message with prev_seq ──► its clients

A lane stands at the position of its last message, and its members stand there, too. Who joins it elsewhere is brought
to it by a message of its own: at once if it is behind the lane, with the lane's next message if it is ahead of it.
Intervals are rounded up to a few lengths, and lanes of one interval emit together: so clients share messages, and a
client gets all of its streams in one write.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from lfmesh.core.conflation import Conflater, conflated
from lfmesh.core.hub_clients import Join
from lfmesh.core.hub_frames import payload, text_frame
from lfmesh.core.hub_history import Ring, Run
from lfmesh.core.hub_streams import Fanout, Lane, Stream
from lfmesh.types import Channel, Position

_MS = 1_000_000
_NEVER = 1 << 63
_TAIL_BYTES = 1024 * 1024
"""What the ring counts for a tail that is not merged any more: some 1,500 messages."""
_KNOWN = 256
"""So many ways to a lane are remembered."""
INTERVALS_NS = tuple(
    ms * _MS
    for ms in (10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10_000, 20_000, 25_000, 50_000, 60_000)
)


def interval_ns(channel: Channel, conflate_ms: int) -> int:
    """The interval that serves a wish: the next longer one of a few; 0 where nothing is conflated."""
    if not conflate_ms or channel is Channel.TRADES:
        return 0
    at = bisect_left(INTERVALS_NS, conflate_ms * _MS)
    return INTERVALS_NS[min(at, len(INTERVALS_NS) - 1)]


@dataclass(slots=True, eq=False)
class ConflatedLane(Lane):
    """A stream with at most one message per interval; `position` is where its members stand."""

    stream: Stream
    interval_ns: int
    position: Position
    conflater: Conflater

    @property
    def waiting(self) -> list[Join]:
        """Who stands ahead of it, and enters with its next message."""
        return [join for join in self.stream.waiting["lane"] if join.interval_ns == self.interval_ns]

    @property
    def idle(self) -> bool:
        """True while nobody follows it, nor waits to."""
        return not self.members and not self.waiting


class Lanes:
    """All conflated lanes; see the module's docstring.

    `emitted_total` counts the messages made, `merged_total` those that they stand for.
    """

    def __init__(self, fanout: Fanout, ring: Ring) -> None:
        self.emitted_total = 0
        self.merged_total = 0
        self._fanout = fanout
        self._ring = ring
        self._by_interval: dict[int, dict[ConflatedLane, None]] = {}
        self._due: dict[int, int] = {}
        self._known: dict[tuple[Stream, Position, Position], Run] = {}

    @property
    def any(self) -> bool:
        """True if there is a lane."""
        return bool(self._by_interval)

    # What is published ------------------------------------------------------------------------------------------

    @staticmethod
    def extended(stream: Stream, messages: Sequence[bytes]) -> None:
        """Increments were published on a stream that has lanes."""
        for lane in stream.lanes.values():
            lane.conflater.add(messages)

    @staticmethod
    def replaced(stream: Stream, position: Position) -> list[Join]:
        """A snapshot has taken the stream to a position: its lanes go on from there. Who waited to enter, waits no
        more: they stand before it."""
        for lane in stream.lanes.values():
            lane.conflater.clear()
            lane.position = position
        return list(stream.waiting["lane"])

    def voided(self, stream: Stream) -> None:
        """What was published on the stream is void; nobody is live on it."""
        for lane in tuple(stream.lanes.values()):
            self._drop(lane)
        for way in [way for way in self._known if way[0] is stream]:
            del self._known[way]

    # Who comes --------------------------------------------------------------------------------------------------

    def follow_on(self, join: Join) -> Run | None:
        """What takes a join from its cursor to its lane; no frames: it stands where the lane stands, or waits for it.

        None: our ring has lost what comes after the cursor.
        """
        stream, cursor = join.stream, join.cursor
        assert cursor is not None
        assert stream.position is not None
        lane = stream.lanes.get(join.interval_ns)
        target = stream.position if lane is None or lane.idle else lane.position
        if cursor.epoch == target.epoch and cursor >= target:
            return Run([], cursor)
        return self._caught_up(stream, cursor, target)

    def enter(self, join: Join) -> tuple[bool, bool]:
        """Whether the join is live on its lane from now on, and whether it waits for the lane's next message. Neither:
        it has to follow on (`follow_on` gives what)."""
        stream, cursor = join.stream, join.cursor
        assert cursor is not None
        lane = stream.lanes.get(join.interval_ns)
        if lane is not None and lane.idle:
            self._drop(lane)
            lane = None
        if lane is None:
            if cursor != stream.position:
                return False, False
            lane = stream.lanes[join.interval_ns] = ConflatedLane(
                stream, join.interval_ns, cursor, Conflater(stream.key)
            )
            self._by_interval.setdefault(join.interval_ns, {})[lane] = None
        if cursor == lane.position:
            self._fanout.enter(join.client, stream, lane)
            return True, False
        return False, cursor.epoch == lane.position.epoch and cursor > lane.position

    # Time -------------------------------------------------------------------------------------------------------

    def next_at(self, now: int) -> int | None:
        """When `emit` is to be called next; None while there is no lane."""
        due = self._due
        for interval in self._by_interval:
            if due.get(interval, _NEVER) > now + interval:  # a new one, or the clock has been set back
                due[interval] = (now // interval + 1) * interval
        return min(due.values(), default=None)

    def emit(self, now: int) -> list[Join]:
        """What intervals that are over have come to; the joins that waited for it, whose turn it is to follow on."""
        waited: list[Join] = []
        for interval, at in tuple(self._due.items()):
            if now < at:
                continue
            self._due[interval] = (now // interval + 1) * interval
            for lane in tuple(self._by_interval[interval]):
                if lane.idle:
                    self._drop(lane)
                elif lane.conflater.count:
                    self._emit(lane)
                    waited.extend(lane.waiting)
        return waited

    def _emit(self, lane: ConflatedLane) -> None:
        position = lane.stream.position
        assert position is not None
        self.emitted_total += 1
        self.merged_total += lane.conflater.count
        message = lane.conflater.take(lane.position.seq)
        lane.position = position
        self._fanout.publish(lane, (text_frame(message),))

    def _caught_up(self, stream: Stream, cursor: Position, target: Position) -> Run | None:
        """One message from a position to another one; or, where a snapshot lies between, the last such. It is made once
        for all who take the same way, and not of more than a join's tail: then a state is the shorter way."""
        way = (stream, cursor, target)
        known = self._known.get(way)
        if known is None:
            known = self._merged(stream, cursor, target)
            if known is not None:
                self._known[way] = known
                if len(self._known) > _KNOWN:
                    del self._known[next(iter(self._known))]
        return known

    def _merged(self, stream: Stream, cursor: Position, target: Position) -> Run | None:
        entries = self._ring.since(stream.key, cursor, _TAIL_BYTES)
        if entries is None:
            return None
        if entries and Position(entries[-1].epoch, entries[-1].last_seq) < target:
            return None
        messages: list[bytes] = []
        snapshot: Run | None = None
        for entry in entries:
            if entry.snapshot:
                snapshot = Run(list(entry.payload), Position(entry.epoch, entry.last_seq))
            elif snapshot is None:
                messages.extend(
                    payload(frame)
                    for seq, frame in enumerate(entry.payload, entry.first_seq)
                    if cursor.seq < seq <= target.seq
                )
        if snapshot is not None:
            return snapshot
        return Run([text_frame(conflated(stream.key, messages, cursor.seq))], target)

    def _drop(self, lane: ConflatedLane) -> None:
        del lane.stream.lanes[lane.interval_ns]
        same = self._by_interval[lane.interval_ns]
        del same[lane]
        if not same:
            del self._by_interval[lane.interval_ns]
            self._due.pop(lane.interval_ns, None)
