"""Comparison of what clients hold with what the exchange did. Pure.

`Ledger` is the exchange's trades as they happened. A client's trades are compared with it from the first one that the
client was told of to the last one that the exchange made: in order, each once, digit for digit.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lfmesh.types import Level
from loadgen.chaos.venue import ProductTruth
from loadgen.client.state import TradeLine

_SHOWN = 3


@dataclass(slots=True)
class Ledger:
    """Every trade of the exchange, by product, in the order of their ids. `forget` bounds it."""

    trades: dict[str, list[TradeLine]] = field(default_factory=dict)

    def add(self, product: str, trades: Iterable[TradeLine]) -> None:
        """Trades that happened after those that are known; ValueError for any other."""
        known = self.trades.setdefault(product, [])
        for trade in trades:
            if known and trade.trade_id <= known[-1].trade_id:
                raise ValueError(f"{product}: trade {trade.trade_id} after {known[-1].trade_id}")
            known.append(trade)

    def forget(self, keep: int) -> None:
        """Keep the latest trades of each product only."""
        for trades in self.trades.values():
            del trades[:-keep]

    def last_id(self, product: str) -> int:
        """The newest id; 0 before the first."""
        known = self.trades.get(product)
        return known[-1].trade_id if known else 0

    def between(self, product: str, first: int, last: int) -> list[TradeLine]:
        """The trades whose ids are from `first` to `last`, both included."""
        known = self.trades.get(product, [])
        start = bisect_left(known, first, key=lambda trade: trade.trade_id)
        return known[start : bisect_left(known, last + 1, key=lambda trade: trade.trade_id)]


@dataclass(slots=True)
class Findings:
    """What is wrong with one client, or with all: numbers for the table, and the first of each in words.

    `lost`: trades of the exchange that never came, declared ones included; `undeclared`: those of them that nobody
    declared; `repeated`: trades that came twice or out of order; `altered`: with other values than the exchange's, or
    trades that it never made; `books`, `tickers`: products whose state is not the exchange's.
    """

    lost: int = 0
    undeclared: int = 0
    repeated: int = 0
    altered: int = 0
    books: int = 0
    tickers: int = 0
    words: list[str] = field(default_factory=list)

    def merge(self, other: "Findings") -> None:
        """Add another's."""
        self.lost += other.lost
        self.undeclared += other.undeclared
        self.repeated += other.repeated
        self.altered += other.altered
        self.books += other.books
        self.tickers += other.tickers
        self.words += other.words

    def __bool__(self) -> bool:
        return bool(self.lost or self.undeclared or self.repeated or self.altered or self.books or self.tickers)


def compare_trades(
    who: str,
    product: str,
    held: Sequence[TradeLine],
    declared: Iterable[tuple[int, int]],
    ledger: Ledger,
    after: int,
    until: int | None = None,
) -> Findings:
    """A client's trades of a product, from the id after `after` to `until` (None: the exchange's last one).

    `held` are in the order in which they came; those at or below `after` have been compared before, and are left out.
    """
    found = Findings()
    newest = after
    by_id: dict[int, TradeLine] = {}
    for trade in held:
        if trade.trade_id <= newest:
            if trade.trade_id > after:
                found.repeated += 1
                by_id.setdefault(trade.trade_id, trade)
                _say(found, f"{who}: {product}: trade {trade.trade_id} after {newest}")
            continue
        newest = trade.trade_id
        by_id[newest] = trade
    gaps = [(max(first, after + 1), last) for first, last in declared if last > after]
    truth = ledger.between(product, after + 1, ledger.last_id(product) if until is None else until)
    missing: list[int] = []
    for trade in truth:
        mine = by_id.pop(trade.trade_id, None)
        if mine is None:
            missing.append(trade.trade_id)
        elif mine != trade:
            found.altered += 1
            _say(found, f"{who}: {product}: {tuple(mine)} was {tuple(trade)} at the exchange")
    for trade_id in by_id:
        found.altered += 1
        _say(found, f"{who}: {product}: trade {trade_id} was never made")
    found.lost = len(missing)
    undeclared = [one for one in missing if not any(first <= one <= last for first, last in gaps)]
    found.undeclared = len(undeclared)
    if missing:
        which = f"{missing[0]} to {missing[-1]}" if len(missing) > 1 else f"{missing[0]}"
        told = "undeclared" if len(undeclared) == len(missing) else f"{len(undeclared)} of them undeclared"
        _say(found, f"{who}: {product}: {len(missing)} trades lost, {which}, {told if undeclared else 'declared'}")
    return found


def compare_state(
    who: str,
    truth: ProductTruth,
    book: tuple[Sequence[Level], Sequence[Level]] | None,
    best: tuple[Level | None, Level | None, int | None] | None,
) -> Findings:
    """A client's book (bids, asks) and ticker (best bid, best ask, last trade's id) while the market stands still.

    None for what the client does not follow.
    """
    found = Findings()
    if book is not None:
        for name, mine, its in (("bids", book[0], truth.bids), ("asks", book[1], truth.asks)):
            if list(mine) != list(its):
                found.books = 1
                _say(found, f"{who}: {truth.product}: {_difference(name, mine, its)}")
    if best is not None:
        expected = (truth.best_bid, truth.best_ask, truth.last_trade_id)
        if best != expected:
            found.tickers = 1
            _say(found, f"{who}: {truth.product}: ticker {best}, at the exchange {expected}")
    return found


def _difference(name: str, mine: Sequence[Level], its: Sequence[Level]) -> str:
    held, true = dict(mine), dict(its)
    prices = [px for px in {**held, **true} if held.get(px) != true.get(px)]
    shown = "; ".join(f"{px}: {held.get(px)} for {true.get(px)}" for px in prices[:_SHOWN])
    return f"{name} differ from the exchange's at {len(prices)} of {len(true)} prices: {shown or 'their order'}"


def _say(found: Findings, words: str) -> None:
    if len(found.words) < 10 * _SHOWN:
        found.words.append(words)


def unreached(last_ids: Mapping[str, int], reached: Mapping[str, int | None]) -> list[str]:
    """Products whose trades have not come as far as the exchange's; both by product."""
    return [product for product, last in last_ids.items() if (reached.get(product) or 0) < last]
