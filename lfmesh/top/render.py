"""The monitor's screen as a function of its rows."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lfmesh.top.columns import Column, table
from lfmesh.top.slowest import SlowRow
from lfmesh.top.state import Row, totals
from lfmesh.top.workers import with_sums

_NONE = "–"
_DUTY_STYLE = {"active": "green", "standby": "cyan", "draining": "bold yellow"}
_STYLE = {"ready": "green", "not ready": "yellow", "silent": "bold red", "gone": "dim red", "announced": "cyan"}


def render(
    rows: Sequence[Row],
    registries: tuple[int, int],
    slowest: Sequence[SlowRow] = (),
    *,
    live: bool = True,
    width: int = 200,
) -> RenderableType:
    """The whole screen; `registries`: how many replicas answer, of how many (0 of 0: static peers).

    Columns that have no room in `width` are left out, the least important first.
    """
    roles = Group(_heading(rows, registries, live=live), table(_columns(with_sums(rows)), width))
    return Group(roles, Text(), _slowest(slowest, width)) if slowest else roles


def _heading(rows: Sequence[Row], registries: tuple[int, int], *, live: bool) -> Text:
    into, out, clients = totals(rows)
    ready = sum(row.state == "ready" for row in rows)
    heading = Text.assemble(
        ("lfmesh top", "bold"),
        f"  {ready} of {len(rows)} ready  ",
        f"{number(into)} msg/s in  {number(out)} msg/s to {clients} client{'' if clients == 1 else 's'}  ",
    )
    missing, fetches = sum(row.open_gaps or 0 for row in rows), sum(row.backfills or 0 for row in rows)
    if missing:
        heading.append(f"{number(missing)} gap{'' if missing == 1 else 's'} open  ", "bold yellow")
    if fetches:
        heading.append(f"{number(fetches)} fetched from the venue  ", "yellow")
    answering, all_of_them = registries
    if all_of_them == 0:
        heading.append("static peers", "dim")
    elif answering == 0:
        heading.append("no registry answers: the last view is shown", "bold red")
    else:
        heading.append(f"registry {answering}/{all_of_them}", "" if answering == all_of_them else "yellow")
    if live:
        heading.append("   Ctrl-C ends", "dim")
    return heading


def _columns(rows: Sequence[Row]) -> list[Column]:
    def figures(name: str, spare: int, texts: Iterable[str | Text]) -> Column:
        return Column(name, [text if isinstance(text, Text) else Text(text) for text in texts], spare, "right")

    return [
        Column("role", [Text(row.instance) for row in rows]),
        Column("state", [Text(row.state, style=_STYLE[row.state]) for row in rows]),
        *_if_any(Column("duty", [Text(duty, style=_DUTY_STYLE.get(duty, "")) for duty in duties(rows)], 2)),
        figures("shard", 8, (_NONE if row.shard is None else str(row.shard) for row in rows)),
        figures("in/s", 1, (number(row.messages_in_per_s) for row in rows)),
        figures("out/s", 1, (number(row.messages_out_per_s) for row in rows)),
        figures("lag ms", 4, (_NONE if row.lag_ms is None else f"{row.lag_ms:.1f}" for row in rows)),
        figures("queue", 7, (number(row.queue_messages) for row in rows)),
        figures("gaps", 5, (_counted(row.gaps) for row in rows)),
        *_if_any(figures("open", 3, (_counted(row.open_gaps) for row in rows))),
        *_if_any(figures("fetches", 5, (_counted(row.backfills) for row in rows))),
        *_if_any(figures("links lost", 9, (_counted(row.links_lost) for row in rows))),
        figures("clients", 10, (number(row.clients) for row in rows)),
        figures("cpu %", 6, (_NONE if row.cpu_percent is None else f"{row.cpu_percent:.1f}" for row in rows)),
        figures("mem MB", 11, (_NONE if row.rss_bytes is None else f"{row.rss_bytes / 1e6:.0f}" for row in rows)),
        figures("age", 12, (age(row.age_s) for row in rows)),
        figures("restarts", 7, (_counted(row.restarts) for row in rows)),
        figures("pid", 13, (str(row.pid or _NONE) for row in rows)),
        *_if_any(Column("mended by", [Text(mended(row)) for row in rows], 9, wraps=True)),
        Column("", [Text("; ".join(row.reasons), style="yellow") for row in rows], wraps=True),
    ]


def _slowest(rows: Sequence[SlowRow], width: int) -> Table:
    def figures(name: str, spare: int, texts: Iterable[str]) -> Column:
        return Column(name, [Text(text) for text in texts], spare, "right")

    return table(
        [
            Column("slowest clients", [Text(row.client) for row in rows], wraps=True),
            Column("gateway", [Text(row.gateway) for row in rows], 3),
            figures("lag ms", 0, (f"{row.lag_ms:,.0f}" for row in rows)),
            figures("waiting", 2, (amount(row.waiting_bytes) for row in rows)),
            figures("conflated", 4, (f"{row.conflated:,}" for row in rows)),
            Column("now", [Text("conflating", style="yellow") if row.conflating else Text("live") for row in rows], 1),
            figures("streams", 5, (f"{row.subscriptions:,}" for row in rows)),
        ],
        width,
    )


def _if_any(column: Column) -> list[Column]:
    """The column, unless it has nothing to say of anybody."""
    return [column] if any(cell.plain not in ("", _NONE) for cell in column.cells) else []


def duties(rows: Sequence[Row]) -> list[str]:
    """What each process does of a job that several share, and that a gateway sends its clients away; else nothing.

    active or standby; `line A 5/6`: line A, from which the books of 5 of 6 products are published.
    """
    several = {
        (row.role, row.shard) for row in rows if sum((one.role, one.shard) == (row.role, row.shard) for one in rows) > 1
    }
    published: Counter[str] = Counter()
    for row in rows:
        published.update(row.published)
    return [_duty(row, published, alone=(row.role, row.shard) not in several) for row in rows]


def _duty(row: Row, published: Counter[str], *, alone: bool) -> str:
    if row.draining:
        return "draining"
    if row.active is not None:
        return "standby" if not row.active else "" if alone else "active"
    if row.line is None or alone:
        return ""
    return f"line {row.line} {published[row.instance]}/{published.total()}" if published else f"line {row.line}"


def mended(row: Row) -> str:
    """What has mended gaps since its start, the most used first, and how often it took over from its peer."""
    used = sorted(row.rungs.items(), key=lambda rung: (-rung[1], rung[0]))
    taken = [f"take-over {row.takeovers}"] if row.takeovers else []
    return ", ".join([*taken, *(f"{name} {number(count)}" for name, count in used)])


def _counted(count: int | None) -> Text:
    """A number of which 0 is best."""
    return Text(number(count), style="yellow" if count else "")


def number(value: float | None) -> str:
    """A count or rate with thousands set off; a dash for None."""
    return _NONE if value is None else f"{value:,.0f}"


def age(seconds: float) -> str:
    """12s, 4m10s, 3h02m, 5d03h."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def amount(size: int) -> str:
    """Bytes for people: 812 B, 64 kB, 1.5 MB, 212 MB (of 1,000)."""
    if size < 1_000:
        return f"{size} B"
    if size < 999_500:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB" if size < 9_950_000 else f"{size / 1e6:,.0f} MB"
