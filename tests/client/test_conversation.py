"""Requests and their answers: refusals, limits, reconnections."""

import json

from hypothesis import given
from hypothesis import strategies as st

from lfmesh.client.errors import RequestRefused, TooManySubscriptions, UnknownProduct
from lfmesh.client.events import BookSnapshot, BookUpdate, Connected, Disconnected, Goaway, Refused, Violation
from lfmesh.client.requests import Asked, subscribe_requests
from lfmesh.types import CHANNELS, Channel, Position, StreamKey
from tests.client.server import (
    EPOCH,
    Json,
    P,
    book_incr,
    book_snapshot,
    merged,
    subscribed,
    ticker_snapshot,
    trades_snapshot,
)
from tests.client.talk import BOOK, SECOND, TICKER, TRADES, Talk

MAX_BYTES = 64 * 1024


def error(request: Json, code: str) -> str:
    return json.dumps({"op": "error", "code": code, "msg": "not carried here: X", "id": request["id"]})


def pong(request: Json) -> str:
    return json.dumps({"op": "pong", "t": request["t"]})


# Long lists -----------------------------------------------------------------------------------------------------

names = st.text('ABCDEFGH-€"\\', min_size=1, max_size=30)
streams = st.builds(
    Asked,
    product=names,
    channel=st.sampled_from(CHANNELS),
    after=st.none() | st.builds(Position, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1)),
    want_snapshot=st.booleans(),
    conflate_ms=st.sampled_from([0, 100]),
)


@given(st.lists(streams, max_size=60, unique_by=lambda one: (one.product, one.channel)), st.integers(400, 3000))
def test_requests_ask_for_each_stream_once_as_it_was_meant_and_none_is_too_long(asked: list[Asked], size: int) -> None:
    seen = []
    requests = subscribe_requests(asked, 7, size)
    assert [number for number, _, _ in requests] == list(range(7, 7 + len(requests)))
    for number, text, _ in requests:
        request = json.loads(text)
        assert request["id"] == number
        assert len(text.encode()) <= size or len(request["products"]) == 1
        for product in request["products"]:
            for channel in request["channels"]:
                after = request.get("from_seq", {}).get(product, {}).get(channel)
                position = None if after is None else Position(after["epoch"], after["seq"])
                options = request.get("want_snapshot", True), request.get("conflate_ms", 0)
                seen.append(Asked(product, Channel(channel), position, *options))
    assert sorted(map(repr, seen)) == sorted(map(repr, asked))


def test_three_thousand_streams_are_resumed_in_few_requests_of_64_kib() -> None:
    keys = [StreamKey(f"PRODUCT{number}-USD", channel) for number in range(1000) for channel in CHANNELS]
    asked = [Asked(*key, Position(EPOCH, 10**9)) for key in keys]
    requests = subscribe_requests(asked, 1)
    assert max(len(text) for _, text, _ in requests) <= MAX_BYTES
    assert len(requests) <= 6


def test_requests_wait_for_the_rate_limit_of_the_gateway() -> None:
    talk = Talk()
    for _ in range(250):
        talk.conversation.ping()
    sent = len(talk.requests())
    assert 50 <= sent <= 200
    talk.wait(1)
    assert 0 < len(talk.requests()) <= 100


def test_a_request_that_is_turned_away_is_sent_again() -> None:
    talk = Talk()
    talk.conversation.subscribe([TICKER])
    request = talk.request()
    for which in (f',"id":{request["id"]}', ""):
        talk.give(f'{{"op":"rate_limit","retry_ms":200{which}}}')
        talk.wait(0.1)
        assert talk.requests() == []
        talk.wait(0.3)
        assert talk.request() == request
    talk.give(subscribed(request))
    assert talk.answers[0].error is None


def test_a_limit_without_reason_is_no_reason_to_wait_for_ever() -> None:
    talk = Talk()
    talk.conversation.subscribe([TICKER])
    request = talk.request()
    talk.give(f'{{"op":"rate_limit","retry_ms":{10**15},"id":{request["id"]}}}')
    talk.wait(91)
    assert talk.request() == request


# Answers --------------------------------------------------------------------------------------------------------


def test_a_call_is_answered_when_all_of_its_streams_are() -> None:
    talk = Talk()
    number = talk.conversation.subscribe([TICKER, BOOK])
    assert talk.answers == []
    talk.accept()
    assert [(answer.number, answer.error) for answer in talk.answers] == [(number, None)]


def test_what_an_earlier_request_brings_is_not_taken_for_what_is_wanted_now() -> None:
    talk = Talk(BOOK)
    talk.give(book_snapshot(5, [("10", "1")]))
    talk.lose()
    talk.connect()
    number = talk.conversation.subscribe([BOOK], conflate_ms=100)
    resume, anew = talk.requests()
    assert ("from_seq" in resume, "from_seq" in anew) == (True, False)
    answered = len(talk.answers)
    assert talk.give(subscribed(resume), book_incr(6, [("9", "1")]), merged(book_incr(9), 7)) == []
    assert len(talk.answers) == answered, "not yet"
    (event,) = talk.give(subscribed(anew), book_snapshot(9, [("10", "2")]))
    assert isinstance(event, BookSnapshot)
    assert [answer.number for answer in talk.answers[answered:]] == [number]
    assert talk.conversation.streams[BOOK].contents.book.bids == [("10", "2")]
    assert talk.requests() == []


def test_requests_that_a_limit_puts_in_another_order_end_as_the_newest_says() -> None:
    talk = Talk()
    talk.conversation.subscribe([BOOK], conflate_ms=100)
    first = talk.request()
    talk.conversation.subscribe([BOOK], conflate_ms=50)
    second = talk.request()
    talk.give(f'{{"op":"rate_limit","retry_ms":200,"id":{first["id"]}}}', subscribed(second), book_snapshot(5))
    talk.wait(0.5)
    assert talk.request() == first
    assert talk.give(subscribed(first), book_snapshot(7)) == []
    again = talk.request()
    assert (again["conflate_ms"], again["from_seq"][P]["book"]["seq"]) == (50, 5)
    assert [type(one) for one in talk.give(subscribed(again), merged(book_incr(9), 5))] == [BookUpdate]


def test_what_is_not_known_is_refused_and_the_rest_is_followed() -> None:
    talk = Talk()
    other = StreamKey("X", Channel.TICKER)
    talk.conversation.subscribe([TICKER, other])
    request = talk.request()
    talk.give(error(request, "UNKNOWN_PRODUCT"), subscribed(request, products=[P]))
    (answer,) = talk.answers
    assert isinstance(answer.error, UnknownProduct)
    assert (answer.error.products, answer.error.code) == (("X",), "UNKNOWN_PRODUCT")
    assert "not carried here: X" in str(answer.error)
    assert set(talk.conversation.streams) == {TICKER}
    talk.give(pong(talk.request()))
    assert len(talk.answers) == 1


def test_where_nothing_is_known_no_subscribed_comes_and_a_ping_tells() -> None:
    talk = Talk()
    talk.conversation.subscribe([StreamKey("X", Channel.TICKER)])
    talk.give(error(talk.request(), "UNKNOWN_PRODUCT"))
    assert talk.answers == []
    talk.give(pong(talk.request()))
    assert isinstance(talk.answers[0].error, UnknownProduct)
    assert talk.conversation.streams == {}
    assert talk.conversation.unanswered == 0


def test_other_refusals_are_errors_of_the_call() -> None:
    for code, kind in (("TOO_MANY_SUBSCRIPTIONS", TooManySubscriptions), ("BAD_REQUEST", RequestRefused)):
        talk = Talk()
        talk.conversation.subscribe([TICKER])
        talk.give(error(talk.request(), code))
        assert type(talk.answers[0].error) is kind


def test_what_another_gateway_refuses_after_a_reconnection_is_an_event_and_asked_again_on_the_next() -> None:
    talk = Talk(TICKER)
    talk.give(ticker_snapshot(3))
    talk.lose()
    talk.connect()
    events = talk.give(error(talk.request(), "UNKNOWN_PRODUCT")) + talk.give(pong(talk.request()))
    assert [type(event) for event in events] == [Refused]
    assert talk.conversation.streams[TICKER].status.state == "refused"
    talk.lose()
    talk.connect()
    assert talk.accept()["from_seq"] == {P: {"ticker": {"epoch": EPOCH, "seq": 3}}}


def test_a_request_without_an_answer_ends_the_connection() -> None:
    talk = Talk()
    talk.conversation.subscribe([TICKER])
    talk.requests()
    talk.wait(9)
    assert talk.conversation.broken is None
    (event,) = talk.wait(2)
    assert isinstance(event, Violation)
    assert talk.conversation.broken


def test_answers_to_nothing_are_told() -> None:
    talk = Talk()
    answers = (
        '{"op":"subscribed","id":77,"products":["A"],"channels":["ticker"]}', '{"op":"unsubscribed","id":3}',
        '{"op":"pong","t":9}', '{"op":"subscribed","products":[],"channels":[]}',
    )  # fmt: skip
    for answer in answers:
        (event,) = talk.give(answer)
        assert isinstance(event, Violation)
        assert event.kind == "reply"
    assert talk.conversation.broken is None


def test_a_ping_is_measured_and_sent_again_over_a_lost_connection() -> None:
    talk = Talk()
    talk.conversation.ping()
    talk.requests()
    talk.lose()
    talk.connect()
    request = talk.request()
    talk.now += SECOND
    talk.give(pong(request))
    assert talk.answers[0].took_ns == SECOND + 1


# Leaving --------------------------------------------------------------------------------------------------------


def test_what_was_left_is_not_followed_and_no_longer_asked_for() -> None:
    talk = Talk(TICKER, BOOK)
    talk.give(ticker_snapshot(3), book_snapshot(4))
    talk.conversation.unsubscribe([P], [Channel.BOOK])
    request = talk.request()
    assert (request["products"], request["channels"]) == ([P], ["book"])
    assert talk.give(book_snapshot(5)) == []  # was under way
    talk.give(f'{{"op":"unsubscribed","id":{request["id"]},"products":["{P}"],"channels":["book"]}}')
    assert talk.answers[-1].error is None
    assert [event.kind for event in talk.give(book_snapshot(6)) if isinstance(event, Violation)] == ["unsubscribed"]
    talk.lose()
    talk.connect()
    assert talk.request()["channels"] == ["ticker"]


def test_all_can_be_left_at_once_and_nothing_without_a_connection() -> None:
    talk = Talk(TICKER, BOOK)
    talk.conversation.unsubscribe(None, None)
    assert set(talk.request()) == {"op", "id"}
    talk.lose()
    assert len(talk.conversation.take_answers()) == 1
    talk.conversation.unsubscribe(None, None)
    assert len(talk.conversation.take_answers()) == 1


def test_who_leaves_what_is_being_asked_for_has_an_answer() -> None:
    talk = Talk()
    first = talk.conversation.subscribe([TICKER])
    request = talk.request()
    talk.conversation.unsubscribe([P], None)
    assert [answer.number for answer in talk.conversation.take_answers()] == [first]
    assert talk.give(subscribed(request)) == []


# Connections ----------------------------------------------------------------------------------------------------


def test_a_new_connection_resumes_by_position_and_asks_for_snapshots_of_what_has_none() -> None:
    talk = Talk(TICKER, TRADES, BOOK)
    talk.give(ticker_snapshot(3), trades_snapshot(4, [1]))
    (lost,) = talk.lose()
    assert isinstance(lost, Disconnected)
    (connected,) = talk.connect()
    assert isinstance(connected, Connected)
    assert connected.again
    request = talk.request()
    assert sorted(request["channels"]) == ["book", "ticker", "trades"]
    assert request["from_seq"] == {P: {"ticker": {"epoch": EPOCH, "seq": 3}, "trades": {"epoch": EPOCH, "seq": 4}}}


def test_positions_of_an_earlier_run_are_resumed() -> None:
    talk = Talk()
    talk.conversation.subscribe([TRADES], after={(P, "trades"): (EPOCH, 41)})
    assert talk.accept()["from_seq"] == {P: {"trades": {"epoch": EPOCH, "seq": 41}}}


def test_subscribing_again_begins_anew() -> None:
    talk = Talk(TRADES)
    talk.give(trades_snapshot(4, [1, 2]))
    talk.conversation.subscribe([TRADES])
    request = talk.request()
    assert "from_seq" not in request
    assert talk.give(trades_snapshot(5, [1, 2, 3], reason="gap")) == []  # of the old subscription
    talk.give(subscribed(request), trades_snapshot(6, [3, 4]))
    assert [one.trade_id for one in talk.conversation.streams[TRADES].contents.trades.held] == [1, 2, 3, 4]


def test_a_gateway_that_goes_away_is_left_in_time() -> None:
    talk = Talk(TICKER)
    (event,) = talk.give('{"op":"goaway","reason":"draining","reconnect_ms":370}')
    assert isinstance(event, Goaway)
    assert talk.conversation.leave_at == talk.now + 370_000_000
    talk.give(f'{{"op":"goaway","reason":"draining","reconnect_ms":{10**15}}}')
    assert talk.conversation.leave_at == talk.now + 60 * SECOND


def test_what_cannot_be_read_ends_the_connection_and_what_is_unknown_does_not() -> None:
    talk = Talk()
    assert talk.give('{"op":"of the future","data":[1]}', '{"op":"heartbeat","ts":1,"more":2}') == []
    for text in ("", "[]", '{"op":1}', '{"op":"incr"}', '{"op":"status","state":"odd"}', "[" * 100_000):
        talk = Talk()
        (event,) = talk.give(text)
        assert isinstance(event, Violation)
        assert event.kind == "malformed"
        assert talk.conversation.broken
        assert len(event.text) <= 2000


words = st.sampled_from(["op", "data", "product", "channel", "epoch", "seq", "state", "type", "t", "id"])
values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(words, inner)
)


@given(st.text() | values.map(json.dumps))
def test_nothing_that_comes_raises(text: str) -> None:
    talk = Talk(TICKER, TRADES, BOOK)
    talk.give(text)
