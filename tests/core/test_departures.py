from itertools import pairwise

import pytest

from lfmesh.core.departures import departures


@pytest.mark.parametrize("clients", [1, 2, 7, 1000])
@pytest.mark.parametrize("drain_s", [0.0, 1.0, 30.0])
def test_everybody_goes_within_the_time_one_after_the_other(clients: int, drain_s: float) -> None:
    planned = departures(clients, drain_s)
    assert len(planned) == clients
    assert planned[0].goaway_at_s == 0
    for one in planned:
        assert 0 <= one.goaway_at_s <= one.close_at_s <= drain_s
        assert one.close_at_s - one.goaway_at_s == pytest.approx(drain_s / 2)
    if drain_s:
        assert all(one.goaway_at_s < other.goaway_at_s for one, other in pairwise(planned))


def test_a_few_can_be_elsewhere_before_they_are_closed() -> None:
    for one in departures(100, 10.0):
        assert one.goaway_at_s + one.reconnect_ms / 1000 < one.close_at_s


@pytest.mark.parametrize("drain_s", [0.0, 1.0])
def test_many_do_not_come_back_at_once(drain_s: float) -> None:
    back = sorted(one.goaway_at_s * 1000 + one.reconnect_ms for one in departures(5000, drain_s))
    busiest = max(sum(at <= other < at + 1000 for other in back) for at in back[::50])
    assert busiest <= 1100


def test_nobody_is_nothing() -> None:
    assert departures(0, 5.0) == []
