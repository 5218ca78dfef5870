"""One stream, message by message: positions, state, and what is done about broken promises."""

from collections.abc import Sequence

import pytest

from lfmesh.client.events import (
    BookSnapshot,
    BookUpdate,
    Missing,
    StatusChanged,
    TradeEvent,
    TradesSnapshot,
    Violation,
)
from lfmesh.client.values import Level
from lfmesh.core import encode
from lfmesh.types import Channel, Position
from tests.client.server import (
    EPOCH,
    P,
    book_incr,
    book_snapshot,
    merged,
    snapshot,
    ticker_snapshot,
    trade_incr,
    trades_snapshot,
)
from tests.client.talk import BOOK, TICKER, TRADES, Talk

BIDS, ASKS = [("10.0", "1"), ("9.5", "2.00")], [("10.50", "3"), ("11", "4")]


def kinds(events: Sequence[object]) -> list[str]:
    return [event.kind for event in events if isinstance(event, Violation)]


def resumed_at(talk: Talk, channel: Channel) -> object:
    return talk.request().get("from_seq", {}).get(P, {}).get(str(channel))


def test_a_book_is_its_snapshot_and_its_increments() -> None:
    talk = Talk(BOOK)
    first, second = talk.give(book_snapshot(5, BIDS, ASKS), book_incr(6, [("10.0", "0.00"), ("9.75", "7")]))
    assert isinstance(first, BookSnapshot)
    assert isinstance(second, BookUpdate)
    assert (first.position, first.reason, first.bids[1]) == (Position(EPOCH, 5), "subscribe", Level("9.5", "2.00"))
    assert (second.position, second.continuity, second.ts_event) == (Position(EPOCH, 6), "verified", 1)
    assert second.bids == (("10.0", "0.00"), ("9.75", "7"))
    book = talk.conversation.streams[BOOK].contents.book
    assert (book.bids, book.asks) == ([("9.75", "7"), ("9.5", "2.00")], ASKS)
    assert (book.position, str(book.spread)) == (Position(EPOCH, 6), "0.75")


def test_a_snapshot_in_parts_is_in_force_with_its_last_part() -> None:
    states = encode.book_state_parts([(f"{px}.0", "1") for px in range(40, 20, -1)], [("50", "2")], part_bytes=60)
    parts = snapshot(Channel.BOOK, 5, states)
    assert len(parts) > 3
    talk = Talk(BOOK, TRADES)
    for part in parts[:-1]:
        assert talk.give(part, trades_snapshot(0)) != []  # of another stream, in between
        assert not talk.conversation.streams[BOOK].contents.book.ready
    (whole,) = talk.give(parts[-1])
    assert isinstance(whole, BookSnapshot)
    assert whole.texts == tuple(parts)
    assert whole.text.splitlines() == parts
    assert talk.conversation.streams[BOOK].contents.book.depth == (20, 1)


def test_parts_out_of_order_are_a_violation_and_the_book_is_asked_for_again() -> None:
    states = encode.book_state_parts([(f"{px}.0", "1") for px in range(40, 20, -1)], [("50", "2")], part_bytes=60)
    parts = snapshot(Channel.BOOK, 5, states)
    for wrong in ([parts[0], parts[2]], [parts[1]], [parts[0], book_incr(6)], [parts[0], parts[1], parts[1]]):
        talk = Talk(BOOK)
        assert kinds(talk.give(*wrong)) in (["parts"], ["start"])
        assert "from_seq" not in talk.accept()
        assert isinstance(talk.give(book_snapshot(9, BIDS, ASKS))[0], BookSnapshot)


@pytest.mark.parametrize("whole", [True, False])
def test_a_snapshot_may_be_begun_anew(whole: bool) -> None:
    parts = snapshot(Channel.BOOK, 5, encode.book_state_parts([(f"{px}.0", "1") for px in range(40, 20, -1)], [], 60))
    other = [("9.5", "2.00"), ("9", "1")]
    state = [encode.book_fields(other, [])] if whole else encode.book_state_parts(other, [], 40)
    talk = Talk(BOOK)
    (event,) = talk.give(parts[:-1], snapshot(Channel.BOOK, 3, state, epoch=EPOCH - 1, reason="gap"))
    assert isinstance(event, BookSnapshot)
    assert talk.conversation.streams[BOOK].contents.book.bids == other
    assert [type(one) for one in talk.give(book_incr(4, epoch=EPOCH - 1))] == [BookUpdate]


def test_a_gap_inside_a_connection_is_told_and_resumed() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(5, [1, 2]), trade_incr(6, 3))
    assert kinds(talk.give(trade_incr(8, 5), trade_incr(9, 6))) == ["gap"]
    assert talk.conversation.streams[TRADES].status.state == "resyncing"
    request = talk.accept()
    assert request["from_seq"] == {P: {"trades": {"epoch": EPOCH, "seq": 6}}}
    events = talk.give(*[trade_incr(seq, seq - 3) for seq in (7, 8, 9, 10)])
    assert [event.trade_id for event in events if isinstance(event, TradeEvent)] == [4, 5, 6, 7]
    assert len(events) == 4
    assert talk.conversation.streams[TRADES].status.state == "live"


def test_a_gap_that_resuming_does_not_heal_is_healed_by_a_snapshot() -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS))
    assert kinds(talk.give(book_incr(7, [("9", "1")]))) == ["gap"]
    talk.accept()
    assert kinds(talk.give(book_incr(7, [("9", "1")]))) == ["start"]
    talk.wait(1)
    assert "from_seq" not in talk.accept()
    talk.give(book_snapshot(9, BIDS, ASKS))
    assert talk.conversation.streams[BOOK].position == Position(EPOCH, 9)


def test_resyncs_of_a_stream_that_stays_wrong_grow_rare() -> None:
    talk = Talk(BOOK)
    asked = 0
    for _ in range(600):
        for request in talk.requests():
            asked += 1
            talk.give(
                f'{{"op":"subscribed","id":{request["id"]},"products":["{P}"],"channels":["book"]}}',
                book_snapshot(5, [("10", "1")], [("10", "1")]),
            )
        talk.give(book_snapshot(5, [("10", "1")], [("10", "1")]))
        talk.wait(0.1)
    assert 4 <= asked <= 9


def test_increments_again_are_told_and_change_nothing() -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS), book_incr(6, [("9", "1")]), book_incr(7, [("9", "2")]))
    assert kinds(talk.give(book_incr(6, [("9", "1")]))) == ["repeated"]
    assert talk.conversation.streams[BOOK].contents.book.bids[-1] == ("9", "2")
    assert talk.requests() == []


def test_merged_increments_go_on_from_the_position_that_they_name() -> None:
    talk = Talk(BOOK, TICKER)
    talk.give(book_snapshot(5, BIDS, ASKS))
    (event,) = talk.give(merged(book_incr(9, [("9", "1")]), 5))
    assert isinstance(event, BookUpdate)
    assert (event.position.seq, event.prev_seq) == (9, 5)
    assert kinds(talk.give(merged(book_incr(12, [("9", "1")]), 11))) == ["gap"]
    assert resumed_at(talk, Channel.BOOK) == {"epoch": EPOCH, "seq": 9}


def test_a_merged_increment_says_for_how_many_it_stands_and_how_old_it_was() -> None:
    talk = Talk(BOOK, TICKER)
    snapshot, one, many = talk.give(
        book_snapshot(5, BIDS, ASKS), book_incr(6, [("9", "1")]), merged(book_incr(10, [("9", "1")]), 6)
    )
    assert isinstance(snapshot, BookSnapshot)
    assert isinstance(one, BookUpdate)
    assert isinstance(many, BookUpdate)
    assert (one.merged, many.merged) == (1, 4)
    assert (snapshot.age_ns, many.age_ns) == (snapshot.ts_received - 5, many.ts_received - 3)


def test_what_is_missing_before_a_merged_increment_is_told_exactly() -> None:
    talk = Talk(BOOK)
    (_, violation) = talk.give(book_snapshot(5, BIDS, ASKS), merged(book_incr(12, [("9", "1")]), 8))
    assert isinstance(violation, Violation)
    assert (violation.kind, violation.detail) == ("gap", "increments 6 to 8 are missing")
    assert resumed_at(talk, Channel.BOOK) == {"epoch": EPOCH, "seq": 5}


def test_a_merged_increment_again_is_told_and_changes_nothing() -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS), merged(book_incr(9, [("9", "1")]), 5), book_incr(10, [("9", "2")]))
    assert kinds(talk.give(merged(book_incr(9, [("9", "1")]), 5))) == ["repeated"]
    assert talk.conversation.streams[BOOK].contents.book.bids[-1] == ("9", "2")
    assert talk.requests() == []


@pytest.mark.parametrize("prev_seq", [4, 9, 10, 12])
def test_a_merged_increment_that_begins_before_the_position_or_after_itself_is_not_believed(prev_seq: int) -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS))
    assert kinds(talk.give(merged(book_incr(9, [("9", "1")]), prev_seq))) == ["gap"]
    assert talk.conversation.streams[BOOK].contents.book.bids == BIDS
    assert resumed_at(talk, Channel.BOOK) == {"epoch": EPOCH, "seq": 5}


def test_a_stream_is_resumed_where_a_merged_increment_led_with_the_same_wish() -> None:
    talk = Talk()
    talk.conversation.subscribe([BOOK, TICKER, TRADES], conflate_ms=100)
    assert talk.accept()["conflate_ms"] == 100
    talk.give(book_snapshot(5, BIDS, ASKS), ticker_snapshot(2), trades_snapshot(5, [1, 2]))
    talk.give(merged(book_incr(9, [("9", "1")]), 5))
    talk.lose()
    talk.connect()
    request = talk.accept()
    assert request["conflate_ms"] == 100
    assert request["from_seq"][P]["book"] == {"epoch": EPOCH, "seq": 9}
    (event,) = talk.give(merged(book_incr(30, [("9", "3")]), 9))
    assert isinstance(event, BookUpdate)
    assert event.merged == 21
    assert talk.conversation.streams[BOOK].status.state == "live"
    talk.lose()
    talk.connect()
    talk.accept()
    assert kinds(talk.give(merged(book_incr(40, [("9", "3")]), 28))) == ["start"], "30 was to be resumed"


def test_another_interval_begins_the_stream_anew() -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS))
    talk.conversation.subscribe([BOOK], conflate_ms=250)
    request = talk.request()
    assert (request["conflate_ms"], "from_seq" in request) == (250, False)
    assert talk.give(book_incr(6)) == [], "of the earlier wish"
    talk.give(
        f'{{"op":"subscribed","id":{request["id"]},"products":["{P}"],"channels":["book"]}}',
        book_snapshot(7, BIDS, ASKS), merged(book_incr(9, [("9", "1")]), 7),
    )  # fmt: skip
    assert talk.conversation.streams[BOOK].position == Position(EPOCH, 9)


def test_a_client_that_took_too_little_is_given_the_state_and_told_why() -> None:
    talk = Talk(BOOK, TICKER, TRADES)
    talk.give(book_snapshot(5, BIDS, ASKS), ticker_snapshot(2), trades_snapshot(5, [1, 2]))
    book, ticker, missing, trades = talk.give(
        book_snapshot(900, BIDS[:1], ASKS, reason="conflated"),
        ticker_snapshot(400, reason="conflated"),
        trades_snapshot(905, [901, 902], reason="conflated", missing=(3, 900)),
    )
    assert isinstance(book, BookSnapshot)
    assert isinstance(missing, Missing)
    assert isinstance(trades, TradesSnapshot)
    assert (book.conflated, book.reason, book.position) == (True, "conflated", Position(EPOCH, 900))
    assert (missing.declared, [trade.trade_id for trade in trades.new]) == (True, [901, 902])
    assert talk.conversation.conflated == 3
    assert kinds(talk.give(ticker_snapshot(400, reason="conflated"), book_incr(901, [("9", "1")]))) == []
    assert talk.conversation.streams[BOOK].contents.book.bids == [BIDS[0], ("9", "1")]
    assert ticker is not None


def test_trades_are_never_merged() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(5, [1, 2]))
    assert kinds(talk.give(merged(trade_incr(9, 6), 5))) == ["gap"]


def test_an_epoch_that_no_snapshot_opened() -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS))
    for epoch in (EPOCH - 1, EPOCH + 1):
        assert kinds(talk.give(book_incr(6, epoch=epoch))) == ["epoch"]
        talk.wait(31)
        talk.accept()
        talk.give(book_incr(6, epoch=EPOCH)) if epoch < EPOCH else None
    assert talk.conversation.streams[BOOK].position == Position(EPOCH, 6)


@pytest.mark.parametrize("epoch", [EPOCH - 7, EPOCH, EPOCH + 7])
@pytest.mark.parametrize("seq", [0, 3, 8])
def test_a_snapshot_sets_the_position_whatever_it_was(epoch: int, seq: int) -> None:
    """Epochs are compared for equality only: a publisher that was replaced may have had a higher one."""
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS))
    events = talk.give(
        book_snapshot(seq, [("1", "1")], [], epoch=epoch, reason="epoch"), book_incr(seq + 1, epoch=epoch)
    )
    assert [type(event) for event in events] == [BookSnapshot, BookUpdate]
    assert talk.conversation.streams[BOOK].position == Position(epoch, seq + 1)
    assert talk.conversation.streams[BOOK].contents.book.bids == [("1", "1")]


def test_a_crossed_book_is_told_and_taken_anew() -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS))
    event, violation = talk.give(book_incr(6, [("10.5", "1")]))
    assert isinstance(event, BookUpdate)
    assert isinstance(violation, Violation)
    assert violation.kind == "crossed"
    assert "bid 10.5 is not below ask 10.50" in violation.detail
    assert talk.give(book_incr(7)) == []  # not believed
    assert "from_seq" not in talk.accept()
    talk.give(book_snapshot(8, BIDS, ASKS))
    assert talk.conversation.streams[BOOK].status.state == "live"
    assert not talk.conversation.streams[BOOK].contents.book.crossed


def test_a_snapshot_that_differs_from_the_state_reached_is_told_and_believed() -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS))
    assert kinds(talk.give(book_snapshot(5, BIDS, ASKS, reason="resync"))) == []
    assert kinds(talk.give(book_snapshot(5, BIDS[:1], ASKS, reason="resync"))) == ["state"]
    assert talk.conversation.streams[BOOK].contents.book.bids == BIDS[:1]


@pytest.mark.parametrize("px", ["1e5", "-1", '"1.5"', "null", "01"])
def test_a_price_that_is_no_exact_decimal_is_never_believed(px: str) -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, BIDS, ASKS))
    wrong = book_incr(6, [("9.75", "7")]).replace("9.75", px)
    if px == "01":  # no JSON at all: nothing of the connection is believed
        assert kinds(talk.give(wrong)) == ["malformed"]
        assert talk.conversation.broken
        return
    assert kinds(talk.give(wrong)) == ["not_exact"]
    assert talk.conversation.streams[BOOK].contents.book.bids == BIDS
    assert resumed_at(talk, Channel.BOOK) == {"epoch": EPOCH, "seq": 5}


def test_a_stream_that_begins_otherwise_than_asked() -> None:
    talk = Talk(BOOK)
    assert kinds(talk.give(book_incr(6))) == ["start"]
    assert "from_seq" not in talk.accept()


def test_status_is_told_and_its_end_too() -> None:
    talk = Talk(TICKER)
    stale = f'{{"op":"status","product":"{P}","channel":"ticker","state":"stale","since":7,"reason":"silent"}}'
    (event,) = talk.give(stale)
    assert isinstance(event, StatusChanged)
    assert talk.conversation.streams[TICKER].status == ("stale", 7, "silent")
    talk.lose()
    assert talk.conversation.streams[TICKER].status.state == "disconnected"
    talk.connect()
    talk.accept()
    live, _ = talk.give(ticker_snapshot(4))  # of which nothing is said is live
    assert isinstance(live, StatusChanged)
    assert (live.state, live.since) == ("live", 0)


# Trades ---------------------------------------------------------------------------------------------------------


def ids(talk: Talk) -> list[int]:
    return [trade.trade_id for trade in talk.conversation.streams[TRADES].contents.trades.held]


def test_trades_of_a_snapshot_are_new_once() -> None:
    talk = Talk(TRADES)
    (first,) = talk.give(trades_snapshot(5, [1, 2]))
    (again,) = talk.give(trades_snapshot(6, [1, 2, 3], reason="gap"))
    assert isinstance(first, TradesSnapshot)
    assert isinstance(again, TradesSnapshot)
    assert [[trade.trade_id for trade in one.new] for one in (first, again)] == [[1, 2], [3]]
    assert len(again.trades) == 3
    assert ids(talk) == [1, 2, 3]


def test_declared_missing_trades_are_told() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(5, [1, 2]))
    missing, _ = talk.give(trades_snapshot(0, [8, 9], epoch=EPOCH + 1, reason="gap", missing=(3, 7)))
    assert missing == Missing(product=P, from_trade_id=3, to_trade_id=7, declared=True, ts_received=talk.now)
    assert isinstance(talk.give(trade_incr(1, 10, epoch=EPOCH + 1))[0], TradeEvent)


def test_trades_that_nobody_declares_are_a_violation() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(5, [1, 2]))
    events = talk.give(trades_snapshot(0, [8, 9], epoch=EPOCH + 1, reason="gap", missing=(4, 5)))
    told = [(one.from_trade_id, one.to_trade_id, one.declared) for one in events if isinstance(one, Missing)]
    assert told == [(3, 3, False), (4, 5, True), (6, 7, False)]
    assert kinds(events) == ["trade_gap"]


def test_a_snapshot_tells_up_to_where_trades_are_settled() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(5, [1, 2]))
    events = talk.give(trades_snapshot(0, [], epoch=EPOCH + 1, reason="gap", missing=(3, 7), settled=7))
    assert isinstance(events[0], Missing)
    assert [type(one) for one in talk.give(trade_incr(1, 8, epoch=EPOCH + 1))] == [TradeEvent]


def test_a_trade_gap_in_order_is_asked_for_once_and_then_told() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(5, [1, 2]))
    assert kinds(talk.give(trade_incr(6, 5))) == ["trade_gap"]
    assert resumed_at(talk, Channel.TRADES) == {"epoch": EPOCH, "seq": 5}
    talk.lose()
    talk.connect()
    talk.accept()
    missing, trade = talk.give(trade_incr(6, 5))
    assert missing == Missing(product=P, from_trade_id=3, to_trade_id=4, declared=False, ts_received=talk.now)
    assert isinstance(trade, TradeEvent)
    assert ids(talk) == [1, 2, 5]


def test_a_snapshot_of_an_earlier_position_brings_no_trade_twice() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(5, [1, 2]), *[trade_incr(seq, seq - 3) for seq in (6, 7, 8)])
    talk.lose()
    talk.connect()
    assert talk.accept()["from_seq"] == {P: {"trades": {"epoch": EPOCH, "seq": 8}}}
    events = talk.give(
        trades_snapshot(6, [1, 2, 3], reason="resume_failed"), *[trade_incr(s, s - 3) for s in (7, 8, 9)]
    )
    assert [one.trade_id for one in events if isinstance(one, TradeEvent)] == [6]
    assert not kinds(events)
    assert ids(talk) == [1, 2, 3, 4, 5, 6]


def test_a_trade_again_is_told_and_left_out() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(5, [1, 2]))
    assert kinds(talk.give(trade_incr(6, 2))) == ["repeated"]
    assert ids(talk) == [1, 2]


def test_trades_of_a_snapshot_out_of_order() -> None:
    talk = Talk(TRADES)
    assert kinds(talk.give(trades_snapshot(5, [2, 1]))) == ["trade_order"]
    assert ids(talk) == []
