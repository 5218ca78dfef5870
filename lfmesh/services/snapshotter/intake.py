"""The shard's replica as the snapshotter keeps it: what changes is scheduled for writing, and counted."""

from lfmesh.core.replica import Replica
from lfmesh.core.state import StreamState
from lfmesh.ports import StoredState
from lfmesh.services.snapshotter.schedule import WriteSchedule
from lfmesh.services.snapshotter.statistics import Counters, SnapshotterStatistics
from lfmesh.types import StreamKey


class Intake(Replica):
    """One shard's input side: `lfmesh.core.replica`, `schedule` and `counters`."""

    def __init__(self, shard: int, book_interval_ns: int) -> None:
        self.schedule = WriteSchedule(book_interval_ns)
        self.counters = Counters()
        super().__init__(shard, self.counters)

    def stored(self, state: StreamState) -> StoredState:
        """A state as the store keeps it, with all that is known of its input."""
        return state.stored(self.input_of(state)[0])

    def statistics(self, now: int, *, store_up: bool, links_rebuilt: int = 0) -> SnapshotterStatistics:
        """The figures of now."""
        feed = self.feed
        return SnapshotterStatistics(
            **self.counters.figures(),
            store_unwritten=len(self.schedule),
            store_up=store_up,
            streams=len(self.state),
            streams_gapped=feed.gapped,
            streams_waiting=feed.waiting,
            held_messages=feed.held_items,
            requests_waiting=self.wants.waiting,
            inputs_followed=len(self.inputs),
            term=feed.term,
            links_rebuilt_total=links_rebuilt,
            beacon_age_ms=None if feed.heard_at is None else (now - feed.heard_at) / 1e6,
        )

    def _changed(self, key: StreamKey, now: int) -> None:
        self.schedule.changed(key, now)

    def _forgotten(self, key: StreamKey) -> None:
        self.schedule.drop(key)
