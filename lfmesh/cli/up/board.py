"""What `lfmesh up` shows: one line a unit, as a table on a terminal and as plain or JSON lines elsewhere. Pure."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from lfmesh.cli.up.unit import Unit
from lfmesh.top.columns import Column, table
from lfmesh.top.render import age, duties, number
from lfmesh.top.state import Row
from lfmesh.top.workers import gateway_of
from lfmesh.types import Role

_STYLE = {
    "ready": "green",
    "running": "cyan",
    "not ready": "yellow",
    "silent": "bold red",
    "restarting": "bold yellow",
    "failed": "bold red",
    "stopping": "yellow",
}
_NONE = "–"
SETTLED_S = 2.0
"""Until a process has run for this long, that it is not ready yet goes without saying."""


class Line(msgspec.Struct, frozen=True):
    """One unit now. Rates are messages a second; None where they are not known (yet). `duty`: `lfmesh.top.render`."""

    name: str
    state: str
    pid: int | None
    in_per_s: float | None
    out_per_s: float | None
    lag_ms: float | None
    up_s: float | None
    restarts: int
    note: str
    duty: str = ""


class Places(msgspec.Struct, frozen=True):
    """Where the mesh is reached, once it is; `data_dir` is what `lfmesh watch` and `top` must be told, if anything.

    `others` are the WebSocket addresses of further gateways.
    """

    ws_url: str
    http_url: str
    data_dir: str = ""
    others: tuple[str, ...] = ()

    def tools(self) -> tuple[str, str]:
        """The commands that show this mesh."""
        option = f" --data-dir {shlex.quote(self.data_dir)}" if self.data_dir else ""
        return f"lfmesh watch{option}", f"lfmesh top{option}"


class Work(NamedTuple):
    """What a process says of its own work. `state`: ready, not ready (`reasons` say why) or silent."""

    pid: int
    state: str
    reasons: Sequence[str]
    in_per_s: float | None
    out_per_s: float | None
    lag_ms: float | None = None
    duty: str = ""
    restarts: int = 0
    """Of workers, which their own supervisor starts again."""


def works_of(rows: Sequence[Row]) -> dict[tuple[str, str], Work]:
    """Of the roles, from their telemetry, by role and instance."""
    return {
        (row.role, row.instance): Work(
            row.pid,
            row.state,
            row.reasons,
            row.messages_in_per_s,
            row.messages_out_per_s,
            row.lag_ms,
            duty,
            row.restarts if gateway_of(row) else 0,
        )
        for row, duty in zip(rows, duties(rows), strict=True)
    }


def work_of_workers(works: Mapping[tuple[str, str], Work], unit: Unit, count: int) -> Work | None:
    """What the workers of a gateway do together; None before the first of them is heard. Each receives everything."""
    names = [f"{unit.name}.{number}" for number in range(1, count + 1)]
    told = {name: work for name in names if (work := works.get((Role.GATEWAY, name))) is not None}
    if not told or unit.pid is None:
        return None
    reasons = [f"{name} is not heard" for name in names if name not in told]
    for name, work in told.items():
        said = work.reasons if work.state == "not ready" else [] if work.state == "ready" else [f"is {work.state}"]
        reasons.extend(f"{name}: {reason}" for reason in said)
    out = [work.out_per_s for work in told.values() if work.out_per_s is not None]
    return Work(
        pid=unit.pid,
        state="not ready" if reasons else "ready",
        reasons=reasons,
        in_per_s=max((work.in_per_s for work in told.values() if work.in_per_s is not None), default=None),
        out_per_s=sum(out) if len(out) == len(told) else None,
        lag_ms=max((work.lag_ms for work in told.values() if work.lag_ms is not None), default=None),
        restarts=sum(work.restarts for work in told.values()),
    )


def line_of(unit: Unit, told: Work | None, now: float) -> Line:
    """A unit's line: the supervisor's word on the process, the process's own word on its work."""
    shown = "restarting" if unit.state == "pause" else str(unit.state)
    note = unit.note
    work = told if unit.state == "running" and told is not None and told.pid == unit.pid else None
    up_s = now - unit.since if unit.state == "running" else None
    duty = ""
    if work is not None and work.state in ("ready", "not ready", "silent") and not _too_early(work, up_s or 0.0):
        shown, duty = work.state, work.duty
        note = "; ".join(work.reasons)
    return Line(
        name=unit.name,
        state=shown,
        pid=unit.pid,
        in_per_s=work.in_per_s if work else None,
        out_per_s=work.out_per_s if work else None,
        lag_ms=work.lag_ms if work else None,
        up_s=up_s,
        restarts=unit.restarts + (work.restarts if work else 0),
        note=note,
        duty=duty,
    )


def _too_early(work: Work, up_s: float) -> bool:
    """Ready is said together with the rates, which are known a second later; and a process needs a moment to find
    the others, which is nothing to report."""
    return work.out_per_s is None if work.state == "ready" else up_s < SETTLED_S


def render(
    title: str, places: Places | None, lines: Sequence[Line], ending: str | None = None, width: int = 200
) -> RenderableType:
    """The screen. `title` says what runs; `ending` that it is being ended.

    Columns that have no room in `width` are left out, the least important first.
    """
    return Group(Text(title, style="bold"), _where(places, ending), table(_columns(lines), width))


def _columns(lines: Sequence[Line]) -> list[Column]:
    def figures(name: str, spare: int, texts: Iterable[str]) -> Column:
        return Column(name, [Text(text) for text in texts], spare, "right")

    duty = Column("duty", [Text(line.duty) for line in lines], 2)
    restarts = [Text(str(line.restarts), style="yellow" if line.restarts else "") for line in lines]
    return [
        Column("role", [Text(line.name) for line in lines]),
        Column("state", [Text(line.state, style=_STYLE.get(line.state, "dim")) for line in lines]),
        *([duty] if any(line.duty for line in lines) else []),
        figures("pid", 5, (_NONE if line.pid is None else str(line.pid) for line in lines)),
        figures("in/s", 1, (number(line.in_per_s) for line in lines)),
        figures("out/s", 1, (number(line.out_per_s) for line in lines)),
        figures("lag ms", 3, (_NONE if line.lag_ms is None else f"{line.lag_ms:.1f}" for line in lines)),
        figures("up", 6, (_NONE if line.up_s is None else age(line.up_s) for line in lines)),
        Column("restarts", restarts, 4, "right"),
        Column("", [Text(line.note, style="yellow") for line in lines], wraps=True),
    ]


def _where(places: Places | None, ending: str | None) -> Text:
    if ending is not None:
        return Text(ending, style="yellow")
    if places is None:
        return Text("starting …  not ready for clients yet", style="dim")
    watch, top = places.tools()
    return Text.assemble(
        ("ready for clients: ", "green"), (_urls(places), "cyan"), "   page: ", (f"{places.http_url}/", "cyan"),
        "\nsee it with: ", (watch, "bold"), "   ", (top, "bold"), ("   Ctrl-C ends", "dim"),
    )  # fmt: skip


def _urls(places: Places) -> str:
    return "  ".join((places.ws_url, *places.others))


def where_lines(places: Places) -> list[str]:
    """Where to look, for those without a live screen."""
    return [
        f"ready for clients: {_urls(places)}   page: {places.http_url}/",
        f"see it with: {'   '.join(places.tools())}",
    ]


def plain(line: Line) -> str:
    """One unit's line without a terminal."""
    parts = [f"{line.name:<16} {line.state:<10}", *([line.duty] if line.duty else [])]
    if line.pid is not None:
        parts.append(f"pid {line.pid}")
    rates = [
        f"{number(rate)} msg/s {way}"
        for rate, way in ((line.in_per_s, "in"), (line.out_per_s, "out"))
        if rate is not None
    ]
    if rates:
        parts.append(", ".join(rates))
    if line.restarts:
        parts.append(f"restarts {line.restarts}")
    if line.note:
        parts.append(f"({line.note})")
    return "  ".join(parts).rstrip()


def changed(before: Mapping[str, Line], lines: Sequence[Line]) -> list[Line]:
    """The lines that say something new: another state, process or reason, and not just other rates."""
    return [
        line
        for line in lines
        if line.state not in ("waiting", "starting", "stopping")
        and (line.name not in before or _said(before[line.name]) != _said(line))
    ]


def _said(line: Line) -> tuple[str, int | None, int, str, str]:
    return line.state, line.pid, line.restarts, line.note, line.duty
