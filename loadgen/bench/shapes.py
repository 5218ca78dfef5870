"""A saturated gateway with its neighbours and its audience, in two shapes of subscriptions; a `Contender` each.

with saturated(SAME) as ours: …          100 clients, one product
with saturated(RANDOM) as ours: …        200 clients, 20 random ones of 500 products each
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from loadgen.bench.audience import Audience, Party, subscriptions, upgrade
from loadgen.bench.counters import Counters
from loadgen.bench.driver import Neighbours, Plan
from loadgen.bench.gateway import Gateway, gateway
from loadgen.bench.process import BenchmarkFailed, until
from loadgen.bench.rounds import still
from loadgen.bench.ticks import SHORT, products, tick
from loadgen.bench.watches import Frames

SEED = 1
_WARM_PER_S = 2000.0
FRAME_HEADER_BYTES = 4
"""Of a WebSocket frame of 126 to 65,535 bytes from a server (RFC 6455, section 5.2)."""


class Shape(NamedTuple):
    """Who subscribes to what. `window`: messages that are published ahead of the slowest client."""

    name: str
    clients: int
    products: int
    of_each: int
    window: int

    def subscriptions(self) -> list[Sequence[str]]:
        """The products of each client."""
        names = products(self.products)
        draw = random.Random(SEED)  # noqa: S311 - nothing secret
        return [draw.sample(names, self.of_each) for _ in range(self.clients)]


SAME = Shape("100 clients, one subscription set", 100, 1, 1, 2048)
RANDOM = Shape("200 clients × 20 random of 500 products", 200, 500, 20, 4000)


class Ours:
    """The gateway as a contender."""

    def __init__(self, gateway: Gateway, mesh: Neighbours, audience: Audience, shape: Shape, slot: int) -> None:
        self.name = "gateway"
        self.gateway = gateway
        self.slots = slice(slot, slot + shape.clients)
        self.each = 0
        self._mesh = mesh
        self._audience = audience
        self._shape = shape
        self._plan = Plan(slots=self.slots, window=shape.window, every=shape.products // shape.of_each)
        self.publish()

    def publish(self, kind: str = SHORT, count: int = 1) -> None:
        """What rounds from now on publish: ticks of this kind, so many in a mesh frame."""
        self.each = FRAME_HEADER_BYTES + len(tick("P000-USD", kind=kind))
        self._plan = self._plan._replace(kind=kind, per_frame=count, each=self.each)

    def start(self) -> None:
        """Publish as fast as the clients take it."""
        self._mesh.start(self._plan)

    def rest(self) -> None:
        """Stop publishing."""
        self._mesh.rest()

    def cpu_s(self) -> float:
        """The gateway process's."""
        return self.gateway.cpu_s()

    def check(self) -> None:
        """BenchmarkFailed unless everything that was counted was right."""
        self._mesh.check()
        faults = self._audience.faults()
        if faults:
            raise BenchmarkFailed(f"clients of the gateway: {faults[0]} (and {len(faults) - 1} more)")


@contextmanager
def saturated(shape: Shape) -> Iterator[tuple[Ours, Counters]]:
    """A gateway with its clients subscribed, and the counters."""
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        counters = stack.enter_context(Counters(folder / "counters", shape.clients))
        audience = stack.enter_context(Audience(counters.path))
        yield stack.enter_context(ours(shape, folder, counters, audience)), counters


@contextmanager
def ours(shape: Shape, folder: Path, counters: Counters, audience: Audience, slot: int = 0) -> Iterator[Ours]:
    """The same with an audience that others share: its clients' counters begin at `slot`."""
    names, wanted = products(shape.products), shape.subscriptions()
    with (
        Neighbours(folder, counters.path, names) as mesh,
        gateway(mesh.peers(), names) as process,
    ):
        audience.join(Party(process.port, slot, upgrade("/ws", process.port), subscriptions(wanted), Frames))
        count = sum(map(len, wanted))
        until(lambda: process.figures()["subscriptions"] == count, "the clients' subscriptions")
        # The first message of each stream brings a status with it: not in what is measured.
        mesh.start(Plan(rate=_WARM_PER_S))
        until(lambda: process.figures()["messages_received_total"] >= shape.products, "the first messages")
        mesh.rest()
        still(counters.values[slot : slot + shape.clients], "the gateway")
        yield Ours(process, mesh, audience, shape, slot)
