"""What a replica says of its input is true, whatever happened on the way: who goes on from there repeats and skips
nothing."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh import messages
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.recovery import Wanted
from lfmesh.core.replica import Asked, Replica, StateDiscarded
from lfmesh.core.ring import ReplayRing
from lfmesh.messages import RetransmitRequest, SnapshotReply, Unavailable
from lfmesh.services.normalizer.outflow import Outflow
from lfmesh.services.normalizer.standby import Followed
from lfmesh.types import NO_INPUT, Channel, InputPosition, Position, StreamKey

SECOND = 1_000_000_000
INGESTOR, INCARNATION = 7, 8
STREAMS = [StreamKey(f"P{number}-USD", Channel.BOOK) for number in range(3)]


class Wire:
    """Takes what is published."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def publish(self, frame: bytes) -> None:
        self.frames.append(frame)

    def settle(self) -> None:
        pass


@dataclass
class Truth:
    """Of one stream: each position with the record that brought it, and records that must not be skipped."""

    minted: list[tuple[Position, int]] = field(default_factory=list)
    lost: list[tuple[Position, int]] = field(default_factory=list)


class Publisher:
    """Outlets and outflow as a normalizer has them; each record changes one stream."""

    def __init__(self, term: int = 5) -> None:
        self.wire = Wire()
        self.turn = Turn()
        self.ring: ReplayRing[StreamKey, bytes] = ReplayRing(100_000)
        self.outflow = Outflow(0, 3, term, self.wire, self.ring, self.turn)  # type: ignore[arg-type]  # its two methods
        self.outlets = {key: Outlet(key, self.turn) for key in STREAMS}
        self.truth = {key: Truth() for key in STREAMS}
        self.number = 0
        self.now = SECOND

    def begin(self) -> None:
        self.now += 1000
        self.turn.begin(self.now)

    def record(self, key: StreamKey, action: str) -> None:
        self.number += 1
        self.turn.source(INGESTOR, INCARNATION)
        self.turn.record(self.number, 1)
        outlet, truth = self.outlets[key], self.truth[key]
        if action == "lose" and outlet.whole and outlet.position is not None:
            outlet.whole = False
            outlet.tell("recovering", self.now, "lost")
            truth.lost.append((outlet.position, self.number))
        elif action == "open" or not outlet.is_open:
            waited = not outlet.whole
            outlet.whole = True
            outlet.open("resync", [f'{{"bids":[[{self.number},1]],"asks":[]}}'], 5)
            if waited:
                outlet.tell("live", self.now, "well")
            truth.minted.append((outlet.position or Position(0, 0), self.number))
        elif action == "change" and outlet.whole:
            outlet.increment(5, "unverified", f'{{"bids":[[{self.number},1]],"asks":[]}}')
            truth.minted.append((outlet.position or Position(0, 0), self.number))

    def end(self) -> list[bytes]:
        self.outflow.flush()
        return self.take()

    def beacon(self, *, full: bool) -> list[bytes]:
        self.begin()
        if full:
            for outlet in self.outlets.values():
                if outlet.is_open:
                    outlet.tell("live" if outlet.whole else "recovering", self.now, "as it is")
            self.outflow.flush()
        self.outflow.beacon(self.now, self.outlets.values() if full else None)
        return self.take()

    def take(self) -> list[bytes]:
        frames, self.wire.frames = self.wire.frames, []
        return frames

    def answer(self, wanted: Wanted, key: StreamKey) -> list[bytes]:
        outlet = self.outlets[key]
        if wanted.rung == "retransmit" and wanted.after is not None:
            header, frames = self.outflow.retransmit(RetransmitRequest(*key, *wanted.after), self.outlets)
            return [messages.encode(header), *frames]
        if outlet.position is None or not outlet.whole:
            return [messages.encode(Unavailable("waits"))]
        reply = SnapshotReply(*key, self.outflow.term, *outlet.position, 1, outlet.complete)
        return [messages.encode(reply), b'{"bids":[],"asks":[]}']


def check(replica: Replica, publisher: Publisher) -> None:
    for state in replica.state:
        source, whole = replica.input_of(state)
        if source == NO_INPUT:
            continue
        assert source[:2] == (INGESTOR, INCARNATION)
        truth = publisher.truth[state.key]
        for position, number in truth.minted:
            assert (position <= state.position) == (number <= source.number), (state.key, state.position, source, whole)
        for position, number in truth.lost:
            # Who goes on from here must meet the loss, unless it has a state from after it.
            assert state.position > position or source.number < number, (state.key, state.position, source, whole)


actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("turn"),
            st.lists(
                st.tuples(st.sampled_from(STREAMS), st.sampled_from(["change"] * 6 + ["open", "lose", "nothing"])),
                min_size=1, max_size=8,
            ),
            st.sets(st.integers(0, 9), max_size=2),
        ),
        st.tuples(st.sampled_from(["beacon", "full"]), st.just([]), st.sets(st.integers(0, 2), max_size=2)),
        st.tuples(st.sampled_from(["full", "full", "answer", "tick", "no answer"]), st.just([]), st.just(set[int]())),
    ),
    max_size=60,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(actions)
def test_the_input_of_a_state_is_exactly_what_is_in_it(
    script: list[tuple[str, list[tuple[StreamKey, str]], set[int]]],
) -> None:
    publisher = Publisher()
    replica = Followed(0, ReplayRing(1_000_000))
    for action, records, lost in script:
        publisher.now += SECOND // 4
        match action:
            case "turn":
                publisher.begin()
                for key, what in records:
                    publisher.record(key, what)
                frames = publisher.end()
            case "beacon" | "full":
                frames = publisher.beacon(full=action == "full")
            case "tick":
                replica.tick(publisher.now)
                frames = []
            case _:
                frames = []
                for key, wanted in replica.wants.take():
                    parts = publisher.answer(wanted, key) if action == "answer" else None
                    replica.answer(key, Asked(wanted, replica.feed.term), parts, publisher.now)
        replica.frames([one for index, one in enumerate(frames) if index not in lost], publisher.now)
        check(replica, publisher)
    # In the end all becomes whole, and everything counts as read.
    for _ in range(6):
        publisher.now += 3 * SECOND
        replica.frames(publisher.beacon(full=True), publisher.now)
        replica.tick(publisher.now)
        for key, wanted in replica.wants.take():
            replica.answer(key, Asked(wanted, replica.feed.term), publisher.answer(wanted, key), publisher.now)
        check(replica, publisher)
    for key, outlet in publisher.outlets.items():
        state = replica.state.get(key)
        if outlet.whole and state is not None:
            assert replica.input_of(state) == (InputPosition(INGESTOR, INCARNATION, publisher.number), True)


def test_the_end_of_a_turn_counts_at_once_for_streams_that_it_did_not_touch() -> None:
    publisher, replica = Publisher(), Replica(0)
    one, other, _ = STREAMS
    publisher.begin()
    for key in (one, other):
        publisher.record(key, "open")
    replica.frames(publisher.end(), 1)
    for _ in range(3):
        replica.frames(publisher.beacon(full=True), 1)
    publisher.begin()
    publisher.record(one, "change")
    publisher.record(other, "nothing")
    replica.frames(publisher.end(), 1)
    state = replica.state.get(other)
    assert state is not None
    assert replica.input_of(state) == (InputPosition(INGESTOR, INCARNATION, 4), True)


def test_a_frame_that_was_missed_ends_the_belief_until_two_full_beacons_have_come() -> None:
    publisher, replica = Publisher(), Replica(0)
    key = STREAMS[0]
    publisher.begin()
    publisher.record(key, "open")
    replica.frames(publisher.end(), 1)
    assert replica.inputs == [], "nothing is known of what was before"
    for _ in range(2):
        replica.frames(publisher.beacon(full=True), 1)
    assert replica.inputs == [InputPosition(INGESTOR, INCARNATION, 1)]
    publisher.begin()
    publisher.record(STREAMS[1], "open")
    publisher.end()  # nobody hears it
    publisher.begin()
    publisher.record(key, "change")
    replica.frames(publisher.end(), 1)
    replica.frames(publisher.beacon(full=False), 1)
    assert replica.inputs == [InputPosition(INGESTOR, INCARNATION, 1)]
    state = replica.state.get(key)
    assert state is not None
    assert replica.input_of(state)[0].number == 3, "its own frame says how far it is itself"
    for _ in range(2):
        replica.frames(publisher.beacon(full=True), 1)
    assert replica.inputs == [InputPosition(INGESTOR, INCARNATION, 3)]


def test_with_a_new_publisher_nothing_of_the_old_ones_inputs_counts() -> None:
    publisher, replica = Publisher(), Replica(0)
    publisher.begin()
    publisher.record(STREAMS[0], "open")
    replica.frames(publisher.end(), 1)
    for _ in range(2):
        replica.frames(publisher.beacon(full=True), 1)
    assert replica.believes
    successor = Publisher(term=6)
    replica.frames(successor.beacon(full=True), 1)
    assert (replica.inputs, replica.believes) == ([], False)
    replica.frames(publisher.beacon(full=True), 1)
    assert replica.inputs == [], "the old one is not listened to"


def test_what_was_followed_can_be_retransmitted_as_it_was_published() -> None:
    publisher = Publisher()
    ring: ReplayRing[StreamKey, bytes] = ReplayRing(1_000_000)
    replica = Followed(0, ring)
    key = STREAMS[0]
    published: list[bytes] = []
    for action in ("open", "change", "change", "open", "change"):
        publisher.begin()
        publisher.record(key, action)
        published += publisher.end()
    replica.frames([one for number, one in enumerate(published) if number != 2], 1)
    ((_, wanted),) = replica.wants.take()
    replica.answer(key, Asked(wanted, 5), publisher.answer(wanted, key), 1)
    assert [entry.payload for entry in ring.retained(key)] == published
    assert ring.newest(key) == publisher.outlets[key].position
    replica.discard(key, "unreadable")
    assert list(ring.retained(key)) == []
    assert any(isinstance(event, StateDiscarded) for event in replica.take_events())
