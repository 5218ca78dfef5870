"""Which positions of a stream an archive holds, and what is missing between the first and the last of them. Pure.

A segment reaches from its *base* to its last position: everything after the base is in it. The base is the position
before its first increment, or that of the snapshot it begins with; of an epoch's opening, which is a message that must
be there itself, it is OPENING. Segments may overlap (two writers), and come in any order.

What lies before the first position is no gap: there the archive begins, or retention has been.
"""

from collections.abc import Iterator
from typing import NamedTuple

from lfmesh.types import Position, StreamKey

UNKNOWN = Position(0, 0)
OPENING = -1


class Piece(NamedTuple):
    """What a segment covers: seq `base` + 1 to `last` of `epoch`; times in ns.

    `previous` is where the stream stood before the snapshot at the base; UNKNOWN where that is not known, or the
    segment begins without a snapshot.
    """

    epoch: int
    base: int
    last: int
    previous: Position
    first_ts: int
    last_ts: int


class Gap(NamedTuple):
    """Messages that are not there: those after `after`, up to `until` (both positions), in the time from `after_ts` to
    `until_ts` (ns, the stream's time). `messages` is how many, None where nobody can know."""

    stream: StreamKey
    after: Position
    until: Position
    after_ts: int
    until_ts: int

    @property
    def messages(self) -> int | None:
        """How many are missing, None where that is not known."""
        return self.until.seq - self.after.seq if self.until.epoch == self.after.epoch else None


class _Epoch:
    """One epoch's pieces, merged where they touch or overlap; sorted."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def add(self, piece: Piece) -> None:
        pieces = self.pieces
        at = len(pieces)
        while at and pieces[at - 1].base > piece.base:  # nearly always it belongs at the end
            at -= 1
        if at and pieces[at - 1].last >= piece.base:
            at -= 1
            piece = _joined(pieces.pop(at), piece)
        while at < len(pieces) and pieces[at].base <= piece.last:
            piece = _joined(piece, pieces.pop(at))
        pieces.insert(at, piece)

    @property
    def first(self) -> Piece:
        return self.pieces[0]

    @property
    def last(self) -> Piece:
        return self.pieces[-1]


class Coverage:
    """What is known of one stream. Memory: one piece an epoch, and one more a gap."""

    def __init__(self, stream: StreamKey) -> None:
        self.stream = stream
        self._epochs: dict[int, _Epoch] = {}

    def add(self, piece: Piece) -> None:
        """A segment."""
        self._epochs.setdefault(piece.epoch, _Epoch()).add(piece)

    @property
    def epochs(self) -> int:
        """How many epochs there are."""
        return len(self._epochs)

    @property
    def unproven(self) -> int:
        """How many epochs after the first begin without word of where the stream stood before: that nothing is missing
        there can't be shown, nor that something is."""
        return sum(epoch.first.base == OPENING and epoch.first.previous == UNKNOWN for epoch in self._in_order()[1:])

    def gaps(self) -> Iterator[Gap]:
        """Everything that is missing, in order of time."""
        before: _Epoch | None = None
        for epoch in self._in_order():
            if before is not None:
                yield from self._between(before.last, epoch.first)
            for left, right in zip(epoch.pieces, epoch.pieces[1:], strict=False):
                yield self._gap(left, Position(right.epoch, right.base), right)
            before = epoch

    def _in_order(self) -> list[_Epoch]:
        return sorted(self._epochs.values(), key=lambda epoch: (epoch.first.first_ts, epoch.first.epoch))

    def _between(self, left: Piece, right: Piece) -> Iterator[Gap]:
        """What is missing of the end of one epoch and of the beginning of the next."""
        if right.base != OPENING:
            yield self._gap(left, Position(right.epoch, right.base), right)
            return
        previous = right.previous
        if previous == UNKNOWN:
            return
        known = self._epochs.get(previous.epoch)
        if known is None:
            yield self._gap(left, previous, right)
        elif known.last.last < previous.seq:
            yield self._gap(known.last, previous, right)

    def _gap(self, left: Piece, until: Position, right: Piece) -> Gap:
        return Gap(self.stream, Position(left.epoch, left.last), until, left.last_ts, right.first_ts)


def _joined(left: Piece, right: Piece) -> Piece:
    """Two pieces that touch or overlap, the left one with the lower base."""
    previous = left.previous if left.previous != UNKNOWN or left.base < right.base else right.previous
    later = max(left, right, key=lambda piece: piece.last)
    first_ts = min(left.first_ts, right.first_ts)
    return Piece(left.epoch, left.base, later.last, previous, first_ts, later.last_ts)
