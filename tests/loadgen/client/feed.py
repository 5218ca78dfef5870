"""A hand-made gateway: messages of one product, made with the mesh's own encoder, given to a checker."""

from collections.abc import Sequence

from lfmesh.core import encode
from lfmesh.types import Channel, Level, Position, SnapshotReason, Trade
from loadgen.client.checker import Checker
from loadgen.client.violations import Kind
from loadgen.client.wire import ResumePosition, Subscribe, Unsubscribe

SECOND = 1_000_000_000
EPOCH = 1_790_000_000_000_000
P = "BTC-USD"
CHANNELS = ("ticker", "trades", "book")


def trade(trade_id: int, px: str = "10.50", qty: str = "1.0") -> Trade:
    return Trade(P, trade_id, px, qty, "buy", 0)


def tick(seq: int, fields: str, *, epoch: int = EPOCH) -> bytes:
    prefix = encode.increment_prefix("tick", P, Channel.TICKER, epoch)
    return encode.increment(prefix, seq, (1, 2, 3), "unverified", fields)


def trade_incr(seq: int, what: Trade, *, epoch: int = EPOCH) -> bytes:
    prefix = encode.increment_prefix("trade", P, Channel.TRADES, epoch)
    return encode.increment(prefix, seq, (1, 2, 3), "verified", encode.trade_fields(what))


def book_incr(
    seq: int,
    bids: Sequence[Level] = (),
    asks: Sequence[Level] = (),
    *,
    epoch: int = EPOCH,
    stamps: tuple[int, int, int] = (1, 2, 3),
) -> bytes:
    prefix = encode.increment_prefix("book", P, Channel.BOOK, epoch)
    return encode.increment(prefix, seq, stamps, "unverified", encode.book_fields(bids, asks))


def conflated(message: bytes, prev_seq: int) -> bytes:
    return message.replace(b',"ts_event"', b',"prev_seq":%d,"ts_event"' % prev_seq, 1)


def snapshot(
    channel: Channel,
    seq: int,
    states: Sequence[str],
    *,
    reason: SnapshotReason = "subscribe",
    epoch: int = EPOCH,
    missing: tuple[int, int] | None = None,
) -> list[bytes]:
    return encode.snapshot(P, channel, Position(epoch, seq), 5, reason, list(states), missing)


def book_snapshot(
    seq: int,
    bids: Sequence[Level] = (),
    asks: Sequence[Level] = (),
    *,
    reason: SnapshotReason = "subscribe",
    epoch: int = EPOCH,
) -> list[bytes]:
    return snapshot(Channel.BOOK, seq, [encode.book_fields(bids, asks)], reason=reason, epoch=epoch)


def trades_snapshot(
    seq: int,
    trades: Sequence[Trade] = (),
    *,
    reason: SnapshotReason = "subscribe",
    epoch: int = EPOCH,
    missing: tuple[int, int] | None = None,
) -> list[bytes]:
    state = encode.trades_state(encode.trade_fields(what) for what in trades)
    return snapshot(Channel.TRADES, seq, [state], reason=reason, epoch=epoch, missing=missing)


class Feed:
    """A checker on a connection, and the shorthand to feed it."""

    def __init__(self, **options: int | None) -> None:
        self.checker = Checker(**options)  # type: ignore[arg-type]  # tests pass what they name
        self.now = SECOND
        self.checker.connected(self.now)

    def subscribe(
        self,
        *channels: str,
        want_snapshot: bool = True,
        conflate_ms: int = 0,
        resume: tuple[int, int] | None = None,
        bare: int | None = None,
        request_id: int = 1,
    ) -> None:
        from_seq: dict[str, dict[str, ResumePosition] | int] = {}
        if resume is not None:
            from_seq = {P: {channel: ResumePosition(*resume) for channel in channels}}
        elif bare is not None:
            from_seq = {P: bare}
        self.checker.requested(
            Subscribe(
                id=request_id,
                products=[P],
                channels=list(channels),
                want_snapshot=want_snapshot,
                from_seq=from_seq,
                conflate_ms=conflate_ms,
            ),
            self.now,
        )
        named = ",".join(f'"{channel}"' for channel in channels)
        self.text(f'{{"op":"subscribed","id":{request_id},"products":["{P}"],"channels":[{named}]}}')

    def unsubscribe(self, *channels: str) -> None:
        self.checker.requested(Unsubscribe(id=99, products=[P], channels=list(channels)), self.now)
        named = ",".join(f'"{channel}"' for channel in channels)
        self.text(f'{{"op":"unsubscribed","id":99,"products":["{P}"],"channels":[{named}]}}')

    def give(self, *messages: bytes | list[bytes]) -> None:
        for message in messages:
            for frame in message if isinstance(message, list) else [message]:
                self.now += 1
                self.checker.receive(frame, self.now)

    def text(self, message: str) -> None:
        self.give(message.encode())

    @property
    def kinds(self) -> list[Kind]:
        return [violation.kind for violation in self.checker.violations.first]

    def assert_clean(self) -> None:
        assert self.checker.violations.first == []
