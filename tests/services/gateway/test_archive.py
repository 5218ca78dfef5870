"""from_seq past every ring, over real sockets: from the snapshotters' archives, which hold nobody else up."""

import asyncio

import pytest

from lfmesh.messages import RetransmitRequest
from lfmesh.types import Channel, StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, Json, World, configured, place, world
from tests.services.gateway.test_joins import flowing
from tests.services.gateway.test_resume import at, forgotten, resume, whole

SMALL = configured(ring_bytes=65536)


async def past(here: World, key: StreamKey, count: int = 600) -> int:
    """So many messages of a stream, of which rings keep the newest; its epoch."""
    here.normalizer.model._ring._max_bytes = 20_000
    epoch = await flowing(here, key, 1)
    for number in range(count - 1):
        here.normalizer.publish(key, [number])
    await here.caught_up(key)
    return epoch


@pytest.mark.parametrize("key", [TICKER, TRADES, BOOK])
def test_what_no_ring_has_comes_from_the_archive_and_live_follows(key: StreamKey) -> None:
    async def scenario() -> None:
        async with world(SMALL) as here, here.client() as client:
            here.snapshotter.archive = "answers"
            epoch = await past(here, key)
            await resume(client, key, epoch, 3)
            here.normalizer.publish(key, [7])
            await client.until(lambda m: m["data"]["seq"] == 601)
            assert [place(m) for m in client.messages[1:]] == [("incr", epoch, seq) for seq in range(4, 602)]
            figures = here.gateway.statistics()
            assert figures.resumes_total == {"ring": 0, "retransmission": 0, "archive": 1, "snapshot": 0}
            assert figures.archive_answers_total["served"] == figures.asks_total["archive"] == 1
            assert figures.archived_bytes_total > 100_000
            assert here.snapshotter.asked == []

    run(scenario())


def test_a_long_way_is_gone_in_pages_over_epochs_while_data_flows() -> None:
    async def scenario() -> None:
        async with world(SMALL) as here, here.client() as client:
            client.checks = False
            here.snapshotter.archive = "answers"
            first = await past(here, TICKER, 50)
            for number in range(40):
                here.normalizer.publish(TICKER, list(range(number, number + 150)))
            here.normalizer.open(TICKER)
            second = here.normalizer.model.streams[TICKER].position.epoch
            for number in range(40):
                here.normalizer.publish(TICKER, list(range(number, number + 150)))
            await here.caught_up(TICKER)
            await resume(client, TICKER, first, 1)
            for number in range(200):
                here.normalizer.publish(TICKER, [number])
                if not number % 10:
                    await asyncio.sleep(0)
            await client.until(lambda m: m["data"]["epoch"] == second and m["data"]["seq"] == 6200)
            expected = [("incr", first, seq) for seq in range(2, 6051)]
            expected += [("snapshot", second, 0), *(("incr", second, seq) for seq in range(1, 6201))]
            assert [place(m) for m in client.messages[1:]] == expected
            figures = here.gateway.statistics()
            assert figures.resumes_total["archive"] == 1
            assert figures.archive_answers_total["served"] >= 3
            asked = [one for one in here.snapshotter.archived if isinstance(one, RetransmitRequest)]
            assert {one.max_bytes for one in asked} == {1024 * 1024}

    run(scenario(), timeout=60)


@pytest.mark.parametrize("first", ["knows nothing", "is busy"])
def test_the_pair_s_other_one_is_asked_too(first: str) -> None:
    async def scenario() -> None:
        async with world(SMALL, pair=True) as here, here.client() as client:
            one, other = here.snapshotters
            one.archive, other.archive = ("is busy" if first == "is busy" else "knows nothing"), "answers"
            epoch = await past(here, TRADES)
            await resume(client, TRADES, epoch, 1)
            await client.until(lambda m: m["data"]["seq"] == 600)
            assert [place(m)[2] for m in client.messages[1:]] == list(range(2, 601))
            assert one.archived
            outcome = "busy" if first == "is busy" else "none"
            assert here.gateway.statistics().archive_answers_total[outcome] == 1

    run(scenario())


def test_where_no_archive_has_it_what_rings_have_is_the_beginning() -> None:
    async def scenario() -> None:
        async with world(SMALL, pair=True) as here, here.client() as client:
            epoch = await forgotten(here, retained=100_000)
            await resume(client, TRADES, epoch, 1)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 601)
            whole(client.messages[1:], held=1, newest=601)
            assert all(one.archived for one in here.snapshotters)

    run(scenario())


def test_what_an_archive_has_lost_too_is_declared_and_no_more() -> None:
    async def scenario() -> None:
        async with world(SMALL) as here, here.client() as client:
            here.snapshotter.archive = "answers"
            here.normalizer.model.archive._max_bytes = 200_000
            epoch = await forgotten(here, retained=30_000)
            await resume(client, TRADES, epoch, 1)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 601)
            whole(client.messages[1:], held=1, newest=601)
            assert 300 < len(client.messages) < 500, "as many as the archive has"

    run(scenario())


@pytest.mark.parametrize("why", ["archive.enabled", "no snapshotter"])
def test_without_an_archive_it_is_not_asked(why: str) -> None:
    async def scenario() -> None:
        config = SMALL.override({"archive": {"enabled": why != "archive.enabled"}})
        async with world(config, snapshotters=why != "no snapshotter") as here, here.client() as client:
            for snapshotter in here.snapshotters:
                snapshotter.archive = "answers"
            epoch = await forgotten(here, retained=100_000)
            await resume(client, TRADES, epoch, 1)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 601)
            whole(client.messages[1:], held=1, newest=601)
            assert here.gateway.statistics().asks_total.get("archive", 0) == 0

    run(scenario())


def test_an_archive_that_takes_its_time_holds_up_nobody_who_does_not_need_it() -> None:
    """Not the stream's followers, nor who resumes from a ring, on the same stream or others."""

    async def scenario() -> None:
        async with world(SMALL) as here, here.client() as client, here.client() as other:
            here.snapshotter.archive = "takes its time"
            epoch = await past(here, TRADES)
            ethers = StreamKey("ETH-USD", Channel.TICKER)
            second = await flowing(here, ethers, 5)
            await resume(client, TRADES, epoch, 1)
            await eventually(lambda: here.snapshotter.archived)
            await resume(other, TRADES, epoch, 595)
            assert [place(m)[2] for m in await other.take(5)] == [596, 597, 598, 599, 600]
            await resume(other, ethers, second, 3)
            here.normalizer.publish(TRADES, [1])
            here.normalizer.publish(ethers, [1])
            assert sorted(place(m)[2] for m in await other.take(4)) == [4, 5, 6, 601]
            await resume(client, ethers, second, 4)
            assert [place(m)[2] for m in await client.take(2)] == [5, 6]
            assert here.gateway.statistics().joining == 1
            here.snapshotter.answer_archived()
            await client.until(lambda m: m["data"]["seq"] == 601)

    run(scenario())


def test_positions_of_several_streams_are_looked_for_a_few_at_a_time() -> None:
    async def scenario() -> None:
        products = tuple(f"P{number}-USD" for number in range(8))
        async with world(configured(products=products, ring_bytes=65536)) as here, here.client() as client:
            here.snapshotter.archive = "takes its time"
            keys = [StreamKey(product, Channel.TICKER) for product in products]
            positions: Json = {}
            for key in keys:
                positions |= at(key, await past(here, key, 60), 1)
            await client.subscribe(*keys, from_seq=positions)
            await eventually(lambda: len(here.snapshotter.archived) == 3)
            assert here.gateway.statistics().asks_waiting >= 1
            here.snapshotter.answer_archived()
            _, *came = await client.take(1 + 8 * 59)
            for key in keys:
                assert [place(m)[2] for m in came if m["data"]["product"] == key.product] == list(range(2, 61))
            resumes = here.gateway.statistics().resumes_total
            assert resumes["archive"] >= 7, "of the last one our ring may have it"
            assert resumes["archive"] + resumes["ring"] == 8

    run(scenario())
