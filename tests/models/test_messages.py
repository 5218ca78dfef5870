"""The models against the client protocol and everything that `core.encode` makes, byte for byte and digit for digit."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lfmesh.core import encode
from lfmesh.exact import Exact
from lfmesh.models import (
    BookIncrement,
    IncrementMessage,
    SnapshotMessage,
    Tick,
    TradesSnapshot,
    parse_json,
    parse_message,
    schema,
    to_json,
)
from lfmesh.types import CHANNELS, Channel, Position, StreamKey, Trade

VALIDATOR = jsonschema.Draft202012Validator(schema())

EXAMPLES = Path(__file__).with_name("examples.jsonl").read_text(encoding="ascii").splitlines()
"""Every kind of message, as the client protocol has it."""
TICK = EXAMPLES[6]
TRADE = EXAMPLES[7]


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text[:40])
def test_every_message_of_the_protocol_reads_and_writes_back_to_the_same_bytes(text: str) -> None:
    message = parse_message(text)
    assert to_json(message).decode() == text
    assert parse_message(to_json(message)) == message
    VALIDATOR.validate(json.loads(text))


decimals = st.from_regex(r"(0|[1-9][0-9]{0,12})(\.[0-9]{1,12})?", fullmatch=True).filter(lambda text: "\n" not in text)
levels = st.lists(st.tuples(decimals, decimals), max_size=5)


trades = st.builds(
    Trade,
    st.just("B-U"),
    st.integers(1, 2**53 - 1),
    decimals,
    decimals,
    st.sampled_from(("buy", "sell")),
    st.just(1),
)
prices = st.tuples(decimals, decimals | st.none()) | st.none()
few = settings(max_examples=50)


@few
@given(trade=trades | st.none(), bid=prices, seq=st.integers(1, 2**53 - 1))
def test_any_tick_keeps_its_digits(trade: Trade | None, bid: tuple[str, str | None] | None, seq: int) -> None:
    last = "null" if trade is None else encode.trade_fields(trade)
    fields = encode.ticker_fields(last, encode.level(bid), "null")
    prefix = encode.increment_prefix("tick", "B-U", Channel.TICKER, 5)
    text = encode.increment(prefix, seq, (1, 2, 3), "verified", fields)
    message = parse_message(text)
    assert to_json(message) == text
    assert isinstance(message, IncrementMessage)
    assert isinstance(message.data, Tick)
    if bid is not None:
        assert message.data.fields.best_bid is not None
        assert str(message.data.fields.best_bid.px) == bid[0]


@few
@given(bids=levels, asks=levels, part_bytes=st.sampled_from((80, 256 * 1024)))
def test_any_book_keeps_its_digits(bids: list[tuple[str, str]], asks: list[tuple[str, str]], part_bytes: int) -> None:
    parts = encode.book_state_parts(bids, asks, part_bytes)
    for text in encode.snapshot("B-U", Channel.BOOK, Position(1, 2), 3, "resync", parts):
        assert to_json(parse_message(text)) == text
    prefix = encode.increment_prefix("book", "B-U", Channel.BOOK, 5)
    text = encode.increment(prefix, 1, (1, 2, 3), "unverified", encode.book_fields(bids, asks))
    message = parse_message(text)
    assert to_json(message) == text
    assert isinstance(message, IncrementMessage)
    assert isinstance(message.data, BookIncrement)
    assert [(str(px), str(qty)) for px, qty in message.data.fields.bids] == bids


@few
@given(listed=st.lists(trades, max_size=5), missing=st.tuples(st.integers(1, 9), st.integers(9, 99)) | st.none())
def test_any_list_of_trades_keeps_its_digits(listed: list[Trade], missing: tuple[int, int] | None) -> None:
    state = encode.trades_state(map(encode.trade_fields, listed))
    (text,) = encode.snapshot("B-U", Channel.TRADES, Position(1, 2), 3, "gap", [state], missing)
    message = parse_message(text)
    assert to_json(message) == text
    assert isinstance(message, SnapshotMessage)
    assert isinstance(message.data, TradesSnapshot)
    assert [str(trade.px) for trade in message.data.state.trades] == [trade.px for trade in listed]


@pytest.mark.parametrize("channel", CHANNELS)
def test_status_of_every_channel(channel: Channel) -> None:
    key = StreamKey("B-U", channel)
    text = encode.status(*key, "stale", 5, "nothing from the venue for more than 10 s")
    assert to_json(parse_message(text)) == text


SPOILED = [
    ('"op":"incr"', '"op":"increment"'),
    ('"v":1', '"v":2'),
    ('"type":"tick"', '"type":"trade"'),
    ('"channel":"ticker"', '"channel":"trades"'),
    ('"product":"BTC-USD"', '"product":""'),
    ('"seq":1', '"seq":-1'),
    ('"seq":1', '"seq":"1"'),
    ('"seq":1', '"seq":1.0'),
    ('"seq":1', '"seq":true'),
    ('"epoch":9007199254740991', '"epoch":9007199254740992'),
    ('"ts_event":1,', ""),
    ('"continuity":"verified"', '"continuity":"perhaps"'),
    ('"px":60000.10', '"px":-60000.10'),
    ('"px":60000.10', '"px":6e4'),
    ('"px":60000.10', '"px":NaN'),
    ('"px":60000.10', '"px":null'),
    ('"side":"buy"', '"side":"bid"'),
    ('"best_bid":{"px":60000,"qty":1},', ""),
]


@pytest.mark.parametrize(("found", "instead"), SPOILED)
def test_a_message_that_breaks_the_contract_is_refused(found: str, instead: str) -> None:
    text = TICK
    assert found in text
    with pytest.raises(ValueError, match=r".+"):
        parse_message(text.replace(found, instead))


def test_a_trade_is_never_merged_with_others() -> None:
    with pytest.raises(ValueError, match="prev_seq"):
        parse_message(TRADE.replace('"seq":1,', '"seq":5,"prev_seq":1,'))
    tick = parse_message(TICK.replace('"seq":1,', '"seq":5,"prev_seq":1,'))
    assert isinstance(tick, IncrementMessage)
    assert (tick.data.seq, tick.data.prev_seq) == (5, 1)


def test_unknown_fields_are_ignored() -> None:
    text = '{"op":"heartbeat","ts":5,"new":{"in":["a","later","version"]}}'
    assert to_json(parse_message(text)) == b'{"op":"heartbeat","ts":5}'


def test_messages_are_frozen() -> None:
    message = parse_message(EXAMPLES[-1])
    with pytest.raises(ValidationError):
        message.op = "else"  # type: ignore[misc,assignment]  # what is tested


def test_a_float_never_becomes_a_price() -> None:
    data = parse_json(TRADE)
    data["data"]["fields"]["px"] = 1.0
    with pytest.raises(ValidationError):
        IncrementMessage.model_validate(data)


def test_json_is_read_with_exact_fractions() -> None:
    value = parse_json('{"px":1.50,"n":7,"list":[0.00000000]}')
    assert (str(value["px"]), value["n"], str(value["list"][0])) == ("1.50", 7, "0.00000000")
    assert isinstance(value["px"], Exact)
    for text in ("1e5", "-1.5", "Infinity", "{"):
        with pytest.raises(ValueError, match=r".+"):
            parse_json(text)


def test_the_schema_is_valid_and_tells_right_from_wrong() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    messages = jsonschema.Draft202012Validator({**schema(), "anyOf": [{"$ref": "#/$defs/Message"}]})
    for text in EXAMPLES:
        messages.validate(json.loads(text))
    for found, instead in SPOILED:
        # JSON itself has no NaN, and a schema can't tell 1 from 1.0 or see digits.
        if instead not in ('"px":NaN', '"seq":1.0', '"px":6e4'):
            with pytest.raises(jsonschema.ValidationError):
                messages.validate(json.loads(TICK.replace(found, instead)))


def test_every_model_is_described_in_the_schema() -> None:
    for name, definition in schema()["$defs"].items():
        assert "description" in definition or name in ("Message", "Request"), name


def test_there_is_an_example_of_every_kind_of_message() -> None:
    kinds = schema()["$defs"]["Message"]["discriminator"]["mapping"]
    assert {parse_message(text).op for text in EXAMPLES} == kinds.keys()
