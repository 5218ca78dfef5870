"""The checker on a replay: another run begins everything anew, and only that."""

import pytest

from lfmesh.types import Level
from loadgen.client.violations import Kind
from loadgen.client.wire import Control, encode
from tests.loadgen.client.feed import Feed, book_incr, book_snapshot, trade, trade_incr, trades_snapshot

BIDS: list[Level] = [("10.50", "2.0")]
ASKS: list[Level] = [("10.60", "0.5")]


def status(run: int) -> bytes:
    return b'{"op":"replay","state":"playing","at":5,"from":1,"to":9,"speed":1,"run":%d}' % run


@pytest.mark.parametrize(("run", "kinds"), [(2, []), (1, [Kind.TRADE_ORDER])])
def test_trades_may_come_again_in_another_run_only(run: int, kinds: list[Kind]) -> None:
    feed = Feed()
    feed.subscribe("trades")
    feed.give(status(1), trades_snapshot(7, [trade(6), trade(7)]), trade_incr(8, trade(8)))
    feed.give(status(run), trades_snapshot(5, [trade(4), trade(5)], reason="resync"), trade_incr(6, trade(6)))
    assert feed.kinds == kinds


def test_what_comes_again_must_be_what_it_was() -> None:
    feed = Feed()
    feed.subscribe("trades", "book")
    feed.give(status(1), trades_snapshot(0), trade_incr(1, trade(1)), book_snapshot(3, BIDS, ASKS))
    feed.give(book_incr(4, [("10.50", "7")]))
    feed.give(status(2), trades_snapshot(0, reason="resync"), trade_incr(1, trade(1, "99.00")))
    feed.give(book_snapshot(3, BIDS, ASKS, reason="resync"), book_incr(4, [("10.50", "8")]))
    assert feed.kinds == [Kind.TRADE_ALTERED, Kind.STATE]


def test_a_resume_that_another_run_overtakes_may_begin_in_any_way() -> None:
    feed = Feed()
    feed.subscribe("trades")
    feed.give(status(1), trades_snapshot(7, [trade(7)]))
    feed.checker.disconnected()
    feed.checker.connected(feed.now)
    feed.subscribe("trades", resume=(feed.checker.position("BTC-USD", "trades") or (0, 0)), request_id=2)
    feed.give(status(2), trades_snapshot(2, [trade(2)], reason="resync"), trade_incr(3, trade(3)))
    feed.assert_clean()


def test_its_requests_are_no_answers_that_are_waited_for() -> None:
    feed = Feed()
    request = Control(action="seek", at=5, id=9)
    assert encode(request) == b'{"op":"replay","action":"seek","at":5,"id":9}'
    feed.checker.requested(request, feed.now)
    assert feed.checker.unanswered == 0
