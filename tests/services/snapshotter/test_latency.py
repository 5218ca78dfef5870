"""From tick to stored, over a window."""

import pytest

from lfmesh.services.snapshotter.latency import WINDOW_NS, StoreLatency

MS = 1_000_000


def test_nothing_is_told_before_anything_was_stored() -> None:
    latency = StoreLatency()
    latency.published(1)
    assert latency.percentiles(1) == (None, None)


def test_ticks_that_are_spread_evenly_have_their_middle_as_median() -> None:
    latency = StoreLatency()
    for batch in range(100):
        start = batch * 250 * MS
        for tick in range(250):
            latency.published(start + tick * MS)
        latency.stored(latency.take(), start + 255 * MS)
    p50, p99 = latency.percentiles(100 * 250 * MS)
    assert p50 == pytest.approx(130, abs=8)
    assert p99 == pytest.approx(253, abs=8)


def test_what_could_not_be_written_goes_with_the_next_batch() -> None:
    latency = StoreLatency()
    latency.published(0)
    latency.again(latency.take())
    latency.published(100 * MS)
    latency.stored(latency.take(), 200 * MS)
    assert latency.percentiles(200 * MS) == (100.0, 100.0)


def test_a_store_that_is_down_costs_no_memory() -> None:
    latency = StoreLatency()
    for tick in range(100_000):
        latency.published(tick)
        if tick % 1000 == 0:
            latency.again(latency.take())
    assert len(latency.take()) < 5000


def test_what_is_long_ago_counts_no_more() -> None:
    latency = StoreLatency()
    latency.published(0)
    latency.stored(latency.take(), MS)
    assert latency.percentiles(MS + WINDOW_NS + 1) == (None, None)
