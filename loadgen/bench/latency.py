"""End to end: from the first byte of the exchange's frame at the ingestor to the client's read, through the whole mesh.

    python -m loadgen.bench.latency [--rates 500,2000,10000] [--seconds 5]

`lfmesh up` with one shard on the simulated exchange, whose book changes come one by one; 100 clients follow every
channel of ten products, so that each message of the exchange goes to all of them. A tenth of the clients, spread over
the order in which the gateway writes to them, look at the `ts_ingest` of every increment when they have read it. The
clock is the same everywhere: it is one machine.
"""

import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import click

from lfmesh.types import CHANNELS
from loadgen.bench.audience import Audience, Party, masked, upgrade
from loadgen.bench.counters import Counters
from loadgen.bench.process import BenchmarkFailed
from loadgen.bench.table import Goal, Row, show, skipped
from loadgen.bench.upmesh import mesh, port_of
from loadgen.bench.watches import Latencies
from loadgen.client.latency import Histogram

RATES = (500, 2000, 10_000)
CLIENTS = 100
PRODUCTS = 10
EACH_NTH = 10
VENUE_CHANNELS = ("heartbeat", "ticker", "matches", "level2")
"""Book changes one by one: `level2_batch` would make a quarter as many messages of them."""
GOALS = {2000: (Goal(2.0, better="less"), Goal(10.0, better="less"))}
"""By messages a second: p50 and p99 in ms."""
_WARM_S = 2.0


def measure(rate: int, seconds: float) -> tuple[Histogram, int]:
    """Latencies at so many messages of the exchange a second; bytes that all clients got meanwhile."""
    with (
        mesh(rate, PRODUCTS, venue={"channels": VENUE_CHANNELS}) as here,
        tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as folder,
        Counters(Path(folder) / "counters", CLIENTS) as counters,
        Audience(counters.path) as audience,
    ):
        port = port_of(here)
        with urllib.request.urlopen(f"{here.http_url.rstrip('/')}/products", timeout=10) as answer:  # noqa: S310 - ours
            names = [product["id"] for product in json.load(answer)["products"]]
        request = json.dumps({"op": "subscribe", "products": names, "channels": [*map(str, CHANNELS)]})
        asked = (masked(request.encode()),) * CLIENTS
        audience.join(Party(port, 0, upgrade("/ws", port), asked, Latencies, EACH_NTH))
        time.sleep(_WARM_S)
        audience.latencies()
        before = sum(counters.values)
        time.sleep(seconds)
        seen, received = audience.latencies(), sum(counters.values) - before
        faults = audience.faults()
        if faults:
            raise BenchmarkFailed(f"at {rate} messages/s: {faults[0]}")
        return seen, received


def run(rates: tuple[int, ...] = RATES, seconds: float = 5.0) -> list[Row]:
    """Rows for each rate."""
    return [row for rate in rates for row in _rows(rate, *measure(rate, seconds))]


def _rows(rate: int, seen: Histogram, received: int) -> list[Row]:
    what = f"end to end at {rate:,} msg/s, {CLIENTS} clients"
    figures = [seen.percentile(share) for share in (0.5, 0.99, 0.999)]
    p50, p99, p999 = (None if figure is None else figure / 1e6 for figure in figures)
    if p50 is None or p99 is None or p999 is None:
        return [skipped(f"latency.{rate}", what, "no increment came")]
    goals = GOALS.get(rate, (None, None))
    note = f"{seen.count:,} increments seen, {received / 1e6:,.0f} MB to all clients"
    return [
        Row(f"latency.{rate}.p50", f"{what}: p50", p50, "ms", goal=goals[0], better="less", note=note),
        Row(
            f"latency.{rate}.p99", "… p99", p99, "ms", goal=goals[1], better="less",
            note=f"p99.9 {p999:.1f} ms, max {seen.max / 1e6:.1f} ms",
        ),
    ]  # fmt: skip


@click.command()
@click.option(
    "--rates", default=",".join(map(str, RATES)), show_default=True, help="Messages a second of the exchange."
)
@click.option("--seconds", default=5.0, show_default=True, help="How long each is measured.")
def main(rates: str, seconds: float) -> None:
    """Measure end-to-end latency through a whole mesh."""
    try:
        show(run(tuple(map(int, rates.split(","))), seconds))
    except BenchmarkFailed as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
