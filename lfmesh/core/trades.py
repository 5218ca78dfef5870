"""One product's trades: in the order of their ids, each once, none left out without saying so.

Contiguous ids are the venue's only evidence that no trade is missing. So

    the next id               published at once, `verified`
    an id known already       dropped
    an id further on          a hold opens: it waits, in order by id, for those before it
    a heartbeat further on    the same after a moment, in which the trade itself may come; nothing waits yet

While a hold is open its stream is recovering. The missing trades come by a line (another one, or late), or over REST
(`backfilled`). Those that nobody has given when the time is over are declared: a new epoch, whose snapshot says what is
missing. What is waiting is bounded; past the bound the oldest gap is declared before its time.

No clock: times are arguments, those that are kept are the turn's `ts_publish` less `lateness_ns`, the time in which our
own process did not run and nobody could have given us anything.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from lfmesh.core import encode
from lfmesh.core.hold import Held, Hold, Missing
from lfmesh.core.liveness import Liveness
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.product_facts import HoldClosed, HoldOpened, Outcome, ProductFact, TradeDiscarded, TradesMissing
from lfmesh.core.tape import TradeTape
from lfmesh.exact import scaled
from lfmesh.messages import BackfillPage
from lfmesh.types import Continuity, Heartbeat, InputPosition, Position, Trade

ABSURD_DISTANCE = 10_000
"""An id so far beyond the venue's newest one, as a later heartbeat tells it, is no trade's."""

UNKNOWN_AFTER_NS = 3_000_000_000
"""A trade that REST still does not know so long after it came is no trade."""

FETCHING = "trades are fetched from the venue"
BY_ID = "a trade id"
BY_HEARTBEAT = "a heartbeat"
BY_REST = "a page over REST"
UNKNOWN_TO_VENUE = "the venue does not know it"
TOLD_TWICE = "it was told in two ways"


class Patience(NamedTuple):
    """How long to wait for what, and how much may wait meanwhile."""

    backfill_after_ns: int = 1_000_000_000
    backfill_timeout_ns: int = 10_000_000_000
    line_lag_ns: int = 500_000_000
    held_trades: int = 10_000
    held_bytes: int = 4 * 1024 * 1024


PATIENCE = Patience()


class TradeStream:
    """See the module's docstring. `next_id` is the id that is published at once, 0 while none is known."""

    def __init__(
        self,
        outlet: Outlet,
        turn: Turn,
        note: Callable[[ProductFact], None],
        tell: Callable[[], None],
        liveness: Liveness,
        patience: Patience,
    ) -> None:
        self._product = outlet.stream.product
        self._outlet = outlet
        self._turn = turn
        self._note = note
        self._tell = tell
        self._liveness = liveness
        self._patience = patience
        self.next_id = 0
        self.waiting = False
        self.lateness_ns = 0
        self.venue_trade_id = 0
        self._tape = TradeTape()
        self._anchor: Trade | None = None  # a trade whose id nothing before it supports
        self._hold = Hold()
        self._ahead: tuple[int, int] | None = None  # an id that a heartbeat is ahead of us with, and since when
        self._opened_at = 0
        self._by_line = self._by_rest = self._declared = 0

    def resume(
        self, position: Position, source: InputPosition, trades: Iterable[Trade], last_trade_id: int | None
    ) -> bool:
        """Go on in an earlier process's epoch, which the ids alone allow; False if it is not known how far it came."""
        tape = self._tape = TradeTape(trades)
        if last_trade_id is not None and (tape.last_trade_id is None or last_trade_id > tape.last_trade_id):
            tape.skip_to(last_trade_id)
        if tape.last_trade_id is None:
            return False
        self._outlet.resume(position, source)
        self.next_id = tape.last_trade_id + 1
        return True

    def begin_before(self, trade_id: int) -> None:
        """An earlier process has published nothing, and its ticker has shown this trade: go on from there."""
        self._tape.skip_to(trade_id - 1)

    # What is known ----------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Trades that wait for those before them."""
        return len(self._hold)

    @property
    def behind(self) -> int:
        """By how many trades the venue's last heartbeat is ahead of the last trade known here."""
        last = self._tape.last_trade_id
        return 0 if last is None else max(0, self.venue_trade_id - last)

    def find(self, trade_id: int) -> Trade | None:
        """The trade of this id, if it is among the latest."""
        return self._tape.find(trade_id)

    def newest(self) -> Trade | None:
        """The newest trade known, published or waiting."""
        return self._hold.newest() or self._tape.latest()

    def state(self) -> str:
        """The state of a trades snapshot."""
        return self._tape.state()

    def wanted(self, now: int, line_may_bring: Callable[[int], bool]) -> list[Missing]:
        """What to ask REST for: not yet what a line that has not come so far may still bring, for a moment."""
        if not self.waiting:
            return []
        patient_since = now - self.lateness_ns - self._patience.backfill_after_ns
        missing = self._hold.missing(self.next_id)
        return [gap for gap in missing if gap.since <= patient_since or not line_may_bring(gap.last)]

    # What happens -----------------------------------------------------------------------------------------------

    def publish(self, trade: Trade, fields: str) -> None:
        """The trade of `next_id`, by a line; `fields` is its JSON."""
        self._tape.append(trade)
        trade_id = trade.trade_id
        self.next_id = trade_id + 1
        self._outlet.increment(trade.ts_event, "verified", fields)
        if self.waiting:
            if trade_id <= self._hold.top:
                self._by_line += 1
            self._release("verified")

    def take(self, trade: Trade, known: Outcome) -> Outcome:
        """A trade that is not the next; `known` is the outcome if it is one that another line has brought before."""
        last = self._tape.last_trade_id
        trade_id = trade.trade_id
        if last is not None and trade_id <= last:
            if known is Outcome.OTHER_LINE:
                return known
            return Outcome.STALE if self._tape.find(trade_id) is None else Outcome.DUPLICATE
        self._open_first(trade.ts_event)
        if last is not None and trade_id > last + 1:
            return self._wait(trade, known)
        if last is None:
            self._anchor = trade
        self._emit(trade, "verified" if trade_id - 1 == last else "unverified")
        return Outcome.ACCEPTED

    def position(self, trade: Trade) -> Outcome:
        """The venue's last trade before a subscription: where we begin, or, if it is news, a trade like any other."""
        last = self._tape.last_trade_id
        trade_id = trade.trade_id
        if last is not None and trade_id > last:
            if trade_id != self.next_id:
                return self.take(trade, Outcome.DUPLICATE)
            self.publish(trade, encode.trade_fields(trade))
            return Outcome.ACCEPTED
        if last is None:
            self._anchor = trade
            self._tape.skip_to(trade_id)
        self._open_first(trade.ts_event)
        if last is not None and trade_id < last:
            return Outcome.STALE
        return Outcome.ACCEPTED

    def fill(self, page: BackfillPage) -> list[Trade]:
        """A page over REST: its trades that are news, oldest first."""
        if not self.next_id:
            return []
        new = []
        for row in page.trades:
            if row.trade_id < self.next_id:
                continue
            trade = Trade(self._product, row.trade_id, row.px, row.qty, row.side, row.ts_event, backfilled=True)
            if self._fill(trade):
                new.append(trade)
        if self.waiting:
            self._release("verified")
            self._bound()
        if page.newest_trade_id and page.newest_trade_id < page.to_trade_id:
            self._doubt(page.newest_trade_id)
        return new

    def _fill(self, trade: Trade) -> bool:
        """True if the trade is news."""
        trade_id = trade.trade_id
        held = self._hold.get(trade_id)
        if held is not None:
            if held.trade.backfilled or same(held.trade, trade):
                return False
            self._hold.pop(trade_id)  # two stories: what the venue has recorded counts
            self._note(TradeDiscarded(self._product, trade_id, TOLD_TWICE))
        elif not self.waiting and trade_id == self.next_id:
            self._emit(trade, "backfilled")
            return True
        if not self.waiting:
            self._begin_hold(trade_id - 1, BY_REST)
        self._by_rest += 1
        self._hold.put(Held(trade, self._turn.ts_ingest, self._now))
        return True

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """The venue's newest trade, as of this heartbeat, the newest one that is known."""
        newest = self.venue_trade_id = heartbeat.last_trade_id
        if not newest or not self.next_id:
            return
        if self._ahead is not None and not self.next_id <= self._ahead[0] <= newest:
            self._ahead = None
        self._refute(newest, heartbeat.sequence)
        if newest >= self.next_id and newest > self._hold.top and self._ahead is None:
            self._ahead = newest, self._now

    @property
    def watches(self) -> bool:
        """True while `tick` may have something to do."""
        return self.waiting or self._ahead is not None

    def tick(self, now: int) -> None:
        """Time has passed: what a heartbeat told has not come, or nobody has given what was missing."""
        now -= self.lateness_ns
        if self._ahead is not None:
            self._look_ahead(*self._ahead, now)
        while self.waiting:
            gap = self._hold.oldest(self.next_id)
            if now - gap.since < self._patience.backfill_timeout_ns:
                break
            self._declare(gap)

    def _look_ahead(self, newest: int, since: int, now: int) -> None:
        """What a heartbeat has told is known by now, or missing, or has its moment still."""
        if self._hold.top < newest >= self.next_id:
            if now - since < self._patience.backfill_after_ns:
                return
            if not self.waiting:
                self._begin_hold(newest, BY_HEARTBEAT)
            self._hold.prove(newest, since)
        known = max(self.next_id - 1, self._hold.top)
        # A newer heartbeat may have told more.
        self._ahead = (self.venue_trade_id, now) if self.venue_trade_id > known else None

    # A hold -----------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> int:
        return self._turn.ts_publish - self.lateness_ns

    def _wait(self, trade: Trade, known: Outcome) -> Outcome:
        trade_id, hold = trade.trade_id, self._hold
        held = hold.get(trade_id)
        if held is not None:
            if same(held.trade, trade):
                return known
            if not held.trade.backfilled:  # who is right, only the venue's record can tell
                hold.dispute(trade_id)
                self._note(TradeDiscarded(self._product, trade_id, TOLD_TWICE))
            return Outcome.INCONSISTENT
        if hold.is_disputed(trade_id):
            return Outcome.INCONSISTENT
        if not self.waiting:
            self._begin_hold(trade_id - 1, BY_ID)
        elif trade_id <= hold.top:
            self._by_line += 1
        hold.put(Held(trade, self._turn.ts_ingest, self._now))
        self._bound()
        return Outcome.ACCEPTED

    def _begin_hold(self, last: int, evidence: str) -> None:
        self.waiting = True
        self._opened_at = self._turn.ts_publish
        self._by_line = self._by_rest = self._declared = 0
        self._outlet.whole = False
        self._liveness.trades_wait(FETCHING)
        self._note(HoldOpened(self._product, self.next_id, last, evidence))
        self._tell()

    def _bound(self) -> None:
        hold, patience = self._hold, self._patience
        while len(hold) > patience.held_trades or hold.size_bytes > patience.held_bytes:
            self._declare(hold.oldest(self.next_id))

    def _release(self, first: Continuity) -> None:
        """Publish what waits and is next, the first of it so; the hold ends if nothing is missing any more."""
        hold, turn = self._hold, self._turn
        number, ts_ingest = turn.number, turn.ts_ingest
        while (held := hold.pop(self.next_id)) is not None:
            turn.record(number, held.ts_ingest)
            self._emit(held.trade, "backfilled" if held.trade.backfilled else first)
            first = "verified"
        turn.record(number, ts_ingest)
        if self.next_id > hold.top:
            self._end_hold()

    def _end_hold(self) -> None:
        self.waiting = False
        self._hold.clear()
        self._outlet.whole = True
        self._liveness.trades_wait("")
        open_ns = self._turn.ts_publish - self._opened_at
        self._note(HoldClosed(self._product, self._by_line, self._by_rest, self._declared, open_ns))
        self._tell()

    def _declare(self, gap: Missing) -> None:
        self._declared += gap.last - gap.first + 1
        self._note(TradesMissing(self._product, gap.first, gap.last))
        self._tape.skip_to(gap.last)
        self.next_id = gap.last + 1
        if (after := self._hold.get(self.next_id)) is not None:
            self._anchor = after.trade
        self._outlet.open("gap", [self._tape.state()], 0, (gap.first, gap.last))
        self._release("unverified")

    # Ids that can't be ------------------------------------------------------------------------------------------

    def _refute(self, newest: int, sequence: int) -> None:
        """A heartbeat that is newer than a trade knows better which ids there are."""
        if self.waiting:
            self._discard(self._hold.refute(newest, self._now, lambda held: is_absurd(held.trade, newest, sequence)))
        anchor = self._anchor
        if anchor is not None and newest >= anchor.trade_id:
            self._anchor = None
        elif anchor is not None and is_absurd(anchor, newest, sequence):
            # Everything that follows would be dropped as old: begin anew where the venue stands.
            self._anchor = None
            self._tape = TradeTape(self._tape.up_to(newest))
            self._tape.skip_to(newest)
            self.next_id = newest + 1
            self._note(TradeDiscarded(self._product, anchor.trade_id, UNKNOWN_TO_VENUE))
            self._outlet.open("epoch", [self._tape.state()], 0)

    def _doubt(self, newest: int) -> None:
        """REST has shown its newest trade: what we were told long before, and it does not know, does not exist."""
        if self.waiting:
            since = self._now - UNKNOWN_AFTER_NS
            self._discard(
                self._hold.refute(newest, since, lambda held: held.trade.trade_id > newest and held.since <= since)
            )

    def _discard(self, absurd: Iterable[int]) -> None:
        for trade_id in absurd:
            self._note(TradeDiscarded(self._product, trade_id, UNKNOWN_TO_VENUE))
        if self._hold.top < self.next_id:
            self._end_hold()

    # Publishing -------------------------------------------------------------------------------------------------

    def _open_first(self, ts_event: int) -> None:
        if not self._outlet.is_open:
            self._outlet.open("epoch", [self._tape.state()], ts_event)
        last = self._tape.last_trade_id
        self.next_id = 0 if last is None else last + 1

    def _emit(self, trade: Trade, continuity: Continuity) -> None:
        self._tape.append(trade)
        self.next_id = trade.trade_id + 1
        self._outlet.increment(trade.ts_event, continuity, encode.trade_fields(trade))


def same(one: Trade, other: Trade) -> bool:
    """True if price and size are equal, whatever their digits."""
    return (one.px == other.px or scaled(one.px) == scaled(other.px)) and (
        one.qty == other.qty or scaled(one.qty) == scaled(other.qty)
    )


def is_absurd(trade: Trade, newest: int, sequence: int) -> bool:
    """True if a heartbeat that is newer than the trade (by `sequence`) shows that there is no such id."""
    return trade.trade_id > newest + ABSURD_DISTANCE and 0 < trade.sequence <= sequence
