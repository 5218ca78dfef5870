"""Rows of archived messages; prices and sizes stay the venue's texts."""

from typing import TYPE_CHECKING, Protocol, assert_never

import msgspec

from lfmesh.cli.export.tables import Row
from lfmesh.errors import BadArchive
from lfmesh.types import Channel, Continuity, Side, SnapshotReason, StreamKey

if TYPE_CHECKING:
    from lfmesh.archive.asof import StateAt
    from lfmesh.archive.segments import Line

type _Stamps = tuple[int, int | None, int | None, int | None, int | None, int | None, int | None]
type _Level = tuple[msgspec.Raw, msgspec.Raw]


class _Trade(msgspec.Struct, gc=False):
    px: msgspec.Raw
    qty: msgspec.Raw
    side: Side
    trade_id: int


class _Best(msgspec.Struct, gc=False):
    px: msgspec.Raw
    qty: msgspec.Raw


class _Ticker(msgspec.Struct, gc=False):
    last_trade: _Trade | None
    best_bid: _Best | None
    best_ask: _Best | None


class _Trades(msgspec.Struct, gc=False):
    trades: list[_Trade]
    last_trade_id: int | None = None


class _Book(msgspec.Struct, gc=False):
    bids: list[_Level]
    asks: list[_Level]


class _Increment[F](msgspec.Struct, gc=False):
    ts_event: int
    ts_ingest: int
    ts_publish: int
    continuity: Continuity
    fields: F


class _Snapshot[S](msgspec.Struct, gc=False):
    ts_snapshot: int
    reason: SnapshotReason
    state: S


class _Message[D](msgspec.Struct, gc=False):
    data: D


_ticks = msgspec.json.Decoder(_Message[_Increment[_Ticker]])
_tickers = msgspec.json.Decoder(_Message[_Snapshot[_Ticker]])
_trades = msgspec.json.Decoder(_Message[_Increment[_Trade]])
_trades_states = msgspec.json.Decoder(_Message[_Snapshot[_Trades]])
_changes = msgspec.json.Decoder(_Message[_Increment[_Book]])
_books = msgspec.json.Decoder(_Message[_Snapshot[_Book]])
_book_states = msgspec.json.Decoder(_Book)


class Rows(Protocol):
    """Rows of one stream's lines, in their order."""

    def of(self, line: "Line") -> list[Row]:
        """The rows of a line; BadArchive for a message that is none of the channel's."""


class TickerRows:
    """Rows of a ticker stream."""

    def __init__(self, stream: StreamKey) -> None:
        self._stream = stream

    def of(self, line: "Line") -> list[Row]:
        """See `Rows`."""
        if line.snapshot:
            snapshot = _decode(_tickers, self._stream, line).data
            stamps, words = _snapshot_stamps(line, snapshot.ts_snapshot), ("snapshot", snapshot.reason)
            return [(*stamps, *words, *_ticker_values(snapshot.state), None, line.epoch, line.seq)]
        tick = _decode(_ticks, self._stream, line).data
        return [
            (*_stamps(line, tick), "tick", None, *_ticker_values(tick.fields), tick.continuity, line.epoch, line.seq)
        ]


class TradesRows:
    """Rows of a trades stream.

    A snapshot repeats what the tape has; only those of its trades that are newer than all before make rows. Those of
    the first snapshot were before the first line.
    """

    def __init__(self, stream: StreamKey) -> None:
        self._stream = stream
        self._last_id: int | None = None

    def of(self, line: "Line") -> list[Row]:
        """See `Rows`."""
        if line.snapshot:
            return self._of_snapshot(line)
        trade = _decode(_trades, self._stream, line).data
        self._last_id = trade.fields.trade_id
        return [
            (*_stamps(line, trade), "trade", None, *_trade_values(trade.fields), trade.continuity, line.epoch, line.seq)
        ]

    def _of_snapshot(self, line: "Line") -> list[Row]:
        snapshot = _decode(_trades_states, self._stream, line).data
        trades = snapshot.state.trades
        known = self._last_id
        told = snapshot.state.last_trade_id
        ids = [trade.trade_id for trade in trades] + [each for each in (known, told) if each is not None]
        self._last_id = max(ids, default=None)
        if known is None:
            return []
        stamps, words = _snapshot_stamps(line, snapshot.ts_snapshot), ("snapshot", snapshot.reason)
        return [
            (*stamps, *words, *_trade_values(trade), None, line.epoch, line.seq)
            for trade in trades
            if trade.trade_id > known
        ]


class BookRows:
    """Rows of a book stream."""

    def __init__(self, stream: StreamKey) -> None:
        self._stream = stream

    def of(self, line: "Line") -> list[Row]:
        """See `Rows`."""
        if line.snapshot:
            snapshot = _decode(_books, self._stream, line).data
            stamps = _snapshot_stamps(line, snapshot.ts_snapshot)
            tail = (None, line.epoch, line.seq)
            rows = _level_rows((*stamps, "snapshot", snapshot.reason), snapshot.state, tail)
            if line.part == 1:
                rows.insert(0, (*stamps, "clear", snapshot.reason, None, None, None, *tail))
            return rows
        change = _decode(_changes, self._stream, line).data
        head = (*_stamps(line, change), "change", None)
        return _level_rows(head, change.fields, (change.continuity, line.epoch, line.seq))


def book_base(state: "StateAt") -> list[Row]:
    """Rows that say how a book stood before what comes; BadArchive for a state that is none."""
    stamps = (state.time, None, None, None, None, None, None)
    rows: list[Row] = [(*stamps, "clear", "base", None, None, None, None, *state.position)]
    for part in state.parts:
        try:
            book = _book_states.decode(part)
        except msgspec.DecodeError as error:
            raise BadArchive(f"{_named(state.stream)}: no book's state: {error}: {part[:80]!r}") from error
        rows += _level_rows((*stamps, "snapshot", "base"), book, (None, *state.position))
    return rows


def book_missing(line: "Line") -> list[Row]:
    """Rows that say that messages before this line are missing: how the book stands is not known any more."""
    return [(line.time, *(None,) * 6, "clear", "missing", None, None, None, None, line.epoch, line.seq)]


def rows_of(stream: StreamKey) -> Rows:
    """What makes rows of a stream's lines."""
    match stream.channel:
        case Channel.TICKER:
            return TickerRows(stream)
        case Channel.TRADES:
            return TradesRows(stream)
        case Channel.BOOK:
            return BookRows(stream)
        case _:
            assert_never(stream.channel)


def _decode[T](decoder: msgspec.json.Decoder[T], stream: StreamKey, line: "Line") -> T:
    try:
        return decoder.decode(line.message)
    except msgspec.DecodeError as error:
        where = f"{_named(stream)}: at {line.epoch}/{line.seq}"
        raise BadArchive(f"{where}: no such message: {error}: {line.message[:80]!r}") from error


def _named(stream: StreamKey) -> str:
    return f"{stream.product} {stream.channel}"


def _stamps[F](line: "Line", message: _Increment[F]) -> _Stamps:
    event, ingest, publish = message.ts_event, message.ts_ingest, message.ts_publish
    return line.time, event, ingest, publish, event, ingest, publish


def _snapshot_stamps(line: "Line", ts_snapshot: int) -> _Stamps:
    return line.time, None, None, ts_snapshot, None, None, ts_snapshot


def _ticker_values(ticker: _Ticker) -> Row:
    trade, bid, ask = ticker.last_trade, ticker.best_bid, ticker.best_ask
    of_trade: Row = (None,) * 4 if trade is None else (_text(trade.px), _text(trade.qty), trade.side, trade.trade_id)
    return (*of_trade, *_best_values(bid), *_best_values(ask))


def _best_values(best: _Best | None) -> Row:
    return (None, None) if best is None else (_text(best.px), _text(best.qty))


def _trade_values(trade: _Trade) -> Row:
    return trade.trade_id, _text(trade.px), _text(trade.qty), trade.side


def _level_rows(head: Row, book: _Book, tail: Row) -> list[Row]:
    rows: list[Row] = [(*head, "bid", str(px, "ascii"), str(qty, "ascii"), *tail) for px, qty in book.bids]
    rows += [(*head, "ask", str(px, "ascii"), str(qty, "ascii"), *tail) for px, qty in book.asks]
    return rows


def _text(raw: msgspec.Raw) -> str | None:
    text = str(raw, "ascii")
    return None if text == "null" else text
