"""How the archive is laid out: names of objects, the clock of a stream, and what its lines are. Pure.

Two kinds of objects, both immutable, zstd-compressed NDJSON. Keys sort by time, and DuckDB, Polars and Athena read
`name=value` folders as columns:

    tape/venue=V/product=P/channel=C/date=YYYY-MM-DD/hour=HH/
        {first_ts}-{last_ts}_{epoch}_{first_seq}-{last_seq}_{prev_epoch}-{prev_seq}_{lines}_{checksum}.ndjson.zst
    snapshots/venue=V/shards=N/shard=K/date=YYYY-MM-DD/hour=HH/
        {ts}_{term}_{streams}_{checksum}.ndjson.zst

A **tape segment** holds published messages of one stream and one epoch, each a line exactly as clients got it,
`first_seq` to `last_seq` without a hole. Its first lines can be a snapshot (one line a part): that of the epoch's
opening (`first_seq` 0), or one that took the place of lost messages. Then (prev_epoch, prev_seq) is where the stream
stood before, 0-0 where that is unknown. The next segment of the epoch begins at `last_seq` + 1.

A **shard's snapshot** holds the state of every stream, a `StateLine` each; `ts` is the newest of their times.

The checksum is the first 16 hex digits of the SHA-256 of the object's bytes (compressed as they are), so that each
object can be verified with nothing but its name, and storing one twice makes no second one.

**Time** in the archive is the venue's (`ts_event`), so that a recorded session is found at its own date. Within a
stream it never goes back: a line's time is the newest `ts_event` up to it (`StreamClock`). Dates and hours are UTC.
"""

import hashlib
import re
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from lfmesh.types import Channel, InputPosition, Position, StreamKey

TAPE = "tape/"
SNAPSHOTS = "snapshots/"
SUFFIX = ".ndjson.zst"
CHECKSUM_DIGITS = 16
AHEAD_NS = 5_000_000_000
"""A venue's time this far ahead of ours is taken for ours: one absurd time must not stop the clock of a stream."""

_NS = 1_000_000_000
_TS_EVENT = b'"ts_event":'
_TS_INGEST = b'"ts_ingest":'
_SNAPSHOT_HEAD = b'{"op":"snapshot"'
_DIGITS = 19
_SEGMENT = re.compile(
    r"tape/venue=([^/]+)/product=([^/]+)/channel=(ticker|trades|book)/date=\d{4}-\d\d-\d\d/hour=\d\d/"
    r"(\d{19})-(\d{19})_(\d+)_(\d+)-(\d+)_(\d+)-(\d+)_(\d+)_([0-9a-f]{16})\.ndjson\.zst"
)
_SNAPSHOT = re.compile(
    r"snapshots/venue=([^/]+)/shards=(\d+)/shard=(\d+)/date=\d{4}-\d\d-\d\d/hour=\d\d/"
    r"(\d{19})_(\d+)_(\d+)_([0-9a-f]{16})\.ndjson\.zst"
)


class SegmentName(NamedTuple):
    """What the key of a tape segment says; times in ns. `previous` is (0, 0) where it is unknown or does not apply."""

    venue: str
    stream: StreamKey
    first_ts: int
    last_ts: int
    epoch: int
    first_seq: int
    last_seq: int
    previous: Position
    lines: int
    checksum: str

    @property
    def key(self) -> str:
        """The object's key."""
        name = (
            f"{self.first_ts:0{_DIGITS}d}-{self.last_ts:0{_DIGITS}d}_{self.epoch:016d}"
            f"_{self.first_seq:012d}-{self.last_seq:012d}_{self.previous.epoch}-{self.previous.seq}"
            f"_{self.lines}_{self.checksum}{SUFFIX}"
        )
        return stream_folder(self.venue, self.stream) + hour_folder(self.first_ts) + name

    @property
    def first(self) -> Position:
        """Position of the first line."""
        return Position(self.epoch, self.first_seq)

    @property
    def last(self) -> Position:
        """Position of the last line."""
        return Position(self.epoch, self.last_seq)


class SnapshotName(NamedTuple):
    """What the key of a shard's snapshot says; `ts` in ns."""

    venue: str
    shards: int
    shard: int
    ts: int
    term: int
    streams: int
    checksum: str

    @property
    def key(self) -> str:
        """The object's key."""
        folder = shard_folder(self.venue, self.shards, self.shard)
        name = f"{self.ts:0{_DIGITS}d}_{self.term:016d}_{self.streams}_{self.checksum}{SUFFIX}"
        return f"{folder}{hour_folder(self.ts)}{name}"


class StateLine(msgspec.Struct, frozen=True):
    """One stream's state in a shard's snapshot: at (epoch, seq), published under `term`, at the stream's `time` (ns).

    `ts` is when its newest message was published (ns), `state` the JSON of the snapshot's `state`, as clients get it.
    """

    product: str
    channel: Channel
    term: int
    epoch: int
    seq: int
    time: int
    ts: int
    input: InputPosition
    state: msgspec.Raw


def parse_segment(key: str) -> SegmentName | None:
    """The name of a tape segment from its key; None for any other key."""
    match = _SEGMENT.fullmatch(key)
    if match is None:
        return None
    venue, product, channel, *numbers, checksum = match.groups()
    first_ts, last_ts, epoch, first_seq, last_seq, prev_epoch, prev_seq, lines = map(int, numbers)
    return SegmentName(
        venue, StreamKey(product, Channel(channel)), first_ts, last_ts, epoch, first_seq, last_seq,
        Position(prev_epoch, prev_seq), lines, checksum,
    )  # fmt: skip


def parse_snapshot(key: str) -> SnapshotName | None:
    """The name of a shard's snapshot from its key; None for any other key."""
    match = _SNAPSHOT.fullmatch(key)
    if match is None:
        return None
    venue, *numbers, checksum = match.groups()
    shards, shard, ts, term, streams = map(int, numbers)
    return SnapshotName(venue, shards, shard, ts, term, streams, checksum)


def stream_folder(venue: str, stream: StreamKey) -> str:
    """The folder of all segments of a stream."""
    return f"{TAPE}venue={venue}/product={stream.product}/channel={stream.channel}/"


def shard_folder(venue: str, shards: int, shard: int) -> str:
    """The folder of all snapshots of a shard, while there are so many shards."""
    return f"{SNAPSHOTS}venue={venue}/shards={shards}/shard={shard}/"


def hour_folder(ts: int) -> str:
    """`date=…/hour=…/` of a time in ns."""
    return datetime.fromtimestamp(ts // _NS, UTC).strftime("date=%Y-%m-%d/hour=%H/")


def hour_of(ts: int) -> int:
    """Hours since the Unix epoch, of a time in ns: a segment never holds two of them."""
    return ts // (3600 * _NS)


def checksum(body: bytes) -> str:
    """The checksum of an object's bytes, as its name tells it."""
    return hashlib.sha256(body).hexdigest()[:CHECKSUM_DIGITS]


def is_snapshot(line: bytes) -> bool:
    """True for a snapshot (or a part of one), false for an increment."""
    return line.startswith(_SNAPSHOT_HEAD)


def event_time(line: bytes) -> int:
    """`ts_event` of an increment that `lfmesh.core.encode` made, without parsing it; not more than AHEAD_NS after its
    `ts_ingest`. 0 for a snapshot, which has none. ValueError for anything else."""
    if line.startswith(_SNAPSHOT_HEAD):
        return 0
    at = line.index(_TS_EVENT) + len(_TS_EVENT)
    end = line.index(b",", at)
    ts_event = int(line[at:end])
    at = line.index(_TS_INGEST, end) + len(_TS_INGEST)
    return min(ts_event, int(line[at : line.index(b",", at)]) + AHEAD_NS)


class StreamClock:
    """Time of a stream (ns): the newest time of the venue in it so far, 0 before the first."""

    __slots__ = ("now",)

    def __init__(self, now: int = 0) -> None:
        self.now = now

    def see(self, ts_event: int) -> int:
        """The stream's time with a message of this `event_time` (0: it has none)."""
        if ts_event > self.now:
            self.now = ts_event
        return self.now
