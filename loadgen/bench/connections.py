"""Memory of one gateway process that many idle clients are connected to, each subscribed to ten of a hundred tickers.

    python -m loadgen.bench.connections [--counts 1000,10000]

Nothing is published meanwhile but beacons. Subscription sets are random, so nearly every client is a group of its own:
with one set for all it would be less. Needs as many file descriptors as clients, in the gateway and in the clients'
process; the soft limit is raised as far as the hard one lets it be.
"""

import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from loadgen.bench.audience import Audience, Party, subscriptions, upgrade
from loadgen.bench.counters import Counters
from loadgen.bench.driver import Neighbours
from loadgen.bench.gateway import gateway
from loadgen.bench.process import BenchmarkFailed, until
from loadgen.bench.table import Goal, Row, show, skipped
from loadgen.bench.ticks import products

COUNTS = (1000, 10_000)
PRODUCTS = 100
OF_EACH = 10
GOAL_MB = 512.0
_SPARE_FILES = 200
_SEED = 1
_A_TIME = 500


def raise_file_limit() -> int:
    """Let this process, and those that it starts, open as many files as is allowed; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def run(counts: Sequence[int] = COUNTS) -> list[Row]:
    """Rows for each number of clients, which come on top of each other."""
    limit = raise_file_limit()
    rows = []
    names, draw = products(PRODUCTS), random.Random(_SEED)  # noqa: S311 - nothing secret
    with (
        tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as name,
        Counters(Path(name) / "counters", max(counts)) as counters,
        Audience(counters.path) as audience,
        Neighbours(Path(name), counters.path, names) as mesh,
        gateway(mesh.peers(), names) as process,
    ):
        empty = process.rss()
        here, began = 0, time.perf_counter()
        for count in sorted(counts):
            what = f"memory of a gateway with {count:,} clients"
            if count + _SPARE_FILES > limit:
                rows.append(skipped(f"connections.{count}", what, f"only {limit:,} files may be open (ulimit -Hn)"))
                continue
            while here < count:
                more = min(_A_TIME, count - here)
                wanted = [draw.sample(names, OF_EACH) for _ in range(more)]
                audience.join(Party(process.port, here, upgrade("/ws", process.port), subscriptions(wanted)))
                here += more
            followed = here * OF_EACH
            until(lambda followed=followed: process.figures()["subscriptions"] == followed, "the subscriptions")  # type: ignore[misc]
            took = time.perf_counter() - began
            rss = process.rss()
            rows.append(
                Row(
                    f"connections.{count}", what, rss / 1e6, "MB", goal=Goal(GOAL_MB, better="less"), better="less",
                    note=f"{(rss - empty) / here / 1024:.1f} KiB a client; all connected after {took:.1f} s",
                )
            )  # fmt: skip
        faults = audience.faults()
        if faults:
            raise BenchmarkFailed(faults[0])
    return rows


@click.command()
@click.option("--counts", default=",".join(map(str, COUNTS)), show_default=True, help="Numbers of clients.")
def main(counts: str) -> None:
    """Measure the memory of connections."""
    show(run([int(count) for count in counts.split(",")]))


if __name__ == "__main__":
    main()
