"""What clients are told when data stops, and heartbeats (client protocol, guarantee 7)."""

from lfmesh.types import Channel, StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, TRADES, configured, place, world
from tests.services.gateway.test_joins import flowing


def test_the_mesh_s_word_reaches_followers_once_and_latecomers_when_they_subscribe() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client, here.client() as late:
            await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            stale = here.normalizer.model.status(TICKER, "stale")
            for _ in range(3):  # as a normalizer repeats it
                here.normalizer.publisher.publish(stale)
            here.normalizer.publish(TICKER, [4])
            status, increment = await client.take(2)
            assert (status["op"], status["state"], status["reason"]) == ("status", "stale", "stale")
            assert increment["op"] == "incr"
            await late.subscribe(TICKER)
            assert [message["op"] for message in await late.take(3)] == ["subscribed", "status", "snapshot"]
            assert late.texts[1] == client.texts[2]
            here.normalizer.publisher.publish(here.normalizer.model.status(TICKER, "data flows"))
            for one in (client, late):
                assert (await one.until(lambda m: m["op"] == "status"))["state"] == "live"
            assert here.gateway.statistics().streams["live"] == 1

    run(scenario())


def test_missing_beacons_are_told_and_their_return() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.stop_beacons()
            status = await client.next()
            assert (status["state"], status["reason"]) == ("recovering", "no beacon from the normalizer of shard 0")
            (reason,) = here.gateway.readiness()
            assert "no beacon from normalizer-0" in reason
            here.normalizer.start_beacons()
            assert (await client.next())["state"] == "live"
            assert here.gateway.readiness() == []

    run(scenario())


def test_one_shard_s_silence_is_not_told_of_another_s_streams() -> None:
    async def scenario() -> None:
        products = tuple(f"P{number}-USD" for number in range(8))
        async with world(configured(shards=2, products=products)) as here, here.client() as client:
            keys = [StreamKey(product, Channel.TICKER) for product in products]
            for key in keys:
                await flowing(here, key)
            await client.subscribe(*keys, want_snapshot=False)
            await client.next()
            silent = [key.product for key in keys if here.of(key) is here.normalizers[1]]
            here.normalizers[1].stop_beacons()
            told = await client.take(len(silent))
            assert sorted(status["product"] for status in told) == sorted(silent)
            assert len(here.gateway.readiness()) == 1
            assert await client.rest() == []

    run(scenario())


def test_a_gap_that_stays_open_is_told() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TRADES)
            await client.subscribe(TRADES)
            await client.take(2)
            here.normalizer.deaf = True
            here.normalizer.publish(TRADES, [4], lost=True)
            status = await client.next()
            assert (status["op"], status["state"]) == ("status", "recovering")
            assert "missing" in status["reason"]
            here.normalizer.deaf = False
            await client.until(lambda message: message.get("state") == "live")

    run(scenario())


def test_a_heartbeat_comes_while_nothing_else_does() -> None:
    async def scenario() -> None:
        async with world(configured(heartbeat_interval_s=0.05)) as here, here.client() as client:
            first, second = await client.take(2)
            assert {first["op"], second["op"]} == {"heartbeat"}
            assert first["ts"] < second["ts"]
            assert here.gateway.statistics().heartbeats_total >= 2

    run(scenario())


def test_a_restarted_normalizer_takes_its_old_word_back() -> None:
    """Its predecessor said `stale`, and it says nothing, as everything is well."""

    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.publisher.publish(here.normalizer.model.status(TICKER, "stale"))
            assert (await client.next())["state"] == "stale"
            here.normalizer.model.term += 1
            assert (await client.next())["state"] == "live"
            here.normalizer.open(TICKER)
            assert place(await client.next())[0] == "snapshot"
            await eventually(lambda: here.supervisor.events("new publisher"))

    run(scenario())
