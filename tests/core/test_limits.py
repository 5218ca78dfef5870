from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.limits import TokenBucket

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
