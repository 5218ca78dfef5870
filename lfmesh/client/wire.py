"""A gateway's messages, decoded in one pass.

Prices and sizes are cut out as `msgspec.Raw`; `exact` turns one into the venue's text. Integers that the protocol
promises to be below 2^53 are refused above it. Unknown fields are ignored, unknown operations are `Other`.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from lfmesh.client.values import Level, Quote, Ticker, Trade
from lfmesh.errors import BadFrame
from lfmesh.exact import is_decimal
from lfmesh.types import Channel, Continuity, Side, SnapshotReason, StreamState

Counted = Annotated[int, Meta(ge=0, lt=2**53)]
Nanoseconds = Annotated[int, Meta(ge=0)]
RequestId = int | str | None


class TradeFields(msgspec.Struct, frozen=True, gc=False):
    """One trade."""

    px: Raw
    qty: Raw
    side: Side
    trade_id: Counted


class BestLevel(msgspec.Struct, frozen=True, gc=False):
    """A best price; `qty` may be null."""

    px: Raw
    qty: Raw


class TickFields(msgspec.Struct, frozen=True, gc=False):
    """A ticker."""

    last_trade: TradeFields | None
    best_bid: BestLevel | None
    best_ask: BestLevel | None


class BookFields(msgspec.Struct, frozen=True, gc=False):
    """Levels by side."""

    bids: list[tuple[Raw, Raw]]
    asks: list[tuple[Raw, Raw]]


class TradesState(msgspec.Struct, frozen=True, gc=False):
    """The latest trades; no trade up to `last_trade_id` will come any more."""

    trades: list[TradeFields]
    last_trade_id: Counted | None = None


class _Increment(msgspec.Struct, frozen=True, gc=False, tag_field="type", kw_only=True):
    product: str
    channel: Channel
    epoch: Counted
    seq: Counted
    prev_seq: Counted | None = None
    ts_event: Nanoseconds
    ts_ingest: Nanoseconds = 0
    ts_publish: Nanoseconds
    continuity: Continuity


class TickData(_Increment, frozen=True, gc=False, tag="tick", kw_only=True):
    """Of the ticker channel."""

    fields: TickFields


class TradeData(_Increment, frozen=True, gc=False, tag="trade", kw_only=True):
    """Of the trades channel."""

    fields: TradeFields


class BookData(_Increment, frozen=True, gc=False, tag="book", kw_only=True):
    """Of the book channel."""

    fields: BookFields


IncrementData = TickData | TradeData | BookData
_OF_CHANNEL: dict[Channel, type[IncrementData]] = {
    Channel.TICKER: TickData,
    Channel.TRADES: TradeData,
    Channel.BOOK: BookData,
}


class MissingRange(msgspec.Struct, frozen=True, gc=False):
    """First and last id of trades that can't be had any more."""

    from_trade_id: Counted
    to_trade_id: Counted


class SnapshotData(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A snapshot or one part of it; `state` is decoded by the channel when the snapshot is complete."""

    product: str
    channel: Channel
    epoch: Counted
    seq: Counted
    ts_snapshot: Nanoseconds = 0
    reason: SnapshotReason
    missing: MissingRange | None = None
    part: Annotated[int, Meta(ge=1)] = 1
    parts: Annotated[int, Meta(ge=1)] = 1
    state: Raw


class _Message(msgspec.Struct, frozen=True, gc=False, tag_field="op"):
    pass


class IncrementMessage(_Message, frozen=True, gc=False, tag="incr"):
    """`incr`."""

    data: IncrementData


class SnapshotMessage(_Message, frozen=True, gc=False, tag="snapshot"):
    """`snapshot`."""

    data: SnapshotData


class Subscribed(_Message, frozen=True, gc=False, tag="subscribed"):
    """What of a request was carried out."""

    products: list[str]
    channels: list[str]
    id: RequestId = None


class Unsubscribed(_Message, frozen=True, gc=False, tag="unsubscribed"):
    """Nothing more comes of these."""

    id: RequestId = None


class Status(_Message, frozen=True, gc=False, tag="status"):
    """State of a stream."""

    product: str
    channel: Channel
    state: StreamState
    since: Nanoseconds
    reason: str


class Pong(_Message, frozen=True, gc=False, tag="pong"):
    """Answer to `ping`."""

    t: int


class RateLimit(_Message, frozen=True, gc=False, tag="rate_limit"):
    """A request was not carried out."""

    retry_ms: Annotated[int, Meta(ge=0)]
    id: RequestId = None


class Heartbeat(_Message, frozen=True, gc=False, tag="heartbeat"):
    """Nothing else to say."""


class Error(_Message, frozen=True, gc=False, tag="error"):
    """A request, or a part of it, was not carried out."""

    code: str
    msg: str
    id: RequestId = None


class GoawayMessage(_Message, frozen=True, gc=False, tag="goaway"):
    """The gateway is about to end."""

    reason: str
    reconnect_ms: Annotated[int, Meta(ge=0)]


class ReplayMessage(_Message, frozen=True, gc=False, tag="replay"):
    """Where a replay is."""

    state: Literal["waiting", "playing", "paused", "seeking", "ended"]
    at: Nanoseconds
    start: Nanoseconds = msgspec.field(name="from")
    end: Nanoseconds = msgspec.field(name="to")
    speed: float | Literal["max"]
    run: Counted
    id: RequestId = None


class Other(msgspec.Struct, frozen=True):
    """An operation of another version."""

    op: str


Message = (
    IncrementMessage
    | SnapshotMessage
    | Subscribed
    | Unsubscribed
    | Status
    | Pong
    | RateLimit
    | Heartbeat
    | Error
    | GoawayMessage
    | ReplayMessage
)

_KNOWN = {
    str(kind.__struct_config__.tag)
    for kind in (
        IncrementMessage,
        SnapshotMessage,
        Subscribed,
        Unsubscribed,
        Status,
        Pong,
        RateLimit,
        Heartbeat,
        Error,
        GoawayMessage,
        ReplayMessage,
    )
}

_message: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_other = msgspec.json.Decoder(Other)
_ticker = msgspec.json.Decoder(TickFields)
_trades = msgspec.json.Decoder(TradesState)
_book = msgspec.json.Decoder(BookFields)
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeError)


def parse(text: str) -> Message | Other:
    """One message of a gateway; BadFrame for what the client protocol does not allow."""
    try:
        message = _message.decode(text)
        if type(message) is IncrementMessage and type(message.data) is not _OF_CHANNEL[message.data.channel]:
            raise BadFrame(f"an increment of another kind in channel {message.data.channel}")
    except _UNREADABLE as error:
        return _foreign(text, error)
    return message


def _foreign(text: str, error: Exception) -> Other:
    try:
        other = _other.decode(text)
    except _UNREADABLE:
        other = None
    if other is None or other.op in _KNOWN:
        raise BadFrame(f"not a message of the protocol: {error}") from error
    return other


# Content --------------------------------------------------------------------------------------------------------


def exact(raw: Raw) -> str:
    """The venue's digits; BadFrame if they are no exact decimal."""
    text = str(raw, "ascii", "replace")
    if not is_decimal(text):
        raise BadFrame(f"{text[:60]} is no exact decimal")
    return text


def trade_of(fields: TradeFields) -> Trade:
    """A trade; BadFrame."""
    return Trade(fields.trade_id, exact(fields.px), exact(fields.qty), fields.side)


def ticker_of(fields: TickFields) -> Ticker:
    """A ticker; BadFrame."""
    last = fields.last_trade
    return Ticker(None if last is None else trade_of(last), _quote(fields.best_bid), _quote(fields.best_ask))


def levels_of(pairs: Sequence[tuple[Raw, Raw]]) -> tuple[Level, ...]:
    """Levels in their order; BadFrame."""
    return tuple([Level(exact(px), exact(qty)) for px, qty in pairs])


def ticker_state(state: Raw) -> Ticker:
    """The ticker of a snapshot; BadFrame."""
    return ticker_of(_read(_ticker, state))


def trades_state(state: Raw) -> tuple[tuple[Trade, ...], int | None]:
    """The trades of a snapshot, and the id up to which no trade will come any more; BadFrame."""
    found = _read(_trades, state)
    return tuple([trade_of(fields) for fields in found.trades]), found.last_trade_id


def book_state(state: Raw) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """The levels of a snapshot, or of a part of one; BadFrame."""
    found = _read(_book, state)
    return levels_of(found.bids), levels_of(found.asks)


def _read[T](decoder: msgspec.json.Decoder[T], state: Raw) -> T:
    try:
        return decoder.decode(state)
    except _UNREADABLE as error:
        raise BadFrame(f"not the state of this channel: {error}") from error


def _quote(level: BestLevel | None) -> Quote | None:
    if level is None:
        return None
    return Quote(exact(level.px), None if bytes(level.qty) == b"null" else exact(level.qty))
