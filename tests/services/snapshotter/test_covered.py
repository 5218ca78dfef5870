"""What another one has stored is cut off what waits here, and nothing else."""

from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.archive.journal import Entry
from lfmesh.archive.segments import Segment, write
from lfmesh.archive.spool import Spool
from lfmesh.core import codec
from lfmesh.core.archive import SegmentName, parse_segment
from lfmesh.services.snapshotter.covered import Span, let_go, uncovered
from lfmesh.types import Position, StreamKey
from tests.core.model_publisher import ModelPublisher
from tests.services.snapshotter.link import BOOK, TICKER
from tests.services.snapshotter.objects import FakeObjects


def name(first: int, last: int, epoch: int = 7, stream: StreamKey = BOOK) -> SegmentName:
    return SegmentName("coinbase", stream, 1, 2, epoch, first, last, Position(0, 0), last - first + 1, "0" * 16)


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 30), st.integers(0, 10)),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), max_size=6),
)
def test_what_is_left_is_what_no_other_has(begins: tuple[int, int], lengths: list[tuple[int, int]]) -> None:
    ours, *others = [(first, first + more) for first, more in (begins, *lengths)]
    left = uncovered(name(*ours), [name(*other) for other in others])
    numbers = [number for span in left for number in range(span.first, span.last + 1)]
    taken = {number for first, last in others for number in range(first, last + 1)}
    assert numbers == [number for number in range(ours[0], ours[1] + 1) if number not in taken]
    assert all(one.last + 1 < other.first for one, other in pairwise(left)), "no more than need be"


def test_other_epochs_and_streams_do_not_count() -> None:
    assert uncovered(name(1, 5), [name(1, 9, epoch=8), name(1, 9, stream=TICKER)]) == [Span(1, 5)]


def segments(frames: list[bytes], key: StreamKey) -> list[Segment]:
    entries = []
    for frame in frames:
        _, header, messages = codec.unpack(frame)
        entries.append(Entry(key, header, messages))
    return list(write("coinbase", key, entries))


def test_the_spool_lets_go_of_what_is_stored(tmp_path: Path) -> None:
    publisher = ModelPublisher(0, 3, lambda: 1)
    frames = [publisher.open(BOOK), *(publisher.increment(BOOK, [number]) for number in range(1, 10))]
    ticker = [publisher.open(TICKER), publisher.increment(TICKER, [1])]
    spool = Spool(tmp_path / "spool")
    for segment in (*segments(frames, BOOK), *segments(ticker, TICKER)):
        spool.put(segment.name.key, segment.body)
    objects = FakeObjects()
    for part in (frames[:4], frames[6:8]):
        (stored,) = segments(part, BOOK)
        objects.put(stored.name.key, stored.body)
    for stored in segments(ticker, TICKER):
        objects.put(stored.name.key, stored.body)
    assert let_go(spool, objects, "coinbase", 3) == 2
    waiting = [found for one in spool.objects() if (found := parse_segment(one.key)) is not None]
    assert [(one.stream, one.first_seq, one.last_seq) for one in waiting] == [(BOOK, 4, 5), (BOOK, 8, 9)]
    assert let_go(spool, objects, "coinbase", 3) == 0
    spool.close()


def test_a_damaged_segment_waits_as_it_is(tmp_path: Path) -> None:
    publisher = ModelPublisher(0, 3, lambda: 1)
    frames = [publisher.open(BOOK), *(publisher.increment(BOOK, [number]) for number in range(1, 6))]
    (whole,) = segments(frames, BOOK)
    (part,) = segments(frames[:3], BOOK)
    # Its bytes are what its name says, its positions are not.
    lies = whole.name._replace(last_seq=99)
    spool = Spool(tmp_path / "spool")
    spool.put(lies.key, whole.body)
    objects = FakeObjects()
    objects.put(part.name.key, part.body)
    assert let_go(spool, objects, "coinbase", 3) == 0
    assert [one.key for one in spool.objects()] == [lies.key]
    spool.close()
