"""What a run of the checking clients came to: one value for JSON, tables for people."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table

from lfmesh.core.statehash import state_hash
from loadgen.client.latency import Histogram
from loadgen.client.tap import CheckerTap

_SHOWN = 20


class Latency(msgspec.Struct, frozen=True):
    """Percentiles in ms; None without samples."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Report(msgspec.Struct, frozen=True):
    """Sums over all clients. Latencies: from ts_publish and from ts_ingest to the receipt here, without the increments
    `from_before`, which were published before their stream was asked for.

    `disconnections`: connections that were lost, by reason; the library has made them again, and resumed by position
    (`resumes` counts streams; those that could not be have a snapshot with reason `resume_failed`). `missing_trades`
    were declared, see `declared_gaps`. `merged`: increments with `prev_seq`. `longest_pause_ms`: of each channel,
    without a message of one stream of it.
    """

    clients: int
    duration_s: float
    messages: dict[str, int]
    increments: dict[str, int]
    merged: int
    snapshots: dict[str, int]
    continuity: dict[str, int]
    statuses: dict[str, int]
    increments_per_s: float
    bytes_per_s: float
    latency_from_publish: Latency
    latency_from_ingest: Latency
    from_before: int
    declared_gaps: list[tuple[str, int, int]]
    missing_trades: int
    connections: int
    disconnections: dict[str, int]
    resumes: int
    longest_pause_ms: dict[str, float]
    streams: int
    streams_waiting: int
    errors: list[str]
    closed: list[str]
    violations: dict[str, int]
    first_violations: list[str]
    state_hashes: dict[str, int]

    @property
    def failure(self) -> str | None:
        """Why the run is no success, in a few words; None if it is one."""
        if self.violations:
            return f"{sum(self.violations.values())} violations of the protocol"
        if self.errors:
            return f"the gateway refused a request: {self.errors[0]}"
        if self.closed:
            return f"the gateway closed a connection: {self.closed[0]}"
        if not self.increments and not self.snapshots:
            return "nothing came"
        return None


def report(taps: Sequence[CheckerTap], duration_s: float, closed: Sequence[str], *, with_hash: bool) -> Report:
    """Sum up what the clients saw in `duration_s`; `closed`: why the gateway sent clients away."""
    checkers = [tap.checker for tap in taps]
    now = time.time_ns()
    pauses: dict[str, int] = {}
    published, ingested = Histogram(), Histogram()
    messages: Counter[str] = Counter()
    increments: Counter[str] = Counter()
    snapshots: Counter[str] = Counter()
    continuity: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    violations: Counter[str] = Counter()
    streams = merged = 0
    for checker in checkers:
        published.add(checker.publish_latency)
        ingested.add(checker.ingest_latency)
        messages.update(checker.ops)
        messages["incr"] += checker.increments
        statuses.update(status.state for status in checker.statuses)
        violations.update({str(kind): count for kind, count in checker.violations.counts.items()})
        for key, stream in checker.streams():
            streams += 1
            increments[key.channel] += stream.increments
            merged += stream.conflated
            snapshots.update(stream.reasons)
            pauses[key.channel] = max(pauses.get(key.channel, 0), stream.pause(now).ns)
            continuity.update(stream.continuity)
    span = max(duration_s, 1e-9)
    return Report(
        clients=len(checkers),
        duration_s=round(duration_s, 3),
        messages=_positive(messages),
        increments=_positive(increments),
        merged=merged,
        snapshots=dict(snapshots),
        continuity=dict(continuity),
        statuses=dict(statuses),
        increments_per_s=round(sum(increments.values()) / span, 1),
        bytes_per_s=round(sum(checker.bytes_received for checker in checkers) / span, 1),
        latency_from_publish=_latency(published),
        latency_from_ingest=_latency(ingested),
        from_before=sum(checker.from_before for checker in checkers),
        declared_gaps=(declared := sorted({gap for checker in checkers for gap in checker.declared_gaps()})),
        missing_trades=sum(last - first + 1 for _, first, last in declared),
        connections=sum(tap.connections for tap in taps),
        disconnections=dict(Counter(reason for tap in taps for _, reason in tap.disconnections)),
        resumes=sum(tap.resumes for tap in taps),
        longest_pause_ms={str(channel): round(ns / 1e6, 1) for channel, ns in pauses.items()},
        streams=streams,
        streams_waiting=sum(len(checker.waiting()) for checker in checkers),
        errors=list(dict.fromkeys(error for checker in checkers for error in checker.errors)),
        closed=list(closed),
        violations=dict(violations),
        first_violations=[str(found) for checker in checkers for found in checker.violations.first][:_SHOWN],
        state_hashes=dict(Counter(state_hash(checker.product_states()) for checker in checkers)) if with_hash else {},
    )


def _positive(counts: Counter[str]) -> dict[str, int]:
    return {str(name): count for name, count in counts.items() if count}


def _latency(histogram: Histogram) -> Latency:
    def ms(value: int | None) -> float | None:
        return None if value is None else round(value / 1e6, 3)

    percentile = histogram.percentile
    highest = histogram.max if histogram.count else None
    return Latency(ms(percentile(0.50)), ms(percentile(0.95)), ms(percentile(0.99)), ms(highest))


def rendered(found: Report) -> RenderableType:
    """The report as tables."""
    counts = Table(title=f"{found.clients} clients, {found.duration_s:.1f} s", title_justify="left")
    counts.add_column("what")
    counts.add_column("count", justify="right")
    counts.add_column("per second", justify="right")
    span = max(found.duration_s, 1e-9)
    rows: list[tuple[str, dict[str, int]]] = [
        ("increments, {}", found.increments),
        ("continuity {}", found.continuity),
        ("snapshots, {}", found.snapshots),
        ("status {}", found.statuses),
        ("messages {}", found.messages),
    ]
    for name, values in rows:
        for key, count in sorted(values.items()):
            counts.add_row(name.format(key), f"{count:,}", f"{count / span:,.1f}")
    if found.merged:
        counts.add_row("of these increments with prev_seq", f"{found.merged:,}", f"{found.merged / span:,.1f}")
    counts.add_row("kilobytes", f"{found.bytes_per_s * span / 1000:,.0f}", f"{found.bytes_per_s / 1000:,.1f}")
    latency = Table(title="latency to this client, ms", title_justify="left")
    for column in ("from", "p50", "p95", "p99", "max"):
        latency.add_column(column, justify="left" if column == "from" else "right")
    for name, value in (("ts_publish", found.latency_from_publish), ("ts_ingest", found.latency_from_ingest)):
        shown = (value.p50_ms, value.p95_ms, value.p99_ms, value.max_ms)
        latency.add_row(name, *("-" if figure is None else f"{figure:,.2f}" for figure in shown))
    return Group(counts, latency, *_lines(found))


def _lines(found: Report) -> Iterable[str]:
    yield f"from before joining, not counted: {found.from_before:,}"
    yield f"streams: {found.streams}, of which {found.streams_waiting} still wait for their first message"
    lost = sum(found.disconnections.values())
    failed = found.snapshots.get("resume_failed", 0)
    yield f"connections: {found.connections}, lost {lost}; streams resumed: {found.resumes - failed} of {found.resumes}"
    yield from _some("lost because", [f"{reason} ({count})" for reason, count in found.disconnections.items()], str)
    pauses = ", ".join(f"{channel} {ms:,.0f}" for channel, ms in sorted(found.longest_pause_ms.items()))
    yield f"longest pause of a stream, ms: {pauses or '-'}"
    yield f"trades declared missing: {found.missing_trades}"
    yield from _some("declared gaps", [f"{product} trades {a} to {b}" for product, a, b in found.declared_gaps], str)
    yield from _some("errors", found.errors, str)
    yield from _some("closed", found.closed, str)
    for value, count in found.state_hashes.items():
        yield f"state hash: {value} ({count} of {found.clients} clients)"
    total = sum(found.violations.values())
    yield from _some(f"violations: {total} in all; the first", found.first_violations, str)
    yield f"FAILED: {found.failure}" if found.failure else "OK: no violations"


def _some(title: str, items: Sequence[str], show: Callable[[str], str]) -> Iterable[str]:
    if items:
        yield f"{title}:"
        yield from (f"  {show(item)}" for item in items[:_SHOWN])
        if len(items) > _SHOWN:
            yield f"  and {len(items) - _SHOWN} more"
