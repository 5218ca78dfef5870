"""A conflated message stands for what it was made of, whatever that was."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core import conflation, encode
from lfmesh.core.conflation import QUEUED_INCREMENTS, Conflater, conflated, follows
from lfmesh.core.contents import content_of
from lfmesh.errors import BadMeshFrame
from lfmesh.models import IncrementMessage, parse_message
from lfmesh.types import Channel, Continuity, Side, StreamKey, Trade

BOOK = StreamKey("BTC-USD", Channel.BOOK)
TICKER = StreamKey("BTC-USD", Channel.TICKER)
CONTINUITIES: tuple[Continuity, ...] = ("verified", "backfilled", "unverified")

Changes = list[tuple[Side, str, str]]

PRICES = st.builds(
    lambda whole, digits: f"{whole // 10}.{whole % 10:0<{digits}}" if digits else f"{whole // 10}",
    st.integers(1, 60),
    st.integers(0, 4),
)
SIZES = st.sampled_from(["0", "0.00000000", "0.5", "10", "100.0"])
CHANGES: st.SearchStrategy[Changes] = st.lists(
    st.tuples(st.sampled_from(("buy", "sell")), PRICES, SIZES), min_size=1, max_size=5
)
BOOKS = st.lists(st.tuples(CHANGES, st.sampled_from(CONTINUITIES)), min_size=1, max_size=30)


def book(seq: int, changes: Changes, continuity: Continuity = "unverified") -> bytes:
    prefix = encode.increment_prefix("book", "BTC-USD", Channel.BOOK, 11)
    return encode.increment(
        prefix, seq, (seq * 10, seq * 10 + 1, seq * 10 + 2), continuity, encode.book_changes(changes)
    )


def tick(seq: int, px: str = "1.50", continuity: Continuity = "verified") -> bytes:
    fields = encode.ticker_fields(
        encode.trade_fields(Trade("BTC-USD", seq, px, "2", "buy", 7)), "null", encode.level((px, None))
    )
    prefix = encode.increment_prefix("tick", "BTC-USD", Channel.TICKER, 11)
    return encode.increment(prefix, seq, (1, 2, 3), continuity, fields)


def books(steps: list[tuple[Changes, Continuity]], first: int = 1) -> list[bytes]:
    return [book(seq, changes, continuity) for seq, (changes, continuity) in enumerate(steps, first)]


def bare(message: bytes) -> bytes:
    """The message without its `prev_seq`."""
    before, _, after = message.partition(b',"prev_seq":')
    return before + after[after.index(b",") :] if after else message


def test_one_message_is_as_it_was_but_for_prev_seq() -> None:
    for key, message in ((BOOK, book(7, [("buy", "1.10", "2"), ("buy", "1.1", "3")])), (TICKER, tick(7))):
        made = conflated(key, [message], 4)
        assert made == message.replace(b'"seq":7,', b'"seq":7,"prev_seq":4,', 1)
        assert bare(made) == message


def test_a_ticker_is_the_latest() -> None:
    made = conflated(TICKER, [tick(5, "1.10"), tick(6, "1.20", "unverified"), tick(7, "1.30")], 4)
    assert bare(made) == tick(7, "1.30")
    assert b'"seq":7,"prev_seq":4,' in made


def test_the_levels_of_books_are_merged_by_exact_price() -> None:
    made = conflated(
        BOOK,
        [
            book(5, [("buy", "1.10", "2"), ("sell", "10", "1")]),
            book(6, [("buy", "1.2", "0.0"), ("buy", "1.1", "3")]),
            book(7, [("sell", "10.00", "0"), ("sell", "100", "4"), ("buy", "1.1", "5.000")]),
        ],
        4,
    )
    assert made == (
        b'{"op":"incr","data":{"v":1,"type":"book","product":"BTC-USD","channel":"book","epoch":11,"seq":7,"prev_seq":4,'
        b'"ts_event":70,"ts_ingest":71,"ts_publish":72,"continuity":"unverified",'
        b'"fields":{"bids":[[1.1,5.000],[1.2,0.0]],"asks":[[10.00,0],[100,4]]}}}'
    )


@given(st.lists(st.sampled_from(CONTINUITIES), min_size=2, max_size=5))
def test_the_continuity_of_a_book_is_the_weakest_of_all(all_of_them: list[Continuity]) -> None:
    messages = books([([("buy", "1", "1")], continuity) for continuity in all_of_them])
    message = parse_message(conflated(BOOK, messages, 0))
    assert isinstance(message, IncrementMessage)
    assert message.data.continuity == max(all_of_them, key=CONTINUITIES.index)


@given(BOOKS, BOOKS, st.data())
def test_applied_to_the_state_before_it_gives_the_state_after_for_any_split(
    start: list[tuple[Changes, Continuity]], steps: list[tuple[Changes, Continuity]], data: st.DataObject
) -> None:
    plain, merged = content_of(Channel.BOOK), content_of(Channel.BOOK)
    for content in (plain, merged):
        content.load([b'{"bids":[[2.5,1]],"asks":[[3.50,1]]}'])
        content.apply(books(start))
    first = len(start) + 1
    messages = books(steps, first)
    cuts = sorted({0, len(messages), *data.draw(st.lists(st.integers(0, len(messages)), max_size=4))})
    conflater = Conflater(BOOK)
    for begin, end in pairwise(cuts):
        for at in range(begin, end):
            conflater.add(messages[at : at + 1])
        assert conflater.count == end - begin
        made = conflater.take(first + begin - 1)
        assert conflater.count == 0
        plain.apply(messages[begin:end])
        merged.apply([made])
        assert merged.text() == plain.text()
        message = parse_message(made)
        assert isinstance(message, IncrementMessage)
        assert (message.data.prev_seq, message.data.seq, message.data.epoch) == (first + begin - 1, first + end - 1, 11)
        assert message.data.ts_publish == 10 * (first + end - 1) + 2


@given(BOOKS, st.integers(0, 30))
def test_merging_in_steps_is_merging_at_once(steps: list[tuple[Changes, Continuity]], cut: int) -> None:
    messages = [*books(steps), book(len(steps) + 1, [("buy", "1.00", "1")]), book(len(steps) + 2, [("buy", "1", "0")])]
    cut = min(max(cut, 2), len(messages) - 1)
    first = conflated(BOOK, messages[:cut], 0)
    assert conflated(BOOK, [first, *messages[cut:]], 0) == conflated(BOOK, messages, 0)


def test_many_messages_are_merged_before_they_are_taken_with_the_same_result() -> None:
    messages = [
        book(seq, [("buy" if seq % 3 else "sell", f"{seq % 40}.50", str(seq % 7))])
        for seq in range(1, 3 * QUEUED_INCREMENTS + 20)
    ]
    by_one, at_once = Conflater(BOOK), Conflater(BOOK)
    for message in messages:
        by_one.add([message])
        assert len(by_one._queued) < QUEUED_INCREMENTS
    at_once.add(messages)
    assert (by_one.count, at_once.count) == (len(messages), len(messages))
    made = by_one.take(0)
    assert made == at_once.take(0) == conflated(BOOK, [conflated(BOOK, messages[:100], 0), *messages[100:]], 0)
    assert made.count(b"],[") < 80, "one level a price"


def test_what_was_taken_or_cleared_is_forgotten() -> None:
    conflater = Conflater(BOOK)
    conflater.add([book(1, [("buy", "1", "1")], "verified")] * (QUEUED_INCREMENTS + 1))
    assert 0 < conflater.size < 10 * len(book(1, [("buy", "1", "1")]))
    conflater.clear()
    assert (conflater.count, conflater.size) == (0, 0)
    conflater.add([])
    with pytest.raises(ValueError, match="nothing to conflate"):
        conflater.take(0)
    messages = [book(2, [("sell", "2", "1")], "verified"), book(3, [("sell", "2", "2")], "verified")]
    for _ in range(2):
        conflater.add(messages)
        assert conflater.take(1) == conflated(BOOK, messages, 1)
    ticker = Conflater(TICKER)
    ticker.add([tick(1), tick(2)])
    assert (ticker.count, ticker.size) == (2, len(tick(2)))


def test_trades_are_never_conflated() -> None:
    with pytest.raises(ValueError, match="never conflated"):
        Conflater(StreamKey("BTC-USD", Channel.TRADES))


@pytest.mark.parametrize(
    "bad",
    [
        b"{}",
        b'{"op":"incr","data":{"seq":5}}',
        tick(5),
        book(5, [("buy", "1", "1")]).replace(b"[[1,1]]", b"[[1]]"),
        book(5, [("buy", "1", "1")]).replace(b"unverified", b"certain"),
    ],
)
def test_what_is_no_increment_of_a_book_is_refused(bad: bytes) -> None:
    with pytest.raises(BadMeshFrame):
        conflated(BOOK, [bad, book(6, [("buy", "1", "1")], "verified")], 4)


def test_only_increments_follow() -> None:
    with pytest.raises(BadMeshFrame, match="no increment"):
        follows(b'{"op":"snapshot","data":{"epoch":1,"seq":5,"ts_snapshot":7}}', 4)
    assert conflation.follows(follows(tick(9), 4), 3) == follows(tick(9), 3)
