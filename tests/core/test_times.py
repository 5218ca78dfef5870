"""Moments in and out, exact to the nanosecond."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core.times import format_time, parse_time

AT = 1_618_677_830_000_000_000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2021-04-17T16:43:50Z", AT),
        ("2021-04-17 16:43:50z", AT),
        (" 2021-04-17T16:43:50.123456789Z ", AT + 123_456_789),
        ("2021-04-17T16:43:50,5Z", AT + 500_000_000),
        ("2021-04-17T16:43Z", AT - 50_000_000_000),
        ("2021-04-17T18:43:50+02:00", AT),
        ("2021-04-17T11:13:50.000000001-0530", AT + 1),
        ("2021-04-17T18:43:50+02", AT),
        ("1618677830000000000", AT),
        ("0", 0),
        ("9223372036854775807", (1 << 63) - 1),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_what_is_a_moment(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2021-04-17T16:43:50", "2021-04-17T16:43:50Z for UTC"),
        ("2021-04-17", "2021-04-17T00:00Z for UTC"),
        ("2021-02-30T00:00Z", "no moment"),
        ("2021-04-17T25:00Z", "no moment"),
        ("2021-04-17T16:43:50.1234567890Z", "no moment"),
        ("yesterday", "no moment"),
        ("", "no moment"),
        ("-1", "no moment"),
        ("1.5", "no moment"),
        ("1969-12-31T23:59:59Z", "from 1970"),
        ("2263-01-01T00:00Z", "2262"),
        ("9999-12-31T23:59:59Z", "2262"),
        ("9223372036854775808", "too late"),
        ("٢٠٢١-04-17T16:43:50Z", "no moment"),
        ("x" * 1000, "no moment"),
    ],
)
def test_what_is_none_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as told:
        parse_time(text)
    assert len(str(told.value)) < 200


@given(st.integers(0, (1 << 63) - 1))
def test_there_and_back(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns == parse_time(str(ns))
