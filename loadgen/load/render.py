"""A run for people: its progress, and the table at the end. Pure."""

from collections.abc import Iterator, Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from loadgen.load.report import LoadReport
from loadgen.load.run import Shown

_SHOWN = 10
_WHOLE_FROM_MS = 1000


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
    return Group(_groups(found), *_became(found), "", _latencies(found), _roles(found), *_lines(found))


def _table(title: str, *columns: str) -> Table:
    """As narrow as it can be: 80 columns are enough. The first column is of words, the others are of figures."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left", no_wrap=True)
    return table


def _groups(found: LoadReport) -> Table:
    title = f"{found.clients:,} clients, {found.duration_s:.1f} s: {found.deliveries_per_s:,.0f} deliveries/s"
    title = f"{title}, {found.mb_per_s:,.1f} MB/s"
    table = _table(title, "clients", "number", "joined", "deliver/s", "MB/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms")
    for name, group in found.groups.items():
        times = group.latency
        table.add_row(
            name,
            f"{group.clients:,}",
            f"{group.joined:,}",
            f"{group.deliveries_per_s:,.0f}",
            f"{group.mb_per_s:,.2f}",
            *map(_ms, (times.p50_ms, times.p99_ms, times.p999_ms, times.max_ms)),
        )
    return table


def _became(found: LoadReport) -> Iterator[str]:
    """What became of clients, a line for each behaviour of which there is something to tell."""
    for name, group in found.groups.items():
        told = [
            _counts("", group.outcomes),
            _counts("connections ended by the gateway, by code: ", group.closes),
            _counts("refused: ", group.refused),
        ]
        if any(told):
            yield f"{name}: {'; '.join(filter(None, told))}"


def _latencies(found: LoadReport) -> Table:
    table = _table("times in ms", "of", "count", "p50", "p95", "p99", "p99.9", "max")
    good = found.groups.get("good")
    rows = [
        ("connecting", found.connect),
        ("first data after subscribing", found.first),
        ("all streams begun", found.join),
        ("back after a lost connection", found.rejoin),
    ]
    if good is not None:
        rows.insert(0, ("ts_publish to a good client", good.publish_latency))
        rows.insert(0, ("ts_ingest to a good client", good.latency))
    for name, times in rows:
        if times.count:
            values = (times.p50_ms, times.p95_ms, times.p99_ms, times.p999_ms, times.max_ms)
            table.add_row(name, f"{times.count:,}", *map(_ms, values))
    return table


def _roles(found: LoadReport) -> Table:
    table = _table("processes", "process", "CPU, % of a core", "memory, MB")
    for name, usage in [*found.roles.items(), ("this load", found.load)]:
        label = f"{name}, all of it" if any(other.startswith(f"{name}.") for other in found.roles) else name
        table.add_row(label, f"{usage.cpu_percent:,.0f}", f"{usage.rss_mb:,.0f}")
    return table


def _lines(found: LoadReport) -> Iterator[str]:
    yield (
        f"checked: {found.checked:,} clients of {found.clients:,}, {found.checked_messages:,} messages; gaps "
        f"{_or_unknown(found.gaps)}, violations {_or_unknown(found.violations_total)}{_in_brackets(found.violations)}; "
        f"snapshots {_counts('', found.snapshots) or 'none'}"
    )
    yield (
        f"conflations {found.conflations}, merged increments {found.merged:,}, trades declared missing "
        f"{found.trades_missing:,}; bytes compared {found.compared:,}, differing {_or_unknown(found.differing)}"
    )
    if found.not_joined:
        yield f"not joined in time: {found.not_joined:,} clients"
    if found.dropped:
        yield f"dropped at once: {found.dropped:,}, of which {found.rejoined:,} have been served again"
    if found.errors:
        yield f"errors: {_counts('', found.errors)}"
    if found.statuses:
        yield f"statuses: {_counts('', found.statuses)}"
    felt = {name: count for name, count in found.gateway.items() if count and ("conflat" in name or "closed" in name)}
    if felt:
        yield f"gateway: {_counts('', felt)}"
    for title, lines in (
        ("refused", found.refused_by),
        ("violations", found.first_violations),
        ("different bytes", found.differences),
    ):
        for line in lines[:_SHOWN]:
            yield f"{title}: {line}"
        if len(lines) > _SHOWN:
            yield f"{title}: and {len(lines) - _SHOWN} more"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= _WHOLE_FROM_MS else f"{value:.2f}"


def _or_unknown(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _counts(title: str, counts: Mapping[str, float]) -> str:
    told = ", ".join(f"{name} {count:,.0f}" for name, count in sorted(counts.items()))
    return f"{title}{told}" if told else ""


def _in_brackets(counts: Mapping[str, float]) -> str:
    return f" ({_counts('', counts)})" if counts else ""
