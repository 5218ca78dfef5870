"""Hashes of state, by which two pictures of the market are compared without shipping either.

`TradeHash` covers the ordered trades of one product. The exchange simulator computes it over what it sent and the
mesh over what it passed on: equal digests mean that every trade came, once, in order, digit for digit.

`state_hash` covers whole products: book, last trade, best bid and ask, and the ordered trades. Positions, epochs and
times are no part of it, so that two runs of one tape have the same hash.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from lfmesh.types import Level


class TradeHash:
    """SHA-256 over the lines `{trade_id},{px},{qty},{taker side}\\n` of a product's trades, in order.

    `px` and `qty` enter as the venue's texts: `1.5` and `1.50` are different trades. A venue's `last_match` is a
    position and no trade of this run, so it is not added.
    """

    __slots__ = ("_sha", "count")

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.count = 0

    def add(self, trade_id: int, px: str, qty: str, side: str) -> None:
        """Append one trade; `side` is the taker's, "buy" or "sell"."""
        self._sha.update(f"{trade_id},{px},{qty},{side}\n".encode())
        self.count += 1

    def hexdigest(self) -> str:
        """The hash of the trades so far; more may be added after it."""
        return self._sha.hexdigest()


class CountedHash(Protocol):
    """The hash of so many ordered trades."""

    @property
    def count(self) -> int:
        """How many."""

    def hexdigest(self) -> str:
        """`TradeHash` of them, in hex."""


class ProductState(NamedTuple):
    """One product's picture: levels best first, last trade as (trade_id, px, qty, taker side), None where unknown."""

    product: str
    bids: Sequence[Level]
    asks: Sequence[Level]
    last_trade: tuple[int, str, str, str] | None
    best_bid: Level | None
    best_ask: Level | None
    trades: CountedHash | None


def state_hash(products: Iterable[ProductState]) -> str:
    """SHA-256, in hex, over these ASCII lines (each ended by `\\n`) of each product, products in order of their ids:

        product <id>
        bid <px> <qty>                             one a level, best first
        ask <px> <qty>                             one a level, best first
        last_trade <trade_id> <px> <qty> <side>
        best_bid <px> <qty>
        best_ask <px> <qty>
        trades <count> <TradeHash>                 the ordered trades' id, px, qty, side

    An unknown last trade or best price is the word alone, an unknown size is left out, no trades channel counts as no
    trades. Prices and sizes are the venue's texts. Nothing else enters: no position, no time.
    """
    sha = hashlib.sha256()
    for state in sorted(products, key=lambda state: state.product):
        trades = state.trades or TradeHash()
        lines = [
            ("product", state.product),
            *[("bid", *level) for level in state.bids],
            *[("ask", *level) for level in state.asks],
            ("last_trade", *map(str, state.last_trade or ())),
            ("best_bid", *(state.best_bid or ())),
            ("best_ask", *(state.best_ask or ())),
            ("trades", str(trades.count), trades.hexdigest()),
        ]
        sha.update("".join(" ".join(filter(None, line)) + "\n" for line in lines).encode("ascii"))
    return sha.hexdigest()
