"""level2_batch: a product's changes of 50 ms of model time in one l2update."""

from collections import deque
from collections.abc import Iterator

import msgspec

Change = tuple[bool, int, int]
"""(is_bid, price in ticks, lots)"""


class Batch(msgspec.Struct, frozen=True, gc=False):
    """What one product's levels became; `time` is that of the newest change."""

    index: int
    changes: list[Change]
    time: str


class Batches:
    """Collects changes by product; a batch opens with its first change and is due one interval later.

    A level that changes several times is in the batch once, with its last size. Times are model time in ns, so that
    batches depend on the seed and the rate, not on when the process was scheduled.
    """

    def __init__(self, product_count: int, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._pending: list[dict[int, int]] = [{} for _ in range(product_count)]
        self._times = [""] * product_count
        self._opened: deque[tuple[int, int]] = deque()

    def add(self, index: int, changes: tuple[Change, ...], at_ns: int, time: str) -> None:
        """Changes of a product at a model time; times never decrease."""
        pending = self._pending[index]
        if not pending:
            self._opened.append((at_ns + self._interval_ns, index))
        for is_bid, price, lots in changes:
            pending[price if is_bid else -price] = lots
        self._times[index] = time

    def due_ns(self) -> int | None:
        """The model time at which the next batch is due; None when nothing is pending."""
        return self._opened[0][0] if self._opened else None

    def take_due(self, until_ns: int | None) -> Iterator[Batch]:
        """Remove and return the batches due by a model time, in order; all of them for None."""
        opened = self._opened
        while opened and (until_ns is None or opened[0][0] <= until_ns):
            _, index = opened.popleft()
            pending, self._pending[index] = self._pending[index], {}
            changes = [(key > 0, abs(key), lots) for key, lots in pending.items()]
            yield Batch(index, changes, self._times[index])
