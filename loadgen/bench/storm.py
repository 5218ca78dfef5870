"""A join storm: 1,000 connected clients ask for ten products at the same moment, while data flows to others.

    python -m loadgen.bench.storm [--clients 1000] [--storms 3] [--rate 200]

All requests are written in one go by one process; when each client reads its first and its tenth snapshot counts from
then. A hundred steady clients in another process follow the same products all the while: the latency of
each message, from the publisher to their read, in the second before and in the second of the storm.
"""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import click

from loadgen.bench.audience import Audience, Party, subscriptions, upgrade
from loadgen.bench.connections import raise_file_limit
from loadgen.bench.counters import Counters
from loadgen.bench.driver import Neighbours, Plan
from loadgen.bench.gateway import Gateway, gateway
from loadgen.bench.process import BenchmarkFailed, median, until
from loadgen.bench.table import Goal, Row, show
from loadgen.bench.ticks import products
from loadgen.bench.watches import Latencies, Snapshots
from loadgen.client.latency import Histogram

CLIENTS = 1000
PRODUCTS = 10
STEADY = 100
RATE = 200.0
"""Messages a second while they join, over all products: once all have joined, 1,100 times as many deliveries."""
FIRST_GOAL_MS = 150.0
ALL_GOAL_MS = 1000.0
_CALM_S = 1.0
_STORM_S = 1.0


class Storm(NamedTuple):
    """In seconds: median first snapshot, last client's first, last client's last; the gateway's processor time."""

    first_p50: float
    first_max: float
    all_max: float
    cpu: float


def run(clients: int = CLIENTS, storms: int = 3, rate: float = RATE) -> list[Row]:
    """The median of several storms, each on fresh connections."""
    raise_file_limit()
    calm, stormy = Histogram(), Histogram()
    names = products(PRODUCTS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lfmesh-bench-")))
        counters = stack.enter_context(Counters(folder / "counters", STEADY + clients))
        steady, joiners = (stack.enter_context(Audience(counters.path)) for _ in range(2))
        mesh = stack.enter_context(Neighbours(folder, counters.path, names))
        process = stack.enter_context(gateway(mesh.peers(), names))
        hello = upgrade("/ws", process.port)
        steady.join(Party(process.port, 0, hello, subscriptions([names] * STEADY), Latencies, 5))
        mesh.start(Plan(rate=rate))
        party = Party(
            process.port, STEADY, hello, subscriptions([names] * clients, want_snapshot=True), Snapshots, 1, False
        )
        seen = []
        for _ in range(storms):
            joiners.join(party)
            until(lambda: process.figures()["clients"] == STEADY + clients, "the joiners' connections")
            seen.append(_storm(process, steady, joiners, clients, (calm, stormy)))
            joiners.leave()
            until(lambda: process.figures()["clients"] == STEADY, "the joiners to be gone")
        mesh.rest()
        mesh.check()
    return _rows(clients, seen, calm, stormy)


def _storm(
    process: Gateway, steady: Audience, joiners: Audience, clients: int, latencies: tuple[Histogram, Histogram]
) -> Storm:
    calm, stormy = latencies
    steady.latencies()
    time.sleep(_CALM_S)
    calm.add(steady.latencies())
    began, cpu = time.perf_counter(), process.cpu_s()
    joiners.ask()
    until(lambda: len(joiners.snapshots(PRODUCTS)[1]) == clients, "everyone's snapshots", every_s=0.02)
    cpu = process.cpu_s() - cpu
    time.sleep(max(0.0, began + _STORM_S - time.perf_counter()))
    stormy.add(steady.latencies())
    first, last = joiners.snapshots(PRODUCTS)
    faults = joiners.faults() + steady.faults()
    if faults:
        raise BenchmarkFailed(faults[0])
    return Storm(median(first), first[-1], last[-1], cpu)


def _rows(clients: int, seen: list[Storm], calm: Histogram, stormy: Histogram) -> list[Row]:
    first, first_max, all_max, cpu = (median(figures) * 1e3 for figures in zip(*seen, strict=True))
    before, during = calm.percentile(0.99), stormy.percentile(0.99)
    if before is None or during is None:
        raise BenchmarkFailed("steady clients got nothing")
    return [
        Row("storm.first", f"{clients:,} clients join {PRODUCTS} products at once: first snapshot p50", first, "ms",
            goal=Goal(FIRST_GOAL_MS, better="less"), better="less", note=f"the last one's: {first_max:.0f} ms"),
        Row("storm.all", "… all snapshots of all of them", all_max, "ms", goal=Goal(ALL_GOAL_MS, better="less"),
            better="less", note=f"{cpu:.0f} ms of the gateway's processor time, fan-out to all included"),
        Row("storm.steady", f"… {STEADY} steady clients' latency meanwhile, p99", during / 1e6, "ms", during / before,
            f"the second before, {before / 1e6:.1f} ms", better="less", note=f"max {stormy.max / 1e6:.0f} ms"),
    ]  # fmt: skip


@click.command()
@click.option("--clients", default=CLIENTS, show_default=True, help="How many join.")
@click.option("--storms", default=3, show_default=True, help="How often.")
@click.option("--rate", default=RATE, show_default=True, help="Messages a second meanwhile.")
def main(clients: int, storms: int, rate: float) -> None:
    """Measure a join storm."""
    show(run(clients, storms, rate))


if __name__ == "__main__":
    main()
