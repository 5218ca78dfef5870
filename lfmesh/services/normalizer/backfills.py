"""Which missing trades to ask for over REST, of whom, and when. Pure.

What a product misses, it knows itself (`Product.backfill_wanted`); here is remembered what was asked already. A range
is asked for once at a time. When its pages have left ids open it is asked for again after a pause that doubles, and of
the next ingestor in turn; so it is when nothing has come of a request for too long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lfmesh.core.hold import Missing
from lfmesh.core.sharding import stable_id

FIRST_PAUSE_NS = 500_000_000
LOST_AFTER_NS = 3_000_000_000
"""A request of which no page has come for so long is taken for lost."""
MOST_IDS = 10_000
"""One request asks for so many trades at most; those after them are asked for when these have come."""
MOST_RANGES = 16
"""So many ranges of a product are asked for at once, the oldest."""


class Ask(NamedTuple):
    """One request, for the ingestors to ask one after the other until one takes it."""

    product: str
    first: int
    last: int
    ingestors: list[int]


@dataclass(slots=True, eq=False)
class _Asked:
    first: int
    last: int
    at: int
    turn: int
    answered: bool = False


class Backfills:
    """What was asked, by product."""

    def __init__(self) -> None:
        self._asked: dict[str, list[_Asked]] = {}
        self.products: set[str] = set()

    def want(self, product: str) -> None:
        """The product misses trades: ask it which."""
        self.products.add(product)

    def settle(self, product: str) -> None:
        """It misses none any more."""
        self.products.discard(product)
        self._asked.pop(product, None)

    def came(self, product: str, first: int, last: int, now: int, *, complete: bool) -> None:
        """A page has come of the request for these ids."""
        for asked in self._asked.get(product, ()):
            if asked.first <= last and first <= asked.last:
                asked.at = now
                asked.answered = asked.answered or complete

    def due(self, now: int, product: str, missing: Sequence[Missing], ingestors: Sequence[int]) -> list[Ask]:
        """What to ask now for these missing trades; it counts as asked. `ingestors`: who brings the product."""
        if not ingestors:
            return []
        known = self._asked.setdefault(product, [])
        asks = []
        still = []
        for gap in missing[:MOST_RANGES]:
            first, last = gap.first, min(gap.last, gap.first + MOST_IDS - 1)
            asked = next((one for one in known if one.first <= last and first <= one.last), None)
            if asked is None:
                asked = _Asked(first, last, now, 0)
            else:
                if asked not in still:
                    still.append(asked)
                pause = FIRST_PAUSE_NS << asked.turn if asked.answered else LOST_AFTER_NS
                if now - asked.at < pause:
                    continue
                still.remove(asked)
                asked = _Asked(first, last, now, asked.turn + 1)
            still.append(asked)
            start = (asked.turn + stable_id(product)) % len(ingestors)  # a loss of many is shared among the lines
            asks.append(Ask(product, first, last, [*ingestors[start:], *ingestors[:start]]))
        self._asked[product] = still
        return asks
