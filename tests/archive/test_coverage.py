"""What is missing of a stream, against a plain count of positions."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lfmesh.archive.coverage import OPENING, UNKNOWN, Coverage, Gap, Piece
from lfmesh.types import Position
from tests.archive.published import BTC


def piece(
    epoch: int, base: int, last: int, previous: tuple[int, int] = UNKNOWN, times: tuple[int, int] | None = None
) -> Piece:
    first_ts, last_ts = times or (epoch * 1000 + base, epoch * 1000 + last)
    return Piece(epoch, base, last, Position(*previous), first_ts, last_ts)


def gaps(*pieces: Piece) -> list[tuple[tuple[int, ...], tuple[int, ...], int | None]]:
    coverage = Coverage(BTC)
    for one in pieces:
        coverage.add(one)
    return [(tuple(gap.after), tuple(gap.until), gap.messages) for gap in coverage.gaps()]


def test_segments_that_follow_each_other_overlap_or_repeat_have_no_gap() -> None:
    assert gaps() == []
    assert gaps(piece(1, OPENING, 5), piece(1, 5, 9)) == []
    assert gaps(piece(1, OPENING, 5), piece(1, 2, 9), piece(1, 3, 4), piece(1, OPENING, 5)) == []
    assert gaps(piece(1, 5, 9), piece(1, OPENING, 5)) == []
    assert gaps(piece(1, OPENING, 3), piece(1, 6, 9), piece(1, 3, 6)) == []


def test_the_first_position_is_where_the_archive_begins() -> None:
    assert gaps(piece(1, 500, 600)) == []
    assert gaps(piece(1, 500, 600), piece(2, OPENING, 5, (1, 600))) == []


def test_a_hole_is_told_with_positions_and_times() -> None:
    coverage = Coverage(BTC)
    coverage.add(piece(1, OPENING, 5, times=(100, 200)))
    coverage.add(piece(1, 8, 9, times=(300, 400)))
    (gap,) = coverage.gaps()
    assert gap == Gap(BTC, Position(1, 5), Position(1, 8), 200, 300)
    assert gap.messages == 3


def test_the_tail_of_an_epoch_is_missed_where_the_next_one_knows_of_it() -> None:
    assert gaps(piece(1, OPENING, 5), piece(2, OPENING, 3, (1, 7))) == [((1, 5), (1, 7), 2)]
    assert gaps(piece(1, OPENING, 9), piece(2, OPENING, 3, (1, 7))) == []


def test_an_epoch_that_is_not_there_at_all() -> None:
    assert gaps(piece(1, OPENING, 5), piece(3, OPENING, 3, (2, 40))) == [((1, 5), (2, 40), None)]


def test_an_epoch_without_its_beginning() -> None:
    assert gaps(piece(1, OPENING, 5), piece(2, 0, 9)) == [((1, 5), (2, 0), None)], (
        "increment 1 is there, not the opening"
    )
    assert gaps(piece(1, OPENING, 5), piece(2, 4, 9)) == [((1, 5), (2, 4), None)]


def test_an_epoch_that_does_not_know_what_came_before_is_no_gap_but_counted() -> None:
    coverage = Coverage(BTC)
    for one in (piece(1, OPENING, 5), piece(2, OPENING, 5), piece(3, OPENING, 5, (2, 5))):
        coverage.add(one)
    assert list(coverage.gaps()) == []
    assert (coverage.epochs, coverage.unproven) == (3, 1)


def test_a_snapshot_in_the_place_of_what_was_lost_is_a_gap_unless_another_writer_has_it() -> None:
    lost = [piece(1, OPENING, 5), piece(1, 9, 12, (1, 5))]
    assert gaps(*lost) == [((1, 5), (1, 9), 4)]
    assert gaps(*lost, piece(1, 4, 10)) == []


def test_of_two_that_begin_alike_the_one_that_knows_what_came_before_counts() -> None:
    known, unknown = piece(2, OPENING, 3, (1, 7)), piece(2, OPENING, 2)
    for pair in ((known, unknown), (unknown, known)):
        assert gaps(piece(1, OPENING, 5), *pair) == [((1, 5), (1, 7), 2)]


def test_epochs_are_ordered_by_time_also_where_a_later_one_is_lower() -> None:
    later = piece(3, OPENING, 9, (7, 4), times=(50, 60))
    assert gaps(piece(7, OPENING, 4, times=(10, 20)), later) == []
    assert gaps(piece(7, OPENING, 2, times=(10, 20)), later) == [((7, 2), (7, 4), 2)]


@st.composite
def kept(draw: st.DrawFn) -> tuple[list[Position], list[Piece]]:
    """Everything that was published, in order, and the segments of it that are there."""
    published = [
        Position(epoch * 10, seq)
        for epoch in range(1, draw(st.integers(2, 5)))
        for seq in range(draw(st.integers(1, 8)))
    ]
    before = {after: position for position, after in pairwise(published)}
    time = {position: number for number, position in enumerate(published)}
    found = []
    for _ in range(draw(st.integers(0, 8))):
        first = draw(st.sampled_from(published))
        last = draw(st.sampled_from([one for one in published if one.epoch == first.epoch and one >= first]))
        previous = before.get(first, UNKNOWN) if first.seq == 0 else UNKNOWN
        found.append(Piece(first.epoch, first.seq - 1, last.seq, previous, time[first], time[last]))
    return published, draw(st.permutations(found))


@given(kept())
def test_exactly_what_is_missing_between_the_first_and_the_last_position_is_told(
    example: tuple[list[Position], list[Piece]],
) -> None:
    published, pieces = example
    there = {Position(one.epoch, seq) for one in pieces for seq in range(one.base + 1, one.last + 1)}
    index = {position: number for number, position in enumerate(published)}
    places = sorted(index[position] for position in there)
    missing = set(published[places[0] : places[-1] + 1] if places else ()) - there
    coverage = Coverage(BTC)
    for one in pieces:
        coverage.add(one)
    told = [position for gap in coverage.gaps() for position in published[index[gap.after] + 1 : index[gap.until] + 1]]
    assert len(told) == len(set(told)), "told twice"
    assert set(told) == missing


def test_many_segments_take_little_memory() -> None:
    coverage = Coverage(BTC)
    for number in range(2000):
        coverage.add(piece(1, number * 10, number * 10 + 10))
    assert len(coverage._epochs[1].pieces) == 1
