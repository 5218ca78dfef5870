"""What a product's pipeline says: the outcome of each event, and facts to count, to log and to act on."""

from dataclasses import dataclass
from enum import StrEnum

from lfmesh.types import SnapshotReason


class Outcome(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    OTHER_LINE = "other_line"
    """The other line has brought it before."""
    INCONSISTENT = "inconsistent"
    """It contradicts what is known, or itself; dropped."""
    CROSSED = "crossed"
    """The book does not stand after it; not published."""
    DISORDERED = "disordered"
    """A book update that is older than the one before it; the book has to be had anew."""
    BOOK_NOT_HELD = "book_not_held"
    """An update of a book that waits for its snapshot; dropped."""
    RESTORED = "restored"
    """It is in the state that an earlier process has left behind."""


@dataclass(frozen=True, slots=True)
class HoldOpened:
    """Trades are missing: newer ones wait while these are fetched. `evidence`: what shows it."""

    product: str
    from_trade_id: int
    to_trade_id: int
    evidence: str


@dataclass(frozen=True, slots=True)
class HoldClosed:
    """No trade waits any more. How many of the missing ones came by a line, how many over REST, how many not at all."""

    product: str
    by_line: int
    by_rest: int
    declared: int
    open_ns: int


@dataclass(frozen=True, slots=True)
class TradesMissing:
    """Trades that nobody has given in time; declared in the new epoch's snapshot."""

    product: str
    from_trade_id: int
    to_trade_id: int


@dataclass(frozen=True, slots=True)
class TradeDiscarded:
    """A trade whose id the venue does not know, as its newer ones show, or that was told in two ways."""

    product: str
    trade_id: int
    why: str


@dataclass(frozen=True, slots=True)
class TradeCorrected:
    """A match contradicts the ticker that brought its id first; the match counts."""

    product: str
    trade_id: int


@dataclass(frozen=True, slots=True)
class BackfillCame:
    """A page over REST: these ids were asked for. `complete`: no more will come; `problem` says why, if it failed."""

    product: str
    from_trade_id: int
    to_trade_id: int
    new: int
    complete: bool
    problem: str


@dataclass(frozen=True, slots=True)
class BookLost:
    """A line's book can't be trusted until a snapshot comes; `resync`: it must be asked for.

    `ingestor` is whose line it is; None where nobody has brought anything yet.
    """

    product: str
    why: str
    resync: bool
    detail: str = ""
    ingestor: int | None = None


@dataclass(frozen=True, slots=True)
class BookHeld:
    """A line's snapshot has come: its book is whole, and need not be asked for."""

    product: str
    ingestor: int


@dataclass(frozen=True, slots=True)
class BookOpened:
    """A book begins an epoch."""

    product: str
    reason: SnapshotReason
    levels: int


@dataclass(frozen=True, slots=True)
class LineChanged:
    """The book is published from another line now; ids of ingestors."""

    product: str
    before: int
    now: int
    why: str


ProductFact = (
    HoldOpened
    | HoldClosed
    | TradesMissing
    | TradeDiscarded
    | TradeCorrected
    | BackfillCame
    | BookLost
    | BookHeld
    | BookOpened
    | LineChanged
)
