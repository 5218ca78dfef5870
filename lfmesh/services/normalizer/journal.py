"""What the pipelines note: counted, logged where it is a transition, and what must be asked for remembered.

Trouble that opens is one line, and one when it closes. What happens to many products for the same reason in one turn
is one line: a lost link concerns many at once.
"""

from collections import Counter
from typing import TYPE_CHECKING, assert_never

from lfmesh.core.product_facts import (
    BackfillCame,
    BookHeld,
    BookLost,
    BookOpened,
    HoldClosed,
    HoldOpened,
    LineChanged,
    TradeCorrected,
    TradeDiscarded,
    TradesMissing,
)
from lfmesh.core.repeat import Repeats
from lfmesh.services.normalizer.backfills import Backfills
from lfmesh.services.normalizer.intake import BadFrame, LinkBack, LinkLost, Note, VenueComplained
from lfmesh.services.normalizer.resyncs import Resyncs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

_NAMED = 5


type BookNote = BookLost | BookHeld | BookOpened | LineChanged


class Journal:
    """Notes collect with `note` while a turn lasts, and are worked off by `write` at its end.

    `books_at_risk` are the ingestors of which a frame could not be read that may have been any book's. `name_of` gives
    an ingestor's name for the log. Counters: `trades_recovered` by what brought the missing trades (line, rest) or that
    nothing did (declared); `line_changes` by reason.
    """

    def __init__(self, log: "FilteringBoundLogger", resyncs: Resyncs) -> None:
        self._log = log
        self._resyncs = resyncs
        self.backfills = Backfills()
        self.name_of: Callable[[int], str] = _in_hex
        self._repeats = Repeats()
        self._notes: list[Note] = []
        self.note = self._notes.append
        self.books_at_risk: set[int] = set()
        self.trade_gaps = 0
        self.trades_missing = 0
        self.trades_recovered: Counter[str] = Counter()
        self.trades_discarded = 0
        self.trades_corrected = 0
        self.backfills_failed = 0
        self.books_lost: Counter[str] = Counter()
        self.book_snapshots = 0
        self.line_changes: Counter[str] = Counter()
        self.links_lost = 0

    def write(self, now: int) -> None:
        """Work off the turn's notes."""
        if not self._notes:
            return
        notes = self._notes.copy()
        self._notes.clear()
        books: list[BookNote] = []
        holds: list[HoldOpened | HoldClosed] = []
        for note in notes:
            match note:
                case BookLost() | BookHeld() | BookOpened() | LineChanged():
                    books.append(note)
                case HoldOpened() | HoldClosed():
                    holds.append(note)
                case _:
                    self._write(note, now)
        if books:
            self._write_books(books)
        if holds:
            self._write_holds(holds)

    def _write(self, note: Note, now: int) -> None:
        match note:
            case TradesMissing(product, first, last):
                self.trades_missing += last - first + 1
                self.trades_recovered["declared"] += last - first + 1
                self._log.warning("trades missing", product=product, from_trade_id=first, to_trade_id=last)
            case TradeDiscarded(product, trade_id, why):
                self.trades_discarded += 1
                self._log.warning("trade discarded", product=product, trade_id=trade_id, reason=why)
            case TradeCorrected(product, trade_id):
                self.trades_corrected += 1
                self._log.warning("a match contradicts the ticker", product=product, trade_id=trade_id)
            case BackfillCame():
                self._write_backfill(note, now)
            case BadFrame():
                self._write_bad_frame(note, now)
            case VenueComplained(message, reason):
                if (held_back := self._repeats.admit(("venue", message), now)) is not None:
                    self._log.warning("the venue complains", message=message, reason=reason, held_back=held_back)
            case LinkLost(products, reason):
                self.links_lost += 1
                self._log.warning("venue connection lost", products=some(products), reason=reason)
            case LinkBack(products):
                self._log.info("venue connection back", products=some(products))
            case BookLost() | BookHeld() | BookOpened() | LineChanged():
                self._write_books([note])
            case HoldOpened() | HoldClosed():
                self._write_holds([note])
            case _:
                assert_never(note)

    # Trades -----------------------------------------------------------------------------------------------------

    def _write_holds(self, notes: "Sequence[HoldOpened | HoldClosed]") -> None:
        opened: dict[str, list[HoldOpened]] = {}
        closed: list[HoldClosed] = []
        for note in notes:
            if isinstance(note, HoldOpened):
                self.trade_gaps += 1
                self.backfills.want(note.product)
                opened.setdefault(note.evidence, []).append(note)
            else:
                self.trades_recovered["line"] += note.by_line
                self.backfills.settle(note.product)
                closed.append(note)
        for evidence, holds in opened.items():
            described = [f"{hold.product} {hold.from_trade_id}-{hold.to_trade_id}" for hold in holds]
            self._log.warning(
                "trades are missing and fetched", evidence=evidence, count=len(holds), trades=some(described)
            )
        if closed:
            self._log.info(
                "trades flow again", count=len(closed), products=some([hold.product for hold in closed]),
                by_line=sum(hold.by_line for hold in closed), by_rest=sum(hold.by_rest for hold in closed),
                declared=sum(hold.declared for hold in closed),
                after_ms=round(max(hold.open_ns for hold in closed) / 1e6, 1),
            )  # fmt: skip

    def _write_backfill(self, page: BackfillCame, now: int) -> None:
        self.trades_recovered["rest"] += page.new
        self.backfills.came(page.product, page.from_trade_id, page.to_trade_id, now, complete=page.complete)
        if page.problem:
            self.backfills_failed += 1
            if (held_back := self._repeats.admit(("backfill", page.problem), now)) is not None:
                self._log.warning("backfill failed", product=page.product, reason=page.problem, held_back=held_back)

    # Books ------------------------------------------------------------------------------------------------------

    def _write_books(self, notes: "Sequence[BookNote]") -> None:
        opened: dict[str, list[str]] = {}
        lost: dict[str, list[str]] = {}
        changed: dict[tuple[int, int, str], list[str]] = {}
        for note in notes:
            match note:
                case BookLost(product, why, resync, detail, ingestor):
                    self.books_lost[why] += 1
                    if resync:
                        self._resyncs.want(product, ingestor)
                    else:
                        self._resyncs.settle(product, ingestor)
                    lost.setdefault(why, []).append(f"{product} ({detail})" if detail else product)
                case BookHeld(product, ingestor):
                    self.book_snapshots += 1
                    self._resyncs.settle(product, ingestor)
                case BookOpened(product, reason):
                    opened.setdefault(reason, []).append(product)
                case LineChanged(product, before, after, why):
                    self.line_changes[why] += 1
                    changed.setdefault((before, after, why), []).append(product)
                case _:
                    assert_never(note)
        for why, products in lost.items():
            self._log.warning("books lost", reason=why, count=len(products), products=some(products))
        for (before, after, why), products in changed.items():
            self._log.warning(
                "books change to the other line", reason=why, count=len(products), products=some(products),
                before=self.name_of(before), after=self.name_of(after),
            )  # fmt: skip
        for opening, products in opened.items():
            self._log.info("books opened", reason=opening, count=len(products), products=some(products))

    def _write_bad_frame(self, bad: BadFrame, now: int) -> None:
        """Once per reason and minute, with a sample."""
        if bad.book_at_risk:
            self.books_at_risk.add(bad.ingestor)
        if (held_back := self._repeats.admit(bad.reason, now)) is not None:
            self._log.warning("bad frame", reason=bad.reason, detail=bad.detail, sample=bad.sample, held_back=held_back)


def some(names: "Sequence[str]") -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _in_hex(ingestor: int) -> str:
    return f"{ingestor:016x}"
