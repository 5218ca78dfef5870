"""Another normalizer takes over: what clients hold goes on or begins anew, and no trade comes twice or is lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from lfmesh.messages import RetransmitRequest
from lfmesh.types import Channel, StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, Client, Json, World, place, world
from tests.services.gateway.test_joins import flowing
from tests.services.gateway.test_resume import at
from tests.services.snapshotter.world import FakeNormalizer

OTHER = StreamKey("ETH-USD", Channel.TICKER)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[World, FakeNormalizer, FakeNormalizer]]:
    """A gateway that follows two normalizers of the shard; the first publishes, the second stands by."""
    async with world() as here:
        active = here.normalizer
        standby = FakeNormalizer(here.transport, 2, None, "normalizer-0b", 0)
        standby.model.clock = active.model.clock
        here.gateway.on_peers([*here.peers(), standby.record])
        await eventually(lambda: standby.subscribed)
        yield here, active, standby
        standby.close()


def take_over(here: World, active: FakeNormalizer, standby: FakeNormalizer, *, resumed: bool) -> None:
    """The active one falls silent; the other one goes on in its epochs, or in new ones."""
    active.stop_beacons()
    standby.model.known = {key: stream.copy() for key, stream in active.model.streams.items()}
    standby.model.trade_id = active.model.trade_id
    for key in active.model.streams:
        if resumed:
            standby.model.resume(key)
        else:
            standby.open(key)
    here.normalizers[0] = here.snapshotter.normalizer = standby
    standby.start_beacons()


def trades(messages: list[Json]) -> list[int]:
    return [m["data"]["fields"]["trade_id"] for m in messages if m["op"] == "incr" and m["data"]["channel"] == "trades"]


async def following(here: World, client: Client, *keys: StreamKey) -> int:
    """The client has the snapshots of all of them; the epoch of the last."""
    for key in keys:
        epoch = await flowing(here, key, 3)
    await client.subscribe(*keys)
    for _ in keys:
        await client.until(lambda m: m["op"] == "snapshot")
    return epoch


def test_an_epoch_that_goes_on_goes_on_for_clients_without_a_word() -> None:
    async def scenario() -> None:
        async with pair() as (here, active, standby), here.client() as client:
            epoch = await following(here, client, TRADES)
            active.publish(TRADES, [4])
            await client.until(lambda m: m["op"] == "incr")
            take_over(here, active, standby, resumed=True)
            standby.publish(TRADES, [5, 6])
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 6)
            data = [place(m) for m in client.messages if m["op"] in ("incr", "snapshot")]
            assert data[1:] == [("incr", epoch, seq) for seq in (4, 5, 6)]
            assert len(here.supervisor.events("new publisher")) == 2

    run(scenario())


def test_what_the_one_that_is_gone_has_published_last_is_not_repeated() -> None:
    """The standby knew less of the epoch than we: what it mints again is what we have."""

    async def scenario() -> None:
        async with pair() as (here, active, standby), here.client() as client:
            await following(here, client, TRADES)
            behind = active.model.streams[TRADES].copy()
            active.publish(TRADES, [4, 5])
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 5)
            active.stop_beacons()
            standby.model.known = {TRADES: behind}
            standby.model.trade_id = 3
            standby.model.resume(TRADES)
            here.normalizers[0] = standby
            standby.start_beacons()
            standby.publish(TRADES, [4])
            standby.publish(TRADES, [5, 6])
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 6)
            assert trades(client.messages) == [4, 5, 6]

    run(scenario())


def test_what_was_lost_at_the_take_over_is_asked_of_the_new_one() -> None:
    async def scenario() -> None:
        async with pair() as (here, active, standby), here.client() as client:
            epoch = await following(here, client, TRADES)
            take_over(here, active, standby, resumed=True)
            await eventually(lambda: here.gateway._intake.feeds[0].term == 2)
            standby.publish(TRADES, [4, 5], lost=True)
            standby.publish(TRADES, [6])
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 6)
            assert trades(client.messages) == [4, 5, 6]
            assert RetransmitRequest(*TRADES, epoch, 3) in standby.asked
            assert here.gateway.statistics().recoveries_total == {"retransmit": 1}

    run(scenario())


def test_and_if_it_has_not_got_it_a_snapshot_declares_what_is_missing() -> None:
    async def scenario() -> None:
        async with pair() as (here, active, standby), here.client() as client:
            epoch = await following(here, client, TRADES)
            take_over(here, active, standby, resumed=True)
            await eventually(lambda: here.gateway._intake.feeds[0].term == 2)
            for number in range(60):
                standby.publish(TRADES, [number], lost=True)
            standby.model.forget(TRADES)
            snapshot = await client.until(lambda m: m["op"] == "snapshot" and m["data"]["reason"] == "gap")
            assert place(snapshot) == ("snapshot", epoch, 63)
            assert snapshot["data"]["missing"] == {"from_trade_id": 4, "to_trade_id": 13}
            standby.publish(TRADES, [1])
            await client.until(lambda m: m["op"] == "incr")
            assert trades(client.messages) == [64]

    run(scenario())


def test_new_epochs_come_as_their_snapshots_and_every_trade_once() -> None:
    async def scenario() -> None:
        async with pair() as (here, active, standby), here.client() as client:
            await following(here, client, TICKER, TRADES, BOOK)
            take_over(here, active, standby, resumed=False)
            for key in (TICKER, TRADES, BOOK):
                standby.publish(key, [9])
            await here.caught_up(TICKER, TRADES, BOOK)
            came = await client.rest()
            for key in (TICKER, TRADES, BOOK):
                newer = standby.model.streams[key].position.epoch
                mine = [place(m) for m in came if m.get("data", {}).get("channel") == key.channel]
                assert mine == [("snapshot", newer, 0), ("incr", newer, 1)]
            assert trades(client.messages) == [4]

    run(scenario())


def test_a_resume_that_the_dead_one_was_asked_for_is_served_by_its_successor() -> None:
    async def scenario() -> None:
        async with pair() as (here, active, standby), here.client() as client:
            epoch = await flowing(here, TRADES, 1)
            for number in range(5):
                active.publish(TRADES, [number])
            await here.caught_up(TRADES)
            here.gateway._hub._ring.forget(TRADES)
            active.deaf = True
            await client.subscribe(TRADES, from_seq=at(TRADES, epoch, 2))
            await eventually(lambda: here.gateway.statistics().asks_total.get("older"))
            known = active.model
            take_over(here, active, standby, resumed=True)
            standby.model._ring = known._ring
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 6)
            assert trades(client.messages) == [3, 4, 5, 6]
            assert here.gateway.statistics().resumes_total == {
                "ring": 0,
                "retransmission": 1,
                "archive": 0,
                "snapshot": 0,
            }

    run(scenario())


def test_a_stream_in_a_gap_holds_up_no_other() -> None:
    """The normalizer answers nothing: one stream waits, the others go on, and say so."""

    async def scenario() -> None:
        async with pair() as (here, active, _), here.client() as client:
            await following(here, client, TRADES)
            await following(here, client, OTHER)
            active.deaf = here.snapshotter.deaf = True
            active.publish(TRADES, [4], lost=True)
            active.publish(TRADES, [5])
            await client.until(lambda m: m["op"] == "status" and m["channel"] == "trades")
            for number in range(50):
                active.publish(OTHER, [number])
                active.publish(TRADES, [number])
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 53)
            assert {m["data"]["product"] for m in client.messages if m["op"] == "incr"} == {OTHER.product}
            statuses = {m["product"] for m in client.messages if m["op"] == "status" and m["state"] == "recovering"}
            assert statuses == {TRADES.product}
            active.deaf = False
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 55)
            assert trades(client.messages) == list(range(4, 56))

    run(scenario())


def test_a_stale_active_that_wakes_up_is_ignored() -> None:
    async def scenario() -> None:
        async with pair() as (here, active, standby), here.client() as client:
            await following(here, client, TRADES)
            take_over(here, active, standby, resumed=True)
            standby.publish(TRADES, [4])
            await client.until(lambda m: m["op"] == "incr")
            active.start_beacons()
            active.open(TRADES)
            active.publish(TRADES, [4, 5, 6])
            await eventually(lambda: here.gateway.statistics().messages_dropped_total.get("stale_term", 0) >= 4)
            standby.publish(TRADES, [5])
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 5)
            assert trades(client.messages) == [4, 5]
            assert [m["data"]["reason"] for m in client.messages if m["op"] == "snapshot"] == ["subscribe"]

    run(scenario())


def test_links_follow_a_normalizer_that_has_moved() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await following(here, client, TRADES)
            old = here.normalizer
            known = {key: stream.copy() for key, stream in old.model.streams.items()}
            old.close()
            moved = FakeNormalizer(here.transport, 2, known, "normalizer-0", 0, incarnation=2)
            moved.model.resume(TRADES)
            moved.model.trade_id = 3
            here.normalizers[0] = moved
            record = msgspec.structs.replace(moved.record, incarnation=2)
            here.gateway.on_peers([record, here.snapshotter.record])
            await eventually(lambda: moved.subscribed)
            moved.start_beacons()
            moved.publish(TRADES, [4])
            await client.until(lambda m: m["op"] == "incr")
            assert trades(client.messages) == [4]

    run(scenario())
