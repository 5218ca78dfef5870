"""The monitor's screen as a function of its rows."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from lfmesh.top.columns import Column, table
from lfmesh.top.state import Row, totals

_NONE = "–"
_STYLE = {"ready": "green", "not ready": "yellow", "silent": "bold red", "gone": "dim red", "announced": "cyan"}


def render(rows: Sequence[Row], registries: tuple[int, int], *, live: bool = True, width: int = 200) -> RenderableType:
    """The whole screen; `registries`: how many replicas answer, of how many (0 of 0: static peers).

    Columns that have no room in `width` are left out, the least important first.
    """
    return Group(_heading(rows, registries, live=live), table(_columns(rows), width))


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


def _columns(rows: Sequence[Row]) -> list[Column]:
    def figures(name: str, spare: int, texts: Iterable[str | Text]) -> Column:
        return Column(name, [text if isinstance(text, Text) else Text(text) for text in texts], spare, "right")

    return [
        Column("role", [Text(row.instance) for row in rows]),
        Column("state", [Text(row.state, style=_STYLE[row.state]) for row in rows]),
        figures("shard", 6, (_NONE if row.shard is None else str(row.shard) for row in rows)),
        figures("in/s", 1, (number(row.messages_in_per_s) for row in rows)),
        figures("out/s", 1, (number(row.messages_out_per_s) for row in rows)),
        figures("lag ms", 2, (_NONE if row.lag_ms is None else f"{row.lag_ms:.1f}" for row in rows)),
        figures("queue", 5, (number(row.queue_messages) for row in rows)),
        figures("gaps", 3, (_gaps(row) for row in rows)),
        figures("clients", 7, (number(row.clients) for row in rows)),
        figures("cpu %", 4, (_NONE if row.cpu_percent is None else f"{row.cpu_percent:.1f}" for row in rows)),
        figures("mem MB", 8, (_NONE if row.rss_bytes is None else f"{row.rss_bytes / 1e6:.0f}" for row in rows)),
        figures("age", 9, (age(row.age_s) for row in rows)),
        figures("restarts", 5, (Text(str(row.restarts), style="yellow" if row.restarts else "") for row in rows)),
        figures("pid", 10, (str(row.pid) for row in rows)),
        Column("", [Text("; ".join(row.reasons), style="yellow") for row in rows], wraps=True),
    ]


def _gaps(row: Row) -> Text:
    return Text(_NONE if row.gaps is None else str(row.gaps), style="yellow" if row.gaps else "")


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
