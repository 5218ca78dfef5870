import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfmesh.errors import BadVenueFrame
from lfmesh.types import BookSnapshot, BookUpdate, Heartbeat, Quote, Trade, TradePosition
from lfmesh.venues.coinbase.parse import (
    MAX_DETAIL,
    MAX_LEVELS,
    Ignored,
    IgnoredKind,
    Reason,
    VenueError,
    parse,
    to_ns,
)
from tests.venues.coinbase.frames import (
    ERROR,
    HEARTBEAT,
    L2UPDATE,
    MATCH,
    SNAPSHOT,
    SUBSCRIPTIONS,
    TICKER,
    TIME,
    TIME_NS,
    Fields,
    counts,
    decimals,
    frame,
    prices,
    products,
    sides,
    tape_frames,
    times,
    written,
)

OTHER = {"buy": "sell", "sell": "buy"}


def reason_of(raw: bytes) -> str:
    with pytest.raises(BadVenueFrame) as refused:
        parse(raw)
    assert len(str(refused.value)) <= MAX_DETAIL + 40
    return refused.value.reason


def answered(raw: bytes) -> bool:
    """True if there is an event, or a refusal for a reason of the list; anything else is raised."""
    try:
        parse(raw)
    except BadVenueFrame as refused:
        return refused.reason in set(Reason)
    return True


def without(fields: Fields, *names: str) -> bytes:
    return frame(**{name: value for name, value in fields.items() if name not in names})


def with_(fields: Fields, **changes: object) -> bytes:
    return frame(**{**fields, **changes})


def test_match_side_is_turned_to_the_takers() -> None:
    assert parse(frame(**MATCH)) == Trade("SKL-BTC", 280232, "0.00001305", "985", "buy", TIME_NS, 177100030)
    assert parse(with_(MATCH, type="last_match")) == TradePosition(
        Trade("SKL-BTC", 280232, "0.00001305", "985", "buy", TIME_NS, 177100030)
    )


def test_ticker_side_is_the_takers_already() -> None:
    assert parse(frame(**TICKER)) == Quote(
        "BTC-USD",
        37475248783,
        TIME_NS,
        Trade("BTC-USD", 881613, "22356.27", "0.04", "buy", TIME_NS, 37475248783),
        ("22356.26", "0.04000000"),
        ("22356.28", "1.5"),
    )


def test_older_ticker_without_best_sizes() -> None:
    quote = parse(without(TICKER, "best_bid_size", "best_ask_size"))
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.ask) == (("22356.26", None), ("22356.28", None))


@pytest.mark.parametrize("absent", [("trade_id", "time", "last_size"), ("trade_id",), ("last_size",)])
def test_ticker_of_a_product_not_traded_yet(absent: tuple[str, ...]) -> None:
    quote = parse(without(TICKER, *absent))
    assert isinstance(quote, Quote)
    assert quote.trade is None
    assert quote.bid == ("22356.26", "0.04000000")
    assert quote.ts_event == (0 if "time" in absent else TIME_NS)


@pytest.mark.parametrize("nothing", ["", "0", "0.00", "0.00000000", None])
def test_ticker_of_a_market_not_open_has_no_best_prices(nothing: str | None) -> None:
    quote = parse(with_(TICKER, best_bid=nothing, best_ask=nothing, best_bid_size=nothing, best_ask_size=nothing))
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.ask) == (None, None)
    assert quote.trade is not None


def test_ticker_without_price_has_no_trade_only_if_it_names_none() -> None:
    quote = parse(without(with_id_zero(), "side"))
    assert isinstance(quote, Quote)
    assert quote.trade is None
    assert reason_of(without(TICKER, "price")) == "bad_price"
    assert reason_of(without(TICKER, "side")) == "bad_side"


def with_id_zero() -> Fields:
    return {**TICKER, "trade_id": 0, "price": ""}


def test_book_update_keeps_digits_and_order() -> None:
    assert parse(frame(**L2UPDATE)) == BookUpdate(
        "SKL-BTC", [("sell", "0.00001306", "660.5"), ("buy", "0.00001301", "0.00000000")], TIME_NS
    )
    update = parse(with_(L2UPDATE, changes=[["buy", "1", "0"]]))
    assert isinstance(update, BookUpdate)
    assert update.changes == [("buy", "1", "0")]
    assert parse(with_(L2UPDATE, changes=[])) == BookUpdate("SKL-BTC", [], TIME_NS)


def test_book_snapshot_with_and_without_time() -> None:
    bids, asks = [("10101.10", "0.45054140"), ("10101", "1")], [("10102.55", "0.57753524")]
    assert parse(frame(**SNAPSHOT)) == BookSnapshot("BTC-USD", bids, asks, 0)
    assert parse(with_(SNAPSHOT, time=TIME)) == BookSnapshot("BTC-USD", bids, asks, TIME_NS)
    assert parse(with_(SNAPSHOT, time="0001-01-01T00:00:00.000000Z")) == BookSnapshot("BTC-USD", bids, asks, 0)
    assert parse(with_(SNAPSHOT, bids=[], asks=[])) == BookSnapshot("BTC-USD", [], [], 0)


def test_heartbeat_with_unknown_last_trade() -> None:
    assert parse(frame(**HEARTBEAT)) == Heartbeat("BTC-USD", 90, 20, TIME_NS)
    assert parse(with_(HEARTBEAT, last_trade_id=0)) == Heartbeat("BTC-USD", 90, 0, TIME_NS)


def test_venue_error_is_a_value_of_its_own() -> None:
    assert parse(frame(**ERROR)) == VenueError("Failed to subscribe", "BTC-FOO is not a valid product")
    assert parse(frame(type="error", message="slow down")) == VenueError("slow down", "")
    long = parse(frame(type="error", message="m" * 5000, reason="r" * 5000))
    assert long == VenueError("m" * MAX_DETAIL, "r" * MAX_DETAIL)


def test_types_without_market_data_can_be_counted_apart() -> None:
    assert parse(frame(**SUBSCRIPTIONS)) == Ignored(IgnoredKind.SUBSCRIPTIONS, "subscriptions")
    assert parse(frame(type="status", products=[])) == Ignored(IgnoredKind.STATUS, "status")
    assert parse(frame(type="auction", product_id="A-B")) == Ignored(IgnoredKind.AUCTION, "auction")
    assert parse(frame(type="news" * 100)) == Ignored(IgnoredKind.UNKNOWN, ("news" * 100)[:40])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Reason.INVALID_JSON),
        (b"nonsense", Reason.INVALID_JSON),
        (frame(**MATCH)[:-20], Reason.INVALID_JSON),
        (frame(**MATCH) + b"}", Reason.INVALID_JSON),
        (b'{"type":"status","x":', Reason.INVALID_JSON),
        (frame(**MATCH).replace(b"985", b"9\xff5"), Reason.INVALID_JSON),
        (b'{"type":"match","x":' + b"[" * 1_000_000, Reason.INVALID_JSON),
        (b'{"type":"news","x":' + b"[" * 1_000_000, Reason.INVALID_JSON),
        (b"[]", Reason.BAD_TYPE),
        (b'"match"', Reason.BAD_TYPE),
        (b'{"type":7}', Reason.BAD_TYPE),
        (b"{}", Reason.MISSING_FIELD),
        (without(MATCH, "type"), Reason.MISSING_FIELD),
        (without(MATCH, "product_id"), Reason.MISSING_FIELD),
        (without(MATCH, "price"), Reason.MISSING_FIELD),
        (without(L2UPDATE, "time"), Reason.MISSING_FIELD),
        (without(SNAPSHOT, "asks"), Reason.MISSING_FIELD),
        (without(TICKER, "sequence"), Reason.MISSING_FIELD),
        (without(HEARTBEAT, "last_trade_id"), Reason.MISSING_FIELD),
        (with_(MATCH, price=1.5), Reason.BAD_TYPE),
        (with_(MATCH, trade_id="7"), Reason.BAD_TYPE),
        (with_(MATCH, trade_id=7.5), Reason.BAD_TYPE),
        (with_(L2UPDATE, changes=[["buy", "1"]]), Reason.BAD_TYPE),
        (with_(L2UPDATE, changes=[["buy", "1", None]]), Reason.BAD_TYPE),
        (with_(SNAPSHOT, bids=[["1", "2", "3"]]), Reason.BAD_TYPE),
        (with_(MATCH, trade_id=-1), Reason.BAD_NUMBER),
        (with_(MATCH, trade_id=2**53), Reason.BAD_NUMBER),
        (with_(HEARTBEAT, sequence=10**30), Reason.BAD_NUMBER),
        (with_(MATCH, price="0"), Reason.BAD_PRICE),
        (with_(MATCH, price="0.000"), Reason.BAD_PRICE),
        (with_(MATCH, price="-1"), Reason.BAD_PRICE),
        (with_(MATCH, price="1e5"), Reason.BAD_PRICE),
        (with_(MATCH, price="NaN"), Reason.BAD_PRICE),
        (with_(MATCH, price="1,5"), Reason.BAD_PRICE),
        (with_(MATCH, price="01"), Reason.BAD_PRICE),
        (with_(MATCH, price="١"), Reason.BAD_PRICE),
        (with_(MATCH, price="1" * 1000), Reason.BAD_PRICE),
        (with_(L2UPDATE, changes=[["buy", "1", "1"], ["buy", "0", "1"]]), Reason.BAD_PRICE),
        (with_(SNAPSHOT, asks=[["1", "1"], ["", "1"]]), Reason.BAD_PRICE),
        (with_(TICKER, best_bid="x"), Reason.BAD_PRICE),
        (with_(TICKER, price="0"), Reason.BAD_PRICE),
        (with_(MATCH, size="-1"), Reason.BAD_SIZE),
        (with_(MATCH, size=""), Reason.BAD_SIZE),
        (with_(MATCH, size=" 1"), Reason.BAD_SIZE),
        (with_(L2UPDATE, changes=[["buy", "1", "-0.1"]]), Reason.BAD_SIZE),
        (with_(SNAPSHOT, bids=[["1", "1\n"]]), Reason.BAD_SIZE),
        (with_(TICKER, best_ask_size="1e3"), Reason.BAD_SIZE),
        (with_(TICKER, last_size="x"), Reason.BAD_SIZE),
        (with_(MATCH, side="hold"), Reason.BAD_SIDE),
        (with_(TICKER, side="Buy"), Reason.BAD_SIDE),
        (with_(L2UPDATE, changes=[["bid", "1", "1"]]), Reason.BAD_SIDE),
        (with_(MATCH, time="yesterday"), Reason.BAD_TIME),
        (with_(HEARTBEAT, time=""), Reason.BAD_TIME),
        (with_(L2UPDATE, time="2021-04-17"), Reason.BAD_TIME),
        (with_(TICKER, time="2021-13-01T00:00:00Z"), Reason.BAD_TIME),
        (with_(SNAPSHOT, time="later"), Reason.BAD_TIME),
        (with_(SNAPSHOT, bids=[["1", "1"]] * (MAX_LEVELS + 1)), Reason.TOO_MANY_LEVELS),
        (with_(L2UPDATE, changes=[["buy", "1", "1"]] * (MAX_LEVELS + 1)), Reason.TOO_MANY_LEVELS),
    ],
)
def test_every_reason(raw: bytes, reason: Reason) -> None:
    assert reason_of(raw) == reason


def test_a_snapshot_as_large_as_is_allowed() -> None:
    snapshot = parse(with_(SNAPSHOT, bids=[["1", "1"]] * MAX_LEVELS))
    assert isinstance(snapshot, BookSnapshot)
    assert len(snapshot.bids) == MAX_LEVELS


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2021-04-17T16:43:37Z", 1618677817_000000000),
        ("2021-04-17T16:43:37.1Z", 1618677817_100000000),
        ("2021-04-17T16:43:37.075Z", 1618677817_075000000),
        ("2021-04-17T16:43:37.075687Z", 1618677817_075687000),
        ("2021-04-17T16:43:37.075687123Z", 1618677817_075687123),
        ("2024-02-29T23:59:59.999999999Z", 1709251199_999999999),
        ("2262-04-11T23:47:15.999999999Z", 9223372035_999999999),
    ],
)
def test_times_are_exact(text: str, ns: int) -> None:
    assert to_ns(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "2021-04-17T16:43:37",
        "2021-04-17T16:43:37.Z",
        "2021-04-17T16:43:37.1234567890Z",
        "2021-04-17T16:43:37.12+00:00",
        "2021-04-17T16:43:37,123Z",
        "2021-04-17T16:43:37.12 Z",
        "2021-04-17T16:43:37.+12Z",
        "2021-04-17T16:43:37.1_2Z",
        "2021-04-17T16:43:37.١٢٣Z",
        "2021-04-17T16:43:37.²Z",
        "2021-04-17 16:43:37.123Z",
        "2021-02-30T00:00:00Z",
        "2021-04-17T24:00:01Z",
        "2021-W15-6T16:43:37.1Z",
        "٢٠٢١-04-17T16:43:37Z",
        "1969-12-31T23:59:59Z",
        "2262-04-12T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "Z",
        "",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    for _ in range(2):  # a refusal is not cached as something good
        with pytest.raises(BadVenueFrame) as refused:
            to_ns(text)
        assert refused.value.reason == Reason.BAD_TIME


@given(times())
def test_any_time(time: tuple[str, int]) -> None:
    text, ns = time
    assert to_ns(text) == ns


@given(st.data(), products, counts, counts, prices, decimals, sides, times())
def test_any_match(
    data: st.DataObject, product: str, trade_id: int, sequence: int, px: str, qty: str, side: str, time: tuple[str, int]
) -> None:
    fields = {**MATCH, "product_id": product, "trade_id": trade_id, "sequence": sequence, "price": px, "size": qty}
    event = parse(data.draw(written({**fields, "side": side, "time": time[0]})))
    assert isinstance(event, Trade)
    assert (event.product, event.trade_id, event.sequence) == (product, trade_id, sequence)
    assert (event.px, event.qty, event.side, event.ts_event) == (px, qty, OTHER[side], time[1])


@given(
    st.data(),
    products,
    st.lists(st.tuples(sides, prices, decimals), max_size=20),
    times(),
    st.booleans(),
    st.booleans(),
)
def test_any_book_frame(
    data: st.DataObject,
    product: str,
    changes: list[tuple[str, str, str]],
    time: tuple[str, int],
    whole: bool,
    timed: bool,
) -> None:
    if not whole:
        raw = data.draw(written({"type": "l2update", "product_id": product, "changes": changes, "time": time[0]}))
        assert parse(raw) == BookUpdate(product, changes, time[1])  # type: ignore[arg-type]  # sides are str here
        return
    bids = [(px, qty) for side, px, qty in changes if side == "buy"]
    asks = [(px, qty) for side, px, qty in changes if side == "sell"]
    fields = {"type": "snapshot", "product_id": product, "bids": bids, "asks": asks}
    raw = data.draw(written({**fields, "time": time[0]} if timed else fields))
    assert parse(raw) == BookSnapshot(product, bids, asks, time[1] if timed else 0)


@given(st.data(), prices, decimals, st.none() | decimals, st.none() | decimals, sides)
def test_any_ticker(data: st.DataObject, px: str, qty: str, bid: str | None, bid_size: str | None, side: str) -> None:
    fields = {**TICKER, "price": px, "last_size": qty, "best_bid": bid, "best_bid_size": bid_size, "side": side}
    quote = parse(data.draw(written({name: value for name, value in fields.items() if value is not None})))
    assert isinstance(quote, Quote)
    assert quote.trade is not None
    assert (quote.trade.px, quote.trade.qty, quote.trade.side) == (px, qty, side)
    assert quote.bid == (None if bid is None or Decimal(bid) == 0 else (bid, bid_size))


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_whatever_comes_is_answered(raw: bytes) -> None:
    assert answered(raw)


@given(st.data(), st.sampled_from((MATCH, TICKER, L2UPDATE, SNAPSHOT, HEARTBEAT, SUBSCRIPTIONS, ERROR)))
def test_a_garbled_frame_is_answered(data: st.DataObject, fields: Fields) -> None:
    raw = bytearray(frame(**fields))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert answered(bytes(raw))


def test_the_cache_of_seconds_is_bounded() -> None:
    from lfmesh.venues.coinbase import parse as module

    for second in range(5000):
        to_ns(f"2021-04-17T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z")
    assert sys.getsizeof(module._seconds) < 200_000
    assert len(module._seconds) <= module._CACHED_SECONDS


def test_every_frame_of_the_tape() -> None:
    kinds: dict[str, int] = {}
    for raw in tape_frames():
        name = type(parse(raw)).__name__
        kinds[name] = kinds.get(name, 0) + 1
    assert kinds == {
        "Ignored": 3,
        "BookSnapshot": 10,
        "TradePosition": 10,
        "Quote": 107,
        "Trade": 97,
        "BookUpdate": 9719,
    }
