"""Terms: who may speak for a shard.

Each start and each take-over of a normalizer raises its shard's term, and the term is in every frame and beacon. Who
remembers the highest one and ignores the lower ones can't be harmed by a process that was thought dead and wakes up.
"""

from typing import Literal

Verdict = Literal["same", "newer", "stale"]
"""same: the publisher we know; newer: another one has taken over, from this message on; stale: ignore the message."""


class Fence:
    """The highest term seen of one shard. Terms are integers from 1; 0 means that none is known yet."""

    __slots__ = ("_highest",)

    def __init__(self, highest: int = 0) -> None:
        self._highest = highest

    @property
    def highest(self) -> int:
        """The term that is in force; 0 before the first."""
        return self._highest

    def admit(self, term: int) -> Verdict:
        """What a message of this term is; a newer term is in force from now on."""
        if term == self._highest:
            return "same"
        if term < self._highest:
            return "stale"
        self._highest = term
        return "newer"
