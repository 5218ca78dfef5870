import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.limits import PatientBucket, RequestSchedule, TokenBucket

SECOND = 1_000_000_000


def test_a_burst_passes_then_the_rate_holds() -> None:
    bucket = TokenBucket(10, 3, now=0)
    assert [bucket.take(0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(0) == SECOND // 10
    assert bucket.take(SECOND // 10 - 1) == 1
    assert bucket.take(SECOND // 10) == 0
    assert bucket.take(SECOND // 10) == SECOND // 10


def test_a_refused_request_costs_nothing() -> None:
    bucket = TokenBucket(1, 1, now=0)
    assert bucket.take(0) == 0
    assert [bucket.take(SECOND // 2) for _ in range(5)] == [SECOND // 2] * 5
    assert bucket.take(SECOND) == 0


def test_idleness_never_saves_more_than_the_burst() -> None:
    bucket = TokenBucket(100, 2, now=0)
    assert [bucket.take(3600 * SECOND) for _ in range(3)][:2] == [0, 0]
    assert bucket.take(3600 * SECOND) > 0


def test_a_clock_that_was_set_back_gives_nothing_and_takes_nothing() -> None:
    bucket = TokenBucket(1, 1, now=100 * SECOND)
    assert bucket.take(100 * SECOND) == 0
    assert bucket.take(0) == SECOND
    assert bucket.take(101 * SECOND) == 0


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    steps=st.lists(st.integers(0, SECOND), max_size=200),
)
def test_what_passes_never_exceeds_rate_and_burst(rate: float, burst: int, steps: list[int]) -> None:
    bucket = TokenBucket(rate, burst, now=0)
    now = passed = 0
    for step in steps:
        now += step
        passed += bucket.take(now) == 0
    assert passed <= burst + now / SECOND * rate * 1.000001 + 1


@given(rate=st.floats(0.1, 1000), burst=st.integers(1, 5))
def test_waiting_as_told_is_enough(rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst, now=0)
    now = 0
    for _ in range(burst + 5):
        wait = bucket.take(now)
        if wait:
            now += wait
            assert bucket.take(now) == 0


def test_a_schedule_gives_places_in_order() -> None:
    schedule = RequestSchedule(10, 3)
    assert [schedule.reserve(1, 5.0) for _ in range(3)] == [5.0] * 3
    assert schedule.free_at(5.0) == pytest.approx(5.1)
    assert schedule.reserve(2, 5.0) == pytest.approx(5.2)
    assert schedule.reserve(1, 5.0) == pytest.approx(5.3)
    assert schedule.reserve(1, 60.0) == 60.0


def test_places_given_back_are_given_to_the_next() -> None:
    schedule = RequestSchedule(10, 1)
    assert schedule.reserve(1, 0.0) == 0.0
    assert schedule.reserve(5, 0.0) == pytest.approx(0.5)
    schedule.give_back(5)
    assert schedule.reserve(1, 0.0) == pytest.approx(0.1)


def test_a_hold_empties_the_burst() -> None:
    schedule = RequestSchedule(10, 15)
    schedule.hold(until=2.0)
    assert schedule.free_at(1.0) == pytest.approx(2.0)
    assert [schedule.reserve(1, 1.0) for _ in range(3)] == pytest.approx([2.0, 2.1, 2.2])
    schedule.hold(until=1.5)  # earlier than what is known already
    assert schedule.reserve(1, 1.0) == pytest.approx(2.3)


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    asked=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 3)), max_size=100),
)
def test_a_schedule_never_exceeds_rate_and_burst(rate: float, burst: int, asked: list[tuple[float, int]]) -> None:
    schedule, now, given_at = RequestSchedule(rate, burst), 0.0, []
    for step, count in asked:
        now += step
        at = schedule.reserve(count, now)
        assert at >= now
        given_at += [at] * count
    assert given_at == sorted(given_at)
    for first, start in enumerate(given_at):
        for last in range(first, len(given_at)):
            window = given_at[last] - start
            # Those that belong together go together: two more than the burst at most.
            assert last - first + 1 <= burst + window * rate * 1.000001 + 2 + 1e-6


def test_what_was_worth_more_is_made_up_for_by_what_comes_next() -> None:
    bucket = TokenBucket(10, 5, now=0)
    assert bucket.take(0) == 0
    bucket.charge(6)
    assert bucket.take(0) == 3 * SECOND // 10
    assert bucket.take(3 * SECOND // 10) == 0
    assert bucket.take(10 * SECOND) == 0


def test_patience_ends_with_whoever_asks_on_and_on() -> None:
    bucket = PatientBucket(10, 3, now=0, patience=2)
    taken = [bucket.take(0) for _ in range(9)]
    assert taken == [0] * 3 + [SECOND // 10] * 6
    seen = [bucket.exhausted]
    for now in (0, 10 * SECOND):
        taken.append(bucket.take(now))
        seen.append(bucket.exhausted)
    assert taken[-2:] == [SECOND // 10, 0]
    assert seen == [False, True, True]


@pytest.mark.parametrize(("times", "exhausted"), [(1, False), (2, False), (3, True)])
def test_patience_lasts_with_whoever_asks_up_to_twice_as_often(times: int, exhausted: bool) -> None:
    bucket = PatientBucket(100, 10, now=0)
    for number in range(20_000):
        bucket.take(number * SECOND // 100 // times)
    assert bucket.exhausted is exhausted
