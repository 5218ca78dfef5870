"""State hashes: exactly the documented lines, sensitive to every digit, blind to order of products."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from lfmesh.core.statehash import ProductState, TradeHash, state_hash


def trades(*qtys: str) -> TradeHash:
    made = TradeHash()
    for number, qty in enumerate(qtys, 1):
        made.add(number, "10.50", qty, "buy")
    return made


def product(changes: Mapping[str, Any] | None = None) -> ProductState:
    state = ProductState(
        "BTC-USD",
        bids=[("10.50", "1.0"), ("10.4", "2")],
        asks=[("10.60", "0.5")],
        last_trade=(2, "10.50", "2.0", "buy"),
        best_bid=("10.50", "1.0"),
        best_ask=("10.60", ""),
        trades=trades("1.0", "2.0"),
    )
    return state._replace(**(changes or {}))


def test_the_hash_is_that_of_the_documented_lines() -> None:
    lines = (
        "product BTC-USD\nbid 10.50 1.0\nbid 10.4 2\nask 10.60 0.5\nlast_trade 2 10.50 2.0 buy\n"
        f"best_bid 10.50 1.0\nbest_ask 10.60\ntrades 2 {trades('1.0', '2.0').hexdigest()}\n"
        "product ETH-USD\nlast_trade\nbest_bid\nbest_ask\n"
        f"trades 0 {hashlib.sha256(b'').hexdigest()}\n"
    )
    empty = ProductState("ETH-USD", [], [], None, None, None, None)
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert state_hash([product(), empty]) == expected
    assert state_hash([empty, product()]) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"bids": [("10.50", "1.00"), ("10.4", "2")]},
        {"bids": [("10.5", "1.0"), ("10.4", "2")]},
        {"asks": []},
        {"last_trade": (3, "10.50", "2.0", "buy")},
        {"last_trade": None},
        {"best_bid": ("10.50", "")},
        {"best_ask": None},
        {"trades": trades("2.0", "1.0")},
        {"trades": None},
        {"product": "BTC-EUR"},
    ],
)
def test_every_difference_shows(changes: dict[str, Any]) -> None:
    assert state_hash([product(changes)]) != state_hash([product()])


def test_the_trade_hash_is_that_of_its_lines_in_order() -> None:
    made = trades("1.0", "2.0")
    assert made.hexdigest() == hashlib.sha256(b"1,10.50,1.0,buy\n2,10.50,2.0,buy\n").hexdigest()
    assert made.count == 2
    assert trades("1.0", "2.0").hexdigest() != trades("1.0", "2.00").hexdigest()
