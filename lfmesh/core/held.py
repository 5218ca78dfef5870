"""Units of a stream that can't be applied yet, held back in bounds of number and bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lfmesh.types import Position


@dataclass(slots=True)
class Allowance:
    """Bytes that several followers together may hold back."""

    max_bytes: int
    used: int = 0

    def take(self, size: int) -> bool:
        """Reserve so many, if they are left."""
        if self.used + size > self.max_bytes:
            return False
        self.used += size
        return True


@dataclass(slots=True)
class Unit[T]:
    """What takes a stream from just after `after` to `last` (a snapshot: from anywhere to `last`) of an epoch."""

    epoch: int
    after: int
    last: int
    snapshot: bool
    previous: Position | None
    items: Sequence[T]


class Held[T]:
    """At most so many items, and bytes of them (`size_of` tells one's; None: bytes are not counted)."""

    __slots__ = ("_allowance", "_max_bytes", "_max_items", "_size_of", "_units", "bytes", "items")

    def __init__(
        self, max_items: int, max_bytes: int, size_of: Callable[[T], int] | None, allowance: Allowance | None
    ) -> None:
        self.items = 0
        self.bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._allowance = allowance
        self._units: list[tuple[Unit[T], int]] = []

    def __bool__(self) -> bool:
        return bool(self._units)

    @property
    def newest(self) -> int:
        """The highest number held, 0 without any."""
        return max((unit.last for unit, _ in self._units), default=0)

    def add(self, unit: Unit[T]) -> bool:
        """Hold it back; False if that is past a bound."""
        count = len(unit.items)
        size = sum(map(self._size_of, unit.items)) if self._size_of is not None else 0
        if self.items + count > self._max_items or self.bytes + size > self._max_bytes:
            return False
        if self._allowance is not None and not self._allowance.take(size):
            return False
        self._units.append((unit, size))
        self.items += count
        self.bytes += size
        return True

    def sift(self, gone: Callable[[Unit[T]], bool]) -> int:
        """Offer the units in order, let go those that are `gone` then; returns how many items those were."""
        before = self.items
        units, self._units = sorted(self._units, key=lambda held: (held[0].epoch, held[0].last)), []
        for unit, size in units:
            if gone(unit):
                self.items -= len(unit.items)
                self.bytes -= size
                if self._allowance is not None:
                    self._allowance.used -= size
            else:
                self._units.append((unit, size))
        return before - self.items
