from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lfmesh.services.snapshotter.schedule import WriteSchedule
from lfmesh.types import Channel, StreamKey

SECOND = 1_000_000_000
TICKER = StreamKey("BTC-USD", Channel.TICKER)
BOOKS = [StreamKey(f"P{number}-USD", Channel.BOOK) for number in range(200)]
START = 1_700_000_000 * SECOND


def test_a_ticker_is_due_at_once_and_once() -> None:
    schedule = WriteSchedule(10 * SECOND)
    schedule.changed(TICKER, START)
    schedule.changed(TICKER, START + 5)
    assert len(schedule) == 1
    assert schedule.due(START + 10) == {TICKER: START}
    assert schedule.due(START + 20) == {}


def test_books_are_written_once_an_interval_spread_over_it() -> None:
    schedule = WriteSchedule(10 * SECOND)
    written: dict[StreamKey, list[int]] = {}
    busiest = 0
    for step in range(120):
        now = START + step * SECOND // 4
        for book in BOOKS:
            schedule.changed(book, now)
        taken = schedule.due(now)
        busiest = max(busiest, len(taken))
        for book in taken:
            written.setdefault(book, []).append(step)
    assert set(written) == set(BOOKS)
    assert all(len(steps) in (2, 3) for steps in written.values()), "30 s hold three moments of 10 s, the first one cut"
    assert all(later - earlier == 40 for steps in written.values() for earlier, later in pairwise(steps))
    assert busiest < len(BOOKS) / 8, "a fortieth each would be even"


def test_a_quiet_book_is_not_written() -> None:
    schedule = WriteSchedule(SECOND)
    schedule.changed(BOOKS[0], START)
    assert [len(schedule.due(START + step * SECOND)) for step in range(5)].count(1) == 1


def test_what_could_not_be_written_stays_due_since_its_first_change() -> None:
    schedule = WriteSchedule(10 * SECOND)
    schedule.changed(TICKER, START)
    schedule.changed(BOOKS[0], START)
    taken = schedule.everything()
    assert len(schedule) == 0
    schedule.changed(TICKER, START + 100)
    schedule.again(taken)
    assert schedule.due(START + 200) == {TICKER: START, BOOKS[0]: START}


def test_a_clock_that_was_set_back_holds_no_book_up() -> None:
    schedule = WriteSchedule(10 * SECOND)
    schedule.changed(BOOKS[0], START)
    schedule.due(START)
    earlier = START - 3600 * SECOND
    schedule.due(earlier)
    assert BOOKS[0] in schedule.due(earlier + 10 * SECOND)


def test_what_was_dropped_is_not_written() -> None:
    schedule = WriteSchedule(10 * SECOND)
    schedule.changed(TICKER, START)
    schedule.drop(TICKER)
    schedule.drop(BOOKS[0])
    assert schedule.everything() == {}


@given(st.lists(st.tuples(st.sampled_from([TICKER, *BOOKS[:3]]), st.integers(0, SECOND // 2)), max_size=50))
def test_no_change_is_forgotten(changes: list[tuple[StreamKey, int]]) -> None:
    schedule = WriteSchedule(SECOND)
    now = START
    unwritten = set()
    for key, step in changes:
        now += step
        schedule.changed(key, now)
        unwritten.add(key)
        unwritten -= set(schedule.due(now))
        assert len(schedule) == len(unwritten)
    assert set(schedule.due(now + SECOND) or {}) | set(schedule.due(now + 2 * SECOND)) == unwritten
