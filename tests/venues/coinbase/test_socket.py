"""The seam to `websockets`: should a new version change what passes through it, these tests say so."""

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.frames import Frame, Opcode

from lfmesh.config import VenueSection
from lfmesh.venues.coinbase.socket import FeedSocket, open_socket
from tests.aio import eventually, run

Script = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def served(script: Script, compression: str | None = None) -> AsyncIterator[str]:
    async def handler(connection: ServerConnection) -> None:
        await script(connection)
        await connection.wait_closed()

    server: Server
    async with serve(handler, "127.0.0.1", 0, compression=compression) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def venue(url: str, **changes: object) -> VenueSection:
    return VenueSection.model_validate({"ws_url": url, "open_timeout_s": 5, **changes})


class Taker:
    """Attached to a socket; each call of the clock returns one more."""

    def __init__(self) -> None:
        self.clock = itertools.count(1).__next__
        self.batches: list[tuple[int, list[bytes]]] = []
        self.lost = 0

    def take(self, ts_ingest: int, frames: list[bytes]) -> None:
        self.batches.append((ts_ingest, frames))

    def on_lost(self) -> None:
        self.lost += 1

    @property
    def frames(self) -> list[bytes]:
        return [frame for _, frames in self.batches for frame in frames]


async def attached(url: str, **changes: object) -> tuple[FeedSocket, Taker]:
    socket, taker = await open_socket(venue(url, **changes)), Taker()
    socket.attach(taker.clock, taker.take, taker.on_lost)
    return socket, taker


def raw(connection: ServerConnection, *frames: Frame) -> bytes:
    return b"".join(frame.serialize(mask=False, extensions=connection.protocol.extensions) for frame in frames)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_what_one_read_brought_comes_in_one_call(compression: str | None) -> None:
    texts = [b"%d" % number for number in range(100)]

    async def script(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.write(raw(connection, *(Frame(Opcode.TEXT, text) for text in texts)))

    async def main() -> None:
        async with served(script, compression) as url:
            socket, taker = await attached(url, compression=compression is not None)
            assert bool(socket.protocol.extensions) == (compression is not None)
            await socket.send("go")
            await eventually(lambda: len(taker.frames) == 100)
            assert taker.batches == [(taker.batches[0][0], texts)]
            assert all(type(frame) is bytes for frame in taker.frames)
            await socket.close()
            assert taker.lost == 1

    run(main())


def test_frames_that_come_before_attach_are_kept() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send("early")

    async def main() -> None:
        async with served(script) as url:
            socket = await open_socket(venue(url))
            await eventually(lambda: bool(socket._arrived))
            taker = Taker()
            socket.attach(taker.clock, taker.take, taker.on_lost)
            assert taker.frames == [b"early"]
            await socket.close()

    run(main())


def test_attach_to_a_connection_that_is_over_tells_so() -> None:
    async def script(connection: ServerConnection) -> None:
        connection.transport.abort()

    async def main() -> None:
        async with served(script) as url:
            socket, taker = await open_socket(venue(url)), Taker()
            await socket.wait_closed()
            socket.attach(taker.clock, taker.take, taker.on_lost)
            assert taker.lost == 1
            assert not socket.open

    run(main())


def test_detached_nothing_is_handed_over() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send("late")

    async def main() -> None:
        async with served(script) as url:
            socket, taker = await attached(url)
            socket.detach()
            await socket.send("go")
            await socket.close()
            assert taker.frames == []
            assert taker.lost == 1

    run(main())


def test_fragments_and_control_frames() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.recv()
        frames = (
            Frame(Opcode.TEXT, b"one"),
            Frame(Opcode.PING, b"?"),
            Frame(Opcode.TEXT, b"t", fin=False),
            Frame(Opcode.PING, b"!"),
            Frame(Opcode.CONT, b"", fin=False),
            Frame(Opcode.CONT, b"wo"),
            Frame(Opcode.BINARY, b"three"),
        )
        connection.transport.write(raw(connection, *frames))

    async def main() -> None:
        async with served(script) as url:
            socket, taker = await attached(url)
            await socket.send("go")
            await eventually(lambda: len(taker.frames) == 3)
            assert taker.frames == [b"one", b"two", b"three"]
            await socket.close()

    run(main())


def test_a_message_of_several_reads_has_the_time_of_its_first_piece() -> None:
    steps: asyncio.Queue[None] = asyncio.Queue()
    long = b"x" * 49_996  # 50,000 bytes with its header: five pieces

    async def script(connection: ServerConnection) -> None:
        await connection.recv()
        message = raw(connection, Frame(Opcode.TEXT, long))
        for start in range(0, len(message), 10_000):
            connection.transport.write(message[start : start + 10_000])
            await steps.get()
        connection.transport.write(raw(connection, Frame(Opcode.PING, b"")))
        await steps.get()
        connection.transport.write(raw(connection, Frame(Opcode.TEXT, b"short")))

    async def main() -> None:
        async with served(script) as url:
            socket, taker = await attached(url)
            ticks: list[int] = []
            clock = itertools.count(1).__next__

            def counted() -> int:
                ticks.append(clock())
                return ticks[-1]

            socket.attach(counted, taker.take, taker.on_lost)
            attached_at = len(ticks)
            await socket.send("go")
            await eventually(lambda: len(ticks) > attached_at)
            for _ in range(6):  # four more pieces of the message, one ping, the short message
                before = len(ticks)
                steps.put_nowait(None)
                await eventually(lambda before=before: len(ticks) > before)  # type: ignore[misc]
            await eventually(lambda: len(taker.frames) == 2)
            assert taker.batches == [(ticks[attached_at], [long]), (ticks[-1], [b"short"])]
            await socket.close()

    run(main())


def test_too_large_a_frame_ends_the_connection_and_says_so() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.write(
            raw(connection, Frame(Opcode.TEXT, b"fine")) + struct.pack("!BBQ", 0x81, 127, 1 << 30)
        )

    async def main() -> None:
        async with served(script) as url:
            socket, taker = await attached(url, max_frame_bytes=65536)
            await socket.send("go")
            await eventually(lambda: not socket.open)
            why, too_large = await socket.ending()
            assert too_large
            assert "1009" in why
            assert taker.frames == [b"fine"]
            assert taker.lost == 1

    run(main())


def test_why_a_connection_ended() -> None:
    async def closing(connection: ServerConnection) -> None:
        await connection.close(1012, "restarting")

    async def cut(connection: ServerConnection) -> None:
        connection.transport.abort()

    async def main() -> None:
        for script, words in ((closing, "restarting"), (cut, "no close frame received")):
            async with served(script) as url:
                socket, taker = await attached(url)
                await eventually(lambda taker=taker: taker.lost == 1)  # type: ignore[misc]
                why, too_large = await socket.ending()
                assert words in why
                assert not too_large

    run(main())


def test_no_venue_and_a_venue_that_does_not_speak() -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await open_socket(venue("ws://127.0.0.1:1"))

        release = asyncio.Event()

        async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await release.wait()
            writer.close()

        server = await asyncio.start_server(mute, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(TimeoutError):
                await open_socket(venue(f"ws://127.0.0.1:{port}", open_timeout_s=0.1))
            release.set()

    run(main())
