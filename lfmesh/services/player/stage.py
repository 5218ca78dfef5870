"""What has been played: each stream's position and state, and the frames that say so. Answers like a normalizer. Pure.

    lines ──put──► runs ──flush──► frames: published, kept for retransmission, applied to the state

Messages keep their bytes and positions. What the archive lacks can't be made up: a stream whose increments do not
follow on each other is `recovering` until its next snapshot, on the tape or among the archived states (`mend`). Where
an epoch is followed by one with a lower number (its publisher was replaced without noticing), the term is raised, as
its successor did.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lfmesh import messages
from lfmesh.archive.asof import StateAt
from lfmesh.archive.history import Told
from lfmesh.core import encode, topics
from lfmesh.core.codec import Flags, Header, pack
from lfmesh.core.contents import Content, TradesContent, content_of
from lfmesh.core.hub_snapshots import Holding, State, missing_after, state_of, trade_ids
from lfmesh.core.ring import ReplayRing, RingStatistics
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import (
    Beacon,
    Rejected,
    Reply,
    RetransmitRequest,
    SnapshotReply,
    SnapshotRequest,
    StreamPosition,
    Unavailable,
)
from lfmesh.types import InputPosition, Position, StreamKey, StreamState

RUN_MESSAGES = 256
RUN_BYTES = 256 * 1024
"""A frame holds no more than this, but for one large message."""
RING_BYTES = 64 * 1024 * 1024
REPLY_BYTES = 8 * 1024 * 1024
_ENTRY_OVERHEAD = 400
_NOWHERE = Position(0, 0)
_SNAPSHOT, _STATUS = int(Flags.SNAPSHOT), int(Flags.STATUS)

NOT_YET = "not begun yet, at this moment of the replay"
NEVER = "nothing of it is in this replay"
HOLE = "the archive lacks messages here; it goes on with the next snapshot"


@dataclass(slots=True, eq=False)
class Played:
    """One stream: where it stands and what holds there; `run` and `parts` are not published yet."""

    key: StreamKey
    topic: bytes
    position: Position | None = None
    time: int = 0
    content: Content | None = None
    lacking: bool = False
    status: bytes = b""
    run: list[bytes] = field(default_factory=list)
    run_first: int = 0
    run_bytes: int = 0
    parts: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class StageCounters:
    """Since the start. `holes`: places where the archive lacked something; `passed_over`: messages without a place."""

    messages: int = 0
    frames: int = 0
    bytes: int = 0
    beacons: int = 0
    holes: int = 0
    passed_over: int = 0


class Stage:
    """See the module's docstring. `publish` takes frames; of streams in `absent` nothing will ever come."""

    def __init__(
        self,
        streams: Iterable[StreamKey],
        absent: Iterable[StreamKey],
        instance: int,
        incarnation: int,
        publish: Callable[[bytes], None],
    ) -> None:
        self.term = 0
        self.sent = 0
        """Frames so far."""
        self.counters = StageCounters()
        self._instance = instance
        self._incarnation = incarnation
        self._publish = publish
        self._shard = 0
        self._beacon_prefix = topics.beacon(self._shard) + b"\0"
        self._streams = {key: Played(key, topics.market_data(self._shard, key)) for key in streams}
        self._absent = [Played(key, topics.market_data(self._shard, key)) for key in absent]
        self._ring: ReplayRing[StreamKey, bytes] = ReplayRing(RING_BYTES)
        self._touched: dict[StreamKey, Played] = {}
        self._changed: dict[StreamKey, Played] = {}
        self._beats = 0
        self._now = 0

    # What is played ---------------------------------------------------------------------------------------------

    def begin(self, states: Iterable[StateAt], term: int, now: int) -> None:
        """Everything begins anew, under this term: with these states, nothing of the other streams."""
        self.term, self._now = term, now
        self._ring = ReplayRing(RING_BYTES)
        self._touched.clear()
        for stream in self._streams.values():
            self._streams[stream.key] = Played(stream.key, stream.topic)
        for state in states:
            stream = self._streams[state.stream]
            stream.time = state.time
            parts = encode.snapshot(*state.stream, state.position, state.time, "resync", state.parts)
            self._open(stream, state.position, parts)

    def put(self, told: Told) -> None:
        """The next line; published with the next `flush` at the latest."""
        stream = self._streams[told.stream]
        line = told.line
        if line.snapshot:
            if line.part == 1:
                stream.parts = []
            stream.parts.append(line.message)
            if line.part == line.parts:
                parts, stream.parts = stream.parts, []
                stream.time = line.time
                self._snapshot(stream, Position(line.epoch, line.seq), parts)
            return
        at = stream.position
        if at is None or line.epoch != at.epoch or line.seq != at.seq + 1 or stream.lacking:
            self._out_of_place(stream, Position(line.epoch, line.seq))
            return
        stream.position = Position(line.epoch, line.seq)
        stream.time = line.time
        run = stream.run
        if not run:
            stream.run_first = line.seq
            self._touched[stream.key] = stream
        run.append(line.message)
        stream.run_bytes += len(line.message)
        if len(run) >= RUN_MESSAGES or stream.run_bytes >= RUN_BYTES:
            self._close_run(stream)

    @property
    def lacking(self) -> list[StreamKey]:
        """The streams that wait for a snapshot, since the archive lacks what comes next."""
        return [key for key, stream in self._streams.items() if stream.lacking]

    def mend(self, state: StateAt, now: int) -> bool:
        """Let a stream that lacks something go on from this state; False if it is not later than what was played."""
        stream = self._streams[state.stream]
        at = stream.position
        if not stream.lacking or at is None or state.position <= at:
            return False
        self._now = now
        stream.time = max(stream.time, state.time)
        self._open(stream, state.position, self._healing(stream, state.position, state.time, state.parts))
        return True

    def flush(self, now: int) -> None:
        """Publish what was put."""
        self._now = now
        for stream in self._touched.values():
            self._close_run(stream)
        self._touched.clear()

    def beacon(self, now: int, *, full: bool) -> None:
        """Say where the streams stand: those changed since the last beacon, or all."""
        self._now = now
        self._beats += 1
        if full:
            for stream in self._streams.values():
                if stream.position is None or stream.lacking:
                    self._tell(stream, "recovering", HOLE if stream.lacking else NOT_YET)
            for stream in self._absent:
                self._tell(stream, "stale", NEVER)
        streams = self._streams if full else self._changed
        positions = [
            StreamPosition(*stream.key, *stream.position) for stream in streams.values() if stream.position is not None
        ]
        self._changed.clear()
        source = self._input
        beacon = Beacon(self._shard, self.term, self._instance, source, now, full, positions, [source], self.sent)
        self._publish(self._beacon_prefix + messages.encode(beacon))
        self.counters.beacons += 1

    # What is asked ----------------------------------------------------------------------------------------------

    def retransmit(self, request: RetransmitRequest) -> tuple[Reply | Unavailable, list[bytes]]:
        """The frames after a position, as they were published; Unavailable if one of them is not retained."""
        key = StreamKey(request.product, request.channel)
        stream = self._streams.get(key)
        asked = Position(request.epoch, request.seq)
        if stream is not None and stream.position == asked:
            return Reply(), []
        bound = min(request.max_bytes or REPLY_BYTES, REPLY_BYTES)
        if request.or_oldest:
            retained = self._ring.oldest_since(key, asked, bound)
        else:
            retained = self._ring.since(key, asked, bound) or []
        if not retained:
            return Unavailable(f"what follows epoch {request.epoch}, seq {request.seq} is not retained"), []
        last = Position(retained[-1].epoch, retained[-1].last_seq)
        return Reply(more=last != self._ring.newest(key)), [entry.payload for entry in retained]

    def snapshot(self, request: SnapshotRequest) -> tuple[SnapshotReply | Unavailable | Rejected, list[bytes]]:
        """A stream's state in parts, and where it holds; `ts_snapshot` is the stream's time."""
        key = StreamKey(request.product, request.channel)
        stream = self._streams.get(key)
        if stream is None or stream.position is None or stream.content is None:
            return Unavailable(NEVER if stream is None else NOT_YET), []
        if stream.lacking:
            return Unavailable(HOLE), []
        try:
            parts = stream.content.parts()
        except BadMeshFrame as error:
            return Unavailable(str(error)), []
        return SnapshotReply(*key, self.term, *stream.position, stream.time, self._input), parts

    def ring_statistics(self) -> RingStatistics:
        """What is retained."""
        return self._ring.statistics()

    @property
    def begun(self) -> list[StreamKey]:
        """The streams that have a state."""
        return [key for key, stream in self._streams.items() if stream.position is not None]

    # Inside -----------------------------------------------------------------------------------------------------

    @property
    def _input(self) -> InputPosition:
        """A source that goes on: so a gateway sees that its shard lives, also while nothing is played."""
        return InputPosition(self._instance, self._incarnation, self._beats)

    def _snapshot(self, stream: Played, position: Position, parts: list[bytes]) -> None:
        at = stream.position
        if at is not None and position.epoch == at.epoch and position <= at:
            self.counters.passed_over += len(parts)
            return
        self._close_run(stream)
        if at is not None and (stream.lacking or position.seq):  # it takes the place of what is lost
            found = state_of(position, 0, parts)
            parts = self._healing(stream, position, found.ts, found.parts)
        if at is not None and position < at:
            self.term += 1
            stream.position = None
            self._ring.forget(stream.key)
        self._open(stream, position, parts)

    def _healing(self, stream: Played, position: Position, ts: int, states: Sequence[bytes]) -> list[bytes]:
        """A snapshot across a hole; trades that were lost in it are declared."""
        missing = None
        if isinstance(stream.content, TradesContent) and stream.position is not None:
            holding = Holding(stream.position, stream.content.last_trade_id or None)
            missing = missing_after(holding, State(position, 0, ts, tuple(states)), trade_ids(states))
        return encode.snapshot(*stream.key, position, ts, "gap", states, missing)

    def _open(self, stream: Played, position: Position, parts: list[bytes]) -> None:
        """Publish a snapshot; the stream stands there."""
        previous, stream.position = stream.position, position
        stream.content = content_of(stream.key.channel)
        stream.content.load([encode.state_of(part) for part in parts])
        stream.lacking = False
        self._send(stream, _SNAPSHOT, position.seq, parts, previous)
        if stream.status:
            self._tell(stream, "live", "it goes on")

    def _out_of_place(self, stream: Played, position: Position) -> None:
        """An increment that does not come next."""
        self.counters.passed_over += 1
        at = stream.position
        if at is None or stream.lacking or position <= at:
            return
        self.counters.holes += 1
        self._close_run(stream)
        stream.lacking = True
        self._tell(stream, "recovering", HOLE)

    def _close_run(self, stream: Played) -> None:
        run = stream.run
        if not run:
            return
        stream.run, stream.run_bytes = [], 0
        assert stream.content is not None
        stream.content.apply(run)
        self._send(stream, 0, stream.run_first, run, None)

    def _send(self, stream: Played, flags: int, first_seq: int, texts: list[bytes], previous: Position | None) -> None:
        assert stream.position is not None
        epoch = stream.position.epoch
        frame = self._frame(stream, flags, Position(epoch, first_seq), texts, previous)
        snapshot = flags == _SNAPSHOT
        self._ring.append(
            stream.key, epoch, first_seq, 1 if snapshot else len(texts), frame,
            size=len(frame) + _ENTRY_OVERHEAD, now=self._now, snapshot=snapshot, previous=previous,
        )  # fmt: skip
        self._changed[stream.key] = stream
        self.counters.messages += len(texts)
        self._publish(frame)

    def _tell(self, stream: Played, state: StreamState, reason: str) -> None:
        """A status; one that is not live is kept, to be published again."""
        if state == "live":
            stream.status = b""
            message = encode.status(*stream.key, state, self._now, reason)
        else:
            message = stream.status = stream.status or encode.status(*stream.key, state, self._now, reason)
        self._publish(self._frame(stream, _STATUS, stream.position or _NOWHERE, [message], None))

    def _frame(
        self, stream: Played, flags: int, position: Position, texts: list[bytes], previous: Position | None
    ) -> bytes:
        self.sent += 1
        header = Header(
            flags, self.term, self._instance, self._input, *position, *(previous or _NOWHERE), stream.time, self._now,
            self.sent & 0xFFFF,
        )  # fmt: skip
        frame = pack(stream.topic, header, texts)
        self.counters.frames += 1
        self.counters.bytes += len(frame)
        return frame
