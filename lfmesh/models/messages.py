"""What the gateway sends: the public contract of every message, field by field in the order of the wire.

A field that is optional on the wire (`id`, `missing`, `part`, `parts`, `prev_seq`) is absent where it says nothing; a
field that is `null` on the wire is a value that the venue did not give.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from lfmesh.exact import Exact
from lfmesh.models.base import BookLevel, ChannelName, Count, Label, Model, Nanoseconds, RequestId
from lfmesh.models.requests import ErrorCode
from lfmesh.types import Continuity, Side, SnapshotReason, StreamState

# Increments -----------------------------------------------------------------------------------------------------


class TradeFields(Model):
    """One trade; `side` is the taker's."""

    px: Exact
    qty: Exact
    side: Side
    trade_id: Count


class BestPrice(Model):
    """Best bid or best ask; `qty` is null where the venue gives none."""

    px: Exact
    qty: Exact | None


class TickerFields(Model):
    """Last trade, best bid, best ask: always all three, null where unknown."""

    last_trade: TradeFields | None
    best_bid: BestPrice | None
    best_ask: BestPrice | None


class BookFields(Model):
    """Levels with absolute sizes; zero removes the level."""

    bids: list[BookLevel]
    asks: list[BookLevel]


class Increment(Model):
    """What every increment has."""

    v: Literal[1]
    type: str
    product: Label
    channel: str
    epoch: Count
    seq: Count
    prev_seq: Count | None = None
    """Only on streams with `conflate_ms`: the increment stands for all after this position, up to its own. Its times
    are those of the newest; `continuity` is the newest one's of a ticker, the weakest of all of a book."""
    ts_event: Nanoseconds
    ts_ingest: Nanoseconds
    ts_publish: Nanoseconds
    continuity: Continuity


class Tick(Increment):
    """An increment of the ticker channel: the ticker as it is now."""

    type: Literal["tick"]
    channel: Literal["ticker"]
    fields: TickerFields


class TradeIncrement(Increment):
    """An increment of the trades channel: one trade."""

    type: Literal["trade"]
    channel: Literal["trades"]
    prev_seq: None = None
    """Never there: trades are not conflated."""
    fields: TradeFields


class BookIncrement(Increment):
    """An increment of the book channel: the levels that changed."""

    type: Literal["book"]
    channel: Literal["book"]
    fields: BookFields


IncrementData = Annotated[Tick | TradeIncrement | BookIncrement, Field(discriminator="type")]


class IncrementMessage(Model):
    """One increment of one stream."""

    op: Literal["incr"]
    data: IncrementData


# Snapshots ------------------------------------------------------------------------------------------------------


class TradesState(Model):
    """The latest trades, oldest first. `last_trade_id`: no trade up to this id will come any more."""

    trades: list[TradeFields]
    last_trade_id: Count | None = None


class Missing(Model):
    """Trades that can't be had any more."""

    from_trade_id: Count
    to_trade_id: Count


class Snapshot(Model):
    """What every snapshot has. A big one comes in `parts`, in force with the last; the lists of all parts are one."""

    v: Literal[1]
    type: Literal["snapshot"]
    product: Label
    channel: str
    epoch: Count
    seq: Count
    ts_snapshot: Nanoseconds
    reason: SnapshotReason
    missing: Missing | None = None
    part: Annotated[int, Field(ge=1)] | None = None
    parts: Annotated[int, Field(ge=2)] | None = None


class TickerSnapshot(Snapshot):
    """State of a ticker stream."""

    channel: Literal["ticker"]
    state: TickerFields


class TradesSnapshot(Snapshot):
    """State of a trades stream."""

    channel: Literal["trades"]
    state: TradesState


class BookSnapshot(Snapshot):
    """State of a book stream: the whole book, best prices first."""

    channel: Literal["book"]
    state: BookFields


SnapshotData = Annotated[TickerSnapshot | TradesSnapshot | BookSnapshot, Field(discriminator="channel")]


class SnapshotMessage(Model):
    """The state of one stream at a position."""

    op: Literal["snapshot"]
    data: SnapshotData


# Everything else ------------------------------------------------------------------------------------------------


class Subscribed(Model):
    """These streams are followed from now on."""

    op: Literal["subscribed"]
    id: RequestId | None = None
    products: list[str]
    channels: list[ChannelName]


class Unsubscribed(Model):
    """Nothing more comes of these streams."""

    op: Literal["unsubscribed"]
    id: RequestId | None = None
    products: list[str]
    channels: list[ChannelName]


class Status(Model):
    """A stream's data has stopped (and why), or goes on."""

    op: Literal["status"]
    product: Label
    channel: ChannelName
    state: StreamState
    since: Nanoseconds
    reason: Annotated[str, Field(max_length=200)]


class Pong(Model):
    """The answer to `ping`."""

    op: Literal["pong"]
    t: int
    id: RequestId | None = None


class Heartbeat(Model):
    """Nothing else has been sent for a while; the connection lives."""

    op: Literal["heartbeat"]
    ts: Nanoseconds


class RateLimit(Model):
    """A request was not carried out: too many of them. Ask again after `retry_ms`."""

    op: Literal["rate_limit"]
    retry_ms: Count
    id: RequestId | None = None


class Error(Model):
    """A request, or a part of it, was not carried out."""

    op: Literal["error"]
    code: ErrorCode
    msg: str
    id: RequestId | None = None


class GoAway(Model):
    """The gateway will close this connection: connect again, after `reconnect_ms`."""

    op: Literal["goaway"]
    reason: str
    reconnect_ms: Count


class ReplayStatus(Model):
    """Where a replay (`lfmesh replay --serve`) is. Only a replay sends it.

    It is the first message of each connection, the answer to `replay`, and comes to everybody when something of it but
    `at` has changed. `run` changes with each seek and each start of the replay: whoever sees another one than before
    begins anew, since what comes may be before what came, and each stream goes on with a snapshot (reason `resync`) or,
    resumed by position, from there. Times are those of the archive, in ns: they need 64 bits.
    """

    model_config = ConfigDict(populate_by_name=True)

    op: Literal["replay"]
    state: Literal["waiting", "playing", "paused", "seeking", "ended"]
    """waiting: for the first subscription. seeking: it will go on from `at` in a moment."""
    at: Nanoseconds
    """Where it is: everything up to this moment has been sent."""
    from_: Nanoseconds = Field(validation_alias="from", serialization_alias="from")
    """The earliest moment that can be sought."""
    to: Nanoseconds
    """The last one: there it ends."""
    speed: Exact | Literal["max"]
    run: Count
    id: RequestId | None = None


Message = Annotated[
    Subscribed
    | SnapshotMessage
    | IncrementMessage
    | Status
    | Unsubscribed
    | Pong
    | RateLimit
    | Heartbeat
    | Error
    | GoAway
    | ReplayStatus,
    Field(discriminator="op"),
]
