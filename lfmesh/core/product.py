"""The pipeline of one product: venue events in, positions minted and messages encoded, facts out.

    event ──► is it new, does it agree with what is known? ──► apply ──► trades, book, ticker outlets

What the venue's evidence allows is what `continuity` says: trade ids are contiguous per product, `sequence` only tells
order, book updates prove nothing.

trades  `core/trades.py`: one increment a new match; an id that jumps makes the newer ones wait for the missing ones.
book    `core/lines.py`: one increment an update of the published line, from an in-band snapshot on; each such snapshot
        opens an epoch. A book that is crossed after an update has lost one, and is not published any further.
ticker  `core/ticker.py`: a pure function of the frames; after each accepted one, a tick if anything differs.

A product that begins with what an earlier process left may go on in its epochs: what was published is a function of the
records, so that those after the restored input make what that process would have published. Records up to it come again
(other streams began earlier) and change nothing.

`observe` returns what became of the event; what the service has to do or to log besides goes to `note`.
"""

from collections.abc import Callable
from typing import NamedTuple, assert_never

from lfmesh.core import encode
from lfmesh.core.hold import Missing
from lfmesh.core.lines import Lines
from lfmesh.core.liveness import Liveness
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.product_facts import BackfillCame, Outcome, ProductFact, TradeDiscarded
from lfmesh.core.ticker import Ticker
from lfmesh.core.trades import PATIENCE, UNKNOWN_TO_VENUE, Patience, TradeStream
from lfmesh.messages import BackfillPage
from lfmesh.types import (
    CHANNELS,
    NO_INPUT,
    BookSnapshot,
    BookUpdate,
    Channel,
    Heartbeat,
    InputPosition,
    Level,
    Position,
    Quote,
    StreamKey,
    Trade,
    TradePosition,
    VenueEvent,
)


class RestoredBook(NamedTuple):
    """A book as an earlier process published it last, best first, and whose line it was."""

    bids: list[Level]
    asks: list[Level]
    line_ingestor: int


class Restored(NamedTuple):
    """What an earlier process left behind, as a snapshotter tells it. By channel: positions, and inputs.

    `inputs` names the streams that may go on in their epoch: the records up to this one are in them, and all later ones
    of that ingestor will come. `last_trade`, `bid` and `ask` are the ticker's, `last_trade_id` is the trades stream's.
    """

    positions: dict[Channel, Position]
    inputs: dict[Channel, InputPosition] = {}  # noqa: RUF012 - never changed; a NamedTuple's default is shared as ever
    trades: tuple[Trade, ...] = ()
    last_trade: Trade | None = None
    last_trade_id: int | None = None
    bid: tuple[str, str | None] | None = None
    ask: tuple[str, str | None] | None = None
    book: RestoredBook | None = None


NOTHING_RESTORED = Restored({})


class _Resuming(NamedTuple):
    """Records of one ingestor up to these numbers are in the restored book, in the restored ticker."""

    ingestor: int
    book: int
    ticker: int


class Product:
    """One product; `liveness` is kept by the service, which knows time and links."""

    def __init__(
        self, product: str, turn: Turn, note: Callable[[ProductFact], None], liveness: Liveness,
        restored: Restored = NOTHING_RESTORED, patience: Patience = PATIENCE,
    ) -> None:  # fmt: skip
        self.product = product
        self.liveness = liveness
        self._turn = turn
        self._note = note
        self.outlets = {
            channel: Outlet(StreamKey(product, channel), turn, restored.positions.get(channel)) for channel in CHANNELS
        }
        outlets = self.outlets
        self._trades = TradeStream(outlets[Channel.TRADES], turn, self._note_trades, self.tell, liveness, patience)
        self._ticker = Ticker(outlets[Channel.TICKER], turn, note, self._find)
        self._lines = Lines(outlets[Channel.BOOK], note, self.tell, liveness, self._ticker, patience.line_lag_ns)
        self._heartbeat_sequence = -1
        self._resuming: _Resuming | None = None
        self._in_trades = restored.inputs.get(Channel.TRADES, NO_INPUT)
        self._restore(restored)

    def _restore(self, restored: Restored) -> None:
        positions, inputs = restored.positions, restored.inputs
        trades, ticker = self._trades, self._ticker
        if (position := positions.get(Channel.TRADES)) is not None:
            known = trades.resume(position, self._in_trades, restored.trades, restored.last_trade_id)
            if not known and restored.last_trade is not None:
                trades.begin_before(restored.last_trade.trade_id)
        last, newest = restored.last_trade, trades.newest()
        ticker.restore(newest if last is None or (newest is not None and newest.trade_id > last.trade_id) else last)

        in_book = inputs.get(Channel.BOOK)
        if (position := positions.get(Channel.BOOK)) is None or restored.book is None:
            in_book = None
        elif in_book is not None:
            bids, asks, ingestor = restored.book
            self._lines.resume(position, in_book, bids, asks, ingestor)
            self._resuming = _Resuming(in_book.ingestor, in_book.number, 0)

        in_ticker = inputs.get(Channel.TICKER)
        position = positions.get(Channel.TICKER)
        if position is None or in_ticker is None or not _covers(in_ticker, in_book, Channel.BOOK in positions):
            return
        ticker.resume(position, in_ticker, last, restored.bid, restored.ask)
        in_book = in_book or NO_INPUT
        self._resuming = _Resuming(in_ticker.ingestor, in_book.number, in_ticker.number)

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def book_held(self) -> bool:
        """True while the published book is whole, as far as known."""
        return self._lines.published is not None

    @property
    def line(self) -> int | None:
        """The ingestor whose line's book is published; None while none is."""
        return None if self._lines.published is None else self._lines.published.ingestor

    @property
    def ingestors(self) -> list[int]:
        """Who brings the product, the living first."""
        return self._lines.ingestors

    @property
    def has_data(self) -> bool:
        """True once somebody has brought something, and one of the streams is open."""
        return bool(self._lines.ingestors) and any(outlet.is_open for outlet in self.outlets.values())

    @property
    def trades_behind(self) -> int:
        """By how many trades the venue's last heartbeat is ahead of the last trade published here."""
        return self._trades.behind

    @property
    def trades_held(self) -> int:
        """Trades that wait for those before them."""
        return self._trades.held

    def holds_book_of(self, ingestor: int) -> bool:
        """True if this ingestor's line has a whole book, published or not."""
        return self._lines.holds(ingestor)

    def backfill_wanted(self, now: int) -> list[Missing]:
        """Trades to ask the venue's REST for, oldest first."""
        return self._trades.wanted(now, self._lines.may_bring)

    def state(self, channel: Channel) -> list[str] | None:
        """The state of a stream as the parts of a snapshot; None where there is none to give."""
        if not self.outlets[channel].is_open:
            return None
        match channel:
            case Channel.TICKER:
                return [self._ticker.fields()]
            case Channel.TRADES:
                return [self._trades.state()]
            case Channel.BOOK:
                return self._lines.state()
            case _:
                assert_never(channel)

    # What happens -----------------------------------------------------------------------------------------------

    def observe(self, event: VenueEvent) -> Outcome:
        """Take one event of this product; the turn knows its record, and whose it is."""
        turn, liveness = self._turn, self.liveness
        line = self._lines.current
        if line.ingestor != turn.ingestor:
            line = self._lines.turn_to(turn.ingestor)
        liveness.seen_at = turn.ts_publish
        if line.link_lost or liveness.is_stale:
            liveness.frame(turn.ts_publish)
            self._lines.heard(line)
            self.tell()
        if self._resuming is not None and self._in_restored_book() and isinstance(event, BookUpdate | BookSnapshot):
            return Outcome.RESTORED
        match event:
            case BookUpdate():
                outcome = self._lines.update(event)
            case Quote():
                outcome = self._quote(event)
            case Trade():
                outcome = self._trade(event)
            case Heartbeat():
                outcome = self._heartbeat(event)
            case BookSnapshot():
                outcome = self._lines.snapshot(event)
            case TradePosition():
                outcome = self._trade_position(event.trade)
            case _:
                assert_never(event)
        return outcome

    def backfilled(self, page: BackfillPage) -> Outcome:
        """A page of trades over REST."""
        if self._resuming is not None:
            self._in_restored_book()
        turn, known = self._turn, self._in_trades
        if turn.ingestor == known.ingestor and (turn.incarnation, turn.number) <= known[1:]:
            return Outcome.RESTORED
        new = self._trades.fill(page)
        if new and self._ticker.is_newer(new[-1]):
            self._ticker.take_trade(new[-1], encode.trade_fields(new[-1]))
        self._note(
            BackfillCame(self.product, page.from_trade_id, page.to_trade_id, len(new), page.complete, page.problem)
        )
        return Outcome.ACCEPTED if new or not page.trades else Outcome.DUPLICATE

    def tick(self, now: int) -> bool:
        """Time has passed: what waited too long is given up; True if the venue has just fallen silent."""
        if self._trades.watches:
            self._trades.tick(now)
        if self._lines.watches:
            self._lines.tick(now)
        if not self.liveness.tick(now):
            return False
        if self.liveness.is_stale:
            self._lines.stalled()
        self.tell()
        return self.liveness.is_stale

    def excuse(self, lateness_ns: int) -> None:
        """For so long this process did not run: nobody could have brought anything."""
        self._trades.lateness_ns += lateness_ns
        self._lines.excuse(lateness_ns)
        self.liveness.seen_at += lateness_ns

    def hold_back(self, ingestor: int) -> None:
        """What this ingestor brings is history: trades are published, but book and ticker only from `go_on`.

        Without effect on streams that are open.
        """
        self._lines.hold_back(ingestor)

    def go_on(self, ingestor: int) -> None:
        """The present is reached: book and ticker begin with what they are now."""
        self._lines.go_on(ingestor)

    def tell(self) -> None:
        """Publish the streams' changed states."""
        for channel, standing in self.liveness.changes(self._turn.ts_publish):
            self.outlets[channel].tell(*standing)

    # What goes wrong --------------------------------------------------------------------------------------------

    def lose_book(self, ingestor: int, why: str, *, resync: bool) -> None:
        """The book of this ingestor's line can't be trusted. `resync`: its snapshot must be asked for."""
        if self._resuming is None or not self._in_restored_book():
            self._lines.lose(self._lines.turn_to(ingestor), why, resync=resync)

    def broken(self, ingestor: int) -> None:
        """What comes of this ingestor does not follow the restored state: its streams begin new epochs."""
        if ingestor in self._lines.ingestors:
            self._begin_anew()
            self._lines.lost(ingestor, resync=False)

    def lost(self, ingestor: int, *, has_books: bool = True) -> None:
        """Records of this ingestor are gone for good: whatever its book missed, nobody knows."""
        if ingestor in self._lines.ingestors:
            self._begin_anew()
        if has_books:
            self._lines.lost(ingestor, resync=True)

    def replaced(self, ingestor: int) -> None:
        """A new process of this ingestor has come: its line begins anew."""
        if ingestor in self._lines.ingestors:
            self._begin_anew()
            self._lines.replaced(ingestor)
            self.tell()

    def link_down(self, ingestor: int, why: str) -> None:
        """The product's venue connection at this ingestor is over."""
        if self._resuming is None or not self._in_restored_book():
            self._lines.link_down(ingestor, why)
            self.tell()

    def silence(self, ingestor: int, *, silent: bool) -> None:
        """This ingestor has fallen silent, or is heard again."""
        self._lines.silence(ingestor, silent=silent)

    def _begin_anew(self) -> None:
        """What an earlier process published beyond the restored state can't be had: nothing goes on in its epoch."""
        self._ticker.broken()
        self._resuming = None

    # Streams ----------------------------------------------------------------------------------------------------

    def _trade(self, trade: Trade) -> Outcome:
        lines, trades = self._lines, self._trades
        line = lines.current
        trade_id = trade.trade_id
        known = Outcome.DUPLICATE
        if trade_id > line.last_trade_id:
            if lines.several:
                known = Outcome.OTHER_LINE
                lines.traded(line, trade_id, self._turn.ts_publish)
            else:
                line.last_trade_id = trade_id
        fields = encode.trade_fields(trade)
        if trade_id == trades.next_id:
            trades.publish(trade, fields)
            self._ticker.take_trade(trade, fields)
            return Outcome.ACCEPTED
        outcome = trades.take(trade, known)
        if outcome is Outcome.ACCEPTED or (outcome is not Outcome.INCONSISTENT and self._ticker.is_newer(trade)):
            self._ticker.take_trade(trade, fields)
        return outcome

    def _trade_position(self, trade: Trade) -> Outcome:
        """The venue's last trade before this subscription."""
        lines = self._lines
        line = lines.current
        if trade.trade_id > line.last_trade_id:
            if lines.several:
                lines.traded(line, trade.trade_id, self._turn.ts_publish)
            else:
                line.last_trade_id = trade.trade_id
        outcome = self._trades.position(trade)
        if outcome is not Outcome.INCONSISTENT:
            self._ticker.take_trade(trade, encode.trade_fields(trade))
        return outcome

    def _quote(self, quote: Quote) -> Outcome:
        line = self._lines.current
        outcome = self._ticker.quote(quote, line.quote_sequence)
        if outcome is Outcome.ACCEPTED or outcome is Outcome.OTHER_LINE:
            line.quote_sequence = quote.sequence
        return outcome

    def _heartbeat(self, heartbeat: Heartbeat) -> Outcome:
        line = self._lines.current
        sequence = heartbeat.sequence
        if sequence < line.heartbeat_sequence:
            return Outcome.STALE
        line.heartbeat_sequence = sequence
        if sequence < self._heartbeat_sequence:
            return Outcome.OTHER_LINE if self._lines.several else Outcome.STALE
        self._heartbeat_sequence = sequence
        self._trades.heartbeat(heartbeat)
        self._ticker.refute(heartbeat, self._trades.newest)
        return Outcome.ACCEPTED

    def _find(self, trade_id: int) -> Trade | None:
        return self._trades.find(trade_id)

    def _note_trades(self, fact: ProductFact) -> None:
        self._note(fact)
        if isinstance(fact, TradeDiscarded) and fact.why == UNKNOWN_TO_VENUE:
            self._lines.forget(fact.trade_id)
            self._ticker.retract(fact.trade_id, self._trades.newest())

    def _in_restored_book(self) -> bool:
        """True if the record at hand is in the restored book. Of the restored ticker it is known afterwards as well."""
        resuming, turn = self._resuming, self._turn
        if resuming is None or turn.ingestor != resuming.ingestor:
            return False
        number = turn.number
        if number > resuming.ticker:
            self._ticker.thaw(*self._lines.top())
            if number > resuming.book:
                self._resuming = None
        return number <= resuming.book


def _covers(in_ticker: InputPosition, in_book: InputPosition | None, had_book: bool) -> bool:
    """True if the ticker can be had again from its input on: its book, if there was one, goes on at or before it."""
    if in_book is None:
        return not had_book
    return in_book[:2] == in_ticker[:2] and in_book.number <= in_ticker.number
