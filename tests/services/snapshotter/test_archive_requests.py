"""Messages past every ring, and states as of a moment, from the archive."""

import asyncio
import shutil
import time
from pathlib import Path

from lfmesh.archive.reader import Archive
from lfmesh.archive.segments import NEW, Mark
from lfmesh.core import codec
from lfmesh.core.codec import Flags, MarketFrame
from lfmesh.core.feed import Feed
from lfmesh.core.recovery import Accepted, Opened
from lfmesh.messages import (
    Rejected,
    Reply,
    RetransmitRequest,
    SnapshotReply,
    SnapshotRequest,
    Unavailable,
    decode_reply,
    encode,
)
from lfmesh.services.snapshotter.archived import Archived, frames_of
from lfmesh.services.snapshotter.lookups import AT_ONCE
from lfmesh.types import Channel, Position, StreamKey
from tests.aio import eventually
from tests.archive.market import Market, Step
from tests.archive.shelf import VENUE, Shelf, snapshot, upload
from tests.services.snapshotter.mesh import BOOK, STREAMS, TICKER, Mesh, join, play
from tests.services.snapshotter.objects import FakeObjects
from tests.services.snapshotter.test_archive import load


def published(made: Mesh, key: StreamKey, after: Position) -> list[bytes]:
    found = {at: message for (stream, at), message in made.normalizer.model.history.items() if stream == key}
    return [found[at] for at in sorted(found) if at > after]


async def retransmitted(
    made: Mesh, key: StreamKey, after: Position, max_bytes: int = 0
) -> tuple[object, list[MarketFrame]]:
    reply, frames = await made.ask(RetransmitRequest(*key, *after, max_bytes))
    return reply, [codec.unpack(frame) for frame in frames]


def test_what_follows_a_position_comes_as_from_a_normalizer(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 40)
        opened = made.normalizer.model.streams[BOOK].position
        made.normalizer.open(BOOK)
        await load(made, 40)
        for after in (Position(opened.epoch, 0), Position(opened.epoch, 17), Position(opened.epoch, 3)):
            reply, frames = await retransmitted(made, BOOK, after)
            assert reply == Reply(more=False)
            messages = [message for one in frames if not one.header.flags & Flags.SNAPSHOT for message in one.messages]
            assert messages == published(made, BOOK, after)
            # A consumer that stands there takes them like the publisher's own.
            feed = Feed(0, join="snapshot")
            assert feed.restore(BOOK, after, 2)
            facts = [fact for one in frames for fact in feed.retransmitted(one, 0).facts]
            assert {type(fact) for fact in facts} == {Accepted, Opened}
            assert feed.position(BOOK) == made.normalizer.model.streams[BOOK].position
            assert not feed.in_gap(BOOK)
            assert {(one.header.term, one.header.instance) for one in frames} == {(3, made.normalizer.model.instance)}
        newest = made.normalizer.model.streams[BOOK].position
        assert await made.ask(RetransmitRequest(*BOOK, *newest)) == (Reply(), [])
        assert made.service.statistics().requests_total["archived"] == 4

    play(tmp_path, scenario)


def test_answers_come_in_pages_each_of_which_goes_on_from_the_last(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        for turn in range(100):
            made.normalizer.publish(BOOK, list(range(turn, turn + 100)))
        await made.follows(BOOK)
        await made.service._flush()
        at = start = Position(made.normalizer.model.streams[BOOK].position.epoch, 0)
        found: list[bytes] = []
        pages, more = 0, True
        while more:
            reply, frames = await retransmitted(made, BOOK, at, max_bytes=1024 * 1024)
            assert isinstance(reply, Reply)
            more = reply.more
            pages += 1
            for one in frames:
                assert len(one.messages) <= 256
                assert one.header.first_seq == at.seq + 1
                at = Position(one.header.epoch, at.seq + len(one.messages))
                found += one.messages
        assert pages >= 3
        assert found == published(made, BOOK, start)

    play(tmp_path, scenario)


def test_a_moment_in_a_hole_of_the_tape_is_left_to_who_has_it() -> None:
    """The one of a pair that was down does not pass off what it knew before as what held then."""
    market = Market(Channel.BOOK)
    market.play([Step("inc", 1000, 2 * number) for number in range(30)])
    start = market.records[0].time
    shelf = Shelf()
    for first, end in ((0, 10), (20, 31)):
        mark = Mark(market.records[first - 1].time, market.records[first - 1].position) if first else NEW
        upload(shelf, market.stream, market.entries[first:end], mark)
    archived = Archived(0, Archive(shelf, VENUE))

    def asked(seconds: int) -> object:
        answer = archived.state_at(SnapshotRequest(*market.stream, start + seconds * 1_000_000_000), 3)
        reply = decode_reply(answer.header)
        return reply.seq if isinstance(reply, SnapshotReply) else reply

    assert asked(8) == 8
    for seconds in (9, 15, 19):
        missing = asked(seconds)
        assert isinstance(missing, Unavailable)
        assert missing.reason.endswith("that moment is missing in this archive")
        assert not missing.later
    snapshot(shelf, [market.state_line(20)])
    assert [asked(seconds) for seconds in (20, 30)] == [20, 30]
    assert asked(3600) == 30, "nothing follows: the stream is quiet"


def test_what_is_not_all_there_is_unavailable_and_what_makes_no_sense_rejected(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 3)
        reply, _ = await retransmitted(made, BOOK, Position(5, 5))
        assert isinstance(reply, Unavailable)
        assert not reply.later
        now = time.time_ns()
        for request in (
            RetransmitRequest("XYZ-USD", BOOK.channel, 1, 1),
            SnapshotRequest("XYZ-USD", BOOK.channel, 5),
            SnapshotRequest(*BOOK, -5),
            SnapshotRequest(*BOOK, now + 3_600_000_000_000),
        ):
            reply, _ = await made.ask(request)
            assert isinstance(reply, Rejected), request
        reply, _ = await made.ask(SnapshotRequest(*BOOK, 1))
        assert isinstance(reply, SnapshotReply | Unavailable)

    play(tmp_path, scenario)


def test_the_oldest_that_there_is_does_not_hide_what_is_missing_before_it(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await load(made, 3)
        await made.service.stop()
        for name in ("journal", "spool", "checkpoint", "objects"):
            shutil.rmtree(tmp_path / name)
        hole = made.normalizer.model.streams[BOOK].position
        await made.start_again()
        await load(made, 3)
        for or_oldest in (False, True):
            reply, frames = await made.ask(RetransmitRequest(*BOOK, hole.epoch, 1, or_oldest=or_oldest))
            if not or_oldest:
                assert isinstance(reply, Unavailable)
                continue
            first, *rest = [codec.unpack(frame) for frame in frames]
            assert reply == Reply()
            assert first.header.flags & Flags.SNAPSHOT
            assert (first.header.first_seq, first.header.prev_epoch) == (hole.seq, 0)
            messages = [message for one in rest for message in one.messages]
            assert messages == published(made, BOOK, hole)

    play(tmp_path, scenario)


def test_the_state_as_of_a_moment(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        truth: dict[StreamKey, list[tuple[int, Position, str]]] = {key: [] for key in STREAMS}
        start = time.time_ns() - 3_600_000_000_000
        for turn in range(60):
            for key in STREAMS:
                moment = start + turn * 1_000_000
                made.normalizer.publish(key, [moment])
                stream = made.normalizer.model.streams[key]
                truth[key].append((moment, stream.position, stream.state(key.channel)))
            if turn == 30:
                for key in STREAMS:
                    await made.follows(key)
                await eventually(lambda: made.service.statistics().uploads_total)
        for key in STREAMS:
            await made.follows(key)
        await made.service._flush()
        for key, moments in truth.items():
            for moment, position, state in moments[::13]:
                reply, parts = await made.ask(SnapshotRequest(*key, moment))
                assert isinstance(reply, SnapshotReply)
                assert Position(reply.epoch, reply.seq) == position
                assert reply.ts_snapshot == moment
                assert join(key.channel, parts) == state
                reply, _ = await made.ask(SnapshotRequest(*key, moment + 999_999))
                assert isinstance(reply, SnapshotReply)
                assert reply.seq == position.seq

    play(tmp_path, scenario, {"segment_max_age_s": 1.0, "snapshot_interval_s": 1.0})


def test_more_than_so_many_at_once_are_told_to_come_again(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        objects = FakeObjects()
        made.open_archive = lambda: objects
        made.service = made.new_service()
        await made.start()
        made.open_all()
        await load(made, 3)
        objects.gate.clear()
        asker = made.asker
        assert asker is not None
        request = encode(RetransmitRequest(*TICKER, 5, 5))
        held = [asyncio.ensure_future(asker.request(request, timeout_s=20)) for _ in range(AT_ONCE)]
        await eventually(lambda: objects.waiting == AT_ONCE)
        assert await made.ask(RetransmitRequest(*BOOK, 5, 5)) == (Unavailable("busy", later=True), [])
        assert made.service.statistics().requests_total["busy"] == 1
        assert await made.snapshot(BOOK) is not None, "what is in memory is answered all the while"
        objects.gate.set()
        answers = await asyncio.gather(*held)
        assert all(isinstance(decode_reply(header), Unavailable) for header, *_ in answers)

    play(tmp_path, scenario)


def test_an_archive_that_cannot_be_read_now_is_to_be_asked_again(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        from lfmesh.errors import StoreUnavailable

        objects = FakeObjects()
        made.open_archive = lambda: objects
        made.service = made.new_service()
        await made.start()
        made.open_all()
        await load(made, 3)
        objects.fault = StoreUnavailable("connection refused")
        for request in (RetransmitRequest(*BOOK, 5, 5), SnapshotRequest(*BOOK, 1000)):
            reply, _ = await made.ask(request)
            assert reply == Unavailable("the archive can't be read: connection refused", later=True)

    play(tmp_path, scenario)


def test_requests_for_the_archive_where_none_is_kept(tmp_path: Path) -> None:
    async def scenario(made: Mesh) -> None:
        await made.start()
        made.open_all()
        await made.follows(BOOK)
        reply, _ = await made.ask(RetransmitRequest(*BOOK, 1, 1))
        assert reply == Rejected("a snapshotter does not answer RetransmitRequest")
        reply, _ = await made.ask(SnapshotRequest(*BOOK, 5))
        assert reply == Unavailable("no archive is kept here (archive.enabled)")

    play(tmp_path, scenario, {"enabled": False})


def test_frames_hold_no_more_than_a_normalizers() -> None:
    from lfmesh.archive.segments import Line
    from lfmesh.services.snapshotter.archived import Publisher

    lines = [Line(1, 7, 0, b"s" * 10, True, part, 2) for part in (1, 2)]
    lines += [Line(seq, 7, seq, b"x" * 2000) for seq in range(1, 400)]
    frames = [codec.unpack(frame) for frame in frames_of(0, BOOK, lines, Position(6, 9), Publisher(3, 4))]
    first, *rest = frames
    assert first.header.flags == Flags.SNAPSHOT
    assert (first.header.prev_epoch, first.header.prev_seq, len(first.messages)) == (6, 9, 2)
    assert rest[0].header.first_seq == 1
    assert sum(len(one.messages) for one in rest) == 399
    assert max(sum(map(len, one.messages)) for one in rest) < 260 * 1024
