"""A normalizer that begins behind an ingestor's records: nobody is to take history for the present."""

import pytest

from lfmesh.core.codec import RecordKind
from lfmesh.types import Channel
from tests.services.normalizer.kit import BTC, ETH, T0, Desk, link, match, snapshot, ticker, update

LATER = T0 + 60_000_000_000  # the kit's records are received at T0
HISTORY = (
    match(1),
    snapshot(),
    ticker(1, 1),
    update(("buy", "99.6", "1")),
    match(2),
    update(("buy", "99.7", "3")),
)


def begun_behind(*products: str, until: int) -> Desk:
    desk = Desk(*products)
    desk.pipelines.intake.behind(1, until)
    return desk


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_book_and_ticker_begin_with_what_they_are_now_and_trades_come_all(size: int) -> None:
    desk = begun_behind(BTC, until=len(HISTORY))
    for start in range(0, len(HISTORY), size):
        assert desk.bodies(BTC, Channel.BOOK) == []
        assert desk.bodies(BTC, Channel.TICKER) == []
        desk.take(*HISTORY[start : start + size], now=LATER)
    assert [body["fields"]["trade_id"] for body in desk.bodies(BTC, Channel.TRADES)[1:]] == [1, 2]
    (book,) = desk.bodies(BTC, Channel.BOOK)
    assert (book["type"], book["state"]["bids"][0]) == ("snapshot", [99.7, 3])
    (tick,) = desk.bodies(BTC, Channel.TICKER)
    assert (tick["state"]["last_trade"]["trade_id"], tick["state"]["best_bid"]["px"]) == (2, 99.7)
    desk.take(update(("buy", "99.8", "1")), now=LATER)
    assert [body["seq"] for body in desk.bodies(BTC, Channel.BOOK)] == [0, 1]


def test_the_book_is_told_to_be_recovering_meanwhile() -> None:
    desk = begun_behind(BTC, until=len(HISTORY))
    desk.take(*HISTORY[:3], now=LATER)
    standings = desk.pipelines.products[BTC].liveness.standings
    desk.pipelines.products[BTC].tell()
    assert standings[Channel.BOOK].state == "recovering"
    desk.take(*HISTORY[3:], now=LATER)
    assert standings[Channel.BOOK].state == "live"


def test_what_is_recent_is_no_history() -> None:
    desk = begun_behind(BTC, until=1_000)
    desk.take(*HISTORY, now=T0 + 500_000_000)
    assert [body["type"] for body in desk.bodies(BTC, Channel.BOOK)] == ["snapshot", "book", "book"]
    assert len(desk.bodies(BTC, Channel.TICKER)) > 1


def test_history_that_is_gone_ends_with_the_first_record_after_it() -> None:
    desk = begun_behind(BTC, until=50)
    desk.take(*HISTORY, now=LATER)
    desk.number = 50
    desk.take(match(3), now=LATER)
    assert [body["type"] for body in desk.bodies(BTC, Channel.BOOK)] == ["snapshot"]


def test_a_product_without_a_book_in_the_history_goes_on_without() -> None:
    desk = begun_behind(BTC, ETH, until=2)
    desk.take(match(1), match(1, ETH), now=LATER)
    desk.pipelines.products[ETH].tell()
    assert desk.pipelines.products[ETH].liveness.standings[Channel.BOOK].state == "live"
    desk.take(snapshot(ETH), now=LATER)
    assert [body["reason"] for body in desk.bodies(ETH, Channel.BOOK)] == ["epoch"]


def test_a_connection_lost_within_the_history_is_not_taken_for_the_present() -> None:
    desk = begun_behind(BTC, until=4)
    desk.take(snapshot(), link(RecordKind.LINK_DOWN, BTC), match(1), match(2), now=LATER)
    assert desk.bodies(BTC, Channel.BOOK) == []
    assert desk.pipelines.products[BTC].liveness.standings[Channel.BOOK].state == "recovering"
    desk.take(snapshot(bids=(("98", "1"),)), now=LATER)
    assert [body["state"]["bids"] for body in desk.bodies(BTC, Channel.BOOK)] == [[[98, 1]]]


def test_streams_that_are_open_are_not_held_back() -> None:
    desk = Desk(BTC)
    desk.take(*HISTORY)
    desk.pipelines.intake.behind(1, 100)
    desk.take(update(("buy", "99.8", "1")), now=LATER)
    assert desk.bodies(BTC, Channel.BOOK)[-1]["fields"]["bids"] == [[99.8, 1]]
