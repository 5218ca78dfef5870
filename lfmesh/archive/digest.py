"""What a replay of a stream comes to: counts, and the part of the state hash (`lfmesh.core.statehash`) that is its own.

The picture is the one that a client would have who had followed the stream: the trades of snapshots count where they
are newer than what is known already. Streams are independent of each other, so they can be digested in any order and
in several processes: a digest is small, and can be sent from one to another.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, assert_never

import msgspec

from lfmesh.archive.asof import Builder, StateAt, clipped
from lfmesh.archive.batches import Batch
from lfmesh.archive.merge import Piece
from lfmesh.archive.reader import Archive, Source
from lfmesh.core.contents import BookContent
from lfmesh.core.statehash import ProductState, TradeHash, state_hash
from lfmesh.errors import BadArchive
from lfmesh.types import Channel, Level, Side, StreamKey

Trade = tuple[int, str, str, str]
"""(trade_id, px, qty, taker side)."""


@dataclass(frozen=True, slots=True)
class TradesDigest:
    """The ordered trades: how many, the hash of them, and the last."""

    count: int
    digest: str
    last: Trade | None

    def hexdigest(self) -> str:
        """See `lfmesh.core.statehash.CountedHash`."""
        return self.digest


@dataclass(frozen=True, slots=True)
class TickerDigest:
    """The last tick."""

    last_trade: Trade | None
    best_bid: Level | None
    best_ask: Level | None


@dataclass(frozen=True, slots=True)
class BookDigest:
    """The book, best first."""

    bids: list[Level]
    asks: list[Level]


@dataclass(frozen=True, slots=True)
class StreamDigest:
    """One stream: increments, snapshots, and holes, that is, places where messages are missing.

    `first_ts` and `last_ts` (ns) are 0 where nothing was read; `state` is None where it is not known at the end.
    """

    stream: StreamKey
    messages: int
    snapshots: int
    holes: int
    first_ts: int
    last_ts: int
    state: TickerDigest | TradesDigest | BookDigest | None


def digest(archive: Archive, stream: StreamKey, start_ts: int | None = None, end_ts: int | None = None) -> StreamDigest:
    """Replay a stream from `start_ts` to `end_ts` (ns, both inclusive), as fast as it goes.

    With a start, tickers and books go on from the state as of before it; trades begin there.
    """
    base = None if start_ts is None else archive.state_at(stream, start_ts - 1)
    fold = _fold(stream, base)
    messages = snapshots = holes = first_ts = last_ts = 0
    seen: Piece[Source] | None = None
    after = None if base is None else base.position
    tape = archive.tape(stream, start_ts=start_ts, end_ts=end_ts, after=after)
    for piece, batch, time in clipped(tape, start_ts, end_ts, 0 if base is None else base.time):
        if piece is not seen:
            holes += piece.gap or (piece.opens and piece.span.first_seq > 0)
            snapshots += batch.snapshot
            first_ts = first_ts or max(piece.span.first_ts, start_ts or 0)
            seen = piece
        messages += 0 if batch.snapshot else len(batch.lines)
        last_ts = time
        fold.take(piece, batch, time)
    return StreamDigest(stream, messages, snapshots, holes, first_ts, last_ts, fold.state())


def hash_of(digests: Iterable[StreamDigest]) -> str:
    """The state hash of the products of these streams."""
    products: dict[str, dict[Channel, TickerDigest | TradesDigest | BookDigest | None]] = {}
    for found in digests:
        products.setdefault(found.stream.product, {})[found.stream.channel] = found.state
    return state_hash(_product_state(product, states) for product, states in products.items())


def _product_state(
    product: str, states: dict[Channel, TickerDigest | TradesDigest | BookDigest | None]
) -> ProductState:
    ticker, trades, book = (states.get(channel) for channel in (Channel.TICKER, Channel.TRADES, Channel.BOOK))
    assert not isinstance(ticker, TradesDigest | BookDigest)
    assert not isinstance(trades, TickerDigest | BookDigest)
    assert not isinstance(book, TickerDigest | TradesDigest)
    bids, asks = (book.bids, book.asks) if book is not None else ([], [])
    if ticker is None:
        last_trade = None if trades is None else trades.last
        ticker = TickerDigest(last_trade, bids[0] if bids else None, asks[0] if asks else None)
    return ProductState(product, bids, asks, ticker.last_trade, ticker.best_bid, ticker.best_ask, trades)


class _Fold(Protocol):
    def take(self, piece: Piece[Source], batch: Batch, time: int) -> None:
        """The next batch."""

    def state(self) -> TickerDigest | TradesDigest | BookDigest | None:
        """What it comes to."""


def _fold(stream: StreamKey, base: StateAt | None) -> _Fold:
    match stream.channel:
        case Channel.TICKER:
            return _TickerFold(stream, base)
        case Channel.TRADES:
            return _TradesFold(stream)
        case Channel.BOOK:
            return _BookFold(stream, base)
        case _:
            assert_never(stream.channel)


class _TradeText(msgspec.Struct, gc=False):
    px: msgspec.Raw
    qty: msgspec.Raw
    side: Side
    trade_id: int


class _BestText(msgspec.Struct, gc=False):
    px: msgspec.Raw
    qty: msgspec.Raw


class _TickText(msgspec.Struct, gc=False):
    last_trade: _TradeText | None
    best_bid: _BestText | None
    best_ask: _BestText | None


class _TradeData(msgspec.Struct, gc=False):
    fields: _TradeText


class _TradeMessage(msgspec.Struct, gc=False):
    data: _TradeData


class _TradesState(msgspec.Struct):
    trades: list[_TradeText]
    last_trade_id: int | None = None


class _Missing(msgspec.Struct):
    to_trade_id: int


class _SnapshotData(msgspec.Struct):
    state: _TradesState
    missing: _Missing | None = None


class _SnapshotMessage(msgspec.Struct):
    data: _SnapshotData


_ticks = msgspec.json.Decoder(_TickText)
_trade_lines = msgspec.json.Decoder(_TradeMessage)
_trade_snapshots = msgspec.json.Decoder(_SnapshotMessage)


class _TradesFold:
    """Every trade once, in order of the stream."""

    def __init__(self, stream: StreamKey) -> None:
        self._stream = stream
        self._hash = TradeHash()
        self._last: Trade | None = None
        self._known = -1

    def take(self, piece: Piece[Source], batch: Batch, time: int) -> None:  # noqa: ARG002 - `_Fold`'s signature
        """See `_Fold`."""
        try:
            if batch.snapshot:
                for line in batch.lines:
                    self._take_snapshot(_trade_snapshots.decode(line).data)
            else:
                for message in _trade_lines.decode_lines(b"\n".join(batch.lines)):
                    self._add(message.data.fields)
        except msgspec.DecodeError as error:
            raise BadArchive(f"the tape of {self._stream.product} {self._stream.channel}: {error}") from error

    def state(self) -> TradesDigest:
        """See `_Fold`."""
        return TradesDigest(self._hash.count, self._hash.hexdigest(), self._last)

    def _take_snapshot(self, data: _SnapshotData) -> None:
        for trade in data.state.trades:
            self._add(trade)
        told = data.state.last_trade_id
        self._known = max(self._known, -1 if told is None else told, data.missing.to_trade_id if data.missing else -1)

    def _add(self, trade: _TradeText) -> None:
        if trade.trade_id > self._known:
            self._known = trade.trade_id
            self._last = found = _trade(trade)
            self._hash.add(*found)


class _TickerFold:
    """The last tick."""

    def __init__(self, stream: StreamKey, base: StateAt | None) -> None:
        self._builder = Builder(stream, base)
        self.take = self._builder.take

    def state(self) -> TickerDigest | None:
        """See `_Fold`."""
        found = self._builder.result()
        if found is None:
            return None
        try:
            tick = _ticks.decode(b"".join(found.parts))
        except msgspec.DecodeError as error:
            raise BadArchive(f"the tape of {found.stream.product} {found.stream.channel}: {error}") from error
        last = None if tick.last_trade is None else _trade(tick.last_trade)
        return TickerDigest(last, _best(tick.best_bid), _best(tick.best_ask))


class _BookFold:
    """The whole book."""

    def __init__(self, stream: StreamKey, base: StateAt | None) -> None:
        self._builder = Builder(stream, base)
        self.take = self._builder.take

    def state(self) -> BookDigest | None:
        """See `_Fold`."""
        found = self._builder.result()
        if found is None:
            return None
        content = BookContent()
        content.load(found.parts)
        return BookDigest(*content.levels())


def _trade(trade: _TradeText) -> Trade:
    return trade.trade_id, bytes(trade.px).decode(), bytes(trade.qty).decode(), trade.side


def _best(level: _BestText | None) -> Level | None:
    if level is None:
        return None
    qty = bytes(level.qty)
    return bytes(level.px).decode(), "" if qty == b"null" else qty.decode()
