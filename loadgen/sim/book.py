"""The model's order book in integers: one ladder of price levels a side."""

from bisect import bisect_left, insort
from collections.abc import Iterator


class Ladder:
    """One side of a book, its levels in order of quality.

    A level's key is its price in ticks on the bid side and the negated price on the ask side: on either side the
    greatest key is the best price, so the order flow is written once for both.
    """

    __slots__ = ("is_bid", "keys", "lots", "sign")

    def __init__(self, *, is_bid: bool) -> None:
        self.is_bid = is_bid
        self.sign = 1 if is_bid else -1
        self.keys: list[int] = []
        """Ascending; the best is the last."""
        self.lots: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def put(self, key: int, lots: int) -> None:
        """Set the level's absolute size; 0 removes it, and removing an absent level does nothing."""
        if lots:
            if key not in self.lots:
                insort(self.keys, key)
            self.lots[key] = lots
        elif self.lots.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]

    def best(self) -> tuple[int, int] | None:
        """(price in ticks, lots) of the best level, None on an empty side."""
        if not self.keys:
            return None
        key = self.keys[-1]
        return key * self.sign, self.lots[key]

    def levels(self) -> Iterator[tuple[int, int]]:
        """(price in ticks, lots), best first."""
        sign, lots = self.sign, self.lots
        for key in reversed(self.keys):
            yield key * sign, lots[key]
