"""from_seq over real sockets: every form, from every rung (client protocol, guarantee 1)."""

import pytest

from lfmesh.types import StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, Client, Json, World, configured, place, world
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
            assert here.gateway.statistics().resumes_total == {
                "ring": 0,
                "retransmission": 2,
                "archive": 0,
                "snapshot": 0,
            }
            assert here.gateway.statistics().asks_total["older"] <= 2

    run(scenario())


async def forgotten(here: World, retained: int = 10_000) -> int:
    """Nobody has the beginning of the stream any more."""
    here.normalizer.model._ring._max_bytes = retained
    epoch = await flowing(here, TRADES, 1)
    for number in range(600):
        here.normalizer.publish(TRADES, [number])
    await here.caught_up(TRADES)
    return epoch


def whole(messages: list[Json], held: int, newest: int) -> None:
    """A resume that failed: what is missing is declared exactly, and all later trades come once, in order."""
    data = messages[0]["data"]
    assert data["reason"] == "resume_failed"
    listed = [trade["trade_id"] for trade in data["state"]["trades"]]
    came = listed + [message["data"]["fields"]["trade_id"] for message in messages[1:]]
    assert came == list(range(came[0], newest + 1))
    assert data["missing"] == {"from_trade_id": held + 1, "to_trade_id": came[0] - 1}


def test_what_no_ring_has_is_declared_missing_and_the_rest_comes() -> None:
    """More trades than a snapshot lists: from the oldest one on that the publisher still has."""

    async def scenario() -> None:
        async with world(configured(ring_bytes=65536)) as here, here.client() as client:
            epoch = await forgotten(here, retained=100_000)
            await resume(client, TRADES, epoch, 1)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 601)
            whole(client.messages[1:], held=1, newest=601)
            assert len(client.messages) > 150, "not only the latest fifty"
            here.normalizer.publish(TRADES, [1])
            assert (await client.next())["data"]["fields"]["trade_id"] == 602
            assert here.snapshotter.asked == []
            assert here.gateway.statistics().resumes_total["snapshot"] == 1

    run(scenario())


def test_where_the_publisher_has_less_than_we_our_own_ring_is_the_beginning() -> None:
    async def scenario() -> None:
        async with world(configured(ring_bytes=100_000)) as here, here.client() as client:
            epoch = await forgotten(here, retained=1_000)
            here.normalizer.model.forget(TRADES)
            await resume(client, TRADES, epoch, 1)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 601)
            whole(client.messages[1:], held=1, newest=601)
            assert len(client.messages) > 80

    run(scenario())


def test_of_an_unknown_epoch_all_that_is_retained_comes() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TRADES, 60)
            await resume(client, TRADES, 17, 1)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 60)
            snapshot, *rest = client.messages[1:]
            assert snapshot["data"]["reason"] == "resume_failed"
            assert "missing" not in snapshot["data"]
            assert [message["data"]["fields"]["trade_id"] for message in rest] == list(range(1, 61))

    run(scenario())


def test_and_where_some_is_lost_it_is_declared_from_the_first_trade_on_that_it_may_lack() -> None:
    """Each seq of its epoch was a trade, so that the client has at least as many."""

    async def scenario() -> None:
        async with world(configured(ring_bytes=65536)) as here, here.client() as client:
            await forgotten(here, retained=100_000)
            await resume(client, TRADES, 17, 4)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 601)
            whole(client.messages[1:], held=4, newest=601)

    run(scenario())


def test_a_publisher_that_does_not_answer_holds_nobody_up_for_ever() -> None:
    async def scenario() -> None:
        async with world(configured(ring_bytes=65536)) as here, here.client() as client:
            epoch = await forgotten(here)
            here.normalizer.deaf = True
            await resume(client, TRADES, epoch, 1)
            assert (await client.next())["data"]["reason"] == "resume_failed"
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 601)
            assert here.gateway.statistics().ask_timeouts_total >= 3

    run(scenario())


def test_a_gateway_that_starts_anew_serves_positions_from_the_publisher_s_ring_in_pieces() -> None:
    """More than one answer holds; what is published meanwhile comes after it, and no snapshot is needed."""

    async def scenario() -> None:
        async with world(beacons=False) as here, here.client() as client, here.client() as other:
            model = here.normalizer.model
            model._ring._max_bytes = 100_000_000
            keys = (TICKER, TRADES, BOOK)
            epochs = {}
            for key in keys:
                model.open(key)
                epochs[key] = model.streams[key].position.epoch
                for number in range(60):
                    model.increment(key, list(range(number * 100, number * 100 + 100)))
            for one in (client, other):
                one.checks = False
                positions = {str(key.channel): {"epoch": epochs[key], "seq": 150} for key in keys}
                await one.subscribe(*keys, from_seq={"BTC-USD": positions})
                assert (await one.next())["op"] == "subscribed"
            here.normalizer.start_beacons()
            await here.attached()
            for key in keys:
                here.normalizer.publish(key, [1, 2])
            for one in (client, other):
                for _ in range(len(keys)):
                    await one.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 6002)
                for key in keys:
                    came = [
                        place(m)
                        for m in one.messages
                        if m["op"] in ("incr", "snapshot") and m["data"]["channel"] == key.channel
                    ]
                    assert came == [("incr", epochs[key], seq) for seq in range(151, 6003)]
            statistics = here.gateway.statistics()
            assert statistics.resumes_total == {"ring": 0, "retransmission": 6, "archive": 0, "snapshot": 0}
            assert statistics.asks_total["older"] > 3
            assert here.snapshotter.asked == []
            assert here.gateway._hub._joins._older.room.bytes == 0

    run(scenario(), timeout=60)


def test_epochs_that_began_before_a_gateway_did_come_in_their_order() -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here, here.client() as client:
            model = here.normalizer.model
            model.open(TICKER)
            model.increment(TICKER, [1, 2, 3])
            first = model.streams[TICKER].position.epoch
            model.open(TICKER)
            second = model.streams[TICKER].position.epoch
            model.increment(TICKER, [4])
            here.normalizer.start_beacons()
            await here.attached()
            await resume(client, TICKER, first, 2)
            assert [place(message) for message in await client.take(3)] == [
                ("incr", first, 3),
                ("snapshot", second, 0),
                ("incr", second, 1),
            ]

    run(scenario())


def test_positions_are_awaited_while_no_normalizer_is_there() -> None:
    """A gateway that starts before the mesh: nothing is known, so nothing can be too late."""

    async def scenario() -> None:
        async with world(configured(resume_wait_s=0.05), beacons=False) as here, here.client() as client:
            here.normalizer.model.open(TRADES)
            here.normalizer.model.increment(TRADES, [1, 2, 3])
            epoch = here.normalizer.model.streams[TRADES].position.epoch
            await client.subscribe(TRADES, from_seq=at(TRADES, epoch, 1))
            links = here.gateway._links
            beat = links._watched_at
            await eventually(lambda: links._watched_at > beat + 300_000_000)
            here.normalizer.start_beacons()
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 3)
            data = [place(m) for m in client.messages if m["op"] in ("incr", "snapshot")]
            assert data == [("incr", epoch, 2), ("incr", epoch, 3)]

    run(scenario())
