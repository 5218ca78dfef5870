"""Which spans of a stream's tape to read, and from where in each, so that every position comes once. Pure.

Two snapshotters archive the same stream, and a span can be in the journal and in the store at once: spans overlap. What
is the same position is the same message, so whoever wrote it will do. Epochs are ordered by time, as the archive is;
within an epoch spans are taken by their first position, and only what is new of each.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from lfmesh.core.archive import SegmentName
from lfmesh.types import Position

NOWHERE = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Span[S]:
    """Lines of one stream and epoch without a hole: a segment, or a run in a journal; times in ns, both inclusive.

    `opens`: it begins with a snapshot at `first_seq` (in as many lines as it has parts); None: only its text tells.
    `previous`: where the stream stood before that snapshot, (0, 0) where it is unknown. `source`: what to read.
    """

    epoch: int
    first_seq: int
    last_seq: int
    first_ts: int
    last_ts: int
    opens: bool | None
    previous: Position
    source: S

    @property
    def first(self) -> Position:
        """Position of the first line."""
        return Position(self.epoch, self.first_seq)

    @property
    def last(self) -> Position:
        """Position of the last line."""
        return Position(self.epoch, self.last_seq)


class Piece[S](NamedTuple):
    """Read `span`; of its lines those after `after_seq` (None: all of them).

    `opens`: what is read begins with a snapshot, as far as names tell. `gap`: it does not, and positions before it are
    missing.
    """

    span: Span[S]
    after_seq: int | None
    opens: bool
    gap: bool


def span_of(name: SegmentName) -> Span[SegmentName]:
    """A segment as a span."""
    messages = name.last_seq - name.first_seq + 1
    opens: bool | None = None
    if name.first_seq == 0 or name.lines > messages or name.previous != NOWHERE:
        opens = True
    return Span(name.epoch, name.first_seq, name.last_seq, name.first_ts, name.last_ts, opens, name.previous, name)


def epochs_in_order[S](spans: Iterable[Span[S]]) -> list[tuple[int, list[Span[S]]]]:
    """The spans by epoch; epochs in the order of time (of their number where that is the same)."""
    found: dict[int, list[Span[S]]] = {}
    for span in spans:
        found.setdefault(span.epoch, []).append(span)
    return sorted(found.items(), key=lambda item: (min(span.first_ts for span in item[1]), item[0]))


def plan[S](
    spans: Iterable[Span[S]],
    looks: Callable[[Span[S]], bool],
    after: Position | None = None,
    done: Collection[int] = (),
) -> Iterator[Piece[S]]:
    """What to read, in order; only what follows the position `after`. Epochs in `done` are left out.

    `looks` tells whether a span begins with a snapshot, where its name does not. `after` in an epoch that has no span
    (any more) leaves nothing out: name such epochs in `done`.
    """
    epochs = [(epoch, found) for epoch, found in epochs_in_order(spans) if epoch not in done]
    if after is not None:
        begun = [number for number, (epoch, _) in enumerate(epochs) if epoch == after.epoch]
        epochs = epochs[begun[0] :] if begun else epochs
    for epoch, found in epochs:
        yield from _of_epoch(found, looks, after.seq if after is not None and after.epoch == epoch else None)


def _of_epoch[S](spans: list[Span[S]], looks: Callable[[Span[S]], bool], at: int | None) -> Iterator[Piece[S]]:
    """`at`: everything up to this seq is known."""
    ordered = sorted(spans, key=lambda span: (span.first_seq, -span.last_seq))
    for first, group in groupby(ordered, key=lambda span: span.first_seq):
        rivals = list(group)
        if at is None or first > at:
            goes_on = at is not None and first == at + 1
            span, opens = _preferred(rivals, looks, goes_on=goes_on)
            yield Piece(span, None, opens, gap=not opens and not goes_on)
            at = span.last_seq
        longest = rivals[0]
        if longest.last_seq > at:
            yield Piece(longest, at, opens=False, gap=False)
            at = longest.last_seq


def _preferred[S](rivals: list[Span[S]], looks: Callable[[Span[S]], bool], *, goes_on: bool) -> tuple[Span[S], bool]:
    """Of spans that begin at the same place, longest first, the one to read; and whether it begins with a snapshot.

    Where the next message is wanted, one that has it comes before one with a snapshot in its place; where messages are
    missing anyway, a snapshot comes first.
    """
    if goes_on and len(rivals) == 1:
        return rivals[0], bool(rivals[0].opens)
    known = [(span, looks(span) if span.opens is None else span.opens) for span in rivals]
    return next(((span, opens) for span, opens in known if opens is not goes_on), known[0])
