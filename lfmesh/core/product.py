"""The pipeline of one product: venue events in, positions minted and messages encoded, facts out.

    event ──► is it new, does it agree with what is known? ──► apply ──► trades, book, ticker outlets

What the venue's evidence allows is what `continuity` says: trade ids are contiguous per product, `sequence` only tells
order, book updates prove nothing.

trades  one increment a new match. An id that jumps opens a new epoch, whose snapshot declares what is missing.
book    one increment a venue update, from an in-band snapshot on; each such snapshot opens an epoch. A book that is
        crossed after an update has lost one: it is not published any further, and a new snapshot is wanted.
ticker  a pure function of the frames: after each accepted one, a tick if last trade, best bid or best ask differ. The
        best prices are the book's while one is held, else those of the venue's ticker. The last trade is
        the match's or the ticker's, whichever brings the higher id first.

`observe` returns what became of the event; what the service has to do or to log besides goes to `note`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, assert_never

from lfmesh.core import encode
from lfmesh.core.book import Book
from lfmesh.core.liveness import Liveness
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.trades import TradeTape
from lfmesh.exact import scaled
from lfmesh.types import (
    CHANNELS,
    BookSnapshot,
    BookUpdate,
    Channel,
    Continuity,
    Heartbeat,
    Position,
    Quote,
    SnapshotReason,
    StreamKey,
    Trade,
    TradePosition,
    VenueEvent,
)

NULL = "null"


class Outcome(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    INCONSISTENT = "inconsistent"
    """It contradicts what is known, or itself; dropped."""
    CROSSED = "crossed"
    """The book does not stand after it; not published."""
    BOOK_NOT_HELD = "book_not_held"
    """An update of a book that waits for its snapshot; dropped."""


class Restored(NamedTuple):
    """What an earlier process left behind, as a snapshotter tells it. Positions by channel."""

    positions: dict[Channel, Position]
    trades: tuple[Trade, ...] = ()
    last_trade: Trade | None = None


NOTHING_RESTORED = Restored({})


@dataclass(frozen=True, slots=True)
class TradesMissing:
    """Trades that the ids show to be missing; declared in the new epoch's snapshot."""

    product: str
    from_trade_id: int
    to_trade_id: int


@dataclass(frozen=True, slots=True)
class BookLost:
    """The book is not published until a snapshot comes; `resync`: it must be asked for."""

    product: str
    why: str
    resync: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BookOpened:
    """A snapshot has come and opened an epoch."""

    product: str
    reason: SnapshotReason
    levels: int


@dataclass(frozen=True, slots=True)
class TradeCorrected:
    """A match contradicts the ticker that brought its id first; the match counts."""

    product: str
    trade_id: int


ProductFact = TradesMissing | BookLost | BookOpened | TradeCorrected

CROSSED = "the book was crossed"
NO_SNAPSHOT = "updates came without a snapshot"
BAD_BOOK_FRAME = "a frame of the book could not be read"
FRAMES_LOST = "frames were lost between ingestor and normalizer"
CATCHING_UP = "what the venue said meanwhile is being read"


class Product:
    """One product; `liveness` is kept by the service, which knows time and links.

    `source` is the id of the ingestor whose frames are taken, None until the first one's and when it may change.
    """

    def __init__(
        self, product: str, turn: Turn, note: Callable[[ProductFact], None], liveness: Liveness,
        restored: Restored = NOTHING_RESTORED,
    ) -> None:  # fmt: skip
        self.product = product
        self.liveness = liveness
        self.source: int | None = None
        self.outlets = {
            channel: Outlet(StreamKey(product, channel), turn, restored.positions.get(channel)) for channel in CHANNELS
        }
        self._ticker = self.outlets[Channel.TICKER]
        self._trades = self.outlets[Channel.TRADES]
        self._book_outlet = self.outlets[Channel.BOOK]
        self._turn = turn
        self._note = note

        self._tape = TradeTape(restored.trades)
        self._book = Book()
        self._book_held = False
        self._resync_wanted = False
        self._held_back = False

        last = restored.last_trade
        self._unsure_trade_id = 0
        if last is not None and self._tape.last_trade_id is None:
            # The trades stream stood at a `last_match`; the ticker may have been a trade ahead of it.
            self._tape.skip_to(last.trade_id)
            self._unsure_trade_id = last.trade_id
        newest = self._tape.latest()
        if newest is not None and (last is None or newest.trade_id > last.trade_id):
            last = newest
        self._last_trade = last
        self._last_trade_text = NULL if last is None else encode.trade_fields(last)
        self._restored_trade_id = 0 if last is None else last.trade_id
        self._bid: tuple[str, str | None] | None = None
        self._ask: tuple[str, str | None] | None = None
        self._bid_text = self._ask_text = NULL

        self._quote_sequence = -1
        self._heartbeat_sequence = -1
        self._venue_trade_id = 0

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def book_held(self) -> bool:
        """True while the book is whole, as far as known."""
        return self._book_held

    @property
    def has_data(self) -> bool:
        """True once one of the streams is open."""
        return any(outlet.is_open for outlet in self.outlets.values())

    @property
    def trades_behind(self) -> int:
        """By how many trades the venue's last heartbeat is ahead of the last trade known here."""
        last = self._tape.last_trade_id
        return 0 if last is None else max(0, self._venue_trade_id - last)

    def state(self, channel: Channel) -> list[str] | None:
        """The state of a stream as the parts of a snapshot; None where there is none to give."""
        if not self.outlets[channel].is_open:
            return None
        match channel:
            case Channel.TICKER:
                return [self._ticker_fields()]
            case Channel.TRADES:
                return [self._tape.state()]
            case Channel.BOOK:
                return self._book_parts() if self._book_held else None
            case _:
                assert_never(channel)

    # What happens -----------------------------------------------------------------------------------------------

    def observe(self, event: VenueEvent) -> Outcome:
        """Take one event of this product; the turn knows its record."""
        match event:
            case BookUpdate():
                return self._update(event)
            case Quote():
                return self._quote(event)
            case Trade():
                return self._trade(event)
            case Heartbeat():
                return self._heartbeat(event)
            case BookSnapshot():
                return self._snapshot(event)
            case TradePosition():
                return self._trade_position(event.trade)
            case _:
                assert_never(event)

    def hold_back(self) -> None:
        """What follows is history: trades are published, but book and ticker only from `go_on`, as they then are.

        Without effect once a stream is open.
        """
        if not self.has_data:
            self._held_back = True
            self.liveness.book_waits(CATCHING_UP)

    def go_on(self) -> None:
        """The present is reached: book and ticker begin with what they are now."""
        if not self._held_back:
            return
        self._held_back = False
        if self._book_held:
            self._open_book(0)
        else:
            self.liveness.book_waits_no_longer(CATCHING_UP)
            self.tell()
        self._tick(0, "unverified")

    def lose_book(self, why: str, *, resync: bool, detail: str = "") -> None:
        """The book can't be trusted from here on: hold it no longer. `resync`: its snapshot must be asked for."""
        if self._book_held or resync != self._resync_wanted:
            self._book_held, self._resync_wanted = False, resync
            self.liveness.book_waits(why)
            self._note(BookLost(self.product, why, resync, detail))
            self.tell()

    def tell(self) -> None:
        """Publish the streams' changed states."""
        for channel, standing in self.liveness.changes(self._turn.ts_publish):
            self.outlets[channel].tell(*standing)

    # Book -------------------------------------------------------------------------------------------------------

    def _update(self, update: BookUpdate) -> Outcome:
        if not self._book_held:
            if not self._resync_wanted:
                self.lose_book(NO_SNAPSHOT, resync=True)
            return Outcome.BOOK_NOT_HELD
        book = self._book
        changes = update.changes
        book.apply(changes)
        bid, ask, crossed = book.top()
        if crossed:
            self.lose_book(CROSSED, resync=True, detail=f"bid {bid}, ask {ask}")
            return Outcome.CROSSED
        if changes:
            ts_event = update.ts_event
            if not self._held_back:
                self._book_outlet.increment(ts_event, "unverified", encode.book_changes(changes))
            self._take_best(bid, ask, ts_event)
        return Outcome.ACCEPTED

    def _snapshot(self, snapshot: BookSnapshot) -> Outcome:
        book = self._book
        book.replace(snapshot.bids, snapshot.asks)
        bid, ask, crossed = book.top()
        if crossed:
            self.lose_book(CROSSED, resync=True, detail=f"bid {bid}, ask {ask}")
            return Outcome.INCONSISTENT
        self._book_held, self._resync_wanted = True, False
        if self._held_back:
            self.liveness.book_waits(CATCHING_UP)
        else:
            self._open_book(snapshot.ts_event)
        self._take_best(bid, ask, snapshot.ts_event)
        return Outcome.ACCEPTED

    def _open_book(self, ts_event: int) -> None:
        book = self._book
        reason: SnapshotReason = "resync" if self._book_outlet.is_open else "epoch"
        self._book_outlet.open(reason, self._book_parts(), ts_event)
        self._note(BookOpened(self.product, reason, len(book.bids) + len(book.asks)))
        self.liveness.book_waits("")
        self.tell()

    def _book_parts(self) -> list[str]:
        return encode.book_state_parts(self._book.bids.sorted(), self._book.asks.sorted())

    # Trades -----------------------------------------------------------------------------------------------------

    def _trade(self, trade: Trade) -> Outcome:
        tape, outlet = self._tape, self._trades
        last = tape.last_trade_id
        trade_id = trade.trade_id
        missing = tape.missing_before(trade_id)
        if missing is not None or not outlet.is_open:
            self._open_trades(trade.ts_event, missing)
        if last is not None and trade_id <= last and trade_id != self._unsure_trade_id:
            return Outcome.STALE if tape.find(trade_id) is None else Outcome.DUPLICATE
        self._unsure_trade_id = 0
        tape.append(trade)
        fields = encode.trade_fields(trade)
        outlet.increment(trade.ts_event, "verified" if trade_id - 1 == last else "unverified", fields)
        self._take_trade(trade, fields)
        return Outcome.ACCEPTED

    def _trade_position(self, trade: Trade) -> Outcome:
        """The venue's last trade before this subscription: what we know up to here is all, or something is missing."""
        tape = self._tape
        last = tape.last_trade_id
        missing = tape.missing_before(trade.trade_id + 1)
        if last is None or trade.trade_id > last:
            tape.skip_to(trade.trade_id)
        if missing is not None or not self._trades.is_open:
            self._open_trades(trade.ts_event, missing)
        if last is not None and trade.trade_id < last:
            return Outcome.STALE
        self._unsure_trade_id = 0
        self._take_trade(trade, encode.trade_fields(trade))
        return Outcome.ACCEPTED

    def _open_trades(self, ts_event: int, missing: tuple[int, int] | None) -> None:
        if missing is not None:
            self._note(TradesMissing(self.product, *missing))
        self._trades.open("epoch" if missing is None else "gap", [self._tape.state()], ts_event, missing)

    # Ticker -----------------------------------------------------------------------------------------------------

    def _quote(self, quote: Quote) -> Outcome:
        if quote.sequence <= self._quote_sequence:
            return Outcome.DUPLICATE if quote.sequence == self._quote_sequence else Outcome.STALE
        bid, ask, trade = quote.bid, quote.ask, quote.trade
        if bid is not None and ask is not None and scaled(bid[0]) >= scaled(ask[0]):
            return Outcome.INCONSISTENT
        if trade is not None:
            known = self._tape.find(trade.trade_id) or self._last_trade
            if known is not None and known.trade_id == trade.trade_id and not _same(known, trade):
                return Outcome.INCONSISTENT
            if trade.trade_id < self._restored_trade_id:
                return Outcome.STALE
        self._quote_sequence = quote.sequence
        if self._book_held:
            bid, ask = self._bid, self._ask
        last = self._last_trade
        if trade is None or (last is not None and trade.trade_id <= last.trade_id):
            self._take_best(bid, ask, quote.ts_event)
        else:
            self._set_best(bid, ask)
            self._take_trade(trade, encode.trade_fields(trade))
        return Outcome.ACCEPTED

    def _take_trade(self, trade: Trade, fields: str) -> None:
        """The last trade, if it is newer than the one known, or contradicts it."""
        last = self._last_trade
        if last is not None and trade.trade_id <= last.trade_id:
            if trade.trade_id < last.trade_id or _same(last, trade):
                if not self._ticker.is_open:
                    self._tick(trade.ts_event, "unverified")
                return
            self._note(TradeCorrected(self.product, trade.trade_id))
        successor = last is not None and trade.trade_id == last.trade_id + 1
        self._last_trade, self._last_trade_text = trade, fields
        self._tick(trade.ts_event, "verified" if successor else "unverified")

    def _take_best(self, bid: tuple[str, str | None] | None, ask: tuple[str, str | None] | None, ts_event: int) -> None:
        if self._set_best(bid, ask) or not self._ticker.is_open:
            self._tick(ts_event, "unverified")

    def _set_best(self, bid: tuple[str, str | None] | None, ask: tuple[str, str | None] | None) -> bool:
        """True if one of them differs from before."""
        changed = False
        if bid != self._bid:
            self._bid, self._bid_text, changed = bid, encode.level(bid), True
        if ask != self._ask:
            self._ask, self._ask_text, changed = ask, encode.level(ask), True
        return changed

    def _tick(self, ts_event: int, continuity: Continuity) -> None:
        """Publish the ticker; its first epoch opens as soon as anything of it is known.

        Where the venue gave no time (book snapshots, tickers of products not traded yet) the time of receipt stands in.
        """
        if self._held_back:
            return
        ts_event = ts_event or self._turn.ts_ingest
        if self._ticker.is_open:
            self._ticker.increment(ts_event, continuity, self._ticker_fields())
        elif self._last_trade is not None or self._bid is not None or self._ask is not None:
            self._ticker.open("epoch", [self._ticker_fields()], ts_event)

    def _ticker_fields(self) -> str:
        return encode.ticker_fields(self._last_trade_text, self._bid_text, self._ask_text)

    # Heartbeat --------------------------------------------------------------------------------------------------

    def _heartbeat(self, heartbeat: Heartbeat) -> Outcome:
        if heartbeat.sequence < self._heartbeat_sequence:
            return Outcome.STALE
        self._heartbeat_sequence = heartbeat.sequence
        self._venue_trade_id = heartbeat.last_trade_id
        return Outcome.ACCEPTED


def _same(one: Trade, other: Trade) -> bool:
    """True if price and size are equal, whatever their digits."""
    return (one.px == other.px or scaled(one.px) == scaled(other.px)) and (
        one.qty == other.qty or scaled(one.qty) == scaled(other.qty)
    )
