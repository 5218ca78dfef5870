"""Terms: who may speak for a shard.

Each start and each take-over of a normalizer raises its shard's term, and the term is in every frame and beacon. Who
remembers the highest one and ignores the lower ones can't be harmed by a process that was thought dead and wakes up.

Two that took over at once, neither knowing of the other, may have made the same term. Then the higher instance id
speaks: everybody decides the same, whatever order the two were heard in.
"""

from typing import Literal

Verdict = Literal["same", "newer", "stale"]
"""same: the publisher we know; newer: another one has taken over, from this message on; stale: ignore the message."""


class Fence:
    """The highest term seen of one shard, and whose it is. Terms and instance ids are integers from 1; 0: unknown."""

    __slots__ = ("_highest", "_instance")

    def __init__(self, highest: int = 0) -> None:
        self._highest = highest
        self._instance = 0

    @property
    def highest(self) -> int:
        """The term that is in force; 0 before the first."""
        return self._highest

    @property
    def instance(self) -> int:
        """Who speaks under it; 0 before its first message."""
        return self._instance

    def admit(self, term: int, instance: int = 0) -> Verdict:
        """What a message of this term and instance is; a newer publisher is in force from now on."""
        if term == self._highest:
            known = self._instance
            if instance == known or not instance:
                return "same"
            if instance < known:
                return "stale"
            self._instance = instance
            return "newer" if known else "same"
        if term < self._highest:
            return "stale"
        self._highest = term
        self._instance = instance
        return "newer"
