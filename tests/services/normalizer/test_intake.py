"""Records in: routing, bad frames, links, sources. No sockets."""

import msgspec
import pytest

from lfmesh.core.codec import RawRecord, RecordKind
from lfmesh.core.product_facts import Outcome
from lfmesh.messages import BackfilledTrade, BackfillPage
from lfmesh.types import Channel
from tests.services.normalizer.kit import (
    BTC,
    ETH,
    T0,
    Desk,
    frame,
    heartbeat,
    link,
    match,
    record,
    snapshot,
    ticker,
    update,
)

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def states(desk: Desk, product: str = BTC) -> dict[Channel, str]:
    standings = desk.pipelines.products[product].liveness.standings
    return {channel: standing.state for channel, standing in standings.items()}


def test_frames_go_to_their_product() -> None:
    desk = Desk(BTC, ETH)
    desk.take(match(1), match(7, ETH), match(2), ticker(9, 2), snapshot(ETH), heartbeat(9))
    assert [body["fields"]["trade_id"] for body in desk.bodies(BTC, Channel.TRADES)[1:]] == [1, 2]
    assert [body["fields"]["trade_id"] for body in desk.bodies(ETH, Channel.TRADES)[1:]] == [7]
    intake = desk.pipelines.intake
    assert (intake.records, intake.accepted, sum(intake.bad.values())) == (6, 6, 0)


BAD = {
    "invalid_json": b'{"type":"match","product_id":"BTC-U',
    "unknown_product": match(1, "DOGE-USD"),
    "bad_price": match(1, px="-1"),
    "bad_size": match(1, qty="1e5"),
    "inconsistent": ticker(5, 1, px="7"),
    "bad_time": frame(type="heartbeat", last_trade_id=1, product_id=BTC, sequence=1, time="yesterday"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_frame_is_counted_by_reason_and_stops_nothing(reason: str) -> None:
    desk = Desk(BTC, ETH)
    desk.take(match(1), snapshot(), snapshot(ETH), BAD[reason], match(2), update(("buy", "99.6", "1"), product=ETH))
    assert dict(desk.pipelines.intake.bad) == {reason: 1}
    assert [body["fields"]["trade_id"] for body in desk.bodies(BTC, Channel.TRADES)[1:]] == [1, 2]
    assert [body["type"] for body in desk.bodies(ETH, Channel.BOOK)] == ["snapshot", "book"]


def test_bad_frames_are_logged_once_per_reason_and_minute_with_a_sample() -> None:
    desk = Desk(BTC)
    for now in (T0, T0 + 1, T0 + MINUTE + 1):
        desk.take(b"#" * 5000, match(1, "DOGE-USD"), now=now)
    logged = [entry for entry in desk.log.entries if entry["event"] == "bad frame"]
    assert [(entry["reason"], entry["held_back"]) for entry in logged] == [
        ("invalid_json", 0), ("unknown_product", 0), ("invalid_json", 1), ("unknown_product", 1),
    ]  # fmt: skip
    assert logged[0]["sample"] == "#" * 200


@pytest.mark.parametrize(
    "bad",
    [
        b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","9',
        b'{"type":"####date","product_id":"BTC-USD"',
        b'{"type":"l2up##te","product_id":"BTC-USD","time":"2026-01-01T00:00:00Z","changes":[]}',
    ],
)
def test_an_unreadable_frame_of_a_book_costs_that_book(bad: bytes) -> None:
    desk = Desk(BTC, ETH)
    desk.take(snapshot(), snapshot(ETH), bad, update(("buy", "99", "1")), update(("buy", "99", "1"), product=ETH))
    assert states(desk) == {Channel.TICKER: "live", Channel.TRADES: "live", Channel.BOOK: "recovering"}
    assert states(desk, ETH)[Channel.BOOK] == "live"
    assert desk.resyncs.due(T0) == [(BTC, 1)]
    desk.take(snapshot())
    assert desk.statuses(BTC, Channel.BOOK) == ["recovering", "live"]
    assert desk.resyncs.wanted == 0


def test_an_unreadable_frame_of_another_channel_costs_no_book() -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), match(1, px="x"), b'{"type":"ticker","product_id":"BTC-USD","sequ')
    assert states(desk)[Channel.BOOK] == "live"
    assert desk.journal.books_at_risk == set()


@pytest.mark.parametrize("bad", [b'{"type":"l2upd', update(("buy", "99", "1"), product="BT#-USD")])
def test_a_frame_that_may_be_any_books_puts_its_ingestor_s_books_at_risk(bad: bytes) -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), bad)
    assert states(desk)[Channel.BOOK] == "live"
    assert desk.journal.books_at_risk == {1}
    assert desk.pipelines.books_of({1}) == [(BTC, 1)]
    assert desk.pipelines.books_of({2}) == []


def test_frames_without_market_data_are_counted_and_errors_logged() -> None:
    desk = Desk(BTC)
    desk.take(
        frame(type="subscriptions", channels=[]), frame(type="novelty"), frame(type="error", message="No", reason="r")
    )
    assert dict(desk.pipelines.intake.ignored) == {"subscriptions": 1, "unknown": 1, "error": 1}
    assert [entry["message"] for entry in desk.log.entries] == ["No"]


def test_a_lost_link_makes_its_products_recover_and_data_brings_them_back() -> None:
    desk = Desk(BTC, ETH)
    desk.take(match(1), snapshot(), match(1, ETH), snapshot(ETH))
    desk.take(link(RecordKind.LINK_DOWN, BTC, "DOGE-USD"))
    assert set(states(desk).values()) == {"recovering"}
    assert set(states(desk, ETH).values()) == {"live"}
    desk.take(link(RecordKind.LINK_UP, BTC))
    assert set(states(desk).values()) == {"recovering"}, "subscribed, but nothing has come"
    desk.take(match(1, kind="last_match"))
    assert states(desk) == {Channel.TICKER: "live", Channel.TRADES: "live", Channel.BOOK: "recovering"}
    desk.take(snapshot(), match(2))
    assert set(states(desk).values()) == {"live"}
    assert desk.bodies(BTC, Channel.BOOK)[-1]["reason"] == "resync"
    assert desk.bodies(BTC, Channel.TRADES)[-1]["continuity"] == "verified"
    assert desk.resyncs.wanted == 0, "the new subscription brings the snapshot by itself"


def test_an_update_before_the_new_snapshot_is_dropped_and_asks_for_one() -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), link(RecordKind.LINK_DOWN, BTC), update(("buy", "99", "1")))
    assert desk.pipelines.intake.dropped[Outcome.BOOK_NOT_HELD] == 1
    assert desk.resyncs.due(T0) == [(BTC, 1)]


def test_records_that_nobody_knows_are_refused() -> None:
    desk = Desk(BTC)
    desk.take(record(b"{", RecordKind.LINK_DOWN), record(b"", RecordKind.BACKFILL), record(b"x")._replace(kind=99))
    assert desk.pipelines.intake.bad["unknown_record"] == 3


def test_an_ingestor_that_was_only_slow_leaves_everything_as_it_was() -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), match(1))
    for silent in (True, False):
        desk.pipelines.turn.begin(T0)
        desk.pipelines.intake.heard(1, silent)
        desk.settle()
    assert desk.statuses(BTC, Channel.BOOK) == ["recovering", "live"]
    assert desk.pipelines.products[BTC].book_held


def test_a_new_process_of_the_ingestor_means_new_books() -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), match(1))
    desk.pipelines.turn.begin(T0)
    desk.pipelines.intake.replaced(1)
    desk.settle()
    assert set(states(desk).values()) == {"recovering"}
    desk.take(snapshot(), match(2))
    assert set(states(desk).values()) == {"live"}
    assert desk.bodies(BTC, Channel.TRADES)[-1]["continuity"] == "verified"


def test_lost_records_cost_books_but_not_where_there_are_none() -> None:
    for has_books in (True, False):
        desk = Desk(BTC, has_books=has_books)
        desk.take(snapshot())
        desk.pipelines.turn.begin(T0)
        desk.pipelines.intake.lost(1)
        desk.settle()
        assert desk.pipelines.products[BTC].book_held is not has_books
        assert (desk.resyncs.due(T0) == [(BTC, 1)]) is has_books


def test_silence_is_told_and_repeated_until_a_heartbeat_ends_it() -> None:
    desk = Desk(BTC)
    desk.take(match(1))
    late = T0 + 10_000_000_001
    desk.pipelines.turn.begin(late)
    assert desk.pipelines.watch(late) == [BTC]
    assert desk.pipelines.watch(late) == []
    desk.pipelines.repeat_statuses(late)
    desk.settle(late)
    assert desk.statuses(BTC, Channel.TRADES) == ["stale", "stale"]
    desk.take(heartbeat(5), now=late + 5)
    assert desk.statuses(BTC, Channel.TRADES) == ["stale", "stale", "live"]
    later = late + 2_000_000_000
    for now in (later, later + 2_000_000_000):
        desk.pipelines.turn.begin(now)
        desk.pipelines.repeat_statuses(now)
        desk.settle(now)
    assert desk.statuses(BTC, Channel.TRADES)[3:] == ["live"], "said again for a while, then no more"


# Two lines and backfills ----------------------------------------------------------------------------------------------


def test_two_ingestors_bring_a_product_each_with_its_own_book() -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), match(1), ingestor=1)
    desk.take(snapshot(bids=[("98", "1")]), match(1), match(2), ingestor=2)
    assert desk.pipelines.intake.dropped == {"other_line": 1}
    assert [body["fields"]["trade_id"] for body in desk.bodies(BTC, Channel.TRADES)[1:]] == [1, 2]
    desk.take(link(RecordKind.LINK_DOWN, BTC), ingestor=1)
    assert set(states(desk).values()) == {"live"}
    assert [body["state"]["bids"] for body in desk.bodies(BTC, Channel.BOOK)] == [[[99.5, 2]], [[98, 1]]]
    assert desk.journal.line_changes == {"the venue connection is lost": 1}
    changes = [entry for entry in desk.log.entries if entry["event"] == "books change to the other line"]
    assert [(entry["before"], entry["after"], entry["products"]) for entry in changes] == [
        (f"{1:016x}", f"{2:016x}", BTC)
    ]
    assert desk.resyncs.wanted == 0


def test_the_lost_book_of_a_line_that_is_not_published_is_asked_anew_of_its_ingestor() -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), ingestor=1)
    desk.take(snapshot(), b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","9', ingestor=2)
    assert set(states(desk).values()) == {"live"}
    assert desk.resyncs.due(T0) == [(BTC, 2)]
    desk.take(snapshot(), ingestor=2)
    assert desk.resyncs.wanted == 0


def backfill(first: int, last: int, *, complete: bool = True, problem: str = "", product: str = BTC) -> RawRecord:
    rows = [BackfilledTrade(number, "100.10", "0.5", "buy", T0) for number in range(first, last + 1)]
    page = BackfillPage(product, first, last, [] if problem else rows, complete, last, problem)
    return record(msgspec.json.encode(page), RecordKind.BACKFILL)


def test_missing_trades_are_asked_for_filled_and_counted() -> None:
    desk = Desk(BTC, ETH)
    desk.take(match(1), match(5), match(1, ETH), match(5, ETH))
    assert states(desk)[Channel.TRADES] == "recovering"
    asks = desk.pipelines.backfills_due(T0)
    assert sorted(asks) == [(BTC, 2, 4, [1]), (ETH, 2, 4, [1])]
    assert desk.pipelines.backfills_due(T0 + 1) == []

    desk.take(backfill(2, 4))
    assert [body["continuity"] for body in desk.bodies(BTC, Channel.TRADES)[1:]] == [
        "unverified", "backfilled", "backfilled", "backfilled", "verified",
    ]  # fmt: skip
    assert states(desk)[Channel.TRADES] == "live"
    assert desk.pipelines.products[ETH].trades_held == 1
    desk.take(match(2, ETH), match(3, ETH), match(4, ETH))
    assert desk.journal.trades_recovered == {"rest": 3, "line": 3}
    assert desk.journal.trade_gaps == 2
    events = [entry["event"] for entry in desk.log.entries]
    assert events == ["trades are missing and fetched", "trades flow again", "trades flow again"]
    assert desk.log.entries[0]["trades"] == f"{BTC} 2-4, {ETH} 2-4"
    assert (desk.log.entries[1]["by_rest"], desk.log.entries[2]["by_line"]) == (3, 3)

    desk.take(backfill(2, 4), backfill(2, 4, product="DOGE-USD"))
    assert desk.pipelines.intake.dropped["backfill_not_needed"] == 2


def test_what_rest_does_not_give_is_asked_for_again_and_declared_in_the_end() -> None:
    desk = Desk(BTC)
    desk.take(match(1), match(3))
    asked = []
    for tenth in range(1, 110):
        now = T0 + tenth * SECOND // 10
        desk.pipelines.turn.begin(now)
        desk.pipelines.watch(now)
        desk.settle(now)
        for ask in desk.pipelines.backfills_due(now):
            asked.append(tenth)
            desk.take(backfill(ask.first, ask.last, problem="503"), now=now)
    assert asked == [1, 6, 16, 36, 76]
    assert desk.bodies(BTC, Channel.TRADES)[2]["missing"] == {"from_trade_id": 2, "to_trade_id": 2}
    assert desk.journal.trades_recovered["declared"] == desk.journal.trades_missing == 1
    assert desk.journal.backfills_failed == len(asked)
    events = [entry["event"] for entry in desk.log.entries]
    assert events.count("backfill failed") == 1, "once per reason and minute"
    assert events.count("trades missing") == events.count("trades flow again") == 1
    assert desk.pipelines.backfills_due(T0 + 20 * SECOND) == []


def test_a_stalled_product_s_book_is_asked_anew() -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), match(1))
    late = T0 + 10 * SECOND + 1
    desk.pipelines.turn.begin(late)
    assert desk.pipelines.watch(late) == [BTC]
    desk.settle(late)
    assert desk.resyncs.due(late) == [(BTC, 1)]


def test_our_own_pause_makes_nobody_stale_and_declares_nothing() -> None:
    desk = Desk(BTC)
    desk.take(snapshot(), match(1), match(3))
    for now in (T0 + SECOND // 10, T0 + 60 * SECOND, T0 + 60 * SECOND + SECOND // 10):
        desk.pipelines.turn.begin(now)
        assert desk.pipelines.watch(now) == []
        desk.settle(now)
    assert desk.pipelines.products[BTC].book_held
    assert len(desk.bodies(BTC, Channel.TRADES)) == 2
