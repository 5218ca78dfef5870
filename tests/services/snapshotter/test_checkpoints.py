"""The shard's last snapshot on this disk."""

from pathlib import Path

import msgspec
import pytest

from lfmesh.archive.states import StatesWriter, read_states
from lfmesh.core.archive import SnapshotName, StateLine, parse_snapshot
from lfmesh.errors import BadArchive, StoreUnavailable
from lfmesh.services.snapshotter.checkpoints import Checkpoints
from lfmesh.types import NO_INPUT, Channel, InputPosition


def line(seq: int, product: str = "BTC-USD") -> StateLine:
    state = msgspec.Raw(b'{"last_trade":null,"best_bid":{"px":1.10,"qty":2},"best_ask":null}')
    return StateLine(product, Channel.TICKER, 3, 100, seq, 10 + seq, 20, InputPosition((1 << 64) - 1, 2, 3), state)


def snapshot(*lines: StateLine) -> tuple[SnapshotName, bytes]:
    writer = StatesWriter("coinbase", 2, 1)
    writer.add(lines)
    assert writer.streams == len(lines)
    return writer.finish()


def test_a_snapshot_is_read_as_it_was_written() -> None:
    lines = [line(seq, f"P{seq}-USD") for seq in range(500)]
    name, body = snapshot(*lines)
    assert (name.streams, name.term, name.ts) == (500, 3, 509)
    assert parse_snapshot(name.key) == name
    assert list(read_states(name, body)) == lines
    with pytest.raises(BadArchive, match="checksum"):
        list(read_states(name, body[:-1]))
    with pytest.raises(BadArchive, match="500 streams where its name promises 501"):
        list(read_states(name._replace(streams=501), body))


def test_the_newest_checkpoint_counts_and_the_one_before_it_goes(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoints = Checkpoints(folder, "coinbase", 2, 1)
    assert checkpoints.newest() is None
    checkpoints.write(4, *snapshot(line(1)))
    (folder / "half.ndjson.zst.tmp").write_bytes(b"what a crash has left")
    checkpoints.write(5, *snapshot(line(2)))
    found = Checkpoints(folder, "coinbase", 2, 1).newest()
    assert found is not None
    assert (found.chunk, found.lines) == (5, [line(2)])
    assert len(list(folder.iterdir())) == 1


def test_a_checkpoint_that_is_damaged_is_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "coinbase", 2, 1)
    checkpoints.write(4, *snapshot(line(1)))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BadArchive, match="damaged"):
        checkpoints.newest()


def test_a_disk_that_refuses_is_told_and_the_last_one_stays(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot use"):
        Checkpoints(tmp_path / "taken", "coinbase", 2, 1).write(4, *snapshot(line(1)))


def test_where_no_stream_has_a_time_of_the_venue_the_objects_is_that_of_publication() -> None:
    writer = StatesWriter("coinbase", 2, 1)
    line = StateLine("BTC-USD", Channel.BOOK, 7, 9, 0, 0, 1_795_461_251_000_000_000, NO_INPUT, msgspec.Raw(b"{}"))
    writer.add([line])
    name, _ = writer.finish()
    assert name.ts == line.ts, "the beginning of time would make it the state as of any moment"
