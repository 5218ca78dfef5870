"""A client that does not read costs nobody else anything, and its outbox is bounded."""

import asyncio
import json

from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, World, configured, place, world
from tests.services.gateway.raw import CLOSE, TEXT, raw_client
from tests.services.gateway.test_joins import flowing

SUBSCRIBE = json.dumps({"op": "subscribe", "products": ["BTC-USD"], "want_snapshot": False}).encode()


async def flood(here: World, until_closed: str) -> int:
    """Publish until a client has been closed for this reason; how many messages that took."""
    count = 0
    while not here.gateway.statistics().slow_closed_total[until_closed]:
        here.normalizer.publish(TICKER, list(range(200)))
        count += 200
        await here.caught_up(TICKER)
        await asyncio.sleep(0)
    return count


def test_past_its_outbox_a_client_is_closed_and_the_others_notice_nothing() -> None:
    async def scenario() -> None:
        config = configured(outbox_bytes=1024 * 1024)
        async with world(config) as here, here.client() as other, raw_client(here.address, rcvbuf=4096) as slow:
            epoch = await flowing(here, TICKER)
            slow.send(TEXT, SUBSCRIBE)
            await slow.frame()
            await other.subscribe(TICKER)
            await other.take(2)
            other.checks = False
            reading = asyncio.ensure_future(other.until(lambda m: m["op"] == "pong", timeout=60))
            published = await flood(here, "slow_outbox")
            await other.send(op="ping", t=1)
            await reading
            seqs = [place(message)[2] for message in other.messages[2:-1]]
            assert seqs == list(range(4, 4 + published))
            assert place(other.messages[2])[1] == epoch
            statistics = here.gateway.statistics()
            assert (statistics.clients, statistics.outbox_bytes, statistics.groups) == (1, 0, 1)
            # Whoever reads on in time finds whole frames, and 4001 at the end.
            *data, last = await slow.frames()
            assert [json.loads(frame.payload)["data"]["seq"] for frame in data] == list(range(4, 4 + len(data)))
            assert (last.opcode, last.payload) == (CLOSE, b"\x0f\xa1slow consumer")
            await eventually(lambda: here.gateway.statistics().closes_total == {"4001": 1})

    run(scenario(), timeout=60)


def test_who_reads_nothing_at_all_is_cut_off() -> None:
    async def scenario() -> None:
        config = configured(outbox_bytes=65536)
        async with world(config) as here, raw_client(here.address, rcvbuf=4096) as slow:
            await flowing(here, TICKER)
            slow.send(TEXT, SUBSCRIBE)
            await flood(here, "slow_outbox")
            await eventually(lambda: not here.gateway._front._guests)  # type: ignore[union-attr]
            assert sum(here.gateway.statistics().closes_total.values()) == 1

    run(scenario(), timeout=60)


def test_a_full_socket_is_let_go_in_time_though_its_outbox_holds_little() -> None:
    """By us: the library's own ping can't even be sent, or by the library, if its first ping came before."""

    async def scenario() -> None:
        async with world(configured(ping_interval_s=0.2)) as here:
            await flowing(here, TICKER)
            async with raw_client(here.address, rcvbuf=4096) as slow:
                slow.send(TEXT, SUBSCRIBE)
                while here.gateway.statistics().subscriptions == 0:
                    await asyncio.sleep(0)
                while here.gateway.statistics().outbox_bytes == 0 and here.gateway.statistics().clients:
                    here.normalizer.publish(TICKER, list(range(200)))
                    await here.caught_up(TICKER)
                await eventually(lambda: here.gateway.statistics().clients == 0)
                assert here.gateway.statistics().slow_closed_total["slow_outbox"] == 0

    run(scenario(), timeout=60)


def test_a_client_that_pauses_and_reads_on_gets_everything_in_order() -> None:
    async def scenario() -> None:
        async with world() as here, here.client() as client:
            epoch = await flowing(here, TICKER)
            await client.subscribe(TICKER)
            await client.take(2)
            client.checks = False
            client.connection.transport.pause_reading()
            count = 0
            while here.gateway.statistics().outbox_bytes < 1_000_000:
                here.normalizer.publish(TICKER, list(range(200)))
                count += 200
                await here.caught_up(TICKER)
            await client.send(op="ping", t=7)
            client.connection.transport.resume_reading()
            await client.until(lambda message: message["op"] == "pong", timeout=60)
            seqs = [place(message) for message in client.messages[2:] if message["op"] == "incr"]
            assert seqs == [("incr", epoch, seq) for seq in range(4, 4 + count)]
            assert here.gateway.statistics().outbox_bytes == 0

    run(scenario(), timeout=60)
