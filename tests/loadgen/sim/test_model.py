"""The market model and its feed, without sockets: time is an argument."""

import json
import re
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.errors import ConfigError
from lfmesh.exact import is_decimal
from loadgen.sim import SimConfig, VenueChannel
from loadgen.sim.model_feed import ModelFeed
from tests.loadgen.sim.kit import Follower, Json, Recorder, as_json, at, model_with

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}")
_FIELDS_OF_A_TICKER = (
    "type sequence product_id price open_24h volume_24h low_24h high_24h volume_30d best_bid best_bid_size best_ask"
    " best_ask_size side time trade_id last_size"
)
_FIELDS_OF_A_MATCH = "type trade_id maker_order_id taker_order_id side size price product_id sequence time"
TICKER_FIELDS, MATCH_FIELDS = _FIELDS_OF_A_TICKER.split(), _FIELDS_OF_A_MATCH.split()
PLAIN = (VenueChannel.LEVEL2, VenueChannel.TICKER, VenueChannel.MATCHES)


def play(feed: ModelFeed, until_s: float, step_s: float = 0.005) -> None:
    """Let time pass in steps."""
    for step in range(round(until_s / step_s) + 1):
        while feed.turn(at(step * step_s)) == 0:
            pass


def without_times(payloads: list[bytes]) -> list[bytes]:
    return [re.sub(rb'"time":"[^"]*"', b"", payload) for payload in payloads]


def greet(feed: ModelFeed, follower: Follower) -> None:
    for index in range(len(feed.products)):
        for channel in PLAIN:
            payload = feed.greeting(channel, index, at(0))
            if payload is not None:
                follower.apply(payload)


def check_shape(frame: Json) -> None:
    if frame["type"] in ("match", "last_match"):
        assert list(frame) == MATCH_FIELDS
        assert UUID.fullmatch(frame["maker_order_id"])
        assert UUID.fullmatch(frame["taker_order_id"])
        decimals = [frame["price"], frame["size"]]
    elif frame["type"] == "ticker":
        assert list(frame) == TICKER_FIELDS
        decimals = [frame[field] for field in TICKER_FIELDS if re.search(r"price|24h|30d|best|size", field)]
    else:
        assert list(frame) == ["type", "product_id", "changes", "time"]
        assert all(side in ("buy", "sell") for side, _, _ in frame["changes"])
        decimals = [text for _, *texts in frame["changes"] for text in texts]
    assert TIME.fullmatch(frame["time"])
    assert all(is_decimal(text) for text in decimals)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), products=st.integers(1, 15), levels=st.integers(5, 60))
def test_book_trades_and_ticker_agree_at_every_message(seed: int, products: int, levels: int) -> None:
    config = SimConfig(product_count=products, rate_msgs_s=2000, count=1500, seed=seed, book_levels=levels)
    feed, recorder, _ = model_with(config, PLAIN)
    follower = Follower()
    greet(feed, follower)
    play(feed, 1.0)
    previous: Json = {}
    sequences: dict[str, int] = {}
    for payload in recorder.payloads():
        frame = follower.apply(payload)
        check_shape(frame)
        product = frame["product_id"]
        bid, ask = follower.best(product)
        assert Decimal(bid[0]) < Decimal(ask[0])
        match frame["type"]:
            case "match":
                # The message before it took exactly this much from the level at this price.
                assert previous["type"] == "l2update"
                ((side, px, _),) = previous["changes"]
                assert (side, Decimal(px)) == (frame["side"], Decimal(frame["price"]))
                assert frame["sequence"] > sequences.get(product, 0)
                sequences[product] = frame["sequence"]
            case "ticker":
                assert [frame["best_bid"], frame["best_bid_size"]] == bid
                assert [frame["best_ask"], frame["best_ask_size"]] == ask
                same = ("trade_id", "price", "sequence", "time")
                assert [frame[field] for field in same] == [previous[field] for field in same]
                assert (previous["type"], frame["last_size"]) == ("match", previous["size"])
                assert {frame["side"], previous["side"]} == {"buy", "sell"}
                assert Decimal(frame["low_24h"]) <= Decimal(frame["price"]) <= Decimal(frame["high_24h"])
            case _:
                pass
        previous = frame
    assert len(recorder.frames) == 1500
    for product, trades in follower.trades.items():
        first = follower.positions[product]["trade_id"] + 1 if product in follower.positions else 1
        assert [trade["trade_id"] for trade in trades] == list(range(first, first + len(trades)))
    for index in range(products):
        follower.check(as_json(feed.truth(index)))


def test_every_prefix_of_the_run_matches_the_truth() -> None:
    for count in range(400, 440):
        feed, recorder, _ = model_with(SimConfig(product_count=2, rate_msgs_s=20_000, count=count, seed=3), PLAIN)
        follower = Follower()
        greet(feed, follower)
        play(feed, 0.1)
        for payload in recorder.payloads():
            follower.apply(payload)
        for index in range(2):
            follower.check(as_json(feed.truth(index)))
        assert sum(feed.truth(index).frames for index in range(2)) == count == len(recorder.frames)


def test_the_same_seed_gives_the_same_frames_whatever_the_rate_the_steps_and_the_listeners() -> None:
    def frames(rate: int, step_s: float, channels: tuple[VenueChannel, ...], seed: int = 7) -> list[bytes]:
        config = SimConfig(product_count=12, rate_msgs_s=rate, count=3000, seed=seed)
        feed, recorder, _ = model_with(config, channels)
        play(feed, 3000 / rate + 0.1, step_s)
        return without_times(recorder.payloads(*PLAIN))

    reference = frames(3000, 0.005, PLAIN)
    assert frames(20_000, 0.003, (*PLAIN, VenueChannel.LEVEL2_BATCH)) == reference
    assert frames(1000, 0.05, PLAIN) == reference
    matches = frames(3000, 0.005, (VenueChannel.MATCHES,))
    assert matches == [frame for frame in reference if b'"type":"match"' in frame]
    assert frames(3000, 0.005, PLAIN, seed=8) != reference


def test_batches_depend_on_the_rate_and_not_on_when_the_turns_come() -> None:
    def batches(step_s: float) -> list[bytes]:
        config = SimConfig(product_count=5, rate_msgs_s=4000, count=4000, seed=7)
        feed, recorder, _ = model_with(config, (VenueChannel.LEVEL2_BATCH,))
        play(feed, 1.2, step_s)
        return recorder.payloads()

    assert batches(0.002) == batches(0.01) == batches(0.1)


def test_a_batch_gathers_at_most_50_ms_and_the_last_size_of_each_level() -> None:
    config = SimConfig(product_count=3, rate_msgs_s=5000, seed=1)
    feed, recorder, _ = model_with(config, (VenueChannel.LEVEL2_BATCH, VenueChannel.LEVEL2))
    follower = Follower()
    greet(feed, follower)
    play(feed, 1.013)
    feed.pause(at(1.013))
    batches = recorder.payloads(VenueChannel.LEVEL2_BATCH)
    assert 1.0 / 0.05 * 3 * 0.9 < len(batches) <= (1.013 / 0.05 + 1) * 3
    for payload in batches:
        changed = [(side, px) for side, px, _ in json.loads(payload)["changes"]]
        assert len(changed) == len(set(changed))
        follower.apply(payload)
    for index in range(3):
        follower.check_book(as_json(feed.truth(index)))


def test_a_pause_sends_what_is_pending_and_is_not_made_up_for() -> None:
    feed, recorder, _ = model_with(SimConfig(product_count=2, rate_msgs_s=100), PLAIN)
    play(feed, 1.0)
    before = len(recorder.frames)
    feed.pause(at(1.0))
    assert feed.turn(at(1.5)) is None
    assert not feed.state().playing
    feed.resume(at(61.0))
    while feed.turn(at(61.1)) == 0:
        pass
    assert 9 <= len(recorder.frames) - before <= 11
    times = [json.loads(payload)["time"] for payload in recorder.payloads()]
    assert times == sorted(times)
    assert times[-1].startswith("2023-11-14T22:14:21")  # a minute later on the wall clock as well


def test_a_short_hiccup_is_made_good_and_a_long_one_only_in_part() -> None:
    feed, recorder, _ = model_with(SimConfig(product_count=2, rate_msgs_s=1000), PLAIN)

    def arrive(seconds: float) -> int:
        before = len(recorder.frames)
        while feed.turn(at(seconds)) == 0:
            pass
        return len(recorder.frames) - before

    arrive(0.0)
    assert arrive(0.2) == 200
    assert arrive(10.2) == 250
    assert feed.state().detail["skipped_ms"] == 9750
    assert arrive(10.3) == 100


def test_one_turn_is_bounded_so_that_sessions_are_served_in_between() -> None:
    feed, recorder, _ = model_with(SimConfig(product_count=2, rate_msgs_s=20_000), PLAIN)
    assert feed.turn(at(0.2)) == 0
    assert len(recorder.frames) <= 20_000 * 0.01


@pytest.mark.parametrize(("rate", "expected_ns"), [(1, 10**9), (100, 10**7), (20_000, 5 * 10**4)])
def test_a_turn_says_when_the_next_message_is_due(rate: int, expected_ns: int) -> None:
    feed, _, _ = model_with(SimConfig(product_count=2, rate_msgs_s=rate, batch_interval_ms=60_000))
    assert feed.turn(at(0)) == expected_ns


def test_a_count_ends_the_run_exactly_and_more_can_be_asked_for() -> None:
    feed, recorder, _ = model_with(SimConfig(product_count=2, rate_msgs_s=1000, count=100), PLAIN)
    play(feed, 1.0)
    assert (len(recorder.frames), feed.state().finished) == (100, True)
    feed.resume(at(1.0))
    assert feed.turn(at(2.0)) is None
    feed.resume(at(2.0), more=50)
    assert not feed.state().finished
    for step in range(100):
        feed.turn(at(2.0 + step / 100))
    assert (len(recorder.frames), feed.state().finished) == (150, True)


def test_activity_falls_off_by_a_power_law() -> None:
    feed, recorder, _ = model_with(SimConfig(product_count=20, rate_msgs_s=20_000, count=20_000), PLAIN)
    play(feed, 1.1)
    counts = Counter(index for _, index, _ in recorder.frames)
    assert len(counts) == 20
    assert 1.6 < counts[0] / counts[1] < 2.5
    assert 7 < counts[0] / counts[9] < 14


def test_books_stay_as_deep_as_configured_and_prices_stay_in_reach() -> None:
    feed, _, _ = model_with(SimConfig(product_count=3, rate_msgs_s=20_000, count=40_000, book_levels=200), ())
    play(feed, 2.1, 0.05)
    for index in range(3):
        truth = feed.truth(index)
        for side in (truth.bids, truth.asks):
            assert 100 < len(side) < 300
        start = Decimal(feed.info(index).quote_increment) * feed._market.instruments[index].spec.start_ticks
        assert start / 2 < Decimal(truth.bids[0][0]) < start * 2


def test_an_untraded_product_has_no_position_and_its_ticker_no_trade() -> None:
    feed, _, audience = model_with(SimConfig(product_count=10, rate_msgs_s=1), ())
    recorder = Recorder()
    audience.join(recorder, VenueChannel.TICKER, 9)
    ticker = json.loads(feed.greeting(VenueChannel.TICKER, 9, at(0)) or b"")
    assert set(TICKER_FIELDS) - set(ticker) == {"time", "trade_id", "last_size"}
    assert feed.greeting(VenueChannel.MATCHES, 9, at(0)) is None
    assert json.loads(feed.heartbeat(9, at(0)) or b"")["last_trade_id"] == 0
    assert feed.truth(9).last_trade_id is None


def test_a_greeting_names_the_last_trade_alike_on_every_channel() -> None:
    feed, recorder, _ = model_with(SimConfig(product_count=1, rate_msgs_s=2000, count=2000), PLAIN)
    play(feed, 1.1)
    last = [json.loads(payload) for payload in recorder.payloads(VenueChannel.MATCHES)][-1]
    position = json.loads(feed.greeting(VenueChannel.MATCHES, 0, at(2)) or b"")
    ticker = json.loads(feed.greeting(VenueChannel.TICKER, 0, at(2)) or b"")
    heartbeat = json.loads(feed.heartbeat(0, at(2)) or b"")
    assert {**position, "type": "match"} == last
    assert position["type"] == "last_match"
    assert (ticker["trade_id"], ticker["sequence"]) == (last["trade_id"], last["sequence"])
    assert heartbeat["last_trade_id"] == last["trade_id"]
    assert heartbeat["sequence"] >= last["sequence"]
    assert heartbeat["time"] == "2023-11-14T22:13:22.000000Z"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"rate_msgs_s": 0}, "rate_msgs_s is 1 to 20000, not 0"),
        ({"rate_msgs_s": 20_001}, "rate_msgs_s is 1 to 20000"),
        ({"product_count": 501}, "product_count is 1 to 500"),
        ({"port": 70_000}, "port is 0 to 65535"),
        ({"count": 0}, "count is at least 1"),
        ({"tape_speed": 0.0}, 'a positive number or "max"'),
        ({"products": ("BTC-USD", "BTC-USD")}, "each named once"),
        ({"products": ("BTC",)}, "BASE-QUOTE"),
    ],
)
def test_options_out_of_range_are_refused_by_name(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        SimConfig(**fields)
