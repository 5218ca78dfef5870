"""What a client holds of each channel: book, ticker, ordered trades. Texts are the venue's digits.

The pictures are built from what the gateway sends and nothing else; they say where two of them differ, and never
repair.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from lfmesh.core.statehash import TradeHash
from lfmesh.exact import scaled
from lfmesh.types import Level
from loadgen.client.violations import Kind
from loadgen.client.wire import (
    BestLevel,
    BookFields,
    Missing,
    RawLevel,
    TickFields,
    TradeFields,
    exact_levels,
    exact_text,
    is_zero,
    price_key,
)

Problem = tuple[Kind, str]


class TradeLine(NamedTuple):
    """One trade as a client keeps it; `side` is the taker's."""

    trade_id: int
    px: str
    qty: str
    side: str


class Ticker(NamedTuple):
    """The ticker's three parts, None where unknown; an unknown size is an empty text."""

    last_trade: TradeLine | None
    best_bid: Level | None
    best_ask: Level | None


_NULL = b"null"


def _best(level: BestLevel | None) -> Level | None:
    if level is None:
        return None
    qty = "" if bytes(level.qty) == _NULL else exact_text(level.qty)
    return exact_text(level.px), qty


def trade_line(fields: TradeFields) -> TradeLine:
    """A trade with its texts checked; NotExact."""
    return TradeLine(fields.trade_id, exact_text(fields.px), exact_text(fields.qty), fields.side)


def ticker_of(fields: TickFields) -> Ticker:
    """A ticker with its texts checked; NotExact."""
    trade = fields.last_trade
    return Ticker(None if trade is None else trade_line(trade), _best(fields.best_bid), _best(fields.best_ask))


class Book:
    """One product's L2 book: (px, qty) texts by exact price."""

    __slots__ = ("ask_levels", "bid_levels")

    def __init__(self) -> None:
        self.bid_levels: dict[int, Level] = {}
        self.ask_levels: dict[int, Level] = {}

    @classmethod
    def of(cls, parts: Iterable[BookFields]) -> tuple["Book", list[Problem]]:
        """A book from the parts of a snapshot, and what is wrong with them; NotExact."""
        book = cls()
        problems: list[Problem] = []
        parts = tuple(parts)
        for name, side, descending, lists in (
            ("bids", book.bid_levels, True, [part.bids for part in parts]),
            ("asks", book.ask_levels, False, [part.asks for part in parts]),
        ):
            levels = [level for some in lists for level in exact_levels(some)]
            problem = _fill(side, levels, descending=descending)
            if problem:
                problems.append((Kind.LEVELS, f"{name}: {problem}"))
        return book, problems

    def apply(self, fields: BookFields) -> None:
        """Set absolute sizes; zero removes a level, also one that is not there. NotExact."""
        if fields.bids:
            _set(self.bid_levels, fields.bids)
        if fields.asks:
            _set(self.ask_levels, fields.asks)

    def bids(self) -> list[Level]:
        """Bids, best first."""
        return [self.bid_levels[key] for key in sorted(self.bid_levels, reverse=True)]

    def asks(self) -> list[Level]:
        """Asks, best first."""
        return [self.ask_levels[key] for key in sorted(self.ask_levels)]

    def best_bid(self) -> Level | None:
        """The highest bid, None if there is none."""
        return self.bid_levels[max(self.bid_levels)] if self.bid_levels else None

    def best_ask(self) -> Level | None:
        """The lowest ask, None if there is none."""
        return self.ask_levels[min(self.ask_levels)] if self.ask_levels else None

    def difference(self, other: "Book") -> str | None:
        """Where this book and another differ, in a few words; None if nowhere."""
        for name, mine, its in (
            ("bids", self.bid_levels, other.bid_levels),
            ("asks", self.ask_levels, other.ask_levels),
        ):
            if mine != its:
                keys = sorted(key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key))
                shown = "; ".join(f"{_shown(mine.get(key))} against {_shown(its.get(key))}" for key in keys[:3])
                return f"{name} differ at {len(keys)} prices: {shown}"
        return None


def _shown(level: Level | None) -> str:
    return "nothing" if level is None else f"{level[1]} at {level[0]}"


def _set(side: dict[int, Level], levels: Sequence[RawLevel]) -> None:
    for level in exact_levels(levels):
        key = price_key(level[0])
        if is_zero(level[1]):
            side.pop(key, None)
        else:
            side[key] = level


def _fill(side: dict[int, Level], levels: Sequence[Level], *, descending: bool) -> str:
    """Fill a side with levels, best first; what is wrong with them."""
    keys = [scaled(px) for px, _ in levels]
    side.update(zip(keys, levels, strict=True))
    for px, qty in levels:
        if is_zero(qty):
            return f"an empty level at {px}"
    if any(later >= earlier if descending else later <= earlier for earlier, later in pairwise(keys)):
        return "not best first, or a price twice"
    return ""


class Trades:
    """One product's trades in order, each once, and the check that they come so (guarantee 4).

    `keep` bounds how many are kept as values (None: all); the hash covers every one.
    """

    def __init__(self, keep: int | None = None) -> None:
        self.held: deque[TradeLine] = deque(maxlen=keep)
        self.hash = TradeHash()
        self.declared: list[tuple[int, int]] = []
        self._newest: int | None = None
        self._cursor: int | None = None
        self._must_reach: int | None = None

    @property
    def newest_id(self) -> int | None:
        """The highest trade id known, declared missing ones included."""
        return self._newest

    def forget_cursor(self) -> None:
        """The client has given up its place: what comes next need not follow on what it holds."""
        self._cursor = self._must_reach = None

    def add(self, fields: TradeFields) -> list[Problem]:
        """An increment's trade. NotExact."""
        trade = trade_line(fields)
        cursor = self._cursor
        problems: list[Problem] = []
        if cursor is not None and trade.trade_id != cursor + 1:
            if trade.trade_id <= cursor:
                return [(Kind.TRADE_ORDER, f"trade {trade.trade_id} after trade {cursor}")]
            problems.append((Kind.TRADE_GAP, f"trades {cursor + 1} to {trade.trade_id - 1} are missing, undeclared"))
        elif cursor is None and self._must_reach is not None and trade.trade_id > self._must_reach + 1:
            gap = f"trades {self._must_reach + 1} to {trade.trade_id - 1}"
            problems.append((Kind.TRADE_GAP, f"{gap} are missing after a restart, undeclared"))
        self._cursor, self._must_reach = trade.trade_id, None
        problems.extend(self._keep([trade]))
        return problems

    def load(
        self, listed: Sequence[TradeFields], missing: Missing | None, *, restart: bool, settled: int | None = None
    ) -> list[Problem]:
        """A snapshot's trades; `restart` if it answers a subscription, and may repeat what came before. NotExact.

        `settled`: no trade up to this id will come any more; those that are neither listed nor declared are lost.
        """
        trades = [trade_line(fields) for fields in listed]
        problems: list[Problem] = []
        for earlier, later in pairwise(trades):
            if later.trade_id <= earlier.trade_id:
                problems.append((Kind.TRADE_ORDER, f"trade {later.trade_id} after {earlier.trade_id} in a snapshot"))
        if missing is not None:
            self.declared.append((missing.from_trade_id, missing.to_trade_id))
            if missing.from_trade_id > missing.to_trade_id:
                problems.append((Kind.TRADE_ORDER, f"missing from {missing.from_trade_id} to {missing.to_trade_id}"))
        if settled is not None and trades and settled < trades[-1].trade_id:
            problems.append((Kind.TRADE_ORDER, f"last_trade_id {settled} before trade {trades[-1].trade_id}"))
        if self._cursor is not None:
            problems.extend(_holes(self._cursor, trades, missing, settled))
        problems.extend(self._keep(trades))
        told = max((trade.trade_id for trade in trades), default=None)
        if settled is not None:
            told = settled if told is None else max(told, settled)
        if missing is not None:
            told = missing.to_trade_id if told is None else max(told, missing.to_trade_id)
        if restart and told is None and self._cursor is not None:
            # A position without a trade yet: increments follow, from some trade that we hold or the next one on.
            self._cursor, self._must_reach = None, self._newest
        elif told is not None:
            self._newest = told if self._newest is None else max(self._newest, told)
            self._cursor = told if restart or self._cursor is None else max(told, self._cursor)
        return problems

    def _keep(self, trades: Sequence[TradeLine]) -> list[Problem]:
        """Append what is new; compare what was held already."""
        newest = self._newest
        repeated = [trade for trade in trades if newest is not None and trade.trade_id <= newest]
        for trade in trades:
            if self._newest is None or trade.trade_id > self._newest:
                self._newest = trade.trade_id
                self.held.append(trade)
                self.hash.add(*trade)
        return self._altered(repeated) if repeated else []

    def _altered(self, repeated: Sequence[TradeLine]) -> list[Problem]:
        lowest = min(trade.trade_id for trade in repeated)
        known: dict[int, TradeLine] = {}
        for trade in reversed(self.held):
            if trade.trade_id < lowest:
                break
            known[trade.trade_id] = trade
        return [
            (Kind.TRADE_ALTERED, f"{tuple(trade)} was {tuple(known[trade.trade_id])} before")
            for trade in repeated
            if known.get(trade.trade_id, trade) != trade
        ]


def _holes(cursor: int, trades: Sequence[TradeLine], missing: Missing | None, settled: int | None) -> list[Problem]:
    """Trades after `cursor` that a snapshot neither lists nor declares missing, though it tells of later ones."""
    listed = sorted(trade.trade_id for trade in trades if trade.trade_id > cursor)
    end = max([*listed[-1:], settled or 0, missing.to_trade_id if missing is not None else 0])
    problems: list[Problem] = []
    expected = cursor + 1
    for found in [*listed, end + 1]:
        for first, last in _undeclared(expected, found - 1, missing):
            problems.append((Kind.TRADE_GAP, f"trades {first} to {last} are missing in a snapshot, undeclared"))
        expected = max(expected, found + 1)
    return problems


def _undeclared(first: int, last: int, missing: Missing | None) -> list[tuple[int, int]]:
    """What of a range is not declared missing."""
    if missing is None:
        ranges = [(first, last)]
    else:
        ranges = [(first, min(last, missing.from_trade_id - 1)), (max(first, missing.to_trade_id + 1), last)]
    return [(low, high) for low, high in ranges if low <= high]
