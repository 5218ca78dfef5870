"""The states that a rebuild makes are those that follow from everything that was published and archived."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.archive.rebuild import Rebuild, Rebuilt
from lfmesh.core.archive import StateLine, parse_snapshot
from lfmesh.types import CHANNELS, NO_INPUT, Channel, InputPosition, Position, StreamKey
from tests.archive.market import Market, Step
from tests.archive.published import BTC, NOW, SECOND, increments, opening
from tests.archive.shelf import VENUE, Shelf, snapshot, upload

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
STEPS = st.lists(
    st.builds(Step, st.sampled_from(["inc"] * 8 + ["epoch", "lose"]), st.sampled_from([1, 2, 40]), st.integers(0, 999)),
    min_size=2,
    max_size=30,
)
INPUT = InputPosition(9, 8, 7)


def line(
    stream: StreamKey, seq: int, state: bytes = b'{"trades":[]}', *, epoch: int = 10, time: int = NOW, term: int = 7
) -> StateLine:
    return StateLine(*stream, term, epoch, seq, time, NOW - 5, INPUT, msgspec.Raw(state))


def rebuilt(shelf: Shelf, told: list[str] | None = None) -> dict[StreamKey, Rebuilt]:
    run = Rebuild(shelf, VENUE, PRODUCTS, (told if told is not None else []).append)
    found = list(run.states())
    by_stream = {one.state.stream: one for one in found}
    assert len(by_stream) == len(found), "each stream once"
    return by_stream


def trades(text: bytes) -> list[int]:
    return [trade["trade_id"] for trade in json.loads(text)["trades"]]


def exact(text: bytes) -> Any:  # noqa: ANN401 - any JSON
    return json.loads(text, parse_float=str, parse_int=str)


def test_an_empty_archive_has_no_states() -> None:
    assert rebuilt(Shelf()) == {}


def test_a_snapshot_that_nothing_follows_is_taken_as_it_is_with_its_input() -> None:
    shelf = Shelf()
    snapshot(shelf, [line(BTC, 20, b'{"trades":[],"last_trade_id":20}')])
    one = rebuilt(shelf)[BTC]
    assert one.state.input == INPUT
    assert (one.state.term, one.state.position, one.state.ts) == (7, Position(10, 20), NOW - 5)
    assert one.state.state == b'{"trades":[],"last_trade_id":20}'
    assert (one.snapshot_ts, one.lines) == (NOW, 0)


def test_a_snapshot_ahead_of_the_tape_is_not_taken_back() -> None:
    """As after the loss of a machine: snapshots are uploaded each minute, tape each quarter of an hour."""
    shelf = Shelf()
    upload(shelf, BTC, [opening(BTC, Position(10, 0), ts_event=NOW - SECOND), increments(BTC, Position(10, 1), 9)])
    snapshot(shelf, [line(BTC, 20)])
    assert rebuilt(shelf)[BTC].state.position == (10, 20)


def test_the_tape_after_a_snapshot_is_applied_and_its_input_is_not_known_any_more() -> None:
    shelf = Shelf()
    entries = [opening(BTC, Position(10, 0), ts_event=NOW - SECOND), increments(BTC, Position(10, 1), 30)]
    upload(shelf, BTC, entries, max_bytes=2000)
    snapshot(shelf, [line(BTC, 5, time=NOW - SECOND + 4_000_000)])
    one = rebuilt(shelf)[BTC]
    assert one.state.position == (10, 30)
    assert one.state.input == NO_INPUT
    assert one.state.term == 7
    assert one.state.ts == NOW
    assert trades(one.state.state) == list(range(6, 31))
    assert one.lines == 25


def test_an_epoch_that_began_after_the_snapshot() -> None:
    shelf = Shelf()
    upload(shelf, BTC, [opening(BTC, Position(10, 0), ts_event=NOW - SECOND), increments(BTC, Position(10, 1), 9)])
    snapshot(shelf, [line(BTC, 9, time=NOW - SECOND + 8_000_000)])
    later = [
        opening(BTC, Position(20, 0), previous=Position(10, 9), ts_event=NOW),
        increments(BTC, Position(20, 1), 3, NOW),
    ]
    upload(shelf, BTC, later)
    one = rebuilt(shelf)[BTC]
    assert one.state.position == (20, 3)
    assert trades(one.state.state) == [1, 2, 3]


def test_tape_alone_will_do() -> None:
    shelf = Shelf()
    upload(shelf, BTC, [opening(BTC, Position(10, 0), ts_event=NOW - SECOND), increments(BTC, Position(10, 1), 9)])
    one = rebuilt(shelf)[BTC]
    assert (one.snapshot_ts, one.state.input, one.state.position) == (None, NO_INPUT, Position(10, 9))
    assert trades(one.state.state) == list(range(1, 10))


def test_tape_without_a_beginning_is_told() -> None:
    shelf = Shelf()
    upload(shelf, BTC, [increments(BTC, Position(10, 5), 9)])
    told: list[str] = []
    assert rebuilt(shelf, told) == {}
    assert told == ["BTC-USD trades: its tape has no snapshot to begin with"]


def test_of_several_snapshots_the_newest_counts_also_where_the_number_of_shards_has_changed() -> None:
    shelf = Shelf()
    snapshot(shelf, [line(BTC, 5, time=NOW - 9)], shards=1, shard=0)
    snapshot(shelf, [line(BTC, 6, time=NOW - 8)], shards=1, shard=0)
    snapshot(shelf, [line(BTC, 8, time=NOW)], shards=2, shard=1)
    only_once = StreamKey("SOL-USD", Channel.BOOK)
    snapshot(shelf, [line(BTC, 7, time=NOW - 7), line(only_once, 1, b'{"bids":[],"asks":[]}', time=NOW - 7)])
    found = rebuilt(shelf)
    assert {stream: one.state.position.seq for stream, one in found.items()} == {BTC: 8, only_once: 1}


def test_a_damaged_snapshot_is_told_and_the_one_before_it_taken() -> None:
    shelf = Shelf()
    snapshot(shelf, [line(BTC, 5, time=NOW - 9)])
    snapshot(shelf, [line(BTC, 6, time=NOW)])
    newest = max(shelf.objects)
    shelf.objects[newest] = shelf.objects[newest][:-3]
    told: list[str] = []
    assert rebuilt(shelf, told)[BTC].state.position.seq == 5
    (sentence,) = told
    assert newest in sentence


def test_damaged_tape_leaves_the_snapshot() -> None:
    shelf = Shelf()
    snapshot(shelf, [line(BTC, 5, time=NOW - SECOND)])
    (name,) = upload(shelf, BTC, [increments(BTC, Position(10, 5), 9)])
    shelf.objects[name.key] = b"nothing"
    told: list[str] = []
    assert rebuilt(shelf, told)[BTC].state.position.seq == 5
    assert told


def test_products_that_the_mesh_does_not_carry_are_left_out_and_named() -> None:
    shelf = Shelf()
    snapshot(shelf, [line(StreamKey("OLD-USD", Channel.TRADES), 5), line(BTC, 5)])
    run = Rebuild(shelf, VENUE, PRODUCTS, lambda _: None)
    assert [one.state.stream for one in run.states()] == [BTC]
    assert run.others == {"OLD-USD"}


@pytest.mark.parametrize("channel", CHANNELS)
@settings(max_examples=25, deadline=None)
@given(STEPS, st.integers(0, 10**6), st.booleans())
def test_whatever_was_published_the_state_is_the_last_one(
    channel: Channel, steps: list[Step], at: int, with_snapshot: bool
) -> None:
    market = Market(channel)
    market.play([*steps, Step("inc", 5, 1)])
    shelf = Shelf()
    upload(shelf, market.stream, market.entries, max_bytes=1500)
    if with_snapshot:
        snapshot(shelf, [market.state_line(at % len(market.records))])
        assert any(parse_snapshot(key) for key in shelf.objects)
    one = rebuilt(shelf)[market.stream]
    last = market.records[-1]
    assert one.state.position == last.position
    assert exact(one.state.state) == market.text_of(last)
