"""The history of several streams as one: every line in the order in which it happened.

Streams are merged by (time, ts_publish); within a stream the order is that of its positions, whatever the times say.
Memory: a block of lines and one compressed segment a stream.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from lfmesh.archive.reader import Archive
from lfmesh.types import Position, StreamKey

if TYPE_CHECKING:
    from lfmesh.archive.segments import Line

_TS_PUBLISH = b'"ts_publish":'
_TS_SNAPSHOT = b'"ts_snapshot":'


class Told(NamedTuple):
    """A line, and whose it is."""

    stream: StreamKey
    line: "Line"


def history(
    archive: Archive,
    streams: Iterable[StreamKey],
    *,
    start_ts: int | None = None,
    end_ts: int | None = None,
    after: Mapping[StreamKey, Position] | None = None,
) -> Iterator[Told]:
    """Every line of these streams with start_ts <= time <= end_ts, in order; see `Archive.lines` for `after`, holes and
    what can be raised. The parts of one snapshot follow each other."""
    positions = after or {}
    return (
        told
        for _, _, told in heapq.merge(
            *(
                _keyed(order, archive, stream, (start_ts, end_ts), positions.get(stream))
                for order, stream in enumerate(streams)
            )
        )
    )


def _keyed(
    order: int, archive: Archive, stream: StreamKey, window: tuple[int | None, int | None], after: Position | None
) -> Iterator[tuple[tuple[int, int], int, Told]]:
    """With what orders them first; `order` keeps the streams apart, so that lines are never compared."""
    for line in archive.lines(stream, start_ts=window[0], end_ts=window[1], after=after):
        yield (line.time, publish_time(line.message)), order, Told(stream, line)


def publish_time(message: bytes) -> int:
    """`ts_publish` of an archived message, `ts_snapshot` of a snapshot; ValueError for anything else."""
    at = message.find(_TS_PUBLISH)
    start = at + len(_TS_PUBLISH) if at >= 0 else message.index(_TS_SNAPSHOT) + len(_TS_SNAPSHOT)
    return int(message[start : message.index(b",", start)])
