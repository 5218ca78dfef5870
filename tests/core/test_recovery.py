"""The ladder under everything that can happen to it: what is accepted is gapless, and the state is the publisher's."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.core.recovery import (
    Accepted,
    Based,
    Dropped,
    Fact,
    Follower,
    FollowerLimits,
    GapClosed,
    GapOpened,
    Opened,
    Wanted,
)  # fmt: skip
from lfmesh.core.ring import ReplayRing
from lfmesh.types import Position

Unit = tuple[Position, Position | None, list[int]]  # position of the first, previous (snapshot only), values


def test_in_order_is_accepted() -> None:
    follower: Follower[str] = Follower(position=Position(1, 0))
    assert follower.increments(1, 1, ["a", "b"], now=0) == [Accepted(1, 1, ["a", "b"])]
    assert follower.increments(1, 3, ["c"], now=0) == [Accepted(1, 3, ["c"])]
    assert follower.position == Position(1, 3)


def test_what_is_known_is_dropped_and_the_rest_accepted() -> None:
    follower: Follower[str] = Follower(position=Position(1, 2))
    assert follower.increments(1, 1, ["a", "b"], now=0) == [Dropped(2, "duplicate")]
    assert follower.increments(1, 2, ["b", "c"], now=0) == [Dropped(1, "duplicate"), Accepted(1, 3, ["c"])]
    assert follower.increments(0, 9, ["x"], now=0) == [Dropped(1, "stale")]


def test_a_gap_is_asked_for_and_healed_in_order() -> None:
    follower: Follower[str] = Follower(position=Position(1, 1))
    assert follower.increments(1, 4, ["d"], now=10) == [
        GapOpened(Position(1, 1), Position(1, 4)),
        Wanted("retransmit", Position(1, 1)),
    ]
    assert follower.held_items == 1
    assert follower.increments(1, 2, ["b", "c"], now=15) == [
        Accepted(1, 2, ["b", "c"]),
        Accepted(1, 4, ["d"]),
        GapClosed("retransmit", 5),
    ]
    assert not follower.gapped


def test_a_beacon_proves_a_lost_tail() -> None:
    follower: Follower[str] = Follower(position=Position(1, 5))
    assert follower.beacon(Position(1, 5), now=0) == []
    assert follower.beacon(Position(1, 7), now=0) == [
        GapOpened(Position(1, 5), Position(1, 7)),
        Wanted("retransmit", Position(1, 5)),
    ]


def test_the_ladder_ends_with_a_snapshot() -> None:
    follower: Follower[str] = Follower(position=Position(1, 1), limits=FollowerLimits(retry_ns=100))
    follower.increments(1, 9, ["i"], now=0)
    assert follower.unavailable(now=1) == [Wanted("snapshot", Position(1, 1))]
    assert follower.tick(now=50) == []
    assert follower.tick(now=101) == [Wanted("snapshot", Position(1, 1))]
    assert follower.base(Position(1, 8), now=110) == [
        Based(Position(1, 8)),
        Accepted(1, 9, ["i"]),
        GapClosed("snapshot", 110),
    ]


def test_unanswered_requests_are_repeated_then_the_next_rung_is_taken() -> None:
    follower: Follower[str] = Follower(
        position=Position(1, 1), limits=FollowerLimits(retry_ns=100, retransmit_attempts=2)
    )
    follower.beacon(Position(1, 3), now=0)
    assert follower.tick(now=100) == [Wanted("retransmit", Position(1, 1))]
    assert follower.tick(now=200) == [Wanted("snapshot", Position(1, 1))]


def test_an_answer_that_helped_is_asked_on_and_one_that_did_not_takes_the_next_rung() -> None:
    follower: Follower[str] = Follower(position=Position(1, 1))
    follower.beacon(Position(1, 9), now=0)
    follower.increments(1, 2, ["b"], now=1)
    assert follower.answered(now=1) == [Wanted("retransmit", Position(1, 2))]
    assert follower.answered(now=2) == [Wanted("snapshot", Position(1, 2))]


def test_a_new_epoch_shows_what_was_lost_of_the_old_one() -> None:
    follower: Follower[str] = Follower(position=Position(1, 5))
    facts = follower.snapshot(Position(2, 0), Position(1, 6), ["state"], now=0)
    assert facts == [GapOpened(Position(1, 5), Position(2, 0)), Wanted("retransmit", Position(1, 5))]
    assert follower.increments(1, 6, ["f"], now=1) == [
        Accepted(1, 6, ["f"]),
        Opened(Position(2, 0), ["state"]),
        GapClosed("retransmit", 1),
    ]


def test_held_units_are_bounded() -> None:
    follower: Follower[int] = Follower(position=Position(1, 0), limits=FollowerLimits(held_items=3))
    facts: list[Fact[int]] = []
    for seq in range(2, 10):
        facts += follower.increments(1, seq, [seq], now=0)
    assert follower.held_items == 3
    assert sum(fact.count for fact in facts if isinstance(fact, Dropped)) == 5
    assert follower.increments(1, 1, [1], now=0)[0] == Accepted(1, 1, [1])
    assert follower.gapped, "what was dropped past the bound is still missing"
    assert Wanted("retransmit", Position(1, 4)) in follower.answered(now=1)


def test_joining_anywhere_starts_with_what_comes_first() -> None:
    live: Follower[str] = Follower(join="anywhere")
    assert live.increments(3, 7, ["g"], now=0) == [Based(Position(3, 6)), Accepted(3, 7, ["g"])]
    told: Follower[str] = Follower(join="anywhere")
    assert told.beacon(Position(3, 6), now=0) == [Based(Position(3, 6))]


def test_joining_with_state_wants_a_snapshot_first() -> None:
    follower: Follower[str] = Follower()
    assert follower.increments(3, 7, ["g"], now=0) == [Wanted("snapshot", None)]
    assert follower.base(Position(3, 6), now=1) == [
        Based(Position(3, 6)),
        Accepted(3, 7, ["g"]),
        GapClosed("snapshot", 1),
    ]


# Any interleaving -----------------------------------------------------------------------------------------------


START = Position(0, 0)


@dataclass
class Publisher:
    """State is a sum, so that a lost, repeated or reordered increment would show."""

    ring: ReplayRing[str, Unit] = field(default_factory=lambda: ReplayRing(40))
    position: Position = START
    state: int = 0
    sent: list[Unit] = field(default_factory=list)

    def publish(self, values: list[int]) -> Unit:
        first = Position(self.position.epoch, self.position.seq + 1)
        for value in values:
            self.state = self.state * 31 + value
        self.position = Position(first.epoch, self.position.seq + len(values))
        self.ring.append("s", first.epoch, first.seq, len(values), (first, None, values), size=len(values), now=0)
        self.sent.append((first, None, values))
        return self.sent[-1]

    def open_epoch(self, *, restart: bool) -> Unit:
        previous = None if restart else self.position
        self.position = Position(self.position.epoch + 1, 0)
        if restart:
            self.ring = ReplayRing(40)
        self.state += 1
        unit: Unit = (self.position, previous or Position(0, 0), [self.state])
        self.ring.append(
            "s", self.position.epoch, 0, 1, unit, size=1, now=0, snapshot=True, previous=previous
        )  # fmt: skip
        self.sent.append(unit)
        return unit


@dataclass
class Consumer:
    follower: Follower[int]
    state: int = 0
    wanted: list[Wanted] = field(default_factory=list)
    last: Position | None = None

    def take(self, facts: list[Fact[int]]) -> None:
        for fact in facts:
            match fact:
                case Accepted(epoch, first_seq, items):
                    assert self.last == Position(epoch, first_seq - 1), "gapless within an epoch"
                    for value in items:
                        self.state = self.state * 31 + value
                    self.last = Position(epoch, first_seq + len(items) - 1)
                case Opened(position, items):
                    assert self.last is None or position > self.last
                    self.state, self.last = items[0], position
                case Wanted():
                    self.wanted.append(fact)
                case Based() | Dropped() | GapOpened() | GapClosed():
                    pass

    def feed(self, unit: Unit, now: int) -> None:
        first, previous, values = unit
        if previous is None:
            self.take(self.follower.increments(first.epoch, first.seq, values, now))
        else:
            known = previous if previous != Position(0, 0) else None
            self.take(self.follower.snapshot(first, known, values, now))

    def serve(self, publisher: Publisher, now: int) -> None:
        """Carry out what is wanted, as a service does."""
        while self.wanted:
            wanted = self.wanted.pop(0)
            if wanted.rung == "retransmit" and wanted.after is not None:
                found = publisher.ring.since("s", wanted.after)
                if found is None:
                    self.take(self.follower.unavailable(now))
                    continue
                for entry in found:
                    self.feed(entry.payload, now)
                self.take(self.follower.answered(now))
            else:
                self.base(publisher, now)

    def base(self, publisher: Publisher, now: int) -> None:
        held = publisher.position
        if self.follower.position is None or held > self.follower.position:
            self.state, self.last = publisher.state, held
        self.take(self.follower.base(held, now))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 4)),
        st.tuples(st.just("lose"), st.integers(1, 4)),
        st.tuples(st.just("late"), st.integers(1, 4)),
        st.tuples(st.just("deliver_late"), st.integers(0, 5)),
        st.tuples(st.just("repeat"), st.integers(0, 30)),
        st.tuples(st.just("epoch"), st.just(0)),
        st.tuples(st.just("lose_epoch"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("beacon"), st.just(0)),
        st.tuples(st.just("serve"), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=300)
def test_any_interleaving_ends_gapless_and_equal(script: list[tuple[str, int]]) -> None:  # noqa: C901, PLR0912 - a script
    publisher = Publisher()
    consumer = Consumer(Follower(limits=FollowerLimits(held_items=8, retry_ns=0)))
    late: list[Unit] = []
    now = 0
    consumer.feed(publisher.open_epoch(restart=True), now)
    for step, number in script:
        now += 1
        match step:
            case "publish":
                consumer.feed(publisher.publish(list(range(number))), now)
            case "lose":
                publisher.publish(list(range(number)))
            case "late":
                late.append(publisher.publish(list(range(number))))
            case "deliver_late" if late:
                consumer.feed(late.pop(number % len(late)), now)
            case "repeat":
                consumer.feed(publisher.sent[number % len(publisher.sent)], now)
            case "epoch":
                consumer.feed(publisher.open_epoch(restart=False), now)
            case "lose_epoch":
                publisher.open_epoch(restart=False)
            case "restart":
                consumer.feed(publisher.open_epoch(restart=True), now)
            case "beacon":
                consumer.take(consumer.follower.beacon(publisher.position, now))
            case "serve":
                consumer.serve(publisher, now)
            case _:
                assert step == "deliver_late", "nothing is late"
    for _ in range(5):
        now += 1
        consumer.take(consumer.follower.beacon(publisher.position, now))
        consumer.take(consumer.follower.tick(now))
        consumer.serve(publisher, now)
    assert consumer.follower.position == publisher.position
    assert consumer.state == publisher.state
    assert not consumer.follower.gapped
    assert consumer.follower.held_items == 0
