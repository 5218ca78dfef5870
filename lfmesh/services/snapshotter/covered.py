"""What the other one of a pair has stored already: who of the two holds it back need not upload it.

Both cut the same messages, at slightly different places. Of a segment that waits in our spool the positions count that
no stored segment of its stream and epoch covers; the rest is cut off.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from lfmesh.archive.segments import narrow
from lfmesh.archive.spool import Spool
from lfmesh.core.archive import SegmentName, hour_folder, parse_segment, stream_folder
from lfmesh.errors import BadArchive, StoreUnavailable
from lfmesh.ports import ObjectStore
from lfmesh.types import StreamKey


class Span(NamedTuple):
    """Numbers of an epoch, both inclusive."""

    first: int
    last: int


def uncovered(name: SegmentName, stored: Iterable[SegmentName]) -> list[Span]:
    """The numbers of a segment that none of these segments of its stream holds, pure."""
    left = [Span(name.first_seq, name.last_seq)]
    for other in stored:
        if other.epoch == name.epoch and other.stream == name.stream:
            left = [piece for span in left for piece in _without(span, other)]
    return left


def _without(span: Span, other: SegmentName) -> Iterator[Span]:
    if span.first < other.first_seq:
        yield Span(span.first, min(span.last, other.first_seq - 1))
    if span.last > other.last_seq:
        yield Span(max(span.first, other.last_seq + 1), span.last)


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
            left = uncovered(name, stored)
            if left != [Span(name.first_seq, name.last_seq)]:
                relieved += _keep(spool, name, left, level)
    return relieved


def _stored(objects: ObjectStore, venue: str, stream: StreamKey, since: int) -> list[SegmentName]:
    """Segments of a stream with lines from this time on: each lies in the hour of its first line."""
    folder = stream_folder(venue, stream)
    listed = objects.list(folder, folder + hour_folder(since))
    return [name for one in listed if (name := parse_segment(one.key)) is not None]


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
