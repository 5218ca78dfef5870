"""How long it takes from a tick's publication to its being stored, pure.

All changed tickers are taken for one batch together, so the ticks since the last batch are stored with this one. Of
each batch some samples are kept, spread evenly over its ticks, for the last `WINDOW_NS`.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

WINDOW_NS = 60_000_000_000
_PER_BATCH = 32
_MAX_PENDING = 4096


class Percentiles(NamedTuple):
    """In ms; None while there is nothing to tell."""

    p50_ms: float | None
    p99_ms: float | None


class StoreLatency:
    """Ticks are noted by the time of their publication (ns)."""

    def __init__(self) -> None:
        self._pending: list[int] = []
        self._stride = 1
        self._skipped = 0
        self._samples: deque[tuple[int, list[int]]] = deque()

    def published(self, ts_publish: int) -> None:
        """A tick has come."""
        self._skipped += 1
        if self._skipped < self._stride:
            return
        self._skipped = 0
        self._pending.append(ts_publish)
        if len(self._pending) >= _MAX_PENDING:  # the store is down, or very slow
            self._pending = self._pending[::2]
            self._stride *= 2

    def take(self) -> Sequence[int]:
        """The ticks that are being written now, to be given to `stored`, or `again` if that failed."""
        taken, self._pending = self._pending, []
        self._stride, self._skipped = 1, 0
        return taken

    def again(self, taken: Sequence[int]) -> None:
        """They were not written, and go with the next batch."""
        self._pending = [*taken, *self._pending]
        while len(self._pending) >= _MAX_PENDING:
            self._pending = self._pending[::2]
            self._stride *= 2

    def stored(self, taken: Sequence[int], now: int) -> None:
        """They are stored."""
        if not taken:
            return
        step = max(1, len(taken) // _PER_BATCH)
        self._samples.append((now, [now - one for one in taken[step // 2 :: step]]))
        self._expire(now)

    def percentiles(self, now: int) -> Percentiles:
        """Of the last `WINDOW_NS`."""
        self._expire(now)
        found = sorted(one for _, batch in self._samples for one in batch)
        if not found:
            return Percentiles(None, None)
        last = len(found) - 1
        return Percentiles(found[last // 2] / 1e6, found[(last * 99) // 100] / 1e6)

    def _expire(self, now: int) -> None:
        while self._samples and not 0 <= now - self._samples[0][0] <= WINDOW_NS:
            self._samples.popleft()
