"""What a feed yields, in order: small frozen values.

    Snapshot      BookSnapshot, TickerSnapshot, TradesSnapshot     the state of a stream, whole
    Increment     BookUpdate, Tick, TradeEvent                     the next change of it
    StatusChanged                                                  a stream's data stops, or goes on, and why
    Missing                                                        trades that can't be had any more
    Connected, Disconnected, Goaway                                the connection
    Violation, Refused                                             the gateway broke a promise; refuses what was asked
    ReplayStatus                                                   where a replay is, where one is followed
    Skipped                                                        events that nobody read

    async for event in feed:
        match event:
            case TradeEvent(product=product, trade=trade): ...
            case Disconnected(reason=reason, retry_in_s=pause): ...

Times are integer ns since the Unix epoch: `ts_event` the venue's, `ts_ingest` its arrival in the mesh, `ts_publish` the
normalizer's, `ts_received` ours; 0 where there is none.
"""

from typing import Literal

import msgspec

from lfmesh.client.values import Level, Ticker, Trade
from lfmesh.exact import Exact
from lfmesh.types import Channel, Continuity, Position, Side, SnapshotReason, StreamState

ViolationKind = Literal[
    "malformed",
    "not_exact",
    "gap",
    "repeated",
    "epoch",
    "start",
    "parts",
    "state",
    "crossed",
    "trade_gap",
    "trade_order",
    "unsubscribed",
    "reply",
]
"""What was broken: a message that can't be read; a price that is no exact decimal; increments missing inside a
connection; one that came twice; one of an epoch that no snapshot opened; a stream that begins otherwise than asked;
parts of a snapshot out of order; a snapshot that differs from the state reached; a crossed book; trades missing,
undeclared; trades out of order; a stream that was not asked for; an answer to nothing, or no answer."""


class _StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    product: str
    position: Position
    ts_received: int


class Snapshot(_StreamEvent, frozen=True, kw_only=True):
    """The state of a stream at `position`; it replaces what was known. `texts`: the raw message, or its parts.

    `reason` "conflated": this client took less than came, or had its share, so the gateway has left out the changes in
    between.
    """

    channel: Channel
    reason: SnapshotReason
    ts_snapshot: int
    texts: tuple[str, ...]

    @property
    def conflated(self) -> bool:
        """It stands for changes that were left out because this client took too little."""
        return self.reason == "conflated"

    @property
    def age_ns(self) -> int:
        """How old it was when it was taken from the socket, by the mesh's clock and ours; a big one, its last part."""
        return self.ts_received - self.ts_snapshot

    @property
    def text(self) -> str:
        """The raw message; the parts of a big one, a line each."""
        return "\n".join(self.texts)


class BookSnapshot(Snapshot, frozen=True, kw_only=True):
    """The whole book, best prices first."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class TickerSnapshot(Snapshot, frozen=True, kw_only=True):
    """The ticker."""

    ticker: Ticker


class TradesSnapshot(Snapshot, frozen=True, kw_only=True):
    """The latest trades, oldest first. `new`: those that this feed has not told of before.

    Who wants each trade once, in order, takes `new` of each snapshot and the trade of each `TradeEvent`.
    """

    trades: tuple[Trade, ...]
    new: tuple[Trade, ...]


class Increment(_StreamEvent, frozen=True, kw_only=True):
    """The next change of a stream; `position` is the one that it leads to.

    `continuity`: `verified` (evidence shows that nothing is missing before it), `unverified` (the venue gives no
    evidence for this kind of message), `backfilled` (fetched later, in its place). `prev_seq`: only with `conflate_ms`;
    this one stands for all changes after that seq, up to its own. Its times are those of the newest of them.
    """

    channel: Channel
    continuity: Continuity
    ts_event: int
    ts_ingest: int
    ts_publish: int
    text: str
    prev_seq: int | None = None

    @property
    def merged(self) -> int:
        """How many changes it stands for: 1, or more on a stream with `conflate_ms`."""
        return 1 if self.prev_seq is None else self.position.seq - self.prev_seq

    @property
    def age_ns(self) -> int:
        """How long after its publication it was taken from the socket, by the mesh's clock and ours."""
        return self.ts_received - self.ts_publish


class Tick(Increment, frozen=True, kw_only=True):
    """The ticker as it is now."""

    ticker: Ticker


class TradeEvent(Increment, frozen=True, kw_only=True):
    """One trade."""

    trade: Trade

    @property
    def trade_id(self) -> int:
        """The venue's id."""
        return self.trade.trade_id

    @property
    def px(self) -> Exact:
        """The price."""
        return self.trade.px

    @property
    def qty(self) -> Exact:
        """The size."""
        return self.trade.qty

    @property
    def side(self) -> Side:
        """The taker's side."""
        return self.trade.side


class BookUpdate(Increment, frozen=True, kw_only=True):
    """Levels that changed: absolute sizes, zero where the level is gone."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class StatusChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's data has stopped, and why, or goes on (`live`). `since` in ns."""

    product: str
    channel: Channel
    state: StreamState
    since: int
    reason: str
    ts_received: int


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Trades `from_trade_id` to `to_trade_id` can't be had any more.

    `declared`: the mesh says so. Otherwise this library found it out by the ids.
    """

    product: str
    from_trade_id: int
    to_trade_id: int
    declared: bool
    ts_received: int


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """A connection is open. `again`: there was one before; what was followed is being resumed by position."""

    url: str
    again: bool
    ts_received: int


class Disconnected(msgspec.Struct, frozen=True, kw_only=True):
    """No connection, and why; the next attempt begins in `retry_in_s`. `code`: the WebSocket close code, if one came.

    `failures`: attempts in a row that came to nothing; 0 when a connection that was open is lost.
    """

    url: str
    reason: str
    retry_in_s: float
    code: int | None
    failures: int
    ts_received: int


class Goaway(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway is about to end. The feed changes over by itself, after `reconnect_ms`."""

    reason: str
    reconnect_ms: int
    ts_received: int


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway has broken a promise of the protocol; the stream (or, without one, the connection) is taken anew."""

    kind: ViolationKind
    product: str | None
    channel: Channel | None
    detail: str
    ts_received: int
    text: str = ""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway refuses what this feed asked for by itself, as after a reconnection; asked again on the next one."""

    code: str
    msg: str
    products: tuple[str, ...]
    ts_received: int


class ReplayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is followed is a replay of an archive (`lfmesh replay --serve`), and this is where it is; see `Feed.replay`.

    Times are the archive's, in ns. `speed` None: as fast as it is taken. When `run` is another one than before, the
    replay plays from another moment: each stream goes on with a snapshot, and trades that came before may come again.
    """

    state: Literal["waiting", "playing", "paused", "seeking", "ended"]
    at: int
    start: int
    end: int
    speed: float | None
    run: int
    ts_received: int


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """`count` events came while nobody read, more than are kept. Books, tickers and positions are right all along."""

    count: int


Event = (
    BookSnapshot
    | TickerSnapshot
    | TradesSnapshot
    | BookUpdate
    | Tick
    | TradeEvent
    | StatusChanged
    | Missing
    | Connected
    | Disconnected
    | Goaway
    | Violation
    | Refused
    | ReplayStatus
    | Skipped
)
"""Everything that a feed yields."""
