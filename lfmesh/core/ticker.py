"""One product's ticker: last trade, best bid, best ask.

A pure function of the frames: after each accepted one, a tick if one of the three differs. The best prices are the
book's while one is published, else those of the venue's ticker. The last trade is the match's or the ticker's,
whichever brings the higher id first; it does not wait for trades that are missing.
"""

from collections.abc import Callable

from lfmesh.core import encode
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.product_facts import Outcome, ProductFact, TradeCorrected, TradeDiscarded
from lfmesh.core.trades import UNKNOWN_TO_VENUE, is_absurd, same
from lfmesh.exact import scaled
from lfmesh.types import Continuity, Heartbeat, InputPosition, Position, Quote, Trade

NULL = "null"

type Best = tuple[str, str | None] | None
"""(px, qty) of a best bid or ask, the size None where it is unknown; None where there is no price."""


class Ticker:
    """See the module's docstring. `find` gives a published trade by its id, if it is still held.

    `book_rules` is True while a book is published: the best prices are its.
    """

    def __init__(
        self, outlet: Outlet, turn: Turn, note: Callable[[ProductFact], None], find: Callable[[int], Trade | None]
    ) -> None:
        self._outlet = outlet
        self._turn = turn
        self._note = note
        self._find = find
        self.book_rules = False
        self._begun = False  # whether the next tick goes on in an epoch
        self._held_back = False
        self._frozen: tuple[Trade | None, Best, Best] | None = None
        self._quiet = False
        self._resumed = False
        self._sequence = -1
        self._restored_trade_id = 0
        self._last: Trade | None = None
        self._bid: Best = None
        self._ask: Best = None
        self._last_text = self._bid_text = self._ask_text = NULL

    def restore(self, last: Trade | None) -> None:
        """The newest trade that an earlier process knew; tickers of older ones are stale."""
        self._set_last(last)
        self._restored_trade_id = 0 if last is None else last.trade_id

    def resume(self, position: Position, source: InputPosition, last: Trade | None, bid: Best, ask: Best) -> None:
        """Go on in the earlier process's epoch, from this state on; what was known before it comes first (`thaw`)."""
        self._outlet.resume(position, source)
        self._begun = self._resumed = self._quiet = True
        self._restored_trade_id = 0
        self._frozen = last, bid, ask
        self._set_last(last)
        self._set_best(bid, ask)

    def thaw(self, bid: Best, ask: Best) -> None:
        """The records that are in the restored state have come again. If a book is published, these are its best."""
        if self._frozen is None:
            return
        last, was_bid, was_ask = self._frozen
        self._frozen = None
        self._quiet = self._held_back
        self._set_last(last)
        self._set_best(was_bid, was_ask)
        if self.book_rules and (bid, ask) != (was_bid, was_ask):
            self.reopen()

    def reopen(self) -> None:
        """What comes next is no function of what was published: it begins an epoch."""
        self._begun = self._resumed = False

    def broken(self) -> None:
        """Records are gone that an earlier process may have published from."""
        self.thaw(self._bid, self._ask)
        if self._resumed:
            self.reopen()

    def mix(self) -> None:
        """A second line brings the product: no one ingestor's records make the ticker any more."""
        self._outlet.mixed = True
        if self._frozen is not None:
            self.broken()

    @property
    def is_open(self) -> bool:
        """True once the stream has had a snapshot, here or in an earlier process."""
        return self._outlet.is_open

    def hold_back(self) -> None:
        """What follows is history; without effect once the stream is open."""
        if not self._outlet.is_open:
            self._held_back = self._quiet = True

    def go_on(self) -> None:
        """The present is reached: begin with what is known now."""
        if self._held_back:
            self._held_back = False
            self._quiet = self._frozen is not None
            self._tick(0, "unverified")

    def fields(self) -> str:
        """The state, as snapshots and ticks say it."""
        return encode.ticker_fields(self._last_text, self._bid_text, self._ask_text)

    # What happens -----------------------------------------------------------------------------------------------

    def quote(self, quote: Quote, line_sequence: int) -> Outcome:
        """The venue's ticker; `line_sequence` is that of the line's last accepted one."""
        sequence = quote.sequence
        if sequence <= line_sequence:
            return Outcome.DUPLICATE if sequence == line_sequence else Outcome.STALE
        if sequence <= self._sequence:
            return Outcome.OTHER_LINE
        bid, ask, trade = quote.bid, quote.ask, quote.trade
        if bid is not None and ask is not None and scaled(bid[0]) >= scaled(ask[0]):
            return Outcome.INCONSISTENT
        last = self._last
        if trade is not None:
            known = self._find(trade.trade_id) or last
            if known is not None and known.trade_id == trade.trade_id and not same(known, trade):
                return Outcome.INCONSISTENT
            if trade.trade_id < self._restored_trade_id:
                return Outcome.STALE
        self._sequence = sequence
        if self.book_rules:
            bid, ask = self._bid, self._ask
        if trade is None or (last is not None and trade.trade_id <= last.trade_id):
            self.take_best(bid, ask, quote.ts_event)
        else:
            self._set_best(bid, ask)
            self.take_trade(trade, encode.trade_fields(trade))
        return Outcome.ACCEPTED

    def forget_sequence(self) -> None:
        """The connection is over: its successor begins with what it shows."""
        self._sequence = -1

    def take_trade(self, trade: Trade, fields: str) -> None:
        """The last trade, if it is newer than the one known, or contradicts it; `fields` is its JSON."""
        last = self._last
        if last is not None and trade.trade_id <= last.trade_id:
            if trade.trade_id < last.trade_id or same(last, trade):
                if not self._begun:
                    self._tick(trade.ts_event, "unverified")
                return
            self._note(TradeCorrected(trade.product, trade.trade_id))
        successor = last is not None and trade.trade_id == last.trade_id + 1
        self._last, self._last_text = trade, fields
        self._tick(trade.ts_event, "verified" if successor else "unverified")

    def take_best(self, bid: Best, ask: Best, ts_event: int) -> None:
        """The best prices, of the book or of the venue's ticker."""
        if self._set_best(bid, ask) or not self._begun:
            self._tick(ts_event, "unverified")

    def is_newer(self, trade: Trade) -> bool:
        """True if the trade's id is higher than the last trade's."""
        return self._last is None or trade.trade_id > self._last.trade_id

    def refute(self, heartbeat: Heartbeat, newest: Callable[[], Trade | None]) -> None:
        """A last trade that the venue does not know, as a newer heartbeat shows, gives way to the newest one known."""
        last, known = self._last, heartbeat.last_trade_id
        if last is not None and known and is_absurd(last, known, heartbeat.sequence):
            self._note(TradeDiscarded(last.product, last.trade_id, UNKNOWN_TO_VENUE))
            self.retract(last.trade_id, newest())

    def retract(self, trade_id: int, newest: Trade | None) -> None:
        """There is no such trade: if it is the last one shown, show the newest one known."""
        if self._last is not None and self._last.trade_id == trade_id:
            self._set_last(newest if newest is not None and newest.trade_id < trade_id else None)
            self._tick(0, "unverified")

    # State ------------------------------------------------------------------------------------------------------

    def _set_last(self, last: Trade | None) -> None:
        self._last = last
        self._last_text = NULL if last is None else encode.trade_fields(last)

    def _set_best(self, bid: Best, ask: Best) -> bool:
        """True if one of them differs from before."""
        changed = False
        if bid != self._bid:
            self._bid, self._bid_text, changed = bid, encode.level(bid), True
        if ask != self._ask:
            self._ask, self._ask_text, changed = ask, encode.level(ask), True
        return changed

    def _tick(self, ts_event: int, continuity: Continuity) -> None:
        """Publish the ticker; its first epoch opens as soon as anything of it is known.

        Where the venue gave no time (book snapshots, tickers of products not traded yet) the time of receipt stands in,
        and in a recorded session, which is another day's, the newest time known.
        """
        if self._quiet:
            return
        fields = encode.ticker_fields(self._last_text, self._bid_text, self._ask_text)
        if self._begun:
            turn = self._turn
            time = ts_event or turn.stand_in or turn.newest_event or turn.ts_ingest
            self._outlet.increment(time, continuity, fields)
        elif self._last is not None or self._bid is not None or self._ask is not None:
            self._outlet.open("epoch", [fields], ts_event)
            self._begun = True
