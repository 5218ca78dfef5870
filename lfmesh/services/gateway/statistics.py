"""What a gateway says of itself: the source of its metrics, of `lfmesh top` and of tests."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

_RATE_WINDOW_NS = 1_000_000_000


def _by(label: str) -> dict[str, object]:
    return {"label": label}


class GatewayStatistics(msgspec.Struct, frozen=True):
    """One gateway's figures; totals count since the process started."""

    clients: Annotated[int, Meta(description="Connected clients")]
    subscriptions: Annotated[int, Meta(description="Streams that clients follow, summed over all of them")]
    joining: Annotated[int, Meta(description="Subscriptions on their way to live")]
    groups: Annotated[int, Meta(description="Different sets of streams that clients follow")]
    streams: Annotated[dict[str, int], Meta(description="Streams by state", extra_json_schema=_by("state"))]

    connections_total: Annotated[int, Meta(description="WebSocket connections opened")]
    refused_total: Annotated[
        dict[str, int], Meta(description="Connections refused, by why", extra_json_schema=_by("reason"))
    ]
    closes_total: Annotated[
        dict[str, int], Meta(description="WebSocket connections ended, by close code", extra_json_schema=_by("code"))
    ]
    policy_closed_total: Annotated[
        dict[str, int], Meta(description="Clients closed with 1008, by why", extra_json_schema=_by("reason"))
    ]
    slow_closed_total: Annotated[
        dict[str, int], Meta(description="Clients closed because they were too slow", extra_json_schema=_by("reason"))
    ]
    slow_clients: Annotated[int, Meta(description="Clients whose sockets take no more for now")]
    conflating: Annotated[int, Meta(description="Clients that are conflated and not live again yet")]
    conflations_total: Annotated[
        dict[str, int], Meta(description="Clients conflated, by why", extra_json_schema=_by("reason"))
    ]
    conflated_messages_total: Annotated[int, Meta(description="Messages made for clients that asked for conflate_ms")]
    merged_messages_total: Annotated[int, Meta(description="Messages that these stand for")]
    requests_total: Annotated[
        dict[str, int], Meta(description="Requests of clients that were taken", extra_json_schema=_by("op"))
    ]
    errors_total: Annotated[
        dict[str, int], Meta(description="Error messages sent to clients", extra_json_schema=_by("code"))
    ]
    rate_limited_total: Annotated[int, Meta(description="Requests refused by the rate limit")]

    deliveries_total: Annotated[int, Meta(description="Published messages sent, counted once for each client")]
    deliveries_per_s: Annotated[float, Meta(description="Deliveries within the last second or so")]
    delivered_bytes_total: Annotated[int, Meta(description="Bytes of market data sent to clients")]
    control_messages_total: Annotated[int, Meta(description="Other messages sent to clients")]
    heartbeats_total: Annotated[int, Meta(description="Heartbeats sent to clients")]
    outbox_bytes: Annotated[int, Meta(description="Bytes that wait for clients, beside their sockets' buffers")]
    joins_total: Annotated[int, Meta(description="Subscriptions begun")]
    resumes_total: Annotated[
        dict[str, int],
        Meta(description="Resumed subscriptions, by what served them", extra_json_schema=_by("rung")),
    ]
    caught_up_total: Annotated[
        int, Meta(description="Slow joins that went on from the normalizer's ring or the archive, not from our ring")
    ]
    archived_bytes_total: Annotated[int, Meta(description="Bytes of the archive for clients that resumed or were slow")]
    archive_answers_total: Annotated[
        dict[str, int],
        Meta(description="Archives' answers for them, by what they were", extra_json_schema=_by("outcome")),
    ]
    moments_total: Annotated[
        dict[str, int], Meta(description="States asked for as of a moment", extra_json_schema=_by("outcome"))
    ]
    snapshots_asked_total: Annotated[int, Meta(description="States asked for on behalf of joining clients")]
    draining: Annotated[bool, Meta(description="1 while clients are sent away")]
    goaways_total: Annotated[int, Meta(description="Clients that were told to go")]

    frames_received_total: Annotated[int, Meta(description="Frames of market data taken from normalizers")]
    messages_received_total: Annotated[int, Meta(description="Messages in them")]
    beacons_received_total: Annotated[int, Meta(description="Beacons taken from normalizers")]
    bad_frames_total: Annotated[int, Meta(description="Frames and answers that could not be read")]
    messages_dropped_total: Annotated[
        dict[str, int], Meta(description="Messages not passed on, by why", extra_json_schema=_by("why"))
    ]
    gaps_total: Annotated[int, Meta(description="Gaps found in what normalizers published")]
    recoveries_total: Annotated[
        dict[str, int], Meta(description="Gaps healed, by what healed them", extra_json_schema=_by("rung"))
    ]
    streams_gapped: Annotated[int, Meta(description="Streams that are known to miss something")]
    voided_total: Annotated[int, Meta(description="Streams taken anew because their publisher had been replaced")]
    asks_total: Annotated[
        dict[str, int], Meta(description="Requests sent to normalizers and snapshotters", extra_json_schema=_by("kind"))
    ]
    ask_timeouts_total: Annotated[int, Meta(description="Of these, without an answer")]
    asks_waiting: Annotated[int, Meta(description="Requests that wait for their turn")]
    shards_attached: Annotated[int, Meta(description="Shards whose normalizer is heard")]
    shards_flowing: Annotated[int, Meta(description="Shards to which records of the venue come")]
    links_rebuilt_total: Annotated[int, Meta(description="Links that were given new sockets as nothing came over them")]

    ring_entries: Annotated[int, Meta(description="Units kept for joins and from_seq")]
    ring_bytes: Annotated[int, Meta(description="Their size")]
    ring_evicted_total: Annotated[int, Meta(description="Units that had to go")]
    lag_ms: Annotated[float | None, Meta(description="From publication to here, newest message")]


@dataclass(slots=True)
class Counters:
    """What the input side counts."""

    frames_total: int = 0
    messages_total: int = 0
    beacons_total: int = 0
    bad_frames_total: int = 0
    gaps_total: int = 0
    voided_total: int = 0
    ask_timeouts_total: int = 0
    lag_ms: float | None = None
    messages_dropped_total: Counter[str] = field(default_factory=Counter)
    recoveries_total: Counter[str] = field(default_factory=Counter)
    asks_total: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class ClientCounters:
    """What the clients' side counts, beside the hub."""

    connections_total: int = 0
    rate_limited_total: int = 0
    goaways_total: int = 0
    refused_total: Counter[str] = field(default_factory=Counter)
    closes_total: Counter[str] = field(default_factory=Counter)
    policy_closed_total: Counter[str] = field(default_factory=Counter)
    requests_total: Counter[str] = field(default_factory=Counter)
    errors_total: Counter[str] = field(default_factory=Counter)


class Rate:
    """A counter's growth per second, over windows of about a second."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._count = 0
        self._at = 0

    def observe(self, count: int, now: int) -> None:
        """The counter stands so high now."""
        elapsed = now - self._at
        if elapsed >= _RATE_WINDOW_NS:
            self.per_s = (count - self._count) / elapsed * 1e9 if self._at else 0.0
            self._count, self._at = count, now
