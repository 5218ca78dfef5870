"""An object store in memory, and places on disk to read from, for tests of what reads the archive."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lfmesh.archive import segments
from lfmesh.archive.journal import Entry, Journal
from lfmesh.archive.places import journal_folder, spool_folder
from lfmesh.archive.segments import NEW, Mark
from lfmesh.archive.states import StatesWriter
from lfmesh.core.archive import SegmentName, StateLine
from lfmesh.errors import ObjectMissing
from lfmesh.ports import StoredObject
from lfmesh.types import StreamKey
from tests.archive.published import frame

VENUE = "coinbase"


class Shelf:
    """`lfmesh.ports.ObjectStore`, in memory; `taken` are the keys that were got, in order."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.taken: list[str] = []

    def check(self) -> None:
        pass

    def put(self, key: str, body: bytes | Path) -> bool:
        return self.objects.setdefault(key, body if isinstance(body, bytes) else body.read_bytes()) is body

    def get(self, key: str) -> bytes:
        self.taken.append(key)
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.objects[key]

    def list(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > after:
                yield StoredObject(key, len(self.objects[key]), time.time_ns())

    def folders(self, prefix: str) -> Sequence[str]:
        inner = (key.removeprefix(prefix) for key in list(self.objects) if key.startswith(prefix))
        return sorted({f"{prefix}{rest.partition('/')[0]}/" for rest in inner if "/" in rest})

    def delete(self, keys: Sequence[str]) -> int:
        for key in keys:
            self.objects.pop(key, None)
        return len(keys)

    def close(self) -> None:
        pass


def cut(stream: StreamKey, entries: Iterable[Entry], mark: Mark = NEW, max_bytes: int = 1 << 20) -> list[SegmentName]:
    """Names of the segments of these entries."""
    return [name for name, _ in segments.write(VENUE, stream, entries, mark=mark, max_bytes=max_bytes)]


def upload(
    shelf: Shelf, stream: StreamKey, entries: Iterable[Entry], mark: Mark = NEW, max_bytes: int = 1 << 20
) -> list[SegmentName]:
    """Put the segments of these entries into the store; their names."""
    names = []
    for name, body in segments.write(VENUE, stream, entries, mark=mark, max_bytes=max_bytes):
        shelf.put(name.key, body)
        names.append(name)
    return names


def spool(
    data_dir: Path, stream: StreamKey, entries: Iterable[Entry], mark: Mark = NEW, instance: str = "snapshotter-0"
) -> Path:
    """Let the segments of these entries wait in a spool; its folder."""
    folder = spool_folder(data_dir, instance)
    for name, body in segments.write(VENUE, stream, entries, mark=mark):
        (folder / name.key).parent.mkdir(parents=True, exist_ok=True)
        (folder / name.key).write_bytes(body)
    return folder


def journal(data_dir: Path, entries: Iterable[Entry], instance: str = "snapshotter-0") -> Path:
    """Journal these entries, after what is there; the folder."""
    folder = journal_folder(data_dir, instance)
    kept = Journal(folder)
    for entry in entries:
        kept.append(entry.stream, frame(entry))
    kept.close()
    return folder


def snapshot(shelf: Shelf, lines: Iterable[StateLine], shards: int = 1, shard: int = 0) -> None:
    """Put a shard's snapshot into the store."""
    writer = StatesWriter(VENUE, shards, shard)
    writer.add(lines)
    name, body = writer.finish()
    shelf.put(name.key, body)
