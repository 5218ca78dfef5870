"""The state store that needs nothing installed: SQLite, one file a shard.

    states   one row per (product, channel): term, epoch, seq, input position, ts, state (JSON text)
    shard    one row: which shard the file belongs to

WAL with synchronous=NORMAL: a batch that was written survives the death of the process; a loss of power may cost the
last batches, never the file (https://www.sqlite.org/pragma.html#pragma_synchronous). A file beside it, locked
while the store is open, keeps a second process out; other programs may read.

What SQLite reports becomes StoreUnavailable with one line that says what to do. A file that cannot be used is left as
it is: nothing is ever recreated over it.
"""

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from lfmesh.errors import StoreUnavailable
from lfmesh.ports import StoredState
from lfmesh.types import Channel, InputPosition, Position, StreamKey

SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 1.0
_JOURNAL_BYTES = 64 * 1024 * 1024

_SCHEMA = """
CREATE TABLE shard (number INTEGER PRIMARY KEY) STRICT;
CREATE TABLE states (
    product TEXT NOT NULL, channel TEXT NOT NULL,
    term INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    ingestor INTEGER NOT NULL, incarnation INTEGER NOT NULL, number INTEGER NOT NULL,
    ts INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (product, channel)
) STRICT;
"""

_UPSERT = """
INSERT INTO states (product, channel, term, epoch, seq, ingestor, incarnation, number, ts, state)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (product, channel) DO UPDATE SET
    term = excluded.term, epoch = excluded.epoch, seq = excluded.seq, ingestor = excluded.ingestor,
    incarnation = excluded.incarnation, number = excluded.number, ts = excluded.ts, state = excluded.state
WHERE (excluded.term, excluded.epoch, excluded.seq) > (states.term, states.epoch, states.seq)
"""

_SELECT = """
SELECT product, channel, term, epoch, seq, ingestor, incarnation, number, ts, state
FROM states ORDER BY product, channel
"""


def state_path(data_dir: Path, shard: int, instance: str = "") -> Path:
    """Where a shard's state is kept; by a second snapshotter of the shard, which is named, in a file of its own."""
    name = f"-{re.sub(r'[^A-Za-z0-9._-]', '_', instance)}" if instance else ""
    return data_dir / f"state-shard-{shard}{name}.sqlite"


def peek(path: Path) -> list[StoredState]:
    """What a file holds, ordered by product and channel, also while a mesh uses it; it is only read.

    StoreUnavailable for a file that is not there or no state store.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", timeout=_BUSY_TIMEOUT_S, uri=True)) as file:
            return [_stored(row) for row in file.execute(_SELECT)]
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise StoreUnavailable(f"cannot read {path}: {error}") from error


class SqliteStateStore:
    """`lfmesh.ports.StateStore` in one file; made, if it is not there, and opened at once: StoreUnavailable.

    Calls may come from any thread, one at a time.
    """

    def __init__(self, path: Path, shard: int) -> None:
        self._path = path
        self._shard = shard
        self._lock = _lock(path)
        try:
            with self._explained():
                self._connection = sqlite3.connect(
                    path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
                )
            try:
                with self._explained():
                    self._prepare()
            except StoreUnavailable:
                self._connection.close()
                raise
        except StoreUnavailable:
            os.close(self._lock)
            raise
        self._closed = False

    def load(self) -> list[StoredState]:
        """Everything stored, ordered by product and channel."""
        with self._explained():
            rows = self._connection.execute(_SELECT).fetchall()
        try:
            return [_stored(row) for row in rows]
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def write(self, states: Sequence[StoredState]) -> int:
        """One transaction; returns how many were newer than what was stored."""
        with self._explained():
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                written = connection.executemany(_UPSERT, map(_row, states)).rowcount
                connection.execute("COMMIT")
            except sqlite3.Error:
                if connection.in_transaction:
                    with suppress(sqlite3.Error):  # the first error is the one to tell
                        connection.execute("ROLLBACK")
                raise
        return max(written, 0)

    def close(self) -> None:
        """Close file and lock; idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            with self._explained():
                self._connection.close()
        finally:
            os.close(self._lock)

    # Inside -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        connection = self._connection
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version != SCHEMA_VERSION and (version or tables):
            raise StoreUnavailable(
                f"{self._path} has schema version {version}, this program knows {SCHEMA_VERSION}: use the program that"
                " wrote it, or move the file away"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
        if not version:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            connection.execute("INSERT INTO shard VALUES (?)", (self._shard,))
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        shards = [number for (number,) in connection.execute("SELECT number FROM shard")]
        if shards != [self._shard]:
            raise StoreUnavailable(
                f"{self._path} holds the state of shard {', '.join(map(str, shards))}, not of shard {self._shard}:"
                " move it away or to its place"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.Error) -> StoreUnavailable:
        # The primary code is the lower byte of an extended one (https://www.sqlite.org/rescode.html).
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return self._damaged(error)
            case sqlite3.SQLITE_FULL:
                return StoreUnavailable(f"cannot write {self._path}: the disk is full; make room on it")
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return StoreUnavailable(f"{self._path} is locked by another program; end what holds it")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return StoreUnavailable(f"cannot write {self._path}: {error}; check its folder and permissions")
            case _:
                return StoreUnavailable(f"cannot use {self._path}: {error}")

    def _damaged(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._path} is damaged or no state store ({error}): move it away, together with its -wal and -shm files;"
            " a new one is then filled from the running mesh"
        )


def _lock(path: Path) -> int:
    """File descriptor of the held lock, released when it is closed or the process ends."""
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreUnavailable(f"cannot use {lock}: {error.strerror}; check its folder and permissions") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreUnavailable(
            f"{path} is in use by another process (pid {holder}): give each its own data_dir, or end that one"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise StoreUnavailable(f"cannot lock {lock}: {error.strerror}") from error
    return descriptor


def _row(stored: StoredState) -> tuple[object, ...]:
    source = stored.input
    return (
        stored.stream.product, str(stored.stream.channel), stored.term, *stored.position,
        _signed(source.ingestor), source.incarnation, source.number, stored.ts, stored.state,
    )  # fmt: skip


def _stored(row: tuple[str, str, int, int, int, int, int, int, int, bytes]) -> StoredState:
    product, channel, term, epoch, seq, ingestor, incarnation, number, ts, state = row
    return StoredState(
        StreamKey(product, Channel(channel)),
        term,
        Position(epoch, seq),
        InputPosition(ingestor % (1 << 64), incarnation, number),
        ts,
        state,
    )


def _signed(unsigned: int) -> int:
    """A 64-bit id as SQLite's signed integer."""
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
