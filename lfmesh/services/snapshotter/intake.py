"""The shard's replica as the snapshotter keeps it: what changes is scheduled for writing, archived and counted."""

from collections.abc import Mapping, Sequence
from typing import Any

from lfmesh.core.codec import Header
from lfmesh.core.replica import Replica
from lfmesh.core.state import StreamState
from lfmesh.messages import SnapshotReply
from lfmesh.ports import StoredState
from lfmesh.services.snapshotter.latency import StoreLatency
from lfmesh.services.snapshotter.schedule import WriteSchedule
from lfmesh.services.snapshotter.statistics import Counters, SnapshotterStatistics
from lfmesh.services.snapshotter.tape import Tape
from lfmesh.types import Channel, StreamKey

_TICKER = Channel.TICKER


class Intake(Replica):
    """One shard's input side: `lfmesh.core.replica`, `schedule`, `latency`, `tape` (None: no archive), `counters`."""

    def __init__(self, shard: int, book_interval_ns: int) -> None:
        self.schedule = WriteSchedule(book_interval_ns)
        self.latency = StoreLatency()
        self.counters = Counters()
        self.tape: Tape | None = None
        super().__init__(shard, self.counters)

    def stored(self, state: StreamState) -> StoredState:
        """A state as the store keeps it, with all that is known of its input."""
        return state.stored(self.input_of(state)[0])

    def statistics(
        self, now: int, *, store_up: bool, links_rebuilt: int = 0, archive: Mapping[str, Any] | None = None
    ) -> SnapshotterStatistics:
        """The figures of now; `archive` are those of the archive, by their names."""
        feed = self.feed
        latency = self.latency.percentiles(now)
        return SnapshotterStatistics(
            **self.counters.figures(),
            store_unwritten=len(self.schedule),
            store_up=store_up,
            store_latency_p50_ms=latency.p50_ms,
            store_latency_p99_ms=latency.p99_ms,
            streams=len(self.state),
            streams_gapped=feed.gapped,
            streams_waiting=feed.waiting,
            held_messages=feed.held_items,
            requests_waiting=self.wants.waiting,
            inputs_followed=len(self.inputs),
            term=feed.term,
            links_rebuilt_total=links_rebuilt,
            beacon_age_ms=None if feed.heard_at is None else (now - feed.heard_at) / 1e6,
            **(archive or {}),
        )

    def _changed(self, key: StreamKey, now: int) -> None:
        self.schedule.changed(key, now)

    def _forgotten(self, key: StreamKey) -> None:
        self.schedule.drop(key)

    def _published(self, key: StreamKey, header: Header, count: int, frame: bytes, now: int) -> None:  # noqa: ARG002 - as declared
        if key.channel is _TICKER:
            self.latency.published(header.ts_publish)
        if self.tape is not None:
            self.tape.published(key, header, count, frame)

    def _based(self, key: StreamKey, reply: SnapshotReply, parts: Sequence[bytes], now: int) -> None:  # noqa: ARG002 - as declared
        state = self.state.get(key)
        if self.tape is not None and state is not None:
            self.tape.torn(state, parts, self.feed.publisher, reply.input)
