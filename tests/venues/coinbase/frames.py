"""Frames of the venue for tests: written out here, independent of the code under test."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import strategies as st

_REPOSITORY = Path(__file__).resolve().parents[3]
TAPE = Path(os.environ.get("LFMESH_TEST_TAPE", _REPOSITORY / "../shared/data/coinbase-exchange-2021-04-17.tape"))

PRODUCTS = ("BTC-USD", "ETH-USD", "BTC-USDT", "A-B-C", "1INCH-GBP")
Fields = Mapping[str, object]


def tape_frames() -> list[bytes]:
    if not TAPE.exists():
        pytest.skip(f"no recorded tape at {TAPE}; LFMESH_TEST_TAPE names another place")
    return [line.split(b"\t", 1)[1] for line in TAPE.read_bytes().splitlines()]


def frame(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


TIME = "2021-04-17T16:43:37.075687Z"
TIME_NS = 1618677817075687000

MATCH = {
    "type": "match",
    "trade_id": 280232,
    "maker_order_id": "2a0da34e-61f7-4c36-88e5-c9dd15927b16",
    "taker_order_id": "3c82abaa-c01e-4608-be59-6a1e69742891",
    "side": "sell",
    "size": "985",
    "price": "0.00001305",
    "product_id": "SKL-BTC",
    "sequence": 177100030,
    "time": TIME,
}
TICKER = {
    "type": "ticker",
    "sequence": 37475248783,
    "product_id": "BTC-USD",
    "price": "22356.27",
    "open_24h": "22000.00",
    "volume_24h": "94381.28000000",
    "low_24h": "21000.1",
    "high_24h": "23000",
    "volume_30d": "2295579.57000000",
    "best_bid": "22356.26",
    "best_bid_size": "0.04000000",
    "best_ask": "22356.28",
    "best_ask_size": "1.5",
    "side": "buy",
    "time": TIME,
    "trade_id": 881613,
    "last_size": "0.04",
}
L2UPDATE = {
    "type": "l2update",
    "product_id": "SKL-BTC",
    "changes": [["sell", "0.00001306", "660.5"], ["buy", "0.00001301", "0.00000000"]],
    "time": TIME,
}
SNAPSHOT = {
    "type": "snapshot",
    "product_id": "BTC-USD",
    "bids": [["10101.10", "0.45054140"], ["10101", "1"]],
    "asks": [["10102.55", "0.57753524"]],
}
HEARTBEAT = {"type": "heartbeat", "last_trade_id": 20, "product_id": "BTC-USD", "sequence": 90, "time": TIME}
SUBSCRIPTIONS = {
    "type": "subscriptions",
    "channels": [{"name": "level2_50", "product_ids": ["BTC-USD", "ETH-USD"], "account_ids": None}],
}
ERROR = {"type": "error", "message": "Failed to subscribe", "reason": "BTC-FOO is not a valid product"}

# Strategies ---------------------------------------------------------------------------------------------------------

decimals = st.from_regex(r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,12})?", fullmatch=True)
prices = decimals.filter(lambda text: text.strip("0.") != "")
counts = st.integers(0, 2**53 - 1)
sides = st.sampled_from(("buy", "sell"))
products = st.sampled_from(PRODUCTS)
fractions = st.one_of(st.just(""), st.from_regex(r"\.[0-9]{1,9}", fullmatch=True))


@st.composite
def times(draw: st.DrawFn) -> tuple[str, int]:
    """A time as text, and in ns by arithmetic on days."""
    day, second = draw(st.integers(0, 80_000)), draw(st.integers(0, 86_399))
    fraction = draw(fractions)
    ns = (day * 86_400 + second) * 1_000_000_000 + int((fraction[1:] or "0").ljust(9, "0"))
    return f"{_date(day)}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{fraction}Z", ns


def _date(day: int) -> str:
    year = 1970
    while day >= (length := 366 if (year % 4 == 0 and year % 100) or year % 400 == 0 else 365):
        day -= length
        year += 1
    months = (31, 29 if length == 366 else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    for month, days in enumerate(months, 1):
        if day < days:
            return f"{year:04}-{month:02}-{day + 1:02}"
        day -= days
    raise AssertionError(day)


@st.composite
def written(draw: st.DrawFn, fields: Fields) -> bytes:
    """The fields as a frame: in any order, spaced or not, with fields that nobody knows."""
    fields = {**fields, **draw(st.dictionaries(st.sampled_from(("x", "y{", 'z"product_id":"BTC-USD')), st.text()))}
    names = draw(st.permutations(list(fields)))
    separators = draw(st.sampled_from(((",", ":"), (", ", ": "))))
    escaped = draw(st.booleans())
    return json.dumps({name: fields[name] for name in names}, separators=separators, ensure_ascii=escaped).encode()
