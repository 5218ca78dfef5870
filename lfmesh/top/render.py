"""The monitor's screen as a function of its rows."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lfmesh.top.state import Row, totals

_NONE = "–"
_STYLE = {"ready": "green", "not ready": "yellow", "silent": "bold red", "gone": "dim red", "announced": "cyan"}
_RIGHT = ("shard", "in/s", "out/s", "lag ms", "queue", "gaps", "clients", "cpu %", "mem MB", "age", "restarts", "pid")


def render(rows: Sequence[Row], registries: tuple[int, int], *, live: bool = True) -> RenderableType:
    """The whole screen; `registries`: how many replicas answer, of how many (0 of 0: static peers)."""
    return Group(_heading(rows, registries, live=live), _table(rows))


def _heading(rows: Sequence[Row], registries: tuple[int, int], *, live: bool) -> Text:
    into, out, clients = totals(rows)
    ready = sum(row.state == "ready" for row in rows)
    heading = Text.assemble(
        ("lfmesh top", "bold"),
        f"  {ready} of {len(rows)} ready  ",
        f"{number(into)} msg/s in  {number(out)} msg/s to {clients} client{'' if clients == 1 else 's'}  ",
    )
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


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("role", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in _RIGHT:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in rows:
        gaps = _NONE if row.gaps is None else str(row.gaps)
        table.add_row(
            row.instance,
            Text(row.state, style=_STYLE[row.state]),
            _NONE if row.shard is None else str(row.shard),
            number(row.messages_in_per_s),
            number(row.messages_out_per_s),
            _NONE if row.lag_ms is None else f"{row.lag_ms:.1f}",
            number(row.queue_messages),
            Text(gaps, style="yellow" if row.gaps else ""),
            number(row.clients),
            _NONE if row.cpu_percent is None else f"{row.cpu_percent:.1f}",
            _NONE if row.rss_bytes is None else f"{row.rss_bytes / 1e6:.0f}",
            age(row.age_s),
            Text(str(row.restarts), style="yellow" if row.restarts else ""),
            str(row.pid),
            Text("; ".join(row.reasons), style="yellow"),
        )
    return table


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
