"""What is SQLite's own: crashes, locks, damaged and foreign files, a full disk."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lfmesh.errors import StoreUnavailable
from lfmesh.ports import StoredState
from lfmesh.store.embedded import SCHEMA_VERSION, SqliteStateStore, state_path
from lfmesh.types import NO_INPUT, Channel, Position, StreamKey

STREAMS = [StreamKey(f"P{number}-USD", Channel.BOOK) for number in range(20)]

WRITER = """
import sys
from pathlib import Path
from lfmesh.store.embedded import SqliteStateStore
from tests.store.test_embedded import batch

store = SqliteStateStore(Path(sys.argv[1]), 0)
for seq in range(1, 1_000_000):
    store.write(batch(seq))
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
"""


def batch(seq: int, size: int = 2000) -> list[StoredState]:
    state = b'{"seq":%d,"filler":"%s"}' % (seq, b"x" * size)
    return [StoredState(key, 1, Position(1, seq), NO_INPUT, seq, state) for key in STREAMS]


def writer(path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def progress(process: "subprocess.Popen[str]", batches: int) -> int:
    """Read until the writer has told of so many batches; the last one."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(batches)]
    assert all(lines), "the writer has ended"
    return int(lines[-1])


@pytest.mark.parametrize("batches", [1, 7, 40])
def test_killed_in_the_middle_of_writing(tmp_path: Path, batches: int) -> None:
    path = state_path(tmp_path, 0)
    with writer(path) as process:
        progress(process, batches)
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0].splitlines()
    last = int(told[-1]) if told else batches
    store = SqliteStateStore(path, 0)
    found = store.load()
    store.close()
    assert [one.stream for one in found] == sorted(STREAMS)
    (seq,) = {one.position.seq for one in found}
    assert seq in (last, last + 1), "what was told is there, whole batches only"
    assert {one.state for one in found} == {batch(seq)[0].state}


def test_a_second_process_is_refused_and_told_who_holds_the_file(tmp_path: Path) -> None:
    path = state_path(tmp_path, 0)
    with writer(path) as process:
        progress(process, 1)
        with pytest.raises(StoreUnavailable, match=rf"in use by another process \(pid {process.pid}\)"):
            SqliteStateStore(path, 0)
        process.kill()
        process.communicate()
    SqliteStateStore(path, 0).close()


def test_a_second_store_in_this_process_is_refused_too(tmp_path: Path) -> None:
    path = state_path(tmp_path, 0)
    first = SqliteStateStore(path, 0)
    with pytest.raises(StoreUnavailable, match="in use"):
        SqliteStateStore(path, 0)
    first.close()
    SqliteStateStore(path, 0).close()


def filled(tmp_path: Path) -> Path:
    path = state_path(tmp_path, 0)
    store = SqliteStateStore(path, 0)
    store.write(batch(1))
    store.close()
    return path


def damage(path: Path, offset: int) -> bytes:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 4096 * 6)
    return path.read_bytes()


def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = damage(path, 0)
    with pytest.raises(StoreUnavailable, match=r"damaged or no state store .* move it away"):
        SqliteStateStore(path, 0)
    assert path.read_bytes() == before


def test_a_file_damaged_in_its_midst_is_told_when_it_is_read(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = damage(path, 4096 * 4)
    store = SqliteStateStore(path, 0)
    with pytest.raises(StoreUnavailable, match=r"damaged or no state store .* move it away"):
        store.load()
    store.close()
    assert path.read_bytes() == before


def test_a_file_of_another_kind_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    path = state_path(tmp_path, 0)
    path.write_text("not a database at all" * 100)
    with pytest.raises(StoreUnavailable, match="damaged or no state store"):
        SqliteStateStore(path, 0)
    foreign = state_path(tmp_path, 1)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(StoreUnavailable, match="schema version 0, this program knows 1"):
        SqliteStateStore(foreign, 1)


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 6}")
    connection.close()
    with pytest.raises(StoreUnavailable, match="schema version 7, this program knows 1"):
        SqliteStateStore(path, 0)


def test_a_file_of_another_shard_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.rename(state_path(tmp_path, 1))
    with pytest.raises(StoreUnavailable, match="shard 0, not of shard 1"):
        SqliteStateStore(state_path(tmp_path, 1), 1)


def test_a_row_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE states SET channel = 'nonsense' WHERE product = 'P3-USD'")
    connection.close()
    store = SqliteStateStore(path, 0)
    with pytest.raises(StoreUnavailable, match="damaged"):
        store.load()
    store.close()


def test_a_locked_database_fails_and_works_again_afterwards(tmp_path: Path) -> None:
    path = state_path(tmp_path, 0)
    store = SqliteStateStore(path, 0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked by another program"):
        store.write(batch(1))
    other.execute("ROLLBACK")
    other.close()
    assert store.write(batch(2)) == len(STREAMS)
    store.close()


def test_a_full_disk_fails_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = filled(tmp_path)
    store = SqliteStateStore(path, 0)
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(StoreUnavailable, match="the disk is full; make room"):
        store.write(batch(2, size=200_000))
    assert {one.position.seq for one in store.load()} == {1}
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert store.write(batch(3, size=200_000)) == len(STREAMS)
    store.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o500)
    with pytest.raises(StoreUnavailable, match="permissions"):
        SqliteStateStore(state_path(folder, 0), 0)


def test_a_data_dir_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot use"):
        SqliteStateStore(state_path(tmp_path / "data", 0), 0)


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    path = state_path(tmp_path / "a" / "b", 3)
    SqliteStateStore(path, 3).close()
    assert path.exists()
