"""The tape player without sockets: time is an argument."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from loadgen import tape
from loadgen.sim import SimConfig, VenueChannel
from loadgen.sim.audience import Audience
from loadgen.sim.config import TapeStart
from loadgen.sim.feed import BOOK_CHANNELS
from loadgen.sim.tape_feed import TapeFeed
from tests.loadgen.sim.kit import SECOND_NS, Follower, Json, Recorder, as_json, at, recorded_tape

START_NS = 1_618_677_817_000_000_000
BTC, ETH = "BTC-USD", "ETH-USD"
TAPE_CHANNELS = (VenueChannel.LEVEL2_BATCH, VenueChannel.TICKER, VenueChannel.MATCHES)


def match_frame(product: str, trade_id: int, kind: str = "match") -> Json:
    return {
        "type": kind,
        "trade_id": trade_id,
        "maker_order_id": "m",
        "taker_order_id": "t",
        "side": "sell",
        "size": "0.50",
        "price": "101.0",
        "product_id": product,
        "sequence": trade_id * 10,
        "time": "2021-04-17T16:43:37.089723Z",
    }


def update_frame(product: str, *changes: tuple[str, str, str]) -> Json:
    return {"type": "l2update", "product_id": product, "changes": changes, "time": "2021-04-17T16:43:37.100000Z"}


def snapshot_of(product: str) -> Json:
    return {
        "type": "snapshot",
        "product_id": product,
        "asks": [["101.0", "2.50"], ["102.5", "1.00"]],
        "bids": [["100.5", "0.10"], ["99.0", "7.00"]],
    }


FRAMES: list[tuple[float, Json]] = [
    (0.0, {"type": "subscriptions", "channels": []}),
    (0.1, snapshot_of(BTC)),
    (0.2, {"type": "ticker", "product_id": BTC, "sequence": 1000, "price": "101.0", "trade_id": 100}),
    (0.2, match_frame(BTC, 100, "last_match")),
    (0.5, snapshot_of(ETH)),
    (0.6, match_frame(BTC, 101)),
    (0.6, update_frame(BTC, ("sell", "101.00", "0"), ("buy", "100.50", "0.20"))),
    (1.0, update_frame(BTC, ("buy", "99.0", "0.0"), ("sell", "103.0", "1.0"))),
    (1.0, {"type": "received", "product_id": BTC}),
    (2.0, match_frame(ETH, 7)),
    (4.0, match_frame(BTC, 102)),
]


def encoded(frame: Json) -> bytes:
    return json.dumps(frame).encode()


@pytest.fixture
def small_tape(tmp_path: Path) -> Path:
    path = tmp_path / "small.tape"
    with tape.Writer(path) as writer:
        for second, frame in FRAMES:
            writer.write(START_NS + round(second * SECOND_NS), encoded(frame))
    return path


@contextmanager
def feed_of(
    path: Path, speed: float | Literal["max"] = 1.0, start: TapeStart = "now"
) -> Iterator[tuple[TapeFeed, Audience]]:
    products = tape.products(path)
    audience = Audience(len(products))
    feed = TapeFeed(SimConfig(tape=path, tape_speed=speed, tape_start=start), audience, products)
    try:
        yield feed, audience
    finally:
        feed.close()


def listen(audience: Audience, index: int, *channels: VenueChannel) -> Recorder:
    recorder = Recorder()
    for channel in channels:
        audience.join(recorder, channel, index)
    return recorder


def played(kinds: tuple[str, ...], product: str, until_s: float = 99) -> list[bytes]:
    return [
        encoded(frame)
        for second, frame in FRAMES
        if frame["type"] in kinds and frame.get("product_id") == product and second <= until_s
    ]


def test_who_listens_from_the_start_gets_the_tapes_frames_verbatim_and_nothing_else(small_tape: Path) -> None:
    with feed_of(small_tape, "max") as (feed, audience):
        whole = listen(audience, 0, *TAPE_CHANNELS)
        plain = listen(audience, 0, VenueChannel.LEVEL2)
        both = listen(audience, 0, VenueChannel.LEVEL2, VenueChannel.LEVEL2_BATCH)
        feed.start(at(0))
        assert feed.turn(at(0)) is None
        assert feed.state().finished
        assert whole.payloads() == played(("snapshot", "ticker", "last_match", "match", "l2update"), BTC)
        assert plain.payloads() == both.payloads() == played(("snapshot", "l2update"), BTC)
        assert (feed.state().sent, feed.state().detail["unplayed"]) == (9, 2)


@pytest.mark.parametrize("speed", [1.0, 2.0, 10.0])
def test_receive_times_give_the_pace(small_tape: Path, speed: float) -> None:
    with feed_of(small_tape, speed) as (feed, audience):
        recorder = listen(audience, 0, *TAPE_CHANNELS)
        feed.start(at(50))
        for second in (0.0, 0.15, 0.3, 0.7, 3.9, 4.0):
            feed.turn(at(50 + second / speed))
            assert recorder.payloads() == played(("snapshot", "ticker", "last_match", "match", "l2update"), BTC, second)


def test_a_turn_says_when_the_next_frame_is_due(small_tape: Path) -> None:
    with feed_of(small_tape, 2.0) as (feed, _):
        assert feed.turn(at(0)) is None
        feed.start(at(0))
        assert feed.turn(at(0)) == 0.05 * SECOND_NS
        assert feed.turn(at(0.6)) == 0.4 * SECOND_NS


def test_a_pause_stops_the_tape_and_its_clock(small_tape: Path) -> None:
    with feed_of(small_tape) as (feed, audience):
        recorder = listen(audience, 0, *TAPE_CHANNELS)
        feed.start(at(0))
        feed.turn(at(0.7))
        feed.pause(at(0.8))
        assert feed.turn(at(100)) is None
        assert feed.time_text(at(100)) == "2021-04-17T16:43:37.800000Z"
        feed.resume(at(100))
        assert feed.turn(at(100.1)) == 0.1 * SECOND_NS
        assert feed.time_text(at(100.1)) == "2021-04-17T16:43:37.900000Z"
        before = len(recorder.frames)
        feed.turn(at(100.2))
        assert len(recorder.frames) == before + 1


def test_who_comes_later_gets_state_made_from_the_tape_so_far(small_tape: Path) -> None:
    with feed_of(small_tape) as (feed, audience):
        for channel in VenueChannel:
            assert feed.greeting(channel, 0, at(0)) is None
        feed.start(at(0))
        feed.turn(at(1.5))
        for channel in BOOK_CHANNELS:
            assert json.loads(feed.greeting(channel, 0, at(1.5)) or b"") == {
                "type": "snapshot",
                "product_id": BTC,
                "bids": [["100.50", "0.20"]],
                "asks": [["102.5", "1.00"], ["103.0", "1.0"]],
            }
        position = json.loads(feed.greeting(VenueChannel.MATCHES, 0, at(1.5)) or b"")
        assert position == match_frame(BTC, 101, "last_match")
        assert feed.greeting(VenueChannel.TICKER, 0, at(1.5)) == encoded(FRAMES[2][1])
        # ETH-USD has not traded on the tape so far: no position can be made.
        assert feed.greeting(VenueChannel.MATCHES, 1, at(1.5)) is None
        late = listen(audience, 0, *TAPE_CHANNELS)
        feed.turn(at(5))
        assert late.payloads() == [encoded(match_frame(BTC, 102))]


def test_a_position_made_of_the_tapes_own_is_verbatim(small_tape: Path) -> None:
    with feed_of(small_tape) as (feed, _):
        feed.start(at(0))
        feed.turn(at(0.3))
        assert feed.greeting(VenueChannel.MATCHES, 0, at(0.3)) == encoded(match_frame(BTC, 100, "last_match"))


def test_heartbeats_carry_the_tapes_clock_and_its_last_trade(small_tape: Path) -> None:
    with feed_of(small_tape, 2.0) as (feed, _):

        def heartbeat(seconds: float) -> tuple[int, int, str]:
            beat = json.loads(feed.heartbeat(0, at(seconds)) or b"")
            return beat["last_trade_id"], beat["sequence"], beat["time"]

        assert heartbeat(0) == (0, 0, "2021-04-17T16:43:37.000000Z")
        feed.start(at(0))
        feed.turn(at(0.15))
        assert heartbeat(0.15) == (100, 1000, "2021-04-17T16:43:37.300000Z")
        feed.turn(at(2.0))
        assert heartbeat(2.0) == (102, 1020, "2021-04-17T16:43:41.000000Z")
        assert feed.turn(at(2.1)) is None
        # After the end its clock goes on at our pace.
        assert heartbeat(5.0)[2] > heartbeat(4.0)[2] > "2021-04-17T16:43:41.000000Z"


def test_a_heartbeat_on_the_tape_takes_the_place_of_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "beats.tape"
    beat = {"type": "heartbeat", "product_id": BTC, "last_trade_id": 5, "sequence": 9, "time": "2021-04-17T16:43:37Z"}
    with tape.Writer(path) as writer:
        writer.write(START_NS, encoded(beat))
    with feed_of(path) as (feed, audience):
        recorder = listen(audience, 0, VenueChannel.HEARTBEAT)
        feed.start(at(0))
        feed.turn(at(0))
        assert recorder.payloads() == [encoded(beat)]
        assert feed.heartbeat(0, at(0.5)) is None
        assert json.loads(feed.heartbeat(0, at(1.5)) or b"")["sequence"] == 9


def test_a_tape_that_waits_for_subscribers_waits_for_all_of_them(small_tape: Path) -> None:
    with feed_of(small_tape, start="subscribe") as (feed, audience):
        first = listen(audience, 0, *TAPE_CHANNELS)
        feed.audience_changed(at(0))
        listen(audience, 1, VenueChannel.TICKER, VenueChannel.MATCHES)
        feed.audience_changed(at(1))
        assert not feed.state().started
        listen(audience, 1, VenueChannel.LEVEL2)
        feed.audience_changed(at(2))
        assert feed.state().started
        feed.turn(at(7))
        assert first.payloads() == played(("snapshot", "ticker", "last_match", "match", "l2update"), BTC)


def test_a_tape_that_waits_for_a_call_does_not_begin_by_itself(small_tape: Path) -> None:
    with feed_of(small_tape, start="control") as (feed, audience):
        for index in (0, 1):
            listen(audience, index, *TAPE_CHANNELS)
        feed.audience_changed(at(0))
        assert not feed.state().started
        feed.resume(at(1))
        assert feed.state().started


def test_rest_facts_come_from_what_has_been_played(small_tape: Path) -> None:
    with feed_of(small_tape) as (feed, _):
        feed.start(at(0))
        assert feed.trades(0).page(10).rows == []
        feed.turn(at(5))
        rows = [json.loads(row) for row in feed.trades(0).page(10).rows]
        assert [row["trade_id"] for row in rows] == [102, 101, 100]
        assert rows[0] == {
            "trade_id": 102,
            "side": "sell",
            "size": "0.50",
            "price": "101.0",
            "time": "2021-04-17T16:43:37.089723Z",
        }
        info = feed.info(0)
        assert (info.base_currency, info.quote_currency) == ("BTC", "USD")
        assert (info.quote_increment, info.base_increment) == ("0.01", "0.01")


def test_frames_that_nobody_can_read_are_played_or_skipped_but_stop_nothing(tmp_path: Path) -> None:
    path = tmp_path / "odd.tape"
    odd = [
        b"not json",
        b'{"type":"match"}',
        b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy",1,2]]}',
        b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","1e5","x"]]}',
        encoded(match_frame(BTC, 5)),
    ]
    with tape.Writer(path) as writer:
        for frame in odd:
            writer.write(START_NS, frame)
    with feed_of(path, "max") as (feed, audience):
        recorder = listen(audience, 0, *TAPE_CHANNELS)
        feed.start(at(0))
        feed.turn(at(0))
        assert recorder.payloads() == odd[2:]
        assert feed.state().detail["unplayed"] == 2
        assert (feed.truth(0).bids, feed.truth(0).last_trade_id) == ([], 5)


def test_the_recorded_tape_plays_whole_and_its_truth_is_right() -> None:
    path = recorded_tape()
    with feed_of(path, "max") as (feed, audience):
        recorder = Recorder()
        for index in range(len(feed.products)):
            for channel in TAPE_CHANNELS:
                audience.join(recorder, channel, index)
        feed.start(at(0))
        while feed.turn(at(0)) == 0:
            pass
        expected = [frame for _, frame in tape.read(path) if b'"subscriptions"' not in frame[:30]]
        assert recorder.payloads() == expected
        follower = Follower()
        for frame in expected:
            follower.apply(frame)
        assert follower.counts["match"] == 97
        for index in range(len(feed.products)):
            follower.check(as_json(feed.truth(index)))
        assert feed.time_text(at(0)) == "2021-04-17T16:44:07.846469Z"
