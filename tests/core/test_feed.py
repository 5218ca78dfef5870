"""Frames and beacons of a shard → facts per stream, among losses, replaced publishers and late answers."""

from collections import defaultdict, deque
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.core import codec
from lfmesh.core.feed import Feed, FeedFact, Item, Replaced, StaleTerm, StreamFacts, Told
from lfmesh.core.recovery import Accepted, Based, Dropped, GapClosed, GapOpened, Opened, Wanted
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import Beacon, SnapshotReply, StreamPosition
from lfmesh.types import NO_INPUT, Channel, Position, StreamKey
from tests.core.model_publisher import ModelPublisher, ModelStream, keys

BOOK = StreamKey("P0-USD", Channel.BOOK)
TICKER = StreamKey("P0-USD", Channel.TICKER)
SECOND = 1_000_000_000


def publisher(term: int = 3, start: int = 1000) -> ModelPublisher:
    ticks = count(start)
    return ModelPublisher(0, term, lambda: next(ticks))


def take(feed: Feed, frame: bytes, now: int = 0) -> list[FeedFact]:
    return feed.frame(codec.unpack(frame), now).facts


def kinds(facts: list[FeedFact]) -> list[type]:
    return [type(fact) for fact in facts]


def test_a_stream_begins_with_its_snapshot_and_goes_on_in_order() -> None:
    feed, source = Feed(0), publisher()
    (opened,) = take(feed, source.open(BOOK))
    assert isinstance(opened, Opened)
    (accepted,) = take(feed, source.increment(BOOK, [1, 2]))
    assert isinstance(accepted, Accepted)
    assert [message for _, message in accepted.items] == [
        source.history[BOOK, Position(accepted.epoch, seq)] for seq in (1, 2)
    ]
    assert accepted.items[0][0].term == 3
    assert feed.position(BOOK) == source.streams[BOOK].position
    assert (feed.term, feed.publisher, feed.gapped) == (3, 7, 0)


def test_a_lost_frame_is_asked_for_and_the_later_one_waits() -> None:
    feed, source = Feed(0), publisher()
    take(feed, source.open(BOOK))
    lost = source.increment(BOOK, [1])
    facts = take(feed, source.increment(BOOK, [2]))
    assert kinds(facts) == [GapOpened, Wanted]
    assert (feed.gapped, feed.held_items, feed.waiting) == (1, 1, 0)
    assert kinds(take(feed, source.open(TICKER))) == [Opened], "another stream is not held up"
    healed = feed.retransmitted(codec.unpack(lost), 5).facts
    assert kinds(healed) == [Accepted, Accepted, GapClosed]
    assert healed[-1] == GapClosed("retransmit", 5)
    assert feed.answered(BOOK, 5).facts == []
    assert feed.position(BOOK) == source.streams[BOOK].position


def test_a_beacon_shows_a_lost_tail_and_silence_is_told_by_its_absence() -> None:
    feed, source = Feed(0), publisher()
    assert feed.silent(0)
    take(feed, source.open(BOOK))
    assert feed.beacon(source.beacon(), SECOND) == []
    source.increment(BOOK, [1])
    ((stream, facts),) = feed.beacon(source.beacon(), SECOND)
    assert stream == BOOK
    assert kinds(facts) == [GapOpened, Wanted]
    assert feed.heard_at == SECOND
    assert not feed.silent(SECOND + 300_000_000)
    assert feed.silent(SECOND + 300_000_001)


def test_who_joins_in_the_middle_wants_a_snapshot_and_takes_it_from_beside() -> None:
    feed, source = Feed(0), publisher()
    source.open(BOOK)
    source.increment(BOOK, [1, 2])
    facts = take(feed, source.increment(BOOK, [3]))
    assert facts == [Wanted("snapshot", None)]
    assert feed.waiting == 1
    facts = feed.based(BOOK, Position(source.streams[BOOK].position.epoch, 2), 3, 1).facts
    assert kinds(facts) == [Based, Accepted, GapClosed]
    assert (feed.waiting, feed.gapped) == (0, 0)


def test_a_passer_on_joins_anywhere() -> None:
    feed, source = Feed(0, join="anywhere"), publisher()
    source.open(BOOK)
    source.increment(BOOK, [1, 2])
    assert kinds(take(feed, source.increment(BOOK, [3]))) == [Based, Accepted]
    source.open(TICKER)
    ((_, facts),) = feed.beacon(source.beacon(), 0)
    assert kinds(facts) == [Based]


def test_unanswered_requests_are_repeated_and_then_go_to_the_next_rung() -> None:
    feed, source = Feed(0), publisher()
    take(feed, source.open(BOOK))
    source.increment(BOOK, [1])
    feed.beacon(source.beacon(), 0)
    asked = []
    for tenths in range(1, 100):
        for _, facts in feed.tick(tenths * SECOND // 10):
            assert isinstance(facts[0], Wanted)
            asked.append((tenths, facts[0].rung))
    assert asked[:2] == [(5, "retransmit"), (15, "snapshot")], "a pause, and one that is twice as long"
    assert asked[2:] == [(tenths, "snapshot") for tenths in (20, 30, 50, 70, 90)], "growing up to two seconds"
    assert feed.unavailable(BOOK, 0).facts == [], "the last rung is asked again by the tick"


def test_a_replaced_publisher_is_ignored() -> None:
    feed, old = Feed(0), publisher(term=3)
    take(feed, old.open(BOOK))
    new = publisher(term=4, start=5000)
    take(feed, new.open(BOOK))
    assert take(feed, old.increment(BOOK, [1, 2])) == [StaleTerm(3, 2)]
    heard = feed.heard_at
    assert feed.beacon(old.beacon(), SECOND) == []
    assert (feed.heard_at, feed.stale_beacons, feed.term) == (heard, 1, 4)
    assert feed.position(BOOK) == new.streams[BOOK].position


def test_a_higher_epoch_of_a_replaced_publisher_is_void() -> None:
    """Both sides of a partition published; ours had the higher epoch, the other the higher term."""
    feed, old = Feed(0), publisher(term=3, start=9000)
    opened = old.open(BOOK)
    take(feed, opened)
    at = feed.position(BOOK)
    new = publisher(term=4, start=5000)
    new.open(BOOK)
    ((_, facts),) = feed.beacon(new.beacon(), 0)
    assert at is not None
    assert facts == [Replaced(at), Wanted("snapshot", None)]
    assert feed.position(BOOK) is None
    assert feed.based(BOOK, Position(9000, 0), 3, 0).facts == [StaleTerm(3, 1)], "a state of the old one is refused"
    assert feed.retransmitted(codec.unpack(opened), 0).facts == [StaleTerm(3, 1)], "and so are its frames"
    assert kinds(take(feed, new.increment(BOOK, [1]))) == []
    position = new.streams[BOOK].position
    assert kinds(feed.based(BOOK, position, 4, 0).facts) == [Based, Dropped, GapClosed]
    assert feed.position(BOOK) == position


def test_a_take_over_leaves_a_gap_in_doubt_until_the_new_publisher_speaks_of_the_stream() -> None:
    feed, old = Feed(0), publisher(term=3, start=9000)
    take(feed, old.open(TICKER))
    take(feed, old.open(BOOK))
    old.increment(BOOK, [1])
    take(feed, old.increment(BOOK, [2]))
    assert (feed.held_items, feed.held_bytes > 0) == (1, True)
    new = ModelPublisher(0, 4, lambda: 99_000, old.streams)
    take(feed, new.open(TICKER))
    assert (feed.held_items, feed.held_bytes, feed.gapped) == (0, 0, 1)
    assert feed.tick(SECOND) == [], "nothing to be asked for until something is known to be missing"
    assert feed.beacon(new.beacon([TICKER]), SECOND) == [], "it may speak of the book later"
    opened = take(feed, new.open(BOOK), 2 * SECOND)
    assert kinds(opened) == [Dropped, Wanted], "it had more of the old epoch than we"
    assert feed.unavailable(BOOK, 2 * SECOND).facts == [Wanted("snapshot", feed.position(BOOK))]
    position = new.streams[BOOK].position
    healed = feed.based(BOOK, position, 4, 3 * SECOND).facts
    assert healed == [Based(position), Dropped(1, "duplicate"), GapClosed("snapshot", 3 * SECOND)]


def test_a_new_publisher_that_has_nothing_more_ends_the_gap() -> None:
    for words in ("behind", "absent"):
        feed, old = Feed(0), publisher(term=3, start=9000)
        take(feed, old.open(BOOK))
        known = {BOOK: old.streams[BOOK].copy()}
        old.increment(BOOK, [1])
        take(feed, old.increment(BOOK, [2]))
        new = ModelPublisher(0, 4, lambda: 99_000, known)
        if words == "behind":
            new.resume(BOOK)
        ((stream, facts),) = feed.beacon(new.beacon(), SECOND)
        assert (stream, facts) == (BOOK, [Dropped(1, "stale"), GapClosed("takeover", SECOND)])
        assert feed.gapped == 0


def test_a_new_publisher_at_our_position_ends_the_gap_with_any_beacon() -> None:
    feed, old = Feed(0), publisher(term=3, start=9000)
    take(feed, old.open(BOOK))
    known = {BOOK: old.streams[BOOK].copy()}
    old.increment(BOOK, [1])
    feed.beacon(old.beacon(), 0)
    new = ModelPublisher(0, 4, lambda: 99_000, known)
    new.resume(BOOK)
    ((_, facts),) = feed.beacon(new.beacon([BOOK]), 5)
    assert facts == [GapClosed("takeover", 5)]


def test_a_publisher_that_is_heard_again_is_asked_at_once() -> None:
    feed, source = Feed(0), publisher()
    take(feed, source.open(BOOK))
    feed.beacon(source.beacon(), 0)
    source.increment(BOOK, [1])
    feed.beacon(source.beacon(), SECOND // 10)
    for tenths in range(2, 30):
        feed.tick(tenths * SECOND // 10)
    ((_, facts),) = feed.beacon(source.beacon(), 3 * SECOND)
    assert facts == [Wanted("retransmit", feed.position(BOOK))], "its ring is asked first, as in the beginning"
    assert feed.beacon(source.beacon(), 3 * SECOND + 1) == []


def test_of_two_with_the_same_term_the_higher_instance_speaks() -> None:
    for winner_first in (True, False):
        feed, low, high = Feed(0), publisher(term=3, start=9000), publisher(term=3, start=5000)
        high.instance = 8
        frames = [(high.open(TICKER), high), (low.open(BOOK), low)]
        for frame, _ in frames if winner_first else frames[::-1]:
            take(feed, frame)
        feed.beacon(low.beacon(), 0)
        assert feed.publisher == 8
        facts = take(feed, high.open(BOOK))
        if winner_first:
            assert feed.stale_beacons == 1
            assert kinds(facts) == [Opened]
        else:
            assert kinds(facts) == [Replaced, Opened], "what the other said stands in a higher epoch, and is void"
        assert take(feed, low.increment(BOOK, [1])) == [StaleTerm(3, 1)]
        assert feed.retransmitted(codec.unpack(low.increment(BOOK, [1])), 0).facts == [StaleTerm(3, 1)]
        assert feed.position(BOOK) == high.streams[BOOK].position


def test_an_answer_of_a_newer_publisher_is_its_first_word() -> None:
    feed, old = Feed(0), publisher(term=3)
    take(feed, old.open(BOOK))
    old.increment(BOOK, [1])
    take(feed, old.increment(BOOK, [2]))
    new = ModelPublisher(0, 4, lambda: 99_000, old.streams, instance=8)
    new.resume(BOOK)
    assert kinds(feed.retransmitted(codec.unpack(new.increment(BOOK, [3])), 0).facts) == [Dropped]
    assert (feed.term, feed.publisher, feed.held_items) == (4, 8, 0)
    assert take(feed, old.increment(BOOK, [3])) == [StaleTerm(3, 1)]
    told = Feed(0)
    take(told, old.open(BOOK))
    told.based(TICKER, Position(5, 5), 4, 0)
    assert told.term == 4
    assert take(told, old.increment(BOOK, [1])) == [StaleTerm(3, 1)]


def test_what_an_older_publisher_said_counts_in_the_epochs_of_which_the_one_in_force_speaks() -> None:
    feed, old = Feed(0), publisher(term=3, start=1000)
    take(feed, old.open(BOOK))
    first = ModelPublisher(0, 4, lambda: 99_000, old.streams)
    first.resume(BOOK)
    take(feed, first.increment(BOOK, [1]))
    for number in (1, 2):
        older = old.increment(BOOK, [number])
    assert kinds(feed.retransmitted(codec.unpack(older), 0).facts) == [Accepted], "of our own epoch"
    other = publisher(term=3, start=5000)
    frames = [other.open(BOOK), other.increment(BOOK, [1])]
    second = ModelPublisher(0, 5, lambda: 99_000, other.streams)
    second.resume(BOOK)
    held = other.streams[BOOK].position
    assert feed.retransmitted(codec.unpack(frames[0]), 0).facts == [StaleTerm(3, 1)]
    assert feed.based(BOOK, held, 3, 0).facts == [StaleTerm(3, 1)]
    feed.beacon(second.beacon(), 0)
    assert kinds(feed.based(BOOK, held, 3, 0).facts) == [Based, GapClosed], "it goes on in that epoch"
    void = publisher(term=3, start=7000)
    assert feed.retransmitted(codec.unpack(void.open(BOOK)), 0).facts == [StaleTerm(3, 1)], "we hold newer than it"
    assert feed.retransmitted(codec.unpack(frames[0]), 0).facts == [Dropped(1, "duplicate")]


def test_a_state_of_the_loser_of_a_tie_is_found_out() -> None:
    feed, high, low = Feed(0), publisher(term=3, start=1000), publisher(term=3, start=5000)
    high.instance = 8
    take(feed, high.open(BOOK))
    low.open(BOOK)
    void = low.streams[BOOK].position
    assert kinds(feed.based(BOOK, void, 3, SECOND).facts) == [Based], "whose it is can't be seen"
    assert feed.beacon(high.beacon(), 2 * SECOND) == [], "it may be from before the state"
    ((_, facts),) = feed.beacon(high.beacon(), 4 * SECOND)
    assert facts == [Replaced(void), Wanted("snapshot", None)]


def test_who_joined_by_a_beacon_knows_whose_it_was() -> None:
    feed, source, old = Feed(0, join="anywhere"), publisher(term=4, start=1000), publisher(term=3, start=5000)
    source.open(BOOK)
    assert kinds(feed.beacon(source.beacon(), 0)[0].facts) == [Based]
    assert feed.retransmitted(codec.unpack(old.open(BOOK)), 0).facts == [StaleTerm(3, 1)]


def test_an_answer_that_does_not_fit_opens_no_gap() -> None:
    feed, source = Feed(0), publisher()
    take(feed, source.open(BOOK))
    lost = [source.increment(BOOK, [1]), source.increment(BOOK, [2]), source.open(BOOK)]
    for frame in lost[1:]:
        assert feed.retransmitted(codec.unpack(frame), 0).facts == [Dropped(1, "stale")]
    assert feed.gapped == 0
    for frame in lost:
        feed.retransmitted(codec.unpack(frame), 0)
    assert feed.position(BOOK) == source.streams[BOOK].position


def test_a_publisher_never_voids_what_it_said_itself() -> None:
    feed, source = Feed(0), publisher()
    take(feed, source.open(BOOK))
    late = source.beacon()
    take(feed, source.open(BOOK))
    assert feed.beacon(late, 10 * SECOND) == []
    assert feed.position(BOOK) == source.streams[BOOK].position


def test_the_successor_of_an_epoch_that_we_do_not_know_voids_ours() -> None:
    """In a partition we followed the one side into a new epoch, then the other side opened a still higher one."""
    feed, source = Feed(0), publisher(term=3, start=1000)
    take(feed, source.open(BOOK))
    known = {BOOK: source.streams[BOOK].copy()}
    take(feed, source.open(BOOK))
    at = feed.position(BOOK)
    assert at is not None
    new = ModelPublisher(0, 4, lambda: 9000, known)
    assert kinds(take(feed, new.open(BOOK))) == [Replaced, Opened]
    same = Feed(0)
    for frame in (source.open(BOOK), source.open(BOOK)):
        assert kinds(take(same, frame)) == [Opened]


def test_a_late_answer_says_nothing_about_what_is_asked_now() -> None:
    feed, source = Feed(0), publisher()
    take(feed, source.open(BOOK))
    first, second = source.increment(BOOK, [1]), source.increment(BOOK, [2])
    (_, asked) = take(feed, second)
    assert isinstance(asked, Wanted)
    take(feed, first)
    source.increment(BOOK, [3])
    (_, again) = take(feed, source.increment(BOOK, [4]))
    assert isinstance(again, Wanted)
    assert feed.unavailable(BOOK, 0, asked).facts == []
    assert feed.answered(BOOK, 0, asked).facts == []
    assert kinds(feed.answered(BOOK, 0, again).facts) == [Wanted]


def test_what_all_streams_hold_back_is_bounded_in_bytes() -> None:
    feed, source = Feed(0, held_bytes=1000), publisher()
    for key in (BOOK, TICKER):
        take(feed, source.open(key))
        source.increment(key, [1])
    dropped: list[FeedFact] = []
    for _ in range(20):
        for key in (BOOK, TICKER):
            dropped += [fact for fact in take(feed, source.increment(key, [1])) if isinstance(fact, Dropped)]
            assert feed.held_bytes <= 1000
    assert dropped[0] == Dropped(1, "overflow")
    assert feed.held_bytes > 500


def test_a_status_is_told_once_and_again_by_another_publisher() -> None:
    feed, source = Feed(0), publisher(term=3)
    (told,) = take(feed, source.status(BOOK, "stale"))
    assert isinstance(told, Told)
    assert take(feed, source.status(BOOK, "stale")) == []
    assert feed.status(BOOK) == told.message
    assert kinds(take(feed, source.status(BOOK, "live"))) == [Told]
    assert kinds(take(feed, publisher(term=4).status(BOOK, "live"))) == [Told]
    assert feed.retransmitted(codec.unpack(source.status(BOOK, "stale")), 0).facts == []
    assert feed.status(TICKER) == b""


def test_a_restored_stream_goes_on_where_it_stood() -> None:
    source = publisher(term=3)
    source.open(BOOK)
    source.increment(BOOK, [1])
    feed = Feed(0)
    assert feed.restore(BOOK, source.streams[BOOK].position, 3)
    assert not feed.restore(BOOK, Position(1, 1), 3)
    assert feed.term == 3
    assert kinds(take(feed, source.increment(BOOK, [2]))) == [Accepted]
    assert take(feed, publisher(term=2).open(BOOK)) == [StaleTerm(2, 1)]


def test_what_was_forgotten_is_joined_anew() -> None:
    feed, source = Feed(0), publisher()
    take(feed, source.open(BOOK))
    feed.forget(BOOK)
    feed.forget(TICKER)
    assert feed.position(BOOK) is None
    assert take(feed, source.increment(BOOK, [1])) == [Wanted("snapshot", None)]


def test_what_is_not_of_this_shard_or_contradicts_itself_is_refused() -> None:
    feed = Feed(1)
    with pytest.raises(BadMeshFrame, match="shard 0"):
        take(feed, publisher().open(BOOK))
    with pytest.raises(BadMeshFrame, match="shard 0"):
        feed.beacon(publisher().beacon(), 0)
    good = codec.unpack(publisher().open(BOOK))
    with pytest.raises(BadMeshFrame, match="not a market-data topic"):
        feed.frame(good._replace(topic=b"md.1.X"), 0)
    for flags in (codec.Flags.INCREMENTS, codec.Flags.STATUS):
        empty = good._replace(topic=b"md.1.P0-USD.book.", header=good.header._replace(flags=flags), messages=[])
        with pytest.raises(BadMeshFrame, match="messages"):
            feed.frame(empty, 0)


# Any interleaving -----------------------------------------------------------------------------------------------


class Consumer:
    """Applies facts and checks that the accepted history has no hole."""

    def __init__(self) -> None:
        self.now = 0
        self.feed = Feed(0)
        self.at: dict[StreamKey, Position] = {}
        self.wanted: dict[StreamKey, Wanted] = {}
        self.accepted: dict[tuple[StreamKey, Position], bytes] = {}

    def apply(self, *streams: StreamFacts) -> None:
        for key, facts in streams:
            for fact in facts:
                self.take(key, fact)
            assert self.feed.position(key) == self.at.get(key)
            assert self.feed.in_gap(key) == (key in self.feed._gapped)

    def take(self, key: StreamKey, fact: FeedFact) -> None:
        at = self.at.get(key)
        match fact:
            case Accepted():
                assert at == Position(fact.epoch, fact.first_seq - 1), "a hole within an epoch"
                self.note(key, fact)
            case Opened():
                assert at is None or fact.position > at
                self.at[key] = fact.position
            case Based():
                assert at is None or fact.position > at
                self.at[key] = fact.position
            case Replaced():
                assert fact.position == at
                del self.at[key]
            case Wanted():
                self.wanted[key] = fact
            case _:
                pass

    def note(self, key: StreamKey, fact: Accepted[Item]) -> None:
        for seq, (_, message) in enumerate(fact.items, fact.first_seq):
            self.at[key] = Position(fact.epoch, seq)
            self.accepted[key, self.at[key]] = message


class World:
    """An active publisher, those it has replaced, a link from each, and answers under way."""

    def __init__(self) -> None:
        self.ticks = count(1000)
        self.active = self.new_publisher(1, {})
        self.replaced: list[ModelPublisher] = []
        self.links: dict[int, deque[bytes | Beacon]] = defaultdict(deque)
        self.answers: deque[tuple[StreamKey, Wanted, int, list[bytes] | SnapshotReply | None]] = deque()
        self.consumer = Consumer()
        self.last_known: dict[StreamKey, ModelStream] = {}

    def new_publisher(self, term: int, known: dict[StreamKey, ModelStream]) -> ModelPublisher:
        return ModelPublisher(0, term, lambda: next(self.ticks), known, instance=term, ring_bytes=2000)

    def source(self, *, stale: bool) -> ModelPublisher:
        return self.replaced[-1] if stale and self.replaced else self.active

    def link(self, source: ModelPublisher) -> deque[bytes | Beacon]:
        return self.links[source.term]

    def publish(self, source: ModelPublisher, key: StreamKey, numbers: list[int]) -> None:
        if key not in source.streams or not numbers:
            self.link(source).append(source.open(key))
        else:
            self.link(source).append(source.increment(key, numbers))

    def take_over(self, *, informed: bool) -> None:
        """A new publisher, which knows where the streams stand, or where they stood a while ago."""
        known = self.active.streams if informed else self.last_known
        self.last_known = {key: stream.copy() for key, stream in self.active.streams.items()}
        self.replaced.append(self.active)
        self.active = self.new_publisher(self.active.term + 1, known)

    def deliver(self, link: deque[bytes | Beacon]) -> None:
        if link:
            self.arrive(link.popleft())

    def arrive(self, item: bytes | Beacon) -> None:
        consumer = self.consumer
        if isinstance(item, Beacon):
            consumer.apply(*consumer.feed.beacon(item, consumer.now))
        else:
            consumer.apply(consumer.feed.frame(codec.unpack(item), consumer.now))

    def ask(self, source: ModelPublisher) -> None:
        consumer = self.consumer
        for key, wanted in consumer.wanted.items():
            answer: list[bytes] | SnapshotReply | None
            if wanted.rung == "retransmit" and wanted.after is not None:
                answer = source.retransmit(key, wanted.after)
            else:
                found = source.snapshot(key)
                answer = None if found is None else found[0]
            self.answers.append((key, wanted, consumer.feed.term, answer))
        consumer.wanted.clear()

    def answer(self) -> None:
        if not self.answers:
            return
        consumer, feed = self.consumer, self.consumer.feed
        key, _, term, answer = self.answers.popleft()
        if term != feed.term:
            return
        match answer:
            case None:
                consumer.apply(feed.unavailable(key, consumer.now))
            case SnapshotReply():
                position = Position(answer.epoch, answer.seq)
                consumer.apply(feed.based(key, position, answer.term, consumer.now))
            case frames:
                for frame in frames:
                    consumer.apply(feed.retransmitted(codec.unpack(frame), consumer.now))
                consumer.apply(feed.answered(key, consumer.now))

    def tick(self) -> None:
        self.consumer.now += SECOND
        self.consumer.apply(*self.consumer.feed.tick(self.consumer.now))


STREAMS = keys(1)
ACTIONS: st.SearchStrategy[tuple[str, bool, int, list[int]]] = st.tuples(
    st.sampled_from(
        [
            *("publish", "publish", "publish", "deliver", "deliver", "deliver", "deliver", "beacon", "ask", "answer"),
            *("lose", "duplicate", "reorder", "lose answer", "tick", "take over", "take over uninformed"),
        ]
    ),
    st.booleans(),
    st.integers(0, 1),
    st.lists(st.integers(0, 50), max_size=3),
)


def act(world: World, action: str, source: ModelPublisher, key: StreamKey, numbers: list[int]) -> None:
    link = world.link(source)
    match action:
        case "publish":
            world.publish(source, key, numbers)
        case "deliver":
            world.deliver(link)
        case "lose" if link:
            link.popleft()
        case "duplicate" if link:
            link.append(link[0])
        case "reorder":
            link.rotate(1)
        case "beacon":
            link.append(source.beacon())
        case "ask":
            world.ask(source)
        case "answer":
            world.answer()
        case "lose answer" if world.answers:
            world.answers.popleft()
        case "tick":
            world.tick()
        case "take over" | "take over uninformed":
            world.take_over(informed=action == "take over")
        case _:
            assert action in ("lose", "duplicate", "lose answer")


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_whatever_happens_the_history_is_gapless_and_ends_at_the_publishers(
    actions: list[tuple[str, bool, int, list[int]]],
) -> None:
    world = World()
    for action, stale, stream, numbers in actions:
        act(world, action, world.source(stale=stale), STREAMS[stream], numbers)
    for link in world.links.values():
        while link:
            world.deliver(link)
    for key in STREAMS:
        if key not in world.active.streams:
            world.publish(world.active, key, [])
    consumer = world.consumer
    for _ in range(12):
        world.arrive(world.active.beacon())
        world.ask(world.active)
        while world.answers:
            world.answer()
        world.tick()
    expected = {key: stream.position for key, stream in world.active.streams.items()}
    assert consumer.at == expected
    assert consumer.feed.gapped == 0
    for (key, position), message in consumer.accepted.items():
        if position.epoch == consumer.at[key].epoch:
            assert message == world.active.history[key, position]


def test_a_beacon_of_an_older_position_means_nothing() -> None:
    feed, source = Feed(0), publisher()
    take(feed, source.open(BOOK))
    take(feed, source.increment(BOOK, [1, 2]))
    epoch = source.streams[BOOK].position.epoch
    behind = Beacon(0, 3, 7, NO_INPUT, 0, True, [StreamPosition(*BOOK, epoch, 1)])
    assert feed.beacon(behind, 0) == []
