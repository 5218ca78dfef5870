"""Is the archive whole? Every object is what its name promises, and no stream has a hole.

Checked of each tape segment: checksum, number of lines, and that its positions follow each other; of each stream: that
the positions of its segments do, also from one epoch to the next; of each shard's snapshot: checksum, number of
streams; of each state that the state store keeps as an object: that it is there, and its checksum. *Quick* looks at the
names alone, in which positions are.

Memory: the objects under way (one a thread), and what `lfmesh.archive.coverage` keeps of one stream.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from lfmesh.archive.coverage import OPENING, UNKNOWN, Coverage, Gap, Piece
from lfmesh.archive.segments import read
from lfmesh.archive.states import read_states
from lfmesh.core.archive import (
    SNAPSHOTS,
    TAPE,
    SegmentName,
    SnapshotName,
    checksum,
    parse_segment,
    parse_snapshot,
    stream_folder,
)
from lfmesh.core.state_objects import STATES, StateName, parse_state, state_folder
from lfmesh.errors import BadArchive, ObjectMissing
from lfmesh.ports import ObjectStore, StoredObject
from lfmesh.types import CHANNELS, StreamKey

_HEAD_BYTES = 400
"""A message says within so many bytes what it is."""
_WAITING = 4
"""Results that may wait for an earlier one, for each thread."""


class Damage(NamedTuple):
    """An object that does not hold what its name promises, or that should be there and is not."""

    key: str
    reason: str


class Foreign(NamedTuple):
    """An object in a folder of the archive that is none of its kind: told, and left alone."""

    key: str


Finding = Gap | Damage | Foreign


@dataclass
class Counts:
    """What was looked at, and what was found."""

    streams: int = 0
    epochs: int = 0
    segments: int = 0
    lines: int = 0
    snapshots: int = 0
    states: int = 0
    bytes: int = 0
    gaps: int = 0
    damaged: int = 0
    foreign: int = 0
    unproven: int = 0

    @property
    def whole(self) -> bool:
        """True if nothing is missing or damaged."""
        return not self.gaps and not self.damaged


_Name = SegmentName | SnapshotName | StateName


class _Checked(NamedTuple):
    """An object after it was looked at: its `base` (see `Piece`) if it is a good segment."""

    name: _Name
    base: int | None = None
    damage: Damage | None = None


class Verification:
    """One run over a venue's archive.

    `products`: only their streams, and no shards' snapshots; empty: everything. `pointers` reads the keys that the
    state store holds in place of states, by stream. Counts are in `counts`, complete when `run` has ended.

    The archive may be in use: what retention or a newer state removes meanwhile is no damage.
    """

    def __init__(
        self,
        objects: ObjectStore,
        venue: str,
        *,
        products: Sequence[str] = (),
        pointers: Callable[[], Mapping[StreamKey, str]] = dict,
        quick: bool = False,
        threads: int = 4,
    ) -> None:
        self._objects = objects
        self._venue = venue
        self._products = tuple(products)
        self._pointers = pointers
        self._quick = quick
        self._threads = threads
        self.counts = Counts()

    def run(self) -> Iterator[Finding]:
        """Everything that is found, as it is found; StoreUnavailable."""
        with ThreadPoolExecutor(self._threads, thread_name_prefix="verify") as pool:
            for finding in chain(self._tape(pool), self._snapshots(pool), self._states(pool)):
                match finding:
                    case Gap():
                        self.counts.gaps += 1
                    case Damage():
                        self.counts.damaged += 1
                    case Foreign():
                        self.counts.foreign += 1
                yield finding

    # Tape -------------------------------------------------------------------------------------------------------

    def _tape(self, pool: ThreadPoolExecutor) -> Iterator[Finding]:
        coverage: Coverage | None = None
        for checked in self._checked(pool, self._tape_folders(), parse_segment, self._segment):
            if isinstance(checked, Foreign):
                yield checked
                continue
            name = checked.name
            assert isinstance(name, SegmentName)
            if coverage is None or coverage.stream != name.stream:
                yield from self._finished(coverage)
                coverage = Coverage(name.stream)
            self.counts.segments += 1
            if checked.damage is not None:
                yield checked.damage
            elif checked.base is not None:
                self.counts.lines += name.lines
                coverage.add(Piece(name.epoch, checked.base, name.last_seq, name.previous, name.first_ts, name.last_ts))
        yield from self._finished(coverage)

    def _tape_folders(self) -> list[str]:
        if not self._products:
            return [f"{TAPE}venue={self._venue}/"]
        return [stream_folder(self._venue, StreamKey(one, channel)) for one in self._products for channel in CHANNELS]

    def _finished(self, coverage: Coverage | None) -> Iterator[Gap]:
        if coverage is not None:
            self.counts.streams += 1
            self.counts.epochs += coverage.epochs
            self.counts.unproven += coverage.unproven
            yield from coverage.gaps()

    def _segment(self, name: SegmentName) -> _Checked:
        if self._quick:
            return _Checked(name, _base(name, opens=name.previous != UNKNOWN))
        try:
            opens = _read_through(name, self._objects.get(name.key))
        except ObjectMissing:
            return _Checked(name)
        except BadArchive as error:
            return _Checked(name, damage=_damage(name.key, error))
        return _Checked(name, _base(name, opens=opens))

    # Snapshots and states ---------------------------------------------------------------------------------------

    def _snapshots(self, pool: ThreadPoolExecutor) -> Iterator[Finding]:
        folders = [] if self._products else [f"{SNAPSHOTS}venue={self._venue}/"]
        for checked in self._checked(pool, folders, parse_snapshot, self._snapshot):
            if isinstance(checked, Foreign):
                yield checked
                continue
            self.counts.snapshots += 1
            if checked.damage is not None:
                yield checked.damage

    def _snapshot(self, name: SnapshotName) -> _Checked:
        if not self._quick:
            try:
                for _ in read_states(name, self._objects.get(name.key)):
                    pass
            except ObjectMissing:
                return _Checked(name)
            except BadArchive as error:
                return _Checked(name, damage=_damage(name.key, error))
        return _Checked(name)

    def _states(self, pool: ThreadPoolExecutor) -> Iterator[Finding]:
        wanted = set(self._wanted())
        folders = [f"{STATES}venue={self._venue}/"]
        if self._products:
            streams = (StreamKey(one, channel) for one in self._products for channel in CHANNELS)
            folders = [state_folder(self._venue, stream) for stream in streams]
        for checked in self._checked(pool, folders, parse_state, self._state):
            if isinstance(checked, Foreign):
                yield checked
                continue
            self.counts.states += 1
            wanted.discard(checked.name.key)
            if checked.damage is not None:
                yield checked.damage
        for key in sorted(wanted.intersection(self._wanted()) if wanted else ()):
            yield Damage(key, "is missing, and the state store refers to it: the mesh writes it anew when it runs")

    def _wanted(self) -> list[str]:
        """Keys that the state store refers to now."""
        pointers = self._pointers()
        return [key for stream, key in pointers.items() if not self._products or stream.product in self._products]

    def _state(self, name: StateName) -> _Checked:
        if not self._quick:
            try:
                body = self._objects.get(name.key)
            except ObjectMissing:
                return _Checked(name)
            if checksum(body) != name.checksum:
                return _Checked(name, damage=Damage(name.key, "its bytes do not have the checksum of its name"))
        return _Checked(name)

    # In threads -------------------------------------------------------------------------------------------------

    def _checked[N: _Name](
        self,
        pool: ThreadPoolExecutor,
        folders: Collection[str],
        parse: Callable[[str], N | None],
        check: Callable[[N], _Checked],
    ) -> Iterator[_Checked | Foreign]:
        """The objects of some folders, in order of their keys, each after `check` in one of the pool's threads."""
        under_way: deque[Future[_Checked]] = deque()
        try:
            for stored in self._listed(folders):
                name = parse(stored.key)
                if name is None or name.key != stored.key:
                    yield Foreign(stored.key)
                    continue
                self.counts.bytes += stored.size
                if self._quick:
                    yield check(name)
                    continue
                under_way.append(pool.submit(check, name))
                if len(under_way) >= self._threads * _WAITING:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def _listed(self, folders: Collection[str]) -> Iterator[StoredObject]:
        for folder in folders:
            yield from self._objects.list(folder)


def _base(name: SegmentName, *, opens: bool) -> int:
    """The base of a segment (see `Piece`) that begins with a snapshot, or does not."""
    if name.first_seq == 0:
        return OPENING
    return name.first_seq if opens else name.first_seq - 1


def _read_through(name: SegmentName, body: bytes) -> bool:
    """Look at every line; True if the first is a snapshot. BadArchive."""
    product, channel = name.stream
    place = b'"product":"%b","channel":"%b","epoch":%d,"seq":' % (product.encode(), channel.encode(), name.epoch)
    opens = False
    for line in read(name, body):
        if place + b"%d," % line.seq not in line.message[:_HEAD_BYTES]:
            raise BadArchive(f"holds {line.message[:120]!r} where {line.epoch}/{line.seq} should be")
        opens = opens or line.snapshot
    return opens


def _damage(key: str, error: BadArchive) -> Damage:
    """What is wrong with an object; the error names its key first, which is told beside it anyway."""
    return Damage(key, str(error).removeprefix(f"{key} ").removeprefix(f"{key}: "))
