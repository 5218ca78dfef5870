"""Fan-out at saturation: deliveries a second of one gateway process, in two shapes, against what else could be used.

    python -m loadgen.bench.fanout [--only same,random,rivals] [--rounds 3] [--seconds 2]

The gateway is the real process, fed over its SUB socket with packed frames of one message each, as a normalizer at
moderate load makes them (and, in rows of their own, with several). Everybody's clients are the same counting readers in
one process, and everybody is paced by them. Rounds of all contenders take turns (`rounds.py`).

Two figures each: by the clock, for which the publisher, the clients and the server share the machine's cores, and by
the server's own processor time: what one core of it serves. Ratios to rivals, and their budgets, are of the latter,
since some of them use every core and the gateway's process one; those by the clock stand beside them.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from loadgen.bench.audience import Audience
from loadgen.bench.counters import Counters
from loadgen.bench.process import BenchmarkFailed
from loadgen.bench.rivals import bare, broadcast, nats, nchan
from loadgen.bench.rivals.rival import NotInstalled, Rival, Seats
from loadgen.bench.rounds import Contender, Rounds, alternate
from loadgen.bench.shapes import RANDOM, SAME, Ours, Shape, ours, saturated
from loadgen.bench.table import Goal, Row, show, skipped, written
from loadgen.bench.ticks import SHORT, WHOLE, tick

SEVERAL = 8
"""Messages in a mesh frame, in the rows that say so."""
RANDOM_GOAL = 1_000_000
_UNIT = "deliveries/s"
_PER_CORE = "deliveries/core-s"

Say = Callable[[str], None]


def say(line: str) -> None:
    """Progress, apart from the table."""
    sys.stderr.write(line + "\n")


def quiet(_: str) -> None:
    """No progress."""


def rivals(rounds: int = 5, seconds: float = 1.2, tell: Say = quiet) -> list[Row]:
    """One subscription set, in turns with everything else that is installed here."""
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's workers may run as somebody else
        counters = stack.enter_context(Counters(folder / "counters", SAME.clients * 5))
        audience = stack.enter_context(Audience(counters.path))
        mesh = stack.enter_context(ours(SAME, folder, counters, audience))
        places = [slice(start, start + SAME.clients) for start in range(SAME.clients, SAME.clients * 5, SAME.clients)]
        seats = [Seats(counters.path, place, tick("P000-USD")) for place in places]
        others: dict[str, Rival | str] = {
            "broadcast": stack.enter_context(broadcast(audience, seats[0])),
            "bare": stack.enter_context(bare(audience, seats[1])),
        }
        for key, start, place in (("nats", nats, seats[2]), ("nchan", nchan, seats[3])):
            try:
                others[key] = stack.enter_context(start(audience, place, folder))
            except NotInstalled as missing:
                others[key] = f"{missing} is not installed"
        contenders: list[Contender] = [mesh, *(rival for rival in others.values() if isinstance(rival, Rival))]
        found = alternate(contenders, counters, rounds, seconds, tell)
        mesh.check()
    return _compared(found[mesh.name], {key: _of(rival, found) for key, rival in others.items()})


def _of(rival: Rival | str, found: dict[str, Rounds]) -> tuple[str, Rounds] | str:
    return (rival.name, found[rival.name]) if isinstance(rival, Rival) else rival


def _compared(mesh: Rounds, others: dict[str, tuple[str, Rounds] | str]) -> list[Row]:
    rows = [
        Row("fanout.same", f"fan-out, {SAME.name}", mesh.per_s, _UNIT),
        Row("fanout.same.cpu", "… a core of it", mesh.per_cpu_s, _PER_CORE),
    ]
    goals = {"broadcast": 40.0, "bare": 0.7, "nats": 2.5, "nchan": 20.0}
    for key, other in others.items():
        if isinstance(other, str):
            rows.append(skipped(f"fanout.{key}", f"… against {key}", other))
            continue
        name, seen = other
        rows.append(
            Row(
                f"fanout.{key}", f"… {name}", seen.per_cpu_s, _PER_CORE, mesh.times_by_cpu(seen), "the gateway to it",
                Goal(goals[key], "ratio"), note=f"by the clock {written(mesh.times(seen))} × ({seen.per_s:,.0f}/s)",
            )
        )  # fmt: skip
    return rows


class _Variant:
    """The gateway publishing in one way, as a contender beside its others."""

    def __init__(self, mesh: Ours, kind: str, count: int) -> None:
        self.name = f"gateway, {kind} ticks, {count} a frame"
        self.slots = mesh.slots
        self.cpu_s = mesh.cpu_s
        self.rest = mesh.rest
        self._mesh = mesh
        self._kind, self._count = kind, count
        mesh.publish(kind, count)
        self.each = mesh.each

    def start(self) -> None:
        """Publish so."""
        self._mesh.publish(self._kind, self._count)
        self._mesh.start()


def alone(shape: Shape, rounds: int, seconds: float, ways: Sequence[tuple[str, int]], tell: Say) -> list[Rounds]:
    """The gateway by itself, in turns with itself; ways to publish are (kind of tick, messages a frame)."""
    with saturated(shape) as (mesh, counters):
        found = alternate([_Variant(mesh, *way) for way in ways], counters, rounds, seconds, tell)
        mesh.check()
    return [*found.values()]


def same(rounds: int = 5, seconds: float = 0.8, tell: Say = quiet) -> list[Row]:
    """One subscription set: other sizes of frames and messages."""
    one, several, whole = alone(SAME, rounds, seconds, [(SHORT, 1), (SHORT, SEVERAL), (WHOLE, 1)], tell)
    against = f"one message a frame, {one.per_s:,.0f}/s"
    return [
        Row("fanout.same.several", f"fan-out, {SAME.name}, {SEVERAL} messages a mesh frame", several.per_s, _UNIT,
            several.times(one), against),
        Row("fanout.same.whole", f"fan-out, {SAME.name}, ticks of {len(tick('P000-USD', kind=WHOLE))} bytes",
            whole.per_s, _UNIT, whole.times(one), against),
    ]  # fmt: skip


def spread(rounds: int = 5, seconds: float = 1.0, tell: Say = quiet) -> list[Row]:
    """Random subscription sets."""
    one, several = alone(RANDOM, rounds, seconds, [(SHORT, 1), (SHORT, SEVERAL)], tell)
    return [
        Row("fanout.random", f"fan-out, {RANDOM.name}", one.per_s, _UNIT, goal=Goal(RANDOM_GOAL),
            note=f"{one.per_cpu_s:,.0f} a core"),
        Row("fanout.random.several", f"… {SEVERAL} messages a mesh frame", several.per_s, _UNIT,
            several.times(one), "one message a frame", Goal(RANDOM_GOAL),
            note=f"{several.per_cpu_s:,.0f} a core"),
    ]  # fmt: skip


@click.command()
@click.option("--only", default="rivals,same,random", show_default=True, help="Which parts, separated by commas.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of each.")
@click.option("--seconds", default=1.5, show_default=True, help="Of each round.")
def main(only: str, rounds: int, seconds: float) -> None:
    """Measure fan-out alone."""
    parts = {"rivals": rivals, "same": same, "random": spread}
    unknown = set(only.split(",")) - parts.keys()
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}", param_hint="--only")
    try:
        rows = [row for name in only.split(",") for row in parts[name](rounds, seconds, say)]
    except BenchmarkFailed as error:
        raise click.ClickException(str(error)) from error
    show(rows)


if __name__ == "__main__":
    main()
