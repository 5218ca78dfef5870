"""What a run came to: one value for JSON and for `--expect`, summed up from the counts of its processes."""

from collections.abc import Sequence

import msgspec

from loadgen.client.latency import Histogram
from loadgen.load.config import SILENT, Behaviour, LoadConfig
from loadgen.load.counts import Counts, GroupCounts, Spread, add, merged
from loadgen.load.ledger import Ledger
from loadgen.load.roles import RoleUsage

_GAPS = ("seq", "epoch", "start", "trade_gap", "trade_order")
_MAX_TOLD = 20


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds; None without samples."""

    count: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    max_ms: float | None = None


class GroupReport(msgspec.Struct, frozen=True):
    """Clients of one behaviour. `latency` from ts_ingest, `publish_latency` from ts_publish, to the receipt."""

    clients: int = 0
    joined: int = 0
    connections: int = 0
    deliveries: int = 0
    deliveries_per_s: float = 0.0
    mb_per_s: float = 0.0
    latency: Percentiles = Percentiles()
    publish_latency: Percentiles = Percentiles()
    refused: dict[str, int] = {}
    closes: dict[str, int] = {}
    outcomes: dict[str, int] = {}


class LoadReport(msgspec.Struct, frozen=True):
    """One run. Latencies and rates at the top are those of good clients, or of all where there are none.

    `latency_*` from ts_ingest (the first byte of the venue's frame in the mesh), `publish_latency_*` from ts_publish,
    to the receipt here. `connect`: the handshake; `first`: from the request to the first data; `join`: until everything
    that was asked for had begun; `rejoin`: the same after a lost connection. `closes`: connections that the gateway
    ended, by code (1006: without one). Of checked clients: `gaps` (undeclared), `violations` of the protocol by kind,
    `snapshots` by reason, `conflations` (snapshots with reason conflated), `merged` (increments with prev_seq),
    `trades_missing` (declared), `compared` messages of which `differing` were not the same bytes for all. `gaps` and
    `violations_total` are None where no message was checked, `differing` where none was compared.
    `roles`: each process by its name; a gateway of several workers also as a whole, under its own.
    `gateway`: by how much its counters grew while it was measured. `load`: this program's own CPU and memory.
    """

    clients: int
    processes: int
    joined: int
    not_joined: int
    duration_s: float
    deliveries: int
    deliveries_per_s: float
    mb_per_s: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    latency_p999_ms: float | None
    latency_max_ms: float | None
    publish_latency_p50_ms: float | None
    publish_latency_p95_ms: float | None
    publish_latency_p99_ms: float | None
    publish_latency_p999_ms: float | None
    publish_latency_max_ms: float | None
    connect: Percentiles
    first: Percentiles
    join: Percentiles
    rejoin: Percentiles
    dropped: int
    rejoined: int
    checked: int
    checked_messages: int
    gaps: int | None
    conflations: int
    merged: int
    trades_missing: int
    compared: int
    differing: int | None
    violations_total: int | None
    violations: dict[str, int]
    snapshots: dict[str, int]
    statuses: dict[str, int]
    errors: dict[str, int]
    refused_total: int
    refused: dict[str, int]
    closes_total: int
    closes: dict[str, int]
    outcomes: dict[str, int]
    groups: dict[str, GroupReport]
    roles: dict[str, RoleUsage]
    gateway: dict[str, float]
    load: RoleUsage
    first_violations: list[str]
    differences: list[str]
    refused_by: list[str]


def percentiles(histogram: Histogram) -> Percentiles:
    """Of a histogram of ns."""
    if not histogram.count:
        return Percentiles()

    def at(share: float) -> float:
        return round((histogram.percentile(share) or 0) / 1e6, 3)

    return Percentiles(histogram.count, at(0.5), at(0.95), at(0.99), at(0.999), round(histogram.max / 1e6, 3))


def report(
    config: LoadConfig, parts: Sequence[Counts], roles: dict[str, RoleUsage], gateway: dict[str, float]
) -> LoadReport:
    """Sum up a run."""
    ledger = _compared(parts)
    span = max((part.duration_s for part in parts), default=0.0)
    names = [str(one) for one in Behaviour if any(str(one) in part.groups for part in parts)]
    groups = {name: _group(name, parts, span) for name in names}
    leading = [name for name in names if name == Behaviour.GOOD] or names
    top = _group_of([part.groups[name] for part in parts for name in leading if name in part.groups], span)
    sums: dict[str, dict[str, int]] = {key: {} for key in ("violations", "snapshots", "statuses", "errors")}
    closes: dict[str, int] = {}
    refused: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    for part in parts:
        for key, into in sums.items():
            add(into, getattr(part, key))
    for group in groups.values():
        add(closes, group.closes)
        add(refused, group.refused)
        add(outcomes, group.outcomes)
    subscribing = [group for name, group in groups.items() if name not in SILENT]
    joined = sum(group.joined for group in subscribing)
    checked_messages = sum(part.checked_messages for part in parts)
    latency, published = top.latency, top.publish_latency
    return LoadReport(
        clients=sum(group.clients for group in groups.values()),
        processes=config.processes,
        joined=joined,
        not_joined=sum(group.clients for group in subscribing) - joined,
        duration_s=round(span, 3),
        deliveries=sum(group.deliveries for group in groups.values()),
        deliveries_per_s=round(sum(group.deliveries_per_s for group in groups.values()), 1),
        mb_per_s=round(sum(group.mb_per_s for group in groups.values()), 3),
        latency_p50_ms=latency.p50_ms,
        latency_p95_ms=latency.p95_ms,
        latency_p99_ms=latency.p99_ms,
        latency_p999_ms=latency.p999_ms,
        latency_max_ms=latency.max_ms,
        publish_latency_p50_ms=published.p50_ms,
        publish_latency_p95_ms=published.p95_ms,
        publish_latency_p99_ms=published.p99_ms,
        publish_latency_p999_ms=published.p999_ms,
        publish_latency_max_ms=published.max_ms,
        connect=_spread([part.connect for part in parts]),
        first=_spread([part.first for part in parts]),
        join=_spread([part.join for part in parts]),
        rejoin=_spread([part.rejoin for part in parts]),
        dropped=sum(part.dropped for part in parts),
        rejoined=sum(part.rejoined for part in parts),
        checked=sum(part.checked for part in parts),
        checked_messages=checked_messages,
        gaps=sum(sums["violations"].get(kind, 0) for kind in _GAPS) if checked_messages else None,
        conflations=sums["snapshots"].get("conflated", 0),
        merged=sum(part.merged for part in parts),
        trades_missing=sum(part.trades_missing for part in parts),
        compared=ledger.compared,
        differing=ledger.differing if ledger.compared else None,
        violations_total=sum(sums["violations"].values()) if checked_messages else None,
        violations=sums["violations"],
        snapshots=sums["snapshots"],
        statuses=sums["statuses"],
        errors=sums["errors"],
        refused_total=sum(refused.values()),
        refused=refused,
        closes_total=sum(closes.values()),
        closes=closes,
        outcomes=outcomes,
        groups=groups,
        roles=roles,
        gateway=gateway,
        load=RoleUsage(
            cpu_percent=round(100 * sum(part.cpu_s for part in parts) / max(span, 1e-9), 1),
            rss_mb=round(sum(part.rss_bytes for part in parts) / 1e6, 1),
        ),
        first_violations=[found for part in parts for found in part.first_violations][:_MAX_TOLD],
        differences=ledger.examples,
        refused_by=list(dict.fromkeys(reason for part in parts for reason in part.refused_by)),
    )


def _compared(parts: Sequence[Counts]) -> Ledger:
    """What was compared within processes, and now between them."""
    ledger = Ledger()
    for part in parts:
        ledger.compared += part.compared
        ledger.differing += part.differing
        ledger.examples += part.differences
        ledger.compare_told(part.told)
    return ledger


def _spread(parts: Sequence[Spread]) -> Percentiles:
    return percentiles(merged(parts))


def _group(name: str, parts: Sequence[Counts], span: float) -> GroupReport:
    return _group_of([part.groups[name] for part in parts if name in part.groups], span)


def _group_of(parts: Sequence[GroupCounts], span: float) -> GroupReport:
    span = max(span, 1e-9)
    refused: dict[str, int] = {}
    closes: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    for part in parts:
        add(refused, part.refused)
        add(closes, part.closes)
        add(outcomes, part.outcomes)
    deliveries = sum(part.deliveries for part in parts)
    return GroupReport(
        clients=sum(part.clients for part in parts),
        joined=sum(part.joined for part in parts),
        connections=sum(part.connections for part in parts),
        deliveries=deliveries,
        deliveries_per_s=round(deliveries / span, 1),
        mb_per_s=round(sum(part.bytes for part in parts) / span / 1e6, 3),
        latency=_spread([part.ingest for part in parts]),
        publish_latency=_spread([part.publish for part in parts]),
        refused=refused,
        closes=closes,
        outcomes=outcomes,
    )
