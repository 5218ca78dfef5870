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
    """The highest term seen of one shard, and whose it is. Terms and instance ids are integers from 1; 0: unknown.

    Both are plain attributes, to be read only, since each message is held against them.
    """

    __slots__ = ("highest", "instance")

    def __init__(self, highest: int = 0) -> None:
        self.highest = highest
        """The term that is in force; 0 before the first."""
        self.instance = 0
        """Who speaks under it; 0 before its first message."""

    def admit(self, term: int, instance: int = 0) -> Verdict:
        """What a message of this term and instance is; a newer publisher is in force from now on."""
        if term == self.highest:
            known = self.instance
            if instance == known or not instance:
                return "same"
            if instance < known:
                return "stale"
            self.instance = instance
            return "newer" if known else "same"
        if term < self.highest:
            return "stale"
        self.highest = term
        self.instance = instance
        return "newer"
