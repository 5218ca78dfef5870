"""How clients join streams, over real sockets (client protocol, guarantees 1 to 6)."""

import asyncio
from decimal import Decimal

from lfmesh.types import Channel, StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, Client, FakeSnapshotter, World, configured, place, world


async def flowing(here: World, key: StreamKey, count: int = 3) -> int:
    """Open a stream and publish on it; its epoch."""
    here.of(key).open(key)
    here.of(key).publish(key, list(range(1, count + 1)))
    await here.caught_up(key)
    return here.of(key).model.streams[key].position.epoch


def test_a_client_gets_a_snapshot_and_then_every_increment() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER, id="mine")
            subscribed, snapshot = await client.take(2)
            assert subscribed == {"op": "subscribed", "id": "mine", "products": ["BTC-USD"], "channels": ["ticker"]}
            assert place(snapshot) == ("snapshot", epoch, 3)
            assert snapshot["data"]["reason"] == "subscribe"
            here.normalizer.publish(TICKER, [4])
            here.normalizer.publish(TICKER, [5, 6])
            assert [place(message) for message in await client.take(3)] == [("incr", epoch, seq) for seq in (4, 5, 6)]

    run(scenario())


def test_what_was_published_is_what_arrives_byte_for_byte() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            for key in (TICKER, TRADES, BOOK):
                await flowing(here, key)
            await client.subscribe(TICKER, TRADES, BOOK)
            await client.until(lambda message: message["op"] == "snapshot" and message["data"]["channel"] == "book")
            start = len(client.texts)
            for number in range(10, 40):
                for key in (TICKER, TRADES, BOOK):
                    here.normalizer.publish(key, [number])
            await client.take(90)
            published = {text.decode() for text in here.normalizer.model.history.values()}
            assert set(client.texts[start:]) <= published
            assert len(set(client.texts[start:])) == 90

    run(scenario())


def test_joins_under_load_are_gapless_and_the_state_is_asked_for_once() -> None:
    async def scenario() -> None:
        async with world() as here:
            epoch = await flowing(here, TICKER)
            here.snapshotter.held = True
            async with asyncio.TaskGroup() as group:
                stop = asyncio.Event()

                async def publish() -> None:
                    number = 4
                    while not stop.is_set():
                        here.normalizer.publish(TICKER, [number, number + 1])
                        number += 2
                        await asyncio.sleep(0.001)

                async def join(late: bool) -> None:
                    if late:
                        await eventually(lambda: not here.snapshotter.held)
                    async with here.client() as client:
                        await check(client)

                async def check(client: Client) -> None:
                    await client.subscribe(TICKER)
                    subscribed, snapshot = await client.take(2)
                    assert subscribed["op"] == "subscribed"
                    assert place(snapshot)[:2] == ("snapshot", epoch)
                    seq = snapshot["data"]["seq"]
                    for message in await client.take(200):
                        seq += 1
                        assert place(message) == ("incr", epoch, seq)

                tasks = [group.create_task(join(number % 2 == 0)) for number in range(12)]
                publisher = group.create_task(publish())
                await eventually(lambda: here.gateway.statistics().joining == 6)
                here.snapshotter.release()
                await asyncio.wait(tasks)
                stop.set()
                await publisher
            assert here.snapshotter.asked == [TICKER]

    run(scenario())


def test_a_state_from_an_ended_epoch_is_followed_by_the_new_one() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            here.snapshotter.freeze(TICKER)
            here.normalizer.publish(TICKER, [4])
            here.normalizer.open(TICKER)
            here.normalizer.publish(TICKER, [5])
            await here.caught_up(TICKER)
            newer = here.normalizer.model.streams[TICKER].position.epoch
            await client.subscribe(TICKER)
            assert [place(message) for message in (await client.take(5))[1:]] == [
                ("snapshot", epoch, 3),
                ("incr", epoch, 4),
                ("snapshot", newer, 0),
                ("incr", newer, 1),
            ]
            assert client.messages[3]["data"]["reason"] == "epoch"

    run(scenario())


def test_an_epoch_that_opens_while_the_state_is_awaited_serves_those_who_wait() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TICKER)
            here.snapshotter.held = True
            await client.subscribe(TICKER)
            await client.next()
            here.normalizer.open(TICKER)
            here.normalizer.publish(TICKER, [9])
            newer = here.normalizer.model.streams[TICKER].position.epoch
            assert [place(message) for message in await client.take(2)] == [
                ("snapshot", newer, 0),
                ("incr", newer, 1),
            ]
            here.snapshotter.release()
            assert await client.rest() == []

    run(scenario())


def test_a_snapshotter_that_lags_behind_our_ring_is_passed_over() -> None:
    async def scenario() -> None:
        async with world(configured(ring_bytes=65536)) as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            here.snapshotter.freeze(TICKER)
            for number in range(500):
                here.normalizer.publish(TICKER, [number])
            await here.caught_up(TICKER)
            await client.subscribe(TICKER)
            assert place((await client.take(2))[1]) == ("snapshot", epoch, 503)
            assert here.snapshotter.asked == [TICKER]

    run(scenario())


def test_without_a_snapshotter_the_normalizer_is_asked() -> None:
    async def scenario() -> None:
        async with world(snapshotters=False) as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            assert place((await client.take(2))[1]) == ("snapshot", epoch, 3)

    run(scenario())


def test_a_product_without_data_is_subscribed_and_its_snapshot_comes_with_its_first_data() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await client.subscribe(TICKER)
            subscribed, status = await client.take(2)
            assert subscribed["op"] == "subscribed"
            assert (status["state"], status["reason"]) == ("recovering", "no data yet")
            assert await client.rest() == []
            here.normalizer.open(TICKER)
            here.normalizer.publish(TICKER, [1])
            epoch = here.normalizer.model.streams[TICKER].position.epoch
            came = await client.take(3)
            assert [place(message) for message in came if message["op"] != "status"] == [
                ("snapshot", epoch, 0),
                ("incr", epoch, 1),
            ]
            assert [message["state"] for message in came if message["op"] == "status"] == ["live"]

    run(scenario())


def test_a_gateway_that_starts_late_serves_from_the_snapshotter() -> None:
    """It learns positions from a beacon, and has nothing in its ring."""

    async def scenario() -> None:
        async with world(beacons=False) as here, here.client() as client:
            here.normalizer.model.open(TICKER)
            here.normalizer.model.increment(TICKER, [1, 2])
            epoch = here.normalizer.model.streams[TICKER].position.epoch
            here.normalizer.start_beacons()
            await here.attached()
            await client.subscribe(TICKER)
            assert place(await client.until(lambda message: message["op"] == "snapshot")) == ("snapshot", epoch, 2)
            here.normalizer.publish(TICKER, [3])
            assert place(await client.until(lambda message: message["op"] == "incr")) == ("incr", epoch, 3)

    run(scenario())


def test_subscribing_again_begins_again() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.publish(TICKER, [4])
            await client.next()
            await client.subscribe(TICKER)
            came = await client.take(2)
            assert came[0]["op"] == "subscribed"
            if came[1]["data"]["seq"] == 3:  # the kept snapshot, and what came after it
                came.append(await client.next())
            assert place(came[-1])[1:] == (epoch, 4)
            here.normalizer.publish(TICKER, [5])
            assert place(await client.next()) == ("incr", epoch, 5)

    run(scenario())


def test_requests_are_additive() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            for key in (TICKER, TRADES):
                await flowing(here, key)
            await client.subscribe(TICKER)
            await client.take(2)
            await client.subscribe(TRADES)
            await client.take(2)
            here.normalizer.publish(TICKER, [4])
            here.normalizer.publish(TRADES, [4])
            assert {message["data"]["channel"] for message in await client.take(2)} == {"ticker", "trades"}
            assert here.gateway.statistics().subscriptions == 2

    run(scenario())


def test_without_want_snapshot_the_next_increment_is_the_first() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER, want_snapshot=False)
            await client.next()
            assert await client.rest() == []
            here.normalizer.publish(TICKER, [4])
            assert place(await client.next()) == ("incr", epoch, 4)
            assert here.snapshotter.asked == []

    run(scenario())


async def big_book(here: World, keeper: FakeSnapshotter, levels: int) -> int:
    here.normalizer.model.open(BOOK)
    stream = here.normalizer.model.streams[BOOK]
    for number in range(levels):
        px = f"{number + 1}.00000000"
        stream.bids[Decimal(px)] = (px, "123456789.12345678")
    here.normalizer.beacon()
    await eventually(lambda: here.gateway._hub.stream(BOOK).position == stream.position)
    assert keeper.part_bytes == 256 * 1024
    return stream.position.epoch


def test_a_big_book_comes_in_parts_and_is_the_whole_book() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await big_book(here, here.snapshotter, 40_000)
            await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            await client.subscribe(BOOK)
            await eventually(lambda: here.snapshotter.asked == [TICKER, BOOK])
            here.normalizer.publish(BOOK, [1, 2])
            for number in range(20):
                here.normalizer.publish(TICKER, [number])
            done = await client.until(lambda m: m["op"] == "incr" and m["data"]["channel"] == "book")
            assert place(done) == ("incr", epoch, 1)
            parts = [m["data"] for m in client.messages if m["op"] == "snapshot" and m["data"]["channel"] == "book"]
            assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
            assert len(parts) > 3
            assert {part["parts"] for part in parts} == {len(parts)}
            assert all(len(text) < 320 * 1024 for text in client.texts)
            assert sum(len(part["state"]["bids"]) for part in parts) == 40_000
            assert place(await client.until(lambda m: m["data"]["channel"] == "book"))[2] == 2

    run(scenario())


def test_other_streams_go_on_while_a_big_snapshot_is_under_way() -> None:
    """The client reads nothing until everything is under way, so the parts have to wait for its socket."""

    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await big_book(here, here.snapshotter, 200_000)
            await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            client.checks = False  # of 7 MB, which takes long and is done elsewhere
            client.connection.transport.pause_reading()
            await client.subscribe(BOOK)
            await eventually(lambda: any(one.paused for one in here.gateway._hub._clients))
            for number in range(300):
                here.normalizer.publish(TICKER, [number])
            await here.caught_up(TICKER)
            client.connection.transport.resume_reading()
            await client.until(lambda m: m["op"] == "snapshot" and m["data"].get("part") == m["data"].get("parts"))
            order = "".join(
                "p" if m["op"] == "snapshot" else "t" for m in client.messages[3:] if m["op"] != "subscribed"
            )
            ticks = [m["data"]["seq"] for m in client.messages if m["op"] == "incr"]
            assert ticks == list(range(4, 4 + len(ticks)))
            assert "pt" in order, "no tick came between the parts"
            assert len(ticks) == 300
            assert order.endswith("p")

    run(scenario())


def test_two_shards_and_many_products() -> None:
    async def scenario() -> None:
        products = tuple(f"P{number}-USD" for number in range(20))
        keys = [StreamKey(product, Channel.TICKER) for product in products]
        async with world(configured(shards=2, products=products)) as here, here.client() as client:
            for key in keys:
                await flowing(here, key, 2)
            await client.subscribe(*keys)
            came = await client.take(21)
            assert {message["data"]["product"] for message in came[1:]} == set(products)
            for key in keys:
                here.of(key).publish(key, [3])
            assert {message["data"]["product"] for message in await client.take(20)} == set(products)
            assert here.gateway.readiness() == []

    run(scenario())
