"""Parse and pipelines together: independent of batching, and right on the recorded tape."""

import json
from decimal import Decimal
from functools import cache
from itertools import islice, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.core.codec import Flags, RecordKind
from lfmesh.models.text import parse_message
from lfmesh.types import Channel, StreamKey
from loadgen.sim.catalog import products
from loadgen.sim.frames import InstrumentFrames, heartbeat_frame, snapshot_frame
from loadgen.sim.market import BookChange, Market, Match
from tests.services.normalizer.kit import T0, Desk, link
from tests.venues.coinbase.frames import tape_frames

NAMES = products(3)


@cache
def model_frames(count: int) -> tuple[bytes, ...]:
    """What a venue sends of three products, subscription first."""
    market = Market(NAMES, seed=3, levels=20)
    writers = {instrument: InstrumentFrames(instrument) for instrument in market.instruments}
    sent: list[bytes] = []
    for instrument, writer in writers.items():
        bids, asks = writer.levels(instrument.bids.levels()), writer.levels(instrument.asks.levels())
        sent.append(snapshot_frame(instrument.spec.id, bids, asks))
        if instrument.last is not None:
            sent.append(writer.match(instrument.last, time_text(0), "last_match"))
    for number, message in enumerate(islice(market.messages(), count), 1):
        writer = writers[message.instrument]
        match message:
            case BookChange():
                sent.append(writer.change(message, time_text(number)))
            case Match():
                sent.append(writer.match(message.fill, time_text(number)))
            case _:
                sent.append(writer.ticker(message.fill, time_text(number)))
        if number % 50 == 0:
            sequence = message.instrument.sequence
            sent.append(heartbeat_frame(message.instrument.spec.id, sequence, 0, time_text(number)))
    return tuple(sent)


def time_text(number: int) -> str:
    return f"2025-11-23T12:00:00.{number:06}Z"


def without_our_times(desk: Desk) -> dict[StreamKey, list[Any]]:
    """Everything said, but for the clock's part in it: publishing times, and epochs by their order."""
    seen: dict[StreamKey, list[Any]] = {}
    for stream, said in desk.said.items():
        epochs: list[int] = []
        bodies = seen[stream] = []
        for flags, message in said:
            if flags == Flags.STATUS:
                status = json.loads(message, parse_float=Decimal)
                bodies.append((status["state"], status["reason"]))
                continue
            data = json.loads(message, parse_float=str)["data"]
            if data["epoch"] not in epochs:
                epochs.append(data["epoch"])
            data["epoch"] = epochs.index(data["epoch"])
            for ours in ("ts_publish", "ts_snapshot"):
                data.pop(ours, None)
            bodies.append(data)
        assert epochs == sorted(epochs)
    return seen


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 600), max_size=40),
    lost=st.sets(st.integers(0, 600), max_size=6),
    doubled=st.sets(st.integers(0, 600), max_size=6),
    garbled=st.sets(st.integers(0, 600), max_size=4),
    broken=st.sets(st.integers(0, 600), max_size=2),
)
def test_what_is_said_does_not_depend_on_batching(
    cuts: list[int], lost: set[int], doubled: set[int], garbled: set[int], broken: set[int]
) -> None:
    records: list[Any] = []
    for number, frame in enumerate(model_frames(550)):
        if number in broken:
            records.append(link(RecordKind.LINK_DOWN, NAMES[0]))
        if number in lost:
            continue
        records.append(frame[:60] if number in garbled else frame)
        if number in doubled:
            records.append(frame)
    whole, cut = Desk(*NAMES), Desk(*NAMES)
    whole.take(*records)
    edges = [0, *sorted(edge for edge in cuts if edge < len(records)), len(records)]
    for turn, (start, end) in enumerate(pairwise(edges)):
        cut.take(*records[start:end], now=T0 + turn * 1_000_003)
    assert without_our_times(cut) == without_our_times(whole)
    assert cut.pipelines.intake.bad == whole.pipelines.intake.bad
    assert cut.pipelines.intake.dropped == whole.pipelines.intake.dropped


def test_the_models_market_arrives_whole() -> None:
    frames = model_frames(3000)
    desk = Desk(*NAMES)
    for start in range(0, len(frames), 97):
        desk.take(*frames[start : start + 97])
    assert (dict(desk.pipelines.intake.bad), dict(desk.pipelines.intake.dropped)) == ({}, {})
    check(desk, frames, NAMES)


def test_the_recorded_tape_arrives_whole() -> None:
    frames = tape_frames()
    names = tuple(sorted({found["product_id"] for found in map(json.loads, frames) if "product_id" in found}))
    desk = Desk(*names)
    for start in range(0, len(frames), 113):
        desk.take(*frames[start : start + 113])
    assert (dict(desk.pipelines.intake.bad), dict(desk.pipelines.intake.dropped)) == ({}, {})
    assert check(desk, frames, names) == 97


def test_every_message_keeps_the_public_contract() -> None:
    frames = model_frames(550)
    desk = Desk(*NAMES)
    desk.take(*frames[:300], link(RecordKind.LINK_DOWN, *NAMES), *frames[:10], *frames[400:])
    for now in (T0 + 1, T0 + 10_000_000_001):
        desk.pipelines.turn.begin(now)
        for product in desk.pipelines.products.values():
            product.tick(now)
    desk.settle()
    kinds = {type(parse_message(message)).__name__ for said in desk.said.values() for _, message in said}
    assert kinds == {"SnapshotMessage", "IncrementMessage", "Status"}
    assert any(b'"missing"' in message for said in desk.said.values() for _, message in said)


def check(desk: Desk, frames: tuple[bytes, ...] | list[bytes], names: tuple[str, ...]) -> int:
    """Compare what clients get with what the frames say, built by other means; returns how many trades came."""
    trades = 0
    for name in names:
        ours = [found for found in map(json.loads, frames) if found.get("product_id") == name]
        expected = [
            (one["trade_id"], one["price"], one["size"], {"buy": "sell", "sell": "buy"}[one["side"]])
            for one in ours
            if one["type"] == "match"
        ]
        passed_on = stream(desk, name, Channel.TRADES)
        assert [
            (one["trade_id"], one["px"], one["qty"], one["side"])
            for one in (data["fields"] for data in passed_on if data["type"] == "trade")
        ] == expected
        assert all(data["continuity"] == "verified" for data in passed_on[2:])
        trades += len(expected)
        assert followed_book(stream(desk, name, Channel.BOOK)) == naive_book(ours)
        bids, asks = naive_book(ours)
        ticker = stream(desk, name, Channel.TICKER)[-1]
        fields = ticker.get("fields") or ticker["state"]
        assert fields["best_bid"] == dict(zip(("px", "qty"), bids[max(bids)], strict=True))
        assert fields["best_ask"] == dict(zip(("px", "qty"), asks[min(asks)], strict=True))
        if expected:
            assert fields["last_trade"]["trade_id"] == expected[-1][0]
    return trades


def stream(desk: Desk, name: str, channel: Channel) -> list[dict[str, Any]]:
    """A stream's messages with all numbers as texts, its positions checked."""
    said = []
    position = (0, 0)
    for flags, message in desk.said[StreamKey(name, channel)]:
        assert flags != Flags.STATUS
        data = json.loads(message, parse_float=str, parse_int=str)["data"]
        epoch, seq = int(data["epoch"]), int(data["seq"])
        if data["type"] == "snapshot":
            assert (epoch > position[0], seq) == (True, 0)
        else:
            assert (epoch, seq) == (position[0], position[1] + 1)
        position = (epoch, seq)
        for part in (data.get("fields"), (data.get("state") or {}).get("last_trade")):
            if part is not None and "trade_id" in part:
                part["trade_id"] = int(part["trade_id"])
        last = (data.get("fields") or {}).get("last_trade")
        if last:
            last["trade_id"] = int(last["trade_id"])
        said.append(data)
    return said


type Side = dict[Decimal, tuple[str, str]]


def followed_book(messages: list[dict[str, Any]]) -> tuple[Side, Side]:
    """The book as a client holds it."""
    sides: dict[str, Side] = {"bids": {}, "asks": {}}
    for data in messages:
        if data["type"] == "snapshot":
            sides = {"bids": {}, "asks": {}}
        for name, levels in (data.get("fields") or data["state"]).items():
            put(sides[name], levels)
    return sides["bids"], sides["asks"]


def naive_book(frames: list[dict[str, Any]]) -> tuple[Side, Side]:
    """The book straight from the venue's frames."""
    bids: Side = {}
    asks: Side = {}
    for one in frames:
        if one["type"] == "snapshot":
            bids.clear()
            asks.clear()
            put(bids, one["bids"])
            put(asks, one["asks"])
        elif one["type"] == "l2update":
            for side, px, qty in one["changes"]:
                put(bids if side == "buy" else asks, [(px, qty)])
    return bids, asks


def put(side: Side, levels: list[Any]) -> None:
    for px, qty in levels:
        if Decimal(qty):
            side[Decimal(px)] = (px, qty)
        else:
            side.pop(Decimal(px), None)
