"""One side of a book as the texts `[px,qty]` that it was published with, best first.

A book is loaded whole now and then (several MB), and changed at few places between two looks at it. So a load only
cuts the texts apart, a change is only noted, and a look merges the changes in: by bisection, which reads the few prices
that it meets, or, where there are many changes for the size of the side, by reading all prices once, which are then
kept beside the levels.
"""

from bisect import bisect_left
from collections.abc import Iterable

from lfmesh.errors import BadMeshFrame
from lfmesh.exact import scaled

_NOTED_CHANGES = 8192


class LevelTexts:
    """`sign` is 1 where the lowest price is the best (asks), -1 where the highest is (bids).

    BadMeshFrame when a text that is looked at is no level.
    """

    __slots__ = ("_changes", "_keys", "_levels", "_sign")

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._levels: list[bytes] = []
        self._keys: list[int] | None = []
        self._changes: dict[int, bytes | None] = {}

    @property
    def size(self) -> int:
        """How many levels there are, about: changes that were not merged yet count as levels."""
        return len(self._levels) + len(self._changes)

    def load(self, levels: Iterable[bytes]) -> None:
        """Be these levels: best first, each price once, no size of zero."""
        self._levels = list(levels)
        self._keys = None
        self._changes = {}

    def change(self, levels: Iterable[bytes]) -> None:
        """Set absolute sizes; zero removes the level, also one that is not there."""
        changes = self._changes
        for level in levels:
            _, comma, qty = level.partition(b",")
            if not comma:
                raise BadMeshFrame(f"not a level: {level[:80]!r}")
            changes[self._key(level)] = level if qty.strip(b"0.]") else None
        if len(changes) > _NOTED_CHANGES:
            self.merged()

    def merged(self) -> list[bytes]:
        """All levels, best first; not to be changed by the caller."""
        changes = self._changes
        if not changes:
            return self._levels
        if self._keys is None and len(changes) * len(self._levels).bit_length() > len(self._levels):
            self._keys = list(map(self._key, self._levels))
        if self._keys is not None and len(changes) * 4 > len(self._levels):
            self._merge_by_sorting(self._keys)
        else:
            self._merge_by_bisection()
        self._changes = {}
        return self._levels

    def _merge_by_sorting(self, keys: list[int]) -> None:
        merged: dict[int, bytes | None] = dict(zip(keys, self._levels, strict=True))
        merged.update(self._changes)
        found = [(key, level) for key, level in merged.items() if level is not None]
        found.sort()
        self._keys = [key for key, _ in found]
        self._levels = [level for _, level in found]

    def _merge_by_bisection(self) -> None:
        old, keys = self._levels, self._keys
        levels: list[bytes] = []
        new_keys: list[int] = []
        at = 0
        for key in sorted(self._changes):
            level = self._changes[key]
            if keys is not None:
                place = bisect_left(keys, key, at)
                there = place < len(keys) and keys[place] == key
                new_keys += keys[at:place]
                if level is not None:
                    new_keys.append(key)
            else:
                place = bisect_left(old, key, at, key=self._key)
                there = place < len(old) and self._key(old[place]) == key
            levels += old[at:place]
            if level is not None:
                levels.append(level)
            at = place + there
        self._levels = levels + old[at:]
        self._keys = None if keys is None else new_keys + keys[at:]

    def _key(self, level: bytes) -> int:
        """The price in units of 10**-18, negated on the bid side: the lowest key is the best price."""
        try:
            return self._sign * scaled(level[1 : level.index(b",")].decode())
        except ValueError as error:
            raise BadMeshFrame(f"not a level: {level[:80]!r}") from error
