import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.types import BookSnapshot, BookUpdate, Heartbeat, Quote, Trade, TradePosition
from lfmesh.venues.coinbase.parse import VenueError, parse
from lfmesh.venues.coinbase.protocol import Echo, Stray, confirmed, read_control, route, subscribe, unsubscribe
from tests.venues.coinbase.frames import (
    ERROR,
    HEARTBEAT,
    L2UPDATE,
    MATCH,
    PRODUCTS,
    SNAPSHOT,
    SUBSCRIPTIONS,
    TICKER,
    Fields,
    frame,
    products,
    tape_frames,
    written,
)

PLACES = {product.encode(): product for product in PRODUCTS}


def product_of(raw: bytes) -> str | None:
    """The product by a full parse, None for a frame that has none."""
    match parse(raw):
        case Trade() | Quote() | BookSnapshot() | BookUpdate() | Heartbeat() as event:
            return event.product
        case TradePosition(trade):
            return trade.product
        case _:
            return None


def test_requests() -> None:
    assert json.loads(subscribe(("ticker", "level2_batch"), ("BTC-USD", "ETH-USD"))) == {
        "type": "subscribe",
        "product_ids": ["BTC-USD", "ETH-USD"],
        "channels": ["ticker", "level2_batch"],
    }
    assert json.loads(unsubscribe(("level2",), ("BTC-USD",))) == {
        "type": "unsubscribe",
        "product_ids": ["BTC-USD"],
        "channels": ["level2"],
    }


def echo(**channels: list[str]) -> Echo:
    listed = [{"name": name, "product_ids": ids, "account_ids": None} for name, ids in channels.items()]
    control = read_control(frame(type="subscriptions", channels=listed))
    assert isinstance(control, Echo)
    return control


def test_echo_under_the_venues_other_names() -> None:
    wanted = {("level2_batch", "A-B"), ("ticker_batch", "A-B"), ("matches", "A-B"), ("heartbeat", "C-D")}
    both = echo(level2_50=["A-B"], ticker_1000=["A-B"], matches=["A-B"], heartbeat=["C-D"])
    assert confirmed(both, wanted) == wanted
    as_asked = echo(level2_batch=["A-B"], ticker_batch=["A-B"], matches=["A-B"], heartbeat=["C-D"])
    assert confirmed(as_asked, wanted) == wanted


def test_echo_that_leaves_something_out() -> None:
    wanted = {(channel, product) for channel in ("level2_batch", "ticker") for product in ("A-B", "C-D")}
    assert confirmed(echo(level2_50=["A-B"], ticker=["A-B", "C-D"]), wanted) == wanted - {("level2_batch", "C-D")}
    assert confirmed(echo(level2=["A-B"], ticker_1000=["A-B"]), wanted) == frozenset()
    assert confirmed(echo(), wanted) == frozenset()


def test_status_channel_has_no_products() -> None:
    assert read_control(
        b'{"type":"subscriptions","channels":[{"name":"status"},{"name":"x","product_ids":null}]}'
    ) == Echo(frozenset())


def test_error_and_strays() -> None:
    assert read_control(frame(**ERROR)) == VenueError("Failed to subscribe", "BTC-FOO is not a valid product")
    assert read_control(frame(**MATCH)) is Stray.UNKNOWN_PRODUCT
    assert read_control(frame(**{**MATCH, "product_id": "BT#-USD"})) is Stray.BAD_PRODUCT
    assert read_control(frame(type="status", products=[])) is Stray.NO_PRODUCT
    assert read_control(b'{"type":"match","product_id":7}') is Stray.NO_PRODUCT
    assert read_control(b"[1]") is Stray.NO_PRODUCT
    assert read_control(b'{"type":"subscriptions","channels":7}') is Stray.NO_PRODUCT
    assert read_control(frame(**MATCH)[:-1]) is Stray.INVALID_JSON
    assert read_control(b"\xff") is Stray.INVALID_JSON
    assert read_control(b'{"x":' + b"[" * 1_000_000) is Stray.INVALID_JSON


@pytest.mark.parametrize("fields", [MATCH, TICKER, L2UPDATE, SNAPSHOT, HEARTBEAT])
def test_route_of_each_kind(fields: Fields) -> None:
    product = str(fields["product_id"])
    assert route(frame(**fields), {product.encode(): "here"}) == "here"
    assert route(frame(**fields), {b"OTHER-X": "there"}) is None
    assert route(json.dumps(fields).encode(), {product.encode(): "here"}) == "here"
    assert route(b" " + frame(**fields), {product.encode(): "here"}) == "here"


def test_route_of_a_snapshot_that_names_its_product_last() -> None:
    last = {**{name: value for name, value in SNAPSHOT.items() if name != "product_id"}, "product_id": "BTC-USD"}
    assert route(frame(**last), PLACES) == "BTC-USD"


@pytest.mark.parametrize(
    "raw",
    [
        frame(**SUBSCRIPTIONS),
        frame(**ERROR),
        frame(type="error", message='"product_id":"BTC-USD"', reason='{"product_id":"BTC-USD"}'),
        frame(type="error", message='x\\"product_id":"BTC-USD"'),
        frame(type="error", message='\\\\"product_id":"BTC-USD"'),
        frame(type="status", products=[{"id": "BTC-USD", "product_id": "BTC-USD"}]),
        frame(type="x", nested={"product_id": "BTC-USD"}),
        frame(type="x", product_ids=["BTC-USD"]),
        b'[{"product_id":"BTC-USD"}]',
        b'"product_id":"BTC-USD"',
        b'"product_id":"BTC-USD',
        b'{"product_id":7}',
        b'{"product_id":"BTC-EUR"}',
        b'{"x":"product_id","y":"BTC-USD"}',
        b"\xff\xfe",
        b"",
    ],
)
def test_route_is_not_fooled(raw: bytes) -> None:
    assert route(raw, PLACES) is None


def test_route_past_a_nested_object_and_escapes() -> None:
    assert route(b'{"x":{"product_id":"ETH-USD"},"product_id":"BTC-USD"}', PLACES) == "BTC-USD"
    assert route(frame(x='{"product_id":"ETH-USD"}', product_id="BTC-USD"), PLACES) == "BTC-USD"
    assert route(b'{"product_id":"BTC\\u002dUSD"}', PLACES) == "BTC-USD"
    assert route(b'{"\\u0070roduct_id":"BTC-USD"}', PLACES) == "BTC-USD"


@given(st.data(), st.sampled_from((MATCH, TICKER, L2UPDATE, SNAPSHOT, HEARTBEAT, ERROR, SUBSCRIPTIONS)), products)
def test_route_equals_the_parsed_product(data: st.DataObject, fields: Fields, product: str) -> None:
    if "product_id" in fields:
        fields = {**fields, "product_id": product}
    raw = data.draw(written(fields))
    assert route(raw, PLACES) == product_of(raw)


@given(st.data())
def test_route_of_garbled_frames_finds_nothing_else(data: st.DataObject) -> None:
    fields: Fields = data.draw(st.sampled_from((MATCH, TICKER, L2UPDATE, SNAPSHOT)))
    raw = bytearray(frame(**fields))
    for _ in range(data.draw(st.integers(1, 3))):
        place, value = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 255))
        raw[place] = value
    found = route(bytes(raw), PLACES)
    try:
        read = json.loads(raw.decode())
    except ValueError:
        assert found is None or found in PRODUCTS
    else:
        product = read.get("product_id") if isinstance(read, dict) else None
        assert found == (product if product in PRODUCTS else None)


def test_route_on_every_frame_of_the_tape() -> None:
    frames = tape_frames()
    named = {product_of(raw) for raw in frames} - {None}
    assert len(named) == 10
    places = {product.encode(): product for product in named if product}
    for raw in frames:
        assert route(raw, places) == product_of(raw)
