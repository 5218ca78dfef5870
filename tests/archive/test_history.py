"""Several streams as one history, and what a replay of them comes to."""

import itertools
from typing import Any

import pytest

from lfmesh.archive.digest import StreamDigest, TradesDigest, digest, hash_of
from lfmesh.archive.history import history, publish_time
from lfmesh.archive.places import journal_folder
from lfmesh.archive.reader import Archive
from lfmesh.core.statehash import ProductState, TradeHash, state_hash
from lfmesh.types import CHANNELS, Channel, Position, StreamKey
from tests.archive.market import MS, Market, Step
from tests.archive.published import BTC, NOW, increments, opening
from tests.archive.shelf import VENUE, Shelf, journal, upload

STEPS = [Step("inc", 100 * (pick % 7), pick) for pick in range(120)]


@pytest.fixture(scope="module")
def markets() -> dict[StreamKey, Market]:
    found = {}
    for product, (number, channel) in itertools.product(("BTC-USD", "ETH-USD"), enumerate(CHANNELS)):
        market = Market(channel, product)
        steps = STEPS[number * 3 :] + STEPS[: number * 3]
        market.play([*steps[:40], Step("epoch", 0, 0), *steps[40:80], Step("lose", 0, 1), *steps[80:]])
        found[market.stream] = market
    return found


@pytest.fixture(scope="module")
def archive(markets: dict[StreamKey, Market], tmp_path_factory: pytest.TempPathFactory) -> Archive:
    shelf, data_dir = Shelf(), tmp_path_factory.mktemp("data")
    for market in markets.values():
        upload(shelf, market.stream, market.entries[:60])
    journal(data_dir, [entry for market in markets.values() for entry in market.entries[50:]])
    return Archive(shelf, VENUE, [journal_folder(data_dir, "snapshotter-0")])


def test_all_lines_of_all_streams_in_the_order_of_time(archive: Archive, markets: dict[StreamKey, Market]) -> None:
    told = list(history(archive, archive.streams()))
    keys = [(line.time, publish_time(line.message)) for _, line in told]
    assert keys == sorted(keys)
    for stream, market in markets.items():
        mine = [line.message for key, line in told if key == stream]
        assert mine == [message for record in market.records for message in record.messages]
    parts = [(key, line.part, line.parts) for key, line in told if line.parts > 1]
    assert parts
    for (one, part, count), (other, next_part, _) in itertools.pairwise(parts):
        assert next_part == (1 if part == count else part + 1)
        assert part == count or one == other
    window = list(history(archive, archive.streams(), start_ts=told[100].line.time, end_ts=told[400].line.time))
    assert window == [each for each in told if told[100].line.time <= each.line.time <= told[400].line.time]
    position = Position(told[300].line.epoch, told[300].line.seq)
    later = list(history(archive, [told[300].stream], after={told[300].stream: position}))
    assert len(later) == sum(key == told[300].stream for key, _ in told[301:])


def expected_hash(markets: dict[StreamKey, Market], at: int = 1 << 62) -> str:
    """Straight from the markets' own pictures."""
    states = []
    for product in ("BTC-USD", "ETH-USD"):
        book, ticker = (shown_at(markets[StreamKey(product, name)], at) for name in (Channel.BOOK, Channel.TICKER))
        bids, asks = ([(px, qty) for px, qty in book[side]] for side in ("bids", "asks"))
        bid, ask = ticker["best_bid"], ticker["best_ask"]
        trades, seen = TradeHash(), 0
        market = markets[StreamKey(product, Channel.TRADES)]
        for record in market.records:
            for trade in market.text_of(record)["trades"]:
                if int(trade["trade_id"]) > seen and record.time <= at:
                    seen = int(trade["trade_id"])
                    trades.add(seen, trade["px"], trade["qty"], trade["side"])
        best = (bid["px"], bid["qty"]), (ask["px"], ask["qty"] or "")
        states.append(ProductState(product, bids, asks, None, best[0], best[1], trades))
    return state_hash(states)


def shown_at(market: Market, at: int) -> Any:  # noqa: ANN401 - JSON
    record = market.state_at(at)
    assert record is not None
    return market.text_of(record)


def test_the_hash_is_that_of_the_states_at_the_end(archive: Archive, markets: dict[StreamKey, Market]) -> None:
    digests = [digest(archive, stream) for stream in archive.streams()]
    assert hash_of(digests) == expected_hash(markets)
    by_stream = {found.stream: found for found in digests}
    for stream, market in markets.items():
        found = by_stream[stream]
        assert found.messages == sum(len(record.messages) for record in market.records) - sum(
            len(entry.messages) for entry in market.entries if entry.header.flags
        )
        assert (found.snapshots, found.holes) == (3, 1)
        assert (found.first_ts, found.last_ts) == (market.records[0].time, market.records[-1].time)


def test_the_hash_up_to_a_moment(archive: Archive, markets: dict[StreamKey, Market]) -> None:
    ends = sorted(market.records[-1].time for market in markets.values())
    at = ends[0] - 5000 * MS
    assert hash_of(digest(archive, stream, None, at) for stream in archive.streams()) == expected_hash(markets, at)


def test_from_a_moment_on_books_and_tickers_are_whole_and_trades_are_those_since(
    archive: Archive, markets: dict[StreamKey, Market]
) -> None:
    start = next(iter(markets.values())).records[60].time
    for stream in archive.streams():
        whole, part = digest(archive, stream), digest(archive, stream, start)
        market = markets[stream]
        since = [record for record in market.records if record.time >= start]
        assert part.first_ts >= start
        if isinstance(part.state, TradesDigest):
            assert isinstance(whole.state, TradesDigest)
            assert part.state.last == whole.state.last
            assert 0 < part.state.count < whole.state.count
        else:
            assert part.state == whole.state
        increments_since = [record for record in since if b'"op":"incr"' in record.messages[0]]
        assert part.messages == len(increments_since)


def test_trades_of_snapshots_count_once_and_declared_ones_not_at_all() -> None:
    shelf, trades = Shelf(), '{"px":1.0,"qty":2,"side":"buy","trade_id":%d}'
    told = [trades % number for number in (1, 2, 3)]
    first = opening(BTC, Position(1, 0), ts_event=NOW)
    (message,) = first.messages
    state = '{"trades":[' + ",".join(told) + '],"last_trade_id":5}'
    entry = first._replace(messages=[message.replace(b'{"trades":[],"part":0}', state.encode())])
    upload(shelf, BTC, [entry, increments(BTC, Position(1, 1), 9, NOW)])  # trade ids 1 to 9
    found = digest(Archive(shelf, VENUE), BTC)
    assert isinstance(found.state, TradesDigest)
    expected = TradeHash()
    for number in (1, 2, 3):
        expected.add(number, "1.0", "2", "buy")
    for number in (6, 7, 8, 9):
        expected.add(number, "1.10", "2", "buy")
    assert (found.state.count, found.state.hexdigest()) == (7, expected.hexdigest())


def test_without_a_ticker_the_book_and_the_trades_tell_its_part(archive: Archive) -> None:
    product = "BTC-USD"
    book, trades = (digest(archive, StreamKey(product, channel)) for channel in (Channel.BOOK, Channel.TRADES))
    assert not isinstance(book.state, TradesDigest)
    assert isinstance(trades.state, TradesDigest)
    bids, asks = getattr(book.state, "bids", []), getattr(book.state, "asks", [])
    bid, ask = next(iter(bids), None), next(iter(asks), None)
    state = ProductState(product, bids, asks, trades.state.last, bid, ask, trades.state)
    assert hash_of([book, trades]) == state_hash([state])


def test_what_was_never_archived_is_empty(archive: Archive) -> None:
    stream = StreamKey("XRP-USD", Channel.BOOK)
    assert digest(archive, stream) == StreamDigest(stream, 0, 0, 0, 0, 0, None)
    assert list(history(archive, [])) == []


@pytest.mark.parametrize("message", [b"{}", b'{"op":"status"}'])
def test_what_is_no_message_has_no_publish_time(message: bytes) -> None:
    with pytest.raises(ValueError, match="not found"):
        publish_time(message)
