"""The hub by example: what is shared, what is bounded, who is served from where; see test_hub_property, too."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from lfmesh.core import encode
from lfmesh.core.hub import Hub, HubLimits
from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_frames import text_frames
from lfmesh.core.hub_joins import After, AfterSeq, Fresh, JoinLimits, Next, WantSnapshot
from lfmesh.core.hub_older import WantOlder
from lfmesh.core.hub_pulls import PULL_WORK
from lfmesh.core.hub_snapshots import State
from lfmesh.types import Channel, Position, StreamKey
from tests.core.hub_world import LATEST_TRADES, TERM, Publisher, split

TICKER = StreamKey("A-USD", Channel.TICKER)
TRADES = StreamKey("A-USD", Channel.TRADES)
BOOK = StreamKey("A-USD", Channel.BOOK)
SECOND = 1_000_000_000
E = 10


@dataclass(eq=False)
class Sink:
    written: list[bytes] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    in_buffer: int = 0

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def buffered(self) -> int:
        return self.in_buffer

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def take(self) -> list[bytes]:
        """The frames that came since the last call."""
        frames = [frame for data in self.written for frame in split(data)]
        self.written = []
        return frames


class Desk:
    """A hub with publishers, fed at once with what they publish."""

    def __init__(
        self,
        ring: int = 1_000_000,
        tail: int = 100_000,
        outbox: int = 1_000_000,
        older: int = 1_000_000,
        **limits: Any,  # noqa: ANN401 - fields of HubLimits, by name
    ) -> None:
        joins = JoinLimits(tail, 1_000_000, 2 * SECOND, older, trades=LATEST_TRADES)
        self.hub = Hub(replace(HubLimits(ring, 0, outbox, stall_ns=5 * SECOND, joins=joins), **limits))
        self.publishers: dict[StreamKey, Publisher] = {}
        self.now = SECOND

    def open(self, key: StreamKey, epoch: int = E, *, big: bool = False) -> None:
        publisher = self.publishers.setdefault(key, Publisher(key, big=big))
        published = publisher.open(epoch)
        self.hub.opened(self.hub.stream(key), published.end, TERM, published.messages, self.now)
        self.hub.flush()

    def publish(self, key: StreamKey, count: int = 1, *, flush: bool = True) -> list[bytes]:
        published = self.publishers[key].publish(count)
        unit = published.unit
        self.hub.increments(self.hub.stream(key), published.end, published.messages, self.now)
        if flush:
            self.hub.flush()
        return [*unit.frames]

    def state(self, key: StreamKey, back: int = 0) -> State:
        publisher = self.publishers[key]
        return publisher.state(Position(publisher.epoch, publisher.seq - back))

    def client(self, *keys: StreamKey) -> tuple[Client, Sink]:
        sink = Sink()
        client = self.hub.connect(sink)
        for key in keys:
            self.hub.subscribe(client, key, Next(), self.now)
        return client, sink

    def pull(self) -> int:
        turns = 1
        while self.hub.pull(self.now):
            turns += 1
        return turns

    def join(self, key: StreamKey) -> tuple[Client, Sink]:
        """A client that is live by a snapshot."""
        client, sink = self.client()
        self.hub.subscribe(client, key, Fresh(), self.now)
        for _ in self.hub.take_wants():
            self.hub.snapshot(key, self.state(key), self.now)
        self.pull()
        return client, sink


def positions(frames: list[bytes]) -> list[tuple[str, int, int]]:
    """(op, epoch, seq) of each frame."""
    found = []
    for frame in frames:
        message = json.loads(frame[frame.index(b"{") :])
        found.append((message["op"], message["data"]["epoch"], message["data"]["seq"]))
    return found


# Fan-out --------------------------------------------------------------------------------------------------------------


def test_one_write_a_client_and_turn_and_the_same_bytes_for_all() -> None:
    desk = Desk()
    for key in (TICKER, TRADES):
        desk.open(key)
    people = [desk.client(TICKER, TRADES) for _ in range(5)]
    frames = [*desk.publish(TICKER, 2, flush=False), *desk.publish(TRADES, 3, flush=False)]
    frames[2:2] = desk.publish(TICKER, 1, flush=False)
    desk.hub.flush()
    for _, sink in people:
        assert len(sink.written) == 1
        assert sink.written[0] is people[0][1].written[0]
    assert people[0][1].take() == frames
    assert desk.hub.statistics().groups == 1
    assert desk.hub.statistics().deliveries == 5 * 6


def test_a_message_alone_is_not_even_copied() -> None:
    desk = Desk()
    desk.open(TICKER)
    _, sink = desk.client(TICKER)
    (frame,) = desk.publish(TICKER)
    assert sink.written == [frame]


def test_groups_follow_what_clients_follow() -> None:
    desk = Desk()
    for key in (TICKER, TRADES, BOOK):
        desk.open(key)
    first, first_sink = desk.client(TICKER, TRADES)
    _, second_sink = desk.client(TICKER)
    desk.publish(TICKER)
    assert desk.hub.statistics().groups == 2
    desk.hub.unsubscribe(first, TRADES)
    desk.publish(TRADES)
    desk.publish(TICKER)
    assert desk.hub.statistics().groups == 1
    assert positions(first_sink.take()) == [("incr", E, 1), ("incr", E, 2)] == positions(second_sink.take())
    desk.hub.disconnect(first)
    desk.hub.disconnect(first)
    desk.publish(TICKER)
    assert first_sink.written == []
    statistics = desk.hub.statistics()
    assert (statistics.clients, statistics.subscriptions, statistics.groups) == (1, 1, 1)


def test_what_was_published_before_an_unsubscribe_comes_and_nothing_after_it() -> None:
    desk = Desk()
    desk.open(TICKER)
    client, sink = desk.client(TICKER)
    before = desk.publish(TICKER, 2, flush=False)
    desk.hub.unsubscribe(client, TICKER)
    desk.hub.send(client, b'{"op":"unsubscribed"}')
    desk.publish(TICKER)
    assert sink.take() == [*before, *text_frames([b'{"op":"unsubscribed"}'])]


# Snapshots ------------------------------------------------------------------------------------------------------------


def test_however_many_wait_the_state_is_asked_for_once_and_its_bytes_are_shared() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.publish(TICKER, 5)
    people = [desk.client() for _ in range(1000)]
    for client, _ in people:
        desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]
    desk.hub.snapshot(TICKER, desk.state(TICKER, back=2), desk.now)
    assert desk.pull() == -(-1000 // PULL_WORK)
    for _, sink in people:
        assert len(sink.written) == 1
        assert positions(sink.take()) == [("snapshot", E, 3), ("incr", E, 4), ("incr", E, 5)]
    desk.publish(TICKER)
    assert all(positions(sink.take()) == [("incr", E, 6)] for _, sink in people)
    assert desk.hub.statistics().groups == 1


def test_a_snapshot_is_kept_for_the_next_one_while_its_tail_is_short() -> None:
    desk = Desk(tail=1_500)
    desk.open(TICKER)
    desk.publish(TICKER)
    desk.join(TICKER)
    desk.publish(TICKER, 2)
    client, sink = desk.client()
    desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == []
    desk.pull()
    assert positions(sink.take()) == [("snapshot", E, 1), ("incr", E, 2), ("incr", E, 3)]
    desk.publish(TICKER, 5)
    desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]


def test_an_old_snapshot_is_asked_for_anew_once_for_all_who_come() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.publish(TICKER)
    desk.join(TICKER)
    desk.publish(TICKER, 2)
    desk.now += SECOND + 1
    people = [desk.client() for _ in range(50)]
    for client, _ in people:
        desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]
    desk.hub.snapshot(TICKER, desk.state(TICKER), desk.now)
    desk.now += SECOND
    people.append(desk.client())
    desk.hub.subscribe(people[-1][0], TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == []
    desk.pull()
    assert all(positions(sink.take()) == [("snapshot", E, 3)] for _, sink in people)


def test_an_old_snapshot_serves_while_no_newer_one_is_to_be_had() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.publish(TICKER)
    desk.join(TICKER)
    desk.publish(TICKER)
    desk.now += 10 * SECOND
    people = [desk.client() for _ in range(2)]
    desk.hub.subscribe(people[0][0], TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]
    desk.hub.no_snapshot(TICKER, desk.now)
    desk.hub.subscribe(people[1][0], TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == []
    desk.pull()
    assert all(positions(sink.take()) == [("snapshot", E, 1), ("incr", E, 2)] for _, sink in people)
    desk.now += 10 * SECOND
    desk.hub.subscribe(people[0][0], TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 2)]


def test_a_state_that_is_ahead_of_us_waits_for_our_own_stream() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.publish(TICKER)
    client, sink = desk.client()
    desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    desk.hub.take_wants()
    ahead = desk.publishers[TICKER]
    late = [ahead.publish(1) for _ in range(3)]
    desk.hub.snapshot(TICKER, desk.state(TICKER, back=1), desk.now)
    for published in late:
        unit = published.unit
        assert sink.written == [] or unit.first_seq > 3
        desk.hub.increments(desk.hub.stream(TICKER), published.end, published.messages, desk.now)
        desk.hub.flush()
        desk.pull()
        desk.hub.tick(desk.now)
    assert positions(sink.take()) == [("snapshot", E, 3), ("incr", E, 4)]
    assert desk.hub.take_wants() == []


def test_a_state_that_stays_ahead_of_us_is_asked_for_again() -> None:
    desk = Desk()
    desk.open(TICKER)
    client, _ = desk.client()
    desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    desk.hub.take_wants()
    desk.hub.snapshot(TICKER, State(Position(E + 99, 5), TERM, 1, (b"{}",)), desk.now)
    desk.now += SECOND
    desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == []
    for _ in range(3):
        desk.now += 2 * SECOND
        desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 2)]


def test_a_state_from_before_all_that_we_retain_is_asked_for_again() -> None:
    desk = Desk(ring=2_000)
    desk.open(TICKER)
    desk.publish(TICKER)
    old = desk.state(TICKER)
    for _ in range(20):
        desk.publish(TICKER)
    client, sink = desk.client()
    desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    desk.hub.take_wants()
    desk.hub.snapshot(TICKER, old, desk.now)
    assert desk.hub.take_wants() == []
    desk.now += SECOND
    desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 2)]
    desk.hub.snapshot(TICKER, desk.state(TICKER), desk.now)
    desk.pull()
    assert positions(sink.take()) == [("snapshot", E, 21)]


def test_a_stream_without_data_begins_with_its_first_epoch() -> None:
    desk = Desk()
    client, sink = desk.client()
    desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]
    desk.hub.no_snapshot(TICKER, desk.now)
    desk.open(TICKER)
    desk.publish(TICKER)
    desk.pull()
    (snapshot, increment) = sink.take()
    assert positions([snapshot, increment]) == [("snapshot", E, 0), ("incr", E, 1)]
    assert b'"reason":"subscribe"' in snapshot


def test_nobody_is_asked_faster_and_faster() -> None:
    desk = Desk()
    client, _ = desk.client()
    desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    asked = 0
    for _ in range(600):  # a minute
        wants = desk.hub.take_wants()
        asked += len(wants)
        for _ in wants:
            desk.hub.no_snapshot(TICKER, desk.now)
        desk.now += SECOND // 10
        desk.hub.tick(desk.now)
    assert 10 <= asked <= 25


# Big snapshots --------------------------------------------------------------------------------------------------------


def big_parts(count: int) -> State:
    part = encode.book_fields([("1.50", "2.00")] * 14_000, []).encode()
    return State(Position(E, 1), TERM, 5, (part,) * count)


def test_parts_come_one_a_turn_with_other_streams_in_between_and_their_stream_after_them() -> None:
    desk = Desk()
    desk.open(BOOK)
    desk.open(TICKER)
    desk.publish(BOOK)
    client, sink = desk.client(TICKER)
    desk.hub.subscribe(client, BOOK, Fresh(), desk.now)
    desk.hub.take_wants()
    desk.hub.snapshot(BOOK, big_parts(3), desk.now)
    order: list[str] = []
    for _ in range(5):
        desk.hub.pull(desk.now)
        desk.publish(TICKER)
        desk.publish(BOOK)
        for frame in sink.take():
            kind = "part" if b'"op":"snapshot"' in frame else "book" if b'"type":"book"' in frame else "tick"
            order.append(kind)
    assert order[:6] == ["part", "tick", "part", "tick", "part", "book"]
    assert order.count("book") == 5
    assert desk.hub.statistics().joining == 0


def test_an_epoch_of_several_parts_reaches_live_clients_as_their_sockets_drain() -> None:
    desk = Desk()
    desk.open(BOOK)
    desk.open(TICKER)
    client, sink = desk.client(BOOK, TICKER)
    desk.publish(BOOK)
    desk.hub.paused(client, desk.now)
    messages = encode.snapshot("A-USD", Channel.BOOK, Position(E + 1, 0), 5, "resync", big_parts(3).parts)
    desk.hub.opened(desk.hub.stream(BOOK), Position(E + 1, 0), TERM, messages, desk.now)
    tick = desk.publish(TICKER)
    assert positions(sink.take()) == [("incr", E, 1)]
    assert desk.hub.statistics().outbox_bytes == len(tick[0])
    desk.hub.drained(client)
    desk.pull()
    assert positions(sink.take()) == [("incr", E, 1), *[("snapshot", E + 1, 0)] * 3]


# Resuming -------------------------------------------------------------------------------------------------------------


def resumed(desk: Desk, position: Position) -> tuple[Client, Sink]:
    client, sink = desk.client()
    desk.hub.subscribe(client, TICKER, After(position), desk.now)
    desk.pull()
    return client, sink


@pytest.mark.parametrize("back", [0, 1, 2, 3, 5])
def test_from_seq_is_served_from_our_ring_even_from_within_a_batch(back: int) -> None:
    desk = Desk()
    desk.open(TICKER)
    frames = [frame for count in (1, 3, 2) for frame in desk.publish(TICKER, count)]
    _, sink = resumed(desk, Position(E, 6 - back))
    frames += desk.publish(TICKER)
    assert sink.take() == frames[6 - back :]
    assert desk.hub.join_counters.resumes == {"ring": 1, "retransmission": 0, "archive": 0, "snapshot": 0}


def test_epochs_that_began_meanwhile_come_as_they_were_published() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.publish(TICKER, 2)
    desk.open(TICKER, E + 5)
    desk.publish(TICKER)
    desk.open(TICKER, E + 7)
    _, sink = resumed(desk, Position(E, 1))
    assert positions(sink.take()) == [
        ("incr", E, 2),
        ("snapshot", E + 5, 0),
        ("incr", E + 5, 1),
        ("snapshot", E + 7, 0),
    ]


def test_a_bare_seq_is_honoured_while_a_single_epoch_is_retained() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.publish(TICKER, 3)
    client, sink = desk.client()
    desk.hub.subscribe(client, TICKER, AfterSeq(2), desk.now)
    desk.pull()
    assert positions(sink.take()) == [("incr", E, 3)]
    desk.open(TICKER, E + 1)
    sink.take()
    desk.hub.subscribe(client, TICKER, AfterSeq(2), desk.now)
    desk.hub.snapshot(TICKER, desk.state(TICKER), desk.now)
    desk.pull()
    (snapshot,) = sink.take()
    assert b'"reason":"resume_failed"' in snapshot


def test_a_position_ahead_of_ours_is_awaited() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.publish(TICKER)
    _, sink = resumed(desk, Position(E, 3))
    desk.now += SECOND
    desk.hub.tick(desk.now)
    desk.publish(TICKER, 2)
    desk.publish(TICKER, 1)
    desk.pull()
    assert positions(sink.take()) == [("incr", E, 4)]
    assert desk.hub.take_wants() == []


def test_but_not_for_ever() -> None:
    desk = Desk()
    desk.open(TICKER)
    _, sink = resumed(desk, Position(E, 3))
    desk.now += 2 * SECOND
    desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]
    desk.hub.snapshot(TICKER, desk.state(TICKER), desk.now)
    desk.pull()
    (snapshot,) = sink.take()
    assert b'"reason":"resume_failed"' in snapshot


def forgetful(desk: Desk) -> list[bytes]:
    """Ten published frames, of which the ring holds only the newest ones."""
    desk.open(TICKER)
    return [frame for _ in range(10) for frame in desk.publish(TICKER)]


def test_what_our_ring_has_lost_is_asked_of_the_publisher_once_for_all() -> None:
    desk = Desk(ring=2_500)
    frames = forgetful(desk)
    people = [resumed(desk, Position(E, seq)) for seq in (2, 1, 2)]
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 2))]
    units = [published.unit for published in desk.publishers[TICKER].units]
    desk.hub.older(TICKER, units[3:], False, desk.now)
    desk.pull()
    for who in (0, 2):
        assert people[who][1].take() == frames[2:]
    # Who came while that was under way and wants still more is asked for next.
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 1))]
    desk.hub.older(TICKER, units[2:5], True, desk.now)
    assert desk.hub.take_wants() == [], "the next piece is asked for when this one has been sent"
    desk.pull()
    assert people[1][1].take() == frames[1:4]
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 4))]
    desk.hub.older(TICKER, units[5:], False, desk.now)
    desk.pull()
    assert people[1][1].take() == frames[4:]
    assert desk.hub.join_counters.resumes["retransmission"] == 3


def test_an_answer_that_ends_before_some_of_those_who_wait_is_followed_by_the_next() -> None:
    desk = Desk(ring=2_500)
    frames = forgetful(desk)
    behind, ahead = resumed(desk, Position(E, 1)), resumed(desk, Position(E, 4))
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 1))]
    units = [published.unit for published in desk.publishers[TICKER].units]
    desk.hub.older(TICKER, units[2:4], True, desk.now)
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 4))]
    desk.hub.older(TICKER, units[5:], False, desk.now)
    desk.pull()
    assert ahead[1].take() == frames[4:]
    assert behind[1].take() == frames[1:3]
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 3))]


def test_an_answer_that_says_nothing_new_is_not_asked_for_for_ever() -> None:
    desk = Desk(ring=2_500)
    forgetful(desk)
    resumed(desk, Position(E, 1))
    desk.hub.take_wants()
    desk.hub.older(TICKER, [], True, desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]


def test_who_does_not_answer_is_asked_again_for_a_while() -> None:
    desk = Desk(ring=2_500)
    frames = forgetful(desk)
    _, sink = resumed(desk, Position(E, 1))
    desk.hub.take_wants()
    desk.hub.unanswered_older(TICKER, desk.now)
    assert desk.hub.take_wants() == []
    desk.now += SECOND
    desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 1))]
    units = [published.unit for published in desk.publishers[TICKER].units]
    desk.hub.older(TICKER, units[2:], False, desk.now)
    desk.pull()
    assert sink.take() == frames[1:]
    _, other = resumed(desk, Position(E, 1))
    for _ in range(4):
        desk.hub.take_wants()
        desk.hub.unanswered_older(TICKER, desk.now)
        desk.now += SECOND
        desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]
    assert other.take() == []


def test_the_publisher_may_be_ahead_of_us() -> None:
    desk = Desk(ring=2_500)
    frames = forgetful(desk)
    _, sink = resumed(desk, Position(E, 3))
    desk.hub.take_wants()
    ahead = desk.publishers[TICKER].publish(2)
    units = [published.unit for published in desk.publishers[TICKER].units]
    desk.hub.older(TICKER, units[4:], False, desk.now)
    desk.pull()
    desk.hub.increments(desk.hub.stream(TICKER), ahead.end, ahead.messages, desk.now)
    desk.hub.flush()
    desk.pull()
    assert sink.take() == [*frames[3:], *ahead.unit.frames]


def test_what_all_clients_are_given_from_before_our_ring_is_bounded() -> None:
    desk = Desk(ring=2_500, older=500)
    frames = forgetful(desk)
    client, sink = resumed(desk, Position(E, 1))
    desk.hub.take_wants()
    units = [published.unit for published in desk.publishers[TICKER].units]
    desk.hub.older(TICKER, units[2:5], True, desk.now)
    desk.hub.paused(client, desk.now)
    _, other = resumed(desk, Position(E, 2))
    assert desk.hub.take_wants() == [], "no room"
    desk.hub.drained(client)
    desk.pull()
    assert sink.take() == frames[1:4]
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 2))]
    desk.hub.older(TICKER, units[3:5], True, desk.now)
    desk.pull()
    assert other.take() == frames[2:4]


def test_where_there_is_no_room_for_long_a_snapshot_has_to_do() -> None:
    desk = Desk(ring=2_500, older=500)
    forgetful(desk)
    client, _ = resumed(desk, Position(E, 1))
    desk.hub.take_wants()
    units = [published.unit for published in desk.publishers[TICKER].units]
    desk.hub.older(TICKER, units[2:5], True, desk.now)
    client.paused = True
    resumed(desk, Position(E, 2))
    desk.now += 11 * SECOND
    desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]


@pytest.mark.parametrize("how", ["unsubscribe", "disconnect", "finish", "restart"])
def test_room_is_given_back_by_leaving(how: str) -> None:
    desk = Desk(ring=2_500, older=500)
    forgetful(desk)
    client, _ = resumed(desk, Position(E, 1))
    other, _ = resumed(desk, Position(E, 1))
    desk.hub.take_wants()
    units = [published.unit for published in desk.publishers[TICKER].units]
    desk.hub.older(TICKER, units[2:5], True, desk.now)
    older = desk.hub._joins._older
    assert older.room.bytes == sum(len(frame) for unit in units[2:5] for frame in unit.frames)
    for one in (client, other):
        assert one.pieces == 1
        match how:
            case "unsubscribe":
                desk.hub.unsubscribe(one, TICKER)
            case "disconnect":
                desk.hub.disconnect(one)
            case "finish":
                desk.hub.finish(one)
            case _:
                desk.hub.subscribe(one, TICKER, Fresh(), desk.now)
        assert one.pieces == 0
    assert older.room.bytes == 0


def test_a_client_has_few_answers_in_its_queues_at_a_time() -> None:
    desk = Desk(ring=2_500)
    for key in (TICKER, TRADES, BOOK):
        desk.open(key)
        for _ in range(10):
            desk.publish(key)
    client, sink = desk.client()
    for key in (TICKER, TRADES, BOOK):
        desk.hub.subscribe(client, key, After(Position(E, 1)), desk.now)
    assert {want.key for want in desk.hub.take_wants()} == {TICKER, TRADES, BOOK}
    desk.hub.paused(client, desk.now)
    for key in (TICKER, TRADES):
        desk.hub.older(key, [one.unit for one in desk.publishers[key].units][2:5], True, desk.now)
    desk.hub.unanswered_older(BOOK, desk.now)
    desk.now += SECOND
    desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == []
    desk.hub.drained(client)
    desk.pull()
    assert {want.key for want in desk.hub.take_wants()} == {TICKER, TRADES, BOOK}
    assert len(sink.take()) == 6


def test_a_client_too_slow_for_our_ring_goes_on_from_the_publisher_s() -> None:
    desk = Desk(ring=2_500)
    desk.open(BOOK)
    slow, sink = desk.client()
    desk.hub.subscribe(slow, BOOK, Fresh(), desk.now)
    for _ in desk.hub.take_wants():
        desk.hub.snapshot(BOOK, desk.state(BOOK), desk.now)
    desk.hub.paused(slow, desk.now)
    frames = [frame for _ in range(20) for frame in desk.publish(BOOK)]
    desk.hub.drained(slow)
    desk.pull()
    assert positions(sink.take()) == [("snapshot", E, 0)]
    assert desk.hub.take_wants() == [WantOlder(BOOK, Position(E, 0))]
    units = [published.unit for published in desk.publishers[BOOK].units]
    desk.hub.older(BOOK, units[1:], False, desk.now)
    desk.pull()
    assert sink.take() == frames
    assert desk.hub.join_counters.caught_up == 1
    assert desk.hub.join_counters.resumes == {"ring": 0, "retransmission": 0, "archive": 0, "snapshot": 0}


def test_and_if_that_has_lost_it_too_it_gets_a_snapshot_with_another_reason_than_a_resume() -> None:
    desk = Desk(ring=2_500)
    frames = forgetful(desk)
    client, sink = resumed(desk, Position(E, 1))
    desk.hub.take_wants()
    units = [published.unit for published in desk.publishers[TICKER].units]
    desk.hub.older(TICKER, units[2:4], True, desk.now)
    desk.pull()
    assert sink.take() == frames[1:3]
    desk.hub.take_wants()
    desk.hub.no_older(TICKER, desk.now)
    desk.hub.take_wants()
    desk.hub.snapshot(TICKER, desk.state(TICKER), desk.now)
    desk.pull()
    (snapshot,) = sink.take()
    assert b'"reason":"gap"' in snapshot
    assert not client.joins


# Trades that are still to be had --------------------------------------------------------------------------------------


def trading(desk: Desk, count: int = 20) -> list[bytes]:
    desk.open(TRADES)
    return [frame for _ in range(count) for frame in desk.publish(TRADES)]


def resume_trades(desk: Desk, position: Position) -> Sink:
    client, sink = desk.client()
    desk.hub.subscribe(client, TRADES, After(position), desk.now)
    return sink


def content(frame: bytes) -> tuple[str, Position, list[int], tuple[int, int] | None]:
    """Reason, position, listed ids and what is declared."""
    data = json.loads(frame[frame.index(b"{") :])["data"]
    missing = data.get("missing")
    return (
        data["reason"],
        Position(data["epoch"], data["seq"]),
        [trade["trade_id"] for trade in data["state"]["trades"]],
        (missing["from_trade_id"], missing["to_trade_id"]) if missing else None,
    )


def test_where_the_publisher_has_lost_the_first_the_trades_begin_with_the_oldest_that_it_has() -> None:
    desk = Desk(ring=2_500)
    frames = trading(desk)
    sink = resume_trades(desk, Position(E, 2))
    assert desk.hub.take_wants() == [WantOlder(TRADES, Position(E, 2))]
    units = [published.unit for published in desk.publishers[TRADES].units]
    desk.hub.older(TRADES, units[6:], False, desk.now)
    desk.pull()
    snapshot, *rest = sink.take()
    assert content(snapshot) == ("resume_failed", Position(E, 10), [6, 7, 8, 9, 10], (3, 5))
    assert rest == frames[10:]
    assert desk.hub.join_counters.resumes == {"ring": 0, "retransmission": 0, "archive": 0, "snapshot": 1}


def test_where_it_has_nothing_they_begin_with_the_oldest_of_our_own_ring() -> None:
    desk = Desk(ring=6_000)
    frames = trading(desk)
    sink = resume_trades(desk, Position(E, 2))
    desk.hub.take_wants()
    desk.hub.no_older(TRADES, desk.now)
    desk.pull()
    snapshot, *rest = sink.take()
    reason, position, listed, missing = content(snapshot)
    assert (reason, len(listed)) == ("resume_failed", LATEST_TRADES)
    assert listed[-1] == position.seq < 20
    assert missing == (3, listed[0] - 1)
    assert rest == frames[position.seq :]
    assert desk.hub.take_wants() == []


def test_too_few_to_make_a_list_of_are_no_better_than_the_state_of_now() -> None:
    desk = Desk(ring=1_500)
    trading(desk)
    sink = resume_trades(desk, Position(E, 2))
    desk.hub.take_wants()
    desk.hub.no_older(TRADES, desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TRADES, 1)]
    desk.hub.snapshot(TRADES, desk.state(TRADES), desk.now)
    desk.pull()
    assert content(*sink.take()) == ("resume_failed", Position(E, 20), [16, 17, 18, 19, 20], (3, 15))


def test_of_an_epoch_that_was_seen_to_end_the_last_trade_is_known() -> None:
    desk = Desk(ring=20_000)
    trading(desk, 10)
    published = desk.publishers[TRADES].open(E + 5, skip=3)
    desk.hub.opened(desk.hub.stream(TRADES), published.end, TERM, published.messages, desk.now)
    later = [frame for _ in range(70) for frame in desk.publish(TRADES)]
    sink = resume_trades(desk, Position(E, 8))
    desk.hub.take_wants()
    desk.hub.no_older(TRADES, desk.now)
    desk.pull()
    snapshot, *rest = sink.take()
    reason, position, listed, missing = content(snapshot)
    assert reason == "resume_failed"
    assert missing == (9, listed[0] - 1)
    assert rest == later[position.seq :]


def test_an_older_epoch_that_nobody_knows_is_met_with_all_that_there_is() -> None:
    """Each seq of it was a trade, so that the client has at least as many; more can't be said of it."""
    desk = Desk()
    frames = trading(desk)
    sink = resume_trades(desk, Position(E - 3, 2))
    desk.hub.take_wants()
    units = [published.unit for published in desk.publishers[TRADES].units]
    desk.hub.older(TRADES, units[8:], False, desk.now)
    desk.pull()
    snapshot, *rest = sink.take()
    assert content(snapshot) == ("resume_failed", Position(E, 12), [8, 9, 10, 11, 12], (3, 7))
    assert rest == frames[12:]


def test_what_opens_an_epoch_can_be_the_beginning_too() -> None:
    desk = Desk()
    frames = trading(desk)
    sink = resume_trades(desk, Position(E - 3, 0))
    desk.hub.take_wants()
    units = [published.unit for published in desk.publishers[TRADES].units]
    desk.hub.older(TRADES, units[:4], True, desk.now)
    desk.pull()
    snapshot, *rest = sink.take()
    assert content(snapshot) == ("resume_failed", Position(E, 0), [], None)
    assert rest == frames


def test_no_trade_comes_twice_to_who_followed_a_replaced_publisher() -> None:
    """It went on in an epoch of its own: its trades are known, and are those of its successor's epoch."""
    desk = Desk()
    trading(desk, 3)
    stream, publisher = desk.hub.stream(TRADES), desk.publishers[TRADES]
    fork = publisher.fork()
    opened = fork.open(E + 50)
    desk.hub.opened(stream, opened.end, TERM, opened.messages, desk.now)
    void = fork.publish(6)
    desk.hub.increments(stream, void.end, void.messages, desk.now)
    desk.hub.voided(stream, TERM + 1, desk.now)
    desk.hub.based(stream, publisher.position, desk.now)
    for _ in range(20):
        desk.publish(TRADES)
    published = publisher.open(E + 90, skip=2)
    desk.hub.opened(stream, published.end, TERM + 1, published.messages, desk.now)
    desk.publish(TRADES)
    sink = resume_trades(desk, Position(E + 50, 6))
    desk.hub.take_wants()
    desk.hub.no_older(TRADES, desk.now)
    assert sink.take() == []
    desk.hub.take_wants()
    desk.hub.snapshot(TRADES, State(publisher.position, TERM + 1, 1, publisher.states[publisher.position]), desk.now)
    desk.pull()
    assert content(*sink.take()) == ("resume_failed", Position(E + 90, 1), [26, 27], (10, 25))


@pytest.mark.parametrize("back", [0, 1])
def test_a_resume_over_a_gap_of_ours_is_asked_of_the_publisher(back: int) -> None:
    desk = Desk()
    before = trading(desk, 2)
    lost = [*desk.publishers[TRADES].publish(10).unit.frames]
    desk.hub.healed(desk.hub.stream(TRADES), desk.state(TRADES), desk.now)
    after = desk.publish(TRADES)
    sink = resume_trades(desk, Position(E, 2 - back))
    if back:  # what it gets before the gap is ours; then the gap is one for it, as for those who were there
        desk.pull()
        *first, snapshot, last = sink.take()
        assert [*first, last] == [*before[2 - back :], *after]
        assert content(snapshot) == ("gap", Position(E, 12), [8, 9, 10, 11, 12], (3, 7))
        return
    assert desk.hub.take_wants() == [WantOlder(TRADES, Position(E, 2))]
    units = [published.unit for published in desk.publishers[TRADES].units]
    desk.hub.older(TRADES, units[3:], False, desk.now)
    desk.pull()
    assert sink.take() == [*lost, *after]


def test_and_if_that_has_not_got_it_the_resume_begins_with_the_snapshot_that_healed_it() -> None:
    desk = Desk()
    trading(desk, 2)
    desk.publishers[TRADES].publish(10)
    desk.hub.healed(desk.hub.stream(TRADES), desk.state(TRADES), desk.now)
    after = [frame for _ in range(9) for frame in desk.publish(TRADES)]
    sink = resume_trades(desk, Position(E, 2))
    desk.hub.take_wants()
    desk.hub.no_older(TRADES, desk.now)
    desk.pull()
    snapshot, *rest = sink.take()
    assert content(snapshot) == ("resume_failed", Position(E, 12), [8, 9, 10, 11, 12], (3, 7))
    assert rest == after


def test_a_position_in_a_stream_that_is_not_known_yet_is_awaited_without_limit() -> None:
    desk = Desk()
    desk.publishers[TICKER] = Publisher(TICKER)
    desk.publishers[TICKER].open(E)
    desk.publishers[TICKER].publish(3)
    client, sink = resumed(desk, Position(E, 2))
    for _ in range(5):
        desk.now += SECOND
        desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == []
    desk.hub.based(desk.hub.stream(TICKER), Position(E, 3), desk.now)
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 2))]
    ahead, _ = resumed(desk, Position(E, 9))
    desk.now += 2 * SECOND
    desk.hub.tick(desk.now)
    assert WantSnapshot(TICKER, 1) in desk.hub.take_wants()
    assert client.joins
    assert ahead.joins
    assert sink.take() == []


def test_who_is_sent_away_gets_what_waits_for_it_and_nothing_more() -> None:
    desk = Desk()
    desk.open(TICKER)
    client, sink = desk.client(TICKER)
    desk.hub.paused(client, desk.now)
    frames = desk.publish(TICKER)
    desk.hub.finish(client)
    desk.publish(TICKER)
    desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    assert desk.hub.take_wants() == []
    desk.hub.drained(client)
    assert sink.take() == frames
    assert not client.pending
    desk.hub.disconnect(client)
    assert desk.hub.statistics().clients == 0


def test_a_client_that_does_not_read_can_t_pile_up_joins() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.join(TICKER)
    client, sink = desk.client()
    desk.hub.paused(client, desk.now)
    for _ in range(1_000):
        desk.hub.subscribe(client, TICKER, Fresh(), desk.now)
    assert len(client.pulls) < 100
    desk.hub.drained(client)
    desk.pull()
    assert positions(sink.take()) == [("snapshot", E, 0)]
    assert not client.pulls


def test_what_nobody_has_is_replaced_by_a_snapshot() -> None:
    desk = Desk(ring=2_500)
    forgetful(desk)
    _, sink = resumed(desk, Position(E, 1))
    desk.hub.take_wants()
    desk.hub.no_older(TICKER, desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]
    desk.hub.snapshot(TICKER, desk.state(TICKER), desk.now)
    desk.pull()
    (snapshot,) = sink.take()
    assert b'"reason":"resume_failed"' in snapshot
    assert desk.hub.join_counters.resumes["snapshot"] == 1


# Slow clients ---------------------------------------------------------------------------------------------------------


def test_the_outbox_is_bounded_and_its_end_is_one_client_s_own() -> None:
    desk = Desk(outbox=10_000)
    desk.open(TICKER)
    slow, slow_sink = desk.client(TICKER)
    _, other = desk.client(TICKER)
    slow_sink.in_buffer = 5_000
    desk.hub.paused(slow, desk.now)
    for _ in range(100):
        desk.publish(TICKER)
    assert slow_sink.closed == (4001, "slow consumer")
    assert slow_sink.written == []
    assert len(other.take()) == 100
    assert desk.hub.slow.closes == {"slow_outbox": 1, "slow_stalled": 0, "slow_silent": 0}
    assert desk.hub.statistics().outbox_bytes == 0
    assert desk.hub.statistics().clients == 1
    desk.hub.drained(slow)
    assert slow_sink.written == []


@pytest.mark.parametrize(("stalled_ns", "closed"), [(5 * SECOND, None), (5 * SECOND + 1, (4001, "slow consumer"))])
def test_a_socket_that_takes_nothing_for_too_long_is_closed_though_little_waits(
    stalled_ns: int, closed: tuple[int, str] | None
) -> None:
    desk = Desk()
    client, sink = desk.client()
    desk.hub.paused(client, desk.now)
    desk.hub.tick(desk.now + stalled_ns)
    assert sink.closed == closed
    assert desk.hub.slow.closes["slow_stalled"] == (closed is not None)


def test_what_waited_comes_in_order_when_the_socket_drains() -> None:
    desk = Desk()
    desk.open(TICKER)
    client, sink = desk.client(TICKER)
    first = desk.publish(TICKER)
    desk.hub.paused(client, desk.now)
    held = [*desk.publish(TICKER), *desk.publish(TICKER, 2)]
    desk.hub.send(client, b'{"op":"pong","t":1}')
    desk.hub.drained(client)
    last = desk.publish(TICKER)
    assert sink.take() == [*first, *held, *text_frames([b'{"op":"pong","t":1}']), *last]


def test_a_heartbeat_comes_only_where_nothing_else_did_for_a_whole_interval() -> None:
    desk = Desk()
    desk.open(TICKER)
    _, busy = desk.client(TICKER)
    idle, quiet = desk.client()
    for _ in range(8):
        desk.hub.heartbeat(b'{"op":"heartbeat","ts":1}')
        desk.publish(TICKER)
    assert len(quiet.take()) == 2
    assert all(b"heartbeat" not in frame for frame in busy.take())
    desk.hub.send(idle, b'{"op":"pong","t":1}')
    for _ in range(3):
        desk.hub.heartbeat(b'{"op":"heartbeat","ts":1}')
    assert len(quiet.take()) == 1


def test_everybody_who_follows_or_joins_a_stream_hears_of_its_status() -> None:
    desk = Desk()
    desk.open(TICKER)
    _, live = desk.client(TICKER)
    joining, waits = desk.client()
    _, other = desk.client()
    desk.hub.subscribe(joining, TICKER, Fresh(), desk.now)
    desk.publish(TICKER, flush=False)
    message = encode.status("A-USD", Channel.TICKER, "stale", 5, "quiet")
    desk.hub.status(desk.hub.stream(TICKER), message)
    desk.hub.flush()
    assert live.take()[1:] == text_frames([message]) == waits.take()
    assert other.take() == []


# Gaps -----------------------------------------------------------------------------------------------------------------


def test_a_gap_that_can_t_be_filled_is_declared_by_a_snapshot_to_live_clients() -> None:
    desk = Desk()
    desk.open(TRADES)
    desk.publish(TRADES, 2)
    _, sink = desk.client(TRADES)
    desk.publishers[TRADES].publish(10)
    desk.hub.healed(desk.hub.stream(TRADES), desk.state(TRADES), desk.now)
    desk.hub.flush()
    (snapshot,) = sink.take()
    assert b'"reason":"gap"' in snapshot
    # Two trades were delivered, the snapshot lists the last five of twelve.
    assert b'"missing":{"from_trade_id":3,"to_trade_id":7}' in snapshot
    assert positions(desk.publish(TRADES)) == positions(sink.take()) == [("incr", E, 13)]


def test_a_position_before_a_gap_can_t_be_resumed_over_it() -> None:
    desk = Desk()
    desk.open(TICKER)
    desk.publish(TICKER, 2)
    desk.publishers[TICKER].publish(10)
    desk.hub.healed(desk.hub.stream(TICKER), desk.state(TICKER), desk.now)
    desk.publish(TICKER)
    _, sink = resumed(desk, Position(E, 5))
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 5))]
    assert sink.take() == []


def test_what_a_replaced_publisher_said_is_void() -> None:
    desk = Desk()
    desk.open(TICKER, E + 50)
    desk.publish(TICKER)
    _, sink = desk.client(TICKER)
    stream = desk.hub.stream(TICKER)
    desk.hub.voided(stream, TERM + 1, desk.now)
    desk.hub.based(stream, Position(E, 4), desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1)]
    desk.hub.snapshot(TICKER, State(Position(E + 50, 1), TERM, 1, (b"{}",)), desk.now)
    desk.pull()
    assert sink.take() == []
    desk.now += SECOND
    desk.hub.tick(desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 2)]
    desk.hub.snapshot(TICKER, State(Position(E, 4), TERM + 1, 1, (b"{}",)), desk.now)
    desk.pull()
    (snapshot,) = sink.take()
    assert positions([snapshot]) == [("snapshot", E, 4)]
    assert b'"reason":"gap"' in snapshot
