"""What clients get of archives, by example and at random: in their order, once, and nobody held up for ever."""

import json
import random
from itertools import pairwise

import pytest

from lfmesh.core.hub import Hub, HubLimits
from lfmesh.core.hub_archive import BUSY_PATIENCE_NS, LAG_NS, SILENT_PATIENCE_NS, WantArchive
from lfmesh.core.hub_clients import Client
from lfmesh.core.hub_history import Unit
from lfmesh.core.hub_joins import After, JoinLimits, Want, WantSnapshot
from lfmesh.core.hub_older import WantOlder
from lfmesh.types import Channel, Position, StreamKey
from tests.core.hub_world import LATEST_TRADES, TERM, Publisher, Reader
from tests.core.test_hub import SECOND, Desk, E, Sink, content, positions

TICKER = StreamKey("A-USD", Channel.TICKER)
TRADES = StreamKey("A-USD", Channel.TRADES)
BOOK = StreamKey("A-USD", Channel.BOOK)


class Shelves(Desk):
    """A hub whose ring keeps little, with so many archives."""

    def __init__(self, archives: int = 1, *, ring: int = 2_500, resume: int = 1_000_000, room: int = 1_000_000) -> None:
        super().__init__()
        self.archives = archives
        joins = JoinLimits(
            100_000, 1_000_000, 2 * SECOND, trades=LATEST_TRADES, archive_bytes=room, resume_bytes=resume
        )
        self.hub = Hub(HubLimits(ring, 0, 1_000_000, joins=joins), lambda _: self.archives)

    def published(self, key: StreamKey, count: int = 20) -> list[bytes]:
        if key not in self.publishers:
            self.open(key)
        return [frame for _ in range(count) for frame in self.publish(key)]

    def units(self, key: StreamKey) -> list[Unit]:
        return [one.unit for one in self.publishers[key].units]

    def resume(self, key: StreamKey, position: Position, *, lost: bool = True) -> tuple[Client, Sink]:
        """Neither our ring nor (`lost`) the publisher's has what follows."""
        client, sink = self.client()
        self.hub.subscribe(client, key, After(position), self.now)
        if lost:
            assert self.hub.take_wants() == [WantOlder(key, position)]
            self.hub.no_older(key, self.now)
        return client, sink

    def wants(self) -> list[Want]:
        self.pull()
        return self.hub.take_wants()

    def later(self, ns: int) -> list[Want]:
        self.now += ns
        self.hub.tick(self.now)
        return self.wants()


def test_what_no_ring_has_comes_from_the_archive_page_by_page_and_then_live() -> None:
    desk = Shelves()
    frames, units = desk.published(TICKER), desk.units(TICKER)
    client, sink = desk.resume(TICKER, Position(E, 2))
    assert desk.wants() == [WantArchive(TICKER, Position(E, 2), 1)]
    desk.hub.archived(TICKER, units[3:8], True, desk.now)
    # Where an archive has more the publisher is not asked again; who answered well is asked on.
    assert desk.wants() == [WantArchive(TICKER, Position(E, 7), 1)]
    frames += desk.published(TICKER, 2)
    desk.hub.archived(TICKER, units[5:12], True, desk.now)
    assert desk.wants() == [WantArchive(TICKER, Position(E, 11), 1)]
    desk.hub.archived(TICKER, desk.units(TICKER)[12:], False, desk.now)
    assert desk.wants() == []
    assert client.live
    frames += desk.published(TICKER, 1)
    assert sink.take() == frames[2:]
    counters = desk.hub.archive_counters
    assert desk.hub.join_counters.resumes == {"ring": 0, "retransmission": 0, "archive": 1, "snapshot": 0}
    assert counters.outcomes == {"served": 3, "behind": 0, "late": 0, "none": 0, "busy": 0, "silent": 0}
    assert counters.bytes == sum(map(len, frames[2:22]))
    assert desk.hub._joins.archive.room.bytes == 0


def test_the_end_of_the_archive_is_linked_to_the_publisher_s_ring() -> None:
    desk = Shelves()
    frames, units = desk.published(TICKER), desk.units(TICKER)
    _, sink = desk.resume(TICKER, Position(E, 2))
    desk.wants()
    desk.hub.archived(TICKER, units[3:9], False, desk.now)
    assert desk.wants() == [WantOlder(TICKER, Position(E, 8))]
    desk.hub.older(TICKER, units[7:], False, desk.now)
    desk.pull()
    assert sink.take() == frames[2:]


def test_where_the_archive_is_a_little_behind_it_is_asked_again() -> None:
    desk = Shelves()
    frames, units = desk.published(TICKER), desk.units(TICKER)
    _, sink = desk.resume(TICKER, Position(E, 8))
    asked = desk.wants()
    for _ in range(3):
        assert [want.after for want in asked if isinstance(want, WantArchive)] == [Position(E, 8)]
        desk.hub.archived(TICKER, (), False, desk.now)
        assert desk.wants() == []
        asked = desk.later(SECOND // 10)
    desk.hub.archived(TICKER, units[9:], False, desk.now)
    desk.pull()
    assert sink.take() == frames[8:]
    assert desk.hub.archive_counters.behind == 3


def test_and_given_up_if_it_stays_so() -> None:
    desk = Shelves()
    desk.published(TICKER)
    desk.resume(TICKER, Position(E, 8))
    desk.wants()
    desk.hub.archived(TICKER, (), False, desk.now)
    desk.later(LAG_NS)
    desk.hub.archived(TICKER, (), False, desk.now)
    assert desk.wants() == [WantSnapshot(TICKER, 1)]


def test_one_answer_serves_all_who_wait_and_live_messages_go_on_meanwhile() -> None:
    desk = Shelves()
    desk.published(TICKER)
    people = [
        desk.resume(TICKER, Position(E, 4)),
        *(desk.resume(TICKER, Position(E, seq), lost=False) for seq in (5, 3)),
    ]
    _, live = desk.client(TICKER)
    assert desk.hub.take_wants() == [WantArchive(TICKER, Position(E, 4), 1), WantOlder(TICKER, Position(E, 5))]
    desk.hub.no_older(TICKER, desk.now)
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E, 3))]
    desk.hub.no_older(TICKER, desk.now)
    desk.hub.archived(TICKER, desk.units(TICKER)[5:], False, desk.now)
    (frame,) = desk.publish(TICKER)
    assert live.take() == [frame]
    assert desk.wants() == [WantArchive(TICKER, Position(E, 3), 1)]
    desk.hub.archived(TICKER, desk.units(TICKER)[4:], False, desk.now)
    desk.pull()
    assert [len(sink.take()) for _, sink in people] == [17, 16, 18]
    assert desk.hub.join_counters.resumes["archive"] == 3


def test_epochs_come_in_their_order() -> None:
    desk = Shelves()
    frames = desk.published(TICKER, 3)
    for epoch in (E + 4, E + 9):
        desk.open(TICKER, epoch)
        frames += [*desk.publishers[TICKER].units[-1].unit.frames, *desk.published(TICKER, 8)]
    _, sink = desk.resume(TICKER, Position(E, 1))
    desk.wants()
    desk.hub.archived(TICKER, desk.units(TICKER), False, desk.now)
    desk.pull()
    came = sink.take()
    assert came == frames[1:]
    assert [place for place in positions(came) if place[0] == "snapshot"] == [
        ("snapshot", E + 4, 0),
        ("snapshot", E + 9, 0),
    ]


# Who is asked ---------------------------------------------------------------------------------------------------------


def test_the_other_one_is_asked_too_and_only_when_both_have_not_got_it_there_is_a_snapshot() -> None:
    desk = Shelves(archives=2)
    desk.published(TICKER)
    desk.resume(TICKER, Position(E, 2))
    assert desk.wants() == [WantArchive(TICKER, Position(E, 2), 1)]
    desk.hub.not_archived(TICKER, "none", desk.now)
    assert desk.wants() == [WantArchive(TICKER, Position(E, 2), 2)]
    desk.hub.not_archived(TICKER, "none", desk.now)
    assert desk.wants() == [WantSnapshot(TICKER, 1)]
    assert desk.hub.join_counters.resumes["snapshot"] == 1


@pytest.mark.parametrize(("how", "patience"), [("busy", BUSY_PATIENCE_NS), ("silent", SILENT_PATIENCE_NS)])
def test_who_is_busy_or_silent_is_asked_in_turn_with_the_others_and_not_for_ever(how: str, patience: int) -> None:
    desk = Shelves(archives=2)
    desk.published(TICKER)
    desk.resume(TICKER, Position(E, 2))
    wants, asked, began = desk.wants(), [], desk.now
    while not any(isinstance(want, WantSnapshot) for want in wants):
        for want in wants:
            assert isinstance(want, WantArchive)
            asked.append((desk.now, want.attempt))
            if how == "busy":
                desk.hub.not_archived(TICKER, "busy", desk.now)
            else:
                desk.hub.not_archived(TICKER, "silent", desk.now)
        wants = desk.later(SECOND // 10)
        assert desk.now - began < 2 * patience
    assert [attempt for _, attempt in asked] == [*range(1, len(asked) + 1)]
    pauses = [after - before for (before, _), (after, _) in pairwise(asked)]
    assert pauses[:3] == [SECOND // 10, 2 * SECOND // 10, 4 * SECOND // 10]
    assert max(pauses) <= SECOND
    assert desk.now - began >= patience


def test_nobody_waits_for_archives_that_are_gone() -> None:
    desk = Shelves()
    desk.published(TICKER)
    desk.resume(TICKER, Position(E, 2))
    desk.wants()
    desk.archives = 0
    desk.hub.not_archived(TICKER, "silent", desk.now)
    assert desk.wants() == [WantSnapshot(TICKER, 1)]


@pytest.mark.parametrize("desk", [Shelves(archives=0), Shelves(resume=0)], ids=["none known", "switched off"])
def test_without_archives_none_is_asked(desk: Shelves) -> None:
    desk.published(TICKER)
    desk.resume(TICKER, Position(E, 2))
    assert desk.wants() == [WantSnapshot(TICKER, 1)]


def test_what_one_client_asks_in_vain_says_nothing_of_what_another_wants() -> None:
    desk = Shelves(archives=0)
    frames, units = desk.published(TICKER), desk.units(TICKER)
    _, lost = desk.resume(TICKER, Position(E - 3, 1), lost=False)
    _, sink = desk.resume(TICKER, Position(E, 4), lost=False)
    assert desk.hub.take_wants() == [WantOlder(TICKER, Position(E - 3, 1))]
    desk.hub.no_older(TICKER, desk.now)
    assert desk.hub.take_wants() == [WantSnapshot(TICKER, 1), WantOlder(TICKER, Position(E, 4))]
    desk.hub.older(TICKER, units[5:], False, desk.now)
    desk.pull()
    assert sink.take() == frames[4:]
    assert lost.take() == []


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_a_subscription_gets_only_so_much_of_archives() -> None:
    desk = Shelves(resume=1_500)
    frames, units = desk.published(TICKER), desk.units(TICKER)
    _, sink = desk.resume(TICKER, Position(E, 2))
    desk.wants()
    desk.hub.archived(TICKER, units[3:6], True, desk.now)
    assert desk.wants() == [WantArchive(TICKER, Position(E, 5), 1)]
    desk.hub.archived(TICKER, units[6:9], True, desk.now)
    assert desk.wants() == [WantOlder(TICKER, Position(E, 8))]
    desk.hub.no_older(TICKER, desk.now)
    assert desk.wants() == [WantSnapshot(TICKER, 1)]
    desk.hub.snapshot(TICKER, desk.state(TICKER), desk.now)
    desk.pull()
    *first, snapshot = sink.take()
    assert first == frames[2:8]
    assert b'"reason":"gap"' in snapshot


def test_what_answers_keep_alive_is_bounded_for_all_together() -> None:
    desk = Shelves(room=500)
    frames, units = desk.published(TICKER), desk.units(TICKER)
    client, sink = desk.resume(TICKER, Position(E, 2))
    desk.wants()
    desk.hub.paused(client, desk.now)
    desk.hub.archived(TICKER, units[3:6], True, desk.now)
    assert desk.hub._joins.archive.room.bytes == sum(map(len, frames[2:5]))
    desk.resume(TICKER, Position(E, 3))
    assert desk.later(SECOND) == [], "no room"
    desk.hub.drained(client)
    assert desk.wants() == [WantArchive(TICKER, Position(E, 3), 1)]
    assert desk.hub._joins.archive.room.bytes == 0
    assert sink.take() == frames[2:5]


def test_where_there_is_no_room_for_long_it_has_to_do_without() -> None:
    desk = Shelves(room=500)
    desk.published(TICKER)
    client, _ = desk.resume(TICKER, Position(E, 2))
    desk.wants()
    desk.hub.paused(client, desk.now)
    desk.hub.archived(TICKER, desk.units(TICKER)[3:6], True, desk.now)
    desk.resume(TICKER, Position(E, 3))
    assert desk.later(11 * SECOND) == [WantSnapshot(TICKER, 1)]


# Trades ---------------------------------------------------------------------------------------------------------------


def late(desk: Shelves, publisher: int, *archives: int) -> list[bytes]:
    """A resume after the second trade, where everybody's first units are these; what came of it."""
    units = desk.units(TRADES)
    _, sink = desk.resume(TRADES, Position(E, 2), lost=False)
    archived = [iter((units[first:], units[first:])) for first in archives]
    wants = desk.wants()
    while wants:
        (want,) = wants
        match want:
            case WantOlder():
                desk.hub.older(TRADES, units[publisher:], False, desk.now)
            case WantArchive():
                desk.hub.archived(TRADES, next(archived[(want.attempt - 1) % len(archived)]), False, desk.now)
            case WantSnapshot():
                raise AssertionError("nobody needs a state")
        assert want.after == Position(E, 2)
        wants = desk.wants()
    return sink.take()


@pytest.mark.parametrize(
    ("publisher", "archives", "first"),
    [(12, (6, 9), 6), (12, (9, 6), 6), (12, (7,), 7), (6, (9, 12), 6), (6, (6,), 6)],
)
def test_where_all_have_lost_the_first_trades_they_begin_with_the_oldest_that_anybody_has(
    publisher: int, archives: tuple[int, ...], first: int
) -> None:
    desk = Shelves(archives=len(archives), ring=4_000)
    frames = desk.published(TRADES, 30)
    snapshot, *rest = late(desk, publisher, *archives)
    listed = list(range(first, first + LATEST_TRADES))
    assert content(snapshot) == ("resume_failed", Position(E, listed[-1]), listed, (3, first - 1))
    assert rest == frames[listed[-1] :]


@pytest.mark.parametrize("key", [TICKER, TRADES])
def test_over_what_was_lost_for_good_it_goes_by_the_snapshot_that_took_its_place(key: StreamKey) -> None:
    """And what of the trades that costs this client is declared."""
    desk = Shelves()
    frames, units = desk.published(key), desk.units(key)
    healing = desk.publishers[key].healing(Position(E, 4), Position(E, 14))
    archived = [*units[:5], healing, *units[15:]]
    _, sink = desk.resume(key, Position(E, 2))
    wants = desk.wants()
    for begin in (3, 5, 5):  # up to the hole; the hole is met; nobody has it, so that it has to be gone over
        assert [type(want) for want in wants] == [WantArchive]
        desk.hub.archived(key, archived[begin:], False, desk.now)
        wants = desk.wants()
        if wants and isinstance(wants[0], WantOlder):
            desk.hub.no_older(key, desk.now)
            wants = desk.wants()
    assert wants == []
    first, second, snapshot, *rest = sink.take()
    assert [first, second, *rest] == [*frames[2:4], *frames[14:]]
    if key is TRADES:
        assert content(snapshot) == ("gap", Position(E, 14), [10, 11, 12, 13, 14], (5, 9))
    else:
        assert positions([snapshot]) == [("snapshot", E, 14)]


def test_of_an_epoch_that_only_the_archive_knows_it_is_known_which_trades_a_client_has() -> None:
    desk = Shelves()
    desk.publishers[TRADES] = publisher = Publisher(TRADES)
    publisher.trade_id = 70
    for epoch in (E - 5, E):
        opened = publisher.open(epoch)
        for _ in range(8):
            publisher.publish(1)
    desk.hub.opened(desk.hub.stream(TRADES), opened.end, TERM, opened.messages, desk.now)
    for one in publisher.units[-8:]:
        desk.hub.increments(desk.hub.stream(TRADES), one.end, one.messages, desk.now)
    units = desk.units(TRADES)
    _, sink = desk.resume(TRADES, Position(E - 5, 2))
    desk.wants()
    desk.hub.archived(TRADES, units[3:6], False, desk.now)  # then its tape has a hole
    desk.wants()
    desk.hub.no_older(TRADES, desk.now)
    desk.wants()
    desk.hub.not_archived(TRADES, "none", desk.now)
    desk.wants()
    desk.hub.snapshot(TRADES, desk.state(TRADES), desk.now)
    desk.pull()
    *came, snapshot = sink.take()
    assert [json.loads(frame[4:])["data"]["fields"]["trade_id"] for frame in came] == [73, 74, 75]
    assert content(snapshot) == ("gap", Position(E, 8), [82, 83, 84, 85, 86], (76, 81))


def test_what_a_replaced_publisher_said_is_not_gone_into() -> None:
    """The archive has its epoch, too. It repeats trades that its successor's epoch had; another one follows that."""
    desk = Shelves(ring=1_500)
    frames, publisher = desk.published(TRADES, 3), desk.publishers[TRADES]
    fork = publisher.fork()
    void = [fork.open(E + 50), fork.publish(4)]
    frames += desk.published(TRADES, 9)
    published = publisher.open(E + 90)
    desk.hub.opened(desk.hub.stream(TRADES), published.end, TERM, published.messages, desk.now)
    frames += [*published.unit.frames, *desk.published(TRADES, 9)]
    archived = sorted([*desk.units(TRADES), *(one.unit for one in void)], key=lambda unit: unit[:2])
    _, sink = desk.resume(TRADES, Position(E, 2))
    reader = Reader(desk.publishers)
    reader.follow(TRADES, "after", Position(E, 2), 2)
    desk.wants()
    desk.hub.archived(TRADES, archived, False, desk.now)
    desk.wants()
    desk.hub.older(TRADES, desk.units(TRADES), False, desk.now)
    desk.pull()
    assert sink.take() == frames[2:]


# At random ------------------------------------------------------------------------------------------------------------


class Flow:
    """Small rings, two archives that are behind, and clients that resume from anywhere while everything flows."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self.desk = desk = Shelves(archives=2, ring=draw.choice((2_500, 5_000)), room=draw.choice((1_000, 100_000)))
        self.keys = (TICKER, TRADES, BOOK)
        for key in self.keys:
            desk.published(key, draw.randint(20, 60))
        self.behind = dict.fromkeys(self.keys, 0)
        self.asked: list[Want] = []
        self.people: list[tuple[StreamKey, Client, Sink, Reader]] = []
        for _ in range(6):
            key = draw.choice(self.keys)
            publisher = desk.publishers[key]
            start = draw.choice(sorted(publisher.ids))
            reader = Reader(desk.publishers)
            reader.follow(key, "after", start, publisher.ids[start])
            self.people.append((key, *desk.resume(key, start, lost=False), reader))

    def publish(self) -> None:
        desk, key = self.desk, self.draw.choice(self.keys)
        self.behind[key] = self.draw.choice((0, 0, 1))
        if self.draw.random() < 0.1:
            desk.open(key, desk.publishers[key].epoch + 3)
        desk.publish(key, self.draw.randint(1, 3))

    def pull(self) -> None:
        self.desk.hub.pull(self.desk.now)

    def tick(self) -> None:
        self.desk.now += SECOND // 10
        self.desk.hub.tick(self.desk.now)

    def stall(self) -> None:
        _, client, _, _ = self.draw.choice(self.people)
        if client.paused:
            self.desk.hub.drained(client)
        else:
            self.desk.hub.paused(client, self.desk.now)

    def answer(self) -> None:
        if not self.asked:
            return
        hub, now = self.desk.hub, self.desk.now
        want = self.asked.pop(self.draw.randrange(len(self.asked)))
        match want:
            case WantOlder(key, after):
                kept = self.desk.units(key)[-4:]
                if kept[0].epoch == after.epoch and kept[0].first_seq <= after.seq + 1:
                    hub.older(key, kept, False, now)
                else:
                    hub.no_older(key, now)
            case WantArchive(key, after) if self.draw.random() < 0.9:
                units = [one.unit for one in self.desk.publishers[key].units if one.end > after]
                units = units[: max(0, len(units) - self.behind[key])]
                limit = self.draw.randint(1, 8)
                hub.archived(key, units[:limit], len(units) > limit, now)
            case WantArchive(key):
                hub.not_archived(key, "busy", now)
            case WantSnapshot():
                raise AssertionError("nobody needs a state")

    def run(self) -> None:
        for _ in range(250):
            self.draw.choice((self.publish, self.pull, self.tick, self.stall, self.answer))()
            self.asked += self.desk.hub.take_wants()
        self.behind = dict.fromkeys(self.keys, 0)
        for _, client, _, _ in self.people:
            if client.paused:
                self.desk.hub.drained(client)
        for _ in range(2_000):
            self.tick()
            self.asked += self.desk.wants()
            self.answer()
            if not any(client.joins for _, client, _, _ in self.people):
                break

    def check(self) -> None:
        for key, client, sink, reader in self.people:
            for frame in sink.take():
                reader.take(frame)
            assert not client.joins
            assert reader.follows[key].position == self.desk.publishers[key].position
            assert set(reader.snapshots.get(key, ())) <= {"epoch"}
        assert self.desk.hub.join_counters.resumes["archive"] > 0
        assert self.desk.hub.join_counters.resumes["snapshot"] == 0
        assert self.desk.hub._joins.archive.room.bytes == 0


def resume_while_it_flows(seed: int) -> None:
    """Every client gets each message once, and no snapshot but those that opened epochs."""
    flow = Flow(seed)
    flow.run()
    flow.check()


@pytest.mark.parametrize("seed", range(40))
def test_a_resume_ends_at_the_live_position_without_hole_or_duplicate(seed: int) -> None:
    resume_while_it_flows(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 2000))
def test_and_so_do_many(seed: int) -> None:
    resume_while_it_flows(seed)
