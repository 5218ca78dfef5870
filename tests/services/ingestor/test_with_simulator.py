"""The ingestor on the exchange simulator: what arrives is whole, however the venue behaves."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from lfmesh.core.codec import RawRecord, RecordKind
from lfmesh.errors import BadVenueFrame
from lfmesh.exact import scaled
from lfmesh.messages import Reply, ResyncRequest
from lfmesh.transport import Requester, Transport
from lfmesh.types import BookSnapshot, BookUpdate, Trade
from lfmesh.venues.coinbase.parse import parse
from loadgen.sim import Fault, SimConfig, Simulator, serve
from tests.aio import eventually, run
from tests.services.ingestor.ends import Normalizer, Running, ask, config, contiguous, ingestor, replayed

SHARDS = 3
INCARNATION = 1_000


class Mesh:
    """A simulator, an ingestor on it, and a normalizer's sockets for each shard."""

    def __init__(self, sim: Simulator, running: Running, transport: Transport) -> None:
        self.sim = sim
        self.running = running
        self.transport = transport
        self.normalizers = [Normalizer(transport, shard) for shard in range(SHARDS)]
        running.service.on_peers([normalizer.record() for normalizer in self.normalizers])

    async def records(self) -> list[list[RawRecord]]:
        """All records of each shard in the order of their numbers, from the ring; what was pushed is the same."""
        requester = Requester(self.transport, self.running.service.endpoints()["requests"])
        found = []
        for shard, normalizer in enumerate(self.normalizers):
            pushed = normalizer.numbered()  # before the ring is asked: it may go on growing
            everything = await replayed(requester, shard, INCARNATION)
            assert contiguous(everything)
            for number, record in pushed.items():
                assert everything[number] == record
            found.append([everything[number] for number in sorted(everything)])
        return found

    async def settled(self) -> None:
        """Everything that the venue has sent has come."""
        markers = set()
        for product in self.sim.products:
            marker = json.dumps({"type": "match", "product_id": product, "marker": True})
            assert self.sim.inject(product, marker) == 1
            markers.add(marker.encode())
        await eventually(lambda: markers <= {body for each in self.normalizers for body in each.bodies()})

    def picture(self, records: list[list[RawRecord]]) -> dict[str, tuple[Any, Any, int | None]]:
        """(bids, asks, last trade id) of each product, by a few lines of its own."""
        books: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        last: dict[str, int | None] = {}
        for shard in records:
            for record in shard:
                if record.kind != RecordKind.FRAME:
                    continue
                try:
                    event = parse(record.body)
                except BadVenueFrame:
                    continue
                match event:
                    case BookSnapshot(product, bids, asks):
                        books[product] = (dict(bids), dict(asks))
                    case BookUpdate(product, changes):
                        for side, px, qty in changes:
                            ladder = books[product][side != "buy"]
                            ladder.pop(px, None)
                            if qty.strip("0."):
                                ladder[px] = qty
                    case Trade(product, trade_id):
                        last[product] = trade_id
                    case _:
                        pass
        return {
            product: (
                sorted(bids.items(), key=lambda level: -scaled(level[0])),
                sorted(asks.items(), key=lambda level: scaled(level[0])),
                last.get(product),
            )
            for product, (bids, asks) in books.items()
        }


@asynccontextmanager
async def mesh(simulator: SimConfig, **venue: object) -> AsyncIterator[Mesh]:
    async with serve(simulator) as sim:
        settings = config(
            sim.ws_url,
            sim.products,
            shards=SHARDS,
            venue={
                "rest_url": sim.rest_url,
                "channels": ("heartbeat", "ticker", "matches", "level2_batch"),
                "products_per_connection": 5,
                **venue,
            },
        )
        with Transport() as transport:
            async with ingestor(settings) as running:
                yield Mesh(sim, running, transport)


def truth(sim: Simulator) -> dict[str, tuple[Any, Any, int | None]]:
    found = {}
    for product in sim.products:
        state = sim.truth(product)
        found[product] = (
            [tuple(level) for level in state.bids],
            [tuple(level) for level in state.asks],
            state.last_trade_id,
        )
    return found


def same_books(one: dict[str, tuple[Any, Any, int | None]], other: dict[str, tuple[Any, Any, int | None]]) -> bool:
    return {product: picture[:2] for product, picture in one.items()} == {
        product: picture[:2] for product, picture in other.items()
    }


def test_all_that_the_venue_sends_comes_through() -> None:
    async def main() -> None:
        simulator = SimConfig(product_count=12, rate_msgs_s=5000, count=4000, start_paused=True)
        async with mesh(simulator) as around:
            await around.running.ready()
            assert around.running.service.statistics().connections == 3
            around.sim.start()
            await around.sim.wait_finished()
            around.sim.pause()
            await around.settled()
            records = await around.records()
            picture, right = around.picture(records), truth(around.sim)
            assert same_books(picture, right)
            for product, (_, _, last_trade_id) in picture.items():
                if last_trade_id is not None:
                    assert last_trade_id == right[product][2]
            statistics = around.running.service.statistics()
            unrouted = statistics.frames_unrouted_total
            assert {why for why, count in unrouted.items() if count} == {"subscriptions"}
            links = sum(record.kind != RecordKind.FRAME for shard in records for record in shard)
            assert statistics.frames_received_total + links == statistics.records_published_total + sum(
                unrouted.values()
            )

    run(main())


def test_in_the_production_loop() -> None:
    async def main() -> None:
        async with asyncio.timeout(30), mesh(SimConfig(product_count=10, rate_msgs_s=5000)) as around:
            await around.running.ready()
            around.sim.begin_fault(Fault(kind="drop"))
            await eventually(lambda: lost(around) == 2)
            await around.running.ready()
            around.sim.pause()
            await around.settled()
            assert same_books(around.picture(await around.records()), truth(around.sim))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_dropped_connections_come_back_and_books_are_right_again() -> None:
    async def main() -> None:
        async with mesh(SimConfig(product_count=10, rate_msgs_s=2000)) as around:
            await around.running.ready()
            for drop in range(1, 4):
                around.sim.begin_fault(Fault(kind="drop"))
                await eventually(lambda drop=drop: lost(around) == 2 * drop)  # type: ignore[misc]
                await around.running.ready()
            around.sim.pause()
            await around.settled()
            assert same_books(around.picture(await around.records()), truth(around.sim))
            words = [[word for word, _, _ in normalizer.links()] for normalizer in around.normalizers]
            assert all(shard.count("down") >= 3 for shard in words)

    run(main())


def lost(around: Mesh) -> int:
    return around.running.service.statistics().links_lost_total


def test_a_venue_that_is_away_for_a_while() -> None:
    async def main() -> None:
        async with mesh(SimConfig(product_count=5, rate_msgs_s=500)) as around:
            await around.running.ready()
            around.sim.begin_fault(Fault(kind="drop", for_s=0.5))
            await eventually(lambda: around.running.service.statistics().connect_failures_total >= 1)
            assert "is down" in around.running.service.readiness()[0]
            await around.running.ready()
            around.sim.pause()
            await around.settled()
            assert same_books(around.picture(await around.records()), truth(around.sim))

    run(main())


def test_a_refusal_is_said_and_retried() -> None:
    async def main() -> None:
        faults = (Fault(kind="refuse", products=frozenset(["ETH-USD"])),)
        async with mesh(SimConfig(product_count=5, rate_msgs_s=500, faults=faults)) as around:
            wanted = "ETH-USD: refused by the venue: Failed to subscribe: the venue refuses this subscription"
            await eventually(lambda: around.running.service.readiness() == [f"connection 0 to the venue: {wanted}"])
            around.sim.clear_faults()
            await around.running.ready()
            around.sim.pause()
            await around.settled()
            assert same_books(around.picture(await around.records()), truth(around.sim))

    run(main())


def test_a_stall_trips_the_watchdog() -> None:
    async def main() -> None:
        async with mesh(SimConfig(product_count=5, rate_msgs_s=500), watchdog_s=0.4, subscribe_timeout_s=0.4) as around:
            await around.running.ready()
            around.sim.begin_fault(Fault(kind="stall"))
            await eventually(lambda: around.running.service.statistics().watchdog_trips_total >= 1)
            await eventually(lambda: around.running.service.readiness() != [])
            around.sim.clear_faults()
            await around.running.ready()

    run(main())


def test_garbled_frames_stop_nothing() -> None:
    async def main() -> None:
        faults = (Fault(kind="garble", share=0.2),)
        async with mesh(SimConfig(product_count=5, rate_msgs_s=3000, count=3000, faults=faults)) as around:
            await asyncio.wait_for(around.sim.wait_finished(), 20)
            around.sim.clear_faults()
            around.sim.pause()
            await around.settled()
            records = await around.records()
            bad = 0
            for shard in records:
                for record in shard:
                    try:
                        parse(record.body)
                    except BadVenueFrame:
                        bad += 1
            unrouted = around.running.service.statistics().frames_unrouted_total
            assert bad + unrouted["invalid_json"] > 50
            assert len(around.running.logged("frame without a product of ours")) <= 3
            assert lost(around) == 0

    run(main())


def test_resync_brings_a_whole_book_in_its_place() -> None:
    async def main() -> None:
        async with mesh(SimConfig(product_count=5, rate_msgs_s=2000)) as around:
            await around.running.ready()
            requester = Requester(around.transport, around.running.service.endpoints()["requests"])
            await resynced(around, requester)
            around.sim.pause()
            await around.settled()
            records = await around.records()
            assert same_books(around.picture(records), truth(around.sim))
            assert not [record for shard in records for record in shard if record.kind == RecordKind.LINK_DOWN]

    run(main())


async def resynced(around: Mesh, requester: Requester) -> None:
    def snapshots() -> int:
        bodies = [body for normalizer in around.normalizers for body in normalizer.bodies()]
        return sum(body.startswith(b'{"type":"snapshot","product_id":"BTC-USD"') for body in bodies)

    before = snapshots()
    assert (await ask(requester, ResyncRequest(["BTC-USD"])))[0] == Reply()
    await eventually(lambda: snapshots() == before + 1)
