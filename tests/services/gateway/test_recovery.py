"""What happens on the hop from the normalizer: losses, restarts, replaced publishers."""

import msgspec

from lfmesh.types import Position
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, TRADES, place, world
from tests.services.gateway.test_joins import flowing
from tests.services.snapshotter.world import FakeNormalizer


def test_a_lost_frame_is_retransmitted_and_clients_notice_nothing() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.publish(TICKER, [4, 5], lost=True)
            here.normalizer.publish(TICKER, [6])
            assert [place(message) for message in await client.take(3)] == [("incr", epoch, seq) for seq in (4, 5, 6)]
            statistics = here.gateway.statistics()
            assert (statistics.gaps_total, statistics.recoveries_total) == (1, {"retransmit": 1})
            assert len(here.supervisor.events("gap opened")) == len(here.supervisor.events("gap closed")) == 1

    run(scenario())


def test_a_beacon_shows_the_loss_of_the_last_message() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.publish(TICKER, [4], lost=True)
            assert place(await client.next()) == ("incr", epoch, 4)

    run(scenario())


def test_an_epoch_that_was_missed_comes_as_it_was_published() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.publish(TICKER, [4], lost=True)
            here.normalizer.model.open(TICKER)
            here.normalizer.publish(TICKER, [5])
            newer = here.normalizer.model.streams[TICKER].position.epoch
            assert [place(message) for message in await client.take(3)] == [
                ("incr", epoch, 4),
                ("snapshot", newer, 0),
                ("incr", newer, 1),
            ]

    run(scenario())


def test_what_can_t_be_retransmitted_is_declared_in_a_snapshot() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TRADES)
            await client.subscribe(TRADES)
            await client.take(2)
            here.normalizer.model._ring._max_bytes = 5_000
            for number in range(100):
                here.normalizer.publish(TRADES, [number], lost=True)
            snapshot = (await client.next())["data"]
            assert (snapshot["reason"], snapshot["epoch"], snapshot["seq"]) == ("gap", epoch, 103)
            assert snapshot["missing"] == {"from_trade_id": 4, "to_trade_id": 53}
            here.normalizer.publish(TRADES, [1])
            assert (await client.next())["data"]["fields"]["trade_id"] == 104
            assert here.gateway.statistics().recoveries_total == {"snapshot": 1}

    run(scenario())


def test_a_restarted_normalizer_is_followed_and_its_epochs_are_passed_on() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.close()
            known = here.normalizer.model.streams
            here.normalizers[0] = FakeNormalizer(here.transport, 2, known, "normalizer-0", 0, incarnation=2)
            here.normalizer.model.clock = lambda: epoch + 1_000
            here.gateway.on_peers(here.peers())
            await eventually(lambda: here.normalizer.subscribed)
            here.normalizer.open(TICKER)
            here.normalizer.start_beacons()
            here.normalizer.publish(TICKER, [4])
            await client.until(lambda message: message["op"] == "incr")
            came = [place(message) for message in client.messages[2:] if message["op"] != "status"]
            assert came == [("snapshot", epoch + 1_000, 0), ("incr", epoch + 1_000, 1)]

    run(scenario())


def test_a_replaced_publisher_is_not_heard_any_more() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.normalizer.model.term = 5
            here.normalizer.publish(TICKER, [4])
            assert place(await client.next()) == ("incr", epoch, 4)
            here.normalizer.model.term = 4
            here.normalizer.publish(TICKER, [5])
            await eventually(lambda: here.gateway.statistics().messages_dropped_total == {"stale_term": 1})
            here.normalizer.model.term = 5
            # Its successor says that it stands there, too, and gives it again: of an epoch all say the same.
            assert place(await client.next()) == ("incr", epoch, 5)

    run(scenario())


def test_what_a_replaced_publisher_had_said_in_an_epoch_of_its_own_is_void() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TRADES)
            await client.subscribe(TRADES)
            await client.take(2)
            stream = here.normalizer.model.streams[TRADES]
            stream.position = Position(epoch - 500, 90)
            here.normalizer.model.term += 1
            snapshot = (await client.next())["data"]
            assert (snapshot["reason"], snapshot["epoch"], snapshot["seq"]) == ("gap", epoch - 500, 90)
            here.normalizer.publish(TRADES, [1])
            assert place(await client.next()) == ("incr", epoch - 500, 91)
            assert here.gateway.statistics().voided_total == 1

    run(scenario())


def test_unreadable_frames_are_counted_logged_once_and_disturb_nothing() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            frames = (
                b"md.0.BTC-USD.ticker.\0garbage",
                b"md.0.BTC-USD.candles.\0",
                b"bc.0.\0\xc1",
                b"md.0.no-nul",
                b"bc.0.x\0",
            )
            for frame in frames:
                here.normalizer.publisher.publish(frame)
            here.normalizer.publish(TICKER, [4])
            assert place(await client.next()) == ("incr", epoch, 4)
            assert here.gateway.statistics().bad_frames_total == len(frames)
            assert len(here.supervisor.events("unreadable frame")) == 1

    run(scenario())


def test_a_peer_that_is_listed_no_more_is_kept_while_it_is_heard() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            here.gateway.on_peers([])
            here.normalizer.publish(TICKER, [4])
            assert (await client.next())["op"] == "incr"
            here.normalizer.stop_beacons()
            await eventually(lambda: "no normalizer of shard 0 is known" in here.gateway.readiness())
            here.gateway.on_peers(here.peers())
            here.normalizer.start_beacons()
            await eventually(lambda: not here.gateway.readiness())

    run(scenario())


def test_an_address_that_is_none_is_logged() -> None:
    async def scenario() -> None:
        async with world() as here:
            record = msgspec.structs.replace(
                here.normalizer.record, instance="other", endpoints={"market_data": "nonsense", "requests": "nonsense"}
            )
            here.gateway.on_peers([*here.peers(), record])
            assert here.supervisor.events("a peer's address cannot be used")
            assert here.gateway.readiness() == ["no data yet from shard 0"]

    run(scenario())
