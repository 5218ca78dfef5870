"""Any interleaving of publishing, subscribing, answers, epochs, losses and slow sockets: every client's history holds.

Archives answer as they like: with a page, late, with holes, with what is void, or not at all. What is checked is in
`hub_world.Reader`: the client protocol's guarantees 1 to 4 and 6, message by message.
"""

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lfmesh.core import encode
from lfmesh.core.hub import Hub, HubLimits
from lfmesh.core.hub_archive import WantArchive
from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_history import Unit
from lfmesh.core.hub_joins import After, AfterSeq, Fresh, JoinLimits, Next, WantSnapshot
from lfmesh.core.hub_older import WantOlder
from lfmesh.types import Channel, Position, StreamKey
from tests.core.hub_world import LATEST_TRADES, TERM, FakeSink, Follow, Publisher, Reader

SECOND = 1_000_000_000
KEYS = (
    StreamKey("A-USD", Channel.TICKER),
    StreamKey("A-USD", Channel.TRADES),
    StreamKey("A-USD", Channel.BOOK),
    StreamKey("B-USD", Channel.TRADES),
)
keys = st.sampled_from(KEYS)
clients = st.integers(0, 2)
wishes = st.sampled_from((0, 0, 10, 30, 1000))


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = SECOND
        self.forks = 0
        self.publishers = {key: Publisher(key, big=key.channel is Channel.BOOK) for key in KEYS}
        self.consumed = dict.fromkeys(KEYS, 0)
        self.snapshots_asked: list[StreamKey] = []
        self.older_asked: list[tuple[StreamKey, Position]] = []
        self.archives_asked: list[tuple[StreamKey, Position]] = []
        self.archives = 0
        self.people: list[tuple[Client, FakeSink, Reader]] = []

    @initialize(
        ring=st.sampled_from((3_000, 20_000, 1_000_000)),
        tail=st.sampled_from((0, 1_000, 100_000)),
        archives=st.integers(0, 2),
        resume=st.sampled_from((5_000, 1_000_000)),
        soft=st.sampled_from((1_000, 6_000, 1_000_000)),
        pace=st.sampled_from((0.0, 0.0, 3.0)),
    )
    def begin(self, ring: int, tail: int, archives: int, resume: int, soft: int, pace: float) -> None:
        self.archives = archives
        limits = HubLimits(
            ring,
            0,
            1_000_000_000,
            soft_bytes=soft,
            soft_age_ns=2 * SECOND,
            client_messages_per_s=pace,
            client_bytes_per_s=pace * 300,
            stall_ns=10_000 * SECOND,
            joins=JoinLimits(
                tail, 10_000, 2 * SECOND, 20_000, trades=LATEST_TRADES, archive_bytes=20_000, resume_bytes=resume
            ),
        )
        self.hub = Hub(limits, lambda _: self.archives)
        for _ in range(3):
            reader = Reader(self.publishers)
            sink = FakeSink(reader)
            self.people.append((self.hub.connect(sink), sink, reader))

    # The publisher, and our own socket behind it ----------------------------------------------------------------

    @rule(key=keys, count=st.integers(1, 4))
    def publish(self, key: StreamKey, count: int) -> None:
        publisher = self.publishers[key]
        if publisher.epoch:
            publisher.publish(count)

    @rule(key=keys, skip=st.integers(0, 3))
    def open_epoch(self, key: StreamKey, skip: int) -> None:
        publisher = self.publishers[key]
        publisher.open(publisher.epoch + 10, skip if publisher.trade_id else 0)

    @rule(key=keys, count=st.integers(1, 6))
    def consume(self, key: StreamKey, count: int) -> None:
        """What the follower of the feed accepts, in order."""
        publisher, stream = self.publishers[key], self.hub.stream(key)
        for published in publisher.units[self.consumed[key] :][:count]:
            unit = published.unit
            if unit.snapshot:
                self.hub.opened(stream, published.end, TERM, published.messages, self.now)
            else:
                if stream.position is None:
                    self.hub.based(stream, Position(unit.epoch, unit.first_seq - 1), self.now)
                self.hub.increments(stream, published.end, published.messages, self.now)
            self.consumed[key] += 1

    @rule(key=keys, count=st.integers(1, 4), again=st.booleans())
    def flow(self, key: StreamKey, count: int, again: bool) -> None:
        """Data comes and is passed on at once."""
        if not self.publishers[key].epoch:
            self.open_epoch(key, 0)
        self.publish(key, count)
        self.consume(key, 1_000)
        if again:
            self.publish(key, count)
            self.consume(key, 1)
        self.flush()

    @rule(key=keys, count=st.integers(1, 3))
    def lose(self, key: StreamKey, count: int) -> None:
        """Units that never came and can't be retransmitted: a snapshot from elsewhere heals it."""
        publisher, stream = self.publishers[key], self.hub.stream(key)
        lost = publisher.units[self.consumed[key] :][:count]
        if not lost:
            return
        self.consumed[key] += len(lost)
        end = lost[-1].end
        if stream.position is None:
            self.hub.based(stream, end, self.now)
        else:
            self.hub.healed(stream, publisher.state(end), self.now)

    @rule(key=keys, count=st.integers(0, 4), passed_on=st.booleans())
    def void(self, key: StreamKey, count: int, passed_on: bool) -> None:
        """A replaced publisher went on in an epoch of its own; its successor, of a newer term, is in a lower one."""
        stream, publisher = self.hub.stream(key), self.publishers[key]
        if stream.position is None:
            return
        fork = publisher.fork()
        fork.epoch, fork.seq = stream.position
        known = publisher.at(stream.position)
        fork.trade_id, fork.trades = known.ids[stream.position], [*known.lists[stream.position]]
        opened = fork.open(publisher.epoch + 1_000_000 + self.forks)
        self.forks += 1
        self.hub.opened(stream, opened.end, TERM, opened.messages, self.now)
        if count:
            unit = fork.publish(count)
            self.hub.increments(stream, unit.end, unit.messages, self.now)
        if passed_on:
            self.hub.flush()
            self.pull(2)
        self.hub.voided(stream, TERM, self.now)
        self.hub.based(stream, publisher.units[self.consumed[key] - 1].end, self.now)

    @rule()
    def flush(self) -> None:
        self.hub.flush()
        self.take_wants()

    @rule(key=keys)
    def status(self, key: StreamKey) -> None:
        self.hub.status(self.hub.stream(key), encode.status(key.product, key.channel, "stale", 1, "quiet"))

    # Clients ----------------------------------------------------------------------------------------------------

    @rule(who=clients, key=keys, conflate_ms=wishes)
    def subscribe(self, who: int, key: StreamKey, conflate_ms: int) -> None:
        client, _, reader = self.people[who]
        self.settle_buffer(who)
        self.hub.flush()
        self.settle_buffer(who)
        reader.follow(key, "fresh", conflate_ms=conflate_ms)
        self.hub.subscribe(client, key, Fresh(), self.now, conflate_ms)
        self.take_wants()

    @rule(who=clients, key=keys, conflate_ms=wishes)
    def subscribe_without_snapshot(self, who: int, key: StreamKey, conflate_ms: int) -> None:
        client, _, reader = self.people[who]
        if key not in self.hub.subscriptions(client):
            self.settle_buffer(who)
            reader.follow(key, "next", conflate_ms=conflate_ms)
            self.hub.subscribe(client, key, Next(), self.now, conflate_ms)
            self.take_wants()

    @rule(who=clients, key=keys, back=st.integers(0, 30), bare=st.booleans(), conflate_ms=wishes)
    def resume(self, who: int, key: StreamKey, back: int, bare: bool, conflate_ms: int) -> None:
        """From any position that there ever was, also those that our own socket has not brought yet."""
        client, _, reader = self.people[who]
        publisher = self.publishers[key]
        positions = sorted(publisher.ids)
        if not positions:
            return
        at = positions[max(0, len(positions) - 1 - back)]
        if bare and at.epoch != publisher.epoch:
            return
        self.settle_buffer(who)
        self.hub.flush()
        self.settle_buffer(who)
        reader.follow(key, "after", at, publisher.ids[at], conflate_ms=conflate_ms)
        stream = self.hub.stream(key)
        honest = stream.position is not None and stream.position.epoch == at.epoch
        if bare and honest:
            self.hub.subscribe(client, key, AfterSeq(at.seq), self.now, conflate_ms)
        else:
            self.hub.subscribe(client, key, After(at), self.now, conflate_ms)
        self.take_wants()

    @rule(who=clients, key=keys)
    def unsubscribe(self, who: int, key: StreamKey) -> None:
        client, _, reader = self.people[who]
        if key in self.hub.subscriptions(client):
            self.hub.unsubscribe(client, key)
            self.settle_buffer(who)
            reader.leave(key)
            assert key not in self.hub.subscriptions(client)

    @rule(who=clients)
    def stall(self, who: int) -> None:
        client, sink, _ = self.people[who]
        if not client.paused:
            sink.stalled = True
            self.hub.paused(client, self.now)

    @rule(who=clients)
    def drain(self, who: int) -> None:
        client, sink, _ = self.people[who]
        if client.paused:
            sink.drain()
            self.hub.drained(client)

    @rule(who=clients)
    def reconnect(self, who: int) -> None:
        client, _, _ = self.people[who]
        self.hub.disconnect(client)
        reader = Reader(self.publishers)
        sink = FakeSink(reader)
        self.people[who] = (self.hub.connect(sink), sink, reader)

    @rule(times=st.integers(1, 3))
    def pull(self, times: int) -> None:
        for _ in range(times):
            self.hub.pull(self.now)
        self.take_wants()

    # Answers ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.snapshots_asked)
    @rule(lag=st.integers(0, 12), there=st.booleans())
    def answer_snapshot(self, lag: int, there: bool) -> None:
        """From a snapshotter that may be behind us, or ahead of us."""
        key = self.snapshots_asked.pop(0)
        publisher = self.publishers[key]
        positions = sorted(publisher.ids)
        if not positions or not there:
            self.hub.no_snapshot(key, self.now)
        else:
            self.hub.snapshot(key, publisher.state(positions[max(0, len(positions) - 1 - lag)]), self.now)

    @precondition(lambda self: self.older_asked)
    @rule(have=st.integers(0, 8), limit=st.integers(1, 5))
    def answer_older(self, have: int, limit: int) -> None:
        key, after = self.older_asked.pop(0)
        units = [published.unit for published in self.publishers[key].units if published.end > after][-have:]
        if not have:
            self.hub.no_older(key, self.now)
        elif not units:
            self.hub.unanswered_older(key, self.now)
        else:
            self.hub.older(key, units[:limit], len(units) > limit, self.now)
        self.take_wants()

    @precondition(lambda self: self.archives_asked)
    @rule(
        how=st.sampled_from(("page", "page", "page", "void", "healed", "late", "none", "busy", "silent")),
        lag=st.integers(0, 2),
        limit=st.integers(1, 6),
    )
    def answer_archive(self, how: str, lag: int, limit: int) -> None:
        """From an archive that is behind, or has lost the beginning, or tells also what a replaced publisher said."""
        key, after = self.archives_asked.pop(0)
        publisher = self.publishers[key]
        told = publisher.units[: len(publisher.units) - lag]
        if how == "void":
            told = [*told, *(one for fork in publisher.void for one in fork.units)]
            told.sort(key=lambda one: (one.unit.epoch, one.unit.first_seq))
        units = [one.unit for one in told if one.end > after]
        match how:
            case "none":
                self.hub.not_archived(key, "none", self.now)
            case "busy":
                self.hub.not_archived(key, "busy", self.now)
            case "silent":
                self.hub.not_archived(key, "silent", self.now)
            case "late":
                self.hub.archived(key, units[limit:], False, self.now)
            case "healed":
                self.hub.archived(key, self.with_a_hole(publisher, after, limit), False, self.now)
            case _:
                self.hub.archived(key, units[:limit], len(units) > limit, self.now)
        self.take_wants()

    @staticmethod
    def with_a_hole(publisher: Publisher, after: Position, count: int) -> list[Unit]:
        """What follows, but that a snapshot takes the place of some units."""
        lost = [one for one in publisher.units if one.end > after and not one.unit.snapshot][:count]
        if not lost or lost[-1].end.epoch != after.epoch:
            return []
        end = lost[-1].end
        return [publisher.healing(after, end), *(one.unit for one in publisher.units if one.end > end)]

    @rule(count=st.integers(0, 2))
    def archives_come_and_go(self, count: int) -> None:
        self.archives = count

    @rule(step=st.sampled_from((SECOND // 10, SECOND, 6 * SECOND)))
    def tick(self, step: int) -> None:
        self.now += step
        self.hub.tick(self.now)
        self.emit()

    @rule()
    def emit(self) -> None:
        self.hub.emit_at(self.now)
        self.hub.emit(self.now)
        self.take_wants()

    @invariant()
    def one_request_a_stream(self) -> None:
        assert len(set(self.snapshots_asked)) == len(self.snapshots_asked)
        assert len({key for key, _ in self.older_asked}) == len(self.older_asked)
        assert len({key for key, _ in self.archives_asked}) == len(self.archives_asked)

    # The end: everything arrives, everything is answered, everybody is live and whole ---------------------------

    def teardown(self) -> None:
        if not self.people:
            return
        for key in KEYS:
            self.consume(key, 1_000_000)
        for who in range(3):
            self.drain(who)
        for _ in range(200):
            self.tick(SECOND)
            self.answer_all()
            while self.hub.pull(self.now):
                pass
            if not any(client.joins for client, _, _ in self.people) and not self.take_wants():
                break
        self.hub.flush()
        self.tick(SECOND)
        older = self.hub._joins._older
        assert older.room.bytes == older.archive.room.bytes == 0
        for client, sink, reader in self.people:
            assert sink.closed is None
            for key in self.hub.subscriptions(client):
                self.check_end(key, reader.follows[key])

    def answer_all(self) -> None:
        asked, self.snapshots_asked = self.snapshots_asked, []
        for key in asked:
            publisher = self.publishers[key]
            if publisher.epoch:
                self.hub.snapshot(key, publisher.state(publisher.position), self.now)
            else:
                self.hub.no_snapshot(key, self.now)
        older, self.older_asked = self.older_asked, []
        for key, _ in older:
            self.hub.no_older(key, self.now)
        archived, self.archives_asked = self.archives_asked, []
        for key, _ in archived:
            self.hub.not_archived(key, "none", self.now)

    def check_end(self, key: StreamKey, follow: Follow) -> None:
        publisher = self.publishers[key]
        if not publisher.epoch:
            assert follow.position is None or follow.start == "after"
        elif follow.begun or follow.start != "next":
            assert follow.position == publisher.position, f"{key}: {follow} is not at {publisher.position}"
            if key.channel is Channel.TRADES and publisher.trade_id:
                assert follow.trade_id in (None, publisher.trade_id)

    # Inside -----------------------------------------------------------------------------------------------------

    def take_wants(self) -> bool:
        wants = self.hub.take_wants()
        for want in wants:
            match want:
                case WantSnapshot(key):
                    self.snapshots_asked.append(key)
                case WantOlder(key, after):
                    self.older_asked.append((key, after))
                case WantArchive(key, after):
                    self.archives_asked.append((key, after))
        return bool(wants)

    def settle_buffer(self, who: int) -> None:
        """What was sent before a change of subscription is read before it, as by a client that waits for the answer."""
        client, sink, reader = self.people[who]
        for data in (*sink.buffer, *client.pending):
            reader.take(data)
        sink.buffer = []
        self.hub._outboxes.bytes -= client.pending_bytes
        client.pending.clear()
        client.pending_bytes = 0


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def random_walk(seed: int, steps: int) -> None:
    """Long histories with the usual traffic in them, which drawing every step alike seldom finds."""
    draw = random.Random(seed)
    world = Interleavings()
    ring, tail = draw.choice((3_000, 8_000, 20_000, 1_000_000)), draw.choice((0, 1_000, 3_000, 100_000))
    soft, pace = draw.choice((1_000, 4_000, 1_000_000)), draw.choice((0.0, 0.0, 3.0, 20.0))
    world.begin(ring, tail, draw.randint(0, 2), draw.choice((5_000, 1_000_000)), soft, pace)
    wishes = draw.choice(((0,), (0, 10), (0, 100, 1000)))
    answers = ("page", "page", "page", "page", "void", "healed", "late", "none", "busy", "silent")
    busy = draw.sample(KEYS, draw.randint(1, 3))

    def key() -> StreamKey:
        return draw.choice(busy)

    def who() -> int:
        return draw.randrange(3)

    actions: list[tuple[int, Callable[[], object]]] = [
        (20, lambda: world.flow(key(), draw.randint(1, 4), draw.random() < 0.3)),
        (8, lambda: world.publish(key(), draw.randint(1, 3))),
        (12, lambda: world.consume(key(), draw.randint(1, 6))),
        (2, lambda: world.open_epoch(key(), draw.randint(0, 3))),
        (2, lambda: world.lose(key(), draw.randint(1, 3))),
        (1, lambda: world.void(key(), draw.randint(0, 4), draw.random() < 0.5)),
        (2, lambda: world.status(key())),
        (10, world.flush),
        (6, lambda: world.subscribe(who(), key(), draw.choice(wishes))),
        (1, lambda: world.subscribe_without_snapshot(who(), key(), draw.choice(wishes))),
        (6, lambda: world.resume(who(), key(), draw.randint(0, 12), draw.random() < 0.3, draw.choice(wishes))),
        (2, lambda: world.unsubscribe(who(), key())),
        (2, lambda: world.stall(who())),
        (5, lambda: world.drain(who())),
        (1, lambda: world.reconnect(who())),
        (15, lambda: world.pull(draw.randint(1, 3))),
        (12, lambda: world.snapshots_asked and world.answer_snapshot(draw.randint(0, 6), draw.random() < 0.9)),
        (8, lambda: world.older_asked and world.answer_older(draw.randint(0, 8), draw.randint(1, 5))),
        (
            12,
            lambda: (
                world.archives_asked
                and world.answer_archive(draw.choice(answers), draw.randint(0, 1), draw.randint(1, 5))
            ),
        ),
        (1, lambda: world.archives_come_and_go(draw.randint(0, 2))),
        (6, world.emit),
        (4, lambda: world.tick(draw.choice((SECOND // 10, SECOND, 6 * SECOND)))),
    ]
    weights = [weight for weight, _ in actions]
    for _ in range(steps):
        draw.choices(actions, weights)[0][1]()
        world.one_request_a_stream()
    world.teardown()


@pytest.mark.parametrize("seed", range(60))
def test_long_histories(seed: int) -> None:
    random_walk(seed, 400)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_many_long_histories(seed: int) -> None:
    random_walk(seed, 2000)
