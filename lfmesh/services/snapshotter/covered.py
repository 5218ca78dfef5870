"""What the other one of a pair has stored already: who of the two holds it back need not upload it.

Both cut the same messages, at slightly different places. Of a segment that waits in our spool the positions count that
no stored segment of its stream and epoch covers; the rest is cut off.
"""

from collections.abc import Callable, Container, Iterable
from functools import partial
from itertools import groupby
from typing import NamedTuple

from lfmesh.archive.batches import begins_with_snapshot
from lfmesh.archive.merge import span_of
from lfmesh.archive.segments import narrow
from lfmesh.archive.spool import Spool
from lfmesh.core.archive import SegmentName, hour_folder, parse_segment, stream_folder
from lfmesh.errors import BadArchive, ObjectMissing, StoreUnavailable
from lfmesh.ports import ObjectStore
from lfmesh.types import StreamKey


class Span(NamedTuple):
    """Numbers of an epoch, both inclusive."""

    first: int
    last: int


def uncovered(name: SegmentName, stored: Iterable[SegmentName], looks: Callable[[SegmentName], bool]) -> list[Span]:
    """The numbers of a segment that none of these segments of its stream holds, pure.

    A segment that begins with a snapshot in place of lost messages does not hold the message of its first number.
    `looks` tells whether one begins so where names leave it open.
    """
    rivals = [other for other in stored if other.epoch == name.epoch and other.stream == name.stream]
    left = [Span(name.first_seq, name.last_seq)]
    for other in rivals:
        left = _without(left, Span(other.first_seq + 1, other.last_seq))
    ends = {other.last_seq for other in rivals}
    for other in rivals:
        first = Span(other.first_seq, other.first_seq)
        rest = _without(left, first)
        if rest != left and _has_first(name, other, ends, looks):
            left = rest
    return left


def _has_first(
    name: SegmentName, other: SegmentName, ends: Container[int], looks: Callable[[SegmentName], bool]
) -> bool:
    """Whether this stored segment has what `name` has at the stored one's first number."""
    if other.first_seq == 0:  # the epoch's opening is itself what was published
        return True
    if other.first_seq == name.first_seq and span_of(name).opens:
        return True  # we have no more than a snapshot there ourselves
    opens = span_of(other).opens
    if opens is None:  # where another one leads up to it, it was only cut there
        opens = other.first_seq - 1 not in ends and looks(other)
    return not opens


def _without(spans: Iterable[Span], held: Span) -> list[Span]:
    if held.first > held.last:
        return list(spans)
    left = []
    for span in spans:
        if span.first < held.first:
            left.append(Span(span.first, min(span.last, held.first - 1)))
        if span.last > held.last:
            left.append(Span(max(span.first, held.last + 1), span.last))
    return left


def let_go(spool: Spool, objects: ObjectStore, venue: str, level: int) -> int:
    """Take from the spool what the store has; of how many segments that was any. Runs in a worker thread.

    StoreUnavailable.
    """
    waiting = [name for one in spool.objects() if (name := parse_segment(one.key)) is not None]
    waiting.sort(key=lambda name: (name.stream, name.first_ts))
    relieved = 0
    for stream, names in groupby(waiting, key=lambda name: name.stream):
        held = list(names)
        stored = _stored(objects, venue, stream, held[0].first_ts)
        for name in held:
            left = uncovered(name, stored, partial(_opens, objects))
            if left != [Span(name.first_seq, name.last_seq)]:
                relieved += _keep(spool, name, left, level)
    return relieved


def _stored(objects: ObjectStore, venue: str, stream: StreamKey, since: int) -> list[SegmentName]:
    """Segments of a stream with lines from this time on: each lies in the hour of its first line."""
    folder = stream_folder(venue, stream)
    listed = objects.list(folder, folder + hour_folder(since))
    # An empty object is what a torn upload has left: it holds nothing.
    return [name for one in listed if one.size and (name := parse_segment(one.key)) is not None]


def _opens(objects: ObjectStore, name: SegmentName) -> bool:
    """Whether a stored segment begins with a snapshot; true also for one that can't be read: nothing is let go for it.

    StoreUnavailable.
    """
    try:
        return begins_with_snapshot(name, objects.get(name.key))
    except (ObjectMissing, BadArchive):
        return True


def _keep(spool: Spool, name: SegmentName, left: Iterable[Span], level: int) -> bool:
    """Put these numbers of a segment in its place; False if that can't be done."""
    body = spool.take(name.key)
    if body is None:
        return False
    try:
        for span in left:
            part = narrow(name, body, *span, level=level)
            if part is not None:
                spool.put(part.name.key, part.body)
    except (StoreUnavailable, BadArchive) as error:
        spool.again(name.key)
        if isinstance(error, StoreUnavailable):
            raise
        return False  # it goes as it is, for `lfmesh store verify` to tell of
    spool.done(name.key)
    return True
