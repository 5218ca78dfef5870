"""WebSocket conformance on the pre-framed path, seen byte by byte: `connection.py` says why it should hold."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from lfmesh.models import parse_message
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, World, configured, world
from tests.services.gateway.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, RawClient, raw_client
from tests.services.gateway.test_joins import flowing

type Run = Callable[[Coroutine[Any, Any, None]], None]


def run_uvloop(coro: Coroutine[Any, Any, None]) -> None:
    """On the loop that production runs on."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await coro

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@pytest.fixture(params=[run, run_uvloop], ids=["asyncio", "uvloop"])
def on_loop(request: pytest.FixtureRequest) -> Run:
    """Transports differ in what they do between `write` and the socket, so both loops are tried."""
    found: Run = request.param
    return found


SUBSCRIBE = json.dumps({"op": "subscribe", "products": ["BTC-USD"], "want_snapshot": False}).encode()


async def burst(here: World, turns: int = 200) -> None:
    """Many increments, a few at a time, so that they go out in many writes."""
    for number in range(turns):
        here.normalizer.publish(TICKER, [number, number + 1, number + 2])
        await asyncio.sleep(0)


def check_data(frame: Frame) -> None:
    assert frame[:4] == (True, 0, TEXT, False)
    parse_message(frame.payload)


async def subscribed(here: World, client: RawClient) -> None:
    await flowing(here, TICKER)
    client.send(TEXT, SUBSCRIBE)
    frame = await client.frame()
    assert frame is not None
    check_data(frame)


def test_pings_amid_bursts_are_answered_each_and_nothing_is_torn(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world() as here, raw_client(here.address) as client:
            await subscribed(here, client)
            publishing = asyncio.ensure_future(burst(here))
            pongs: list[bytes] = []
            seqs: list[int] = []
            for number in range(50):
                client.send(PING, b"%d" % number)
            while len(pongs) < 50 or len(seqs) < 600:
                frame = await client.frame()
                assert frame is not None
                if frame.opcode == PONG:
                    pongs.append(frame.payload)
                else:
                    check_data(frame)
                    seqs.append(json.loads(frame.payload)["data"]["seq"])
            await publishing
            assert pongs == [b"%d" % number for number in range(50)]
            assert seqs == list(range(4, 604))

    on_loop(scenario())


@pytest.mark.parametrize("payload", [b"\x03\xe8", b"\x03\xe8bye", b""])
def test_a_close_amid_a_burst_is_answered_and_no_data_follows_it(payload: bytes, on_loop: Run) -> None:
    async def scenario() -> None:
        async with world() as here, raw_client(here.address) as client:
            await subscribed(here, client)
            publishing = asyncio.ensure_future(burst(here))
            await client.frame()
            client.send(CLOSE, payload)
            frames = await client.frames()
            await publishing
            *data, close = frames
            for frame in data:
                check_data(frame)
            assert close == Frame(True, 0, CLOSE, False, payload)
            await eventually(lambda: here.gateway.statistics().clients == 0)
            assert sum(here.gateway.statistics().closes_total.values()) == 1

    on_loop(scenario())


def test_our_own_close_amid_a_burst_is_the_last_frame(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world(configured(drain_s=0.0)) as here, raw_client(here.address) as client:
            await subscribed(here, client)
            publishing = asyncio.ensure_future(burst(here))
            await client.frame()
            stopping = asyncio.ensure_future(here.gateway.stop())
            frames: list[Frame] = []
            while not frames or frames[-1].opcode != CLOSE:
                frame = await client.frame()
                assert frame is not None
                frames.append(frame)
            client.send(CLOSE, frames[-1].payload)
            assert await client.frames() == []
            assert frames[-1].payload == b"\x03\xe9draining"
            for frame in frames[:-1]:
                check_data(frame)
            assert b"goaway" in b"".join(frame.payload for frame in frames)
            await stopping
            await publishing

    on_loop(scenario())


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([(TEXT, b"x" * 65537, {})], 1009),
        ([(TEXT, b"x" * 40_000, {"fin": False}), (CONTINUATION, b"x" * 40_000, {})], 1009),
        ([(TEXT, b"unmasked", {"mask": False})], 1002),
        ([(TEXT, b"reserved", {"reserved": 4})], 1002),
        ([(0x3, b"", {})], 1002),
        ([(CONTINUATION, b"of nothing", {})], 1002),
        ([(PING, b"x" * 126, {})], 1002),
        ([(PING, b"in pieces", {"fin": False})], 1002),
        ([(TEXT, b"one", {"fin": False}), (TEXT, b"two", {})], 1002),
        ([(CLOSE, b"\x03", {})], 1002),
        ([(TEXT, b'"\xff"', {})], 1007),
    ],
)
def test_invalid_and_oversized_frames_close_with_their_code(
    frames: list[tuple[int, bytes, dict[str, bool]]], code: int, on_loop: Run
) -> None:
    async def scenario() -> None:
        async with world() as here, raw_client(here.address) as client, raw_client(here.address) as other:
            await subscribed(here, client)
            other.send(TEXT, SUBSCRIBE)
            await other.frame()
            for opcode, payload, options in frames:
                client.send(opcode, payload, **options)
            publishing = asyncio.ensure_future(burst(here, 20))
            *data, close = await client.frames()
            await publishing
            for frame in data:
                check_data(frame)
            assert close.opcode == CLOSE
            assert int.from_bytes(close.payload[:2]) == code
            for _ in range(60):  # nobody else is disturbed
                theirs = await other.frame()
                assert theirs is not None
                check_data(theirs)
            await eventually(lambda: here.gateway.statistics().closes_total == {str(code): 1})

    on_loop(scenario())


def test_a_request_of_64_kib_passes_and_one_in_fragments_with_a_ping_between_does_too(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world() as here, raw_client(here.address) as client:
            request = b'{"op":"ping","t":1,"pad":"%b"}'
            request = request % (b"x" * (65536 - len(request) + 2))
            assert len(request) == 65536
            client.send(TEXT, request)
            whole = await client.frame()
            client.send(TEXT, b'{"op":"pi', fin=False)
            client.send(PING, b"between")
            client.send(CONTINUATION, b'ng","t"', fin=False)
            client.send(CONTINUATION, b":2}")
            pong, answer = await client.frame(), await client.frame()
            assert whole is not None
            assert whole.payload == b'{"op":"pong","t":1}'
            assert pong is not None
            assert (pong.opcode, pong.payload) == (PONG, b"between")
            assert answer is not None
            assert answer.payload == b'{"op":"pong","t":2}'
            del here

    on_loop(scenario())


def test_binary_requests_are_refused_and_the_connection_stays(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world() as here, raw_client(here.address) as client:
            client.send(BINARY, b'{"op":"ping","t":1}')
            client.send(TEXT, b'{"op":"ping","t":2}')
            refused, answered = await client.frame(), await client.frame()
            assert refused is not None
            assert b"BAD_REQUEST" in refused.payload
            assert answered is not None
            assert answered.payload == b'{"op":"pong","t":2}'
            del here

    on_loop(scenario())


def test_compression_is_not_negotiated(on_loop: Run) -> None:
    async def scenario() -> None:
        extra = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        async with world() as here, raw_client(here.address, extra) as client:
            assert b"101 Switching Protocols" in client.response
            assert b"Sec-WebSocket-Extensions" not in client.response
            await subscribed(here, client)

    on_loop(scenario())


def test_a_connection_that_is_cut_amid_a_burst_is_let_go(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world() as here, raw_client(here.address) as client:
            await subscribed(here, client)
            publishing = asyncio.ensure_future(burst(here))
            await client.frame()
            client.writer.transport.abort()
            await publishing
            await eventually(lambda: here.gateway.statistics().clients == 0)
            assert here.gateway.statistics().closes_total == {"1006": 1}
            assert here.gateway.statistics().groups == 0

    on_loop(scenario())


def test_the_library_s_own_pings_go_out_amid_bursts(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world(configured(ping_interval_s=0.05)) as here, raw_client(here.address) as client:
            await subscribed(here, client)
            publishing = asyncio.ensure_future(burst(here, 500))
            pings = 0
            while pings < 3:
                frame = await client.frame()
                assert frame is not None
                if frame.opcode == PING:
                    pings += 1
                    client.send(PONG, frame.payload)
                else:
                    check_data(frame)
            await publishing

    on_loop(scenario())


def test_who_answers_no_ping_is_closed(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world(configured(ping_interval_s=0.05)) as here, raw_client(here.address) as client:
            frames = await client.frames()
            assert frames[-1].opcode == CLOSE
            await eventually(lambda: here.gateway.statistics().clients == 0)

    on_loop(scenario())
