"""What one client, one address or all of them together can't have of the gateway, and what they are told."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, World, configured, world
from tests.services.gateway.raw import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    handshake,
    made,
    raw_client,
    raw_socket,
)
from tests.services.gateway.test_framing import undisturbed
from tests.services.gateway.test_joins import flowing

ASKED = b'{"op":"ping","t":1}'
SUBSCRIBE = b'{"op":"subscribe","products":["BTC-USD"]}'


async def is_served(client: RawClient) -> bool:
    client.send(TEXT, ASKED)
    return b'"pong"' in (await client.next()).payload


async def refusal(client: RawClient) -> tuple[int, str]:
    """Code and reason of the close frame that is all it gets."""
    (close,) = await client.frames()
    assert close.opcode == CLOSE
    return int.from_bytes(close.payload[:2]), close.payload[2:].decode()


def refused(here: World) -> dict[str, int]:
    return here.gateway.statistics().refused_total


def test_past_max_clients_everybody_is_told_to_try_later_until_somebody_goes() -> None:
    async def scenario() -> None:
        async with world(configured(max_clients=2), beacons=False) as here, raw_client(here.address) as one:
            async with raw_client(here.address) as two:
                assert await is_served(one)
                assert await is_served(two)
                for _ in range(2):
                    async with raw_client(here.address) as third:
                        assert await refusal(third) == (1013, "full, try later")
                two.send(CLOSE)
                await two.frames()
            await eventually(lambda: here.gateway.statistics().clients == 1)
            async with raw_client(here.address) as third:
                assert await is_served(third)
            statistics = here.gateway.statistics()
            assert statistics.refused_total == {"full": 2}
            assert statistics.connections_total == 3
            assert statistics.closes_total == {"1005": 1}

    run(scenario())


def test_one_address_gets_only_its_share_and_others_theirs() -> None:
    async def scenario() -> None:
        config = configured(max_clients=4, max_clients_per_address=2)
        async with world(config, beacons=False) as here, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(raw_client(here.address)) for _ in range(2)]
            clients += [await stack.enter_async_context(raw_client(here.address, local="127.0.0.2")) for _ in range(2)]
            for client in clients:
                assert await is_served(client)
            clients[0].send(CLOSE)
            await clients[0].frames()
            await eventually(lambda: here.gateway.statistics().clients == 3)
            async with raw_client(here.address, local="127.0.0.2") as third:
                assert await refusal(third) == (1013, "too many connections from this address, try later")
            async with raw_client(here.address) as again:
                assert await is_served(again)
                async with raw_client(here.address, local="127.0.0.3") as other:
                    assert await refusal(other) == (1013, "full, try later")
            assert refused(here) == {"address": 1, "full": 1}

    run(scenario())


def test_a_flood_of_connections_of_one_address_leaves_the_others_the_port() -> None:
    async def scenario() -> None:
        config = configured(max_clients_per_address=1)
        async with world(config) as here, undisturbed(here), AsyncExitStack() as stack:
            for _ in range(80):
                await stack.enter_async_context(raw_socket(here.address, local="127.0.0.2"))
            await eventually(lambda: refused(here) == {"address": 80 - 65})
            async with raw_client(here.address, local="127.0.0.3") as other:
                assert await is_served(other)

    run(scenario())


def test_who_sends_no_whole_request_in_time_is_cut_off() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
        """Byte by byte; what comes back."""
        answer = asyncio.ensure_future(reader.read(-1))
        with suppress(ConnectionError):
            for at in range(len(request)):
                writer.write(request[at : at + 1])
                await writer.drain()
                await asyncio.wait({answer}, timeout=0.02)
                if answer.done():
                    break
        return await answer

    async def scenario() -> None:
        config = configured(handshake_timeout_s=0.3)
        async with (
            world(config, beacons=False) as here,
            raw_client(here.address) as client,
            raw_socket(here.address) as (silent, _),
            raw_socket(here.address) as dripping,
            raw_socket(here.address) as (broken, writer),
        ):
            writer.write(b"HELO there\r\n\r\n")
            told = await asyncio.gather(
                silent.read(-1), drip(*dripping, handshake(here.address) * 100), broken.read(-1)
            )
            assert told[0].startswith(b"HTTP/1.1 408 ")
            assert told[1].startswith(b"HTTP/1.1 408 ")
            assert told[2] == b""
            await eventually(lambda: len(here.gateway._front._doorway.connections) == 1)  # type: ignore[union-attr]
            assert await is_served(client)  # who has shaken hands has all the time it wants
            assert refused(here) == {"handshake": 3}

    run(scenario())


def test_who_follows_nothing_and_asks_nothing_is_closed_in_time() -> None:
    async def scenario() -> None:
        config = configured(idle_timeout_s=0.6)
        async with (
            world(config) as here,
            raw_client(here.address) as idle,
            raw_client(here.address) as pinging,
            raw_client(here.address) as asking,
            raw_client(here.address) as following,
        ):
            await flowing(here, TICKER)
            following.send(TEXT, SUBSCRIBE)
            subscribed, snapshot = await following.next(), await following.next()
            ended = [asyncio.ensure_future(idle.frames()), asyncio.ensure_future(pinging.frames())]
            while not all(one.done() for one in ended):
                if not pinging.closing:
                    pinging.send(PING)  # keeps a connection open, but wants nothing
                assert await is_served(asking)
                await asyncio.wait(ended, timeout=0.1)
            for one in ended:
                (close,) = (frame for frame in one.result() if frame.opcode != PONG)
                assert close.payload == b"\x03\xf0idle: follows nothing, asked nothing for 0.6 s"
            assert await is_served(following)
            assert (b'"subscribed"' in subscribed.payload, b'"snapshot"' in snapshot.payload) == (True, True)
            following.send(TEXT, b'{"op":"unsubscribe"}')
            assert (await following.frames())[-1].payload.startswith(b"\x03\xf0idle")
            await eventually(lambda: here.gateway.statistics().policy_closed_total["idle"] >= 3)

    run(scenario())


def test_idle_clients_stay_where_there_is_no_such_bound() -> None:
    async def scenario() -> None:
        async with (
            world(configured(idle_timeout_s=0.0), beacons=False) as here,
            raw_client(here.address) as one,
            raw_client(here.address) as other,
        ):
            for _ in range(3):
                assert await is_served(other)
            assert await is_served(one)
            assert here.gateway.statistics().policy_closed_total == {}

    run(scenario())


def test_who_asks_on_and_on_past_its_rate_is_closed_and_the_others_notice_nothing() -> None:
    async def scenario() -> None:
        config = configured(request_rate_per_s=0.001, request_burst=20)
        async with world(config) as here, undisturbed(here), raw_client(here.address) as client:
            client.writer.write(made(TEXT, ASKED) * 190)
            *told, close = await client.frames()
            ops = [json.loads(frame.payload)["op"] for frame in told]
            assert ops == ["pong"] * 20 + ["rate_limit"] * 101  # five bursts, and the one that was too much
            assert close.payload == b"\x03\xf0too many requests past the rate limit"
            await eventually(lambda: here.gateway.statistics().closes_total == {"1008": 1})
            assert here.gateway.statistics().policy_closed_total == {"requests": 1}
            assert here.gateway.statistics().rate_limited_total == 101

    run(scenario())


def test_a_flood_of_frames_that_ask_nothing_is_ended() -> None:
    floods: Sequence[bytes] = (
        made(PING) * 30_000,
        made(PONG) * 30_000,
        made(TEXT, fin=False) + made(CONTINUATION, fin=False) * 30_000,  # a message without an end
    )

    async def scenario() -> None:
        config = configured(request_rate_per_s=0.1, request_burst=20)
        async with world(config) as here, undisturbed(here):
            for flood in floods:
                async with raw_client(here.address) as client:
                    client.writer.write(flood)
                    *pongs, close = await client.frames()
                    assert len(pongs) <= 200 + 2048 // 6  # what its budget was, and what was parsed by then
                    assert close.payload == b"\x03\xf0too many frames"
            await eventually(lambda: here.gateway.statistics().closes_total == {"1008": len(floods)})
            assert here.gateway.statistics().policy_closed_total == {"frames": len(floods)}

    run(scenario())


def test_a_request_counts_for_more_when_it_names_many_streams() -> None:
    async def scenario() -> None:
        products = tuple(f"P{number}-USD" for number in range(100))
        config = configured(products=products, request_rate_per_s=0.001, request_burst=10)
        async with world(config, beacons=False) as here, raw_client(here.address) as client:
            names = json.dumps({"op": "subscribe", "products": products, "channels": ["ticker", "trades", "book"]})
            client.send(TEXT, names.encode())  # 300 streams: six more
            for _ in range(4):
                client.send(TEXT, ASKED)
            ops: list[str] = []
            while "rate_limit" not in ops:
                ops.append(json.loads((await client.next()).payload)["op"])
            assert [op for op in ops if op != "status"] == ["subscribed", "pong", "pong", "pong", "rate_limit"]

    run(scenario())
