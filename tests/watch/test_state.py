"""What a watcher knows after which events."""

import pytest

from lfmesh.client import (
    Book,
    BookSnapshot,
    BookUpdate,
    Connected,
    Disconnected,
    Event,
    Goaway,
    Level,
    Missing,
    Position,
    Quote,
    Refused,
    Skipped,
    StatusChanged,
    Tick,
    Ticker,
    Trade,
    TradeEvent,
    TradesSnapshot,
    Violation,
)
from lfmesh.types import Channel
from lfmesh.watch.state import StreamView, WatchState, spread

P = "BTC-USD"
_INCREMENT = {
    "product": P, "position": Position(1, 2), "ts_received": 12, "continuity": "verified", "ts_event": 10,
    "ts_ingest": 10, "ts_publish": 11, "text": "",
}  # fmt: skip
_SNAPSHOT = {
    "product": P, "position": Position(1, 2), "ts_received": 12, "reason": "subscribe", "ts_snapshot": 11, "texts": ()
}  # fmt: skip


def tick(ticker: Ticker, **changes: object) -> Tick:
    return Tick(channel=Channel.TICKER, ticker=ticker, **_INCREMENT | changes)  # type: ignore[arg-type] # of the right types


def traded(trade: Trade, **changes: object) -> TradeEvent:
    return TradeEvent(channel=Channel.TRADES, trade=trade, **_INCREMENT | changes)  # type: ignore[arg-type] # the same


def trades_known(*trades: Trade, new: int = 0, **changes: object) -> TradesSnapshot:
    facts = _SNAPSHOT | changes
    return TradesSnapshot(channel=Channel.TRADES, trades=trades, new=trades[-new:] if new else (), **facts)  # type: ignore[arg-type] # the same


def booked(**changes: object) -> BookUpdate:
    return BookUpdate(channel=Channel.BOOK, bids=(), asks=(), **_INCREMENT | changes)  # type: ignore[arg-type] # the same


def book_known(**changes: object) -> BookSnapshot:
    return BookSnapshot(channel=Channel.BOOK, bids=(), asks=(), **_SNAPSHOT | changes)  # type: ignore[arg-type] # the same


def last(px: str, trade_id: int = 1) -> Ticker:
    return Ticker(Trade(trade_id, px, "1", "buy"), Quote("1.0", "2"), Quote("1.5", None))


def book_of(bids: list[tuple[str, str]], asks: list[tuple[str, str]], product: str = P) -> Book:
    book = Book(product)
    book.load([Level(*level) for level in bids], [Level(*level) for level in asks])
    return book


def connected(url: str = "ws://h/ws") -> Connected:
    return Connected(url=url, again=False, ts_received=1)


def lost(reason: str) -> Disconnected:
    return Disconnected(url="ws://h/ws", reason=reason, retry_in_s=0.0, code=None, failures=0, ts_received=1)


def status(state: str, reason: str, since: int) -> StatusChanged:
    return StatusChanged(product=P, channel=Channel.TICKER, state=state, since=since, reason=reason, ts_received=since)  # type: ignore[arg-type] # a state


def watching(channel: Channel = Channel.TICKER) -> WatchState:
    state = WatchState("ws://x", channel, {})
    state.view(P)
    return state


def test_change_tells_the_direction_of_the_last_move() -> None:
    view = StreamView(P, Book(P))
    changes = []
    for px in ("100.0", "100.00", "100.1", "100.1", "99.9", "99.90"):
        view.apply(tick(last(px)))
        changes.append(view.change)
    assert changes == [0, 0, 1, 1, -1, -1]
    assert view.last_price() == "99.90"
    assert view.messages == 6
    assert (view.position, view.ts_event, view.ts_publish, view.received_ns) == (Position(1, 2), 10, 11, 12)


def test_trades_are_kept_once_in_order_and_missing_ones_counted() -> None:
    state = watching(Channel.TRADES)
    trades = [Trade(number, "1", "1", "buy") for number in range(1, 6)]
    missing = Missing(product=P, from_trade_id=9, to_trade_id=12, declared=True, ts_received=1)
    events: list[Event] = [trades_known(*trades[:3], new=3), traded(trades[3]), missing, trades_known(*trades, new=1)]
    for event in events:
        state.apply(event)
    assert [trade.trade_id for _, trade, _ in state.views[P].trades] == [1, 2, 3, 4, 5]
    assert state.views[P].missing_trades == 4


def test_status_refusals_and_what_else_is_worth_saying() -> None:
    state = watching()
    state.apply(status("stale", "nothing from the venue", 5))
    view = state.views[P]
    assert (view.state, view.state_reason, view.state_since) == ("stale", "nothing from the venue", 5)
    state.apply(Refused(code="UNKNOWN_PRODUCT", msg="no X-Y", products=("X-Y",), ts_received=7))
    state.apply(Goaway(reason="draining", reconnect_ms=5, ts_received=7))
    state.apply(Violation(kind="crossed", product=P, channel=Channel.BOOK, detail="at 5", ts_received=7))
    state.apply(Skipped(count=3))
    assert list(state.notes) == [
        "UNKNOWN_PRODUCT: no X-Y",
        "the gateway is going away (draining)",
        "the gateway breaks its protocol in BTC-USD book: crossed: at 5",
        "3 events were skipped",
    ]


def test_a_new_connection_forgets_what_the_last_one_said_of_states() -> None:
    state = watching()
    for event in (
        connected(),
        tick(last("1.0")),
        status("recovering", "a gap", 5),
        lost("broken"),
        connected("ws://o"),
    ):
        state.apply(event)
    view = state.views[P]
    assert (view.state, view.state_reason, state.url) == ("live", "", "ws://o")
    assert view.last_price() == "1.0"


def test_losses_are_news_once() -> None:
    state = watching()
    assert state.is_lost("refused")
    assert not state.is_lost("refused")
    assert state.is_lost("broken")
    state.apply(connected())
    assert state.is_lost("broken")


@pytest.mark.parametrize(
    ("bid", "ask", "expected"),
    [
        ("64250.10", "64250.11", "0.01"),
        ("0.00000184", "0.0000019", "0.00000006"),
        ("10", "11", "1"),
        ("11", "10.5", "-0.5"),
        ("12345678901234567890.1", "12345678901234567890.3", "0.2"),
        (None, "1", None),
        ("1", None, None),
        ("1.0", "1.00", "0.00"),
    ],
)
def test_spread_is_exact(bid: str | None, ask: str | None, expected: str | None) -> None:
    assert spread(bid, ask) == expected
