"""PROTOCOL's messages as a client sees them, decoded once, with every digit kept.

`px` and `qty` are decoded as `msgspec.Raw`: the bytes that stood in the message. `exact_text` and `price_key` turn them
into the venue's text and an exact integer, or raise `NotExact`; no number passes through binary floating point.
Integers that the protocol promises to be below 2^53 are refused above it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from lfmesh.exact import DECIMAL_PATTERN, is_decimal, scaled
from lfmesh.types import Continuity, Level, Side, SnapshotReason, StreamState

Counted = Annotated[int, Meta(ge=0, lt=2**53)]
"""A number that JavaScript can carry."""

Nanoseconds = Annotated[int, Meta(ge=0)]
ErrorCode = Literal[
    "INVALID_JSON",
    "BAD_REQUEST",
    "INVALID_OPERATION",
    "UNKNOWN_PRODUCT",
    "UNKNOWN_CHANNEL",
    "TOO_MANY_SUBSCRIPTIONS",
]
RequestId = Annotated[str, Meta(max_length=128)] | int | None
ChannelName = Literal["ticker", "trades", "book"]
RawLevel = tuple[Raw, Raw]


class TradeFields(msgspec.Struct, frozen=True, gc=False):
    """One trade; `side` is the taker's."""

    px: Raw
    qty: Raw
    side: Side
    trade_id: Counted


class BestLevel(msgspec.Struct, frozen=True, gc=False):
    """A best bid or ask; `qty` may be null where the venue's ticker gives none."""

    px: Raw
    qty: Raw


class TickFields(msgspec.Struct, frozen=True, gc=False):
    """The ticker: always all three, null where unknown."""

    last_trade: TradeFields | None
    best_bid: BestLevel | None
    best_ask: BestLevel | None


class BookFields(msgspec.Struct, frozen=True, gc=False):
    """Absolute sizes by price; 0 removes the level."""

    bids: list[RawLevel]
    asks: list[RawLevel]


class TradesState(msgspec.Struct, frozen=True, gc=False):
    """The latest trades, oldest first; no trade up to `last_trade_id` will come any more."""

    trades: list[TradeFields]
    last_trade_id: Counted | None = None


class _Increment(msgspec.Struct, frozen=True, gc=False, tag_field="type", kw_only=True):
    v: Literal[1]
    product: str
    epoch: Counted
    seq: Counted
    prev_seq: Counted | None = None
    ts_event: Nanoseconds
    ts_ingest: Nanoseconds
    ts_publish: Nanoseconds
    continuity: Continuity


class Tick(_Increment, frozen=True, gc=False, tag="tick", kw_only=True):
    """An increment of the ticker channel."""

    channel: Literal["ticker"]
    fields: TickFields


class TradeIncrement(_Increment, frozen=True, gc=False, tag="trade", kw_only=True):
    """An increment of the trades channel."""

    channel: Literal["trades"]
    fields: TradeFields


class BookIncrement(_Increment, frozen=True, gc=False, tag="book", kw_only=True):
    """An increment of the book channel."""

    channel: Literal["book"]
    fields: BookFields


Increment = Tick | TradeIncrement | BookIncrement


class Missing(msgspec.Struct, frozen=True, gc=False):
    """Trades that can't be had any more, first and last id."""

    from_trade_id: Counted
    to_trade_id: Counted


class Snapshot(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """State of a stream at (epoch, seq), or one part of it; `state` is decoded by the channel."""

    v: Literal[1]
    type: Literal["snapshot"]
    product: str
    channel: ChannelName
    epoch: Counted
    seq: Counted
    ts_snapshot: Nanoseconds
    reason: SnapshotReason
    missing: Missing | None = None
    part: Annotated[int, Meta(ge=1)] = 1
    parts: Annotated[int, Meta(ge=1)] = 1
    state: Raw


class _Message(msgspec.Struct, frozen=True, gc=False, tag_field="op"):
    pass


class IncrementMessage(_Message, frozen=True, gc=False, tag="incr"):
    """`incr`."""

    data: Increment


class SnapshotMessage(_Message, frozen=True, gc=False, tag="snapshot"):
    """`snapshot`."""

    data: Snapshot


class SubscribedMessage(_Message, frozen=True, gc=False, tag="subscribed"):
    """`subscribed`: what of a request was carried out."""

    products: list[str]
    channels: list[ChannelName]
    id: RequestId = None


class UnsubscribedMessage(_Message, frozen=True, gc=False, tag="unsubscribed"):
    """`unsubscribed`."""

    products: list[str]
    channels: list[ChannelName]
    id: RequestId = None


class StatusMessage(_Message, frozen=True, gc=False, tag="status"):
    """`status` of one stream."""

    product: str
    channel: ChannelName
    state: StreamState
    since: Nanoseconds
    reason: str


class PongMessage(_Message, frozen=True, gc=False, tag="pong"):
    """`pong`."""

    t: int


class RateLimitMessage(_Message, frozen=True, gc=False, tag="rate_limit"):
    """`rate_limit`: the request was not carried out."""

    retry_ms: Counted
    id: RequestId = None


class HeartbeatMessage(_Message, frozen=True, gc=False, tag="heartbeat"):
    """`heartbeat`."""

    ts: Nanoseconds


class ErrorMessage(_Message, frozen=True, gc=False, tag="error"):
    """`error`."""

    code: ErrorCode
    msg: str
    id: RequestId = None


class GoawayMessage(_Message, frozen=True, gc=False, tag="goaway"):
    """`goaway`: the gateway will close soon."""

    reason: str
    reconnect_ms: Counted


class ReplayMessage(_Message, frozen=True, gc=False, tag="replay"):
    """`replay`: where a replay is; with another `run` than before everything begins anew."""

    state: Literal["waiting", "playing", "paused", "seeking", "ended"]
    at: Nanoseconds
    start: Nanoseconds = msgspec.field(name="from")
    end: Nanoseconds = msgspec.field(name="to")
    speed: Raw
    run: Counted
    id: RequestId = None


Message = (
    IncrementMessage
    | SnapshotMessage
    | SubscribedMessage
    | UnsubscribedMessage
    | StatusMessage
    | PongMessage
    | RateLimitMessage
    | HeartbeatMessage
    | ErrorMessage
    | GoawayMessage
    | ReplayMessage
)

_messages: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
decode = _messages.decode
"""A gateway's message; msgspec.DecodeError (ValidationError among them) for anything that is none."""

decode_book = msgspec.json.Decoder(BookFields).decode
decode_ticker = msgspec.json.Decoder(TickFields).decode
decode_trades = msgspec.json.Decoder(TradesState).decode


class ResumePosition(msgspec.Struct, frozen=True):
    """Where a client stands in one stream, as `from_seq` names it."""

    epoch: int
    seq: int


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="op", tag="subscribe"):
    """The `subscribe` request."""

    id: str | int
    products: list[str]
    channels: list[str]
    want_snapshot: bool = True
    from_seq: dict[str, dict[str, ResumePosition] | int] = {}
    conflate_ms: int = 0


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="op", tag="unsubscribe"):
    """The `unsubscribe` request; None means all."""

    id: str | int
    products: list[str] | None = None
    channels: list[str] | None = None


class Ping(msgspec.Struct, frozen=True, tag_field="op", tag="ping"):
    """The `ping` request."""

    t: int


class Control(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="op", tag="replay"):
    """The `replay` request."""

    action: str
    at: int | str | None = None
    speed: float | str | None = None
    id: str | int | None = None


Request = Subscribe | Unsubscribe | Ping | Control

_all_decimals = re.compile(rf"(?:{DECIMAL_PATTERN}(?:,|$))*", re.ASCII).fullmatch

encode = msgspec.json.Encoder().encode
"""JSON bytes of a request."""


class NotExact(ValueError):
    """A price or size that is no exact decimal of the protocol."""


@lru_cache(maxsize=1 << 17)
def price_key(text: str) -> int:
    """A price as an exact integer, equal for `1.1` and `1.10`: see `lfmesh.exact.scaled`."""
    return scaled(text)


def exact_text(raw: Raw) -> str:
    """The venue's digits, or NotExact."""
    text = str(raw, "ascii", "replace")
    if not is_decimal(text):
        raise NotExact(f"{text[:60]} is no exact decimal (a JSON number without sign and exponent)")
    return text


def exact_levels(levels: Sequence[RawLevel]) -> list[Level]:
    """The venue's digits of many levels, or NotExact."""
    texts = [(str(px, "ascii", "replace"), str(qty, "ascii", "replace")) for px, qty in levels]
    if not _all_decimals(",".join([text for level in texts for text in level])):
        for px, qty in levels:
            exact_text(px)
            exact_text(qty)
    return texts


def is_zero(text: str) -> bool:
    """True for `0`, `0.0`, `0.00000000`."""
    return text[0] == "0" and not text.strip("0.")
