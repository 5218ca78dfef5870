"""A run for people: its progress, and the table at the end. Pure."""

from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from loadgen.load.report import LoadReport, Percentiles
from loadgen.load.run import Shown

_SHOWN = 10


class Rates:
    """Messages and bytes a second, from one look at the progress to the next."""

    def __init__(self) -> None:
        self.messages_per_s = 0.0
        self.mb_per_s = 0.0
        self._last: tuple[float, int, int] | None = None

    def observe(self, shown: Shown, now: float) -> None:
        """The progress at a moment (s, any clock that goes on)."""
        messages, received = shown.progress.messages, shown.progress.bytes
        if self._last is not None and now > self._last[0]:
            span = now - self._last[0]
            self.messages_per_s = max(0.0, (messages - self._last[1]) / span)
            self.mb_per_s = max(0.0, (received - self._last[2]) / span / 1e6)
        self._last = (now, messages, received)


def progress(shown: Shown, rates: Rates) -> RenderableType:
    """One line, and a bar where the end is known."""
    found = shown.progress
    line = Table.grid(padding=(0, 2))
    total = shown.of_s or max(1, found.clients)
    done = min(shown.elapsed_s, total) if shown.of_s else found.settled
    cells: list[RenderableType] = [
        shown.phase,
        ProgressBar(total=total, completed=done, width=24),
        f"{shown.elapsed_s:.0f} s" + (f" of {shown.of_s:g}" if shown.of_s else ""),
        f"{found.joined:,} of {found.clients:,} joined, {found.connected:,} connected",
        f"{rates.messages_per_s:,.0f} messages/s",
        f"{rates.mb_per_s:,.1f} MB/s",
    ]
    if found.violations:
        cells.append(f"[red]{found.violations:,} violations[/red]")
    line.add_row(*cells)
    return line


def rendered(found: LoadReport) -> RenderableType:
    """The report as tables, and lines for what is seldom."""
    return Group(_groups(found), _latencies(found), _roles(found), *_lines(found))


def _groups(found: LoadReport) -> Table:
    title = f"{found.clients:,} clients, {found.duration_s:.1f} s: {found.deliveries_per_s:,.0f} deliveries/s"
    table = Table(title=f"{title}, {found.mb_per_s:,.1f} MB/s", title_justify="left")
    for column in ("clients", "number", "joined", "deliveries/s", "MB/s", "p50", "p95", "p99", "p99.9", "max ms"):
        table.add_column(column, justify="left" if column == "clients" else "right")
    table.add_column("closed by the gateway, refused, what became of them")
    for name, group in found.groups.items():
        told = [_counts("closed ", group.closes), _counts("refused ", group.refused), _counts("", group.outcomes)]
        table.add_row(
            name,
            f"{group.clients:,}",
            f"{group.joined:,}",
            f"{group.deliveries_per_s:,.0f}",
            f"{group.mb_per_s:,.2f}",
            *_cells(group.latency),
            "; ".join(filter(None, told)),
        )
    return table


def _latencies(found: LoadReport) -> Table:
    table = Table(title="times, ms", title_justify="left")
    for column in ("of", "count", "p50", "p95", "p99", "p99.9", "max"):
        table.add_column(column, justify="left" if column == "of" else "right")
    good = found.groups.get("good")
    rows = [
        ("connecting", found.connect),
        ("first data after subscribing", found.first),
        ("all streams begun", found.join),
        ("served again after a lost connection", found.rejoin),
    ]
    if good is not None:
        rows.insert(0, ("ts_publish to a good client", good.publish_latency))
        rows.insert(0, ("ts_ingest to a good client", good.latency))
    for name, times in rows:
        if times.count:
            table.add_row(name, f"{times.count:,}", *_cells(times))
    return table


def _roles(found: LoadReport) -> Table:
    table = Table(title="processes", title_justify="left")
    for column in ("process", "CPU % of a core", "memory MB"):
        table.add_column(column, justify="left" if column == "process" else "right")
    for name, usage in [*found.roles.items(), ("this load", found.load)]:
        table.add_row(name, f"{usage.cpu_percent:,.0f}", f"{usage.rss_mb:,.0f}")
    return table


def _lines(found: LoadReport) -> Iterator[str]:
    yield (
        f"checked: {found.checked:,} clients, {found.checked_messages:,} messages; gaps {found.gaps}, violations "
        f"{found.violations_total}{_in_brackets(found.violations)}; snapshots {_counts('', found.snapshots) or 'none'}"
    )
    yield (
        f"conflations {found.conflations}, merged increments {found.merged:,}, trades declared missing "
        f"{found.trades_missing:,}; bytes compared {found.compared:,}, differing {found.differing}"
    )
    if found.not_joined:
        yield f"not joined in time: {found.not_joined:,} clients"
    if found.dropped:
        yield f"dropped at once: {found.dropped:,}, of which {found.rejoined:,} have been served again"
    if found.errors:
        yield f"errors: {_counts('', found.errors)}"
    if found.statuses:
        yield f"statuses: {_counts('', found.statuses)}"
    conflated = {name: count for name, count in found.gateway.items() if "conflat" in name or "closed" in name}
    if conflated:
        yield f"gateway: {_counts('', conflated)}"
    for title, lines in (
        ("refused", found.refused_by),
        ("violations", found.first_violations),
        ("different bytes", found.differences),
    ):
        for line in lines[:_SHOWN]:
            yield f"{title}: {line}"
        if len(lines) > _SHOWN:
            yield f"{title}: and {len(lines) - _SHOWN} more"


def _cells(times: Percentiles) -> list[str]:
    values = (times.p50_ms, times.p95_ms, times.p99_ms, times.p999_ms, times.max_ms)
    return ["-" if value is None else f"{value:,.2f}" for value in values]


def _counts(title: str, counts: Mapping[str, float]) -> str:
    told = ", ".join(f"{name} {count:,.0f}" for name, count in sorted(counts.items()))
    return f"{title}{told}" if told else ""


def _in_brackets(counts: Mapping[str, float]) -> str:
    return f" ({_counts('', counts)})" if counts else ""
