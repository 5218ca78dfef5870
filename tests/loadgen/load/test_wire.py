"""The bare client against the `websockets` library's server, and against peers that do as they like."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from loadgen.load.tally import INCREMENT, Tally
from loadgen.load.upgrade import NotConnected, target_of
from loadgen.load.wire import Options, Wire, connect
from tests.aio import eventually
from tests.loadgen.load.frames import frame, text

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
MESSAGE = (INCREMENT + b'tick","x":"' + b"x" * 200 + b'"}}').decode()


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Runs a test in either kind of loop."""

    def go(test: Awaitable[None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await test

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(bounded())

    return go


@asynccontextmanager
async def server(
    handler: Callable[[ServerConnection], Awaitable[None]], write_limit: int = 32768
) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, compression=None, ping_interval=None, write_limit=write_limit) as served:
        yield f"ws://127.0.0.1:{served.sockets[0].getsockname()[1]}/any?path=1"


@asynccontextmanager
async def peer(answer: bytes) -> AsyncIterator[str]:
    """A server of one answer."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as served:
        yield f"ws://127.0.0.1:{served.sockets[0].getsockname()[1]}/"


def test_it_talks_and_closes(run: Callable[[Awaitable[None]], None]) -> None:
    async def talk() -> None:
        heard: list[str | bytes] = []
        codes: list[int | None] = []

        async def handler(connection: ServerConnection) -> None:
            heard.append(connection.request.path if connection.request else "")
            heard.extend([await connection.recv() for _ in range(3)])
            await (await connection.ping(b"are you there"))
            for _ in range(5000):
                await connection.send(MESSAGE)
            await connection.wait_closed()
            codes.append(connection.close_code)

        async with server(handler) as url:
            tally = Tally()
            wire = await connect(url, tally)
            wire.send(b"short")
            wire.send(b"m" * 300)
            wire.send_binary(b"b" * 70_000)
            await eventually(lambda: tally.messages == 5000)
            await wire.close(1001)
            assert wire.end is not None
            assert (wire.end.code, wire.end.ours) == (1001, True)
        assert heard == ["/any?path=1", "short", "m" * 300, b"b" * 70_000]
        assert codes == [1001]

    run(talk())


def test_it_notices_how_the_server_ends(run: Callable[[Awaitable[None]], None]) -> None:
    async def ends() -> None:
        async def handler(connection: ServerConnection) -> None:
            if await connection.recv() == "close":
                await connection.close(4001, "slow consumer")
            else:
                connection.transport.abort()

        async with server(handler) as url:
            wires = [await connect(url, Tally()) for _ in range(2)]
            for wire, text in zip(wires, (b"close", b"cut"), strict=True):
                wire.send(text)
                await wire.ended
                wire.send(b"nobody hears this")
            ends = [wire.end for wire in wires if wire.end is not None]
            assert ends[0] == (4001, "slow consumer", False)
            assert (ends[1].code, ends[1].ours) == (1006, False)

    run(ends())


def test_it_stops_reading_and_paces_itself(run: Callable[[Awaitable[None]], None]) -> None:
    total = 20_000

    async def reads() -> None:
        async def handler(connection: ServerConnection) -> None:
            await connection.recv()
            try:
                for _ in range(total):
                    await connection.send(MESSAGE)
                await connection.wait_closed()
            except ConnectionClosed:
                pass

        async with server(handler, write_limit=1024) as url:
            tally = Tally()
            wire = await connect(url, tally, Options(receive_buffer_bytes=8192))
            wire.pause()
            wire.send(b"go")
            other = await connect(url, free := Tally())
            other.send(b"go")
            await eventually(lambda: free.messages == total)
            assert tally.messages == 0
            wire.pace(50_000)
            wire.resume()
            await eventually(lambda: tally.reads > 3)
            assert tally.bytes < 50_000
            wire.pace(0)
            await eventually(lambda: tally.messages == total)
            other.cut()
            await other.ended
            assert other.end is not None
            assert other.end.ours
            await wire.close()

    run(reads())


def test_who_has_not_read_for_long_finds_how_it_ended(run: Callable[[Awaitable[None]], None]) -> None:
    """The last of what was sent is the close frame if there was room for it, else nothing."""

    async def ends() -> None:
        left: list[int] = []

        async def handler(connection: ServerConnection) -> None:
            how = await connection.recv()
            transport = connection.transport
            left.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
            if how == "close":
                transport.write(text(MESSAGE.encode()) * 500 + frame(0x88, b"\x0f\xa1slow consumer"))
            else:
                while not transport.get_write_buffer_size():
                    transport.write(text(MESSAGE.encode()) * 100)
                transport.abort()
            await connection.wait_closed()

        async with server(handler) as url:
            wires = [await connect(url, Tally(), Options(receive_buffer_bytes=64 * 1024)) for _ in range(2)]
            for wire, how in zip(wires, (b"close", b"abort"), strict=True):
                wire.pause()
                wire.send(how)
            await eventually(lambda: len(left) == 2)
            assert [wire.end for wire in wires] == [None, None]
            for wire in wires:
                wire.resume()
            assert [(await wire.wait_ended()).code for wire in wires] == [4001, 1006]
            assert max(left) <= 1448, "large segments would overrun the small buffer, and be sent again much later"

    run(ends())


@pytest.mark.parametrize(
    ("answer", "said", "status"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nfull", "it answers HTTP 503", 503),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "does not accept WebSocket", 0),
        (b"hello\r\n\r\n", "does not answer in HTTP", 0),
        (b"x" * 70_000, "does not answer in HTTP", 0),
    ],
)
def test_peers_that_are_no_websocket_servers(answer: bytes, said: str, status: int) -> None:
    async def refused() -> None:
        async with peer(answer) as url:
            with pytest.raises(NotConnected, match=said) as caught:
                await connect(url, Tally())
            assert caught.value.status == status

    asyncio.run(refused())


def test_nobody_there_and_no_answer() -> None:
    async def fails() -> None:
        async with peer(b"") as url:
            with pytest.raises(NotConnected, match=r"no answer within 0\.05 s"):
                await connect(url, Tally(), Options(open_timeout_s=0.05))
        with pytest.raises(NotConnected, match="connection refused: is the mesh running"):
            await connect(url, Tally())
        with pytest.raises(NotConnected, match="is no WebSocket address"):
            await connect("http://127.0.0.1:1/ws", Tally())

    asyncio.run(fails())


def test_frames_that_break_the_protocol_end_it() -> None:
    async def breaks() -> None:
        async def handler(connection: ServerConnection) -> None:
            connection.transport.write(b"\x89\xff")
            await connection.wait_closed()

        async with server(handler) as url:
            wire: Wire = await connect(url, Tally())
            await wire.ended
            assert wire.end is not None
            assert "control frame" in wire.end.reason

    asyncio.run(breaks())


def test_addresses() -> None:
    assert target_of("ws://host:1234") == ("host", 1234, "/", False)
    assert target_of("wss://host/ws?a=b") == ("host", 443, "/ws?a=b", True)
    assert target_of("ws://[::1]:80/ws").host == "::1"
