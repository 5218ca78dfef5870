"""State made of published messages equals the publisher's own, text for text."""

import json
from collections.abc import Callable
from itertools import count

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.core import codec, encode
from lfmesh.core.contents import KEPT_TRADES, QUEUED_INCREMENTS, BookContent, TickerContent, TradesContent
from lfmesh.core.feed import Feed
from lfmesh.core.recovery import Accepted, Opened
from lfmesh.core.state import ShardState
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import BackfilledTrade
from lfmesh.types import Channel, InputPosition, Position, StreamKey, Trade
from tests.core.model_publisher import ModelPublisher, keys

BOOK = StreamKey("P0-USD", Channel.BOOK)
TRADES = StreamKey("P0-USD", Channel.TRADES)
TICKER = StreamKey("P0-USD", Channel.TICKER)


def ticking(start: int = 1000) -> Callable[[], int]:
    ticks = count(start)
    return lambda: next(ticks)


class Follower:
    """A shard's state fed with a publisher's frames."""

    def __init__(self) -> None:
        self.feed = Feed(0)
        self.state = ShardState()

    def take(self, frame: bytes) -> None:
        key, facts = self.feed.frame(codec.unpack(frame), 0)
        for fact in facts:
            match fact:
                case Opened():
                    self.state.open(key, fact)
                case Accepted():
                    self.state.accept(key, fact)
                case _:
                    raise AssertionError(fact)

    def text(self, key: StreamKey) -> str:
        state = self.state.get(key)
        assert state is not None
        return state.content.text().decode()


def joined(parts: list[bytes]) -> dict[str, list[object]]:
    """The lists of all parts one after another, numbers as texts."""
    whole: dict[str, list[object]] = {}
    for part in parts:
        for name, values in json.loads(part, parse_int=str, parse_float=str).items():
            whole.setdefault(name, []).extend(values)
    return whole


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.lists(st.integers(0, 200), max_size=8), st.sampled_from(["", "", "look", "join"])
        ),
        max_size=60,
    )
)
def test_state_equals_the_publishers_at_every_look(actions: list[tuple[int, list[int], str]]) -> None:
    source, reader = ModelPublisher(0, 3, ticking()), Follower()
    streams = keys(2)
    for index, numbers, then in actions:
        key = streams[index]
        reader.take(source.increment(key, numbers) if numbers and key in source.streams else source.open(key))
        if then == "join":  # a state taken from a snapshot in the middle goes on like one followed from the start
            answer = reader.state.get(key)
            assert answer is not None
            reply, parts, _ = answer.answer(1)
            reader.state.base(key, reply.term, Position(reply.epoch, reply.seq), reply.input, 1, parts)
        if then:
            assert reader.text(key) == source.streams[key].state(key.channel)
    for key, stream in source.streams.items():
        state = reader.state.get(key)
        assert state is not None
        assert (state.position, state.term) == (stream.position, 3)
        assert reader.text(key) == stream.state(key.channel)


def test_many_increments_do_not_wait_for_a_look() -> None:
    source, reader = ModelPublisher(0, 3, ticking()), Follower()
    reader.take(source.open(BOOK))
    for number in range(3 * QUEUED_INCREMENTS):
        reader.take(source.increment(BOOK, [number]))
    state = reader.state.get(BOOK)
    assert state is not None
    assert isinstance(state.content, BookContent)
    assert len(state.content._queued) < QUEUED_INCREMENTS
    assert state.content.size > 0
    assert reader.text(BOOK) == source.streams[BOOK].state(Channel.BOOK)


def test_digits_stay_and_prices_written_differently_are_one_level() -> None:
    book = BookContent()
    book.load([b'{"bids":[[1.10,5],[1.0,0.00000001]],"asks":[[2.000000000000000001,12345678901234567890.5]]}'])
    book.apply([message("book", '{"bids":[[1.1,7.00],[1,0.000]],"asks":[]}')])
    assert book.text() == b'{"bids":[[1.1,7.00]],"asks":[[2.000000000000000001,12345678901234567890.5]]}'
    assert book.levels() == ([("1.1", "7.00")], [("2.000000000000000001", "12345678901234567890.5")])


def message(kind: str, fields: str) -> bytes:
    prefix = encode.increment_prefix(kind, "P0-USD", Channel.BOOK, 5)
    return encode.increment(prefix, 1, (11, 12, 13), "unverified", fields)


def test_a_big_book_comes_in_bounded_parts_that_join_to_the_whole() -> None:
    levels = 30_000
    bids = [(f"{40_000 - number}.25", f"0.{number:08}1") for number in range(levels)]
    asks = [(f"{40_001 + number}.50", "1") for number in range(levels // 3)]
    book = BookContent()
    book.load([part.encode() for part in encode.book_state_parts(bids, asks)])
    parts = book.parts()
    assert len(parts) > 2
    assert max(map(len, parts)) <= encode.PART_BYTES
    assert joined(parts) == {"bids": [list(level) for level in bids], "asks": [list(level) for level in asks]}


def test_parts_stay_bounded_when_levels_are_as_long_as_they_may_be() -> None:
    qty = "9" * 20 + "." + "9" * 18
    book = BookContent()
    book.load([encode.book_fields([(f"{number}.123456789012345678", qty) for number in range(1, 9000)], []).encode()])
    parts = book.parts()
    assert max(map(len, parts)) <= encode.PART_BYTES
    assert len(joined(parts)["bids"]) == 8999


def test_only_the_latest_trades_are_kept_whatever_they_came_with() -> None:
    source, reader = ModelPublisher(0, 3, ticking()), Follower()
    reader.take(source.open(TRADES))
    for number in range(KEPT_TRADES - 10):
        reader.take(source.increment(TRADES, [number]))
    reader.take(source.open(TRADES))
    for number in range(20):
        reader.take(source.increment(TRADES, [number, number + 1]))
    state = reader.state.get(TRADES)
    assert state is not None
    trades = state.summary().trades
    assert [trade.trade_id for trade in trades] == list(range(31, 81))
    assert trades[-1] == BackfilledTrade(80, "120.20", "0.5000", "sell", 20)
    assert trades[0].ts_event == 0, "a state does not tell when its trades happened"


def test_an_answer_is_encoded_once_until_the_stream_changes() -> None:
    source, reader = ModelPublisher(0, 3, ticking()), Follower()
    reader.take(source.open(BOOK))
    state = reader.state.get(BOOK)
    assert state is not None
    first = state.answer(50)
    again = state.answer(60)
    assert (first[2], again[2]) == (True, False)
    assert again[1] is first[1]
    assert again[0].ts_snapshot == 50
    reader.take(source.increment(BOOK, [1]))
    reply, parts, fresh = state.answer(70)
    assert fresh
    assert (reply.seq, reply.input, parts) == (1, InputPosition(1, 2, 2), [reader.text(BOOK).encode()])


def test_a_summary_says_what_a_starting_normalizer_needs() -> None:
    source, reader = ModelPublisher(0, 3, ticking()), Follower()
    for key in (BOOK, TICKER, TRADES):
        reader.take(source.open(key))
        reader.take(source.increment(key, [1, 2]))
    summaries = {}
    for state in reader.state:
        summaries[state.key.channel] = state.summary()
        stored = state.stored()
        assert (stored.stream, stored.position, stored.term) == (state.key, state.position, 3)
        assert stored.state.decode() == source.streams[state.key].state(state.key.channel)
    assert summaries[Channel.BOOK].bids == source.streams[BOOK].sides()[0]
    assert summaries[Channel.TICKER].fields.decode() == source.streams[TICKER].ticker
    assert (summaries[Channel.TICKER].epoch, summaries[Channel.TICKER].seq) == source.streams[TICKER].position
    assert summaries[Channel.TRADES].last_trade_id == source.trade_id


def test_the_last_trade_id_is_kept_where_the_publisher_tells_it() -> None:
    content = TradesContent()
    content.load([encode.trades_state([], 41).encode()])
    assert (content.text(), content.last_trade_id) == (b'{"trades":[],"last_trade_id":41}', 41)
    trade = encode.trade_fields(Trade("P0-USD", 42, "1.10", "2", "buy", 7))
    prefix = encode.increment_prefix("trade", "P0-USD", Channel.TRADES, 5)
    content.apply([encode.increment(prefix, 1, (1, 2, 3), "verified", trade)])
    assert content.last_trade_id == 42
    assert content.text().decode() == encode.trades_state([trade], 42)
    content.load([encode.trades_state([trade]).encode()])
    assert (content.text().decode(), content.last_trade_id) == (encode.trades_state([trade]), 42)
    content.load([encode.trades_state([]).encode()])
    assert content.last_trade_id == 0


@pytest.mark.parametrize("text", [b"", b"{}", b'{"bids":[],"asks":7}', b'{"bids":[1,2'])
def test_what_is_no_book_is_refused(text: bytes) -> None:
    book = BookContent()
    book.load([text])
    with pytest.raises(BadMeshFrame):
        book.text()


@pytest.mark.parametrize("level", ["[1]", '["a",1]', "[1e5,1]", "{}"])
def test_what_is_no_level_is_refused(level: str) -> None:
    book = BookContent()
    book.apply([message("book", f'{{"bids":[{level}],"asks":[]}}')])
    with pytest.raises(BadMeshFrame, match="not a level"):
        book.text()


def test_what_is_no_increment_is_refused() -> None:
    ticker = TickerContent()
    ticker.apply([b'{"op":"incr"}'])
    with pytest.raises(BadMeshFrame, match="without fields"):
        ticker.text()
    with pytest.raises(BadMeshFrame):
        TradesContent().load([b'{"trades":1}'])
    trades = TradesContent()
    trades.load([b'{"trades":[1]}'])
    with pytest.raises(BadMeshFrame):
        trades.trades()


def test_a_snapshot_without_a_state_is_refused() -> None:
    source, reader = ModelPublisher(0, 3, ticking()), Follower()
    frame = codec.unpack(source.open(BOOK))
    with pytest.raises(BadMeshFrame, match="without a state"):
        reader.take(codec.pack(frame.topic, frame.header, [b"{}"]))


def test_what_was_forgotten_is_gone() -> None:
    source, reader = ModelPublisher(0, 3, ticking()), Follower()
    reader.take(source.open(BOOK))
    reader.state.forget(BOOK)
    reader.state.forget(TICKER)
    assert reader.state.get(BOOK) is None
    assert len(reader.state) == 0


def test_a_state_cuts_out_as_it_went_in() -> None:
    states = encode.snapshot("P0-USD", Channel.TRADES, Position(1, 0), 5, "gap", ['{"trades":[]}'], (3, 4))
    assert encode.state_of(states[0]) == b'{"trades":[]}'
    assert msgspec.json.decode(states[0])["data"]["missing"] == {"from_trade_id": 3, "to_trade_id": 4}
