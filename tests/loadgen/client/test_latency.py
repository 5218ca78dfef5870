"""The histogram against exact percentiles."""

import random

import pytest

from loadgen.client.latency import Histogram


def test_an_empty_one_has_no_percentiles() -> None:
    assert Histogram().percentile(0.5) is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95, 0.99, 0.999, 1.0])
def test_percentiles_are_at_most_a_64th_too_high_and_never_too_low(share: float) -> None:
    draw = random.Random(7)
    values = [int(draw.lognormvariate(13, 3)) for _ in range(5000)] + list(range(300))
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    found = histogram.percentile(share)
    assert found is not None
    assert exact <= found <= exact * 65 // 64
    assert histogram.max == max(values)


def test_small_values_are_exact_and_negative_ones_counted() -> None:
    histogram = Histogram()
    for value in (-5, 0, 1, 127, 128):
        histogram.record(value)
    assert histogram.negative == 1
    assert [histogram.percentile(share) for share in (0.4, 0.6, 0.8, 1)] == [0, 1, 127, 128]


def test_histograms_add_up() -> None:
    first, second, both = Histogram(), Histogram(), Histogram()
    for value in range(0, 100_000, 7):
        (first if value % 2 else second).record(value)
        both.record(value)
    first.add(second)
    assert (first.count, first.max, first.buckets) == (both.count, both.max, both.buckets)
