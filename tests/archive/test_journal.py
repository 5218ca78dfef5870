"""The journal: what is flushed is read again, whatever happens; what is torn is told from what is damaged."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfmesh.archive import records
from lfmesh.archive.journal import Journal, chunk_numbers, chunk_path, read
from lfmesh.core import codec, encode, topics
from lfmesh.core.codec import Flags
from lfmesh.errors import BadArchive, StoreUnavailable
from lfmesh.types import Position
from tests.archive.published import BTC, ETH, NOW, frame, header, increments, opening

ENTRIES = [
    opening(BTC, Position(5, 0), parts=2, previous=Position(4, 9)),
    increments(BTC, Position(5, 1), 3),
    increments(ETH, Position(6, 1), 1),
    increments(BTC, Position(5, 4), 2),
]


def fill(journal: Journal) -> None:
    for entry in ENTRIES:
        journal.append(entry.stream, frame(entry))


@contextmanager
def opened(folder: Path, **options: int) -> Iterator[Journal]:
    journal = Journal(folder, **options)
    try:
        yield journal
    finally:
        journal.close()


def test_what_was_flushed_is_read_in_order(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        fill(journal)
        assert list(read(tmp_path)) == []
        assert journal.buffered == sum(len(frame(entry)) for entry in ENTRIES)
        assert journal.flush() > journal.buffered == 0
        assert list(read(tmp_path)) == ENTRIES


def test_closing_writes_what_is_buffered(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        fill(journal)
    assert list(read(tmp_path)) == ENTRIES
    with pytest.raises(StoreUnavailable, match="closed"):
        journal.flush()
    journal.close()


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert list(read(tmp_path / "none")) == []
    assert chunk_numbers(tmp_path / "none") == []


def test_statuses_are_left_out(tmp_path: Path) -> None:
    status = encode.status("BTC-USD", BTC.channel, "stale", NOW, "silence")
    with opened(tmp_path) as journal:
        head = header(Position(5, 3), int(Flags.STATUS))
        journal.append(BTC, codec.pack(topics.market_data(0, BTC), head, [status]))
        fill(journal)
    assert list(read(tmp_path)) == ENTRIES


def test_many_bytes_make_a_flush_due(tmp_path: Path) -> None:
    with opened(tmp_path, flush_bytes=1000) as journal:
        due = [journal.due]
        fill(journal)
        due.append(journal.due)
        journal.flush()
        assert [*due, journal.due] == [False, True, False]


def test_chunks_are_closed_read_and_deleted(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        assert (journal.chunks(), journal.rotate()) == ([], 0)
        fill(journal)
        assert journal.rotate() == 1
        assert journal.chunks() == [1]
        assert journal.rotate() == 1  # nothing new
        journal.append(BTC, frame(increments(BTC, Position(5, 6), 1)))
        assert journal.rotate() == 2
        assert [entry.header.first_seq for entry in read(tmp_path, [2])] == [6]
        journal.delete(1)
        assert journal.chunks() == [2]
        assert [entry.header.first_seq for entry in read(tmp_path)] == [6]
        journal.delete(99)
        assert chunk_numbers(tmp_path) == [3]  # the newest one stays: its number is not used twice
        assert journal.bytes == len(records.HEAD)
    with opened(tmp_path) as journal:
        fill(journal)
        assert journal.rotate() == 3


def test_a_large_chunk_is_followed_by_the_next(tmp_path: Path) -> None:
    with opened(tmp_path, chunk_bytes=1) as journal:
        for _ in range(3):
            fill(journal)
            journal.flush()
        assert journal.chunks() == [1, 2, 3]
    assert list(read(tmp_path)) == ENTRIES * 3


def test_a_new_start_goes_on_in_a_new_chunk(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as journal:
            fill(journal)
    with opened(tmp_path) as journal:
        assert journal.chunks() == [1, 2]
    assert list(read(tmp_path)) == ENTRIES * 2


def test_a_journal_has_one_owner(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(StoreUnavailable, match=f"in use by another process .pid {os.getpid()}."):
        Journal(tmp_path)
    with opened(tmp_path):
        pass


def test_a_torn_tail_ends_the_newest_chunk_at_every_byte(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        fill(journal)
    path = chunk_path(tmp_path, 1)
    whole = path.read_bytes()
    ends = [len(records.HEAD)]
    for entry in ENTRIES:
        ends.append(ends[-1] + records.HEADER_BYTES + len(frame(entry)))
    assert ends[-1] == len(whole)
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        complete = max((n for n, end in enumerate(ends) if end <= cut), default=0)
        assert list(read(tmp_path)) == ENTRIES[:complete]


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\xf5rc\xa7" * 9, os.urandom(700), b"\xf5rc\xa7\xff\xff\xff\xff1234"])
def test_a_torn_tail_is_cut_off_by_the_next_owner(tmp_path: Path, tail: bytes) -> None:
    with opened(tmp_path) as journal:
        fill(journal)
    path = chunk_path(tmp_path, 1)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + tail)
    assert list(read(tmp_path)) == ENTRIES
    with opened(tmp_path) as journal:
        assert path.stat().st_size == size
        assert journal.chunks() == [1]
        fill(journal)
    assert list(read(tmp_path)) == ENTRIES * 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_inside_is_told(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("journal")
    with opened(folder) as journal:
        fill(journal)
    path = chunk_path(folder, 1)
    body = bytearray(path.read_bytes())
    last = len(body) - records.HEADER_BYTES - len(frame(ENTRIES[-1]))
    at = data.draw(st.integers(len(records.HEAD), last - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(body)
    with pytest.raises(BadArchive, match=f"{path.name}: bytes .* are damaged"):
        list(read(folder))
    with opened(folder) as journal:  # what can't be mended is left as it is
        assert path.read_bytes() == body
        assert journal.chunks() == [1]


def test_a_torn_chunk_that_is_not_the_newest_is_damaged(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        fill(journal)
        journal.rotate()
        fill(journal)
    path = chunk_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadArchive, match="damaged"):
        list(read(tmp_path))


def test_another_version_is_told(tmp_path: Path) -> None:
    chunk_path(tmp_path, 1).write_bytes(b"LFMJ\x02\0\0\0")
    with pytest.raises(BadArchive, match="format version 2"):
        list(read(tmp_path))
    with pytest.raises(StoreUnavailable, match="format version 2; this program reads 1: let that program cut it"):
        Journal(tmp_path)


def test_a_record_that_is_no_frame_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.append(BTC, b"nothing of the kind")
    with pytest.raises(BadArchive, match="no market-data frame"):
        list(read(tmp_path))


def test_records_longer_than_a_block_are_found(tmp_path: Path) -> None:
    big = increments(BTC, Position(5, 1), 1, pad="x" * 3_000_000)
    entries = [ENTRIES[0], big, *ENTRIES[2:], big._replace(stream=ETH)]
    with opened(tmp_path) as journal:
        for entry in entries:
            journal.append(entry.stream, frame(entry))
    assert list(read(tmp_path)) == entries


def test_chunks_deleted_meanwhile_are_read_to_their_end(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        fill(journal)
        journal.rotate()
        fill(journal)
        number = journal.rotate()
        found = read(tmp_path)
        assert next(found) == ENTRIES[0]
        journal.delete(number)
        assert [ENTRIES[0], *found] == ENTRIES * 2


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes past this size of a file fail, as on a full disk, after a part has been written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_a_full_disk_refused_is_written_later(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        fill(journal)
        journal.flush()
        written = journal.bytes
        fill(journal)
        with largest_file(written + 100):
            for _ in range(2):
                with pytest.raises(StoreUnavailable) as caught:
                    journal.flush()
                assert isinstance(caught.value.__cause__, OSError)
                assert caught.value.__cause__.errno == errno.EFBIG
        assert chunk_path(tmp_path, 1).stat().st_size > written  # torn
        assert list(read(tmp_path)) == ENTRIES
        assert journal.bytes == written
        journal.flush()
        assert list(read(tmp_path)) == ENTRIES * 2
        assert journal.lost_frames_total == 0
        assert journal.take_lost() == set()


def test_past_the_bound_the_oldest_is_lost_and_counted(tmp_path: Path) -> None:
    with opened(tmp_path, pending_bytes=1200) as journal:
        with largest_file(len(records.HEAD) + 10):
            for seq in range(1, 21):
                journal.append(BTC, frame(increments(BTC, Position(5, seq), 1)))
                with pytest.raises(StoreUnavailable):
                    journal.flush()
        journal.flush()
        kept = [entry.header.first_seq for entry in read(tmp_path)]
        assert kept == list(range(21 - len(kept), 21))
        assert len(kept) == 1200 // len(frame(increments(BTC, Position(5, 20), 1)))
        assert journal.lost_frames_total == 20 - len(kept)
        assert journal.take_lost() == {BTC}
        assert journal.take_lost() == set()


def test_what_a_cut_short_write_left_does_not_come_back(tmp_path: Path) -> None:
    large = increments(BTC, Position(5, 1), 1, pad="x" * 2000)
    small = [increments(BTC, Position(5, seq), 1) for seq in (2, 3, 4)]
    first = [large, *small[:2]]
    size = sum(records.HEADER_BYTES + len(frame(entry)) for entry in first)
    with opened(tmp_path, pending_bytes=sum(len(frame(entry)) for entry in first)) as journal:
        for entry in first:
            journal.append(BTC, frame(entry))
        with largest_file(len(records.HEAD) + size - 1), pytest.raises(StoreUnavailable):
            journal.flush()
        journal.append(BTC, frame(small[2]))
        journal.flush()
        assert journal.lost_frames_total == 1
        assert list(read(tmp_path)) == small


def test_without_a_flush_the_buffer_is_bounded(tmp_path: Path) -> None:
    with opened(tmp_path, pending_bytes=10_000) as journal:
        one = len(frame(increments(BTC, Position(5, 1), 1)))
        for seq in range(1, 201):
            journal.append(BTC, frame(increments(BTC, Position(5, seq), 1)))
            assert journal.buffered <= 10_000
        journal.flush()
        kept = [entry.header.first_seq for entry in read(tmp_path)]
        assert kept == list(range(201 - len(kept), 201))
        assert len(kept) >= 5000 // one
        assert journal.lost_frames_total == 200 - len(kept)
        assert journal.take_lost() == {BTC}


def test_nothing_is_lost_or_changes_places_between_threads(tmp_path: Path) -> None:
    count = 5000
    frames = [frame(increments(BTC, Position(5, seq), 1)) for seq in range(1, count + 1)]
    ended = threading.Event()
    with opened(tmp_path, chunk_bytes=100_000) as journal:

        def write() -> None:
            while not ended.is_set():
                journal.flush()
                journal.rotate()

        worker = threading.Thread(target=write)
        worker.start()
        for one in frames:
            journal.append(BTC, one)
        ended.set()
        worker.join()
    assert [entry.header.first_seq for entry in read(tmp_path)] == list(range(1, count + 1))


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot use"):
        Journal(tmp_path / "file" / "journal")


_KILLED = """
import sys
from pathlib import Path
from lfmesh.archive.journal import Journal
from lfmesh.types import Position
from tests.archive.published import BTC, frame, increments

journal = Journal(Path(sys.argv[1]), chunk_bytes=20_000)
for seq in range(1, 10**9):
    journal.append(BTC, frame(increments(BTC, Position(5, seq), 1)))
    if seq % 7 == 0:
        journal.flush()
        print(seq, flush=True)
"""


def test_a_killed_process_loses_only_what_was_not_flushed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(100)]
    process.kill()
    told += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    flushed = max(int(line) for line in told if line.endswith("\n"))
    found = [entry.header.first_seq for entry in read(tmp_path)]
    assert found == list(range(1, len(found) + 1))
    assert flushed <= len(found) <= flushed + 7
