"""Objects that wait on local disk for the object store: a folder of files whose relative paths are the keys.

    FOLDER/tape/venue=…/…   FOLDER/snapshots/venue=…/…   waiting objects, whole, each under its key
    FOLDER/.new/            what is being written: never under its key before it is whole and on the disk itself
    FOLDER/.cut-N/          segments of a cut that is being completed (`lfmesh.archive.cutter`)
    FOLDER/.damaged/        files that no longer had the checksum of their names, for somebody to look at

It is bounded in bytes. Past the bound the tape with the oldest time is dropped, and counted. Of a shard's snapshots the
newest stays, which no bound drops: it takes the place of the ones before it.

One process writes it (a lock says so), from any of its threads; `waiting` reads it at any time, from any process.
"""

import os
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from lfmesh.archive import files
from lfmesh.core.archive import SNAPSHOTS, TAPE, checksum, parse_segment, parse_snapshot
from lfmesh.errors import BadArchive, StoreUnavailable

SPOOL_BYTES = 4 * 1024 * 1024 * 1024

_NEW, _DAMAGED = ".new", ".damaged"


class Waiting(NamedTuple):
    """An object of a spool: its `time` (ns; of a segment its first line's), its key, and its size in bytes."""

    time: int
    key: str
    size: int


class Spool:
    """The spool in `folder`, opened to write: made where it is missing. StoreUnavailable, also if it is in use."""

    def __init__(self, folder: Path, max_bytes: int = SPOOL_BYTES) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._numbers = count()
        self._objects: dict[str, Waiting] = {}
        self._order: list[Waiting] = []  # the same, by time: sorting many would hold everybody up
        self._snapshots: set[str] = set()
        self._bytes = 0
        self._taken: set[str] = set()
        self._dropped = self._dropped_bytes = self._superseded = self._damaged = 0
        self.uploading = threading.Lock()
        """Held by whoever uploads: never two at once."""
        self._owner = files.lock(folder)
        try:
            with files.explained(folder):
                new = folder / _NEW
                new.mkdir(exist_ok=True)
                for path in new.iterdir():
                    path.unlink()
                for one in sorted(waiting(folder)):
                    self._add(one)
            self.bound()
        except (OSError, StoreUnavailable):
            os.close(self._owner)
            raise

    # What is there -----------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Bytes of all that wait."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def dropped_total(self) -> int:
        """Tape segments that were dropped because the spool was full, since it was opened."""
        return self._dropped

    @property
    def dropped_bytes_total(self) -> int:
        """Bytes of them."""
        return self._dropped_bytes

    @property
    def superseded_total(self) -> int:
        """Snapshots whose place a newer one took before they were uploaded."""
        return self._superseded

    @property
    def damaged_total(self) -> int:
        """Files that did not have the checksum of their names."""
        return self._damaged

    def objects(self) -> list[Waiting]:
        """All that waits, by time."""
        with self._lock:
            return list(self._order)

    def after(self, last: Waiting | None) -> Waiting | None:
        """What comes next by time after one that waited (None: the first); None where nothing does."""
        with self._lock:
            at = 0 if last is None else bisect_right(self._order, last)
            return self._order[at] if at < len(self._order) else None

    def path(self, key: str) -> Path:
        """The file of an object."""
        return self.folder / key

    # In worker threads -------------------------------------------------------------------------------------------

    def put(self, key: str, body: bytes) -> None:
        """Add an object, whole and on the disk itself, or not at all. StoreUnavailable; BadArchive for no such key."""
        _time_of(key)
        new = self.folder / _NEW / str(next(self._numbers))
        with files.explained(self.folder):
            files.write_whole(new, body)
        self.adopt([(new, key)])

    def adopt(self, found: Iterable[tuple[Path, str]]) -> None:
        """Move finished files to their keys, durably. StoreUnavailable: some of them may have been moved.

        A file that is not there has been moved before. The files must be synced, and on the same file system.
        """
        folders: set[Path] = set()
        with files.explained(self.folder):
            for path, key in found:
                self._move(path, key, folders)
            for folder in folders:
                with suppress(FileNotFoundError):  # uploaded meanwhile, and the folder with it
                    files.sync_folder(folder)
        self.bound()

    def take(self, key: str) -> bytes | None:
        """The bytes of an object, which stays until `done`, or `again`, is called; None if it is no longer there.

        A file that does not have its name's checksum is set aside and counted: None. StoreUnavailable.
        """
        with self._lock:
            if key not in self._objects:
                return None
            self._taken.add(key)
        try:
            with files.explained(self.folder):
                body = self.path(key).read_bytes()
        except StoreUnavailable:
            self.again(key)
            raise
        if _is_sound(key, body):
            return body
        self._set_aside(key)
        return None

    def again(self, key: str) -> None:
        """What was taken goes on waiting."""
        with self._lock:
            self._taken.discard(key)
        self.bound()

    def done(self, key: str) -> None:
        """The object need not wait any more: its file is deleted. StoreUnavailable."""
        with self._lock, files.explained(self.folder):
            self._taken.discard(key)
            self._remove(key)

    def bound(self) -> None:
        """Drop what is past the bound. StoreUnavailable."""
        with self._lock, files.explained(self.folder):
            self._supersede()
            if self._bytes <= self._max_bytes:
                return
            for one in list(self._order):
                if one.key.startswith(TAPE) and one.key not in self._taken:
                    self._remove(one.key)
                    self._dropped += 1
                    self._dropped_bytes += one.size
                    if self._bytes <= self._max_bytes:
                        return

    def close(self) -> None:
        """Give the folder free; idempotent."""
        with self._lock:
            if self._owner >= 0:
                os.close(self._owner)
                self._owner = -1

    # Inside ------------------------------------------------------------------------------------------------------

    def _add(self, one: Waiting) -> None:
        self._forget(one.key)
        self._objects[one.key] = one
        self._bytes += one.size
        insort(self._order, one)
        if one.key.startswith(SNAPSHOTS):
            self._snapshots.add(one.key)

    def _forget(self, key: str) -> bool:
        one = self._objects.pop(key, None)
        if one is None:
            return False
        self._bytes -= one.size
        del self._order[bisect_left(self._order, one)]
        self._snapshots.discard(key)
        return True

    def _move(self, path: Path, key: str, folders: set[Path]) -> None:
        time = _time_of(key)
        target = self.path(key)
        with self._lock:  # else the folder could be removed as empty before the file is in it
            missing = target.parent
            while not missing.is_dir():
                folders.add(missing.parent)
                missing = missing.parent
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
            with suppress(FileNotFoundError):
                path.replace(target)
                self._add(Waiting(time, key, target.stat().st_size))

    def _remove(self, key: str) -> None:
        if not self._forget(key):
            return
        path = self.path(key)
        path.unlink(missing_ok=True)
        self._prune(path)

    def _prune(self, path: Path) -> None:
        """Remove the folders that are empty without a file."""
        with suppress(OSError):  # the first one that is not empty ends it
            for folder in path.parents:
                if folder == self.folder:
                    return
                folder.rmdir()

    def _set_aside(self, key: str) -> None:
        with self._lock, files.explained(self.folder):
            self._taken.discard(key)
            self._forget(key)
            self._damaged += 1
            aside = self.folder / _DAMAGED
            aside.mkdir(exist_ok=True)
            path = self.path(key)
            path.replace(aside / path.name[-200:])
            self._prune(path)

    def _supersede(self) -> None:
        newest: dict[tuple[str, int, int], tuple[int, int, str]] = {}
        for key in list(self._snapshots):
            name = parse_snapshot(key)
            assert name is not None
            shard, rank = (name.venue, name.shards, name.shard), (name.term, name.ts, key)
            other = newest.get(shard, rank)
            newest[shard] = max(other, rank)
            older = min(other, rank)[2]
            if older != newest[shard][2] and older not in self._taken:
                self._remove(older)
                self._superseded += 1


def waiting(folder: Path) -> Iterator[Waiting]:
    """All objects that wait in a spool, in no order, while it may be in use. OSError."""
    for root in (TAPE, SNAPSHOTS):
        for parent, _, names in (folder / root).walk():
            for name in names:
                path = parent / name
                key = path.relative_to(folder).as_posix()
                with suppress(FileNotFoundError, BadArchive):  # uploaded meanwhile; somebody's own file
                    yield Waiting(_time_of(key), key, path.stat().st_size)


def _time_of(key: str) -> int:
    name = parse_segment(key)
    if name is not None:
        return name.first_ts
    snapshot = parse_snapshot(key)
    if snapshot is None:
        raise BadArchive(f"{key} is no key of the archive")
    return snapshot.ts


def _is_sound(key: str, body: bytes) -> bool:
    name = parse_segment(key) or parse_snapshot(key)
    return name is not None and name.checksum == checksum(body)
