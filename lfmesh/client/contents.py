"""What one stream's messages say, applied to what is held of it, and told as events. Pure.

An increment or snapshot comes here when its position is right. What cannot be taken is raised: `BadFrame` for what is
not in the protocol, `TooEarly` for a trade before which others are missing.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

from lfmesh.client.events import (
    BookSnapshot,
    BookUpdate,
    Event,
    Missing,
    Tick,
    TickerSnapshot,
    TradeEvent,
    TradesSnapshot,
    Violation,
    ViolationKind,
)
from lfmesh.client.state import Book, Taken, TradeLog
from lfmesh.client.values import Level, Ticker, Trade
from lfmesh.client.wire import (
    BookData,
    IncrementData,
    SnapshotData,
    TickData,
    TradeData,
    book_state,
    levels_of,
    ticker_of,
    ticker_state,
    trade_of,
    trades_state,
)
from lfmesh.errors import BadFrame
from lfmesh.types import Channel, Position, StreamKey

_TEXT_SHOWN = 2000


class IncrementUnit(NamedTuple):
    """One increment as it came."""

    data: IncrementData
    text: str
    at: int


class SnapshotUnit(NamedTuple):
    """A whole snapshot: its parts as they came. `before`: the book that was held at this very position, if one was.

    `follows`: it is no answer to a request for a snapshot, and must go on from what was there.
    """

    parts: tuple[SnapshotData, ...]
    texts: tuple[str, ...]
    at: int
    follows: bool
    before: Book | None


Unit = IncrementUnit | SnapshotUnit


class TooEarly(Exception):
    """Something has to come before it."""


class Disordered(BadFrame):
    """The trades of a snapshot are not in order."""


@dataclass(slots=True)
class Outcome:
    """What comes of messages: events, and whether the stream wants to be asked for again."""

    events: list[Event] = field(default_factory=list)
    anew: bool = False

    def complain(self, key: StreamKey | None, kind: ViolationKind, detail: str, now: int, text: str = "") -> None:
        """Tell that the gateway has broken a promise."""
        product, channel = key or (None, None)
        self.events.append(
            Violation(
                kind=kind, product=product, channel=channel, detail=detail, ts_received=now, text=text[:_TEXT_SHOWN]
            )
        )


class Contents:
    """The state of one stream; of its three kinds only the channel's own is in use."""

    def __init__(self, key: StreamKey, keep_trades: int) -> None:
        self.key = key
        self.book = Book(key.product)
        self.ticker = Ticker()
        self.trades = TradeLog(keep_trades)
        self._gap_told: int | None = None

    def apply(self, unit: IncrementUnit, out: Outcome) -> None:
        """Take an increment. BadFrame, TooEarly."""
        event = self._changed(unit, out)
        if event is not None:
            out.events.append(event)

    def load(self, unit: SnapshotUnit, out: Outcome) -> None:
        """Take a snapshot. BadFrame."""
        match self.key.channel:
            case Channel.BOOK:
                event: Event = self._load_book(unit, out)
            case Channel.TICKER:
                event = self._load_ticker(unit)
            case Channel.TRADES:
                event = self._load_trades(unit, out)
        out.events.append(event)

    @property
    def crossing(self) -> str | None:
        """How the book is crossed; None if it is not."""
        if self.key.channel is not Channel.BOOK or not self.book.ready or not self.book.crossed:
            return None
        bid, ask = self.book.best_bid, self.book.best_ask
        assert bid is not None
        assert ask is not None
        return f"at {self.book.position} bid {bid.px_text} is not below ask {ask.px_text}"

    def _changed(self, unit: IncrementUnit, out: Outcome) -> Event | None:
        """The event for an increment that has been applied; None where it said nothing new. BadFrame, TooEarly."""
        data, text, now = unit
        product, channel = self.key
        at = Position(data.epoch, data.seq)
        match data:
            case TradeData():
                new = self._trade(trade_of(data.fields), now, out)
                return None if new is None else TradeEvent(
                    product=product, position=at, ts_received=now, channel=channel, continuity=data.continuity,
                    ts_event=data.ts_event, ts_ingest=data.ts_ingest, ts_publish=data.ts_publish, text=text,
                    prev_seq=data.prev_seq, trade=new,
                )  # fmt: skip
            case TickData():
                self.ticker = ticker_of(data.fields)
                return Tick(
                    product=product, position=at, ts_received=now, channel=channel, continuity=data.continuity,
                    ts_event=data.ts_event, ts_ingest=data.ts_ingest, ts_publish=data.ts_publish, text=text,
                    prev_seq=data.prev_seq, ticker=self.ticker,
                )  # fmt: skip
            case BookData():
                bids, asks = levels_of(data.fields.bids), levels_of(data.fields.asks)
                book = self.book
                if book.ready:
                    book.apply(bids, asks)
                    book.position, book.ts_event, book.continuity = at, data.ts_event, data.continuity
                return BookUpdate(
                    product=product, position=at, ts_received=now, channel=channel, continuity=data.continuity,
                    ts_event=data.ts_event, ts_ingest=data.ts_ingest, ts_publish=data.ts_publish, text=text,
                    prev_seq=data.prev_seq, bids=bids, asks=asks,
                )  # fmt: skip
            case _:
                assert_never(data)

    def _trade(self, trade: Trade, now: int, out: Outcome) -> Trade | None:
        """The trade, if it is new; TooEarly: trades before it are missing, and are to be asked for first."""
        taken = self.trades.add(trade)
        if taken.problem is None:
            return taken.new[0] if taken.new else None
        if taken.problem == "repeated":
            out.complain(self.key, "repeated", taken.detail, now)
            return None
        if self._gap_told != trade.trade_id:
            self._gap_told = trade.trade_id
            raise TooEarly(taken.detail)
        self._tell_missing(self.trades.skip(trade), now, out)
        return trade

    def _load_ticker(self, unit: SnapshotUnit) -> TickerSnapshot:
        first = unit.parts[0]
        self.ticker = ticker_state(unit.parts[-1].state)
        return TickerSnapshot(
            product=self.key.product, position=Position(first.epoch, first.seq), ts_received=unit.at,
            channel=self.key.channel, reason=first.reason, ts_snapshot=first.ts_snapshot, texts=unit.texts,
            ticker=self.ticker,
        )  # fmt: skip

    def _load_book(self, unit: SnapshotUnit, out: Outcome) -> BookSnapshot:
        first = unit.parts[0]
        at = Position(first.epoch, first.seq)
        bids: list[Level] = []
        asks: list[Level] = []
        for part in unit.parts:
            some_bids, some_asks = book_state(part.state)
            bids.extend(some_bids)
            asks.extend(some_asks)
        book = self.book
        book.load(bids, asks)
        book.position, book.ts_event, book.continuity = at, first.ts_snapshot, None
        if unit.before is not None and not unit.before.same_levels(book):
            out.complain(self.key, "state", f"the snapshot at {at} differs from the book there", unit.at, unit.texts[0])
        return BookSnapshot(
            product=self.key.product, position=at, ts_received=unit.at, channel=self.key.channel, reason=first.reason,
            ts_snapshot=first.ts_snapshot, texts=unit.texts, bids=tuple(bids), asks=tuple(asks),
        )  # fmt: skip

    def _load_trades(self, unit: SnapshotUnit, out: Outcome) -> TradesSnapshot:
        first = unit.parts[0]
        listed: list[Trade] = []
        settled: int | None = None
        for part in unit.parts:
            trades, last = trades_state(part.state)
            listed.extend(trades)
            settled = last if last is not None else settled
        declared = first.missing
        missing = None if declared is None else (declared.from_trade_id, declared.to_trade_id)
        taken = self.trades.load(listed, missing, settled)
        if taken.problem == "trade_order":
            raise Disordered(taken.detail)
        if taken.problem is not None and unit.follows:
            out.complain(self.key, "trade_gap", taken.detail, unit.at, unit.texts[0])
        self._tell_missing(taken, unit.at, out)
        return TradesSnapshot(
            product=self.key.product, position=Position(first.epoch, first.seq), ts_received=unit.at,
            channel=self.key.channel, reason=first.reason, ts_snapshot=first.ts_snapshot, texts=unit.texts,
            trades=tuple(listed), new=tuple(taken.new),
        )  # fmt: skip

    def _tell_missing(self, taken: Taken, now: int, out: Outcome) -> None:
        for first, last, declared in taken.missing:
            out.events.append(
                Missing(
                    product=self.key.product, from_trade_id=first, to_trade_id=last, declared=declared, ts_received=now
                )
            )
