"""The ladder under everything that can happen to it: what is accepted is gapless, and the state is the publisher's."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.core.recovery import (
    Accepted,
    Allowance,
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
    assert follower.increments(1, 2, ["b", "c"], now=15, answer=True) == [
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


def test_what_is_held_is_released_in_order() -> None:
    follower: Follower[str] = Follower(position=Position(1, 1))
    for seq in (5, 3, 4):
        follower.increments(1, seq, [str(seq)], now=0)
    assert follower.increments(1, 2, ["2"], now=1) == [
        *(Accepted(1, seq, [str(seq)]) for seq in (2, 3, 4, 5)),
        GapClosed("late", 1),
    ]


def test_what_was_seen_once_is_missing_until_it_comes() -> None:
    follower: Follower[str] = Follower(position=Position(1, 5))
    follower.beacon(Position(1, 8), now=0)
    assert follower.beacon(Position(1, 7), now=0) == [], "an older one, late"
    assert follower.increments(1, 6, ["f", "g"], now=0) == [Accepted(1, 6, ["f", "g"])]
    assert follower.gapped


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
    assert follower.tick(now=299) == []
    assert follower.tick(now=300) == [Wanted("snapshot", Position(1, 1))]


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
    assert follower.increments(1, 6, ["f"], now=1, answer=True) == [
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


def test_what_closed_a_gap_is_told() -> None:
    def gapped() -> Follower[str]:
        follower: Follower[str] = Follower(position=Position(1, 1))
        follower.increments(1, 4, ["d"], now=10)
        return follower

    late = gapped()
    late.increments(1, 2, ["b"], now=11)
    assert late.increments(1, 3, ["c"], now=12)[-1] == GapClosed("late", 2)
    helped = gapped()
    helped.increments(1, 2, ["b"], now=11, answer=True)
    assert helped.increments(1, 3, ["c"], now=12)[-1] == GapClosed("retransmit", 2), "an answer had to help"
    replaced = gapped()
    replaced.base(Position(1, 2), now=11)
    assert replaced.increments(1, 3, ["c"], now=12, answer=True)[-1] == GapClosed("snapshot", 2), "the highest rung"


def test_each_step_forward_begins_at_the_bottom_again() -> None:
    follower: Follower[str] = Follower(position=Position(1, 1), limits=FollowerLimits(retry_ns=100))
    follower.beacon(Position(1, 9), now=0)
    assert follower.unavailable(now=1) == [Wanted("snapshot", Position(1, 1))]
    assert follower.base(Position(1, 5), now=2) == [Based(Position(1, 5)), Wanted("retransmit", Position(1, 5))]
    assert follower.unavailable(now=3) == [Wanted("snapshot", Position(1, 5))]
    assert follower.base(Position(1, 5), now=4) == [], "no newer: asked again in time, not at once"
    assert follower.answered(now=5) == []
    follower.increments(1, 6, ["f"], now=6)
    assert follower.tick(now=103) == []
    assert follower.tick(now=104) == [Wanted("retransmit", Position(1, 6))]


def test_pauses_double_up_to_a_bound_and_begin_anew_with_each_rung() -> None:
    limits = FollowerLimits(retry_ns=100, retransmit_attempts=3, max_retry_ns=300)
    follower: Follower[str] = Follower(position=Position(1, 1), limits=limits)
    follower.beacon(Position(1, 2), now=0)
    asked = [(now, fact) for now in range(1, 2500) for fact in follower.tick(now)]
    after = Position(1, 1)
    assert asked[:3] == [
        (100, Wanted("retransmit", after)), (300, Wanted("retransmit", after)), (600, Wanted("snapshot", after))
    ]  # fmt: skip
    assert [now for now, _ in asked[3:]] == [700, 900, 1200, 1500, 1800, 2100, 2400]
    assert follower.heard_again(now=2450) == [Wanted("retransmit", after)]
    assert follower.heard_again(now=2450) == [], "asked just now"
    assert follower.tick(now=2550) == [Wanted("retransmit", after)]


def test_an_answer_to_another_request_says_nothing() -> None:
    follower: Follower[str] = Follower(position=Position(1, 1))
    follower.beacon(Position(1, 9), now=0)
    asked = Wanted("retransmit", Position(1, 1))
    for other in (Wanted("retransmit", Position(1, 0)), Wanted("snapshot", Position(1, 1))):
        assert follower.answered(0, other) == []
        assert follower.unavailable(0, other) == []
    assert follower.unavailable(0, asked) == [Wanted("snapshot", Position(1, 1))]
    assert follower.unavailable(0, asked) == []


def test_what_does_not_fit_of_an_answer_proves_nothing() -> None:
    follower: Follower[str] = Follower(position=Position(1, 1))
    assert follower.increments(1, 5, ["e"], now=0, answer=True) == [Dropped(1, "stale")]
    assert follower.snapshot(Position(2, 0), Position(1, 4), ["state"], now=0, answer=True) == [Dropped(1, "stale")]
    assert not follower.gapped
    for join in ("anywhere", "snapshot"):
        unset: Follower[str] = Follower(join)
        assert unset.increments(1, 5, ["e"], now=0, answer=True) == [Dropped(1, "stale")]
        assert unset.position is None


def test_who_heard_more_than_the_next_publisher_takes_its_epoch() -> None:
    follower: Follower[str] = Follower(position=Position(1, 8))
    follower.taken_over()
    assert follower.increments(1, 6, ["f", "g", "h"], now=0) == [Dropped(3, "duplicate")]
    assert follower.beacon(Position(1, 7), now=0) == []
    assert follower.increments(1, 8, ["h", "i"], now=0) == [Dropped(1, "duplicate"), Accepted(1, 9, ["i"])]
    assert follower.snapshot(Position(2, 0), Position(1, 7), ["state"], now=0) == [Opened(Position(2, 0), ["state"])]


def test_held_bytes_are_bounded_and_given_back() -> None:
    shared = Allowance(10)
    limits = FollowerLimits(held_bytes=8)
    one, other = (Follower[str](limits=limits, position=Position(1, 0), size_of=len, allowance=shared) for _ in "ab")
    assert Dropped(1, "overflow") not in one.increments(1, 2, ["12345"], now=0)
    assert one.increments(1, 3, ["1234"], now=0) == [Dropped(1, "overflow")], "past its own bound"
    assert Dropped(2, "overflow") in other.increments(1, 2, ["123", "456"], now=0), "past the shared bound"
    assert Dropped(1, "overflow") not in other.increments(1, 2, ["12345"], now=0)
    assert (one.held_bytes, other.held_bytes, shared.used) == (5, 5, 10)
    one.increments(1, 1, ["1"], now=1)
    assert (one.held_bytes, shared.used) == (0, 5)
    other.taken_over()
    assert (other.held_bytes, other.held_items, shared.used) == (0, 0, 0)
    other.beacon(Position(1, 2), now=1)
    other.increments(1, 3, ["12345"], now=1)
    assert shared.used == 5
    assert other.abandon(now=2) == [Dropped(1, "stale"), GapClosed("takeover", 2)]
    assert (other.position, other.gapped, shared.used) == (None, False, 0)


def test_a_take_over_leaves_a_gap_in_doubt() -> None:
    def in_doubt(seq: int | None = 1) -> Follower[str]:
        follower: Follower[str] = Follower(position=None if seq is None else Position(1, seq))
        follower.increments(1, 4, ["d", "e"], now=0)
        follower.taken_over()
        assert follower.in_doubt
        assert follower.tick(now=10**10) == follower.heard_again(now=10**10) == []
        assert follower.answered(now=5) == follower.unavailable(now=5) == []
        return follower

    void = Dropped(2, "stale")
    assert in_doubt().beacon(Position(1, 0), now=7) == [void, GapClosed("takeover", 7)]
    assert in_doubt().absent(now=7) == [void, GapClosed("takeover", 7)]
    assert in_doubt().increments(1, 2, ["b"], now=7) == [Accepted(1, 2, ["b"]), void, GapClosed("takeover", 7)]
    assert in_doubt(None).absent(now=7) == [void, GapClosed("takeover", 7)]
    again = in_doubt()
    assert again.increments(1, 3, ["c"], now=7) == [void, Wanted("retransmit", Position(1, 1))]
    assert not again.in_doubt
    assert again.absent(now=8) == []
    healed = again.increments(1, 2, ["b"], now=9, answer=True)
    assert healed == [Accepted(1, 2, ["b"]), Accepted(1, 3, ["c"]), GapClosed("retransmit", 9)]
    waiting = in_doubt(None)
    assert waiting.beacon(Position(1, 5), now=7) == [void, Wanted("snapshot", None)]


def test_a_conflated_increment_stands_for_those_since_the_one_before_it() -> None:
    follower: Follower[str] = Follower(position=Position(1, 3))
    assert follower.increments(1, 7, ["4-7"], now=0, previous_seq=3) == [Accepted(1, 7, ["4-7"])]
    assert follower.increments(1, 7, ["6-7"], now=0, previous_seq=5) == [Dropped(1, "duplicate")]
    assert follower.increments(1, 9, ["6-9"], now=0, previous_seq=5) == [Accepted(1, 9, ["6-9"])], "levels are absolute"
    gap = follower.increments(1, 14, ["12-14"], now=0, previous_seq=11)
    assert gap == [GapOpened(Position(1, 9), Position(1, 14)), Wanted("retransmit", Position(1, 9))]
    assert follower.increments(1, 11, ["10-11"], now=5, previous_seq=9) == [
        Accepted(1, 11, ["10-11"]), Accepted(1, 14, ["12-14"]), GapClosed("late", 5)
    ]  # fmt: skip


def test_a_snapshot_on_one_ordered_connection_is_in_force_wherever_it_stands() -> None:
    follower: Follower[str] = Follower(position=Position(5, 3))
    assert follower.rebase(Position(4, 7), ["state"], now=0) == [Opened(Position(4, 7), ["state"])]
    assert follower.increments(4, 8, ["h"], now=0) == [Accepted(4, 8, ["h"])]
    follower.increments(4, 11, ["k"], now=0)
    follower.snapshot(Position(9, 0), Position(8, 1), ["other"], now=0)
    assert follower.rebase(Position(4, 10), ["state"], now=6) == [
        Opened(Position(4, 10), ["state"]),
        Dropped(1, "stale"),
        Accepted(4, 11, ["k"]),
        GapClosed("snapshot", 6),
    ]
    assert follower.rebase(Position(4, 2), ["state"], now=7) == [Opened(Position(4, 2), ["state"])], "also back"


# A client's connection -------------------------------------------------------------------------------------------


class Conflated:
    """Number n sets level n % 3 to n. A message tells the last of each level among one number or several."""

    def __init__(self) -> None:
        self.follower: Follower[dict[int, int]] = Follower(position=Position(1, 0))
        self.book: dict[int, int] = {}
        self.sent: list[tuple[int, int]] = []
        self.newest = 0

    @staticmethod
    def levels(after: int, last: int) -> dict[int, int]:
        return {number % 3: number for number in range(after + 1, last + 1)}

    def take(self, facts: list[Fact[dict[int, int]]]) -> None:
        for fact in facts:
            if isinstance(fact, Opened):
                self.book.clear()
            if isinstance(fact, Accepted | Opened):
                for levels in fact.items:
                    self.book.update(levels)

    def send(self, numbers: int) -> None:
        self.sent.append((self.newest, self.newest + numbers))
        self.newest += numbers
        self.arrive(*self.sent[-1])

    def arrive(self, after: int, last: int) -> None:
        self.take(self.follower.increments(1, last, [self.levels(after, last)], 0, after))

    def snapshot(self) -> None:
        self.take(self.follower.rebase(Position(1, self.newest), [self.levels(0, self.newest)], 0))


conflated_steps = st.sampled_from(("send", "send", "lose", "repeat", "snapshot"))


@given(st.lists(st.tuples(conflated_steps, st.integers(1, 4)), max_size=40))
def test_conflated_or_not_the_levels_are_the_publishers(script: list[tuple[str, int]]) -> None:
    client = Conflated()
    for step, number in script:
        match step:
            case "send":
                client.send(number)
            case "lose":
                client.newest += number
            case "repeat" if client.sent:
                client.arrive(*client.sent[-min(number, len(client.sent))])
            case "snapshot":
                client.snapshot()
            case _:
                assert step == "repeat"
        at = client.follower.position
        assert at is not None
        assert client.book == client.levels(0, at.seq)
        lacking = max([0, *(last for _, last in client.sent)]) > at.seq
        assert client.follower.gapped == lacking, "what was seen and can't be applied is a gap"
    client.take(client.follower.beacon(Position(1, client.newest), 0))
    if client.follower.gapped:
        client.snapshot()
    assert not client.follower.gapped
    assert client.book == client.levels(0, client.newest)


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
