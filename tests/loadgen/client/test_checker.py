"""The checker against hand-made streams: right ones raise nothing, and each broken promise raises its own kind."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lfmesh.core import encode
from lfmesh.core.statehash import TradeHash, state_hash
from lfmesh.types import Channel, Level, Position
from loadgen.client.checker import Checker
from loadgen.client.report import report
from loadgen.client.tap import CheckerTap
from loadgen.client.violations import Kind
from loadgen.client.wire import Ping, Subscribe
from tests.loadgen.client.feed import (
    EPOCH,
    SECOND,
    Feed,
    P,
    book_incr,
    book_snapshot,
    conflated,
    snapshot,
    tick,
    trade,
    trade_incr,
    trades_snapshot,
)

BIDS: list[Level] = [("10.50", "2.0"), ("10.40", "1.10")]
ASKS: list[Level] = [("10.60", "0.5"), ("10.70", "3")]
TRADED = '{"px":10.50,"qty":1.0,"side":"buy","trade_id":7}'
TICK = f'{{"last_trade":{TRADED},"best_bid":{{"px":10.50,"qty":null}},"best_ask":null}}'
EMPTY_TICK = '{"last_trade":null,"best_bid":null,"best_ask":null}'


@pytest.fixture
def feed() -> Feed:
    return Feed()


def with_book(feed: Feed) -> Feed:
    feed.subscribe("book")
    feed.give(book_snapshot(5, BIDS, ASKS))
    return feed


# Right streams --------------------------------------------------------------------------------------------------


def test_a_right_stream_raises_nothing_and_its_state_keeps_every_digit(feed: Feed) -> None:
    feed.subscribe("ticker", "trades", "book")
    feed.give(
        snapshot(Channel.TICKER, 3, [TICK]),
        trades_snapshot(4, [trade(6), trade(7)]),
        book_snapshot(5, BIDS, ASKS),
        book_incr(6, [("10.50", "0.00000000"), ("10.45", "1.500")], [("10.60", "7.0")]),
        trade_incr(5, trade(8, "10.60", "0.10")),
        tick(4, EMPTY_TICK),
    )
    feed.assert_clean()
    book, trades = feed.checker.book(P), feed.checker.trades(P)
    assert book is not None
    assert book.bids() == [("10.45", "1.500"), ("10.40", "1.10")]
    assert book.asks() == [("10.60", "7.0"), ("10.70", "3")]
    assert book.best_bid() == ("10.45", "1.500")
    assert book.best_ask() == ("10.60", "7.0")
    assert trades is not None
    assert [tuple(line) for line in trades.held] == [
        (6, "10.50", "1.0", "buy"),
        (7, "10.50", "1.0", "buy"),
        (8, "10.60", "0.10", "buy"),
    ]
    assert feed.checker.ticker(P) == (None, None, None)
    assert feed.checker.position(P, "book") == Position(EPOCH, 6)
    assert feed.checker.increments == 3
    assert feed.checker.snapshots == 3
    assert feed.checker.waiting() == []


def test_one_level_written_with_other_zeros_is_the_same_level(feed: Feed) -> None:
    with_book(feed).give(book_incr(6, [("10.5", "0")]))
    book = feed.checker.book(P)
    assert book is not None
    assert book.bids() == [("10.40", "1.10")]


def test_the_ticker_of_a_snapshot_keeps_every_digit(feed: Feed) -> None:
    feed.subscribe("ticker")
    feed.give(snapshot(Channel.TICKER, 3, [TICK]))
    assert feed.checker.ticker(P) == ((7, "10.50", "1.0", "buy"), ("10.50", ""), None)
    feed.assert_clean()


def test_unknown_fields_are_ignored(feed: Feed) -> None:
    with_book(feed).give(book_incr(6).replace(b'"v":1', b'"v":1,"later":{"x":[]}'))
    feed.assert_clean()


def test_a_snapshot_in_parts_counts_when_its_last_part_has_come(feed: Feed) -> None:
    feed.subscribe("book", "ticker")
    states = encode.book_state_parts(BIDS, ASKS, part_bytes=80)
    assert len(states) == 2
    first, second = snapshot(Channel.BOOK, 5, states)
    feed.give(first)
    assert feed.checker.book(P) is None
    feed.give(snapshot(Channel.TICKER, 0, [TICK]), second, book_incr(6))
    feed.assert_clean()
    book = feed.checker.book(P)
    assert book is not None
    assert (book.bids(), book.asks()) == (BIDS, ASKS)


def test_a_new_epoch_comes_with_its_snapshot(feed: Feed) -> None:
    with_book(feed).give(book_snapshot(0, BIDS, ASKS, epoch=EPOCH + 1, reason="resync"), book_incr(1, epoch=EPOCH + 1))
    feed.assert_clean()


def test_conflated_increments_name_their_predecessor(feed: Feed) -> None:
    feed.subscribe("book", conflate_ms=100)
    feed.give(book_snapshot(5, BIDS, ASKS), conflated(book_incr(9), 5), conflated(book_incr(12), 9), book_incr(13))
    feed.assert_clean()


def test_what_was_resumed_with_nothing_to_be_sent_may_be_conflated_later(feed: Feed) -> None:
    feed.subscribe("book", resume=(EPOCH, 5))
    feed.give(book_snapshot(6, BIDS, ASKS, reason="conflated"), book_incr(7))
    feed.assert_clean()


def test_what_is_resumed_may_be_merged(feed: Feed) -> None:
    with_book(feed)
    feed.checker.disconnected()
    feed.checker.connected(feed.now)
    feed.subscribe("book", resume=(EPOCH, 5), conflate_ms=100, request_id=2)
    feed.give(conflated(book_incr(9, [("10.42", "1")]), 5), conflated(book_incr(12), 9))
    feed.assert_clean()
    (stream,) = [stream for key, stream in feed.checker.streams() if key.channel == "book"]
    assert (stream.conflated, stream.increments, stream.seq) == (2, 2, 12)


def paced(feed: Feed, *, received_ms: Sequence[int], published_ms: Sequence[int]) -> None:
    """Increments of a book with an interval of 100 ms, received and published at these times after the request."""
    feed.subscribe("book", conflate_ms=100)
    feed.give(book_snapshot(0, BIDS, ASKS))
    began = feed.now
    for seq, (received, published) in enumerate(zip(received_ms, published_ms, strict=True), 1):
        at = began + published * 1_000_000
        feed.now = began + received * 1_000_000
        feed.give(conflated(book_incr(seq, stamps=(at, at, at)), seq - 1))


IN_TIME = range(0, 4000, 100)
TOO_OFTEN = range(0, 400, 10)
IN_A_BUNCH = [4000] * 40


@pytest.mark.parametrize(
    ("received", "published"),
    [
        (IN_TIME, IN_TIME),
        (IN_A_BUNCH, IN_TIME),  # the client was held up
        (IN_TIME, TOO_OFTEN),  # a replay, ten times as fast as it was
        (
            [*range(5), *range(600, 4100, 100)],
            [*range(5), *range(600, 4100, 100)],
        ),  # who joins is brought to the others
    ],
)
def test_one_increment_an_interval_however_it_comes(
    feed: Feed, received: Sequence[int], published: Sequence[int]
) -> None:
    paced(feed, received_ms=received, published_ms=published)
    feed.assert_clean()


def test_a_lost_connection_is_resumed_without_a_snapshot(feed: Feed) -> None:
    with_book(feed).give(book_incr(6, [("10.41", "1")]))
    feed.checker.disconnected()
    feed.checker.connected(feed.now)
    assert feed.checker.resume_positions()[P]["book"].seq == 6
    feed.subscribe("book", resume=(EPOCH, 6), request_id=2)
    feed.give(book_incr(7, [("10.42", "1")]))
    feed.assert_clean()
    book = feed.checker.book(P)
    assert book is not None
    assert [px for px, _ in book.bids()] == ["10.50", "10.42", "10.41", "10.40"]


def test_a_resume_may_bring_the_epochs_that_began_meanwhile_or_fail_openly(feed: Feed) -> None:
    with_book(feed)
    feed.checker.disconnected()
    feed.checker.connected(feed.now)
    feed.subscribe("book", resume=(EPOCH, 5), request_id=2)
    feed.give(book_snapshot(0, BIDS, ASKS, epoch=EPOCH + 1, reason="epoch"), book_incr(1, epoch=EPOCH + 1))
    feed.subscribe("book", resume=(EPOCH, 5), request_id=3)
    feed.give(book_snapshot(8, BIDS, ASKS, epoch=EPOCH + 2, reason="resume_failed"))
    feed.assert_clean()


def test_a_bare_seq_and_no_snapshot_wanted(feed: Feed) -> None:
    feed.subscribe("book", bare=41)
    feed.give(book_incr(42))
    feed.subscribe("ticker", want_snapshot=False, request_id=2)
    feed.give(tick(777, TICK), tick(778, TICK))
    feed.assert_clean()
    assert feed.checker.book(P) is None


def test_declared_gaps_are_told_and_are_no_violation(feed: Feed) -> None:
    feed.subscribe("trades")
    feed.give(
        trades_snapshot(4, [trade(6)]),
        trades_snapshot(0, [trade(6), trade(10)], epoch=EPOCH + 1, reason="gap", missing=(7, 9)),
        trade_incr(1, trade(11), epoch=EPOCH + 1),
        trades_snapshot(0, epoch=EPOCH + 2, reason="gap", missing=(12, 15)),
        trade_incr(1, trade(16), epoch=EPOCH + 2),
    )
    feed.assert_clean()
    assert feed.checker.declared_gaps() == [(P, 7, 9), (P, 12, 15)]


def test_control_messages(feed: Feed) -> None:
    with_book(feed)
    feed.checker.requested(Ping(t=5), feed.now)
    for text in (
        '{"op":"pong","t":5}',
        '{"op":"heartbeat","ts":7}',
        '{"op":"rate_limit","retry_ms":12,"id":1}',
        f'{{"op":"status","product":"{P}","channel":"book","state":"stale","since":5,"reason":"silence"}}',
        '{"op":"goaway","reason":"draining","reconnect_ms":100}',
        '{"op":"error","code":"UNKNOWN_PRODUCT","msg":"X-Y","id":1}',
    ):
        feed.text(text)
    feed.assert_clean()
    assert feed.checker.errors == ["UNKNOWN_PRODUCT: X-Y"]
    assert feed.checker.going_away == "draining"
    assert [(seen.state, seen.reason) for seen in feed.checker.statuses] == [("stale", "silence")]


def test_unsubscribed_streams_may_be_subscribed_anew(feed: Feed) -> None:
    feed.subscribe("trades")
    feed.give(trades_snapshot(4, [trade(6)]))
    feed.unsubscribe("trades")
    feed.subscribe("trades", request_id=2)
    feed.give(trades_snapshot(90, [trade(200)]), trade_incr(91, trade(201)))
    feed.assert_clean()


def test_a_restart_may_go_back_to_before_the_first_trade_and_tell_all_again(feed: Feed) -> None:
    feed.subscribe("trades")
    feed.give(trades_snapshot(0), trade_incr(1, trade(7)), trade_incr(2, trade(8)))
    feed.subscribe("trades", request_id=2)
    feed.give(trades_snapshot(0), trade_incr(1, trade(7)), trade_incr(2, trade(8)), trade_incr(3, trade(9)))
    feed.assert_clean()
    trades = feed.checker.trades(P)
    assert trades is not None
    assert [trade.trade_id for trade in trades.held] == [7, 8, 9]
    feed.subscribe("trades", request_id=3)
    feed.give(trades_snapshot(0), trade_incr(1, trade(11)))
    assert feed.kinds == [Kind.TRADE_GAP]


def test_latencies_are_measured_from_both_stamps(feed: Feed) -> None:
    with_book(feed)
    published = feed.now - 1
    feed.now += 1000
    feed.give(book_incr(6, stamps=(1, 2, published)))
    assert feed.checker.publish_latency.max == feed.now - published
    assert feed.checker.ingest_latency.max == feed.now - 2
    assert feed.checker.from_before == 0


def test_what_was_published_before_the_stream_was_asked_for_is_no_latency(feed: Feed) -> None:
    asked_at = feed.now
    with_book(feed).give(book_incr(6, stamps=(1, 2, asked_at)), book_incr(7, stamps=(1, 2, asked_at + 1)))
    assert (feed.checker.publish_latency.count, feed.checker.ingest_latency.count) == (1, 1)
    assert feed.checker.from_before == 1
    feed.checker.disconnected()
    feed.checker.connected(feed.now)
    asked_at = feed.now
    feed.subscribe("book", resume=(EPOCH, 7), request_id=2)
    feed.give(book_incr(8, stamps=(1, 2, asked_at - 1)), book_incr(9, stamps=(1, 2, asked_at + 1)))
    assert (feed.checker.publish_latency.count, feed.checker.from_before) == (2, 2)
    assert report([CheckerTap(feed.checker)], 1.0, [], with_hash=False).from_before == 2
    feed.assert_clean()


# Broken promises ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"op":"surprise"}',
        '{"op":"incr"}',
        '{"op":"heartbeat","ts":"now"}',
        '{"op":"error","code":"OOPS","msg":""}',
        '{"op":"rate_limit","retry_ms":9007199254740992}',
        f'{{"op":"status","product":"{P}","channel":"book","state":"odd","since":5,"reason":""}}',
        f'{{"op":"status","product":"{P}","channel":"depth","state":"live","since":5,"reason":""}}',
    ],
)
def test_what_is_no_message_is_malformed(feed: Feed, text: str) -> None:
    with_book(feed).text(text)
    assert feed.kinds == [Kind.MALFORMED]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"v":1', b'"v":2'),
        (b'"unverified"', b'"sure"'),
        (b'"type":"book"', b'"type":"tick"'),
        (b'"seq":6', b'"seq":"6"'),
        (b'"seq":6', b'"seq":6.5'),
        (b'"asks":[]', b'"offers":[]'),
        (b'"ts_publish":3,', b""),
        (b"BTC", b"\xff"),
    ],
)
def test_a_field_that_is_wrong_is_malformed(feed: Feed, old: bytes, new: bytes) -> None:
    message = book_incr(6)
    assert old in message
    with_book(feed).give(message.replace(old, new, 1))
    assert feed.kinds == [Kind.MALFORMED]


def test_a_trade_with_another_side_is_malformed(feed: Feed) -> None:
    feed.subscribe("trades")
    feed.give(trades_snapshot(0), trade_incr(1, trade(1)).replace(b'"buy"', b'"bought"'))
    assert feed.kinds == [Kind.MALFORMED]


@pytest.mark.parametrize("px", ["1e5", "-1", '"10.5"', "null", "1.1234567890123456789"])
def test_a_price_that_is_no_exact_decimal(feed: Feed, px: str) -> None:
    with_book(feed).give(book_incr(6, [(px, "1")]))
    assert feed.kinds == [Kind.NOT_EXACT]


def test_a_snapshot_whose_state_is_wrong(feed: Feed) -> None:
    feed.subscribe("book")
    feed.give(snapshot(Channel.BOOK, 5, ['{"bids":[]}']))
    assert feed.kinds == [Kind.MALFORMED]
    feed.give(snapshot(Channel.BOOK, 5, ['{"bids":[[1e3,1]],"asks":[]}'], reason="gap"))
    assert feed.kinds == [Kind.MALFORMED, Kind.NOT_EXACT]


def test_what_the_models_refuse() -> None:
    checker = Checker(validate=lambda frame: "no such thing" if b"heartbeat" in frame else None)
    checker.connected(0)
    checker.receive(b'{"op":"heartbeat","ts":1}', 1)
    assert [violation.kind for violation in checker.violations.first] == [Kind.MODEL]


@pytest.mark.parametrize(
    "text",
    [
        '{"op":"subscribed","id":7,"products":["BTC-USD"],"channels":["book"]}',
        '{"op":"subscribed","products":["BTC-USD"],"channels":["book"]}',
        '{"op":"unsubscribed","id":7,"products":["BTC-USD"],"channels":["book"]}',
        '{"op":"pong","t":1}',
    ],
)
def test_replies_to_nothing(feed: Feed, text: str) -> None:
    feed.text(text)
    assert feed.kinds == [Kind.REPLY]


def test_a_subscription_of_what_was_not_asked_for(feed: Feed) -> None:
    feed.checker.requested(Subscribe(id=1, products=[P], channels=["book"]), feed.now)
    feed.text(f'{{"op":"subscribed","id":1,"products":["{P}"],"channels":["book","ticker"]}}')
    assert feed.kinds == [Kind.REPLY]


def test_messages_of_streams_that_are_not_subscribed(feed: Feed) -> None:
    with_book(feed)
    feed.give(tick(1, TICK), snapshot(Channel.TICKER, 1, [TICK]))
    feed.text(f'{{"op":"status","product":"{P}","channel":"trades","state":"live","since":5,"reason":""}}')
    feed.unsubscribe("book")
    feed.give(book_incr(6))
    assert feed.kinds == [Kind.UNSUBSCRIBED] * 4


def test_an_increment_before_the_snapshot(feed: Feed) -> None:
    feed.subscribe("book")
    feed.give(book_incr(6), book_incr(7))
    assert feed.kinds == [Kind.START]


def test_subscribing_again_restarts_with_a_snapshot(feed: Feed) -> None:
    with_book(feed)
    feed.subscribe("book", request_id=2)
    feed.give(book_incr(6))
    assert feed.kinds == [Kind.START]


@pytest.mark.parametrize(
    "first",
    [
        book_incr(7),
        book_incr(6, epoch=EPOCH + 1),
        book_snapshot(5, BIDS, ASKS),
        book_snapshot(5, BIDS, ASKS, reason="gap"),
        book_snapshot(5, BIDS, ASKS, reason="conflated"),
    ],
)
def test_a_resume_that_begins_elsewhere(feed: Feed, first: bytes | list[bytes]) -> None:
    feed.subscribe("book", resume=(EPOCH, 5))
    feed.give(first)
    assert feed.kinds == [Kind.START]


def test_snapshot_reasons_that_can_not_be(feed: Feed) -> None:
    feed.subscribe("book")
    feed.give(book_snapshot(5, BIDS, ASKS, reason="resume_failed"), book_snapshot(6, BIDS, ASKS))
    assert feed.kinds == [Kind.REASON] * 2


def test_a_jump_and_a_repetition_are_one_violation_each(feed: Feed) -> None:
    with_book(feed).give(book_incr(7), book_incr(8), book_incr(8), book_incr(9))
    assert feed.kinds == [Kind.SEQ, Kind.SEQ]


def test_prev_seq_must_be_the_last_position_and_is_not_for_trades(feed: Feed) -> None:
    feed.subscribe("book", "trades", conflate_ms=100)
    feed.give(book_snapshot(5, BIDS, ASKS), conflated(book_incr(9), 6), conflated(book_incr(9), 9))
    feed.give(trades_snapshot(0, [trade(1)]), conflated(trade_incr(3, trade(2)), 0))
    assert feed.kinds == [Kind.SEQ] * 3


def test_a_stream_that_nobody_wants_conflated_comes_as_it_was_published(feed: Feed) -> None:
    feed.subscribe("book", "trades")
    feed.give(conflated(trade_incr(1, trade(1)), 0), book_snapshot(5, BIDS, ASKS), conflated(book_incr(6), 5))
    assert feed.kinds == [Kind.SEQ] * 2
    feed.subscribe("book", conflate_ms=100, request_id=2)
    feed.give(book_snapshot(6, BIDS, ASKS), conflated(book_incr(8), 6), conflated(book_incr(8), 8))
    assert feed.kinds == [Kind.SEQ] * 3


def test_increments_that_come_oftener_than_was_asked_for(feed: Feed) -> None:
    paced(feed, received_ms=TOO_OFTEN, published_ms=TOO_OFTEN)
    assert set(feed.kinds) == {Kind.PACE}
    assert len(feed.kinds) < 5, "told once in a while"


def test_an_epoch_without_its_snapshot(feed: Feed) -> None:
    with_book(feed).give(book_incr(1, epoch=EPOCH + 1), book_incr(2, epoch=EPOCH + 1))
    assert feed.kinds == [Kind.EPOCH]


def test_parts_out_of_order_or_cut_short(feed: Feed) -> None:
    feed.subscribe("book")
    parts = snapshot(Channel.BOOK, 5, encode.book_state_parts(BIDS, ASKS, part_bytes=40))
    assert len(parts) == 2
    feed.give(parts[1])
    assert feed.kinds == [Kind.PARTS]
    feed.give(parts[0], parts[0], parts[1])
    assert feed.kinds == [Kind.PARTS], "a snapshot may be begun anew"
    feed.give(snapshot(Channel.BOOK, 5, encode.book_state_parts(BIDS, ASKS, part_bytes=40), reason="gap"))
    feed.give(parts[0].replace(b"subscribe", b"gap"), parts[1].replace(b'"seq":5', b'"seq":6'))
    assert feed.kinds == [Kind.PARTS] * 2
    feed.give(snapshot(Channel.BOOK, 6, encode.book_state_parts(BIDS, ASKS, part_bytes=40), reason="gap")[0])
    feed.give(book_incr(6))
    assert feed.kinds == [Kind.PARTS] * 3
    feed.give(parts[0].replace(b'"part":1', b'"part":3'))
    assert feed.kinds == [Kind.PARTS] * 4


def test_a_later_snapshot_must_be_what_the_increments_lead_to(feed: Feed) -> None:
    changed: list[Level] = [("10.50", "2.0")]
    with_book(feed).give(book_incr(6, [("10.40", "0")]), book_snapshot(6, changed, ASKS, reason="gap"))
    feed.assert_clean()
    feed.give(book_snapshot(6, BIDS, ASKS, reason="gap"))
    assert feed.kinds == [Kind.STATE]
    assert "nothing against 1.10 at 10.40" in feed.checker.violations.first[0].detail


def test_a_size_written_with_other_digits_is_another_state(feed: Feed) -> None:
    with_book(feed).give(book_snapshot(5, [("10.50", "2.00"), ("10.40", "1.10")], ASKS, reason="gap"))
    assert feed.kinds == [Kind.STATE]


def test_a_snapshot_from_behind_is_compared_when_its_increments_have_caught_up(feed: Feed) -> None:
    with_book(feed).give(book_incr(6, [("10.40", "0")]), book_incr(7, [("10.30", "4")]))
    feed.subscribe("book", request_id=2)
    feed.give(book_snapshot(5, BIDS, ASKS), book_incr(6, [("10.40", "0")]), book_incr(7, [("10.30", "4")]))
    feed.assert_clean()
    feed.subscribe("book", request_id=3)
    feed.give(book_snapshot(6, [("10.50", "2.0")], ASKS), book_incr(7, [("10.30", "5")]))
    assert feed.kinds == [Kind.STATE]


def test_the_ticker_of_a_later_snapshot_must_be_the_last_tick(feed: Feed) -> None:
    feed.subscribe("ticker")
    feed.give(snapshot(Channel.TICKER, 3, [TICK]), tick(4, EMPTY_TICK))
    feed.give(snapshot(Channel.TICKER, 4, [TICK], reason="gap"))
    assert feed.kinds == [Kind.STATE]


@pytest.mark.parametrize(
    ("bids", "asks"),
    [
        (list(reversed(BIDS)), ASKS),
        (BIDS, list(reversed(ASKS))),
        ([*BIDS, BIDS[-1]], ASKS),
        ([("10.50", "0.0")], ASKS),
    ],
)
def test_a_book_that_is_not_best_first(feed: Feed, bids: list[Level], asks: list[Level]) -> None:
    feed.subscribe("book")
    feed.give(book_snapshot(5, bids, asks))
    assert feed.kinds == [Kind.LEVELS]


def test_trades_that_repeat_go_back_or_are_lost(feed: Feed) -> None:
    feed.subscribe("trades")
    feed.give(trades_snapshot(0), trade_incr(1, trade(7)), trade_incr(2, trade(7)), trade_incr(3, trade(5)))
    assert feed.kinds == [Kind.TRADE_ORDER] * 2
    feed.give(trade_incr(4, trade(10)), trade_incr(5, trade(11)))
    assert feed.kinds == [Kind.TRADE_ORDER, Kind.TRADE_ORDER, Kind.TRADE_GAP]
    assert "8 to 9" in feed.checker.violations.first[-1].detail


@pytest.mark.parametrize(
    ("ids", "missing"), [([9, 10], None), ([8, 10], None), ([10], (9, 9)), ([8, 12], (10, 11)), ([], (9, 10))]
)
def test_trades_lost_between_snapshots(feed: Feed, ids: list[int], missing: tuple[int, int] | None) -> None:
    feed.subscribe("trades")
    feed.give(trades_snapshot(0, [trade(7)]))
    later = trades_snapshot(0, [trade(number) for number in ids], epoch=EPOCH + 1, reason="gap", missing=missing)
    feed.give(later)
    assert feed.kinds == [Kind.TRADE_GAP]


def test_a_snapshot_whose_trades_are_out_of_order(feed: Feed) -> None:
    feed.subscribe("trades")
    feed.give(trades_snapshot(0, [trade(7), trade(6)]))
    assert feed.kinds == [Kind.TRADE_ORDER]


def test_a_trade_that_comes_again_with_other_values(feed: Feed) -> None:
    feed.subscribe("trades")
    feed.give(trades_snapshot(0, [trade(7)]))
    feed.give(trades_snapshot(1, [trade(7, qty="1.00"), trade(8)], reason="gap"))
    assert feed.kinds == [Kind.TRADE_ALTERED]


def test_silence_is_a_violation_unless_we_were_held_up_ourselves(feed: Feed) -> None:
    quarter = SECOND // 4
    for step in range(1, 14):
        feed.checker.tick(feed.now + step * quarter)
    assert feed.kinds == [Kind.SILENCE]
    late = Feed()
    late.checker.tick(late.now + 10 * SECOND)
    late.assert_clean()
    late.checker.disconnected()
    for step in range(50):
        late.checker.tick(late.now + 10 * SECOND + step * quarter)
    late.assert_clean()


def test_violations_are_counted_without_bound_and_kept_within_one() -> None:
    feed = Feed(max_violations=3)
    for _ in range(10):
        feed.text("{}")
    assert len(feed.checker.violations.first) == 3
    assert feed.checker.violations.counts == {Kind.MALFORMED: 10}
    assert feed.checker.violations.total == 10


def test_every_kind_of_violation_is_provoked_in_this_module() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [kind for kind in Kind if f"Kind.{kind.name}" not in source] == []


# State hash -----------------------------------------------------------------------------------------------------


def test_the_states_of_two_clients_have_one_hash_whatever_their_positions() -> None:
    hashes = set()
    for epoch, first in ((EPOCH, 0), (EPOCH + 77, 40)):
        feed = Feed()
        feed.subscribe("ticker", "trades", "book")
        feed.give(
            snapshot(Channel.TICKER, first, [TICK], epoch=epoch),
            trades_snapshot(first, epoch=epoch),
            book_snapshot(first, BIDS, ASKS, epoch=epoch),
            trade_incr(first + 1, trade(7), epoch=epoch),
        )
        feed.assert_clean()
        hashes.add(state_hash(feed.checker.product_states()))
    assert len(hashes) == 1
    expected = TradeHash()
    expected.add(7, "10.50", "1.0", "buy")
    trades = feed.checker.trades(P)
    assert trades is not None
    assert trades.hash.hexdigest() == expected.hexdigest()


def settled_snapshot(seq: int, ids: list[int], settled: int, missing: tuple[int, int] | None = None) -> list[bytes]:
    state = encode.trades_state([encode.trade_fields(trade(number)) for number in ids], settled)
    return snapshot(Channel.TRADES, seq, [state], reason="gap", epoch=EPOCH + 1, missing=missing)


def test_trades_up_to_the_last_trade_id_must_be_listed_or_declared() -> None:
    for ids, settled, missing, gaps in (
        ([3, 4], 4, None, 0),
        ([3, 4], 6, None, 1),
        ([3, 4], 6, (5, 6), 0),
        ([], 6, (3, 6), 0),
        ([], 6, (4, 6), 1),
        ([6], 6, (3, 4), 1),
        ([7], 7, (4, 5), 2),
    ):
        feed = Feed()
        feed.subscribe("trades")
        feed.give(trades_snapshot(5, [trade(1), trade(2)]), settled_snapshot(0, ids, settled, missing))
        assert feed.kinds == [Kind.TRADE_GAP] * gaps, (ids, settled, missing)
        feed.give(trade_incr(1, trade(settled + 1), epoch=EPOCH + 1))
        assert len(feed.kinds) == gaps


def test_a_last_trade_id_before_the_last_trade_is_wrong() -> None:
    feed = Feed()
    feed.subscribe("trades")
    feed.give(trades_snapshot(5, [trade(1), trade(2)]), settled_snapshot(0, [3, 4], 3))
    assert feed.kinds == [Kind.TRADE_ORDER]
