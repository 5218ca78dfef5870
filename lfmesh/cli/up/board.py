"""What `lfmesh up` shows: one line a unit, as a table on a terminal and as plain or JSON lines elsewhere. Pure."""

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lfmesh.cli.up.unit import Unit
from lfmesh.top.render import age, number
from lfmesh.top.state import Row

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
    """One unit now. Rates are messages a second; None where they are not known (yet)."""

    name: str
    state: str
    pid: int | None
    in_per_s: float | None
    out_per_s: float | None
    lag_ms: float | None
    up_s: float | None
    restarts: int
    note: str


class Places(msgspec.Struct, frozen=True):
    """Where the mesh is reached, once it is; `data_dir` is what `lfmesh watch` and `top` must be told, if anything."""

    ws_url: str
    http_url: str
    data_dir: str = ""

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


def work_of(row: Row) -> Work:
    """Of a role, from its telemetry."""
    return Work(row.pid, row.state, row.reasons, row.messages_in_per_s, row.messages_out_per_s, row.lag_ms)


def line_of(unit: Unit, told: Work | None, now: float) -> Line:
    """A unit's line: the supervisor's word on the process, the process's own word on its work."""
    shown = "restarting" if unit.state == "pause" else str(unit.state)
    note = unit.note
    work = told if unit.state == "running" and told is not None and told.pid == unit.pid else None
    up_s = now - unit.since if unit.state == "running" else None
    if work is not None and work.state in ("ready", "not ready", "silent") and not _too_early(work, up_s or 0.0):
        shown = work.state
        note = "; ".join(work.reasons)
    return Line(
        name=unit.name,
        state=shown,
        pid=unit.pid,
        in_per_s=work.in_per_s if work else None,
        out_per_s=work.out_per_s if work else None,
        lag_ms=work.lag_ms if work else None,
        up_s=up_s,
        restarts=unit.restarts,
        note=note,
    )


def _too_early(work: Work, up_s: float) -> bool:
    """Ready is said together with the rates, which are known a second later; and a process needs a moment to find
    the others, which is nothing to report."""
    return work.out_per_s is None if work.state == "ready" else up_s < SETTLED_S


def render(title: str, places: Places | None, lines: Sequence[Line], ending: str | None = None) -> RenderableType:
    """The screen. `title` says what runs; `ending` that it is being ended."""
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("role", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("pid", "in/s", "out/s", "lag ms", "up", "restarts"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for line in lines:
        table.add_row(
            line.name,
            Text(line.state, style=_STYLE.get(line.state, "dim")),
            _NONE if line.pid is None else str(line.pid),
            number(line.in_per_s),
            number(line.out_per_s),
            _NONE if line.lag_ms is None else f"{line.lag_ms:.1f}",
            _NONE if line.up_s is None else age(line.up_s),
            Text(str(line.restarts), style="yellow" if line.restarts else ""),
            Text(line.note, style="yellow"),
        )
    return Group(Text(title, style="bold"), _where(places, ending), table)


def _where(places: Places | None, ending: str | None) -> Text:
    if ending is not None:
        return Text(ending, style="yellow")
    if places is None:
        return Text("starting …  not ready for clients yet", style="dim")
    watch, top = places.tools()
    return Text.assemble(
        ("ready for clients: ", "green"), (places.ws_url, "cyan"), "   page: ", (f"{places.http_url}/", "cyan"),
        "\nsee it with: ", (watch, "bold"), "   ", (top, "bold"), ("   Ctrl-C ends", "dim"),
    )  # fmt: skip


def where_lines(places: Places) -> list[str]:
    """Where to look, for those without a live screen."""
    return [
        f"ready for clients: {places.ws_url}   page: {places.http_url}/",
        f"see it with: {'   '.join(places.tools())}",
    ]


def plain(line: Line) -> str:
    """One unit's line without a terminal."""
    parts = [f"{line.name:<16} {line.state:<10}"]
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


def _said(line: Line) -> tuple[str, int | None, int, str]:
    return line.state, line.pid, line.restarts, line.note
