"""WebSocket conformance on the pre-framed path, seen byte by byte: `connection.py` says why it should hold."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, get_args

import pytest
import uvloop

from lfmesh.models import parse_message
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, World, configured, world
from tests.services.gateway.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    RawClient,
    handshake,
    made,
    raw_client,
    raw_socket,
)
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


def closes_are(here: World, counts: dict[str, int]) -> bool:
    return here.gateway.statistics().closes_total == counts


@asynccontextmanager
async def undisturbed(here: World) -> AsyncIterator[None]:
    """Market data flows all the while, and a client that follows it gets each message."""

    async def publish() -> None:
        number = 0
        while True:
            number += 1
            here.normalizer.publish(TICKER, [number, number + 1, number + 2])
            await asyncio.sleep(0)

    await flowing(here, TICKER)
    async with raw_client(here.address) as client:
        client.send(TEXT, SUBSCRIBE)
        check_data(await client.next())
        publishing = asyncio.ensure_future(publish())
        seqs: list[int] = []

        async def read() -> None:
            while (frame := await client.next()).opcode != CLOSE:
                check_data(frame)
                seqs.append(json.loads(frame.payload)["data"]["seq"])

        reading = asyncio.ensure_future(read())
        try:
            yield
        finally:
            publishing.cancel()
            last = here.normalizer.model.streams[TICKER].position.seq
            await eventually(lambda: reading.done() or len(seqs) >= last - 3)
            client.send(CLOSE)
            await reading
        assert seqs == list(range(4, last + 1))


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


BAD = [made(opcode) for opcode in (0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF)]
BAD += [made(opcode, b"{}", reserved=bit) for opcode in (TEXT, BINARY, PING, PONG, CLOSE) for bit in (1, 2, RSV1)]
BAD += [made(opcode, b"unmasked", mask=False) for opcode in (TEXT, BINARY, PING, PONG)]
BAD += [
    made(TEXT, b"{", fin=False) + made(CONTINUATION, b"}", reserved=RSV1),
    made(CONTINUATION, b"of nothing"),
    made(CONTINUATION, b"of nothing", fin=False),
    made(TEXT, b"one", fin=False) + made(TEXT, b"two"),
    made(TEXT, b"one", fin=False) + made(PING) + made(BINARY, b"two"),
    made(TEXT, b"one", fin=False) + made(CLOSE, b"\x03\xe8"),
    made(TEXT, b"{}") + made(CONTINUATION, b"{}"),
    made(PING, b"x" * 126),
    made(PONG, b"x" * 126),
    made(CLOSE, b"\x03\xe8" + b"x" * 124),
    made(PING, b"in pieces", fin=False),
    made(CLOSE, b"\x03\xe8", fin=False),
    made(CLOSE, b"\x03"),
]
BAD += [made(CLOSE, code.to_bytes(2)) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)]
TOO_BIG = [
    made(TEXT, b"x" * 65537),
    made(BINARY, b"x" * 65537),
    b"\x81\xff" + (1 << 62).to_bytes(8),  # the length is enough
    made(TEXT, b"x" * 40_000, fin=False) + made(CONTINUATION, b"x" * 40_000),
    made(TEXT, b"x" * 65_000, fin=False) + made(PING) + made(CONTINUATION, b"x" * 537),
]
NOT_TEXT = [
    made(TEXT, b'"\xff"'),
    made(TEXT, b'"\xed\xa0\x80"'),
    made(TEXT, b'"\xc3', fin=False) + made(CONTINUATION, b'"'),
    made(CLOSE, b"\x03\xe8\xff"),
]


def test_invalid_and_oversized_frames_close_with_their_code_amid_bursts(on_loop: Run) -> None:
    async def refused(here: World, sent: bytes, code: int) -> None:
        async with raw_client(here.address) as client:
            client.send(TEXT, SUBSCRIBE)
            await client.frame()
            client.writer.write(sent)
            *data, close = await client.frames()
            assert (close.opcode, int.from_bytes(close.payload[:2])) == (CLOSE, code), sent[:200]
            for frame in data:
                if frame.opcode != PONG:
                    check_data(frame)

    async def scenario() -> None:
        async with world() as here, undisturbed(here):
            for code, all_sent in ((1002, BAD), (1009, TOO_BIG), (1007, NOT_TEXT)):
                await asyncio.gather(*(refused(here, sent, code) for sent in all_sent))
            counts = {"1002": len(BAD), "1009": len(TOO_BIG), "1007": len(NOT_TEXT)}
            await eventually(partial(closes_are, here, counts))

    on_loop(scenario())


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
def test_every_code_that_a_client_may_send_is_answered_alike(code: int) -> None:
    async def scenario() -> None:
        async with world(beacons=False) as here, raw_client(here.address) as client:
            payload = code.to_bytes(2) + "why: ½".encode()
            client.send(CLOSE, payload)
            client.send(TEXT, b'{"op":"ping","t":1}')  # after a close frame: not looked at
            assert await client.frames() == [Frame(True, 0, CLOSE, False, payload)]
            await eventually(lambda: here.gateway.statistics().closes_total == {str(code): 1})

    run(scenario())


def test_both_sides_may_close_at_once(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world(configured(drain_s=0.0)) as here, raw_client(here.address) as client:
            await subscribed(here, client)
            publishing = asyncio.ensure_future(burst(here))
            await client.frame()
            stopping = asyncio.ensure_future(here.gateway.stop())
            client.send(CLOSE, b"\x03\xe8")
            *data, close = await client.frames()
            await asyncio.gather(stopping, publishing)
            assert close.payload in (b"\x03\xe9draining", b"\x03\xe8")
            for frame in data:
                check_data(frame)

    on_loop(scenario())


type Cut = Literal["reset", "reset in a frame", "eof", "eof in a frame", "eof in a message"]
CUTS: tuple[Cut, ...] = get_args(Cut.__value__)


def cut(client: RawClient, how: Cut) -> None:
    match how:
        case "reset":
            client.reset()
        case "reset in a frame":
            client.writer.write(made(TEXT, SUBSCRIBE)[:1])
            client.reset()
        case "eof":
            client.writer.write_eof()
        case "eof in a frame":
            client.writer.write(made(TEXT, SUBSCRIBE)[:20])
            client.writer.write_eof()
        case "eof in a message":
            client.send(TEXT, b"{", fin=False)
            client.writer.write_eof()


def test_who_goes_without_a_close_frame_is_let_go_and_got_only_whole_frames(on_loop: Run) -> None:
    """Also who shuts only its own half: a WebSocket has no such state, the rest of what was under way still comes."""

    async def scenario() -> None:
        async with world() as here, undisturbed(here):
            for number, how in enumerate(CUTS, 1):
                async with raw_client(here.address) as client:
                    client.send(TEXT, SUBSCRIBE)
                    for _ in range(5):
                        check_data(await client.next())
                    cut(client, how)
                    if how.startswith("eof"):
                        for frame in await client.frames():
                            check_data(frame)
                    await eventually(partial(closes_are, here, {"1006": number}))

    on_loop(scenario())


def test_a_message_may_come_in_any_pieces(on_loop: Run) -> None:
    """Fragments with control frames between them, cut anywhere on their way, within a character, too."""
    request = '{"op":"ping","t":1,"pad":"½€𝄞"}'.encode()
    fragments = [made(TEXT, request[:1], fin=False)]
    for number, byte in enumerate(request[1:]):
        fragments += [made(CONTINUATION, bytes([byte]), fin=False), made(PING, b"%d" % number), made(PONG)]
    stream = b"".join(fragments) + made(CONTINUATION)

    async def scenario() -> None:
        async with world() as here, undisturbed(here), raw_client(here.address) as client:
            for at in range(0, len(stream), 7):
                client.writer.write(stream[at : at + 7])
                if at % 3 == 0:
                    await asyncio.sleep(0)
            answers = [await client.next() for _ in range(len(request))]
            *pongs, answer = answers
            assert [frame[2:5:2] for frame in pongs] == [(PONG, b"%d" % number) for number in range(len(request) - 1)]
            assert (answer.opcode, answer.payload) == (TEXT, b'{"op":"pong","t":1}')

    on_loop(scenario())


def test_much_at_once_is_answered_in_order(on_loop: Run) -> None:
    """More than is parsed in one turn of the loop."""

    async def scenario() -> None:
        async with world() as here, undisturbed(here), raw_client(here.address) as client:
            requests = [b'{"op":"ping","t":%d,"pad":"%b"}' % (number, b"x" * number * 7) for number in range(150)]
            client.writer.write(b"".join(made(TEXT, request) + made(PING) for request in requests))
            frames = [await client.next() for _ in range(300)]
            told = [frame.payload for frame in frames if frame.opcode == TEXT]
            assert told == [b'{"op":"pong","t":%d}' % number for number in range(150)]
            assert [frame.opcode for frame in frames].count(PONG) == 150

    on_loop(scenario())


def test_frames_before_our_answer_harm_nobody_else(on_loop: Run) -> None:
    """A client has to wait for it (4.1)."""

    async def scenario() -> None:
        async with world() as here, undisturbed(here):
            for early in (made(TEXT, SUBSCRIBE), made(CLOSE, b"\x03\xe8"), made(PING, mask=False), b"\xff" * 100):
                async with raw_socket(here.address) as (_, writer):
                    writer.write(handshake(here.address) + early)
                    writer.write_eof()
                    await eventually(lambda: not here.gateway._front._doorway._at_the_door)  # type: ignore[union-attr]
                await eventually(lambda: here.gateway.statistics().clients == 1)

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


def test_pings_go_out_amid_bursts(on_loop: Run) -> None:
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
            assert [frame.opcode for frame in frames if frame.opcode == PING] == [PING]
            assert (frames[-1].opcode, frames[-1].payload[:2]) == (CLOSE, (4001).to_bytes(2))
            await eventually(lambda: here.gateway.statistics().clients == 0)
            assert here.gateway.statistics().slow_closed_total["slow_silent"] == 1

    on_loop(scenario())


def test_whatever_a_client_sends_is_a_sign_of_life(on_loop: Run) -> None:
    async def scenario() -> None:
        async with world(configured(ping_interval_s=0.1)) as here, raw_client(here.address) as client:
            for number in range(4):  # each ping is answered, though by no pong
                while (frame := await client.frame()) is not None and frame.opcode != PING:
                    pass
                client.send(TEXT, b'{"op":"ping","t":%d}' % number)
            assert here.gateway.statistics().clients == 1

    on_loop(scenario())
