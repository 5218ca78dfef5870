import json
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from lfmesh.core import encode
from lfmesh.types import Channel, Level, Position, Side, Trade

TRADE = Trade("BTC-USD", 7, "0.00001000", "10", "sell", 5)
PREFIX = encode.increment_prefix("book", "BTC-USD", Channel.BOOK, 11)
DECIMALS = st.from_regex(r"[1-9][0-9]{0,5}\.[0-9]{1,8}", fullmatch=True)
CHANGES: st.SearchStrategy[list[tuple[Side, str, str]]] = st.lists(
    st.tuples(st.sampled_from(("buy", "sell")), DECIMALS, DECIMALS), max_size=6
)


def test_an_increment_is_what_the_protocol_says() -> None:
    message = encode.increment(PREFIX, 3, (5, 6, 7), "unverified", '{"bids":[],"asks":[[1.50,0.0]]}')
    assert message == (
        b'{"op":"incr","data":{"v":1,"type":"book","product":"BTC-USD","channel":"book","epoch":11,"seq":3,'
        b'"ts_event":5,"ts_ingest":6,"ts_publish":7,"continuity":"unverified",'
        b'"fields":{"bids":[],"asks":[[1.50,0.0]]}}}'
    )
    assert encode.fields_of(message) == b'{"bids":[],"asks":[[1.50,0.0]]}'
    assert encode.stamped_increment(PREFIX, 3, 5, encode.stamps(6, 7), "unverified", "{}") == encode.increment(
        PREFIX, 3, (5, 6, 7), "unverified", "{}"
    )


@given(CHANGES)
def test_changes_keep_their_digits_and_their_order_on_each_side(changes: list[tuple[Side, str, str]]) -> None:
    def side(name: Side) -> list[Level]:
        return [(px, qty) for one, px, qty in changes if one == name]

    assert encode.book_changes(changes) == encode.book_fields(side("buy"), side("sell"))


def test_ticker_fields_are_null_where_unknown() -> None:
    fields = encode.ticker_fields(encode.trade_fields(TRADE), encode.level(("1.50", None)), encode.level(None))
    assert fields == (
        '{"last_trade":{"px":0.00001000,"qty":10,"side":"sell","trade_id":7},'
        '"best_bid":{"px":1.50,"qty":null},"best_ask":null}'
    )


def test_a_snapshot_in_parts_counts_them_and_declares_what_is_missing() -> None:
    one, two = encode.snapshot("A-B", Channel.TRADES, Position(4, 0), 9, "gap", ['{"a":1}', b'{"b":2}'], (5, 6))
    assert json.loads(two) == {
        "op": "snapshot",
        "data": {
            "v": 1, "type": "snapshot", "product": "A-B", "channel": "trades", "epoch": 4, "seq": 0, "ts_snapshot": 9,
            "reason": "gap", "missing": {"from_trade_id": 5, "to_trade_id": 6}, "part": 2, "parts": 2,
            "state": {"b": 2},
        },
    }  # fmt: skip
    assert json.loads(one)["data"]["part"] == 1
    (whole,) = encode.snapshot("A-B", Channel.TICKER, Position(4, 0), 9, "epoch", ["{}"])
    assert "part" not in json.loads(whole)["data"]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 2000))
def test_the_parts_of_a_book_put_together_are_the_book(bids: int, asks: int, part_bytes: int) -> None:
    levels = [(f"{number}.50", "1.0") for number in range(1, 41)]
    parts = encode.book_state_parts(levels[:bids], levels[:asks], part_bytes)
    read = [json.loads(part, parse_float=Decimal) for part in parts]
    for name, count in (("bids", bids), ("asks", asks)):
        together = [level for part in read for level in part[name]]
        assert [(f"{px}", f"{qty}") for px, qty in together] == levels[:count]


def test_a_status_says_what_and_why() -> None:
    assert json.loads(encode.status("A-B", Channel.BOOK, "stale", 5, "silence")) == {
        "op": "status", "product": "A-B", "channel": "book", "state": "stale", "since": 5, "reason": "silence",
    }  # fmt: skip


@given(st.lists(st.tuples(DECIMALS, DECIMALS), max_size=8), st.lists(st.tuples(DECIMALS, DECIMALS), max_size=8))
def test_the_data_of_a_snapshot_has_the_whole_state_in_one_piece(bids: list[Level], asks: list[Level]) -> None:
    parts = [part.encode() for part in encode.book_state_parts(bids, asks, 80)]
    whole = encode.whole_state(parts)
    assert whole == encode.book_fields(bids, asks).encode()
    data = encode.snapshot_data("BTC-USD", Channel.BOOK, Position(11, 3), 5, "subscribe", whole)
    (message,) = encode.snapshot("BTC-USD", Channel.BOOK, Position(11, 3), 5, "subscribe", [whole])
    assert message == b'{"op":"snapshot","data":' + data + b"}"
