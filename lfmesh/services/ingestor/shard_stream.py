"""The numbered stream of one shard: what arrives is gathered, numbered in batches, packed once, retained for replay.

Numbers run from 1 without holes per (ingestor, incarnation, shard). A record gets its number when its batch is taken,
so what a beacon announces has always been handed out before. No I/O, no clock.
"""

from collections.abc import Callable
from itertools import takewhile

from lfmesh.core.codec import RawHeader, RawKind, RawRecord, RecordKind, pack_raw
from lfmesh.core.ring import ReplayRing, RingStatistics
from lfmesh.messages import ReplayRequest, Reply, Unavailable
from lfmesh.types import Line, Position

BATCH_MAX_BYTES = 64 * 1024
"""A batch is taken when it holds this much; only a single frame that is larger makes it longer. The queue towards a
normalizer is bounded in messages, and by this in bytes as well: 13 MB at the default, large book snapshots apart."""

REPLY_MAX_BYTES = 8 * 1024 * 1024
REPLY_MAX_FRAMES = 4096
"""Bounds of one answer to a replay request, of which the first frame alone may be larger."""

_ENTRY_OVERHEAD = 320
"""What the ring itself needs in memory for one frame; counted, since idle batches hold one small record."""

_FRAME = int(RecordKind.FRAME)


class ShardStream:
    """One shard's records from the venue to the normalizers.

    `on_first` is called when a record comes to an empty batch, `on_full` when the batch has reached its bound; both
    are expected to lead to `take`.
    """

    def __init__(
        self,
        shard: int,
        identity: tuple[int, int, Line],
        ring: ReplayRing[int, bytes],
        batch_max_frames: int,
        on_first: Callable[["ShardStream"], None],
        on_full: Callable[["ShardStream"], None],
    ) -> None:
        self.shard = shard
        self.products: list[str] = []
        self.next_number = 1
        self._ingestor, self._incarnation, self._line = identity
        self._ring = ring
        self._batch_max_frames = batch_max_frames
        self._on_first = on_first
        self._on_full = on_full
        self._pending: list[RawRecord] = []
        self._pending_bytes = 0

    @property
    def pending(self) -> int:
        """Records that wait for their number."""
        return len(self._pending)

    @property
    def oldest_number(self) -> int:
        """The oldest number that can be replayed; the next number if there is none."""
        oldest = self._ring.oldest(self.shard)
        return self.next_number if oldest is None else oldest.seq

    def add(self, ts_ingest: int, frame: bytes) -> None:
        """Take a venue frame."""
        self.add_record(RawRecord(_FRAME, ts_ingest, frame))

    def add_record(self, record: RawRecord) -> None:
        """Take any record."""
        pending = self._pending
        if not pending:
            self._on_first(self)
        pending.append(record)
        self._pending_bytes += len(record[2])
        if len(pending) >= self._batch_max_frames or self._pending_bytes >= BATCH_MAX_BYTES:
            self._on_full(self)

    def take(self, now: int) -> bytes | None:
        """What was gathered, numbered, packed and retained; None if that is nothing. `now` in ns."""
        records, self._pending = self._pending, []
        self._pending_bytes = 0
        if not records:
            return None
        count, first = len(records), self.next_number
        frame = pack_raw(self._header(RawKind.BATCH, now), records)
        self.next_number = first + count
        self._ring.append(
            self.shard, self._incarnation, first, count, frame, size=len(frame) + _ENTRY_OVERHEAD, now=now
        )
        return frame

    def beacon(self, now: int) -> bytes:
        """Proof of life, with the number that comes next; what is too old for the ring leaves it."""
        self._ring.expire(now)
        return pack_raw(self._header(RawKind.BEACON, now))

    def replay(self, request: ReplayRequest) -> tuple[Reply | Unavailable, list[bytes]]:
        """The retained frames that hold the numbers asked for, as they were pushed; Unavailable if one is gone."""
        if request.incarnation != self._incarnation:
            return Unavailable(f"incarnation {request.incarnation} is over; this is {self._incarnation}"), []
        if not 1 <= request.first_number <= self.next_number:
            return Unavailable(f"number {request.first_number} is not given yet; {self.next_number} comes next"), []
        if request.first_number == self.next_number:
            return Reply(), []
        retained = self._ring.since(self.shard, Position(self._incarnation, request.first_number - 1))
        if retained is None:
            return Unavailable(f"number {request.first_number} is gone; {self.oldest_number} is the oldest"), []
        last = request.last_number or self.next_number - 1
        frames: list[bytes] = []
        size = 0
        for entry in takewhile(lambda entry: entry.first_seq <= last, retained):
            size += entry.size
            if frames and (size > REPLY_MAX_BYTES or len(frames) >= REPLY_MAX_FRAMES):
                return Reply(more=True), frames
            frames.append(entry.payload)
        return Reply(), frames

    def ring_statistics(self) -> RingStatistics:
        """What is retained."""
        return self._ring.statistics()

    def _header(self, kind: RawKind, now: int) -> RawHeader:
        return RawHeader(
            kind, self._line, self.shard, self._ingestor, self._incarnation, self.next_number, self.oldest_number, now
        )
