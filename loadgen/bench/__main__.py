"""`python -m loadgen.bench`: every benchmark, in one table, in less than ten minutes on two cores.

These machines are shared, so absolute figures wander: compare ratios, and figures of the same run. Each benchmark is a
module that says what it measures and how, and most can be run by themselves (`python -m loadgen.bench.storm --help`).
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from loadgen.bench import (
    connections,
    fanout,
    latency,
    normalizer,
    profile,
    record,
    replay,
    slow_clients,
    snapshotter,
    startup,
    storm,
    trouble,
)
from loadgen.bench.process import BenchmarkFailed
from loadgen.bench.table import Row, show, skipped


class Benchmark(NamedTuple):
    """One of them; `seconds` is about how long it takes."""

    what: str
    seconds: int
    run: Callable[[], list[Row]]


BENCHMARKS = {
    "rivals": Benchmark("fan-out, one subscription set, against other servers in turns", 60, fanout.rivals),
    "same": Benchmark("fan-out, one subscription set, other frames and messages", 25, fanout.same),
    "random": Benchmark("fan-out, random subscription sets", 20, fanout.spread),
    "latency": Benchmark("end to end through a whole mesh at three rates", 35, latency.run),
    "storm": Benchmark("1,000 clients join at once", 15, storm.run),
    "slow": Benchmark("slow clients beside good ones", 45, slow_clients.run),
    "connections": Benchmark("memory of 1,000 and 10,000 clients", 15, connections.run),
    "normalizer": Benchmark("a normalizer at saturation", 15, normalizer.run),
    "replay": Benchmark("an archive to its state hash", 10, replay.run),
    "startup": Benchmark("`lfmesh up` to the first tick", 10, startup.run),
    "snapshotter": Benchmark("what the archive costs", 50, snapshotter.run),
    "trouble": Benchmark("one product's losses beside the others' latency", 25, trouble.run),
}


def _named(_: click.Context, __: click.Parameter, text: str | None) -> list[str]:
    names = [*BENCHMARKS] if text is None else text.split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    return names


@click.command(context_settings={"show_default": True})
@click.option("--only", metavar="NAME,…", callback=_named, help="These alone.  [default: all]")
@click.option("--list", "listed", is_flag=True, help="Name them, and how long each takes.")
@click.option(
    "--tape", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Drive the normalizer with it."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the result here.")
@click.option("--record", "recording", is_flag=True, help="This is the result that later ones are compared with.")
@click.option("--profile", "profiling", is_flag=True, help="Profile the saturated gateway as well.")
def main(
    only: list[str], listed: bool, tape: Path | None, json_path: Path | None, recording: bool, profiling: bool
) -> None:
    """Run the benchmarks and print one table. Exits with 1 if one failed; a missed budget is no failure."""
    if listed:
        for name in only:
            sys.stdout.write(f"{name:12} {BENCHMARKS[name].seconds:4} s  {BENCHMARKS[name].what}\n")
        return
    rows: list[Row] = []
    failed = False
    for name in only:
        began = time.monotonic()
        sys.stderr.write(f"{BENCHMARKS[name].what} … ")
        sys.stderr.flush()
        try:
            rows += BENCHMARKS[name].run()
            if tape is not None and name == "normalizer":
                rows += normalizer.run(tape=tape)
        except BenchmarkFailed as error:
            failed = True
            rows.append(skipped(name, BENCHMARKS[name].what, str(error)))
        sys.stderr.write(f"{time.monotonic() - began:.0f} s\n")
    made_on, before = record.read()
    here = record.machine()
    sys.stdout.write(f"{_described(here)}\n")
    if made_on:
        sys.stdout.write(f"change: against the recorded result ({_described(made_on)})\n")
    show(rows, before)
    if json_path is not None:
        json_path.write_text(record.written(rows, here), encoding="utf-8")
    if recording:
        record.RECORDED.write_text(record.merged(rows), encoding="utf-8")
    if profiling:
        profile.run()
    sys.exit(int(failed))


def _described(machine: dict[str, object]) -> str:
    facts = (machine["processor"], f"Python {machine['python']}", machine["kernel"], machine["date"])
    return f"{machine['cores']} × {', '.join(map(str, facts))}"


if __name__ == "__main__":
    main()
