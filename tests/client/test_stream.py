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
    for wrong in ([parts[0], parts[2]], [parts[1]], [parts[0], book_incr(6)], [parts[0], parts[0]]):
        talk = Talk(BOOK)
        assert kinds(talk.give(*wrong)) in (["parts"], ["start"])
        assert "from_seq" not in talk.accept()
        assert isinstance(talk.give(book_snapshot(9, BIDS, ASKS))[0], BookSnapshot)


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
