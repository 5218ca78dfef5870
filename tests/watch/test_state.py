"""What a watcher knows after which messages."""

import pytest

from lfmesh.client.messages import Book, Refused, Status, Ticker, Trade, Update
from lfmesh.types import Channel
from lfmesh.watch.state import BookSides, StreamView, WatchState, spread


def update(content: Ticker | list[Trade] | Book, **changes: object) -> Update:
    channel = {Ticker: Channel.TICKER, list: Channel.TRADES, Book: Channel.BOOK}[type(content)]
    facts: dict[str, object] = {
        "op": "incr", "product": "BTC-USD", "channel": channel, "epoch": 1, "seq": 2, "prev_seq": None, "ts_event": 10,
        "ts_publish": 11, "continuity": "verified", "reason": None, "part": 1, "parts": 1, "missing": None,
        "content": content,
    }  # fmt: skip
    return Update(**facts | changes)  # type: ignore[arg-type] # a dict of the right types


def last(px: str, trade_id: int = 1) -> Ticker:
    return Ticker(Trade(px, "1", "buy", trade_id), ("1.0", "2"), ("1.5", None))


def test_change_tells_the_direction_of_the_last_move() -> None:
    view = StreamView("BTC-USD")
    changes = []
    for px in ("100.0", "100.00", "100.1", "100.1", "99.9", "99.90"):
        view.apply(update(last(px)), 1)
        changes.append(view.change)
    assert changes == [0, 0, 1, 1, -1, -1]
    assert view.last_price() == "99.90"
    assert view.messages == 6


def test_a_book_is_its_snapshot_and_increments_level_by_level() -> None:
    view = StreamView("BTC-USD")
    first = Book([("10.1", "1"), ("10.0", "2")], [("10.2", "3")])
    second = Book([("9.9", "4")], [])
    view.apply(update(first, op="snapshot", part=1, parts=2), 1)
    view.apply(update(second, op="snapshot", part=2, parts=2), 1)
    assert view.book.best_bids(5) == [("10.1", "1"), ("10.0", "2"), ("9.9", "4")]
    view.apply(update(Book([("10.10", "0.00"), ("10.05", "7")], [("10.2", "8")])), 2)
    assert view.book.best_bids(2) == [("10.05", "7"), ("10.0", "2")]
    assert view.book.best_asks(2) == [("10.2", "8")]
    view.apply(update(Book([], [("11", "1")]), op="snapshot"), 3)
    assert (view.book.best_bids(5), view.book.best_asks(5)) == ([], [("11", "1")])


def test_prices_are_ordered_as_numbers() -> None:
    book = BookSides()
    book.apply(Book([("9", "1"), ("10", "1"), ("10.5", "1")], [("100", "1"), ("20.5", "1"), ("20.49", "1")]))
    assert [px for px, _ in book.best_bids(3)] == ["10.5", "10", "9"]
    assert [px for px, _ in book.best_asks(3)] == ["20.49", "20.5", "100"]


def test_trades_are_kept_once_in_order_and_missing_ones_counted() -> None:
    view = StreamView("BTC-USD")
    trades = [Trade("1", "1", "buy", number) for number in range(1, 6)]
    view.apply(update(trades[:3], op="snapshot", continuity=None), 1)
    view.apply(update([trades[3]]), 2)
    view.apply(update(trades[1:], op="snapshot", missing=(9, 12), continuity=None), 3)
    assert [trade.trade_id for _, trade, _ in view.trades] == [1, 2, 3, 4, 5]
    assert view.missing_trades == 4


def test_status_and_refusals() -> None:
    state = WatchState("ws://x", Channel.TICKER, {"BTC-USD": StreamView("BTC-USD")})
    state.apply(Status("BTC-USD", Channel.TICKER, "stale", 5, "nothing from the venue"), 6)
    view = state.views["BTC-USD"]
    assert (view.state, view.state_reason, view.state_since) == ("stale", "nothing from the venue", 5)
    state.apply(Refused("UNKNOWN_PRODUCT", "no X-Y"), 7)
    assert list(state.notes) == ["UNKNOWN_PRODUCT: no X-Y"]


def test_a_new_connection_forgets_what_the_last_one_said_of_states() -> None:
    state = WatchState("ws://x", Channel.TICKER, {"BTC-USD": StreamView("BTC-USD")})
    state.is_connected()
    state.apply(update(last("1.0")), 5)
    state.apply(Status("BTC-USD", Channel.TICKER, "recovering", 5, "a gap"), 6)
    state.apply(Refused("UNKNOWN_PRODUCT", "no X-Y"), 6)
    state.is_lost("broken")
    state.is_connected()
    view = state.views["BTC-USD"]
    assert (view.state, view.state_reason, state.refusal) == ("live", "", None)
    assert view.last_price() == "1.0"


def test_losses_are_news_once() -> None:
    state = WatchState("ws://x", Channel.TICKER, {})
    assert state.is_lost("refused")
    assert not state.is_lost("refused")
    assert state.is_lost("broken")
    state.is_connected()
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
