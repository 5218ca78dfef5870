"""What the hub, the status board and a feed do when a replay goes back: nothing that came before counts."""

import json

import pytest

from lfmesh.core import codec, encode
from lfmesh.core.feed import Feed, StaleTerm
from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_joins import After, Fresh, WantSnapshot
from lfmesh.core.hub_status import NO_DATA, StatusBoard
from lfmesh.core.recovery import Accepted, Based, Opened
from lfmesh.types import CHANNELS, Channel, Position, StreamKey
from tests.core.model_publisher import ModelPublisher
from tests.core.test_hub import SECOND, TRADES, Desk, E, positions

LATER = 8
"""A term above `hub_world.TERM`."""


def rewound(desk: Desk, key: StreamKey, seq: int) -> None:
    """The stream goes on at an earlier position of its epoch, with a published snapshot."""
    publisher = desk.publishers[key]
    state = publisher.state(Position(publisher.epoch, seq))
    stream = desk.hub.stream(key)
    desk.hub.rewound(stream, LATER, desk.now)
    messages = encode.snapshot(*key, state.position, 1, "epoch", state.parts)
    desk.hub.opened(stream, state.position, LATER, messages, desk.now)
    desk.hub.flush()


def reasons(frames: list[bytes]) -> list[tuple[str, int, bool]]:
    found = []
    for frame in frames:
        data = json.loads(frame[frame.index(b"{") :])["data"]
        if data["type"] == "snapshot":
            found.append((data["reason"], data["seq"], "missing" in data))
    return found


@pytest.mark.parametrize("key", [StreamKey("A-USD", channel) for channel in CHANNELS])
def test_who_follows_gets_the_snapshot_that_is_published_and_what_follows_it(key: StreamKey) -> None:
    desk = Desk()
    desk.open(key)
    _, sink = desk.join(key)
    desk.publish(key, 20)
    sink.take()
    rewound(desk, key, 5)
    assert desk.hub.take_wants() == [], "it is published, and need not be asked for"
    desk.hub.increments(
        desk.hub.stream(key), Position(E, 6), [b'{"op":"incr","data":{"epoch":10,"seq":6,"type":"x"}}'], desk.now
    )
    desk.hub.flush()
    desk.pull()
    frames = sink.take()
    assert reasons([frames[0]]) == [("resync", 5, False)]
    assert positions(frames) == [("snapshot", E, 5), ("incr", E, 6)]


def test_forward_too_nothing_is_declared_missing_and_old_states_are_refused() -> None:
    desk = Desk()
    desk.open(TRADES)
    _, sink = desk.join(TRADES)
    desk.publish(TRADES, 3)
    sink.take()
    old = desk.state(TRADES)
    desk.publishers[TRADES].publish(40)
    stream = desk.hub.stream(TRADES)
    desk.hub.rewound(stream, LATER, desk.now)
    desk.hub.snapshot(TRADES, old, desk.now)  # it was on its way
    assert desk.pull() == 1
    assert sink.take() == []
    publisher = desk.publishers[TRADES]
    state = publisher.state(Position(E, 40))
    messages = encode.snapshot(*TRADES, state.position, 1, "epoch", state.parts)
    desk.hub.opened(stream, state.position, LATER, messages, desk.now)
    desk.pull()
    assert reasons(sink.take()) == [("resync", 40, False)]


def test_who_was_just_joining_or_resuming_is_told_what_it_asked_for() -> None:
    desk = Desk()
    desk.open(TRADES)
    desk.publish(TRADES, 10)
    joining, joined = desk.client()
    desk.hub.subscribe(joining, TRADES, Fresh(), desk.now)
    resuming, resumed = desk.client()
    desk.hub.subscribe(resuming, TRADES, After(Position(E, 4)), desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TRADES, 1)]
    rewound(desk, TRADES, 2)
    desk.pull()
    assert reasons(joined.take()) == [("subscribe", 2, False)]
    assert reasons(resumed.take()) == [("resume_failed", 2, False)]


def test_a_client_is_behind_while_much_waits_for_it_or_it_is_not_live_yet() -> None:
    desk = Desk()

    def behind(now: int = 0) -> bool:
        return desk.hub.is_behind(1000, 10 * SECOND, desk.now + now)

    desk.open(TRADES)
    assert not behind()
    client, _ = desk.client()
    desk.hub.subscribe(client, TRADES, Fresh(), desk.now)
    assert behind(), "its snapshot is asked for"
    desk.hub.take_wants()
    desk.hub.snapshot(TRADES, desk.state(TRADES), desk.now)
    assert behind(), "it is to be given the snapshot"
    desk.pull()
    assert not behind()
    held_up(desk, client)
    assert behind()
    assert not behind(11 * SECOND), "who takes nothing at all is not waited for"
    desk.hub.drained(client)
    assert not behind()


def test_who_waits_for_a_stream_that_has_not_begun_holds_nothing_up() -> None:
    desk = Desk()
    client, _ = desk.client()
    desk.hub.subscribe(client, TRADES, Fresh(), desk.now)
    assert not desk.hub.is_behind(1000, SECOND, desk.now)
    desk.open(TRADES)
    desk.pull()
    assert not desk.hub.is_behind(1000, SECOND, desk.now)
    other, _ = desk.client()
    desk.hub.rewound(desk.hub.stream(TRADES), LATER, desk.now)
    desk.hub.subscribe(other, TRADES, Fresh(), desk.now)
    assert not desk.hub.is_behind(1000, SECOND, desk.now)


def test_a_state_that_nobody_has_is_not_waited_for_for_ever() -> None:
    desk = Desk()
    desk.open(TRADES)
    client, _ = desk.client()
    desk.hub.subscribe(client, TRADES, Fresh(), desk.now)
    for _ in range(2):
        assert desk.hub.is_behind(1000, SECOND, desk.now)
        desk.hub.no_snapshot(TRADES, desk.now)
        desk.now += SECOND
        desk.hub.tick(desk.now)
    assert not desk.hub.is_behind(1000, SECOND, desk.now)


def held_up(desk: Desk, client: Client) -> None:
    desk.hub.paused(client, desk.now)
    for _ in range(20):
        desk.publish(TRADES)
    assert client.pending_bytes > 1000


# The status board and the feed ------------------------------------------------------------------------------------


def test_a_stream_that_has_no_data_any_more_says_so() -> None:
    key = StreamKey("A-USD", Channel.BOOK)
    board = StatusBoard({0: [key]}, 10 * SECOND, 0)
    board.heard(0, 0, 0, silent=False)
    board.has_data(key)
    assert board.changes(1)
    assert board.now_not_live(key) is None
    board.no_data(key)
    ((told, message),) = board.changes(2)
    assert told == key
    assert NO_DATA.encode() in message
    board.has_data(key)
    assert b'"live"' in board.changes(3)[0][1]


def test_a_feed_begun_anew_takes_what_is_older_than_what_it_had() -> None:
    key = StreamKey("A-USD", Channel.TRADES)
    source = ModelPublisher(0, 3, lambda: 1000)
    feed = Feed(0, join="anywhere")
    opening = codec.unpack(source.open(key))
    first, second = (codec.unpack(source.increment(key, [number])) for number in (1, 2))
    for frame in (opening, first, second):
        feed.frame(frame, 0)
    feed.beacon(source.beacon(), 5)
    feed.begin_anew(9)
    assert (feed.position(key), feed.term, feed.heard_at, feed.gapped) == (None, 9, 5, 0)
    (stale,) = feed.frame(second, 6).facts
    assert stale == StaleTerm(3, 1)
    (refused,) = feed.based(key, Position(1000, 2), 3, 6).facts
    assert refused == StaleTerm(3, 1)
    again = opening._replace(header=opening.header._replace(term=9))
    (opened,) = feed.frame(again, 7).facts
    assert isinstance(opened, Opened)
    (accepted,) = feed.frame(first._replace(header=first.header._replace(term=9)), 7).facts
    assert isinstance(accepted, Accepted)
    assert feed.position(key) == Position(1000, 1)


def test_a_feed_in_a_gap_forgets_it_when_it_is_begun_anew() -> None:
    key = StreamKey("A-USD", Channel.TRADES)
    source = ModelPublisher(0, 3, lambda: 1000)
    feed = Feed(0, join="anywhere")
    feed.frame(codec.unpack(source.open(key)), 0)
    source.increment(key, [1])
    feed.frame(codec.unpack(source.increment(key, [2])), 0)
    assert (feed.gapped, feed.held_items) == (1, 1)
    feed.begin_anew(9)
    assert (feed.gapped, feed.held_items, feed.tick(SECOND * 10)) == (0, 0, [])
    third = codec.unpack(source.increment(key, [3]))
    (based, _) = feed.frame(third._replace(header=third.header._replace(term=9)), 7).facts
    assert based == Based(Position(1000, 2))
