"""One product's pipeline: facts in, messages out. Trades and lines have tests of their own."""

import json
from decimal import Decimal

import pytest

from lfmesh.core.product import Restored
from lfmesh.core.product_facts import BookLost, BookOpened, Outcome, TradeCorrected
from lfmesh.types import BookSnapshot, Channel, Heartbeat, Position, Quote, Trade, TradePosition
from tests.core.product_world import PRODUCT, SNAPSHOT, T0, World, page, quote, trade, update

OLD_EPOCH = T0 // 1000 + 3600 * 1_000_000
"""Of a process whose clock was an hour ahead."""


# Ticker -----------------------------------------------------------------------------------------------------------


def test_the_ticker_opens_with_what_is_first_known_and_ticks_when_it_changes() -> None:
    world = World()
    world.observe(
        Heartbeat(PRODUCT, 1, 0, T0), quote(5, None, None, None), quote(6, None, "100.00", None), trade(7), trade(8)
    )
    opened, first, second = world.said(Channel.TICKER)
    assert (opened.kind, opened.data["reason"]) == ("snapshot", "epoch")
    assert opened.fields == {"last_trade": None, "best_bid": {"px": 100, "qty": Decimal("1.0")}, "best_ask": None}
    assert first.fields["last_trade"]["trade_id"] == 7
    assert [first.data["continuity"], second.data["continuity"]] == ["unverified", "verified"]


def test_one_tick_for_a_trade_whichever_frame_brings_it_first() -> None:
    world = World()
    outcomes = world.observe(
        TradePosition(trade(10)),
        quote(20, trade(11), "100", "101"),
        trade(11),
        trade(12),
        quote(21, trade(12), "100", "101"),
    )
    assert outcomes == [Outcome.ACCEPTED] * 5
    ticks = [said for said in world.said(Channel.TICKER) if said.kind == "tick"]
    assert [tick.fields["last_trade"]["trade_id"] for tick in ticks] == [11, 12]
    assert [tick.data["continuity"] for tick in ticks] == ["verified", "verified"]
    assert world.kinds(Channel.TRADES) == ["snapshot", "trade", "trade"]


def test_ticks_keep_digits_and_sides() -> None:
    world = World()
    world.observe(quote(1, trade(1, "0.00001000", "1000000.0", "sell"), "0.00000999", "0.00001001"))
    (run,) = world.runs[Channel.TICKER]
    assert (
        b'"state":{"last_trade":{"px":0.00001000,"qty":1000000.0,"side":"sell","trade_id":1},'
        b'"best_bid":{"px":0.00000999,"qty":1.0},"best_ask":{"px":0.00001001,"qty":null}}'
    ) in run.messages[0]


@pytest.mark.parametrize(
    ("sequence", "outcome"), [(20, Outcome.DUPLICATE), (19, Outcome.STALE), (21, Outcome.ACCEPTED)]
)
def test_tickers_are_ordered_by_sequence(sequence: int, outcome: Outcome) -> None:
    world = World()
    assert world.observe(quote(20, trade(1)), quote(sequence, trade(2), "90.0"))[1] is outcome
    ticks = [said for said in world.said(Channel.TICKER) if said.kind == "tick"]
    assert len(ticks) == (outcome is Outcome.ACCEPTED)


def test_a_ticker_of_an_older_trade_gives_its_prices_only() -> None:
    world = World()
    world.observe(trade(5), quote(20, trade(4), "99", "101"))
    assert world.said(Channel.TICKER)[-1].fields["last_trade"]["trade_id"] == 5
    assert world.said(Channel.TICKER)[-1].fields["best_ask"] == {"px": 101, "qty": None}


def test_a_new_connection_begins_with_the_ticker_that_it_shows() -> None:
    world = World()
    world.observe(quote(20, trade(1), "99"), SNAPSHOT)
    world.product.link_down(1, "the link broke")
    assert world.observe(quote(20, trade(1), "99")) == [Outcome.ACCEPTED]
    assert world.said(Channel.TICKER)[-1].fields["best_bid"]["px"] == 99


@pytest.mark.parametrize(
    "wrong",
    [
        quote(9, trade(5, px="100.11")),
        quote(9, trade(5, qty="0.5000001")),
        quote(9, trade(6), "100.5", "100.50"),
        quote(9, trade(6), "101", "100.5"),
    ],
)
def test_what_contradicts_is_dropped_whole(wrong: Quote) -> None:
    world = World()
    world.observe(trade(5))
    before = len(world.said(Channel.TICKER))
    assert world.observe(wrong) == [Outcome.INCONSISTENT]
    assert len(world.said(Channel.TICKER)) == before
    assert world.observe(quote(9, trade(5, "100.1", "0.5"))) == [Outcome.ACCEPTED], "equal in value, other digits"


def test_a_match_corrects_the_ticker_that_came_first() -> None:
    world = World()
    world.observe(quote(9, trade(5)), trade(5, px="100.2"))
    assert TradeCorrected(PRODUCT, 5) in world.facts
    assert world.said(Channel.TICKER)[-1].fields["last_trade"]["px"] == Decimal("100.2")
    assert world.said(Channel.TRADES)[-1].fields["px"] == Decimal("100.2")


# Book -------------------------------------------------------------------------------------------------------------


def test_the_book_opens_with_its_snapshot_and_passes_updates_on() -> None:
    world = World()
    outcomes = world.observe(
        SNAPSHOT, update(("buy", "99.50", "0.00000000"), ("sell", "100.9", "7"), ("sell", "1000", "0")), update()
    )
    assert outcomes == [Outcome.ACCEPTED] * 3
    opened, change = world.said(Channel.BOOK)
    assert (opened.data["reason"], opened.fields["bids"][0]) == ("epoch", [Decimal("99.50"), 2])
    assert (change.kind, change.data["seq"], change.data["continuity"]) == ("book", 1, "unverified")
    assert (
        b'"fields":{"bids":[[99.50,0.00000000]],"asks":[[100.9,7],[1000,0]]}' in world.runs[Channel.BOOK][1].messages[0]
    )
    assert BookOpened(PRODUCT, "epoch", 4) in world.facts
    assert world.product.state(Channel.BOOK) == ['{"bids":[[99.0,3.00]],"asks":[[100.9,7],[101.0,1],[102.00,5]]}']


def test_best_prices_are_the_books_while_one_is_held() -> None:
    world = World()
    world.observe(quote(1, trade(1), "98", "103"), SNAPSHOT, quote(2, trade(1), "97", "104"))
    opened, from_book = world.said(Channel.TICKER)
    assert opened.fields["best_bid"] == {"px": 98, "qty": Decimal("1.0")}
    assert from_book.fields["best_bid"] == {"px": Decimal("99.50"), "qty": 2}
    assert from_book.fields["best_ask"] == {"px": Decimal("101.0"), "qty": 1}

    world.observe(update(("sell", "102.00", "4")), update(("sell", "101.0", "1.5")), update(("buy", "99.50", "0")))
    _, _, size, price = world.said(Channel.TICKER)
    assert size.fields["best_ask"] == {"px": Decimal("101.0"), "qty": Decimal("1.5")}, "a change of size is one too"
    assert price.fields["best_bid"]["px"] == Decimal("99.0")
    assert price.data["continuity"] == "unverified"

    world.product.lose_book(1, "it broke", resync=False)
    world.observe(trade(2))
    assert world.said(Channel.TICKER)[-1].fields["best_bid"]["px"] == Decimal("99.0"), "the last that is known"
    world.observe(quote(3, trade(2), "97", "104"))
    assert world.said(Channel.TICKER)[-1].fields["best_bid"]["px"] == 97


def test_a_later_snapshot_opens_an_epoch_as_a_resync() -> None:
    world = World()
    world.observe(SNAPSHOT, update(("buy", "99.6", "1")), SNAPSHOT, update(("buy", "99.6", "1")))
    said = world.said(Channel.BOOK)
    assert [one.kind for one in said] == ["snapshot", "book", "snapshot", "book"]
    assert said[2].data["reason"] == "resync"
    assert said[3].data["seq"] == 1
    assert world.runs[Channel.BOOK][2].previous == Position(said[0].data["epoch"], 1)


def test_a_crossed_book_is_not_published_until_a_snapshot_comes() -> None:
    world = World()
    outcomes = world.observe(SNAPSHOT, update(("buy", "101.00", "1")), update(("buy", "90", "1")))
    assert outcomes == [Outcome.ACCEPTED, Outcome.CROSSED, Outcome.BOOK_NOT_HELD]
    assert [said.kind for said in world.said(Channel.BOOK, statuses=True)] == ["snapshot", "status"]
    status = world.said(Channel.BOOK, statuses=True)[1].data
    assert (status["state"], status["reason"]) == ("recovering", "the book was crossed")
    losses = [fact for fact in world.facts if isinstance(fact, BookLost)]
    assert [(loss.why, loss.resync) for loss in losses] == [("the book was crossed", True)], "wanted once"
    assert world.product.state(Channel.BOOK) is None
    assert world.said(Channel.TICKER)[-1].fields["best_bid"]["px"] == Decimal("99.50"), "nor does the ticker show it"

    assert world.observe(SNAPSHOT) == [Outcome.ACCEPTED]
    snapshot, live = world.said(Channel.BOOK, statuses=True)[-2:]
    assert (snapshot.data["reason"], live.data["state"]) == ("resync", "live")


def test_a_crossed_snapshot_is_refused() -> None:
    world = World()
    assert world.observe(BookSnapshot(PRODUCT, [("5", "1")], [("4", "1")])) == [Outcome.INCONSISTENT]
    assert world.kinds(Channel.BOOK) == []
    assert next(fact for fact in world.facts if isinstance(fact, BookLost)).resync


def test_updates_without_a_snapshot_ask_for_one_once() -> None:
    world = World()
    assert world.observe(update(("buy", "1", "1")), update(("buy", "1", "2"))) == [Outcome.BOOK_NOT_HELD] * 2
    assert [type(fact) for fact in world.facts] == [BookLost]


def test_a_big_book_comes_in_parts_at_one_position() -> None:
    world = World()
    bids = [(f"{number}.5", "1.00000000") for number in range(1, 9000)]
    world.observe(BookSnapshot(PRODUCT, bids, [("10000", "1")]))
    (run,) = world.runs[Channel.BOOK]
    parts = [json.loads(message)["data"] for message in run.messages]
    assert len(parts) > 1
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert sum(len(part["state"]["bids"]) for part in parts) == 8999
    assert all(len(message) < 300_000 for message in run.messages)


# Heartbeats, restart, states ------------------------------------------------------------------------------------------


def test_heartbeats_are_ordered_and_tell_how_far_behind_we_are() -> None:
    world = World()
    outcomes = world.observe(
        trade(5), Heartbeat(PRODUCT, 9, 8, T0), Heartbeat(PRODUCT, 8, 99, T0), Heartbeat(PRODUCT, 9, 8, T0)
    )
    assert outcomes == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.STALE, Outcome.ACCEPTED]
    assert world.product.trades_behind == 3
    world.observe(Heartbeat(PRODUCT, 10, 0, T0))
    assert world.product.trades_behind == 0, "0 is unknown"


def restored(*trades: Trade, last: Trade | None = None) -> Restored:
    return Restored(dict.fromkeys(Channel, Position(OLD_EPOCH, 7)), trades=trades, last_trade=last)


def test_a_restart_goes_on_with_the_trades_but_begins_book_and_ticker_anew() -> None:
    world = World(restored(trade(4), trade(5)))
    assert not world.product.has_data, "nobody has brought anything yet"
    world.observe(trade(4), trade(5), trade(6), SNAPSHOT)
    (after,) = world.said(Channel.TRADES)
    assert (after.data["epoch"], after.data["seq"]) == (OLD_EPOCH, 8)
    assert (after.fields["trade_id"], after.data["continuity"]) == (6, "verified")
    assert [said.data["epoch"] for said in world.said(Channel.TICKER)] == [OLD_EPOCH + 1] * 2
    assert world.kinds(Channel.TICKER) == ["snapshot", "tick"]
    assert world.said(Channel.BOOK)[0].data["epoch"] == OLD_EPOCH + 1


@pytest.mark.parametrize("first", [TradePosition(trade(8)), trade(9)])
def test_trades_missed_while_away_are_fetched_and_go_on_in_the_epoch(first: Trade | TradePosition) -> None:
    world = World(restored(trade(4), trade(5)))
    world.observe(first)
    assert world.said(Channel.TRADES) == []
    world.observe(page(6, 8))
    said = world.said(Channel.TRADES)
    assert {one.data["epoch"] for one in said} == {OLD_EPOCH}
    assert world.trade_ids()[:3] == [6, 7, 8]
    assert said[0].data["seq"] == 8


def test_the_last_id_can_be_ahead_of_the_restored_trades() -> None:
    world = World(restored(trade(4), trade(5))._replace(last_trade_id=9))
    world.observe(trade(5), trade(9), trade(10))
    assert world.trade_ids() == [10]
    assert world.continuities() == ["verified"]


def test_the_restored_ticker_is_shown_and_older_tickers_are_stale() -> None:
    world = World(restored(last=trade(5)))
    assert world.observe(quote(1, trade(4))) == [Outcome.STALE]
    world.observe(SNAPSHOT)
    assert world.said(Channel.TICKER)[0].fields["last_trade"]["trade_id"] == 5


def test_trades_after_the_ticker_s_are_fetched_where_nothing_else_is_known() -> None:
    world = World(restored(last=trade(5)))
    world.observe(TradePosition(trade(8)), page(5, 7))
    opened, *_ = world.said(Channel.TRADES)
    assert (opened.kind, opened.data["reason"], "missing" in opened.data) == ("snapshot", "epoch", False)
    assert world.trade_ids() == [5, 6, 7, 8]


def test_a_trade_that_only_the_restored_ticker_knew_is_not_lost() -> None:
    world = World(restored(last=trade(5)))
    assert world.observe(trade(5), trade(5), trade(6)) == [Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.ACCEPTED]
    world = World(restored(last=trade(5)))
    assert world.observe(trade(6), trade(5)) == [Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert world.trade_ids() == [5, 6]


def test_states_are_what_snapshots_say() -> None:
    world = World()
    assert [world.product.state(channel) for channel in Channel] == [None, None, None]
    world.observe(trade(5), SNAPSHOT)
    assert world.product.has_data
    for channel in Channel:
        state = world.product.state(channel)
        assert state is not None
        parsed = json.loads("".join(state))
        if channel is Channel.TRADES:
            assert [one["trade_id"] for one in parsed["trades"]] == [5]
        if channel is Channel.BOOK:
            assert len(parsed["bids"]) == 2
        if channel is Channel.TICKER:
            assert parsed["best_ask"] == {"px": 101.0, "qty": 1}
