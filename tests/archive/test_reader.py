"""The archive read: what there is, what follows a position, and what moves on while it is read."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lfmesh.archive.cutter import Cutter, Pace
from lfmesh.archive.journal import Entry, Journal, chunk_path
from lfmesh.archive.places import journal_folder, spool_folder
from lfmesh.archive.reader import Archive
from lfmesh.archive.segments import Line, Mark
from lfmesh.archive.spool import Spool
from lfmesh.archive.uploader import Uploader
from lfmesh.core.archive import is_snapshot
from lfmesh.errors import BadArchive
from lfmesh.ports import StoredObject
from lfmesh.types import Channel, Position, StreamKey
from tests.archive import published
from tests.archive.market import Market, Step
from tests.archive.published import BTC, NOW, SECOND, increments, opening
from tests.archive.shelf import VENUE, Shelf, cut, journal, spool, upload

MAX = 1 << 30


def seqs(lines: Iterator[Line] | list[Line]) -> list[int]:
    return [line.seq for line in lines]


def following(archive: Archive, position: Position, max_bytes: int = MAX) -> list[tuple[int, int]] | None:
    pages = archive.after(BTC, position, max_bytes)
    return None if pages is None else [(line.epoch, line.seq) for page in pages for line in page]


def test_what_there_is(tmp_path: Path) -> None:
    shelf = Shelf()
    archive = Archive(shelf, VENUE, [journal_folder(tmp_path, "a"), spool_folder(tmp_path, "a")])
    assert archive.products() == []
    assert archive.channels("BTC-USD") == []
    assert archive.bounds(BTC) is None
    assert list(archive.lines(BTC)) == []
    book, ticker = StreamKey("ETH-USD", Channel.BOOK), StreamKey("ETH-USD", Channel.TICKER)
    (name,) = upload(shelf, BTC, [increments(BTC, Position(1, 1), 3)])
    spool(tmp_path, book, [increments(book, Position(1, 1), 3)], instance="a")
    journal(tmp_path, [increments(ticker, Position(1, 1 + n), 1, NOW + n) for n in range(3)], "a")
    assert archive.products() == ["BTC-USD", "ETH-USD"]
    assert archive.channels("ETH-USD") == [Channel.TICKER, Channel.BOOK]
    assert archive.streams() == [BTC, book, ticker]
    assert archive.segments(BTC) == [name]
    assert archive.segments(BTC, name.last_ts + 1) == archive.segments(BTC, None, name.first_ts - 1) == []
    assert archive.segments(book)[0].stream == book
    assert archive.bounds(ticker) == (NOW, NOW + 2)
    assert archive.size(BTC) == 3
    assert Archive(shelf, "other").products() == []


def test_what_follows_a_position_is_all_there_or_nothing(tmp_path: Path) -> None:
    shelf = Shelf()
    upload(shelf, BTC, [opening(BTC, Position(1, 0), ts_event=NOW), increments(BTC, Position(1, 1), 5, NOW)])
    upload(shelf, BTC, [increments(BTC, Position(1, 6), 5, NOW + SECOND)])
    journal(tmp_path, [increments(BTC, Position(1, 11), 2, NOW + 2 * SECOND)])
    archive = Archive(shelf, VENUE, [journal_folder(tmp_path, "snapshotter-0")])
    assert following(archive, Position(1, 3)) == [(1, seq) for seq in range(4, 13)]
    assert following(archive, Position(1, 5)) == [(1, seq) for seq in range(6, 13)]
    assert following(archive, Position(1, 12)) == []
    assert following(archive, Position(1, 13)) is None
    assert following(archive, Position(2, 0)) is None


def test_epochs_that_began_later_follow_if_it_is_known_that_nothing_is_between() -> None:
    shelf = Shelf()
    upload(shelf, BTC, [opening(BTC, Position(1, 0), ts_event=NOW), increments(BTC, Position(1, 1), 5, NOW)])
    second = [
        opening(BTC, Position(2, 0), parts=3, previous=Position(1, 5)),
        increments(BTC, Position(2, 1), 2, NOW + SECOND),
    ]
    upload(shelf, BTC, second, Mark(NOW, Position(1, 5)))
    archive = Archive(shelf, VENUE)
    assert following(archive, Position(1, 4)) == [(1, 5), (2, 0), (2, 0), (2, 0), (2, 1), (2, 2)]
    third = [opening(BTC, Position(3, 0), previous=Position(2, 9), ts_event=NOW + 3 * SECOND)]
    upload(shelf, BTC, third)
    assert following(archive, Position(1, 4)) is None  # 2/3 to 2/9 are not there


@pytest.mark.parametrize("previous", [Position(1, 3), Position(0, 0)])
def test_a_snapshot_in_the_place_of_lost_messages_is_no_continuation(previous: Position) -> None:
    shelf = Shelf()
    upload(shelf, BTC, [opening(BTC, Position(1, 0), ts_event=NOW), increments(BTC, Position(1, 1), 3, NOW)])
    hole = [opening(BTC, Position(1, 4), previous=previous), increments(BTC, Position(1, 5), 3, NOW + SECOND)]
    upload(shelf, BTC, hole, Mark(NOW + 1, Position(1, 3)))
    archive = Archive(shelf, VENUE)
    after = following(archive, Position(1, 2))
    assert after == (None if previous != (0, 0) else [(1, 3)])  # a name that tells nothing: it ends before the hole
    assert following(archive, Position(1, 5)) == [(1, 6), (1, 7)]
    lines = list(archive.lines(BTC))
    assert seqs(lines) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [line.snapshot for line in lines] == [is_snapshot(line.message) for line in lines]


def test_pages_are_bounded_and_ask_again_from_the_last_position() -> None:
    shelf = Shelf()
    entries = [opening(BTC, Position(1, 0), ts_event=NOW)]
    entries += [increments(BTC, Position(1, 1 + 100 * n), 100, NOW + n * SECOND, pad="x" * 10_000) for n in range(5)]
    upload(shelf, BTC, entries, max_bytes=MAX)
    archive = Archive(shelf, VENUE)
    pages = archive.after(BTC, Position(1, 0), 3 << 20)
    assert pages is not None
    found = list(pages)
    sizes = [sum(len(line.message) for line in page) for page in found]
    assert len(sizes) == 3
    assert max(sizes) < (1 << 20) + 11_000
    came = seqs([line for page in found for line in page])
    rest = following(archive, Position(1, came[-1]))
    assert rest is not None
    assert came + [seq for _, seq in rest] == list(range(1, 501))


def test_a_damaged_segment_is_told() -> None:
    shelf = Shelf()
    (name,) = upload(shelf, BTC, [increments(BTC, Position(1, 1), 3)])
    shelf.objects[name.key] += b"x"
    with pytest.raises(BadArchive, match="checksum"):
        list(Archive(shelf, VENUE).lines(BTC))


# While it moves ------------------------------------------------------------------------------------------------------


class Moving(Shelf):
    """Something happens when a key is got or a prefix listed for the n-th time."""

    def __init__(self) -> None:
        super().__init__()
        self.at_get: dict[int, Callable[[], object]] = {}
        self.at_list: dict[int, Callable[[], object]] = {}
        self._lists = 0

    def get(self, key: str) -> bytes:
        self.at_get.get(len(self.taken), lambda: None)()
        return super().get(key)

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        self.at_list.get(self._lists, lambda: None)()
        self._lists += 1
        return super().list(prefix, after)


@pytest.fixture
def market() -> Market:
    market = Market(Channel.TRADES)
    market.play([Step("inc", 1000, 2 * pick) for pick in range(30)])
    return market


def chunks(market: Market) -> list[tuple[list[Entry], Mark]]:
    """Ten messages each, and where the stream stood before."""
    marks = [Mark(record.time, record.position) for record in market.records]
    return [(market.entries[at : at + 10], marks[at - 1] if at else Mark()) for at in range(0, 31, 10)]


def test_what_is_cut_and_uploaded_while_it_is_read_is_read_to_its_end(tmp_path: Path, market: Market) -> None:
    """Journal to spool, and spool to store, each between two spans that are read."""
    (first, mark0), (second, mark1), (third, mark2), (rest, mark3) = chunks(market)
    shelf = Moving()
    upload(shelf, market.stream, first, mark0)
    waiting = spool(tmp_path, market.stream, second, mark1)
    kept = journal(tmp_path, third)
    journal(tmp_path, rest)
    archive = Archive(shelf, VENUE, [kept, waiting])

    def move() -> None:
        """The cutter, and then the uploader, are at work."""
        upload(shelf, market.stream, second, mark1)
        shutil.rmtree(waiting)
        spool(tmp_path, market.stream, third, mark2)
        chunk_path(kept, 1).unlink()

    lines = archive.lines(market.stream)
    shelf.at_get[0] = move  # everything is listed, and the first segment about to be read
    assert [line.message for line in lines] == [message for entry in market.entries for message in entry.messages]
    assert mark3.position.seq == 29


def test_what_is_deleted_while_it_is_read_leaves_a_hole_and_no_error(market: Market) -> None:
    shelf = Moving()
    names = [name for entries, mark in chunks(market) for name in upload(shelf, market.stream, entries, mark)]
    shelf.at_get[1] = lambda: shelf.delete([names[1].key, names[2].key])
    assert seqs(Archive(shelf, VENUE).lines(market.stream)) == [*range(10), 30]


def test_what_is_uploaded_between_two_listings_is_found(tmp_path: Path, market: Market) -> None:
    """A spool is listed before the store: what leaves it meanwhile is there."""
    (first, mark0), (second, mark1), *_ = chunks(market)
    shelf = Moving()
    upload(shelf, market.stream, first, mark0)
    waiting = spool(tmp_path, market.stream, second, mark1)

    def upload_all() -> None:
        upload(shelf, market.stream, second, mark1)
        shutil.rmtree(waiting)

    shelf.at_list[0] = upload_all
    assert seqs(Archive(shelf, VENUE, [waiting]).lines(market.stream)) == list(range(20))


def test_a_state_is_found_while_things_move(tmp_path: Path, market: Market) -> None:
    (first, mark0), (second, mark1), *_ = chunks(market)
    shelf = Moving()
    names = upload(shelf, market.stream, first, mark0)
    waiting = spool(tmp_path, market.stream, second, mark1)
    archive = Archive(shelf, VENUE, [waiting])

    def recut() -> None:
        """Another writer's segments take the place of these."""
        shelf.delete([name.key for name in names])
        upload(shelf, market.stream, [*first, *second], mark0)
        shutil.rmtree(waiting)

    shelf.at_get[0] = recut
    state = archive.state_at(market.stream, market.records[15].time)
    assert state is not None
    assert state.position == market.records[15].position


def test_a_store_that_lists_what_it_never_has_is_an_error_and_no_endless_loop() -> None:
    shelf = Moving()
    (name,) = cut(BTC, [opening(BTC, Position(1, 0), ts_event=NOW)])
    lying = Shelf()
    lying.objects[name.key] = b""
    shelf.list = lying.list  # type: ignore[method-assign] # the port's other methods are real
    with pytest.raises(BadArchive, match="never there"):
        list(Archive(shelf, VENUE).lines(BTC))
    with pytest.raises(BadArchive, match="never there"):
        Archive(shelf, VENUE).state_at(BTC, NOW)


def test_a_journal_is_read_while_it_is_written(tmp_path: Path) -> None:
    folder = journal_folder(tmp_path, "a")
    writer = Journal(folder, chunk_bytes=2000)
    archive = Archive(Shelf(), VENUE, [folder])
    came = 0
    for seq in range(1, 60):
        writer.append(BTC, published.frame(increments(BTC, Position(1, seq), 1, NOW + seq)))
        if seq % 7 == 0:
            writer.flush()
            came = seq
        assert seqs(archive.lines(BTC)) == list(range(1, came + 1))
    with chunk_path(folder, writer.chunks()[-1] + 1).open("ab") as file:
        file.write(b"\xf5rc\xa7\xff\xff")  # a record that is being written
    assert seqs(archive.lines(BTC)) == list(range(1, came + 1))
    writer.close()


def test_any_number_of_threads_may_read_while_it_is_written(tmp_path: Path) -> None:
    folder = journal_folder(tmp_path, "a")
    writer = Journal(folder, chunk_bytes=5000)
    rests: list[None] = []
    archive = Archive(Shelf(), VENUE, [folder], rest=lambda: rests.append(None))

    def read(flushed: int) -> None:
        came = seqs(archive.lines(BTC))
        assert came == list(range(1, len(came) + 1))
        assert len(came) >= flushed

    with ThreadPoolExecutor(4) as pool:
        readers = []
        for seq in range(1, 200):
            writer.append(BTC, published.frame(increments(BTC, Position(1, seq), 1, NOW + seq)))
            if seq % 10 == 0:
                writer.flush()
                readers += [pool.submit(read, seq) for _ in range(3)]
        for reader in readers:
            reader.result(30)
    writer.close()
    assert rests


def test_damage_inside_a_journal_is_told(tmp_path: Path) -> None:
    folder = journal(tmp_path, [increments(BTC, Position(1, seq), 1) for seq in range(1, 9)])
    path = chunk_path(folder, 1)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0xFF
    path.write_bytes(body)
    with pytest.raises(BadArchive, match="damaged"):
        Archive(Shelf(), VENUE, [folder]).state_at(BTC, NOW)


def test_nothing_is_missed_while_cutter_and_uploader_are_at_work(tmp_path: Path) -> None:
    """Every reading has everything that was flushed before it began, each once; and so has every state."""
    shelf, streams = Shelf(), (BTC, StreamKey("ETH-USD", Channel.TRADES))
    writer, waiting = Journal(journal_folder(tmp_path, "a"), chunk_bytes=3000), Spool(spool_folder(tmp_path, "a"))
    cutter, uploader = Cutter(writer, waiting, VENUE, pace=Pace(rest_s=0)), Uploader(waiting, shelf)
    archive = Archive(shelf, VENUE, [writer.folder, waiting.folder])
    flushed, count = [0], 150
    for stream in streams:
        writer.append(stream, published.frame(opening(stream, Position(1, 0), ts_event=NOW)))

    def publish() -> None:
        for seq in range(1, count):
            for stream in streams:
                writer.append(stream, published.frame(increments(stream, Position(1, seq), 1, NOW + seq)))
            writer.flush()
            flushed[0] = seq
            if seq % 9 == 0:
                cutter.cut(writer.rotate())
            if seq % 13 == 0:
                uploader.upload()

    def read(stream: StreamKey) -> int:
        readings = 0
        while flushed[0] < count - 1:
            before = flushed[0]
            came = seqs(archive.lines(stream))
            assert came == list(range(len(came)))
            assert came[-1] >= before
            before = flushed[0]
            state = archive.state_at(stream, NOW + before)
            assert state is not None
            assert state.position == (1, before)
            readings += 1
        return readings

    with ThreadPoolExecutor(3) as pool:
        publishing, *reading = pool.submit(publish), *(pool.submit(read, stream) for stream in streams)
        publishing.result(60)
        assert all(reader.result(60) for reader in reading)
    writer.close()
    waiting.close()
