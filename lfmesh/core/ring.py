"""A bounded replay ring over many streams: what a publisher can give again.

Entries are whole published units (a frame with `count` consecutive numbers, or the snapshot that opens an epoch),
kept
in the order of publication and evicted oldest first, whatever their stream, when the bytes or the age exceed the
bound.
The payload is opaque: the normalizer keeps market-data frames, the ingestor raw batches, the gateway WebSocket
frames.
"""

from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

from lfmesh.types import Position


class Entry[T](NamedTuple):
    """One retained unit: numbers first_seq … last_seq of an epoch, or (snapshot) the state at (epoch, last_seq).

    `previous` is where the stream stood before a snapshot, None where that is unknown.
    """

    epoch: int
    first_seq: int
    last_seq: int
    snapshot: bool
    previous: Position | None
    payload: T
    size: int
    at: int


class RingStatistics(NamedTuple):
    """What a ring holds now and has evicted since the start."""

    entries: int
    bytes: int
    evicted_total: int


class ReplayRing[K: Hashable, T]:
    """Bounded by `max_bytes` in all and `max_age_ns` an entry; 0 for the age means no bound by age."""

    def __init__(self, max_bytes: int, max_age_ns: int = 0) -> None:
        self._max_bytes = max_bytes
        self._max_age_ns = max_age_ns
        self._streams: dict[K, deque[Entry[T]]] = {}
        self._order: deque[K] = deque()
        self._bytes = 0
        self._evicted = 0

    def append(  # noqa: PLR0913 - one unit, all of its facts
        self, key: K, epoch: int, first_seq: int, count: int, payload: T, *, size: int, now: int,
        snapshot: bool = False, previous: Position | None = None,
    ) -> None:  # fmt: skip
        """Retain one unit; `count` numbers from first_seq on (for a snapshot: its position, count 1)."""
        entries = self._streams.get(key)
        if entries is None:
            entries = self._streams[key] = deque()
        entries.append(Entry(epoch, first_seq, first_seq + count - 1, snapshot, previous, payload, size, now))
        self._order.append(key)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._evict_oldest()

    def expire(self, now: int) -> None:
        """Evict what is older than the age bound."""
        if not self._max_age_ns:
            return
        horizon = now - self._max_age_ns
        while self._order and self._streams[self._order[0]][0].at < horizon:
            self._evict_oldest()

    def since(self, key: K, position: Position) -> list[Entry[T]] | None:
        """Everything retained after `position`, gapless, or None where that can't be served.

        Servable: the position is the newest one (empty list); or the next number of its epoch is retained; or it is
        the last
        of its epoch and the snapshot that came after it is retained.
        """
        entries = self._streams.get(key)
        if not entries:
            return None
        newest = entries[-1]
        if (newest.epoch, newest.last_seq) == position:
            return []
        found: list[Entry[T]] = []
        for entry in reversed(entries):
            if entry.epoch < position.epoch or (entry.epoch == position.epoch and entry.last_seq <= position.seq):
                break
            found.append(entry)
        if not found:
            return None
        found.reverse()
        oldest = found[0]
        if oldest.epoch == position.epoch:
            return found if oldest.first_seq <= position.seq + 1 else None
        # The position's epoch is over: gapless only if the next snapshot followed exactly there.
        return found if oldest.snapshot and oldest.previous == position else None

    def from_seq(self, key: K, seq: int) -> Position | None:
        """The full position for a bare seq, if only a single epoch of the stream is retained."""
        entries = self._streams.get(key)
        if not entries or entries[0].epoch != entries[-1].epoch:
            return None
        return Position(entries[-1].epoch, seq)

    def newest(self, key: K) -> Position | None:
        """Where the stream stands, if anything of it is retained."""
        entries = self._streams.get(key)
        return Position(entries[-1].epoch, entries[-1].last_seq) if entries else None

    def oldest(self, key: K) -> Position | None:
        """The first position retained of the stream."""
        entries = self._streams.get(key)
        return Position(entries[0].epoch, entries[0].first_seq) if entries else None

    def forget(self, key: K) -> None:
        """Drop everything of a stream: what its publisher had said is void."""
        entries = self._streams.pop(key, None)
        if entries:
            self._order = deque(other for other in self._order if other != key)
            self._bytes -= sum(entry.size for entry in entries)

    def statistics(self) -> RingStatistics:
        """What the ring holds."""
        return RingStatistics(len(self._order), self._bytes, self._evicted)

    def _evict_oldest(self) -> None:
        # The order of keys is the order of appends, so the head key's oldest entry is the oldest of all.
        key = self._order.popleft()
        entries = self._streams[key]
        self._bytes -= entries.popleft().size
        self._evicted += 1
        if not entries:
            del self._streams[key]
