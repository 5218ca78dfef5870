"""Lines in, frames out: positions, bounds, holes, answers. Frames are judged by the mesh's own `Feed`."""

import time

from lfmesh.archive.asof import StateAt
from lfmesh.archive.history import Told
from lfmesh.archive.segments import Line
from lfmesh.core import codec, encode, topics
from lfmesh.core.feed import Feed, FeedFact, Replaced
from lfmesh.core.recovery import Accepted, Opened
from lfmesh.messages import (
    Beacon,
    Reply,
    RetransmitRequest,
    SnapshotReply,
    SnapshotRequest,
    Unavailable,
    decode_beacon,
)
from lfmesh.services.player.stage import HOLE, NEVER, NOT_YET, RUN_MESSAGES, Stage
from lfmesh.types import Channel, Position, StreamKey
from tests.services.player.kit import EPOCH, START, STEP, Recording

BEACON = topics.beacon(0) + b"\0"
TRADES = StreamKey("P0-USD", Channel.TRADES)
BOOK = StreamKey("P0-USD", Channel.BOOK)
ABSENT = StreamKey("P9-USD", Channel.BOOK)


class Published:
    """What a stage publishes, as a gateway takes it."""

    def __init__(self, recording: Recording) -> None:
        self.frames: list[bytes] = []
        self.beacons: list[Beacon] = []
        self.facts: list[FeedFact] = []
        self.feed = Feed(0, join="anywhere")
        self.stage = Stage(recording.streams, [ABSENT], 5, 1, self.take)
        self.stage.begin([], 1, 1)

    def take(self, frame: bytes) -> None:
        if frame.startswith(BEACON):
            self.beacons.append(decode_beacon(frame[len(BEACON) :]))
            told = self.feed.beacon(self.beacons[-1], len(self.frames))
            self.facts += [fact for stream in told for fact in stream.facts]
            return
        self.frames.append(frame)
        self.facts += self.feed.frame(codec.unpack(frame), len(self.frames)).facts

    def play(self, lines: list[Told]) -> None:
        for told in lines:
            self.stage.put(told)
        self.stage.flush(time.time_ns())
        self.stage.beacon(time.time_ns(), full=False)

    def accepted(self) -> list[bytes]:
        return [message for fact in self.facts if isinstance(fact, Accepted) for _, message in fact.items]


def test_a_turn_becomes_a_frame_a_stream_and_frames_are_bounded() -> None:
    recording = Recording(products=1, rounds=RUN_MESSAGES + 50, resync_at=0)
    published = Published(recording)
    published.play(recording.lines)
    frames = [codec.unpack(frame) for frame in published.frames]
    trades = [frame for frame in frames if frame.topic == topics.market_data(0, TRADES)]
    assert [(frame.header.first_seq, len(frame.messages)) for frame in trades] == [
        (0, 1), (1, RUN_MESSAGES), (1 + RUN_MESSAGES, 50),
    ]  # fmt: skip
    assert all(len(frame.messages) <= RUN_MESSAGES for frame in frames)
    assert [message for frame in trades[1:] for message in frame.messages] == recording.increments()[TRADES]
    assert published.beacons[-1].sent == len(frames) == published.stage.sent
    assert published.feed.gapped == 0


def test_a_state_goes_before_the_increments_that_follow_it() -> None:
    recording = Recording(products=1, rounds=20)
    published = Published(recording)
    state = StateAt(TRADES, Position(EPOCH, 8), START + 8 * STEP, [encode.trades_state([], 8).encode()])
    published.stage.begin([state], 9, 1)
    assert published.stage.begun == [TRADES]
    published.play([told for told in recording.lines if told.line.seq > 8 and told.stream == TRADES])
    (opened, *_) = published.facts
    assert isinstance(opened, Opened)
    assert opened.position == Position(EPOCH, 8)
    assert published.accepted() == recording.increments()[TRADES][8:]
    assert published.feed.term == 9


def test_what_does_not_follow_is_left_out_and_told_until_a_snapshot_comes() -> None:
    recording = Recording(products=1, rounds=30, resync_at=20)
    published = Published(recording)
    published.play([told for told in recording.lines if told.stream == BOOK and told.line[1:3] != (EPOCH, 7)])
    counters = published.stage.counters
    assert (counters.holes, counters.passed_over) == (1, 12)
    assert published.feed.position(BOOK) == Position(EPOCH + 20, 10)
    assert published.feed.gapped == 0
    states = [codec.unpack(frame).messages[0] for frame in published.frames if codec.unpack(frame).header.flags & 2]
    assert [b'"recovering"' in state and HOLE.encode() in state for state in states] == [True, False]
    assert b'"live"' in states[-1]


def test_increments_before_any_snapshot_are_passed_over() -> None:
    recording = Recording(products=1, rounds=5)
    published = Published(recording)
    published.play([told for told in recording.lines if told.line.seq > 0])
    assert published.frames == []
    assert published.stage.counters.passed_over == 15
    assert published.stage.snapshot(SnapshotRequest(*TRADES)) == (Unavailable(NOT_YET), [])


def test_a_lower_epoch_is_published_under_a_higher_term_which_voids_the_other() -> None:
    published = Published(Recording(products=1, rounds=5))
    prefix = {epoch: encode.increment_prefix("trade", *TRADES, epoch) for epoch in (900, 500)}
    fields = '{"px":1,"qty":1,"side":"buy","trade_id":1}'
    lines = []
    for epoch in (900, 500):
        (text,) = encode.snapshot(*TRADES, Position(epoch, 0), 5, "epoch", [encode.trades_state([])])
        lines.append(Told(TRADES, Line(5, epoch, 0, text, snapshot=True)))
        message = encode.increment(prefix[epoch], 1, (5, 5, 5), "verified", fields)
        lines.append(Told(TRADES, Line(5, epoch, 1, message)))
    published.play(lines)
    assert published.feed.position(TRADES) == Position(500, 1)
    assert [fact.position for fact in published.facts if isinstance(fact, Replaced)] == [Position(900, 1)]
    assert published.stage.term == published.feed.term == 2
    published.play(lines[2:3])
    assert published.stage.counters.passed_over == 1, "the same epoch again is not new"


def test_what_was_published_can_be_had_again() -> None:
    recording = Recording(products=1, rounds=40, resync_at=0)
    published = Published(recording)
    published.play(recording.lines[:60])
    published.play(recording.lines[60:])
    reply, frames = published.stage.retransmit(RetransmitRequest(*TRADES, EPOCH, 3))
    assert reply == Reply(more=False)
    got = [message for frame in frames for message in codec.unpack(frame).messages]
    assert got == recording.increments()[TRADES][-len(got) :]
    assert len(got) >= 37
    assert published.stage.retransmit(RetransmitRequest(*TRADES, EPOCH, 40)) == (Reply(), [])
    assert isinstance(published.stage.retransmit(RetransmitRequest(*TRADES, EPOCH - 5, 3))[0], Unavailable)
    assert isinstance(published.stage.retransmit(RetransmitRequest(*ABSENT, EPOCH, 3))[0], Unavailable)
    oldest, _ = published.stage.retransmit(RetransmitRequest(*TRADES, EPOCH - 5, 3, 1, or_oldest=True))
    assert oldest == Reply(more=True)


def test_states_are_those_of_what_was_played() -> None:
    recording = Recording(products=1, rounds=40)
    published = Published(recording)
    published.play(recording.lines)
    header, parts = published.stage.snapshot(SnapshotRequest(*TRADES))
    assert isinstance(header, SnapshotReply)
    assert (header.epoch, header.seq, header.ts_snapshot) == (EPOCH, 40, recording.end)
    assert parts[0].count(b'"trade_id"') == 40
    assert published.stage.snapshot(SnapshotRequest(*ABSENT)) == (Unavailable(NEVER), [])


def test_a_full_beacon_names_all_and_says_first_what_is_not_there() -> None:
    recording = Recording(products=1, rounds=2)
    published = Published(recording)
    published.play([told for told in recording.lines if told.stream != BOOK])
    published.stage.beacon(7, full=True)
    assert {(one.product, one.channel) for one in published.beacons[-1].positions} == set(recording.streams) - {BOOK}
    assert NOT_YET.encode() in published.feed.status(BOOK)
    assert NEVER.encode() in published.feed.status(ABSENT)
    numbers = [beacon.input.number for beacon in published.beacons]
    assert numbers == sorted(set(numbers)), "a gateway sees that its shard goes on, also while nothing is played"
