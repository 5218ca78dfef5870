"""What another one has stored is cut off what waits here, and nothing else."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.archive.coverage import OPENING, Coverage, Piece
from lfmesh.archive.journal import Entry
from lfmesh.archive.reader import Archive
from lfmesh.archive.segments import Segment, write
from lfmesh.archive.spool import Spool
from lfmesh.archive.verify import Verification
from lfmesh.core import codec, encode, topics
from lfmesh.core.archive import SegmentName, parse_segment
from lfmesh.services.snapshotter.covered import Span, let_go, uncovered
from lfmesh.types import NO_INPUT, Position, StreamKey
from tests.core.model_publisher import ModelPublisher
from tests.services.snapshotter.link import BOOK, TICKER
from tests.services.snapshotter.objects import FakeObjects

UNKNOWN, HOLE = Position(0, 0), Position(7, 1)


def name(first: int, last: int, epoch: int = 7, stream: StreamKey = BOOK, previous: Position = UNKNOWN) -> SegmentName:
    return SegmentName("coinbase", stream, 1, 2, epoch, first, last, previous, last - first + 1, "0" * 16)


def never(_: SegmentName) -> bool:
    raise AssertionError("the name tells")


SPANS = st.tuples(st.integers(0, 40), st.integers(0, 10), st.booleans())


@settings(deadline=None)
@given(SPANS, st.lists(SPANS, max_size=6))
def test_what_is_left_is_what_no_other_has(begins: tuple[int, int, bool], lengths: list[tuple[int, int, bool]]) -> None:
    """A segment that begins with a snapshot (True) in place of lost messages has not the message there."""
    ours, *others = [
        (name(first, first + more, previous=HOLE if first and opens else UNKNOWN), bool(first) and opens)
        for first, more, opens in (begins, *lengths)
    ]
    opening = dict(others)
    left = uncovered(ours[0], opening, lambda other: opening[other])

    def held(one: SegmentName, opens: bool) -> set[int]:
        return set(range(one.first_seq + opens, one.last_seq + 1))

    numbers = [number for span in left for number in range(span.first, span.last + 1)]
    assert set(numbers) <= held(ours[0], False)
    taken = set().union(*(held(*other) for other in others))
    assert held(*ours) - taken == held(*ours) & set(numbers)
    assert all(one.last + 1 < other.first for one, other in pairwise(left)), "no more than need be"

    coverage = Coverage(BOOK)
    kept = [(name(span.first, span.last), ours[1] and span.first == ours[0].first_seq) for span in left]
    for one, opens in (*others, *kept):
        base = OPENING if not one.first_seq else one.first_seq if opens else one.first_seq - 1
        coverage.add(Piece(7, base, one.last_seq, one.previous, 1, 2))
    missing = {number for gap in coverage.gaps() for number in range(gap.after.seq + 1, gap.until.seq + 1)}
    assert missing.isdisjoint(held(*ours))


def test_the_first_number_of_a_holes_snapshot_is_not_held() -> None:
    """The primary has a hole from 11 to 500, the standby everything."""
    after = name(500, 700, previous=Position(7, 10))
    assert uncovered(name(0, 600), [name(0, 10), after], never) == [Span(11, 500)]
    several = name(500, 700)._replace(lines=203)
    assert uncovered(name(0, 600), [name(0, 10), several], never) == [Span(11, 500)]
    assert uncovered(name(0, 600), [name(0, 10), after, name(490, 510)._replace(lines=22)], never) == [Span(11, 490)]
    assert uncovered(name(500, 600, previous=Position(7, 10)), [after], never) == []


def test_where_the_name_leaves_it_open_the_text_is_looked_at() -> None:
    ours, stored = name(0, 600), name(500, 700)
    assert uncovered(ours, [name(0, 10), stored], lambda _: True) == [Span(11, 500)]
    assert uncovered(ours, [name(0, 10), stored], lambda _: False) == [Span(11, 499)]
    assert uncovered(ours, [name(0, 499), stored], never) == [], "it was only cut there"


def test_other_epochs_and_streams_do_not_count() -> None:
    assert uncovered(name(1, 5), [name(1, 9, epoch=8), name(1, 9, stream=TICKER)], never) == [Span(1, 5)]


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


@pytest.mark.parametrize("previous", [True, False])
def test_after_a_hole_in_one_of_a_pair_nothing_is_missing(tmp_path: Path, previous: bool) -> None:
    publisher = ModelPublisher(0, 3, lambda: 1)
    frames = [publisher.open(BOOK)]
    whole: list[bytes] = []
    for number in range(1, 31):
        frames.append(publisher.increment(BOOK, [number]))
        if number == 20:  # the primary lost the messages from 11 to 20: it has the state in their place
            stream = publisher.streams[BOOK]
            before = Position(stream.position.epoch, 10) if previous else Position(0, 0)
            header = codec.Header(codec.Flags.SNAPSHOT, 3, 7, NO_INPUT, *stream.position, *before, 20, 1)
            messages = encode.snapshot(*BOOK, stream.position, 1, "gap", [stream.state(BOOK.channel)])
            whole = [codec.pack(topics.market_data(0, BOOK), header, messages)]
    objects = FakeObjects()
    for stored in (*segments(frames[:11], BOOK), *segments([*whole, *frames[21:]], BOOK)):
        objects.put(stored.name.key, stored.body)
    assert list(Verification(objects, "coinbase").run()), "there is a hole"
    spool = Spool(tmp_path / "spool")
    for segment in segments(frames[:26], BOOK):
        spool.put(segment.name.key, segment.body)
    assert let_go(spool, objects, "coinbase", 3) == 1
    for waits in spool.objects():
        kept = parse_segment(waits.key)
        assert kept is not None
        assert (kept.first_seq, kept.last_seq) == (11, 20)
        body = spool.take(waits.key)
        assert body is not None
        objects.put(waits.key, body)
    spool.close()
    assert list(Verification(objects, "coinbase").run()) == []
    with Archive(objects, "coinbase") as archive:
        lines = [line for line in archive.lines(BOOK) if not line.snapshot]
        assert [line.seq for line in lines] == list(range(1, 31))
        assert [line.message for line in lines] == list(publisher.history.values())
