"""What a watcher's state looks like, on a terminal and in plain lines."""

import io

import pytest
from rich.console import Console

from lfmesh.client import Book, Goaway, Missing, Position, Quote, Refused, Ticker, Trade
from lfmesh.types import Channel
from lfmesh.watch.lines import line, said
from lfmesh.watch.render import age, clock, render
from lfmesh.watch.state import StreamView, WatchState
from tests.watch.test_state import (
    book_known,
    book_of,
    booked,
    connected,
    last,
    lost,
    status,
    tick,
    traded,
    trades_known,
)

NOW = 1_700_000_000_123_000_000


def text_of(state: WatchState, height: int = 40, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(state, NOW, height, width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def state_of(channel: Channel, *products: str) -> WatchState:
    return WatchState("ws://h/ws", channel, {product: StreamView(product, Book(product)) for product in products})


def test_tickers_with_exact_digits_spread_age_continuity_and_state() -> None:
    state = state_of(Channel.TICKER, "BTC-USD", "ETH-USD")
    state.apply(connected())
    ticker = Ticker(Trade(1, "64250.10", "0.00010000", "buy"), Quote("64250.09", "2"), Quote("64250.11", "3"))
    state.apply(tick(ticker, ts_received=NOW))
    lines = text_of(state).splitlines()
    assert "ws://h/ws  connected" in lines[0]
    row = next(line for line in lines if line.startswith("BTC-USD"))
    assert row.split() == [
        "BTC-USD", "64250.10", "0.00010000", "2", "64250.09", "64250.11", "3", "0.02", "0.0s", "verified", "live",
    ]  # fmt: skip
    assert "waiting for data" in next(line for line in lines if line.startswith("ETH-USD"))


def test_trouble_is_on_the_screen() -> None:
    state = state_of(Channel.TICKER, "BTC-USD")
    state.apply(connected())
    state.apply(tick(last("1.0"), ts_received=NOW - 65_000_000_000))
    state.apply(status("stale", "the venue is silent", NOW - 60_000_000_000))
    state.apply(Refused(code="UNKNOWN_PRODUCT", msg="no X-Y", products=(), ts_received=NOW))
    text = text_of(state)
    for part in ("stale: the venue is silent for 1m00s", "1m05s", "UNKNOWN_PRODUCT: no X-Y"):
        assert part in text


def test_who_takes_too_little_is_told() -> None:
    state = state_of(Channel.BOOK, "BTC-USD")
    state.apply(connected())
    state.apply(book_known())
    assert "conflated" not in text_of(state)
    state.apply(book_known(reason="conflated"))
    assert "too slow: conflated 1\N{MULTIPLICATION SIGN}" in text_of(state).splitlines()[0]


def test_a_line_says_for_how_many_changes_it_stands() -> None:
    view = StreamView("BTC-USD", Book("BTC-USD"))
    one, many = booked(position=Position(1, 9)), booked(position=Position(1, 9), prev_seq=4)
    assert str(line(one, view)).endswith(" seq 9 verified")
    assert str(line(many, view)).endswith(" seq 9 verified of 5")
    assert str(line(book_known(reason="conflated"), view)).endswith(" seq 2 snapshot (conflated)")


@pytest.mark.parametrize("channel", [Channel.TICKER, Channel.BOOK])
def test_nothing_is_live_or_verified_without_a_connection(channel: Channel) -> None:
    state = state_of(channel, "BTC-USD")
    state.apply(connected())
    state.apply(tick(last("1.0"), ts_received=NOW) if channel is Channel.TICKER else booked(ts_received=NOW))
    assert "live" in text_of(state)
    state.apply(lost("connection refused"))
    text = text_of(state)
    assert "connection refused" in text
    assert "disconnected" in text
    assert not {"live", "verified"} & set(text.split())


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_prices_names_and_states_are_whole_at_any_width(width: int) -> None:
    state = state_of(Channel.TICKER, "BTC-USD")
    state.apply(connected())
    ticker = Ticker(Trade(1, "64250.10", "0.00010000", "buy"), Quote("64250.09", "2.12345678"), Quote("64250.11", "3"))
    state.apply(tick(ticker, ts_received=NOW))
    text = text_of(state, width=width)
    assert "…" not in text
    assert {"BTC-USD", "64250.10", "live"} <= set(text.split())
    assert ({"64250.09", "64250.11", "verified"} <= set(text.split())) == (width >= 60)
    assert ("0.00010000" in text) == (width >= 100)
    assert all(len(row) <= width for row in text.splitlines())


def test_trades_leave_out_the_least_important_columns() -> None:
    state = state_of(Channel.TRADES, "BTC-USD")
    state.apply(connected())
    state.apply(traded(Trade(912345678, "64250.10", "0.00010000", "buy"), ts_event=NOW))
    wide, narrow = (text_of(state, width=width).splitlines()[-1].split() for width in (100, 60))
    assert wide == ["22:13:20.123", "BTC-USD", "64250.10", "0.00010000", "buy", "912345678", "verified"]
    assert narrow == ["22:13:20.123", "BTC-USD", "64250.10", "0.00010000", "verified"]


def test_more_products_than_lines_are_said_to_be_hidden() -> None:
    state = state_of(Channel.TICKER, *[f"P{number}-USD" for number in range(50)])
    text = text_of(state, height=20)
    assert "and 36 more products" in text
    assert len(text.splitlines()) <= 20


def test_trades_newest_first() -> None:
    state = state_of(Channel.TRADES, "BTC-USD", "ETH-USD")
    for number, product in enumerate(("BTC-USD", "ETH-USD", "BTC-USD")):
        state.apply(traded(Trade(number + 1, f"{number}.50", "1", "sell"), product=product, ts_event=NOW + number))
    prices = [row.split()[2] for row in text_of(state).splitlines()[2:]]
    assert prices == ["2.50", "1.50", "0.50"]


def test_books_fit_the_screen() -> None:
    state = state_of(Channel.BOOK, "BTC-USD", "ETH-USD")
    bids = [(f"{number}.00", "1.5") for number in range(100, 50, -1)]
    state.views["BTC-USD"].book = book_of(bids, [("100.25", "9")])
    state.apply(book_known())
    text = text_of(state, height=20)
    assert "spread 0.25  levels 50 bid, 1 ask" in text
    assert "100.00" in text
    assert "51.00" not in text
    assert len(text.splitlines()) <= 20


def test_plain_lines() -> None:
    view = StreamView("BTC-USD", book_of([("10.0", "1")], [("10.5", "2")]))
    quoted = tick(Ticker(Trade(7, "64250.10", "0.1", "buy"), Quote("64250.09", None), None), ts_event=NOW)
    assert line(quoted, view) == (
        "22:13:20.123 BTC-USD ticker last 64250.10 x 0.1 buy id 7 bid 64250.09 x ? ask - spread - seq 2 verified"
    )
    trades = [Trade(7, "1.0", "2", "buy"), Trade(8, "1.1", "3", "sell")]
    assert line(traded(trades[0], ts_event=NOW), view) == (
        "22:13:20.123 BTC-USD trades 1.0 x 2 buy id 7 seq 2 verified"
    )
    assert line(trades_known(*trades, reason="gap", ts_snapshot=NOW), view) == (
        "22:13:20.123 BTC-USD trades 2 trades so far, last 1.1 x 3 sell id 8 seq 2 snapshot (gap)"
    )
    missing = Missing(product="BTC-USD", from_trade_id=3, to_trade_id=6, declared=True, ts_received=NOW)
    assert line(missing, view) == "22:13:20.123 BTC-USD trades 3-6 are missing"
    assert line(booked(ts_event=NOW), view) == (
        "22:13:20.123 BTC-USD book bid 10.0 x 1 ask 10.5 x 2 spread 0.5 levels 1/1 seq 2 verified"
    )
    assert line(book_known(ts_snapshot=NOW), view) == (
        "22:13:20.123 BTC-USD book bid 10.0 x 1 ask 10.5 x 2 spread 0.5 levels 1/1 seq 2 snapshot (subscribe)"
    )


def test_lines_of_what_is_no_data() -> None:
    assert line(status("recovering", "a gap", NOW), None) == "22:13:20.123 BTC-USD ticker is recovering: a gap"
    refused = Refused(code="BAD_REQUEST", msg="what?", products=(), ts_received=NOW)
    assert (said(refused), line(refused, None)) == ("refused: BAD_REQUEST: what?", None)
    goaway = Goaway(reason="draining", reconnect_ms=100, ts_received=NOW)
    assert said(goaway) == "the gateway is going away (draining); it may be back in 100 ms"
    assert (said(connected()), line(connected(), None)) == (None, None)


def test_times() -> None:
    assert [age(int(seconds * 1e9)) for seconds in (-1, 0.25, 12.4, 250, 10920)] == [
        "0.0s",
        "0.2s",
        "12s",
        "4m10s",
        "3h02m",
    ]
    assert clock(0) == "–"
    assert clock(NOW) == "22:13:20.123"
