"""The latest state of every stream from the object store alone: how a state store that is lost is filled again.

The newest snapshot of each shard, then the tape that follows it; streams that no snapshot has come from tape alone. Of
what the tape says nothing is known about the input (`NO_INPUT`), so a normalizer that starts from such a state goes on
in the trades' epochs, and begins new ones for tickers and books. Terms are those of the snapshots: they may be lower
than what was last in force, which does no harm, since a term is at least the clock.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from lfmesh.archive.reader import Archive
from lfmesh.archive.segments import Line
from lfmesh.archive.states import read_states
from lfmesh.core import encode
from lfmesh.core.archive import SNAPSHOTS, SnapshotName, StateLine, parse_snapshot
from lfmesh.core.contents import content_of
from lfmesh.errors import BadArchive, BadMeshFrame, ObjectMissing
from lfmesh.ports import ObjectStore, StoredState
from lfmesh.types import NO_INPUT, Channel, Position, StreamKey

FOREVER_NS = (1 << 63) - 1
_TS_PUBLISH = b'"ts_publish":'


class Rebuilt(NamedTuple):
    """A stream's latest state; `lines` of tape came after the snapshot (of `snapshot_ts`, None: tape alone)."""

    state: StoredState
    snapshot_ts: int | None
    lines: int


class Rebuild:
    """One run over a venue's archive. `products`: those wanted. `told` gets a line about each object that can't be
    used, and each stream of which nothing can be made."""

    def __init__(
        self, objects: ObjectStore, venue: str, products: Collection[str], told: Callable[[str], None]
    ) -> None:
        self._objects = objects
        self._archive = Archive(objects, venue)
        self._root = f"{SNAPSHOTS}venue={venue}/"
        self._products = frozenset(products)
        self._told = told
        self.others: set[str] = set()
        """Products that the archive has and that are not wanted."""

    def states(self) -> Iterator[Rebuilt]:
        """Every stream once. Memory: the newest snapshots, compressed as they are, and one state. StoreUnavailable."""
        found: set[StreamKey] = set()
        for name, lines in self._snapshots():
            for line in lines:
                stream = StreamKey(line.product, Channel(line.channel))
                if self._wanted(stream) and stream not in found:
                    found.add(stream)
                    yield self._from(name, line)
        for stream in self._archive.streams():
            if self._wanted(stream) and stream not in found:
                rebuilt = self._from_tape(stream, 0)
                if rebuilt is None:
                    self._told(f"{stream.product} {stream.channel}: its tape has no snapshot to begin with")
                else:
                    yield rebuilt

    # Inside -----------------------------------------------------------------------------------------------------

    def _wanted(self, stream: StreamKey) -> bool:
        if stream.product in self._products:
            return True
        self.others.add(stream.product)
        return False

    def _from(self, name: SnapshotName, line: StateLine) -> Rebuilt:
        """A state of a shard's snapshot, brought forward by the tape."""
        stream = StreamKey(line.product, Channel(line.channel))
        position = Position(line.epoch, line.seq)
        kept = StoredState(stream, line.term, position, line.input, line.ts, bytes(line.state))
        if not self._goes_on(stream, line):
            return Rebuilt(kept, name.ts, 0)
        try:
            chunks = self._archive.after(stream, position, sys.maxsize)
            if chunks is not None:
                state, lines = _brought_forward(kept, chunks)
                return Rebuilt(state, name.ts, lines)
            later = self._from_tape(stream, line.term)
        except (BadArchive, BadMeshFrame) as error:
            self._told(f"{stream.product} {stream.channel}: the tape after its snapshot is of no use: {error}")
            later = None
        if later is None or later.state.position == position:
            return Rebuilt(kept, name.ts, 0)
        return later

    def _goes_on(self, stream: StreamKey, line: StateLine) -> bool:
        """Whether the tape has more than the snapshot: usually it is behind."""
        names = self._archive.segments(stream, start_ts=line.time)
        return any(name.epoch != line.epoch or name.last_seq > line.seq for name in names)

    def _from_tape(self, stream: StreamKey, term: int) -> Rebuilt | None:
        try:
            found = self._archive.state_at(stream, FOREVER_NS)
        except (BadArchive, BadMeshFrame) as error:
            self._told(f"{stream.product} {stream.channel}: its tape is of no use: {error}")
            return None
        if found is None:
            return None
        text = encode.whole_state(found.parts)
        return Rebuilt(StoredState(stream, term, found.position, NO_INPUT, found.time, text), None, 0)

    def _snapshots(self) -> Iterator[tuple[SnapshotName, Iterator[StateLine]]]:
        """The newest readable snapshot of each shard, also of shards that there are no more; the newest first."""
        newest = [
            self._newest(shard) for count in self._objects.folders(self._root) for shard in self._objects.folders(count)
        ]
        readable = [found for found in newest if found is not None]
        for name, body in sorted(readable, key=lambda found: found[0].ts, reverse=True):
            yield name, read_states(name, body)

    def _newest(self, folder: str) -> tuple[SnapshotName, bytes] | None:
        for day in reversed(self._objects.folders(folder)):
            for hour in reversed(self._objects.folders(day)):
                names = [parse_snapshot(stored.key) for stored in self._objects.list(hour)]
                for name in sorted(
                    (name for name in names if name is not None), key=lambda name: name.key, reverse=True
                ):
                    try:
                        body = self._objects.get(name.key)
                        for _ in read_states(name, body):
                            pass
                    except (BadArchive, ObjectMissing) as error:
                        self._told(f"{error}: the one before it is taken")
                    else:
                        return name, body
        return None


def _brought_forward(kept: StoredState, chunks: Iterator[list[Line]]) -> tuple[StoredState, int]:
    """A state and the lines that follow it; BadArchive, BadMeshFrame."""
    content = content_of(kept.stream.channel)
    content.load([kept.state])
    parts: list[bytes] = []
    last: Line | None = None
    lines = 0
    for chunk in chunks:
        for line in chunk:
            lines += 1
            last = line
            if line.snapshot:
                parts = [*(parts if line.part > 1 else ()), encode.state_of(line.message)]
                if line.part == line.parts:
                    content.load(parts)
            else:
                content.apply([line.message])
    if last is None:
        return kept, 0
    position = Position(last.epoch, last.seq)
    return StoredState(kept.stream, kept.term, position, NO_INPUT, _published(last), content.text()), lines


def _published(line: Line) -> int:
    """When a message was published, ns; a snapshot does not say it: its time."""
    at = line.message.find(_TS_PUBLISH)
    if at < 0:
        return line.time
    return int(line.message[at + len(_TS_PUBLISH) : line.message.index(b",", at)])
