"""Messages of the protocol, read with every digit."""

import json

import pytest

from lfmesh.client.messages import Book, Goaway, Other, Refused, Status, Subscribed, Ticker, Trade, Update, parse
from lfmesh.core import encode
from lfmesh.errors import BadFrame
from lfmesh.types import Channel, Position
from lfmesh.types import Trade as DomainTrade


def tick(fields: str) -> bytes:
    prefix = encode.increment_prefix("tick", "BTC-USD", Channel.TICKER, 77)
    return encode.increment(prefix, 3, (1, 2, 3), "verified", fields)


def test_a_tick_as_the_mesh_encodes_it() -> None:
    trade = DomainTrade("BTC-USD", 9, "64250.10", "0.00000000", "buy", 1)
    message = parse(tick(encode.ticker_fields(encode.trade_fields(trade), encode.level(("64250.09", None)), "null")))
    assert isinstance(message, Update)
    assert (message.op, message.product, message.channel) == ("incr", "BTC-USD", Channel.TICKER)
    assert (message.epoch, message.seq, message.ts_event, message.ts_publish) == (77, 3, 1, 3)
    assert message.continuity == "verified"
    assert message.content == Ticker(Trade("64250.10", "0.00000000", "buy", 9), ("64250.09", None), None)


def test_digits_that_no_float_has_survive() -> None:
    px = "12345678901234567890.123456789012345678"
    message = parse(tick(f'{{"last_trade":null,"best_bid":{{"px":{px},"qty":0.10}},"best_ask":null}}'))
    assert isinstance(message, Update)
    assert message.content == Ticker(None, (px, "0.10"), None)


def test_parts_of_a_book_snapshot() -> None:
    states = encode.book_state_parts([("10.0", "1")] * 3, [("11.0", "2")], part_bytes=80)
    texts = encode.snapshot("BTC-USD", Channel.BOOK, Position(5, 0), 9, "epoch", states)
    first = parse(texts[0])
    assert isinstance(first, Update)
    assert (first.op, first.reason, first.part, first.parts, first.ts_publish) == (
        "snapshot",
        "epoch",
        1,
        len(texts),
        9,
    )
    assert first.content == Book([("10.0", "1")], [("11.0", "2")])


def test_missing_trades_are_declared() -> None:
    state = encode.trades_state(['{"px":1.0,"qty":2,"side":"sell","trade_id":12}'])
    (text,) = encode.snapshot("BTC-USD", Channel.TRADES, Position(5, 0), 9, "gap", [state], missing=(8, 11))
    message = parse(text)
    assert isinstance(message, Update)
    assert (message.missing, message.content) == ((8, 11), [Trade("1.0", "2", "sell", 12)])


def test_the_other_messages() -> None:
    status = {
        "op": "status",
        "product": "A-B",
        "channel": "book",
        "state": "stale",
        "since": 5,
        "reason": "quiet",
        "x": 1,
    }
    assert parse(json.dumps(status)) == Status("A-B", Channel.BOOK, "stale", 5, "quiet")
    assert parse('{"op":"subscribed","id":1,"products":["A-B"],"channels":["ticker"]}') == Subscribed(
        ["A-B"], [Channel.TICKER]
    )
    assert parse('{"op":"error","code":"UNKNOWN_PRODUCT","msg":"no X-Y","id":null}') == Refused(
        "UNKNOWN_PRODUCT", "no X-Y"
    )
    assert parse('{"op":"rate_limit","retry_ms":40}') == Refused("RATE_LIMIT", "too many requests; retry after 40 ms")
    assert parse('{"op":"goaway","reason":"draining","reconnect_ms":100}') == Goaway("draining", 100)
    assert parse('{"op":"heartbeat","ts":1}') == Other("heartbeat")
    assert parse('{"op":"of the future","data":[1]}') == Other("of the future")


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"op":1}', '{"op":"incr"}', '{"op":"incr","data":{"product":"A-B"}}', '{"op":"status","state":"odd"}'],
)
def test_what_the_protocol_does_not_allow_is_a_bad_frame(text: str) -> None:
    with pytest.raises(BadFrame):
        parse(text)


@pytest.mark.parametrize("px", ['"1.5"', "1e5", "-1", "null", "[]"])
def test_prices_that_are_no_exact_decimals_are_bad_frames(px: str) -> None:
    with pytest.raises(BadFrame):
        parse(tick(f'{{"last_trade":null,"best_bid":{{"px":{px},"qty":1}},"best_ask":null}}'))
