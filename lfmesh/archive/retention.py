"""Which objects of an archive may go, by age since writing and by total size; and what no state refers to any more.

Tape and shards' snapshots go oldest first. Of a stream always the beginning goes, so that retention makes no hole: a
segment counts as written when the last one before it was (a segment can be uploaded late). The newest snapshot of each
shard stays, however old: `lfmesh store rebuild` begins with it.

A state that lies in the object store goes when the state store does not refer to it and it has had time to: a writer
stores the object first, then the reference.

Memory: figures per minute of writing, and the objects of one minute. The archive is listed twice.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import batched
from typing import Literal, NamedTuple

from lfmesh.core.archive import SNAPSHOTS, TAPE, parse_segment, parse_snapshot
from lfmesh.core.state_objects import STATES, parse_state
from lfmesh.ports import ObjectStore, StoredObject

ORPHAN_AGE_S = 3600.0
"""A state's object that nothing refers to is removed when it is older than this."""
_MINUTE_NS = 60_000_000_000
_BATCH = 500


class Doomed(NamedTuple):
    """An object that goes, and why: too old, too much in all, or a state that nothing refers to."""

    stored: StoredObject
    reason: Literal["age", "size", "orphan"]


class _Candidate(NamedTuple):
    """An object that may go; `since` (ns) is when it counts as written."""

    since: int
    stored: StoredObject


class Retention:
    """One run over a venue's archive at the time `now` (ns). 0 for `max_age_s` or `max_bytes`: no such bound.

    `bytes_before` is what the archive had, known once `doomed` has begun; states do not count.
    """

    def __init__(self, objects: ObjectStore, venue: str, now: int, *, max_age_s: float, max_bytes: int) -> None:
        self._objects = objects
        self._venue = venue
        self._now = now
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self.bytes_before = 0
        self.objects_before = 0

    def doomed(self) -> Iterator[Doomed]:
        """Tape and shards' snapshots that go; each stream's in order. StoreUnavailable."""
        minutes: Counter[int] = Counter()
        self.bytes_before = self.objects_before = 0
        for candidate in self._candidates(count=True):
            minutes[candidate.since // _MINUTE_NS] += candidate.stored.size
        expired = self._now - round(self._max_age_s * 1e9) if self._max_age_s else -1
        last_minute, excess = self._cut(minutes)
        if expired < 0 and last_minute < 0:
            return
        boundary: list[_Candidate] = []
        for candidate in self._candidates():
            minute = candidate.since // _MINUTE_NS
            if candidate.since <= expired:
                if minute == last_minute:
                    excess -= candidate.stored.size
                yield Doomed(candidate.stored, "age")
            elif minute < last_minute:
                yield Doomed(candidate.stored, "size")
            elif minute == last_minute:
                boundary.append(candidate)
        for candidate in sorted(boundary, key=lambda one: (one.since, one.stored.key)):
            if excess <= 0:
                return
            excess -= candidate.stored.size
            yield Doomed(candidate.stored, "size")

    def orphans(self, pointers: Collection[str]) -> Iterator[Doomed]:
        """States' objects that are none of `pointers`, the keys that the state store refers to."""
        kept = frozenset(pointers)
        oldest = self._now - round(ORPHAN_AGE_S * 1e9)
        for stored in self._objects.list(f"{STATES}venue={self._venue}/"):
            if stored.key not in kept and stored.written_ns < oldest and parse_state(stored.key) is not None:
                yield Doomed(stored, "orphan")

    # Inside -----------------------------------------------------------------------------------------------------

    def _cut(self, minutes: Counter[int]) -> tuple[int, int]:
        """The last minute of which something goes for the size's sake, and how much; (-1, 0) if nothing does."""
        excess = self.bytes_before - self._max_bytes if self._max_bytes else 0
        for minute in sorted(minutes):
            if excess <= 0:
                break
            if excess <= minutes[minute]:
                return minute, excess
            excess -= minutes[minute]
        else:
            if excess > 0 and minutes:  # what may not go is larger than the bound: all else goes
                return max(minutes) + 1, 0
        return -1, 0

    def _candidates(self, *, count: bool = False) -> Iterator[_Candidate]:
        """Everything that may go, in order of the keys."""
        yield from self._tape(count=count)
        yield from self._snapshots(count=count)

    def _tape(self, *, count: bool) -> Iterator[_Candidate]:
        stream = None
        since = 0
        for stored in self._objects.list(f"{TAPE}venue={self._venue}/"):
            name = parse_segment(stored.key)
            if name is None:
                continue
            if count:
                self._count(stored)
            since = stored.written_ns if name.stream != stream else max(since, stored.written_ns)
            stream = name.stream
            yield _Candidate(since, stored)

    def _snapshots(self, *, count: bool) -> Iterator[_Candidate]:
        """All but the newest of each shard, whose key is the last of its folder."""
        shard = None
        held: StoredObject | None = None
        for stored in self._objects.list(f"{SNAPSHOTS}venue={self._venue}/"):
            name = parse_snapshot(stored.key)
            if name is None:
                continue
            if count:
                self._count(stored)
            if held is not None and shard == (name.shards, name.shard):
                yield _Candidate(held.written_ns, held)
            shard, held = (name.shards, name.shard), stored

    def _count(self, stored: StoredObject) -> None:
        self.bytes_before += stored.size
        self.objects_before += 1


def delete(objects: ObjectStore, doomed: Iterator[Doomed]) -> Iterator[Doomed]:
    """Delete as they come, in batches; yields each when it is gone. StoreUnavailable."""
    for batch in batched(doomed, _BATCH):
        objects.delete([one.stored.key for one in batch])
        yield from batch
