"""The spool: whole objects under their keys, in order of time, bounded; the latest state is never dropped."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lfmesh.archive.segments import Segment, write
from lfmesh.archive.spool import Spool, waiting
from lfmesh.core.archive import SnapshotName, checksum
from lfmesh.errors import BadArchive, StoreUnavailable
from lfmesh.types import Position, StreamKey
from tests.archive.published import BTC, ETH, NOW, SECOND, increments


def segment(number: int, stream: StreamKey = BTC, count: int = 1) -> Segment:
    entry = increments(stream, Position(5, number), count, NOW + number * SECOND, ts_publish=NOW + number * SECOND)
    (made,) = write("coinbase", stream, [entry])
    return made


def snapshot(number: int, shard: int = 0, size: int = 100) -> tuple[str, bytes]:
    body = number.to_bytes(2) * (size // 2)
    return SnapshotName("coinbase", 2, shard, NOW + number, 1, 3, checksum(body)).key, body


@contextmanager
def opened(folder: Path, max_bytes: int = 1_000_000) -> Iterator[Spool]:
    spool = Spool(folder, max_bytes)
    try:
        yield spool
    finally:
        spool.close()


def put(spool: Spool, *segments: Segment) -> None:
    for name, body in segments:
        spool.put(name.key, body)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".lock"}


def test_objects_wait_under_their_keys_in_order_of_time(tmp_path: Path) -> None:
    segments = [segment(3, ETH), segment(1), segment(2, ETH)]
    key, body = snapshot(0)
    with opened(tmp_path) as spool:
        put(spool, *segments)
        spool.put(key, body)
        assert [one.key for one in spool.objects()] == [key, *(segments[at].name.key for at in (1, 2, 0))]
        assert spool.size_bytes == sum(len(one.body) for one in segments) + len(body)
        assert len(spool) == 4
        assert files_of(tmp_path) == {one.key for one in spool.objects()}
        assert all(spool.path(name.key).read_bytes() == text for name, text in segments)
        assert sorted(waiting(tmp_path)) == spool.objects()


def test_what_waits_survives_a_restart_and_what_was_not_whole_does_not(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        put(spool, segment(1), segment(2))
        before = spool.objects()
    (tmp_path / ".new" / "7").write_bytes(b"half")
    (tmp_path / "tape" / "notes.txt").write_bytes(b"somebody's")
    with opened(tmp_path) as spool:
        assert spool.objects() == before
        assert spool.size_bytes == sum(one.size for one in before)
        assert not (tmp_path / ".new" / "7").exists()
        assert (tmp_path / "tape" / "notes.txt").exists()


def test_storing_one_twice_keeps_one(tmp_path: Path) -> None:
    one = segment(1)
    with opened(tmp_path) as spool:
        put(spool, one, one)
        assert len(spool) == 1
        assert spool.size_bytes == len(one.body)


def test_what_is_done_leaves_no_folders_behind(tmp_path: Path) -> None:
    one, other = segment(1), segment(2, ETH)
    with opened(tmp_path) as spool:
        put(spool, one, other)
        assert spool.take(one.name.key) == one.body
        spool.done(one.name.key)
        assert files_of(tmp_path) == {other.name.key}
        assert not (tmp_path / "tape/venue=coinbase/product=BTC-USD").exists()
        spool.done(other.name.key)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".new"]
        assert (spool.size_bytes, len(spool)) == (0, 0)
        assert spool.take(one.name.key) is None
        spool.done(one.name.key)


def test_past_the_bound_the_oldest_tape_is_dropped_and_counted(tmp_path: Path) -> None:
    segments = [segment(number) for number in (2, 1, 4, 3)]
    size = max(len(one.body) for one in segments)
    key, body = snapshot(0)
    with opened(tmp_path, max_bytes=3 * size + len(body)) as spool:
        spool.put(key, body)
        put(spool, *segments)
        assert [one.key for one in spool.objects()] == [key, *(segments[at].name.key for at in (0, 3, 2))]
        assert spool.dropped_total == 1
        assert spool.dropped_bytes_total == len(segments[1].body)
        assert spool.take(segments[0].name.key) is not None
        put(spool, segment(5))  # the oldest is on its way: it is not dropped
        assert [one.time for one in spool.objects()][1:] == [NOW + n * SECOND for n in (2, 4, 5)]
        spool.again(segments[0].name.key)
        assert len(spool) == 4
    with opened(tmp_path, max_bytes=10) as spool:
        assert [one.key for one in spool.objects()] == [key]
        assert spool.dropped_total == 3


def test_the_newest_snapshot_of_each_shard_stays(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=50) as spool:
        for number, shard in ((1, 0), (3, 1), (2, 0), (2, 1), (5, 0)):
            spool.put(*snapshot(number, shard))
        assert [one.key for one in spool.objects()] == [snapshot(3, 1)[0], snapshot(5, 0)[0]]
        assert spool.superseded_total == 3
        assert spool.dropped_total == 0
        taken = snapshot(5, 0)[0]
        assert spool.take(taken) is not None
        spool.put(*snapshot(6, 0))
        assert spool.path(taken).exists()  # while it is on its way
        spool.again(taken)
        assert not spool.path(taken).exists()


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    one, other = segment(1), segment(2)
    with opened(tmp_path) as spool:
        put(spool, one, other)
        spool.path(one.name.key).write_bytes(one.body[:-1])
        assert spool.take(one.name.key) is None
        assert spool.damaged_total == 1
        assert [waits.key for waits in spool.objects()] == [other.name.key]
        assert [path.read_bytes() for path in (tmp_path / ".damaged").iterdir()] == [one.body[:-1]]
        assert spool.size_bytes == len(other.body)


def test_a_file_that_went_is_told(tmp_path: Path) -> None:
    one = segment(1)
    with opened(tmp_path) as spool:
        put(spool, one)
        spool.path(one.name.key).unlink()
        with pytest.raises(StoreUnavailable, match="cannot use"):
            spool.take(one.name.key)


def test_only_keys_of_the_archive_are_taken(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for key in ("tape/x", "../x", segment(1).name.key + "x"):
            with pytest.raises(BadArchive, match="no key"):
                spool.put(key, b"x")
        assert len(spool) == 0
        assert files_of(tmp_path) == set()


def test_a_spool_has_one_owner(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(StoreUnavailable, match=f"in use by another process .pid {os.getpid()}."):
        Spool(tmp_path)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    one = segment(1, count=50)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as spool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(StoreUnavailable):
                put(spool, one)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert files_of(tmp_path) == set()
        put(spool, one)
        assert len(spool) == 1
