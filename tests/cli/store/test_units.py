"""Sizes and durations as people write them."""

import click
import pytest

from lfmesh.cli.store.units import moment, parse_duration, parse_size, plural, size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("12", 12),
        ("1.5kB", 1500),
        ("500MB", 5 * 10**8),
        ("2 GiB", 2 << 30),
        ("3t", 3 * 10**12),
        ("1GB", 10**9),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("30d", 30 * 86400), ("2W", 14 * 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "x", "1x", "1e9", "1 000", "nan", "١"])
def test_what_is_neither(text: str) -> None:
    for parse in (parse_size, parse_duration):
        with pytest.raises(click.BadParameter, match="such as"):
            parse(text)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1234567, "1.2 MB"), (35 * 10**9, "35 GB"), (999_600, "1.0 MB"),
     (5 * 10**15, "5000 TB")],
)  # fmt: skip
def test_sizes_for_people(count: int, shown: str) -> None:
    assert size(count) == shown


def test_words() -> None:
    assert plural(1, "epoch") == "1 epoch"
    assert plural(2000, "epoch") == "2,000 epochs"
    assert moment(1_763_920_000_999_999_999) == "2025-11-23 17:46:40Z"
