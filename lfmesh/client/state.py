"""What a feed holds of each stream. A `Book` that a feed gives out is the live one: it changes as events come."""

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from itertools import chain, pairwise
from typing import Literal, NamedTuple

from lfmesh.client.values import Level, Trade, difference
from lfmesh.core.book import Book as Levels
from lfmesh.core.book import BookSide
from lfmesh.exact import Exact
from lfmesh.types import Continuity, Position, StreamState


class StreamStatus(NamedTuple):
    """How a stream is.

    `live`, `recovering` and `stale` are the mesh's words; `waiting`: nothing has come yet since it was asked for;
    `resyncing`: it is being taken anew, because something was wrong with it; `refused`; `disconnected`. `since`: ns,
    0 where it is not known.
    """

    state: StreamState | Literal["waiting", "resyncing", "refused", "disconnected"]
    since: int = 0
    reason: str = ""


class Book:
    """One product's order book, level by level. Levels are (px_text, qty_text) with `px` and `qty` as exact decimals.

    `ready`: a snapshot has come. `position`, `ts_event` (ns, 0 where the venue gives none) and `continuity` are those
    of the last message that changed it.
    """

    __slots__ = ("_levels", "continuity", "position", "product", "ready", "ts_event")

    def __init__(self, product: str) -> None:
        self.product = product
        self.ready = False
        self.position: Position | None = None
        self.ts_event = 0
        self.continuity: Continuity | None = None
        self._levels = Levels()

    @property
    def best_bid(self) -> Level | None:
        """The highest bid; None if there is none."""
        bid = self._levels.top()[0]
        return None if bid is None else Level(*bid)

    @property
    def best_ask(self) -> Level | None:
        """The lowest ask; None if there is none."""
        ask = self._levels.top()[1]
        return None if ask is None else Level(*ask)

    @property
    def spread(self) -> Exact | None:
        """Best ask minus best bid, exact; None without both, or while the book is crossed."""
        bid, ask, crossed = self._levels.top()
        return None if bid is None or ask is None or crossed else difference(ask[0], bid[0])

    @property
    def crossed(self) -> bool:
        """The best bid is not below the best ask: something is missing, and the feed is taking the book anew."""
        return self._levels.top()[2]

    @property
    def bids(self) -> list[Level]:
        """All bids, best first."""
        return [Level(*level) for level in self._levels.bids.sorted()]

    @property
    def asks(self) -> list[Level]:
        """All asks, best first."""
        return [Level(*level) for level in self._levels.asks.sorted()]

    @property
    def depth(self) -> tuple[int, int]:
        """How many bids and asks there are."""
        return len(self._levels.bids), len(self._levels.asks)

    def best_bids(self, count: int) -> list[Level]:
        """The best bids, best first."""
        return _best(self._levels.bids, count)

    def best_asks(self, count: int) -> list[Level]:
        """The best asks, best first."""
        return _best(self._levels.asks, count)

    def copy(self) -> "Book":
        """The same book, which stays as it is."""
        other = Book(self.product)
        other.ready, other.position = self.ready, self.position
        other.ts_event, other.continuity = self.ts_event, self.continuity
        for mine, its in ((self._levels.bids, other._levels.bids), (self._levels.asks, other._levels.asks)):
            its.levels, its.heap = dict(mine.levels), list(mine.heap)
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Book) and self.same_levels(other) and self.position == other.position

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        bids, asks = self.depth
        return f"<Book {self.product} at {self.position}: {bids} bids, {asks} asks>"

    def same_levels(self, other: "Book") -> bool:
        """The same prices and sizes, digit for digit."""
        mine, its = self._levels, other._levels  # noqa: SLF001 - of the same class
        return mine.bids.levels == its.bids.levels and mine.asks.levels == its.asks.levels

    # What the feed does with it --------------------------------------------------------------------------------

    def load(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Be these levels."""
        self._levels.replace(bids, asks)
        self.ready = True

    def apply(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Absolute sizes; zero removes the level."""
        self._levels.apply(
            chain((("buy", px, qty) for px, qty in bids), (("sell", px, qty) for px, qty in asks)),
        )


def _best(side: BookSide, count: int) -> list[Level]:
    return [Level(*side.levels[key]) for key in nsmallest(count, side.levels)]


class Taken(NamedTuple):
    """What of a trades message is new, and what is wrong with it.

    `missing`: (first, last, declared) ranges that will not come.
    """

    new: Sequence[Trade] = ()
    missing: Sequence[tuple[int, int, bool]] = ()
    problem: Literal["trade_gap", "trade_order", "repeated"] | None = None
    detail: str = ""


class TradeLog:
    """One product's trades, each once, in order; the newest `keep` of them are held."""

    __slots__ = ("_cursor", "held", "newest_id")

    def __init__(self, keep: int) -> None:
        self.held: deque[Trade] = deque(maxlen=keep)
        self.newest_id: int | None = None
        """The highest id told of, missing ones included."""
        self._cursor: int | None = None

    def forget(self) -> None:
        """Begin anew: trades that were told of are told of again."""
        self.held.clear()
        self.newest_id = self._cursor = None

    def restart(self) -> None:
        """The next message need not follow on the last one."""
        self._cursor = None

    def add(self, trade: Trade) -> Taken:
        """An increment's trade. A `trade_gap` is not taken: see `skip`."""
        cursor, newest, number = self._cursor, self.newest_id, trade.trade_id
        known = newest is not None and number <= newest
        expected = cursor + 1 if cursor is not None else None
        if expected is not None and number < expected:
            return Taken(problem="repeated", detail=f"trade {number} after trade {cursor}")
        if expected is None and newest is not None and not known:
            expected = newest + 1
        if expected is not None and number > expected:
            return Taken(problem="trade_gap", detail=f"trades {expected} to {number - 1} are missing, undeclared")
        self._cursor = number
        if known:
            return Taken()  # again, after a snapshot of an earlier position
        self.newest_id = number
        self.held.append(trade)
        return Taken((trade,))

    def skip(self, trade: Trade) -> Taken:
        """Take a trade across a gap that does not close."""
        first = 1 + max(self._cursor or 0, self.newest_id or 0)
        self._cursor = self.newest_id = trade.trade_id
        self.held.append(trade)
        return Taken((trade,), ((first, trade.trade_id - 1, False),) if first < trade.trade_id else ())

    def load(self, trades: Sequence[Trade], missing: tuple[int, int] | None, settled: int | None) -> Taken:
        """A snapshot's trades, oldest first; no trade up to `settled` will come after it."""
        if any(later.trade_id <= earlier.trade_id for earlier, later in pairwise(trades)):
            return Taken(problem="trade_order", detail="trades of a snapshot are not in order of their ids")
        newest = self.newest_id
        new = [trade for trade in trades if newest is None or trade.trade_id > newest]
        told = max([trade.trade_id for trade in trades[-1:]] + [settled or 0] + ([missing[1]] if missing else [0]))
        gaps = [] if newest is None else _gaps(newest, new, missing, told)
        if newest is None and missing is not None:
            gaps = [(*missing, True)]
        self._cursor = told or None
        if told:
            self.newest_id = told if newest is None else max(newest, told)
        self.held.extend(new)
        undeclared = [f"{first} to {last}" for first, last, declared in gaps if not declared]
        if undeclared:
            return Taken(new, gaps, "trade_gap", f"trades {', '.join(undeclared)} are missing in a snapshot")
        return Taken(new, gaps)


def _gaps(newest: int, new: Sequence[Trade], missing: tuple[int, int] | None, told: int) -> list[tuple[int, int, bool]]:
    """Ids after `newest`, up to `told`, that are not among the new trades: declared missing ones and others."""
    gaps: list[tuple[int, int, bool]] = []
    expected = newest + 1
    for number in [*(trade.trade_id for trade in new), told + 1]:
        if number > expected:
            gaps.extend(_split(expected, number - 1, missing))
        expected = max(expected, number + 1)
    return gaps


def _split(first: int, last: int, missing: tuple[int, int] | None) -> list[tuple[int, int, bool]]:
    """A range without trades, in what is declared of it and what is not."""
    if missing is None or missing[1] < first or missing[0] > last:
        return [(first, last, False)]
    begin, end = max(first, missing[0]), min(last, missing[1])
    found = [(first, begin - 1, False), (begin, end, True), (end + 1, last, False)]
    return [one for one in found if one[0] <= one[1]]
