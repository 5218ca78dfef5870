"""The raw hop: a normalizer follows an ingestor's numbered records over a network that does anything.

There is one rung, the ingestor's replay ring. What no ring has any more is given up, and said so: `lost`.
"""

from collections import deque
from typing import Literal, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from lfmesh.core.facts import Accepted, Based, Dropped, Fact, GapClosed, GapOpened, Opened, Wanted
from lfmesh.core.recovery import Follower, FollowerLimits
from lfmesh.core.ring import ReplayRing
from lfmesh.types import Position

SECOND = 1_000_000_000
LIMITS = FollowerLimits(held_items=20, held_bytes=160)
ROUNDS = 8

Fate = Literal["arrive", "lose", "wait", "twice"]
Record = tuple[int, int]
"""(incarnation, number): no two are the same."""


class Frame(NamedTuple):
    """A batch, or (without records) a beacon, for which `first` is the number that comes next."""

    incarnation: int
    first: int
    oldest: int
    records: tuple[Record, ...]


class Ingestor:
    """One process; it numbers from 1."""

    def __init__(self, incarnation: int, ring_records: int) -> None:
        self.incarnation = incarnation
        self.next = 1
        self._ring: ReplayRing[str, Frame] = ReplayRing(ring_records)

    @property
    def oldest(self) -> int:
        oldest = self._ring.oldest("shard")
        return self.next if oldest is None else oldest.seq

    def batch(self, number: int) -> Frame:
        records = tuple((self.incarnation, self.next + here) for here in range(number))
        frame = Frame(self.incarnation, self.next, self.oldest, records)
        self._ring.append("shard", self.incarnation, self.next, number, frame, size=number, now=0)
        self.next += number
        return frame

    def beacon(self) -> Frame:
        return Frame(self.incarnation, self.next, self.oldest, ())

    def replay(self, incarnation: int, first: int) -> list[Frame] | None:
        if incarnation != self.incarnation or not 1 <= first <= self.next:
            return None
        if first == self.next:
            return []
        found = self._ring.since("shard", Position(incarnation, first - 1))
        return None if found is None else [entry.payload for entry in found]


class Normalizer:
    """Takes records in order; what it was given and what it gave up are all there is."""

    def __init__(self, incarnation: int, number: int = 0) -> None:
        self.incarnation = incarnation
        self.begun_at = number
        self.follower: Follower[Record] = Follower(
            "snapshot", LIMITS, Position(incarnation, number), size_of=lambda _: 8
        )
        self.taken: list[int] = []
        self.lost: list[int] = []
        self.oldest = 1
        self.wanted: Wanted | None = None
        self.gap_open = False

    def arrive(self, frame: Frame, now: int, *, answer: bool = False) -> None:
        if frame.incarnation != self.incarnation:
            return
        self.oldest = max(self.oldest, frame.oldest)
        follower = self.follower
        if frame.records:
            self.carry_out(follower.increments(frame.incarnation, frame.first, frame.records, now, answer=answer), now)
        else:
            self.carry_out(follower.beacon(Position(frame.incarnation, frame.first - 1), now), now)

    def carry_out(self, facts: list[Fact[Record]], now: int) -> None:
        for fact in facts:
            match fact:
                case Accepted(incarnation, first, items):
                    assert list(items) == [(incarnation, first + here) for here in range(len(items))]
                    assert first == self._next
                    self.taken += range(first, first + len(items))
                case Wanted():
                    assert fact.after == self.follower.position
                    self.wanted = fact
                    self._give_up(now)
                case GapOpened(last, seen):
                    assert not self.gap_open
                    assert last is not None
                    assert last < seen
                    self.gap_open = True
                case GapClosed():
                    assert self.gap_open
                    self.gap_open = False
                case Based() | Dropped():
                    pass
                case Opened():
                    raise AssertionError("there are no snapshots of records")
        assert self.follower.gapped == self.gap_open
        assert self.follower.held_items <= LIMITS.held_items
        assert self.follower.held_bytes <= LIMITS.held_bytes

    @property
    def _next(self) -> int:
        return 1 + max([self.begun_at, *self.taken[-1:], *self.lost[-1:]])

    def _give_up(self, now: int) -> None:
        position = self.follower.position
        assert position is not None
        if self.oldest > position.seq + 1:
            self.wanted = None
            self.lost += range(position.seq + 1, self.oldest)
            self.carry_out(self.follower.base(Position(self.incarnation, self.oldest - 1), now), now)


class Machine(RuleBasedStateMachine):
    """Loss, delay, duplication, restarts of either side, eviction, bad answers; then a fair network for a while."""

    @initialize(ring_records=st.sampled_from((4, 20, 1000)))
    def begin(self, ring_records: int) -> None:
        self.now = SECOND
        self.ring_records = ring_records
        self.ingestor = Ingestor(1, ring_records)
        self.normalizer = Normalizer(1)
        self.link: deque[Frame] = deque()
        self.answers: deque[tuple[Wanted, list[Frame] | None]] = deque()

    @rule(number=st.integers(1, 5), fate=st.sampled_from(("arrive", "arrive", "lose", "wait", "twice")))
    def batch(self, number: int, fate: Fate) -> None:
        self._send(self.ingestor.batch(number), fate)

    @rule(fate=st.sampled_from(("arrive", "arrive", "lose", "wait")))
    def beacon(self, fate: Fate) -> None:
        self._send(self.ingestor.beacon(), fate)

    @rule(place=st.integers(0, 3))
    def deliver_late(self, place: int) -> None:
        if self.link:
            self.link.rotate(-place)
            self._arrive(self.link.popleft())

    @rule(lose=st.booleans())
    def ask(self, lose: bool) -> None:
        self._ask(lose=lose)

    @rule(place=st.integers(0, 3), again=st.booleans())
    def answer(self, place: int, again: bool) -> None:
        self._answer(place, again=again)

    @rule(tenths=st.sampled_from((1, 6, 20)))
    def wait(self, tenths: int) -> None:
        self.now += tenths * SECOND // 10
        self.normalizer.carry_out(self.normalizer.follower.tick(self.now), self.now)

    @rule()
    def restart_ingestor(self) -> None:
        self.ingestor = Ingestor(self.ingestor.incarnation + 1, self.ring_records)

    @rule(back=st.integers(0, 10))
    def restart_normalizer(self, back: int) -> None:
        """It goes on from the records that are in a state that was kept somewhere."""
        position = self.normalizer.follower.position
        assert position is not None
        self.normalizer = Normalizer(position.epoch, max(0, position.seq - back))

    @rule()
    def settle(self) -> None:
        while self.link:
            self._arrive(self.link.popleft())
        while self.answers:
            self._answer(0, again=False)
        for _ in range(ROUNDS):
            self._send(self.ingestor.beacon(), "arrive")
            self.wait(10)
            self._ask(lose=False)
            self._answer(0, again=False)
        normalizer = self.normalizer
        assert normalizer.follower.position == (self.ingestor.incarnation, self.ingestor.next - 1)
        assert not normalizer.follower.gapped
        assert normalizer.follower.held_items == normalizer.follower.held_bytes == 0
        assert sorted(normalizer.taken + normalizer.lost) == list(range(normalizer.begun_at + 1, self.ingestor.next))

    def teardown(self) -> None:
        if hasattr(self, "ingestor"):
            self.settle()

    def _send(self, frame: Frame, fate: Fate) -> None:
        if fate != "lose":
            self.link.append(frame)
        if fate == "twice":
            self.link.append(frame)
        while self.link and fate in ("arrive", "twice"):
            self._arrive(self.link.popleft())

    def _arrive(self, frame: Frame, *, answer: bool = False) -> None:
        if frame.incarnation > self.normalizer.incarnation:
            self.normalizer = Normalizer(frame.incarnation)
        self.normalizer.arrive(frame, self.now, answer=answer)

    def _ask(self, *, lose: bool) -> None:
        wanted, self.normalizer.wanted = self.normalizer.wanted, None
        if wanted is not None and wanted.after is not None and not lose:
            position = self.normalizer.follower.position
            assert position is not None
            self.answers.append((wanted, self.ingestor.replay(position.epoch, position.seq + 1)))

    def _answer(self, place: int, *, again: bool) -> None:
        if not self.answers:
            return
        self.answers.rotate(-place)
        wanted, answer = self.answers[0]
        if not again:
            self.answers.popleft()
        normalizer = self.normalizer
        if answer is None:
            normalizer.carry_out(normalizer.follower.unavailable(self.now, wanted), self.now)
            return
        for frame in answer:
            normalizer.arrive(frame, self.now, answer=True)
        normalizer.carry_out(normalizer.follower.answered(self.now, wanted), self.now)


TestRawHop = Machine.TestCase
TestRawHop.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
