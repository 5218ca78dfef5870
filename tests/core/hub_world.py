"""A publisher whose whole history is known, clients that check the client protocol's guarantees, and fake sinks.

State of a stream is a function of what was published, so any snapshot can be compared with the truth at its position.
"""

import copy
from dataclasses import dataclass, field

from lfmesh.core import encode
from lfmesh.core.hub_frames import payload, text_frames
from lfmesh.core.hub_history import Unit
from lfmesh.core.hub_snapshots import State
from lfmesh.models import (
    BookIncrement,
    BookSnapshot,
    IncrementMessage,
    SnapshotMessage,
    Tick,
    TickerSnapshot,
    TradeIncrement,
    TradesSnapshot,
    parse_message,
)
from lfmesh.types import Channel, Position, StreamKey, Trade

LATEST_TRADES = 5
TERM = 7


def trade(trade_id: int) -> Trade:
    return Trade("X", trade_id, f"{trade_id}.10", "0.50", "buy", 1)


@dataclass
class Published:
    """One unit of a stream's history, and the state after each of its messages (as JSON parts)."""

    unit: Unit
    messages: list[bytes]
    end: Position


@dataclass
class Publisher:
    """One stream as a normalizer would publish it. A trade id is skipped only where an epoch opens."""

    key: StreamKey
    big: bool = False
    units: list[Published] = field(default_factory=list)
    states: dict[Position, tuple[bytes, ...]] = field(default_factory=dict)
    ids: dict[Position, int] = field(default_factory=dict)
    lists: dict[Position, tuple[int, ...]] = field(default_factory=dict)
    epoch: int = 0
    seq: int = 0
    trade_id: int = 0
    trades: list[int] = field(default_factory=list)
    void: list["Publisher"] = field(default_factory=list)
    """What a publisher said that had been replaced without noticing."""

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq)

    def fork(self) -> "Publisher":
        """A publisher that goes on by itself from here; what it says will be void."""
        fork = copy.copy(self)
        fork.units, fork.void = [], []
        fork.states, fork.ids, fork.lists = {}, {}, {}
        self.void.append(fork)
        return fork

    def at(self, position: Position) -> "Publisher":
        """Who published at a position."""
        return next(one for one in (self, *self.void) if position in one.states)

    def open(self, epoch: int, skip: int = 0) -> Published:
        """A new epoch; `skip` trades were lost at the venue (and are declared)."""
        previous = self.position if self.epoch else None
        missing = None
        if skip and self.key.channel is Channel.TRADES:
            missing = (self.trade_id + 1, self.trade_id + skip)
            self.trade_id += skip + 1
            self.trades = [self.trade_id]
        self.epoch, self.seq = epoch, 0
        self._remember()
        messages = encode.snapshot(
            self.key.product, self.key.channel, self.position, 1, "gap" if missing else "epoch", self._state(), missing
        )
        unit = Unit(epoch, 0, True, previous, text_frames(messages))
        return self._keep(unit, messages)

    def publish(self, count: int) -> Published:
        first = self.seq + 1
        messages = []
        for _ in range(count):
            self.seq += 1
            self.trade_id += 1
            self.trades = [*self.trades, self.trade_id][-LATEST_TRADES:]
            self._remember()
            messages.append(self._increment())
        return self._keep(Unit(self.epoch, first, False, None, text_frames(messages)), messages)

    def state(self, position: Position, term: int = TERM) -> State:
        return State(position, term, 5, self.states[position])

    def healing(self, previous: Position, position: Position) -> Unit:
        """The snapshot that took the place of what was lost between two positions, as an archive keeps it."""
        messages = encode.snapshot(*self.key, position, 1, "gap", self.states[position])
        return Unit(*position, True, previous, text_frames(messages))

    def _keep(self, unit: Unit, messages: list[bytes]) -> Published:
        self.units.append(Published(unit, messages, self.position))
        return self.units[-1]

    def _remember(self) -> None:
        self.states[self.position] = tuple(text.encode() for text in self._state())
        self.ids[self.position] = self.trade_id
        self.lists[self.position] = tuple(self.trades)

    def _state(self) -> list[str]:
        match self.key.channel:
            case Channel.TICKER:
                return [self._ticker()]
            case Channel.TRADES:
                return [encode.trades_state([encode.trade_fields(trade(number)) for number in self.trades])]
            case Channel.BOOK:
                bids = [(f"{number}", f"{self.trade_id}.5") for number in range(9, 0, -1)]
                return encode.book_state_parts(bids, [], 160 if self.big else encode.PART_BYTES)

    def _ticker(self) -> str:
        last = encode.trade_fields(trade(self.trade_id)) if self.trade_id else "null"
        return encode.ticker_fields(last, "null", "null")

    def _increment(self) -> bytes:
        kinds = {Channel.TICKER: "tick", Channel.TRADES: "trade", Channel.BOOK: "book"}
        match self.key.channel:
            case Channel.TICKER:
                fields = self._ticker()
            case Channel.TRADES:
                fields = encode.trade_fields(trade(self.trade_id))
            case Channel.BOOK:
                fields = encode.book_fields([(f"{number}", f"{self.trade_id}.5") for number in range(1, 10)], [])
        prefix = encode.increment_prefix(kinds[self.key.channel], self.key.product, self.key.channel, self.epoch)
        return encode.increment(prefix, self.seq, (1, 2, 3), "verified", fields)


@dataclass
class Follow:
    """What one client knows of one stream since it subscribed to it the last time."""

    start: str
    position: Position | None = None
    trade_id: int | None = None
    parts: list[SnapshotMessage] = field(default_factory=list)
    begun: bool = False
    again: bool = False
    """Its first snapshot was begun, and came to nothing."""
    conflated: bool = False


class Reader:
    """A client's received history, checked message by message against the publishers' truth."""

    def __init__(self, publishers: dict[StreamKey, Publisher]) -> None:
        self.publishers = publishers
        self.follows: dict[StreamKey, Follow] = {}
        self.seen: list[str] = []
        self.snapshots: dict[StreamKey, list[str]] = {}

    def follow(
        self,
        key: StreamKey,
        start: str,
        position: Position | None = None,
        trade_id: int | None = None,
        *,
        conflate_ms: int = 0,
    ) -> None:
        conflated = conflate_ms > 0 and key.channel is not Channel.TRADES
        self.follows[key] = Follow(start, position, trade_id, conflated=conflated)

    def leave(self, key: StreamKey) -> None:
        del self.follows[key]

    def take(self, data: bytes) -> None:
        for frame in split(data):
            self.message(payload(frame))

    def message(self, text: bytes) -> None:
        message = parse_message(text)
        self.seen.append(message.op)
        if isinstance(message, IncrementMessage):
            self.increment(message, text)
        elif isinstance(message, SnapshotMessage):
            self.snapshot(message, text)

    def increment(self, message: IncrementMessage, text: bytes) -> None:
        data = message.data
        key = StreamKey(data.product, Channel(data.channel))
        follow = self.follows[key]
        here = Position(data.epoch, data.seq)
        truth = self.publishers[key].at(here)
        if follow.conflated:
            assert data.prev_seq is not None, f"{key}: an increment that is not conflated, {here}"
            if follow.position is not None:
                assert (data.epoch, data.prev_seq) == follow.position, (
                    f"{key}: {data.prev_seq} is not {follow.position}"
                )
            assert data.prev_seq < data.seq
            text = text.replace(b'"prev_seq":%d,' % data.prev_seq, b"")
        else:
            assert data.prev_seq is None
        if follow.position is None:
            assert follow.start == "next", f"{key} began with an increment"
        elif not follow.conflated:
            assert here == (follow.position.epoch, follow.position.seq + 1), f"{key}: {here} after {follow.position}"
        assert not follow.parts, "an increment between the parts of its stream's snapshot"
        match data:
            case TradeIncrement():
                if follow.trade_id is not None:
                    assert data.fields.trade_id == follow.trade_id + 1
                follow.trade_id = data.fields.trade_id
            case Tick():
                assert data.fields.last_trade is not None
                assert data.fields.last_trade.trade_id == truth.ids[here]
            case BookIncrement():
                assert str(data.fields.bids[0][1]) == f"{truth.ids[here]}.5"
        assert any(text in published.messages for published in truth.units), "altered on the way"
        follow.position, follow.begun = here, True

    def snapshot(self, message: SnapshotMessage, text: bytes) -> None:
        data = message.data
        key = StreamKey(data.product, Channel(data.channel))
        follow = self.follows[key]
        here = Position(data.epoch, data.seq)
        truth = self.publishers[key].at(here)
        if data.part is not None:
            if data.part == 1:
                follow.again = follow.again or bool(follow.parts)
                follow.parts = []  # a snapshot that was begun anew
            assert len(follow.parts) == data.part - 1
            follow.parts.append(message)
            if data.part != data.parts:
                return
        follow.parts = []
        self.snapshots.setdefault(key, []).append(data.reason)
        if not follow.begun and not (follow.again and data.reason == "gap"):
            expected = {"fresh": ("subscribe",), "after": ("resume_failed", "epoch", "gap", "conflated"), "next": None}[
                follow.start
            ]
            assert expected is None or data.reason in expected, f"{key} began ({follow.start}) with {data.reason}"
        assert text[text.index(b'"state":') + 8 : -2] in truth.states[here], f"not the state at {here}"
        if isinstance(data, TradesSnapshot):
            self.trades_snapshot(follow, data, truth.ids[here])
        assert isinstance(data, TickerSnapshot | TradesSnapshot | BookSnapshot)
        follow.position, follow.begun = here, True

    @staticmethod
    def trades_snapshot(follow: Follow, data: TradesSnapshot, newest: int) -> None:
        listed = [trade.trade_id for trade in data.state.trades]
        assert listed == sorted(listed)
        if follow.trade_id is not None:
            have = set(listed)
            if data.missing is not None:
                have |= set(range(data.missing.from_trade_id, data.missing.to_trade_id + 1))
            lost = set(range(follow.trade_id + 1, newest + 1)) - have
            assert not lost, f"trades {lost} are neither there nor declared: {data}"
        follow.trade_id = newest


def split(data: bytes) -> list[bytes]:
    """The WebSocket frames in a run of bytes."""
    frames = []
    while data:
        assert data[0] == 0x81
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4]), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10]), 10
        assert len(data) >= start + length, "a frame cut in two"
        frames.append(data[: start + length])
        data = data[start + length :]
    return frames


class FakeSink:
    """Takes everything, or (stalled) keeps it as a transport's buffer would."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.buffer: list[bytes] = []
        self.stalled = False
        self.closed: tuple[int, str] | None = None
        self.writes = 0

    def write(self, data: bytes) -> None:
        if self.closed is not None:
            return
        self.writes += 1
        if self.stalled:
            self.buffer.append(data)
        else:
            self.reader.take(data)

    def buffered(self) -> int:
        return sum(map(len, self.buffer))

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def drain(self) -> None:
        self.stalled = False
        for data in self.buffer:
            self.reader.take(data)
        self.buffer = []
