"""The client protocol's messages as a client reads them: prices and sizes are the exact texts of the wire.

JSON numbers would lose digits as floats, and as plain Decimals the form of a zero; so numbers of money are cut out as
text (`lfmesh.exact.scaled` compares them). Unknown fields are ignored, unknown operations come as they are.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from lfmesh.errors import BadFrame
from lfmesh.exact import is_decimal
from lfmesh.types import Channel, Continuity, Level, Side, StreamState


class Trade(msgspec.Struct, frozen=True):
    """One trade; `side` is the taker's."""

    px: str
    qty: str
    side: Side
    trade_id: int


class Ticker(msgspec.Struct, frozen=True):
    """Last trade and best prices, each None where unknown; a best size may be unknown too."""

    last_trade: Trade | None
    best_bid: tuple[str, str | None] | None
    best_ask: tuple[str, str | None] | None


class Book(msgspec.Struct, frozen=True):
    """Levels, absolute sizes: the whole book of a snapshot's part, or an increment's changes (0 removes)."""

    bids: list[Level]
    asks: list[Level]


class Update(msgspec.Struct, frozen=True):
    """A snapshot (or one part of it) or an increment.

    `content` is a Ticker, a list of Trades (oldest first) or a Book. Times are ns since the Unix epoch, 0 where there
    is none. `missing` are the first and last trade id that can't be had any more.
    """

    op: Literal["snapshot", "incr"]
    product: str
    channel: Channel
    epoch: int
    seq: int
    prev_seq: int | None
    ts_event: int
    ts_publish: int
    continuity: Continuity | None
    reason: str | None
    part: int
    parts: int
    missing: tuple[int, int] | None
    content: Ticker | list[Trade] | Book


class Status(msgspec.Struct, frozen=True):
    """State of a stream: `since` in ns."""

    product: str
    channel: Channel
    state: StreamState
    since: int
    reason: str


class Subscribed(msgspec.Struct, frozen=True):
    """The request was carried out for these."""

    products: list[str]
    channels: list[Channel]


class Refused(msgspec.Struct, frozen=True):
    """An error or a rate limit; `code` as the client protocol lists them (RATE_LIMIT for the latter)."""

    code: str
    msg: str


class Goaway(msgspec.Struct, frozen=True):
    """The gateway is about to end; come again after `reconnect_ms`."""

    reason: str
    reconnect_ms: int


class Other(msgspec.Struct, frozen=True):
    """Heartbeats, pongs, and what this client does not know."""

    op: str


Message = Update | Status | Subscribed | Refused | Goaway | Other


# What is on the wire --------------------------------------------------------------------------------------------


class _Trade(msgspec.Struct):
    px: msgspec.Raw
    qty: msgspec.Raw
    side: Side
    trade_id: int


class _Quote(msgspec.Struct):
    px: msgspec.Raw
    qty: msgspec.Raw


class _Ticker(msgspec.Struct):
    last_trade: _Trade | None
    best_bid: _Quote | None
    best_ask: _Quote | None


class _Trades(msgspec.Struct):
    trades: list[_Trade]


class _Book(msgspec.Struct):
    bids: list[tuple[msgspec.Raw, msgspec.Raw]]
    asks: list[tuple[msgspec.Raw, msgspec.Raw]]


class _Missing(msgspec.Struct):
    from_trade_id: int
    to_trade_id: int


class _Data(msgspec.Struct):
    product: str
    channel: Channel
    epoch: int
    seq: int
    prev_seq: int | None = None
    ts_event: int = 0
    ts_publish: int = 0
    ts_snapshot: int = 0
    continuity: Continuity | None = None
    reason: str | None = None
    part: int = 1
    parts: int = 1
    missing: _Missing | None = None
    fields: msgspec.Raw = msgspec.Raw()
    state: msgspec.Raw = msgspec.Raw()


class _Envelope(msgspec.Struct):
    op: str
    data: msgspec.Raw = msgspec.Raw()
    code: str = ""
    msg: str = ""
    retry_ms: int = 0


_envelope = msgspec.json.Decoder(_Envelope)
_data = msgspec.json.Decoder(_Data)
_status = msgspec.json.Decoder(Status)
_subscribed = msgspec.json.Decoder(Subscribed)
_goaway = msgspec.json.Decoder(Goaway)
_ticker = msgspec.json.Decoder(_Ticker)
_trade = msgspec.json.Decoder(_Trade)
_trades = msgspec.json.Decoder(_Trades)
_book = msgspec.json.Decoder(_Book)


def parse(text: str | bytes) -> Message:
    """One message of a gateway; BadFrame for what the client protocol does not allow."""
    try:
        envelope = _envelope.decode(text)
        reader = _readers.get(envelope.op)
        return Other(envelope.op) if reader is None else reader(envelope, text)
    except msgspec.DecodeError as error:
        raise BadFrame(f"not a message of the protocol: {error}") from error


def _update(op: Literal["snapshot", "incr"], data: _Data) -> Update:
    body = data.state if op == "snapshot" else data.fields
    content: Ticker | list[Trade] | Book
    match data.channel:
        case Channel.TICKER:
            ticker = _ticker.decode(body)
            last = ticker.last_trade
            content = Ticker(None if last is None else _priced(last), _quote(ticker.best_bid), _quote(ticker.best_ask))
        case Channel.TRADES if op == "snapshot":
            content = [_priced(trade) for trade in _trades.decode(body).trades]
        case Channel.TRADES:
            content = [_priced(_trade.decode(body))]
        case Channel.BOOK:
            book = _book.decode(body)
            content = Book(_levels(book.bids), _levels(book.asks))
    return Update(
        op=op,
        product=data.product,
        channel=data.channel,
        epoch=data.epoch,
        seq=data.seq,
        prev_seq=data.prev_seq,
        ts_event=data.ts_event,
        ts_publish=data.ts_publish or data.ts_snapshot,
        continuity=data.continuity,
        reason=data.reason,
        part=data.part,
        parts=data.parts,
        missing=None if data.missing is None else (data.missing.from_trade_id, data.missing.to_trade_id),
        content=content,
    )


def _exact(raw: msgspec.Raw) -> str:
    text = bytes(raw).decode()
    if not is_decimal(text):
        raise BadFrame(f"not an exact decimal: {text[:60]}")
    return text


def _priced(trade: _Trade) -> Trade:
    return Trade(_exact(trade.px), _exact(trade.qty), trade.side, trade.trade_id)


def _quote(quote: _Quote | None) -> tuple[str, str | None] | None:
    if quote is None:
        return None
    return _exact(quote.px), None if bytes(quote.qty) == b"null" else _exact(quote.qty)


def _levels(levels: list[tuple[msgspec.Raw, msgspec.Raw]]) -> list[Level]:
    return [(_exact(px), _exact(qty)) for px, qty in levels]


_readers: dict[str, Callable[[_Envelope, str | bytes], Message]] = {
    "incr": lambda envelope, _: _update("incr", _data.decode(envelope.data)),
    "snapshot": lambda envelope, _: _update("snapshot", _data.decode(envelope.data)),
    "status": lambda _, text: _status.decode(text),
    "subscribed": lambda _, text: _subscribed.decode(text),
    "error": lambda envelope, _: Refused(envelope.code, envelope.msg),
    "rate_limit": lambda envelope, _: Refused("RATE_LIMIT", f"too many requests; retry after {envelope.retry_ms} ms"),
    "goaway": lambda _, text: _goaway.decode(text),
}
