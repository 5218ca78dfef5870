"""permessage-deflate (RFC 7692): what compressed clients get is what all others get, and it costs no memory."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, Client, World, configured, world
from tests.services.gateway.raw import (
    CLOSE,
    CONTINUATION,
    DEFLATE,
    PING,
    PONG,
    RSV1,
    TEXT,
    RawClient,
    raw_client,
)
from tests.services.gateway.test_framing import SUBSCRIBE, on_loop, undisturbed  # noqa: F401 - a fixture
from tests.services.gateway.test_framing import Run as Loop
from tests.services.gateway.test_joins import flowing

KEYS = (TICKER, TRADES, BOOK)
CONFIG = configured(compression=True)


@asynccontextmanager
async def compressed(here: World, factory: ClientPerMessageDeflateFactory | None = None) -> AsyncIterator[Client]:
    """The `websockets` library's client, as it comes or with parameters of its own."""
    extensions = None if factory is None else [factory]
    async with connect(here.ws_url, ping_interval=None, max_size=None, extensions=extensions) as connection:
        yield Client(connection)


def deflate(message: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (squeeze.compress(message) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_every_message_is_that_of_a_plain_client(on_loop: Loop) -> None:  # noqa: F811 - the fixture
    """Snapshots, tails, bursts and answers; a window smaller than ours is given plain frames."""
    small = ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=9)

    async def scenario() -> None:
        async with (
            world(CONFIG) as here,
            here.client() as plain,
            compressed(here) as usual,
            compressed(here, ClientPerMessageDeflateFactory()) as widest,
            compressed(here, small) as smallest,
        ):
            clients = [plain, usual, widest, smallest]
            for key in KEYS:
                await flowing(here, key, 40)
            for client in clients:
                await client.subscribe(*KEYS)
                await client.take(4)  # each has its snapshots before more is published
            for number in range(60):
                for key in KEYS:
                    here.normalizer.publish(key, [number, number + 1])
                if number % 7 == 0:
                    await asyncio.sleep(0)
            await here.caught_up(*KEYS)
            for client in clients:
                await client.rest()
            told = [sorted(client.texts) for client in clients]
            assert len(told[0]) == 4 + 60 * 2 * len(KEYS) + 1
            assert told[0][:-1] == told[1][:-1] == told[2][:-1] == told[3][:-1]
            assert [bool(client.connection.protocol.extensions) for client in clients] == [False, True, True, True]

    on_loop(scenario())


def test_each_message_is_compressed_by_itself_and_only_where_that_helps() -> None:
    async def scenario() -> None:
        async with world(CONFIG) as here, undisturbed(here), raw_client(here.address, DEFLATE) as client:
            assert b"permessage-deflate; server_no_context_takeover; client_no_context_takeover" in client.response
            client.send(TEXT, SUBSCRIBE)
            client.send(PING, b"here")
            frames = [await client.next() for _ in range(300)]
            assert json.loads(frames[0].payload)["op"] == "subscribed"
            published = [frame for frame in frames if frame.payload.startswith(b'{"op":"incr"')]
            assert len(published) > 290
            assert {frame.reserved for frame in published} == {RSV1}
            assert [frame.reserved for frame in frames if frame.opcode == PONG] == [0]

    run(scenario())


def test_a_window_smaller_than_ours_gets_plain_frames() -> None:
    offer = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n"

    async def scenario() -> None:
        async with world(CONFIG) as here, undisturbed(here), raw_client(here.address, offer) as client:
            assert b"server_max_window_bits=10" in client.response
            client.send(TEXT, SUBSCRIBE)
            assert {(await client.next()).reserved for _ in range(100)} == {0}

    run(scenario())


def test_who_offers_nothing_gets_nothing_of_it() -> None:
    async def scenario() -> None:
        async with world(CONFIG) as here, undisturbed(here), raw_client(here.address) as client:
            assert b"Sec-WebSocket-Extensions" not in client.response
            client.send(TEXT, SUBSCRIBE)
            assert {(await client.next()).reserved for _ in range(100)} == {0}

    run(scenario())


def test_compressed_requests_are_taken_whole_and_in_fragments() -> None:
    async def scenario() -> None:
        async with world(CONFIG, beacons=False) as here, raw_client(here.address, DEFLATE) as client:
            request = deflate(b'{"op":"ping","t":1}')
            client.send(TEXT, request, reserved=RSV1)
            client.send(TEXT, b'{"op":"ping","t":2}')
            client.send(TEXT, request[:5], fin=False, reserved=RSV1)
            client.send(PING, b"between")
            client.send(CONTINUATION, request[5:])
            client.send(TEXT, deflate(b'{"op":"ping","t":3,"pad":"%b"}' % (b"x" * 60_000)), reserved=RSV1)
            frames = [await client.next() for _ in range(5)]
            told = [json.loads(frame.payload)["t"] for frame in frames if frame.opcode == TEXT]
            assert told == [1, 2, 1, 3]

    run(scenario())


BOMB = deflate(b" " * 20_000_000)
BAD: list[tuple[list[tuple[int, bytes, dict[str, int]]], int]] = [
    ([(TEXT, BOMB, {"reserved": RSV1})], 1009),
    ([(TEXT, BOMB[:200], {"reserved": RSV1, "fin": 0}), (CONTINUATION, BOMB[200:], {})], 1009),
    ([(TEXT, deflate(b" " * 65537), {"reserved": RSV1})], 1009),
    ([(TEXT, b"\xff" * 50, {"reserved": RSV1})], 1002),
    ([(TEXT, deflate(b'"\xff"'), {"reserved": RSV1})], 1007),
    ([(PING, deflate(b"x"), {"reserved": RSV1})], 1002),
    ([(TEXT, deflate(b"x"), {"reserved": 2})], 1002),
    ([(TEXT, b"{", {"fin": 0, "reserved": RSV1}), (CONTINUATION, b"}", {"reserved": RSV1})], 1002),
]


@pytest.mark.parametrize("extra", [DEFLATE, ""], ids=["negotiated", "not"])
def test_bombs_and_what_is_no_deflate_close_with_their_code(extra: str) -> None:
    async def refused(client: RawClient, frames: list[tuple[int, bytes, dict[str, int]]], code: int) -> None:
        for opcode, payload, options in frames:
            client.send(opcode, payload, fin=bool(options.get("fin", 1)), reserved=options.get("reserved", 0))
        close = (await client.frames())[-1]
        assert (close.opcode, int.from_bytes(close.payload[:2])) == (CLOSE, code if extra else 1002)

    async def scenario() -> None:
        assert len(BOMB) < 65536
        async with world(CONFIG) as here, undisturbed(here):
            for frames, code in BAD:
                async with raw_client(here.address, extra) as client:
                    await refused(client, frames, code)
            await eventually(lambda: here.gateway.statistics().clients == 1)

    run(scenario())
