"""from_seq over real sockets: every form, from every rung (client protocol, guarantee 1)."""

import pytest

from lfmesh.types import StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, TRADES, Client, Json, World, configured, place, world
from tests.services.gateway.test_joins import flowing


def at(key: StreamKey, epoch: int, seq: int) -> Json:
    return {key.product: {str(key.channel): {"epoch": epoch, "seq": seq}}}


async def resume(client: Client, key: StreamKey, epoch: int, seq: int, **more: object) -> None:
    await client.subscribe(key, from_seq=at(key, epoch, seq), **more)
    assert (await client.next())["op"] == "subscribed"


@pytest.mark.parametrize("want_snapshot", [True, False])
def test_the_full_form_goes_on_with_the_next_increment(want_snapshot: bool) -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER, 10)
            await resume(client, TICKER, epoch, 7, want_snapshot=want_snapshot)
            here.normalizer.publish(TICKER, [11])
            assert [place(message) for message in await client.take(4)] == [
                ("incr", epoch, seq) for seq in (8, 9, 10, 11)
            ]
            assert here.snapshotter.asked == []
            assert here.gateway.statistics().resumes_total["ring"] == 1

    run(scenario())


def test_the_bare_form_needs_a_single_epoch() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER, 10)
            await client.subscribe(TICKER, from_seq={"BTC-USD": 9})
            assert [place(message) for message in (await client.take(2))[1:]] == [("incr", epoch, 10)]
            here.normalizer.open(TICKER)
            await client.next()
            await client.subscribe(TICKER, from_seq={"BTC-USD": 9})
            _, snapshot = await client.take(2)
            assert snapshot["data"]["reason"] == "resume_failed"

    run(scenario())


def test_positions_of_several_streams_in_one_request() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            first, second = await flowing(here, TICKER, 4), await flowing(here, TRADES, 4)
            positions = {"ticker": {"epoch": first, "seq": 3}, "trades": {"epoch": second, "seq": 2}}
            await client.subscribe(TICKER, TRADES, from_seq={"BTC-USD": positions, "GONE-USD": positions})
            assert {place(message) for message in (await client.take(4))[1:]} == {
                ("incr", first, 4),
                ("incr", second, 3),
                ("incr", second, 4),
            }

    run(scenario())


def test_epochs_that_began_meanwhile_come_as_their_snapshots() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER, 3)
            here.normalizer.open(TICKER)
            here.normalizer.publish(TICKER, [1])
            await here.caught_up(TICKER)
            newer = here.normalizer.model.streams[TICKER].position.epoch
            await resume(client, TICKER, epoch, 2)
            assert [place(message) for message in await client.take(3)] == [
                ("incr", epoch, 3),
                ("snapshot", newer, 0),
                ("incr", newer, 1),
            ]

    run(scenario())


def test_a_position_ahead_of_the_gateway_is_awaited() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER, 3)
            await resume(client, TICKER, epoch, 5)
            assert await client.rest() == []
            here.normalizer.publish(TICKER, [4, 5, 6])
            assert place(await client.next()) == ("incr", epoch, 6)

    run(scenario())


def test_a_position_that_never_comes_is_answered_with_a_snapshot() -> None:
    async def scenario() -> None:
        async with world(configured(resume_wait_s=0.05)) as here, here.client() as client:
            epoch = await flowing(here, TICKER, 3)
            await resume(client, TICKER, epoch, 5_000)
            snapshot = await client.next()
            assert place(snapshot) == ("snapshot", epoch, 3)
            assert snapshot["data"]["reason"] == "resume_failed"

    run(scenario())


def test_from_before_the_gateway_s_ring_the_publisher_is_asked() -> None:
    """A gateway that has just started: what its clients held came through another one."""

    async def scenario() -> None:
        async with world(beacons=False) as here, here.client() as client, here.client() as other:
            here.normalizer.model.open(TICKER)
            for number in range(20):
                here.normalizer.model.increment(TICKER, [number])
            here.normalizer.start_beacons()
            await here.attached()
            epoch = here.normalizer.model.streams[TICKER].position.epoch
            for one in (client, other):
                await one.subscribe(TICKER, from_seq=at(TICKER, epoch, 4))
            here.normalizer.publish(TICKER, [99])
            for one in (client, other):
                seqs = [place(await one.until(lambda m: m["op"] == "incr"))[2] for _ in range(17)]
                assert seqs == list(range(5, 22))
            assert here.gateway.statistics().resumes_total == {"ring": 0, "retransmission": 2, "snapshot": 0}
            assert here.gateway.statistics().asks_total["older"] <= 2

    run(scenario())


async def forgotten(here: World) -> int:
    """Nobody has the beginning of the stream any more, but for the snapshotter's list of the latest trades."""
    here.normalizer.model._ring._max_bytes = 10_000
    epoch = await flowing(here, TRADES, 1)
    for number in range(600):
        here.normalizer.publish(TRADES, [number])
    await here.caught_up(TRADES)
    return epoch


def test_what_no_ring_has_is_declared_missing() -> None:
    async def scenario() -> None:
        async with world(configured(ring_bytes=65536)) as here, here.client() as client:
            epoch = await forgotten(here)
            await resume(client, TRADES, epoch, 1)
            snapshot = (await client.next())["data"]
            assert snapshot["reason"] == "resume_failed"
            listed = [trade["trade_id"] for trade in snapshot["state"]["trades"]]
            assert listed == list(range(552, 602))
            assert snapshot["missing"] == {"from_trade_id": 2, "to_trade_id": 551}
            here.normalizer.publish(TRADES, [1])
            assert (await client.next())["data"]["fields"]["trade_id"] == 602

    run(scenario())


def test_of_an_unknown_epoch_everything_before_the_list_is_declared() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TRADES, 60)
            await resume(client, TRADES, 17, 1)
            snapshot = (await client.next())["data"]
            assert snapshot["missing"] == {"from_trade_id": 1, "to_trade_id": 10}

    run(scenario())


def test_a_publisher_that_does_not_answer_holds_nobody_up_for_ever() -> None:
    async def scenario() -> None:
        async with world(configured(ring_bytes=65536)) as here, here.client() as client:
            epoch = await forgotten(here)
            here.normalizer.deaf = True
            await resume(client, TRADES, epoch, 1)
            assert (await client.next())["data"]["reason"] == "resume_failed"
            await eventually(lambda: here.gateway.statistics().ask_timeouts_total == 1)

    run(scenario())
