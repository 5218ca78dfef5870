"""/ready: until data flows and every shard is attached (client protocol, HTTP), and not a moment longer."""

from lfmesh.types import CHANNELS, StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import PRODUCTS, TICKER, TRADES, World, configured, world
from tests.services.gateway.test_joins import flowing

ALL = [StreamKey(product, channel) for product in PRODUCTS for channel in CHANNELS]


async def ready(here: World) -> None:
    await eventually(lambda: here.gateway.readiness() == [])


async def not_ready(here: World, why: str) -> None:
    await eventually(lambda: any(why in reason for reason in here.gateway.readiness()))


def test_positions_alone_are_no_data_that_flows() -> None:
    """A gateway that joins while the venue is down: the normalizer has states, and nothing new comes."""

    async def scenario() -> None:
        async with world(beacons=False) as here:
            here.normalizer.model.open(TICKER)
            here.normalizer.start_beacons()
            await not_ready(here, "nothing has come from the venue to shard 0 yet")
            heard = here.gateway.statistics().beacons_received_total
            await eventually(lambda: here.gateway.statistics().beacons_received_total > heard + 5)
            await not_ready(here, "nothing has come from the venue to shard 0 yet")
            assert here.gateway.statistics().shards_flowing == 0
            here.normalizer.publish(TICKER, [1])
            await ready(here)
            assert here.gateway.statistics().shards_flowing == 1

    run(scenario())


def test_when_no_stream_lives_it_is_not_ready_though_beacons_come() -> None:
    async def scenario() -> None:
        async with world() as here:
            for key in ALL:
                await flowing(here, key, 1)
            await ready(here)
            for key in ALL:
                here.normalizer.publisher.publish(here.normalizer.model.status(key, "stale"))
            await not_ready(here, "no stream of shard 0 is live: stale")
            here.normalizer.publisher.publish(here.normalizer.model.status(TRADES, "flows"))
            await ready(here)

    run(scenario())


def test_when_records_stop_it_is_not_ready_though_nobody_says_so() -> None:
    async def scenario() -> None:
        config = configured().override({"normalizer": {"stale_after_s": 0.4}})
        async with world(config) as here:
            await flowing(here, TICKER)
            await ready(here)
            await not_ready(here, "nothing from the venue to shard 0 for")
            here.normalizer.publish(TICKER, [1])
            await ready(here)

    run(scenario())


def test_every_shard_counts() -> None:
    async def scenario() -> None:
        products = tuple(f"P{number}-USD" for number in range(8))
        async with world(configured(shards=2, products=products)) as here:
            for product in products:
                await flowing(here, TICKER._replace(product=product))
            await ready(here)
            here.normalizers[1].stop_beacons()
            await not_ready(here, "no beacon from normalizer-1")
            assert len(here.gateway.readiness()) == 1
            here.normalizers[1].start_beacons()
            await ready(here)

    run(scenario())
