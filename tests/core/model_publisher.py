"""A publisher of market data as the wire sees it, with the truth about its streams kept naively beside it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from lfmesh.core import codec, encode, topics
from lfmesh.core.codec import Flags, Header
from lfmesh.core.ring import ReplayRing
from lfmesh.messages import Beacon, RetransmitRequest, SnapshotReply, StreamPosition
from lfmesh.messages import encode as encode_message
from lfmesh.types import CHANNELS, Channel, InputPosition, Level, Position, StreamKey, Trade

KINDS = {Channel.TICKER: "tick", Channel.TRADES: "trade", Channel.BOOK: "book"}


@dataclass
class ModelStream:
    """One stream: where it stands, and what a reader must hold there."""

    position: Position
    ticker: str = encode.ticker_fields("null", "null", "null")
    trades: list[str] = field(default_factory=list)
    bids: dict[Decimal, Level] = field(default_factory=dict)
    asks: dict[Decimal, Level] = field(default_factory=dict)

    def copy(self) -> "ModelStream":
        return ModelStream(self.position, self.ticker, list(self.trades), dict(self.bids), dict(self.asks))

    def sides(self) -> tuple[list[Level], list[Level]]:
        bids = [self.bids[px] for px in sorted(self.bids, reverse=True)]
        return bids, [self.asks[px] for px in sorted(self.asks)]

    def state(self, channel: Channel) -> str:
        match channel:
            case Channel.TICKER:
                return self.ticker
            case Channel.TRADES:
                return encode.trades_state(self.trades[-50:])
            case Channel.BOOK:
                return encode.book_fields(*self.sides())


class ModelPublisher:
    """Each `open` or `increment` publishes one frame; `snapshot` and `retransmit` answer as a normalizer does."""

    def __init__(
        self,
        shard: int,
        term: int,
        clock: Callable[[], int],
        known: dict[StreamKey, ModelStream] | None = None,
        instance: int = 7,
        ring_bytes: int = 1_000_000,
    ) -> None:
        self.shard = shard
        self.term = term
        self.instance = instance
        self.clock = clock
        self.known = {key: stream.copy() for key, stream in (known or {}).items()}
        self.streams: dict[StreamKey, ModelStream] = {}
        self.history: dict[tuple[StreamKey, Position], bytes] = {}
        self.number = 0
        self.trade_id = 0
        self._ring: ReplayRing[StreamKey, bytes] = ReplayRing(ring_bytes)
        self.archive: ReplayRing[StreamKey, bytes] = ReplayRing(1 << 40)
        """Everything that was ever published, as snapshotters keep it."""

    def open(self, key: StreamKey) -> bytes:
        """A new epoch, with what is known of the stream as its first state."""
        before = self.streams.get(key) or self.known.get(key)
        now = self.clock()
        stream = before.copy() if before else ModelStream(Position(0, 0))
        previous = before.position if before else None
        stream.position = Position(max(now, previous.epoch + 1 if previous else 0), 0)
        self.streams[key] = stream
        states = [stream.state(key.channel)]
        if key.channel is Channel.BOOK:
            states = encode.book_state_parts(*stream.sides(), part_bytes=400)
        messages = encode.snapshot(*key, stream.position, now, "epoch", states)
        return self._publish(key, Flags.SNAPSHOT, 0, messages, previous)

    def resume(self, key: StreamKey) -> None:
        """Go on in the epoch that is known of the stream."""
        self.streams[key] = self.known[key].copy()

    def increment(self, key: StreamKey, numbers: list[int]) -> bytes:
        """One frame of as many increments as there are numbers, each derived from its number."""
        stream = self.streams[key]
        first = stream.position.seq + 1
        messages = []
        for number in numbers:
            epoch, seq = stream.position = Position(stream.position.epoch, stream.position.seq + 1)
            fields = self._change(key, stream, number)
            prefix = encode.increment_prefix(KINDS[key.channel], *key, epoch)
            message = encode.increment(prefix, seq, (number, number, self.clock()), "unverified", fields)
            self.history[key, stream.position] = message
            messages.append(message)
        return self._publish(key, Flags.INCREMENTS, first, messages, None, max(numbers, default=0))

    def status(self, key: StreamKey, state: str) -> bytes:
        """A status frame."""
        message = encode.status(*key, "stale" if state == "stale" else "live", 1, state)
        return codec.pack(topics.market_data(self.shard, key), self._header(Flags.STATUS, 0, 0, None), [message])

    def beacon(self, keys: list[StreamKey] | None = None) -> Beacon:
        """Positions of these streams, of all by default."""
        positions = [
            StreamPosition(*key, *self.streams[key].position) for key in (keys or self.streams) if key in self.streams
        ]
        source = InputPosition(1, 2, self.number)
        return Beacon(self.shard, self.term, self.instance, source, self.clock(), keys is None, positions)

    def beacon_frame(self) -> bytes:
        return topics.beacon(self.shard) + b"\0" + encode_message(self.beacon())

    def retransmit(self, key: StreamKey, after: Position) -> list[bytes] | None:
        entries = self._ring.since(key, after)
        return None if entries is None else [entry.payload for entry in entries]

    def retransmit_piece(self, request: RetransmitRequest) -> tuple[list[bytes], bool] | None:
        """The answer to a request with its bounds, and whether there is more; None: nothing of it is retained."""
        key, after = StreamKey(request.product, request.channel), Position(request.epoch, request.seq)
        if key in self.streams and self.streams[key].position == after:
            return [], False
        return piece(self._ring, request)

    def archived_piece(self, request: RetransmitRequest) -> tuple[list[bytes], bool] | None:
        """The same of the archive."""
        key = StreamKey(request.product, request.channel)
        if self.archive.newest(key) == Position(request.epoch, request.seq):
            return [], False
        return piece(self.archive, request)

    def forget(self, key: StreamKey) -> None:
        """Nothing of the stream can be retransmitted."""
        self._ring.forget(key)

    def snapshot(self, key: StreamKey) -> tuple[SnapshotReply, list[bytes]] | None:
        stream = self.streams.get(key)
        if stream is None:
            return None
        source = InputPosition(1, 2, self.number)
        reply = SnapshotReply(*key, self.term, *stream.position, self.clock(), source)
        return reply, [stream.state(key.channel).encode()]

    # Inside -----------------------------------------------------------------------------------------------------

    def _change(self, key: StreamKey, stream: ModelStream, number: int) -> str:
        px, qty = f"{100 + number % 40}.{number % 3}0", f"{number % 5}.5000"
        match key.channel:
            case Channel.TICKER:
                trade = encode.trade_fields(Trade(key.product, number, px, qty, "buy", number))
                stream.ticker = encode.ticker_fields(trade, encode.level((px, qty)), "null")
                return stream.ticker
            case Channel.TRADES:
                self.trade_id += 1
                stream.trades.append(encode.trade_fields(Trade(key.product, self.trade_id, px, qty, "sell", number)))
                return stream.trades[-1]
            case Channel.BOOK:
                level = (px if number % 2 else px[:-1], "0.00000000" if number % 3 == 0 else qty)
                side = stream.bids if number % 7 < 4 else stream.asks
                if number % 3 == 0:
                    side.pop(Decimal(level[0]), None)
                else:
                    side[Decimal(level[0])] = level
                return encode.book_fields([level], []) if side is stream.bids else encode.book_fields([], [level])

    def _header(self, flags: Flags, epoch: int, first_seq: int, previous: Position | None, ts_event: int = 0) -> Header:
        source = InputPosition(1, 2, self.number)
        return Header(
            flags, self.term, self.instance, source, epoch, first_seq, *(previous or (0, 0)), ts_event, self.clock()
        )

    def _publish(
        self, key: StreamKey, flags: Flags, first_seq: int, messages: list[bytes], previous: Position | None,
        ts_event: int = 0,
    ) -> bytes:  # fmt: skip
        self.number += 1
        epoch = self.streams[key].position.epoch
        frame = codec.pack(
            topics.market_data(self.shard, key), self._header(flags, epoch, first_seq, previous, ts_event), messages
        )
        snapshot = flags is Flags.SNAPSHOT
        count = 1 if snapshot else len(messages)
        for ring in (self._ring, self.archive):
            ring.append(
                key, epoch, first_seq, count, frame, size=len(frame), now=0, snapshot=snapshot, previous=previous
            )
        return frame


def piece(ring: ReplayRing[StreamKey, bytes], request: RetransmitRequest) -> tuple[list[bytes], bool] | None:
    """What a ring has of what is asked for, and whether there is more; None: nothing."""
    key, after = StreamKey(request.product, request.channel), Position(request.epoch, request.seq)
    look = ring.oldest_since if request.or_oldest else ring.since
    entries = look(key, after, request.max_bytes)
    if not entries:
        return None
    last = Position(entries[-1].epoch, entries[-1].last_seq)
    return [entry.payload for entry in entries], last != ring.newest(key)


def keys(products: int = 2) -> list[StreamKey]:
    return [StreamKey(f"P{number}-USD", channel) for number in range(products) for channel in CHANNELS]
