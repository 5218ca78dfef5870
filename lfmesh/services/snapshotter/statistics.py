"""What a snapshotter counts, and what it tells of it."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import msgspec

from lfmesh.core.replica import ReplicaCounters


def _figure(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


def _by(label: str, description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description, extra_json_schema={"label": label})


class SnapshotterStatistics(msgspec.Struct, frozen=True):
    """Totals count since the process started."""

    frames_received_total: Annotated[int, _figure("Frames taken from the subscription")]
    messages_received_total: Annotated[int, _figure("Messages in them, beacons not counted")]
    beacons_received_total: Annotated[int, _figure("Beacons taken from the subscription")]
    bad_frames_total: Annotated[int, _figure("Frames, replies and requests that could not be read")]
    messages_dropped_total: Annotated[
        dict[str, int], _by("why", "Messages not applied: duplicate, of an older epoch or term, or past the held bound")
    ]
    state_updates_total: Annotated[int, _figure("Increments applied to a state")]
    snapshots_received_total: Annotated[int, _figure("Published snapshots that replaced a state")]
    states_discarded_total: Annotated[int, _figure("States thrown away: void by a take-over, or unreadable")]
    gaps_total: Annotated[int, _figure("Gaps found")]
    recoveries_total: Annotated[dict[str, int], _by("rung", "Gaps healed, by what healed them")]
    recovery_requests_total: Annotated[dict[str, int], _by("rung", "Requests sent to the normalizer")]
    recovery_timeouts_total: Annotated[int, _figure("Requests to the normalizer that got no answer")]
    term_changes_total: Annotated[int, _figure("Times that a publisher with a higher term appeared")]
    requests_total: Annotated[
        dict[str, int], _by("outcome", "Requests answered: state, summaries, unavailable, rejected")
    ]
    snapshots_created_total: Annotated[int, _figure("States encoded for an answer; more answers may share one")]
    store_writes_total: Annotated[int, _figure("Batches written to the store")]
    store_states_written_total: Annotated[int, _figure("States written to the store")]
    store_states_ignored_total: Annotated[int, _figure("States that the store already had, or had newer")]
    store_bytes_written_total: Annotated[int, _figure("Bytes of the states written to the store")]
    store_errors_total: Annotated[int, _figure("Failed attempts to open, read or write the store")]
    store_write_ms: Annotated[float, _figure("Time that the last batch took to be written")]
    store_write_max_ms: Annotated[float, _figure("Longest time that a batch took to be written")]
    store_batch_states: Annotated[int, _figure("States in the last batch")]
    store_lag_ms: Annotated[float, _figure("From the oldest change in the last batch to its being stored")]
    store_latency_p50_ms: Annotated[
        float | None, _figure("From a tick's publication to its being stored, median of the last minute")
    ]
    store_latency_p99_ms: Annotated[float | None, _figure("The same, 99 of 100 ticks")]
    store_unwritten: Annotated[int, _figure("Streams that have changed since they were written")]
    store_up: Annotated[bool, _figure("1 while the store can be used")]
    streams: Annotated[int, _figure("Streams with a state")]
    streams_gapped: Annotated[int, _figure("Streams that are known to miss something")]
    streams_waiting: Annotated[int, _figure("Streams that wait for their first snapshot")]
    held_messages: Annotated[int, _figure("Messages held back until their stream's gap is healed")]
    requests_waiting: Annotated[int, _figure("Recovery requests that wait for their turn")]
    inputs_followed: Annotated[int, _figure("Ingestors of which it is known how far their records are in the states")]
    term: Annotated[int, _figure("Term of the publisher that is followed; 0 before the first")]
    links_rebuilt_total: Annotated[int, _figure("Links that were given new sockets as nothing came over them")]
    beacon_age_ms: Annotated[float | None, _figure("Time since the publisher's last beacon")]
    input_lag_ms: Annotated[float | None, _figure("From publication to here, newest message")]
    primary: Annotated[bool | None, _figure("1 while it is this one of a pair that uploads")] = None
    object_store_up: Annotated[bool | None, _figure("1 while the object store can be used")] = None
    journal_bytes: Annotated[int | None, _figure("Bytes of the local journal")] = None
    journal_lag_ms: Annotated[float | None, _figure("How long the oldest frame waits to be written to the journal")] = (
        None
    )
    journal_lost_frames_total: Annotated[int | None, _figure("Frames that could not be journaled")] = None
    segments_cut_total: Annotated[int | None, _figure("Tape segments cut from the journal")] = None
    checkpoints_total: Annotated[int | None, _figure("Full states of the shard that were kept")] = None
    spool_bytes: Annotated[int | None, _figure("Bytes that wait on local disk for the object store")] = None
    spool_objects: Annotated[int | None, _figure("Objects that wait on local disk for the object store")] = None
    dropped_tape_bytes_total: Annotated[int | None, _figure("Bytes of tape dropped as the spool was full")] = None
    dropped_tape_objects_total: Annotated[int | None, _figure("Tape segments dropped as the spool was full")] = None
    uploads_total: Annotated[int | None, _figure("Objects uploaded")] = None
    upload_bytes_total: Annotated[int | None, _figure("Bytes uploaded")] = None
    upload_errors_total: Annotated[int | None, _figure("Failed attempts to reach the object store")] = None
    retention_deleted_objects_total: Annotated[
        int | None, _figure("Objects deleted as too old or too much, as archive.retention_ says")
    ] = None
    retention_deleted_bytes_total: Annotated[int | None, _figure("Bytes of them")] = None
    last_upload_age_s: Annotated[float | None, _figure("Time since the last upload")] = None


@dataclass(slots=True)
class Counters(ReplicaCounters):
    """The mutable side of `SnapshotterStatistics`; the same names."""

    snapshots_created_total: int = 0
    store_writes_total: int = 0
    store_states_written_total: int = 0
    store_states_ignored_total: int = 0
    store_bytes_written_total: int = 0
    store_errors_total: int = 0
    store_write_ms: float = 0.0
    store_write_max_ms: float = 0.0
    store_batch_states: int = 0
    store_lag_ms: float = 0.0
    requests_total: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """Name and value of each, copied."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}
