"""Clients that don't keep up, or don't want everything: conflation, its lanes, rates, and what others notice of it."""

import json
import random
import zlib

import pytest

from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_frames import DEFLATE_WINDOW_BITS
from lfmesh.core.hub_joins import After, Fresh, WantSnapshot
from lfmesh.core.hub_lanes import interval_ns
from lfmesh.types import Channel, Position, StreamKey
from tests.core.hub_world import TERM, FakeSink, Reader, split
from tests.core.test_hub import BOOK, SECOND, TICKER, TRADES, Desk, E, Sink, positions

MS = 1_000_000
OTHER = StreamKey("B-USD", Channel.TICKER)


def stall(desk: Desk, client: Client, sink: Sink) -> None:
    """The socket takes nothing more; what it was sent before is not of interest."""
    sink.take()
    desk.hub.paused(client, desk.now)


def told(frames: list[bytes]) -> list[tuple[str, str, int, str | int | None]]:
    """(channel, op, seq, reason or prev_seq) of each frame."""
    found: list[tuple[str, str, int, str | int | None]] = []
    for frame in frames:
        message = json.loads(frame[frame.index(b"{") :])
        data = message["data"]
        found.append((data["channel"], message["op"], data["seq"], data.get("reason", data.get("prev_seq"))))
    return found


def test_past_the_soft_bound_ticker_and_book_collapse_and_trades_go_on() -> None:
    desk = Desk(soft_bytes=3_000)
    keys = (TICKER, TRADES, BOOK)
    for key in keys:
        desk.open(key)
    slow, sink = desk.client(*keys)
    _, other = desk.client(*keys)
    stall(desk, slow, sink)
    for _ in range(20):
        for key in keys:
            desk.publish(key)
        desk.pull()
    assert desk.hub.slow.conflations == {"bytes": 1, "age": 0, "rate": 0}
    assert slow.pending_bytes < 5_000, "nothing more is kept for it"
    assert desk.hub.take_wants() == [], "nobody asks for what can't be sent"
    before = len(slow.pending)
    desk.hub.drained(slow)
    sent = sink.take()
    assert before
    desk.pull()
    for want in desk.hub.take_wants():
        assert isinstance(want, WantSnapshot)
        desk.hub.snapshot(want.key, desk.state(want.key), desk.now)
    desk.pull()
    found = told([*sent, *sink.take()])
    trades = [(op, seq) for channel, op, seq, _ in found if channel == "trades"]
    assert trades == [("incr", seq) for seq in range(1, 21)], "every trade, in order, once"
    for channel in ("ticker", "book"):
        of_it = [(op, seq, reason) for name, op, seq, reason in found if name == channel]
        assert of_it[-1] == ("snapshot", 20, "conflated")
        assert [op for op, _, _ in of_it].count("snapshot") == 1
        assert [seq for _, seq, _ in of_it[:-1]] == list(range(1, len(of_it)))
    for key in keys:
        desk.publish(key)
    assert {entry[1:] for entry in told(sink.take())} == {("incr", 21, None)}
    assert len(other.take()) == 63, "nobody else notices"
    assert slow.conflations == 1
    assert not slow.conflating


def test_who_missed_nothing_by_it_gets_no_snapshot() -> None:
    desk = Desk(soft_age_ns=SECOND)
    desk.open(TICKER)
    slow, sink = desk.client(TICKER)
    stall(desk, slow, sink)
    desk.now += SECOND + 1
    desk.hub.tick(desk.now)
    assert desk.hub.ready
    desk.pull()
    assert slow.conflating
    desk.hub.drained(slow)
    desk.pull()
    desk.publish(TICKER)
    assert told(sink.take()) == [("ticker", "incr", 1, None)]
    assert not slow.conflating


def test_a_socket_that_takes_little_by_little_is_conflated_and_not_closed() -> None:
    desk = Desk(soft_age_ns=SECOND)
    desk.open(TICKER)
    slow, sink = desk.client(TICKER)
    sink.in_buffer = 100_000
    stall(desk, slow, sink)
    for _ in range(12):
        desk.now += SECOND
        sink.in_buffer -= 1_000
        desk.hub.tick(desk.now)
        desk.pull()
    assert sink.closed is None
    assert desk.hub.slow.conflations["age"] == 1
    desk.now += 5 * SECOND
    desk.hub.tick(desk.now)
    assert sink.closed is None
    desk.now += SECOND
    desk.hub.tick(desk.now)
    assert sink.closed == (4001, "slow consumer")


def test_a_socket_that_takes_next_to_nothing_is_closed_in_the_end() -> None:
    desk = Desk(soft_age_ns=SECOND)
    desk.open(TICKER)
    slow, sink = desk.client(TICKER)
    sink.in_buffer = 100_000
    stall(desk, slow, sink)
    for second in range(22):
        assert (sink.closed is None) == (second <= 20)
        desk.now += SECOND
        sink.in_buffer -= 1
        desk.hub.tick(desk.now)
    assert sink.closed == (4001, "slow consumer")


def test_an_epoch_s_parts_that_tip_a_slow_client_over_are_not_taken_for_sent() -> None:
    desk = Desk(soft_bytes=1_500)
    desk.open(BOOK, big=True)
    slow, sink = desk.client(BOOK)
    stall(desk, slow, sink)
    desk.publish(BOOK, 4, flush=False)  # too much, but that shows when the turn ends
    publisher = desk.publishers[BOOK]
    opened = publisher.open(E + 1)
    assert len(opened.messages) > 1
    desk.hub.opened(desk.hub.stream(BOOK), opened.end, 7, opened.messages, desk.now)
    desk.hub.flush()
    desk.hub.drained(slow)
    desk.pull()
    for want in desk.hub.take_wants():
        desk.hub.snapshot(want.key, desk.state(want.key), desk.now)
    desk.pull()
    found = positions(sink.take())
    assert ("snapshot", E + 1, 0) in found
    desk.publish(BOOK)
    assert positions(sink.take()) == [("incr", E + 1, 1)]


def test_a_client_that_begins_trades_anew_learns_what_it_gave_up() -> None:
    desk = Desk()
    desk.open(TRADES)
    client, sink = desk.client(TRADES)
    desk.publish(TRADES, 3)
    sink.take()
    desk.hub.paused(client, desk.now)
    desk.hub.subscribe(client, TRADES, Fresh(), desk.now)
    desk.publish(TRADES, 20)
    desk.hub.drained(client)
    for want in desk.hub.take_wants():
        desk.hub.snapshot(want.key, desk.state(want.key), desk.now)
    desk.pull()
    (frame,) = sink.take()
    data = json.loads(frame[frame.index(b"{") :])["data"]
    assert data["reason"] == "subscribe"
    listed = [trade["trade_id"] for trade in data["state"]["trades"]]
    assert data["missing"] == {"from_trade_id": 4, "to_trade_id": listed[0] - 1}


def test_trades_that_nobody_has_any_more_are_declared_to_a_conflated_client() -> None:
    desk = Desk(ring=3_000, soft_bytes=2_000)
    desk.open(TRADES)
    slow, sink = desk.client(TRADES)
    stall(desk, slow, sink)
    for _ in range(60):
        desk.publish(TRADES)
        desk.pull()
    held = len(slow.pending)
    desk.hub.drained(slow)
    desk.pull()
    (want,) = desk.hub.take_wants()
    desk.hub.no_older(want.key, desk.now)
    desk.pull()
    for want in desk.hub.take_wants():
        desk.hub.snapshot(want.key, desk.state(want.key), desk.now)
    desk.pull()
    frames = sink.take()
    snapshot = next(json.loads(frame[frame.index(b"{") :]) for frame in frames if b"snapshot" in frame[:30])
    listed = [trade["trade_id"] for trade in snapshot["data"]["state"]["trades"]]
    missing = snapshot["data"]["missing"]
    assert snapshot["data"]["reason"] == "conflated"
    assert missing["from_trade_id"] == held + 1
    assert missing["to_trade_id"] == listed[0] - 1
    assert told(frames)[-1][2] == 60


def test_a_rate_is_held_by_conflation_and_made_up_for() -> None:
    desk = Desk(client_messages_per_s=10.0)
    desk.open(TICKER)
    desk.open(TRADES)
    client, sink = desk.client(TICKER, TRADES)
    _, other = desk.client(OTHER)
    sink.take()
    got = 0
    for _ in range(100):  # ten seconds of 40 messages a second
        desk.now += 100 * MS
        desk.publish(TICKER, 3)
        desk.publish(TRADES, 1)
        desk.hub.tick(desk.now)
        desk.pull()
        for want in desk.hub.take_wants():
            desk.hub.snapshot(want.key, desk.state(want.key), desk.now)
        desk.pull()
        got += len(sink.take())
    assert 60 <= got <= 260
    assert desk.hub.slow.conflations["rate"] >= 1
    assert other.take() == []
    assert not client.closed


def test_the_slowest_are_told_of_the_worst_first() -> None:
    desk = Desk(soft_age_ns=SECOND)
    desk.open(TICKER)
    sinks = [Sink() for _ in range(3)]
    people = [desk.hub.connect(sink, name) for sink, name in zip(sinks, ("one", "two", "three"), strict=True)]
    desk.hub.subscribe(people[1], TICKER, Fresh(), desk.now)
    for client, sink in zip(people[:2], sinks, strict=False):
        desk.hub.paused(client, desk.now)
        sink.in_buffer = 7
        desk.now += SECOND
    found = desk.hub.slowest(10, desk.now)
    assert [(one.name, one.lag_ns, one.bytes) for one in found] == [("one", 2 * SECOND, 7), ("two", SECOND, 7)]
    assert found[1].subscriptions == 1
    assert desk.hub.slowest(1, desk.now) == found[:1]


# At most one message per interval -------------------------------------------------------------------------------------


def emit(desk: Desk, after_ns: int) -> None:
    desk.now += after_ns
    desk.hub.emit(desk.now)
    desk.pull()


def wishes(desk: Desk, key: StreamKey, conflate_ms: int) -> tuple[Client, Sink]:
    """A client that is live on a lane of the stream, by a snapshot."""
    client, sink = desk.client()
    desk.hub.subscribe(client, key, Fresh(), desk.now, conflate_ms)
    for _ in desk.hub.take_wants():
        desk.hub.snapshot(key, desk.state(key), desk.now)
    desk.pull()
    assert desk.hub.emit_at(desk.now) is not None
    return client, sink


def test_a_wish_is_rounded_up_to_a_length_that_clients_share() -> None:
    assert [interval_ns(Channel.BOOK, ms) // MS for ms in (0, 1, 10, 11, 100, 101, 60_000)] == [
        0, 10, 10, 20, 100, 200, 60_000,
    ]  # fmt: skip
    assert interval_ns(Channel.TRADES, 100) == 0


def test_one_message_an_interval_names_what_it_follows_and_is_made_once_for_all() -> None:
    desk = Desk()
    desk.open(TICKER)
    (_, first), (_, second) = (wishes(desk, TICKER, 100) for _ in range(2))
    _, plain = desk.client(TICKER)
    for sink in (first, second):
        assert told(sink.take()) == [("ticker", "snapshot", 0, "subscribe")]
    for _ in range(3):
        desk.publish(TICKER, 4)
    assert first.written == []
    emit(desk, 100 * MS)
    assert first.written[0] is second.written[0]
    assert told(first.take()) == [("ticker", "incr", 12, 0)]
    emit(desk, 100 * MS)
    assert first.written == [], "nothing was published"
    desk.publish(TICKER)
    emit(desk, 100 * MS)
    assert told(first.take()) == [("ticker", "incr", 13, 12)]
    assert len(plain.take()) == 13


def test_who_joins_ahead_of_a_lane_waits_for_its_next_message_and_gets_one_of_its_own() -> None:
    desk = Desk()
    desk.open(BOOK)
    _, first = wishes(desk, BOOK, 50)
    desk.publish(BOOK, 5)
    _, second = wishes(desk, BOOK, 50)
    assert told(second.take()) == [("book", "snapshot", 0, "subscribe")] or desk.hub.statistics().joining
    desk.publish(BOOK, 2)
    emit(desk, 50 * MS)
    first.take()
    second.take()
    desk.publish(BOOK)
    emit(desk, 50 * MS)
    assert first.written == second.written
    assert told(first.take()) == [("book", "incr", 8, 7)]
    assert desk.hub.statistics().joining == 0


def test_a_lane_goes_over_an_epoch_by_its_snapshot_at_once() -> None:
    desk = Desk()
    desk.open(TICKER)
    _, sink = wishes(desk, TICKER, 1000)
    sink.take()
    desk.publish(TICKER, 3)
    desk.open(TICKER, E + 1)
    assert positions(sink.take()) == [("snapshot", E + 1, 0)]
    desk.publish(TICKER, 2)
    emit(desk, SECOND)
    assert told(sink.take()) == [("ticker", "incr", 2, 0)]


def test_a_lane_is_gone_with_the_last_who_followed_it() -> None:
    desk = Desk()
    desk.open(TICKER)
    client, _ = wishes(desk, TICKER, 10)
    desk.hub.unsubscribe(client, TICKER)
    desk.publish(TICKER)
    desk.hub.emit(desk.now + SECOND)
    assert desk.hub.emit_at(desk.now + SECOND) is None
    assert not desk.hub.stream(TICKER).lanes


def test_a_clock_that_is_set_back_holds_no_lane_up() -> None:
    desk = Desk()
    desk.open(TICKER)
    _, sink = wishes(desk, TICKER, 100)
    sink.take()
    desk.now -= SECOND // 2
    desk.publish(TICKER)
    at = desk.hub.emit_at(desk.now)
    assert at is not None
    assert at <= desk.now + 100 * MS
    emit(desk, 100 * MS)
    assert told(sink.take()) == [("ticker", "incr", 1, 0)]


def test_resuming_on_a_lane_is_one_message_from_where_the_client_stands() -> None:
    desk = Desk()
    desk.open(BOOK)
    desk.publish(BOOK, 9)
    client, sink = desk.client()
    desk.hub.subscribe(client, BOOK, After(Position(E, 4)), desk.now, 100)
    desk.pull()
    assert told(sink.take()) == [("book", "incr", 9, 4)]
    desk.publish(BOOK)
    desk.hub.emit_at(desk.now)
    emit(desk, 100 * MS)
    assert told(sink.take()) == [("book", "incr", 10, 9)]


def test_trades_are_never_conflated_by_a_wish() -> None:
    desk = Desk()
    desk.open(TRADES)
    client, sink = desk.client()
    desk.hub.subscribe(client, TRADES, After(Position(E, 0)), desk.now, 1000)
    desk.pull()
    desk.publish(TRADES, 3)
    assert told(sink.take()) == [("trades", "incr", seq, None) for seq in (1, 2, 3)]


# Many groups, and compression -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [1, 30], ids=["few streams", "all streams"])
def test_few_or_many_streams_of_a_turn_come_to_the_same(busy: int) -> None:
    desk = Desk(ring=10_000_000)
    keys = [StreamKey(f"P{number}-USD", Channel.TICKER) for number in range(30)]
    for key in keys:
        desk.open(key)
    people = [(desk.client(*keys[number : number + 15])[1], keys[number : number + 15]) for number in range(15)]
    published = {key: desk.publish(key, 2, flush=False) for key in keys[:busy]}
    desk.hub.flush()
    for sink, follows in people:
        expected = sorted(frame for key in follows for frame in published.get(key, ()))
        assert len(sink.written) == bool(expected)
        assert sorted(sink.take()) == expected


def test_compressed_and_plain_clients_of_the_same_streams_get_the_same_messages() -> None:
    desk = Desk()
    for key in (TICKER, BOOK):
        desk.open(key)
    plain, packed, same = Sink(), Sink(), Sink()
    for sink, deflate in ((plain, False), (packed, True), (same, True)):
        client = desk.hub.connect(sink, deflate=deflate)
        for key in (TICKER, BOOK):
            desk.hub.subscribe(client, key, Fresh(), desk.now)
    for want in desk.hub.take_wants():
        desk.hub.snapshot(want.key, desk.state(want.key), desk.now)
    desk.pull()
    for _ in range(2):
        desk.publish(TICKER, 2, flush=False)
        desk.publish(BOOK, 3)
    assert packed.written[-1] is same.written[-1], "compressed once"
    assert sum(map(len, packed.written)) < sum(map(len, plain.written)) * 0.8
    assert [inflated(frame) for frame in cut(b"".join(packed.written))] == [
        frame[frame.index(b"{") :] for frame in split(b"".join(plain.written))
    ]


def cut(data: bytes) -> list[bytes]:
    frames = []
    while data:
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4]), 4
        frames.append(data[: start + length])
        data = data[start + length :]
    return frames


def inflated(frame: bytes) -> bytes:
    start = 4 if frame[1] == 126 else 2
    if frame[0] == 0x81:
        return frame[start:]
    assert frame[0] == 0xC1
    return zlib.decompress(frame[start:] + b"\0\0\xff\xff\3\0", -DEFLATE_WINDOW_BITS)


# Any order ------------------------------------------------------------------------------------------------------------


def turn(desk: Desk, draw: random.Random, *, sure: bool) -> None:
    """Time goes on, and who is asked for a state answers, if that is sure or by chance."""
    desk.now += 20 * MS
    desk.hub.emit_at(desk.now)
    desk.hub.emit(desk.now)
    for want in desk.hub.take_wants():
        if not isinstance(want, WantSnapshot):
            desk.hub.no_older(want.key, desk.now)
        elif sure or draw.random() < 0.8:
            desk.hub.snapshot(want.key, desk.state(want.key), desk.now)
        else:
            desk.hub.no_snapshot(want.key, desk.now)
    desk.hub.tick(desk.now)
    desk.hub.pull(desk.now)


def publish_some(desk: Desk, draw: random.Random) -> None:
    for _ in range(draw.randrange(4)):
        key = draw.choice([*desk.publishers])
        publisher = desk.publishers[key]
        if draw.random() < 0.9:
            desk.publish(key, draw.randrange(1, 6), flush=False)
        else:
            opened = publisher.open(publisher.epoch + 1)
            desk.hub.opened(desk.hub.stream(key), opened.end, TERM, opened.messages, desk.now)
    desk.hub.flush()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_slow_client_s_buffers_hold_when_an_epoch_opens_it_is_told_the_truth(seed: int) -> None:
    """Turns are open when snapshots of several parts come, and soft bounds are met at every moment."""
    draw = random.Random(seed)
    desk = Desk(soft_bytes=draw.choice((1_500, 3_000, 6_000)), ring=10_000_000, outbox=1 << 20)
    keys = [BOOK, TICKER, TRADES, StreamKey("B-USD", Channel.BOOK)]
    reader = Reader(desk.publishers)
    sink = FakeSink(reader)
    client = desk.hub.connect(sink)
    for key in keys:
        desk.open(key, big=draw.random() < 0.6)
        conflate_ms = draw.choice((0, 0, 100))
        reader.follow(key, "fresh", conflate_ms=conflate_ms)
        desk.hub.subscribe(client, key, Fresh(), desk.now, conflate_ms)
    for _ in range(200):
        publish_some(desk, draw)
        if not client.paused and draw.random() < 0.1:
            sink.stalled = True
            desk.hub.paused(client, desk.now)
        elif client.paused and draw.random() < 0.2:
            sink.drain()
            desk.hub.drained(client)
        turn(desk, draw, sure=False)
    if client.paused:
        sink.drain()
        desk.hub.drained(client)
    for _ in range(100):
        turn(desk, draw, sure=True)
    assert {key: reader.follows[key].position for key in keys} == {key: desk.publishers[key].position for key in keys}
