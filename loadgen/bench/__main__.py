"""`python -m loadgen.bench`: every benchmark, in one table.

These machines are shared, so absolute figures wander: compare ratios, and figures of the same run.
"""

import os
import platform
import sys
from pathlib import Path

import click

from loadgen.bench import isolation, normalizer, replay, snapshotter, startup
from loadgen.bench.table import show


@click.command(context_settings={"show_default": True})
@click.option("--seconds", default=5.0, type=click.FloatRange(0.5, 60), help="How long the normalizer is driven.")
@click.option("--starts", default=3, type=click.IntRange(1, 20), help="How often `lfmesh up` is started.")
@click.option(
    "--spells",
    default=5,
    type=click.IntRange(0, 100),
    help="Calm and troubled spells of the isolation benchmark; 0: none.",
)
@click.option(
    "--tape",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Drive the normalizer with a recorded tape as well.",
)
@click.option(
    "--archived",
    default=400_000,
    type=click.IntRange(0, 10_000_000),
    help="Messages of the archive that is replayed; 0: none.",
)
@click.option(
    "--stored",
    default=10.0,
    type=click.FloatRange(0, 600),
    help="Seconds of each mesh whose snapshotter is measured; 0: none.",
)
def main(seconds: float, starts: int, spells: int, tape: Path | None, archived: int, stored: float) -> None:
    """Run the benchmarks and print one table."""
    rows = normalizer.run(seconds)
    if tape is not None:
        rows += normalizer.run(seconds, tape=tape)
    rows += startup.run(starts)
    if archived:
        rows += replay.run(archived)
    if stored:
        rows += snapshotter.run(stored)
    if spells:
        rows += isolation.run(spells)
    sys.stdout.write(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}\n")
    show(rows)


if __name__ == "__main__":
    main()
