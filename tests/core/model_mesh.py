"""A shard with any number of publishers, two consumers and a network that does anything; the truth is kept beside it.

The truth about a stream is one list of records (numbers). A publisher makes one increment of each record, and its state
is a digest of all those it has not skipped. What an increment of an epoch says, and the state after it, follow from
(epoch, seq) alone, whoever publishes it: that is what continuing an epoch means, and the model checks itself for it.
"""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, NamedTuple

from lfmesh.core import topics
from lfmesh.core.codec import Flags, Header, Increments, MarketFrame
from lfmesh.core.facts import Accepted, Based, Dropped, GapClosed, GapOpened, Opened, Wanted
from lfmesh.core.feed import Feed, FeedFact, Replaced, StaleTerm, StreamFacts, Told
from lfmesh.core.recovery import FollowerLimits
from lfmesh.core.ring import ReplayRing
from lfmesh.core.wants import Wants
from lfmesh.messages import Beacon, StreamPosition
from lfmesh.types import NO_INPUT, Channel, Position, StreamKey

KEYS = (StreamKey("A-USD", Channel.TRADES), StreamKey("B-USD", Channel.BOOK))
TOPICS = {key: topics.market_data(0, key) for key in KEYS}
SECOND = 1_000_000_000
LIMITS = FollowerLimits(held_items=6, held_bytes=60)

Fate = Literal["arrive", "lose", "wait", "twice"]
Mode = Literal["continue", "open", "unaware"]


class Standing(NamedTuple):
    """Where a publisher stands in a stream: at `position`, after so many `records` of the truth, with this state."""

    position: Position
    records: int
    state: int


class State(NamedTuple):
    """What is known of a stream at a position, and the term of the newest unit in it."""

    position: Position
    term: int
    state: int


class Truth:
    """What each position of each epoch says, and the state there."""

    def __init__(self) -> None:
        self.records: dict[StreamKey, list[int]] = defaultdict(list)
        self.states: dict[tuple[StreamKey, Position], int] = {}
        self.messages: dict[tuple[StreamKey, Position], bytes] = {}
        self.stood: dict[tuple[StreamKey, int], set[int]] = defaultdict(set)
        """The epochs that the publishers of a term have known."""
        self._numbers = count(1)
        self._clock = count(1000, 10)

    def now(self) -> int:
        """A clock that never shows the same twice."""
        return next(self._clock)

    def record(self, key: StreamKey, index: int) -> int:
        records = self.records[key]
        while len(records) <= index:
            records.append(next(self._numbers))
        return records[index]

    def note(self, key: StreamKey, standing: Standing, message: bytes) -> None:
        position = standing.position
        assert self.states.setdefault((key, position), standing.state) == standing.state, "the model contradicts itself"
        assert self.messages.setdefault((key, position), message) == message, "the model contradicts itself"


class Publisher:
    """One process of a normalizer; it goes on speaking when it has been replaced."""

    def __init__(self, truth: Truth, term: int, instance: int, ring_bytes: int) -> None:
        self.term = term
        self.instance = instance
        self.streams: dict[StreamKey, Standing] = {}
        self.before: dict[StreamKey, Position] = {}
        """Where streams stood that this publisher has not opened yet, as far as it knows."""
        self.history: dict[StreamKey, list[Standing]] = defaultdict(list)
        self.ring: ReplayRing[StreamKey, MarketFrame] = ReplayRing(ring_bytes)
        self._truth = truth

    @property
    def rank(self) -> tuple[int, int]:
        return self.term, self.instance

    def succeed(self, key: StreamKey, other: "Publisher", mode: Mode, back: int, *, with_ring: bool) -> None:
        """Begin a stream with what `other` knew of it `back` steps ago."""
        history = other.history[key]
        if not history or mode == "unaware":
            return
        then = history[max(0, len(history) - 1 - back)]
        self._truth.stood[key, self.term].add(then.position.epoch)
        if mode == "open":
            self.before[key] = then.position
            return
        self.streams[key] = then
        self.history[key].append(then)
        if with_ring:
            for entry in other.ring.retained(key):
                if Position(entry.epoch, entry.last_seq) <= then.position:
                    self._retain(key, entry.payload)

    def open(self, key: StreamKey, skipped: int = 0) -> MarketFrame:
        """A new epoch; `skipped` records are missing in it for good."""
        known = self.streams.get(key)
        before = known.position if known is not None else self.before.get(key)
        index = (known.records if known is not None else 0) + skipped
        state = known.state if known is not None else 0
        epoch = max(self._truth.now(), before.epoch + 1 if before is not None else 0)
        standing = Standing(Position(epoch, 0), index, hash((state, epoch)))
        message = b"%d" % standing.state
        self._stand(key, standing, message)
        return self._frame(key, int(Flags.SNAPSHOT), 0, before, [message])

    def publish(self, key: StreamKey, number: int) -> MarketFrame:
        """A frame of so many increments; a snapshot, if the stream has none yet."""
        if key not in self.streams or not number:
            return self.open(key)
        first = self.streams[key].position.seq + 1
        messages = []
        for _ in range(number):
            (epoch, seq), index, state = self.streams[key]
            record = self._truth.record(key, index)
            message = b"%d" % record
            self._stand(key, Standing(Position(epoch, seq + 1), index + 1, hash((state, record))), message)
            messages.append(message)
        return self._frame(key, 0, first, None, messages)

    def beacon(self, *, full: bool) -> Beacon:
        named = [StreamPosition(*key, *standing.position) for key, standing in self.streams.items()]
        return Beacon(0, self.term, self.instance, NO_INPUT, 0, full, named if full else named[:1])

    def retransmit(self, key: StreamKey, after: Position) -> list[MarketFrame] | None:
        standing = self.streams.get(key)
        if standing is not None and standing.position == after:
            return []
        found = self.ring.since(key, after)
        return None if found is None else [entry.payload for entry in found]

    def state(self, key: StreamKey) -> State | None:
        standing = self.streams.get(key)
        return None if standing is None else State(standing.position, self.term, standing.state)

    def _stand(self, key: StreamKey, standing: Standing, message: bytes) -> None:
        self._truth.note(key, standing, message)
        self._truth.stood[key, self.term].add(standing.position.epoch)
        self.streams[key] = standing
        self.history[key].append(standing)

    def _frame(
        self, key: StreamKey, flags: int, first_seq: int, before: Position | None, messages: list[bytes]
    ) -> MarketFrame:
        epoch = self.streams[key].position.epoch
        header = Header(
            flags=flags, term=self.term, instance=self.instance, input=NO_INPUT, epoch=epoch, first_seq=first_seq,
            prev_epoch=before.epoch if before else 0, prev_seq=before.seq if before else 0, ts_event=0, ts_publish=0,
        )  # fmt: skip
        frame = MarketFrame(TOPICS[key], header, messages)
        self._retain(key, frame)
        return frame

    def _retain(self, key: StreamKey, frame: MarketFrame) -> None:
        header = frame.header
        snapshot = bool(header.flags & Flags.SNAPSHOT)
        before = Position(header.prev_epoch, header.prev_seq) if header.prev_epoch else None
        number = 1 if snapshot else len(frame.messages)
        self.ring.append(
            key, header.epoch, header.first_seq, number, frame, size=number, now=0, snapshot=snapshot, previous=before
        )


class Consumer:
    """What follows: a snapshotter (holds state, restores it) or a gateway (passes on, with the short way first).

    Each fact is checked against what came before it and against the truth.
    """

    def __init__(self, truth: Truth, join: Literal["anywhere", "snapshot"]) -> None:
        self._truth = truth
        self.join: Literal["anywhere", "snapshot"] = join
        self.feed = Feed(0, join, LIMITS, held_bytes=100)
        self.wants = Wants(2)
        self.at: dict[StreamKey, Position] = {}
        self.terms: dict[StreamKey, int] = {}
        self.ranks: dict[StreamKey, tuple[int, int]] = {}
        """The highest publisher of what is held; its instance is 0 where only the term is known."""
        self.states: dict[StreamKey, int] = {}
        self.accepted: set[tuple[StreamKey, Position]] = set()
        self.open_gaps: set[StreamKey] = set()
        self.stored: dict[StreamKey, State] = {}
        self.counted: Counter[str] = Counter()

    def restart(self) -> None:
        """A new process; it knows what was stored."""
        stored, counted = self.stored, self.counted
        self.__init__(self._truth, self.join)  # type: ignore[misc]  # everything is as new
        self.stored, self.counted = stored, counted
        for key, state in stored.items():
            assert self.feed.restore(key, state.position, state.term)
            self.at[key], self.terms[key], self.states[key] = state
            self._rank(key, state.term, 0)

    def store(self) -> None:
        self.stored = {key: state for key in KEYS if (state := self.state(key)) is not None}

    def state(self, key: StreamKey) -> State | None:
        return State(self.at[key], self.terms[key], self.states[key]) if key in self.states else None

    def arrive(self, item: MarketFrame | Beacon, now: int) -> None:
        if isinstance(item, Beacon):
            self.apply(*self.feed.beacon(item, now))
            return
        header = item.header
        if self.join == "anywhere" and not header.flags:
            increments = Increments(item.topic, header.term, header.epoch, header.first_seq, 0, item.messages)
            key = topics.parse_market_data(item.topic)[1]
            if self.feed.follows(self.feed.followed(key), increments):
                header = header._replace(instance=self.ranks[key][1])  # the short way does not ask whose it is
                accepted = Accepted(header.epoch, header.first_seq, [(header, message) for message in item.messages])
                self.apply(StreamFacts(key, [accepted]))
                return
        self.apply(self.feed.frame(item, now))

    def answer(self, key: StreamKey, wanted: Wanted, answer: "Answer", now: int) -> None:
        feed = self.feed
        match answer:
            case None:
                self.apply(feed.unavailable(key, now, wanted))
            case State():
                self.apply(feed.based(key, answer.position, answer.term, now), given=answer)
            case frames:
                for frame in frames:
                    self.apply(feed.retransmitted(frame, now))
                self.apply(feed.answered(key, now, wanted))

    def apply(self, *streams: StreamFacts, given: State | None = None) -> None:
        feed = self.feed
        for key, facts in streams:
            for fact in facts:
                self._take(key, fact, given)
            assert feed.position(key) == self.at.get(key)
            assert feed.in_gap(key) or key not in self.open_gaps, "a gap was forgotten without a word"
        assert feed.held_items <= LIMITS.held_items * len(KEYS)
        assert feed.held_bytes <= 100

    def _take(self, key: StreamKey, fact: FeedFact, given: State | None) -> None:
        at = self.at.get(key)
        match fact:
            case Accepted():
                assert at == Position(fact.epoch, fact.first_seq - 1), "a hole within an epoch"
                for seq, (header, message) in enumerate(fact.items, fact.first_seq):
                    self._accept(key, Position(fact.epoch, seq), header, message)
            case Opened():
                assert at is None or fact.position > at
                header, message = fact.items[-1]
                before = Position(header.prev_epoch, header.prev_seq)
                assert at is None or not before.epoch or (before.epoch == at.epoch and before <= at), "a tail was lost"
                self._set(key, fact.position, header.term, int(message))
                self._rank(key, header.term, header.instance)
            case Based():
                assert at is None or fact.position > at
                if given is None:
                    assert self.join == "anywhere"
                    assert at is None
                    self.at[key], self.terms[key] = fact.position, self.feed.term
                    self._rank(key, self.feed.term, self.feed.publisher)
                else:
                    assert given.position == fact.position
                    self._set(key, *given)
                    self._rank(key, given.term, 0)
            case Replaced():
                assert fact.position == at
                assert min(self._truth.stood[key, self.feed.term]) < at.epoch, "void without a reason"
                assert self.ranks[key] < (self.feed.term, self.feed.publisher), "void without a newer publisher"
                self.ranks[key] = (self.feed.term, self.feed.publisher)
                del self.at[key]
                self.states.pop(key, None)
                self.accepted = {one for one in self.accepted if one[0] != key}
                self.counted["replaced"] += 1
            case Wanted():
                assert fact.after == at
                assert (fact.rung == "snapshot") or at is not None
                self.wants.add(key, fact)
                self.counted[f"wanted {fact.rung}"] += 1
            case GapOpened():
                assert key not in self.open_gaps
                assert fact.last == at
                assert at is not None
                assert fact.seen > at
                self.open_gaps.add(key)
            case GapClosed():
                self.open_gaps.discard(key)
                self.counted[fact.rung] += 1
            case Dropped():
                self.counted[fact.why] += fact.count
            case StaleTerm() | Told():
                self.counted["stale term"] += 1

    def _accept(self, key: StreamKey, position: Position, header: Header, message: bytes) -> None:
        assert self._truth.messages[key, position] == message
        assert (key, position) not in self.accepted, "an item twice"
        self.accepted.add((key, position))
        self.at[key], self.terms[key] = position, header.term
        self._rank(key, header.term, header.instance)
        if key in self.states:
            self.states[key] = hash((self.states[key], int(message)))
            assert self.states[key] == self._truth.states[key, position]

    def _rank(self, key: StreamKey, term: int, instance: int) -> None:
        held = self.ranks.get(key, (0, 0))
        self.ranks[key] = (term, 0) if not instance and term == held[0] else max(held, (term, instance))

    def _set(self, key: StreamKey, position: Position, term: int, state: int) -> None:
        assert self._truth.states[key, position] == state
        self.at[key], self.terms[key], self.states[key] = position, term, state


type Answer = list[MarketFrame] | State | None


class Request(NamedTuple):
    """Asked by a consumer under a term; `answer` is None while it was not served."""

    consumer: int
    key: StreamKey
    wanted: Wanted
    term: int


@dataclass
class Mesh:
    """Publishers, consumers (0: a snapshotter, 1: a gateway), and everything between them."""

    ring_bytes: int = 12
    now: int = SECOND
    truth: Truth = field(default_factory=Truth)
    publishers: list[Publisher] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    links: dict[tuple[int, int], deque[MarketFrame | Beacon]] = field(default_factory=lambda: defaultdict(deque))
    cut: set[tuple[int, int]] = field(default_factory=set)
    requests: deque[Request] = field(default_factory=deque)
    answers: deque[tuple[Request, Answer]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.publishers.append(Publisher(self.truth, 3, 5, self.ring_bytes))
        self.consumers += [Consumer(self.truth, "snapshot"), Consumer(self.truth, "anywhere")]

    @property
    def active(self) -> Publisher:
        """The one whose word counts."""
        return max(self.publishers, key=lambda publisher: publisher.rank)

    def send(self, publisher: int, item: MarketFrame | Beacon, fates: tuple[Fate, Fate]) -> None:
        """Publish to both consumers, with what happens on the way to each."""
        for consumer, fate in enumerate(fates):
            link = self.links[publisher, consumer]
            if (publisher, consumer) in self.cut or fate == "lose":
                continue
            link.append(item)
            if fate == "twice":
                link.append(item)
            while link and fate != "wait":
                self.consumers[consumer].arrive(link.popleft(), self.now)

    def deliver(self, publisher: int, consumer: int, place: int) -> None:
        """Something that waits arrives, not always the oldest."""
        link = self.links[publisher, consumer]
        if link:
            link.rotate(-(place % len(link)))
            self.consumers[consumer].arrive(link.popleft(), self.now)

    def take_over(
        self, source: int, modes: tuple[Mode, Mode], back: int, *, with_ring: bool, same_term: bool, instance: int
    ) -> None:
        """Another publisher, from what a given one knew; by chance under the same term as the present one."""
        term = self.active.term + (not same_term)
        if any(one.rank == (term, instance) for one in self.publishers):
            return
        successor = Publisher(self.truth, term, instance, self.ring_bytes)
        other = self.publishers[source % len(self.publishers)]
        for key, mode in zip(KEYS, modes, strict=True):
            successor.succeed(key, other, mode, back, with_ring=with_ring)
        self.publishers.append(successor)

    def ask(self, consumer: int) -> None:
        """Send what a consumer wants."""
        here = self.consumers[consumer]
        for key, wanted in here.wants.take():
            self.requests.append(Request(consumer, key, wanted, here.feed.term))

    def serve(self, publisher: int | None = None, *, lose: bool = False) -> None:
        """The oldest request is answered, by its addressee or, astray, by another publisher."""
        if not self.requests:
            return
        request = self.requests.popleft()
        here = self.consumers[request.consumer]
        if lose:
            here.wants.settle(request.key)
            return
        if publisher is None:
            known = here.feed.publisher
            addressee = next((one for one in self.publishers if one.rank == (here.feed.term, known)), self.active)
        else:
            addressee = self.publishers[publisher % len(self.publishers)]
        answer: Answer
        if request.wanted.rung == "retransmit" and request.wanted.after is not None:
            answer = addressee.retransmit(request.key, request.wanted.after)
        elif request.consumer == 1 and self.consumers[0].state(request.key) is not None:
            answer = self.consumers[0].state(request.key)
        else:
            answer = addressee.state(request.key)
        self.answers.append((request, answer))

    def answer(self, place: int = 0, *, lose: bool = False, keep: bool = False) -> None:
        """An answer arrives, is lost, or arrives and will come again."""
        if not self.answers:
            return
        self.answers.rotate(-(place % len(self.answers)))
        request, answer = self.answers[0]
        if not keep:
            self.answers.popleft()
        here = self.consumers[request.consumer]
        here.wants.settle(request.key)
        if not lose and request.term == here.feed.term:
            here.answer(request.key, request.wanted, answer, self.now)

    def tick(self, ns: int) -> None:
        """Time goes on."""
        self.now += ns
        for consumer in self.consumers:
            consumer.apply(*consumer.feed.tick(self.now))

    def settle(self, rounds: int) -> None:
        """A fair network for a while: what waits arrives, everybody hears everybody, and all that is asked is answered.

        Afterwards both consumers must hold what the publisher of the highest term holds.
        """
        self.cut.clear()
        for (_, consumer), link in self.links.items():
            while link:
                self.consumers[consumer].arrive(link.popleft(), self.now)
        while self.answers:
            self.answer()
        active = self.active
        here = self.publishers.index(active)
        for key in KEYS:
            self._catch_up(here, key)
        for _ in range(rounds):
            for number, publisher in enumerate(self.publishers):
                self.send(number, publisher.beacon(full=True), ("arrive", "arrive"))
            for consumer in (0, 1):
                self.ask(consumer)
            while self.requests:
                self.serve()
            while self.answers:
                self.answer()
            self.tick(SECOND)
        for one in self.consumers:
            self._check(one, active)

    def _catch_up(self, here: int, key: StreamKey) -> None:
        """The active publisher mints again what others had minted of its epoch before it."""
        active = self.publishers[here]
        if key not in active.streams:
            self.send(here, active.open(key), ("arrive", "arrive"))
        epoch, seq = active.streams[key].position
        newest = max(position.seq for known, position in self.truth.states if (known, position.epoch) == (key, epoch))
        if newest > seq:
            self.send(here, active.publish(key, newest - seq), ("arrive", "arrive"))

    def _check(self, consumer: Consumer, active: Publisher) -> None:
        assert consumer.at == {key: standing.position for key, standing in active.streams.items()}
        feed = consumer.feed
        assert (feed.term, feed.publisher) == active.rank
        assert (feed.gapped, feed.held_items, feed.held_bytes) == (0, 0, 0)
        assert not consumer.open_gaps
        for key, standing in active.streams.items():
            assert consumer.states.get(key, standing.state) == standing.state
            assert key in consumer.states or consumer.join == "anywhere"
