"""From the outlets' runs to the mesh: frames on the XPUB socket, retained for retransmission, then beacons."""

from collections import Counter
from collections.abc import Iterable, Mapping

from lfmesh import messages
from lfmesh.core import topics
from lfmesh.core.codec import Flags, Header, pack
from lfmesh.core.outlet import Outlet, Turn
from lfmesh.core.ring import ReplayRing, RingStatistics
from lfmesh.messages import Beacon, Reply, RetransmitRequest, StreamPosition, Unavailable
from lfmesh.transport import Publisher
from lfmesh.types import Position, StreamKey

REPLY_MAX_BYTES = 8 * 1024 * 1024
REPLY_MAX_FRAMES = 4096
"""Bounds of one answer to a retransmit request, which ends with the frame that reaches one of them."""

_ENTRY_OVERHEAD = 400
"""What the ring itself needs in memory for one frame; counted, since idle frames hold one small message."""

_NOWHERE = Position(0, 0)
_STATUS = int(Flags.STATUS)
_SNAPSHOT = int(Flags.SNAPSHOT)
_TURN_END = int(Flags.TURN_END)

type Ring = ReplayRing[StreamKey, bytes]


def retain(ring: Ring, stream: StreamKey, header: Header, count: int, frame: bytes, now: int) -> None:
    """Keep a published frame for retransmission; `count` is that of its messages."""
    snapshot = bool(header.flags & _SNAPSHOT)
    ring.append(
        stream, header.epoch, header.first_seq, 1 if snapshot else count, frame,
        size=len(frame) + _ENTRY_OVERHEAD, now=now, snapshot=snapshot,
        previous=Position(header.prev_epoch, header.prev_seq) if snapshot and header.prev_epoch else None,
    )  # fmt: skip


class Outflow:
    """Publishes for one shard under one term; `turn` is shared with the outlets."""

    def __init__(self, shard: int, instance: int, term: int, publisher: Publisher, ring: Ring, turn: Turn) -> None:
        self._shard = shard
        self._instance = instance
        self._publisher = publisher
        self._ring = ring
        self._turn = turn
        self._topics: dict[StreamKey, bytes] = {}
        self._beacon_prefix = topics.beacon(shard) + b"\0"
        self._changed: dict[StreamKey, Outlet] = {}
        self.term = term
        self._sent = 0
        self.messages: Counter[str] = Counter()
        self.statuses = 0
        self.frames = 0
        self.bytes = 0
        self.beacons = 0

    def flush(self) -> None:
        """Publish everything that the turn has brought."""
        turn = self._turn
        touched = turn.touched
        if not touched:
            return
        last = touched[-1]
        for outlet in touched:
            self._publish(outlet, is_last=outlet is last)
        touched.clear()
        self._publisher.settle()

    def _publish(self, outlet: Outlet, *, is_last: bool) -> None:
        stream = outlet.stream
        topic = self._topics.get(stream)
        if topic is None:
            topic = self._topics[stream] = topics.market_data(self._shard, stream)
        now = self._turn.ts_publish
        runs = outlet.take()
        left = len(runs)
        for flags, epoch, first_seq, previous, ts_event, source, texts in runs:
            left -= 1
            if is_last and not left:
                flags |= _TURN_END
            prev_epoch, prev_seq = previous or _NOWHERE
            self._sent = sent = (self._sent + 1) & 0xFFFF_FFFF
            header = Header(
                flags, self.term, self._instance, source, epoch, first_seq, prev_epoch, prev_seq, ts_event, now,
                sent & 0xFFFF,
            )  # fmt: skip
            frame = pack(topic, header, texts)
            self._publisher.publish(frame)
            size = len(frame)
            self.frames += 1
            self.bytes += size
            if flags & _STATUS:
                self.statuses += 1
                continue
            count, snapshot = len(texts), bool(flags & _SNAPSHOT)
            self.messages[stream.channel] += count
            self._ring.append(
                stream, epoch, first_seq, 1 if snapshot else count, frame,
                size=size + _ENTRY_OVERHEAD, now=now, snapshot=snapshot, previous=previous,
            )  # fmt: skip
            self._changed[stream] = outlet

    # Beacons ----------------------------------------------------------------------------------------------------

    def beacon(self, now: int, outlets: Iterable[Outlet] | None = None, *, leaving: bool = False) -> None:
        """Say where the streams stand: those changed since the last beacon, or (full) all of `outlets`.

        Call it after `flush`, so that nothing it names is still to be published.
        """
        full = outlets is not None
        positions = [
            StreamPosition(outlet.stream.product, outlet.stream.channel, *position)
            for outlet in (outlets if outlets is not None else self._changed.values())
            if (position := outlet.position) is not None
        ]
        self._changed.clear()
        turn = self._turn
        beacon = Beacon(
            self._shard, self.term, self._instance, turn.input, now, full, positions, turn.inputs, self._sent, leaving
        )
        self._publisher.publish(self._beacon_prefix + messages.encode(beacon))
        self._publisher.settle()
        self.beacons += 1

    def reaches_beacons(self, topic: bytes) -> bool:
        """True if a subscription to `topic` brings the beacons."""
        return self._beacon_prefix.startswith(topic)

    # Ring -------------------------------------------------------------------------------------------------------

    def expire(self, now: int) -> None:
        """Drop what is too old to be retransmitted."""
        self._ring.expire(now)

    def ring_statistics(self) -> RingStatistics:
        """What is retained."""
        return self._ring.statistics()

    def retransmit(
        self, request: RetransmitRequest, outlets: Mapping[StreamKey, Outlet]
    ) -> tuple[Reply | Unavailable, list[bytes]]:
        """The retained frames after a position, as they were published; Unavailable if one of them is gone."""
        stream = StreamKey(request.product, request.channel)
        outlet = outlets.get(stream)
        if outlet is None:
            return Unavailable("not a stream of this shard"), []
        asked = Position(request.epoch, request.seq)
        if outlet.position == asked:
            return Reply(), []
        bound = min(request.max_bytes or REPLY_MAX_BYTES, REPLY_MAX_BYTES)
        if request.or_oldest:
            retained = self._ring.oldest_since(stream, asked, bound)
        else:
            retained = self._ring.since(stream, asked, bound) or []
        if not retained:
            return Unavailable(f"what follows epoch {request.epoch}, seq {request.seq} is not retained"), []
        retained = retained[:REPLY_MAX_FRAMES]
        last = Position(retained[-1].epoch, retained[-1].last_seq)
        return Reply(more=last != self._ring.newest(stream)), [entry.payload for entry in retained]
