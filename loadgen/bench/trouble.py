"""One product's losses, fetches and resyncs beside the latency of all others, in one run of the whole mesh.

Calm and troubled spells take turns. In a troubled one the exchange loses a tenth of one product's trades, so that they
are fetched over REST, and its book is crossed twice a second, so that it is resynced. Histograms of the other
products' increments, from the receipt of the venue's frame to the client's, are kept for both kinds of spell.
"""

import asyncio
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import connect

from lfmesh.client import meshfile
from lfmesh.client.meshfile import MeshFile
from loadgen.bench.table import Row
from loadgen.chaos.plan import Kind
from loadgen.chaos.venue import Venue
from loadgen.client.latency import Histogram

RATE = 2000
PRODUCTS = 10
SPELL_S = 2.0
_START_S = 30.0
_WARM_S = 2.0
_CROSS_S = 0.5
_SETTLE_S = 0.5
"""Between spells, so that what one has left behind is not counted in the next."""

_increment = re.compile(r'"product":"([^"]+)".*?"seq":(\d+).*?"ts_ingest":(\d+).*?"continuity":"(\w+)"').search


@dataclass(slots=True)
class Spells:
    """`now` is where increments are recorded, None between spells."""

    troubled_product: str
    calm: Histogram = field(default_factory=Histogram)
    troubled: Histogram = field(default_factory=Histogram)
    its_own: Histogram = field(default_factory=Histogram)
    now: Histogram | None = None
    fetched: int = 0
    resynced: int = 0

    def take(self, text: str, at: int) -> None:
        """One message, received at a time in ns."""
        if text.startswith('{"op":"snapshot"'):
            self.resynced += f'"{self.troubled_product}","channel":"book"' in text and '"reason":"resync"' in text
            return
        found = _increment(text) if text.startswith('{"op":"incr"') else None
        if found is None:
            return
        self.fetched += found[4] == "backfilled"
        if self.now is None:
            return
        latency = at - int(found[3])
        if found[1] != self.troubled_product:
            self.now.record(latency)
        elif self.now is self.troubled:
            self.its_own.record(latency)


async def _listen(url: str, products: list[str], spells: Spells) -> None:
    async with connect(url, compression=None, proxy=None, max_size=None) as client:
        listed = ",".join(f'"{product}"' for product in products)
        await client.send(f'{{"op":"subscribe","products":[{listed}],"channels":["ticker","trades","book"]}}')
        while True:
            text = await client.recv(decode=True)
            spells.take(text, time.time_ns())


async def _calm(venue: Venue) -> None:
    """The other kind, in which the simulator is asked for the truth as often: that costs it time as well."""
    for _ in range(round(SPELL_S / _CROSS_S)):
        await venue.truth()
        await asyncio.sleep(_CROSS_S)


async def _trouble(venue: Venue, product: str) -> None:
    """One spell of it."""
    await venue.ask("control/fault", kind="lose", share=0.1, for_s=SPELL_S, products=product, channels="matches")
    for _ in range(round(SPELL_S / _CROSS_S)):
        await venue.misbehave(Kind.CROSS, _CROSS_S, 1, [product])


async def _measure(mesh: MeshFile, pairs: int) -> Spells:
    assert mesh.simulator_url is not None
    venue = Venue(mesh.simulator_url)
    products = sorted(await venue.truth())
    spells = Spells(products[0])
    async with asyncio.TaskGroup() as tasks:
        listener = tasks.create_task(_listen(mesh.gateway_url, products, spells))
        await asyncio.sleep(_WARM_S)
        for _ in range(pairs):
            spells.now = spells.calm
            await _calm(venue)
            spells.now = spells.troubled
            await _trouble(venue, products[0])
            spells.now = None
            await asyncio.sleep(_SETTLE_S)
        listener.cancel()
    return spells


async def _found(folder: Path) -> MeshFile:
    while True:
        mesh = meshfile.read(folder)
        if mesh is not None:
            return mesh
        await asyncio.sleep(0.02)


async def _run(pairs: int) -> Spells:
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as folder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lfmesh.cli", "up", "--gateway-port", "0", "--data-dir", folder,
            "--rate", str(RATE), "--products", str(PRODUCTS), "--shards", "1",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_S):
                mesh = await _found(Path(folder))
            return await _measure(mesh, pairs)
        finally:
            process.send_signal(signal.SIGINT)
            await process.wait()


def run(pairs: int = 5) -> list[Row]:
    """Latency of the untroubled products with and without trouble at another one; `pairs` spells of each."""
    spells = asyncio.run(_run(pairs))
    rows = []
    for share, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")):
        calm, troubled = spells.calm.percentile(share), spells.troubled.percentile(share)
        if calm and troubled:
            rows.append(
                Row(
                    f"trouble.{name}",
                    f"others' latency {name} while one product loses trades and its book",
                    troubled / 1e6,
                    "ms",
                    troubled / calm,
                    f"calm spells, {calm / 1e6:.2f} ms",
                    better="less",
                )
            )
    own = spells.its_own.percentile(0.5)
    rows.append(
        Row(
            "trouble.own",
            "the troubled product itself, p50",
            None if own is None else own / 1e6,
            "ms",
            better="less",
            note=f"{spells.fetched} trades fetched, {spells.resynced} resyncs",
        )
    )
    return rows
