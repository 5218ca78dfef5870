"""Coinbase Exchange's WebSocket frames as domain events: bytes in, one frozen value out, no state but caches.

    ticker              Quote           side is the taker's; what the venue left out is None
    match               Trade           side is the maker's in the frame, the taker's in the Trade
    last_match          TradePosition   a position, not a new trade
    snapshot            BookSnapshot
    l2update            BookUpdate
    heartbeat           Heartbeat
    error               VenueError
    anything else       Ignored

Prices and sizes stay the venue's texts, checked against JSON's number grammar (`lfmesh.exact`); a price is positive,
a size is not negative. Integers are from 0 to 2**53 - 1. Times are UTC with up to nine digits of fraction, kept to
the nanosecond.
Source: the venue's documentation of its WebSocket channels.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, assert_never

import msgspec
from msgspec import Meta

from lfmesh.errors import BadVenueFrame
from lfmesh.exact import is_decimal
from lfmesh.types import (
    BookSnapshot,
    BookUpdate,
    Heartbeat,
    Level,
    Quote,
    Side,
    Trade,
    TradePosition,
    VenueEvent,
)

MAX_LEVELS = 200_000
"""Levels of one side of a book snapshot, and changes of one update; a longer frame is refused."""

MAX_DETAIL = 200
"""Characters of a refusal's detail."""


class Reason(StrEnum):
    """Why a frame is refused: `BadVenueFrame.reason`, a closed list."""

    INVALID_JSON = "invalid_json"
    MISSING_FIELD = "missing_field"
    BAD_TYPE = "bad_type"
    BAD_NUMBER = "bad_number"
    BAD_PRICE = "bad_price"
    BAD_SIZE = "bad_size"
    BAD_TIME = "bad_time"
    BAD_SIDE = "bad_side"
    TOO_MANY_LEVELS = "too_many_levels"


class IgnoredKind(StrEnum):
    """Frame types that carry no market data of ours: those known by name, and all others together."""

    SUBSCRIPTIONS = "subscriptions"
    STATUS = "status"
    AUCTION = "auction"
    UNKNOWN = "unknown"


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """A frame without market data. `name` is the type as the venue wrote it, cut to 40 characters."""

    kind: IgnoredKind
    name: str


class VenueError(msgspec.Struct, frozen=True, gc=False):
    """The venue says that something we asked for failed; both texts are the venue's, cut to `MAX_DETAIL`."""

    message: str
    reason: str


Parsed = VenueEvent | VenueError | Ignored

# The frames as they are on the wire; fields that nobody needs are not named, and so skipped by the decoder. ---------

_Count = Annotated[int, Meta(ge=0, lt=2**53)]
_Levels = Annotated[list[Level], Meta(max_length=MAX_LEVELS)]
_Changes = Annotated[list[tuple[Side, str, str]], Meta(max_length=MAX_LEVELS)]


class _Wire(msgspec.Struct, gc=False, tag_field="type"):
    product_id: str


class _L2Update(_Wire, tag="l2update"):
    time: str
    changes: _Changes


class _Snapshot(_Wire, tag="snapshot"):
    bids: _Levels
    asks: _Levels
    time: str | None = None


class _Ticker(_Wire, tag="ticker"):
    sequence: _Count
    price: str | None = None
    side: str | None = None
    time: str | None = None
    trade_id: _Count | None = None
    last_size: str | None = None
    best_bid: str | None = None
    best_bid_size: str | None = None
    best_ask: str | None = None
    best_ask_size: str | None = None


class _MatchFields(_Wire):
    trade_id: _Count
    side: Side
    size: str
    price: str
    sequence: _Count
    time: str


class _Match(_MatchFields, tag="match"):
    pass


class _LastMatch(_MatchFields, tag="last_match"):
    pass


class _Heartbeat(_Wire, tag="heartbeat"):
    last_trade_id: _Count
    sequence: _Count
    time: str


class _Error(msgspec.Struct, gc=False, tag_field="type", tag="error"):
    message: str = ""
    reason: str | None = None


class _Envelope(msgspec.Struct, gc=False):
    type: str


_Frame = _L2Update | _Ticker | _Match | _Heartbeat | _Snapshot | _LastMatch | _Error

_frames: msgspec.json.Decoder[_Frame] = msgspec.json.Decoder(_Frame)
_decode = _frames.decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_is_word = re.compile(r"[a-z][a-z0-9_]*").fullmatch
is_product_id = re.compile(r"[A-Z0-9]{1,20}(-[A-Z0-9]{1,20}){1,3}").fullmatch
"""Truthy for a text that may be a product's id; a venue's frame with another one has been damaged."""
_NAMES = frozenset(("l2update", "ticker", "match", "heartbeat", "snapshot", "last_match", "error"))
_KINDS = {str(kind): kind for kind in IgnoredKind}
_SIDES: dict[str, Side] = {"buy": "buy", "sell": "sell"}
TAKER: dict[Side, Side] = {"buy": "sell", "sell": "buy"}
"""The taker's side of a trade whose maker's is known."""


def parse(frame: bytes) -> Parsed:
    """The event of one frame; BadVenueFrame, its `reason` one of `Reason`, for a frame that can't be used."""
    try:
        wire = _decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _undecodable(frame, error)
    event: Parsed
    match wire:
        case _L2Update():
            for _, px, qty in wire.changes:  # `check`, without the call
                if not is_decimal(px) or (px[0] == "0" and _is_zero(px)):
                    raise BadVenueFrame(Reason.BAD_PRICE, _shown(px))
                if not is_decimal(qty):
                    raise BadVenueFrame(Reason.BAD_SIZE, _shown(qty))
            event = BookUpdate(wire.product_id, wire.changes, to_ns(wire.time))
        case _Ticker():
            event = _quote(wire)
        case _Match():
            event = _trade(wire)
        case _Heartbeat():
            event = Heartbeat(wire.product_id, wire.sequence, wire.last_trade_id, to_ns(wire.time))
        case _Snapshot():
            _check_levels(wire.bids)
            _check_levels(wire.asks)
            event = BookSnapshot(wire.product_id, wire.bids, wire.asks, _optional_time(wire.time))
        case _LastMatch():
            event = TradePosition(_trade(wire))
        case _Error():
            event = VenueError(wire.message[:MAX_DETAIL], (wire.reason or "")[:MAX_DETAIL])
        case _:
            assert_never(wire)
    return event


def _trade(wire: _MatchFields) -> Trade:
    px, qty = wire.price, wire.size
    check(px, qty)
    return Trade(wire.product_id, wire.trade_id, px, qty, TAKER[wire.side], to_ns(wire.time), wire.sequence)


def _quote(wire: _Ticker) -> Quote:
    """A ticker's last trade is known when it has an id, a time and a size: one not yet traded may lack them."""
    ts_event = _optional_time(wire.time)
    trade = None
    px, qty, side = wire.price, wire.last_size, wire.side
    if wire.trade_id and ts_event and qty:
        px = px or ""
        check(px, qty)
        taker = _SIDES.get(side or "")
        if taker is None:
            raise BadVenueFrame(Reason.BAD_SIDE, _shown(side))
        trade = Trade(wire.product_id, wire.trade_id, px, qty, taker, ts_event, wire.sequence)
    bid = _best(wire.best_bid, wire.best_bid_size)
    return Quote(wire.product_id, wire.sequence, ts_event, trade, bid, _best(wire.best_ask, wire.best_ask_size))


def _best(px: str | None, qty: str | None) -> tuple[str, str | None] | None:
    """A best price; None for the empty or zero price of a market that is not open."""
    if not px:
        return None
    if not is_decimal(px):
        raise BadVenueFrame(Reason.BAD_PRICE, _shown(px))
    if px[0] == "0" and _is_zero(px):
        return None
    if not qty:
        return px, None
    if not is_decimal(qty):
        raise BadVenueFrame(Reason.BAD_SIZE, _shown(qty))
    return px, qty


def _check_levels(levels: Iterable[Level]) -> None:
    for px, qty in levels:
        check(px, qty)


def check(px: str, qty: str) -> None:
    """BadVenueFrame unless the price is a positive decimal and the size one that is not negative."""
    if not is_decimal(px) or (px[0] == "0" and _is_zero(px)):
        raise BadVenueFrame(Reason.BAD_PRICE, _shown(px))
    if not is_decimal(qty):
        raise BadVenueFrame(Reason.BAD_SIZE, _shown(qty))


def _is_zero(decimal: str) -> bool:
    return not decimal.strip("0.")


# Times ------------------------------------------------------------------------------------------------------------

_ZERO_TIME = "0001-01-01T00:00:00"
"""The zero time of the venue's implementation language: no time."""
_SECOND = len(_ZERO_TIME)
_is_second = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}").fullmatch
_SCALES = tuple(int("1" + "0" * (9 - digits)) for digits in range(10))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SECONDS = 2**63 // 10**9
_CACHED_SECONDS = 1024
_seconds: dict[str, int] = {}


def to_ns(time: str) -> int:
    """ns since the Unix epoch of `2021-04-17T16:43:37.075687Z`: UTC, up to nine digits of fraction, no rounding.

    BadVenueFrame (bad_time) for anything else, and for what does not fit 63 bits.
    """
    seconds = _seconds.get(time[:_SECOND])
    if seconds is None:
        seconds = _read_second(time)
    digits = time[_SECOND + 1 : -1]
    if digits.isdigit() and digits.isascii() and len(digits) <= 9 and time[_SECOND] == "." and time[-1] == "Z":
        return seconds + int(digits) * _SCALES[len(digits)]
    if time[_SECOND:] == "Z":
        return seconds
    raise BadVenueFrame(Reason.BAD_TIME, _shown(time))


def _optional_time(time: str | None) -> int:
    """`to_ns`, and 0 where the venue gives no time."""
    if not time or time.startswith(_ZERO_TIME):
        return 0
    return to_ns(time)


def _read_second(time: str) -> int:
    text = time[:_SECOND]
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC) if _is_second(text) else None
    except ValueError:  # the 31st of February
        moment = None
    seconds = -1 if moment is None else (moment - _EPOCH) // timedelta(seconds=1)
    if not 0 <= seconds < _MAX_SECONDS:
        raise BadVenueFrame(Reason.BAD_TIME, _shown(time))
    if len(_seconds) >= _CACHED_SECONDS:
        _seconds.clear()
    _seconds[text] = seconds * 10**9
    return seconds * 10**9


# What could not be decoded ------------------------------------------------------------------------------------------


def _undecodable(frame: bytes, error: Exception) -> Ignored:
    """Ignored for a well-formed frame of a type that is not ours, else BadVenueFrame from the decoder's error."""
    fault = error
    try:
        if isinstance(error, msgspec.ValidationError):
            name = _decode_envelope(frame).type
            if name not in _NAMES and _is_word(name):  # another name is a damaged one, of whatever frame
                return Ignored(_KINDS.get(name, IgnoredKind.UNKNOWN), name[:40])
    except msgspec.ValidationError:  # no usable type: the first error says it better
        pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as deeper:
        fault = deeper
    reason = reason_of(fault) if isinstance(fault, msgspec.ValidationError) else Reason.INVALID_JSON
    raise BadVenueFrame(reason, str(fault)[:MAX_DETAIL]) from error


def reason_of(error: msgspec.ValidationError) -> Reason:
    """Under which reason a decoder's refusal is counted; msgspec says what is wrong in words only; a test pins them."""
    text = str(error)
    if "missing required field" in text:
        return Reason.MISSING_FIELD
    if "Invalid enum value" in text:
        return Reason.BAD_SIDE
    if "of length <=" in text:
        return Reason.TOO_MANY_LEVELS
    if "Expected `int` >=" in text or "Expected `int` <=" in text:
        return Reason.BAD_NUMBER
    return Reason.BAD_TYPE


def _shown(text: str | None) -> str:
    return repr(text if text is None else text[:MAX_DETAIL])
