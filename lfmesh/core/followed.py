"""One stream as a feed follows it, and who said what we hold of it."""

from dataclasses import dataclass

from lfmesh.core.codec import Header
from lfmesh.core.recovery import Follower
from lfmesh.types import StreamKey

_OVERTAKEN_NS = 2_000_000_000
"""No message is so late that a state on another socket could have overtaken it by as much."""

type Item = tuple[Header, bytes]
"""One message, as clients receive it, with the header of the frame it came in (term, input position, times)."""


@dataclass(slots=True, eq=False)
class Followed:
    """`term` is that of the newest unit applied, `instance` whose unit it was.

    A state does not say whose it is: then `instance` is 0, since the time `based_at`.
    """

    key: StreamKey
    follower: Follower[Item]
    term: int = 0
    instance: int = 0
    based_at: int = 0
    gapped: bool = False
    status: bytes = b""

    def said_by(self, term: int, instance: int) -> None:
        """A unit of theirs has been applied; one from before does not make what we hold older."""
        if term > self.term or (term == self.term and instance > self.instance):
            self.term, self.instance = term, instance

    def superseded(self, term: int, instance: int, now: int) -> bool:
        """True if they are a newer publisher than the one who said what we hold."""
        if term != self.term:
            return term > self.term
        if self.instance:
            return instance > self.instance
        # Of two with the same term it is the other one, unless the state has only overtaken this message.
        return now - self.based_at > _OVERTAKEN_NS

    def vouched(self, epoch: int) -> bool:
        """True in epochs in which whoever spoke said what holds: ours, and where the publisher in force stands."""
        at, seen = self.follower.position, self.follower.seen
        return (at is not None and at.epoch == epoch) or (seen is not None and seen.epoch == epoch)


def size_of(item: Item) -> int:
    """Bytes of an item, for bounds."""
    return len(item[1])
