"""A feed on a replay: what is told of it, what is asked of it, and what counts no more when it is moved."""

import json

import pytest

from lfmesh.client.errors import RequestRefused
from lfmesh.client.events import ReplayStatus, TradeEvent, TradesSnapshot, Violation
from lfmesh.types import Position
from tests.client.server import EPOCH, book_snapshot, snapshot, trade_incr, trades_snapshot
from tests.client.talk import BOOK, SECOND, TRADES, Talk

START, END = 1_618_677_000_000_000_000, 1_618_679_000_000_000_000


def status(state: str = "playing", run: int = 7, at: int = START, speed: object = 1, **more: object) -> str:
    return json.dumps(
        {"op": "replay", "state": state, "at": at, "from": START, "to": END, "speed": speed, "run": run, **more}
    )


def test_where_it_is_is_told_as_an_event_and_kept() -> None:
    talk = Talk()
    (told,) = talk.give(status("waiting", speed="max"))
    assert told == ReplayStatus(
        state="waiting", at=START, start=START, end=END, speed=None, run=7, ts_received=talk.now
    )
    assert talk.conversation.replay == told
    (told,) = talk.give(status("paused", speed=0.5))
    assert isinstance(told, ReplayStatus)
    assert told.speed == 0.5


def test_a_request_is_answered_with_where_it_is() -> None:
    talk = Talk()
    number = talk.conversation.control("seek", "2021-04-17T16:43:50Z", None)
    request = talk.request()
    assert request == {"op": "replay", "action": "seek", "at": "2021-04-17T16:43:50Z", "id": request["id"]}
    assert talk.give(status("seeking", id=request["id"])) == []
    (answer,) = talk.answers
    assert (answer.number, answer.error) == (number, None)
    assert answer.replay == talk.conversation.replay
    assert talk.conversation.unanswered == 0


def test_a_live_mesh_refuses_it() -> None:
    talk = Talk()
    talk.conversation.control("pause", None, None)
    request = talk.request()
    talk.give(json.dumps({"op": "error", "code": "INVALID_OPERATION", "msg": "only a replay", "id": request["id"]}))
    (answer,) = talk.answers
    assert isinstance(answer.error, RequestRefused)
    assert answer.error.code == "INVALID_OPERATION"
    assert talk.conversation.replay is None


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_without_a_connection_there_is_no_answer(when: str) -> None:
    talk = Talk()
    if when == "before":
        talk.lose()
    talk.conversation.control("speed", None, 2.0)
    if when == "meanwhile":
        assert talk.request()["speed"] == 2.0
        talk.lose()
    talk.wait(0)
    (answer,) = talk.conversation.take_answers() or talk.answers
    assert (answer.error, answer.replay) == (None, None)


def test_in_another_run_trades_are_told_again_and_nothing_is_missing() -> None:
    talk = Talk(TRADES)
    talk.give(status(run=1), trades_snapshot(7, [5, 6, 7]), trade_incr(8, 8))
    assert not any(isinstance(event, Violation) for event in talk.give(status(run=2)))
    back = talk.give(trades_snapshot(3, [1, 2, 3], reason="resync"), trade_incr(4, 4), trade_incr(5, 5))
    first, *others = back
    assert isinstance(first, TradesSnapshot)
    assert [trade.trade_id for trade in first.new] == [1, 2, 3]
    assert [event.trade_id for event in others if isinstance(event, TradeEvent)] == [4, 5]
    forward = talk.give(status(run=3), trades_snapshot(90, [88, 89, 90], reason="resync"), trade_incr(91, 91))
    assert [type(event) for event in forward] == [ReplayStatus, TradesSnapshot, TradeEvent]
    stream = talk.conversation.streams[TRADES]
    assert [trade.trade_id for trade in stream.contents.trades.held] == [88, 89, 90, 91]


def test_in_the_same_run_what_was_told_is_not_told_again() -> None:
    talk = Talk(TRADES)
    talk.give(status(run=1), trades_snapshot(7, [5, 6, 7]))
    told = talk.give(status("paused", run=1), trades_snapshot(6, [4, 5, 6], reason="gap"), trade_incr(7, 7))
    assert [type(event) for event in told] == [ReplayStatus, TradesSnapshot]


def test_a_snapshot_that_was_cut_short_by_it_is_no_fault() -> None:
    talk = Talk(BOOK)
    parts = snapshot(BOOK.channel, 5, ['{"bids":[[10,1]],"asks":[]}', '{"bids":[],"asks":[[11,1]]}'])
    told = talk.give(status(run=1), parts[0], status(run=2), book_snapshot(3, [("9.5", "1")], reason="resync"))
    assert not [event for event in told if isinstance(event, Violation)]
    assert talk.conversation.streams[BOOK].position == Position(EPOCH, 3)


def test_a_resumed_stream_of_another_run_goes_on_with_what_it_has() -> None:
    talk = Talk(TRADES)
    talk.give(status(run=1), trades_snapshot(7, [5, 6, 7]))
    talk.lose()
    talk.now += SECOND
    talk.connect()
    talk.give(status(run=2))
    request = talk.accept()
    assert request["from_seq"] == {"BTC-USD": {"trades": {"epoch": EPOCH, "seq": 7}}}
    told = talk.give(trade_incr(8, 8))
    assert [type(event) for event in told] == [TradeEvent]
