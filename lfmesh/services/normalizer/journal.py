"""What the pipelines note: counted, logged where it is a transition, and books that must be had anew remembered."""

from collections import Counter
from typing import TYPE_CHECKING, assert_never

from lfmesh.core.product import BookLost, BookOpened, TradeCorrected, TradesMissing
from lfmesh.core.repeat import Repeats
from lfmesh.services.normalizer.intake import BadFrame, LinkBack, LinkLost, Note, VenueComplained
from lfmesh.services.normalizer.resyncs import Resyncs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger

_NAMED = 5


class Journal:
    """Notes collect with `note` while a turn lasts, and are worked off by `write` at its end.

    `books_at_risk` are the ingestors of which a frame could not be read that may have been any book's.
    """

    def __init__(self, log: "FilteringBoundLogger", resyncs: Resyncs) -> None:
        self._log = log
        self._resyncs = resyncs
        self._repeats = Repeats()
        self._notes: list[Note] = []
        self.note = self._notes.append
        self.books_at_risk: set[int] = set()
        self.trade_gaps = 0
        self.trades_missing = 0
        self.trades_corrected = 0
        self.books_lost: Counter[str] = Counter()
        self.book_snapshots = 0
        self.links_lost = 0

    def write(self, now: int) -> None:
        """Work off the turn's notes."""
        if not self._notes:
            return
        notes = self._notes.copy()
        self._notes.clear()
        books = [note for note in notes if isinstance(note, BookLost | BookOpened)]
        if books:
            self._write_books(books)
        for note in notes:
            if not isinstance(note, BookLost | BookOpened):
                self._write(note, now)

    def _write(self, note: Note, now: int) -> None:
        match note:
            case TradesMissing(product, first, last):
                self.trade_gaps += 1
                self.trades_missing += last - first + 1
                self._log.warning("trades missing", product=product, from_trade_id=first, to_trade_id=last)
            case TradeCorrected(product, trade_id):
                self.trades_corrected += 1
                self._log.warning("a match contradicts the ticker", product=product, trade_id=trade_id)
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
            case BookLost() | BookOpened():
                self._write_books([note])
            case _:
                assert_never(note)

    def _write_books(self, notes: "Sequence[BookLost | BookOpened]") -> None:
        """One line for all that happened to books for the same reason: a lost link concerns many at once."""
        opened: dict[str, list[str]] = {}
        lost: dict[str, list[str]] = {}
        for note in notes:
            if isinstance(note, BookOpened):
                self.book_snapshots += 1
                self._resyncs.settle(note.product)
                opened.setdefault(note.reason, []).append(note.product)
                continue
            self.books_lost[note.why] += 1
            if note.resync:
                self._resyncs.want(note.product)
            else:
                self._resyncs.settle(note.product)
            detail = f"{note.product} ({note.detail})" if note.detail else note.product
            lost.setdefault(note.why, []).append(detail)
        for why, products in lost.items():
            self._log.warning("books lost", reason=why, count=len(products), products=some(products))
        for reason, products in opened.items():
            self._log.info("books opened", reason=reason, count=len(products), products=some(products))

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
