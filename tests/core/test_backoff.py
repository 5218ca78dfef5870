from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.backoff import Backoff


def pauses(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_pause() for _ in range(count)]


def test_first_retry_at_once_then_doubling_up_to_the_maximum() -> None:
    assert pauses(Backoff(0.5, 30, lambda: 1.0), 9) == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_without_a_retry_at_once() -> None:
    assert pauses(Backoff(1, 5, lambda: 1.0, first_at_once=False), 5) == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_full_jitter_reaches_down_to_nothing() -> None:
    assert pauses(Backoff(0.5, 30, lambda: 0.0), 5) == [0.0] * 5
    assert pauses(Backoff(0.5, 30, lambda: 0.5), 4) == [0.0, 0.25, 0.5, 1.0]


def test_after_success_the_next_retry_is_the_first_again() -> None:
    backoff = Backoff(0.5, 30, lambda: 1.0)
    pauses(backoff, 6)
    assert backoff.retries == 6
    backoff.reset()
    assert backoff.retries == 0
    assert pauses(backoff, 3) == [0.0, 0.5, 1.0]


@given(st.floats(0.001, 10), st.floats(0.001, 30), st.floats(0, 1, exclude_max=True), st.integers(1, 5000))
def test_never_later_than_the_maximum(base_s: float, max_s: float, random: float, retries: int) -> None:
    assert all(0 <= pause <= max_s for pause in pauses(Backoff(base_s, max_s, lambda: random), retries))
