"""Hashes of state, by which two pictures of the market are compared without shipping either.

`TradeHash` covers the ordered trades of one product. The exchange simulator computes it over what it sent and the
mesh over what it passed on: equal digests mean that every trade came, once, in order, digit for digit.
"""

import hashlib


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
