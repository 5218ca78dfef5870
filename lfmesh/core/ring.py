"""A bounded replay ring over many streams: what a publisher can give again.

Entries are whole published units (a frame with `count` consecutive numbers, or a snapshot: one that opens an epoch, or
one that took the place of lost increments), kept in the order of publication and evicted oldest first, whatever their
stream, when the bytes or the age exceed the bound. The payload is opaque: the normalizer keeps market-data frames, the
ingestor raw batches, the gateway WebSocket frames.

What is retained of a stream is one chain without a hole, so that each answer is gapless up to the newest entry:

    increments continue the entry before them in its epoch
    a snapshot names as its `previous` the position of the entry before it (and is ahead of that)

An entry that does not continue the chain starts a new one: what was retained before it leads nowhere and is dropped.
Positions grow along a chain, so that the place of one is found by halving.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple, overload

from lfmesh.types import Position

_COMPACT_AT = 256
"""Evicted places at the front of a stream's list are given back when they are so many, and half of it."""


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


_new = tuple.__new__
_GONE: Entry[Any] = Entry(0, 0, 0, False, None, None, 0, 0)


class _Chain[K, T]:
    """One stream: `entries[start:]` are retained; before them are places of evicted ones."""

    __slots__ = ("dead", "entries", "key", "start")

    def __init__(self, key: K) -> None:
        self.key = key
        self.entries: list[Entry[T]] = []
        self.start = 0
        self.dead = False


class Retained[T](Sequence[Entry[T]]):
    """Entries of one stream in order, looked up as they are read: valid until the ring is changed."""

    __slots__ = ("_end", "_entries", "_first")

    def __init__(self, entries: list[Entry[T]], first: int) -> None:
        self._entries = entries
        self._first = first
        self._end = len(entries)

    def __len__(self) -> int:
        return self._end - self._first

    @overload
    def __getitem__(self, index: int) -> Entry[T]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry[T]]: ...
    def __getitem__(self, index: int | slice) -> Entry[T] | list[Entry[T]]:
        here = range(self._first, self._end)[index]
        return self._entries[here] if isinstance(here, int) else [self._entries[one] for one in here]

    def __iter__(self) -> Iterator[Entry[T]]:
        for first in range(self._first, self._end, _COMPACT_AT):
            yield from self._entries[first : min(first + _COMPACT_AT, self._end)]


class ReplayRing[K: Hashable, T]:
    """Bounded by `max_bytes` in all and `max_age_ns` an entry; 0 for the age means no bound by age."""

    def __init__(self, max_bytes: int, max_age_ns: int = 0) -> None:
        self._max_bytes = max_bytes
        self._max_age_ns = max_age_ns
        self._chains: dict[K, _Chain[K, T]] = {}
        self._order: deque[_Chain[K, T]] = deque()
        self._dead = 0
        self._bytes = 0
        self._evicted = 0

    def append(  # noqa: PLR0913 - one unit, all of its facts
        self, key: K, epoch: int, first_seq: int, count: int, payload: T, *, size: int, now: int,
        snapshot: bool = False, previous: Position | None = None,
    ) -> None:  # fmt: skip
        """Retain one unit; `count` numbers from first_seq on (for a snapshot: its position, count 1)."""
        last_seq = first_seq + count - 1
        chain = self._chains.get(key)
        if chain is None:
            chain = self._begin(key)
        else:
            newest = chain.entries[-1]
            if (newest.last_seq + 1 != first_seq or newest.epoch != epoch or snapshot) and not _continues(
                newest, Position(epoch, first_seq), last_seq, previous, snapshot=snapshot
            ):
                self.forget(key)
                chain = self._begin(key)
        # As the class's own constructor does, in half its time.
        chain.entries.append(_new(Entry, (epoch, first_seq, last_seq, snapshot, previous, payload, size, now)))
        self._order.append(chain)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._evict_oldest()

    def extend(self, key: K, last: Position, count: int, payload: T, size: int, now: int) -> None:
        """`append` of increments, `count` of them up to `last`, in the usual case in half its time."""
        epoch, last_seq = last
        chain = self._chains.get(key)
        if chain is not None:
            entries = chain.entries
            newest = entries[-1]
            if newest[0] == epoch and newest[2] + count == last_seq:
                entries.append(_new(Entry, (epoch, last_seq - count + 1, last_seq, False, None, payload, size, now)))
                self._order.append(chain)
                self._bytes += size
                while self._bytes > self._max_bytes:
                    self._evict_oldest()
                return
        self.append(key, epoch, last_seq - count + 1, count, payload, size=size, now=now)

    def expire(self, now: int) -> None:
        """Evict what is older than the age bound."""
        if not self._max_age_ns:
            return
        horizon = now - self._max_age_ns
        order = self._order
        while order:
            chain = order[0]
            if not chain.dead and chain.entries[chain.start].at >= horizon:
                break
            self._evict_oldest()

    @overload
    def since(self, key: K, position: Position) -> Sequence[Entry[T]] | None: ...
    @overload
    def since(self, key: K, position: Position, max_bytes: int) -> list[Entry[T]] | None: ...
    def since(self, key: K, position: Position, max_bytes: int | None = None) -> Sequence[Entry[T]] | None:
        """Everything retained after `position`, gapless, or None where that can't be served.

        With `max_bytes` a list that ends with the entry with which they are reached (0: no bound), without it a view
        that costs nothing however much it shows, to be read before the ring is changed.

        Servable: the position is the newest one (nothing comes after it); or the next number of its epoch is retained;
        or a snapshot is retained before which the stream stood there, or (when it opened an epoch) not yet: who stands
        beyond the end of an epoch has heard more of it than the publisher that went on from there, and misses nothing.
        """
        chain = self._chains.get(key)
        if chain is None:
            return None
        entries = chain.entries
        first = bisect_right(entries, position, chain.start, key=_end)
        if first == len(entries):
            return [] if _end(entries[-1]) == position else None
        oldest = entries[first]
        if oldest.snapshot:
            before = oldest.previous
            gapless = before == position or (
                before is not None
                and before.epoch == position.epoch
                and before.epoch < oldest.epoch
                and before < position
            )
        else:
            gapless = oldest.epoch == position.epoch and oldest.first_seq <= position.seq + 1
        if not gapless:
            return None
        return _taken(Retained(entries, first), max_bytes)

    @overload
    def oldest_since(self, key: K, position: Position) -> Sequence[Entry[T]]: ...
    @overload
    def oldest_since(self, key: K, position: Position, max_bytes: int) -> list[Entry[T]]: ...
    def oldest_since(self, key: K, position: Position, max_bytes: int | None = None) -> Sequence[Entry[T]]:
        """As `since`, but from the oldest entry on that is after `position` where those before it are gone."""
        chain = self._chains.get(key)
        if chain is None:
            return []
        first = bisect_right(chain.entries, position, chain.start, key=_end)
        return _taken(Retained(chain.entries, first), max_bytes)

    def retained(self, key: K) -> Sequence[Entry[T]]:
        """Everything retained of a stream, oldest first. To be read before the ring is changed."""
        chain = self._chains.get(key)
        return [] if chain is None else Retained(chain.entries, chain.start)

    def from_seq(self, key: K, seq: int) -> Position | None:
        """The full position for a bare seq, if only a single epoch of the stream is retained."""
        chain = self._chains.get(key)
        if chain is None or chain.entries[chain.start].epoch != chain.entries[-1].epoch:
            return None
        return Position(chain.entries[-1].epoch, seq)

    def newest(self, key: K) -> Position | None:
        """Where the stream stands, if anything of it is retained."""
        chain = self._chains.get(key)
        return None if chain is None else _end(chain.entries[-1])

    def oldest(self, key: K) -> Position | None:
        """The first position retained of the stream."""
        chain = self._chains.get(key)
        if chain is None:
            return None
        entry = chain.entries[chain.start]
        return Position(entry.epoch, entry.first_seq)

    def forget(self, key: K) -> None:
        """Drop everything of a stream: what its publisher had said is void."""
        chain = self._chains.pop(key, None)
        if chain is None:
            return
        live = chain.entries[chain.start :]
        self._bytes -= sum(entry.size for entry in live)
        chain.dead = True
        chain.entries = []
        # Its places in the order are skipped when they come up, or swept when they are the most.
        self._dead += len(live)
        if self._dead > len(self._order) // 2:
            self._order = deque(place for place in self._order if not place.dead)
            self._dead = 0

    def statistics(self) -> RingStatistics:
        """What the ring holds."""
        return RingStatistics(len(self._order) - self._dead, self._bytes, self._evicted)

    def _begin(self, key: K) -> _Chain[K, T]:
        chain = self._chains[key] = _Chain(key)
        return chain

    def _evict_oldest(self) -> None:
        # The order of chains is the order of appends, so the head's oldest entry is the oldest of all.
        chain = self._order.popleft()
        if chain.dead:
            self._dead -= 1
            return
        entries, start = chain.entries, chain.start
        self._bytes -= entries[start].size
        self._evicted += 1
        entries[start] = _GONE  # its payload is to be freed now
        chain.start = start = start + 1
        if start == len(entries):
            del self._chains[chain.key]
        elif start >= _COMPACT_AT and start * 2 >= len(entries):
            del entries[:start]
            chain.start = 0


def _end(entry: Entry[Any]) -> Position:
    return _new(Position, (entry[0], entry[2]))


def _continues(
    newest: Entry[Any], first: Position, last_seq: int, previous: Position | None, *, snapshot: bool
) -> bool:
    """Whether the next entry of a chain fits, in any but the most frequent way."""
    if snapshot:
        return previous == _end(newest) and previous < first
    return first.epoch == newest.epoch and first.seq <= newest.last_seq + 1 and last_seq > newest.last_seq


def _taken[T](entries: Retained[T], max_bytes: int | None) -> Sequence[Entry[T]]:
    if max_bytes is None:
        return entries
    if not max_bytes:
        return list(entries)
    taken, size = [], 0
    for entry in entries:
        taken.append(entry)
        size += entry.size
        if size >= max_bytes:
            break
    return taken
