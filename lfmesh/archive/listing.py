"""What there is of a venue's archive: names of segments and of shards' snapshots, in the object store and in spools.

Spools are listed first: what is uploaded meanwhile is then found in the store, and nothing is missed.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lfmesh.core.archive import (
    SNAPSHOTS,
    SUFFIX,
    TAPE,
    SegmentName,
    SnapshotName,
    hour_folder,
    parse_segment,
    parse_snapshot,
    shard_folder,
    stream_folder,
)
from lfmesh.core.sharding import shard_of
from lfmesh.ports import ObjectStore
from lfmesh.types import CHANNELS, Channel, StreamKey

_SHARDS = "shards="
_PRODUCT = "product="


class Listing:
    """One venue's objects: those of the store, and those that still wait in the spools."""

    def __init__(self, objects: ObjectStore, venue: str, spools: Sequence[Path]) -> None:
        self._objects = objects
        self._venue = venue
        self._spools = tuple(spools)

    def streams(self) -> set[StreamKey]:
        """Streams of which there is any segment."""
        tape = f"{TAPE}venue={self._venue}/"
        found = {name.stream for name in self._spooled_segments(tape)}
        for folder in self._objects.folders(tape):
            product = folder.removeprefix(tape).removeprefix(_PRODUCT).rstrip("/")
            held = set(self._objects.folders(folder))
            found |= {StreamKey(product, channel) for channel in CHANNELS if f"{folder}channel={channel}/" in held}
        return found

    def channels(self, product: str) -> set[Channel]:
        """Channels of a product of which there is any segment."""
        folder = f"{TAPE}venue={self._venue}/{_PRODUCT}{product}/"
        held = {name.stream.channel for name in self._spooled_segments(folder)}
        stored = set(self._objects.folders(folder))
        return held | {channel for channel in CHANNELS if f"{folder}channel={channel}/" in stored}

    def segments(self, stream: StreamKey, start_ts: int | None = None, end_ts: int | None = None) -> list[SegmentName]:
        """Segments with lines from `start_ts` to `end_ts`, both inclusive, in order of their keys, each once."""
        folder = stream_folder(self._venue, stream)
        found = {name.key: name for name in self._spooled_segments(folder) if _within(name, start_ts, end_ts)}
        # A segment lies wholly in the hour of its first line.
        after = folder if start_ts is None else folder + hour_folder(start_ts)
        for stored in self._objects.list(folder, after):
            name = parse_segment(stored.key)
            if name is None:
                continue
            if end_ts is not None and name.first_ts > end_ts:
                break
            if _within(name, start_ts, end_ts):
                found[stored.key] = name
        return [found[key] for key in sorted(found)]

    def days(self, stream: StreamKey) -> Iterator[list[SegmentName]]:
        """All segments of a stream, a day at a time, the newest first; what is in spools comes with the first."""
        folder = stream_folder(self._venue, stream)
        found = {name.key: name for name in self._spooled_segments(folder)}
        for day in reversed(self._objects.folders(folder)):
            names = (parse_segment(stored.key) for stored in self._objects.list(day))
            found |= {name.key: name for name in names if name is not None}
            yield [found[key] for key in sorted(found)]
            found = {}
        if found:
            yield [found[key] for key in sorted(found)]

    def first(self, stream: StreamKey) -> SegmentName | None:
        """The segment with the earliest lines."""
        folder = stream_folder(self._venue, stream)
        names = list(self._spooled_segments(folder))
        stored = (parse_segment(stored.key) for stored in self._objects.list(folder))
        names += [name for name in [next((name for name in stored if name is not None), None)] if name is not None]
        return min(names, key=lambda name: name.first_ts, default=None)

    def snapshots(self, product: str, at: int) -> list[SnapshotName]:
        """Of the snapshots of the product's shard, however many shards there were: the newest ones up to `at` (ns), one
        for each count of shards, and what is in spools."""
        root = f"{SNAPSHOTS}venue={self._venue}/"
        found = {
            name
            for key in self._spooled(root)
            if (name := parse_snapshot(key)) is not None
            and name.ts <= at
            and name.shard == shard_of(product, name.shards)
        }
        for folder in self._objects.folders(root):
            count = folder.removeprefix(root).removeprefix(_SHARDS).rstrip("/")
            if count.isdigit() and int(count) > 0:
                newest = self._newest(shard_folder(self._venue, int(count), shard_of(product, int(count))), at)
                found |= set() if newest is None else {newest}
        return sorted(found, key=lambda name: name.ts, reverse=True)

    def body(self, name: SegmentName | SnapshotName) -> bytes:
        """An object's bytes, be it in a spool or uploaded meanwhile; ObjectMissing."""
        for spool in self._spools:
            with suppress(FileNotFoundError):
                return (spool / name.key).read_bytes()
        return self._objects.get(name.key)

    # Inside -----------------------------------------------------------------------------------------------------

    def _newest(self, folder: str, at: int) -> SnapshotName | None:
        """The newest snapshot below a shard's folder up to `at`; the last hour that has one is all that is listed."""
        last = folder + hour_folder(at)
        for day in reversed([day for day in self._objects.folders(folder) if day <= last]):
            for hour in reversed([hour for hour in self._objects.folders(day) if hour <= last]):
                names = (parse_snapshot(stored.key) for stored in self._objects.list(hour))
                fitting = [name for name in names if name is not None and name.ts <= at]
                if fitting:
                    return max(fitting, key=lambda name: name.ts)
        return None

    def _spooled_segments(self, prefix: str) -> Iterator[SegmentName]:
        return (name for key in self._spooled(prefix) if (name := parse_segment(key)) is not None)

    def _spooled(self, folder: str) -> Iterator[str]:
        """Keys of what waits in the spools below a folder; files and folders may vanish meanwhile."""
        for spool in self._spools:
            for parent, _, files in (spool / folder).walk():
                yield from ((parent / name).relative_to(spool).as_posix() for name in files if name.endswith(SUFFIX))


def _within(name: SegmentName, start_ts: int | None, end_ts: int | None) -> bool:
    return (start_ts is None or name.last_ts >= start_ts) and (end_ts is None or name.first_ts <= end_ts)
