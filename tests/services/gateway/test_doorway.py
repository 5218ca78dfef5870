"""Who connects and is no client (yet): a door of its own, with small bounds."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from websockets.asyncio.server import ServerConnection, serve

from lfmesh.config import GatewaySection
from lfmesh.observe.http import HttpReply, HttpRequest, processor
from lfmesh.services.gateway.doorway import DoorLimits, Doorway, open_files
from lfmesh.services.gateway.statistics import ClientCounters
from tests.aio import eventually, run
from tests.services.gateway.raw import handshake, raw_socket

Address = tuple[str, int]


class Door(NamedTuple):
    doorway: Doorway
    counters: ClientCounters
    address: Address


@asynccontextmanager
async def a_door(limits: DoorLimits, *, open_timeout: float = 10.0, **gateway: int) -> AsyncIterator[Door]:
    """Of a server with /small, /big and /huge, that makes a guest of each WebSocket client."""
    tasks: set[asyncio.Task[None]] = set()

    def spawn(coro: Coroutine[Any, Any, None]) -> None:
        tasks.add(asyncio.ensure_future(coro))

    async def guest(connection: ServerConnection) -> None:
        doorway.entered(connection)  # type: ignore[arg-type]  # made by connection_class
        await connection.wait_closed()

    def replying(size: int) -> Any:  # noqa: ANN401
        def reply(_: HttpRequest) -> HttpReply:
            return HttpReply(200, "text/plain", b"x" * size)

        return reply

    counters = ClientCounters()
    doorway = Doorway(GatewaySection(**gateway), counters, time.time_ns, spawn, limits)
    routes = {"/small": replying(10), "/big": replying(600), "/huge": replying(16 * 1024 * 1024)}
    async with serve(
        guest,
        "127.0.0.1",
        0,
        process_request=doorway.bounded(processor(routes, {}, "/ws")),
        create_connection=doorway.connection_class(),
        compression=None,
        open_timeout=open_timeout,
        close_timeout=10.0,
        ping_interval=None,
    ) as server:
        yield Door(doorway, counters, server.sockets[0].getsockname()[:2])
        for connection in tuple(doorway.connections):
            connection.transport.abort()
    await asyncio.gather(*tasks)


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def test_when_the_door_is_full_whoever_has_been_there_longest_has_to_go() -> None:
    async def scenario() -> None:
        async with (
            a_door(DoorLimits(connections=2), max_clients=1) as (doorway, counters, address),
            raw_socket(address) as (reader, _),
            raw_socket(address) as (guest_reader, guest_writer),
            raw_socket(address) as (second_reader, _),
        ):
            guest_writer.write(handshake(address))
            await guest_reader.readuntil(b"\r\n\r\n")
            await eventually(lambda: len(doorway.connections) == 3)
            async with raw_socket(address) as (last_reader, last_writer):
                refused = await reader.read(-1)
                assert refused.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: 1\r\n" in refused
                last_writer.write(get("/small"))
                assert (await last_reader.read(-1)).endswith(b"x" * 10)
            assert not guest_reader.at_eof()
            assert not second_reader.at_eof()
            assert counters.refused_total == {"door": 1}

    run(scenario())


def test_one_address_can_t_take_the_whole_door() -> None:
    async def scenario() -> None:
        limits = DoorLimits(per_address=1)
        async with a_door(limits, max_clients_per_address=1) as (doorway, counters, address):
            async with raw_socket(address), raw_socket(address):
                await eventually(lambda: len(doorway.connections) == 2)
                for _ in range(3):
                    async with raw_socket(address) as (reader, writer):
                        writer.write(get("/small"))
                        with suppress(ConnectionResetError):
                            assert await reader.read(-1) == b""
                assert counters.refused_total == {"address": 3}
                async with raw_socket(address, local="127.0.0.2") as (reader, writer):
                    writer.write(get("/small"))
                    assert (await reader.read(-1)).startswith(b"HTTP/1.1 200 ")
            await eventually(lambda: not doorway.connections)
            async with raw_socket(address) as (reader, writer):
                writer.write(get("/small"))
                assert (await reader.read(-1)).startswith(b"HTTP/1.1 200 ")

    run(scenario())


def test_replies_that_nobody_takes_are_bounded_in_all() -> None:
    async def scenario() -> None:
        limits = DoorLimits(replies_bytes=1000)
        async with a_door(limits) as (doorway, counters, address):
            async with raw_socket(address) as (reader, writer):
                writer.write(get("/big"))
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                async with raw_socket(address) as (other, asking):
                    asking.write(get("/big"))
                    refused = await other.read(-1)
                    assert refused.startswith(b"HTTP/1.1 503 ")
                    assert b"\r\nRetry-After: 1\r\n" in refused
                async with raw_socket(address) as (other, asking):
                    asking.write(get("/small"))
                    assert (await other.read(-1)).startswith(b"HTTP/1.1 200 ")
            await eventually(lambda: not doorway.connections)
            async with raw_socket(address) as (reader, writer):
                writer.write(get("/big"))
                assert (await reader.read(-1)).startswith(b"HTTP/1.1 200 ")
            assert counters.refused_total == {"replies": 1}

    run(scenario())


def test_who_does_not_take_its_reply_is_cut_in_time_and_its_memory_is_free() -> None:
    async def scenario() -> None:
        limits = DoorLimits(replies_bytes=16 * 1024 * 1024)
        async with (
            a_door(limits, open_timeout=0.3) as (doorway, _, address),
            raw_socket(address, rcvbuf=4096) as (_, writer),
        ):
            writer.write(get("/huge"))
            await eventually(lambda: len(doorway.connections) == 1)
            await eventually(lambda: not doorway.connections)
            async with raw_socket(address) as (reader, asking):
                asking.write(get("/huge"))
                assert len(await reader.read(-1)) > 16 * 1024 * 1024

    run(scenario())


def test_the_soft_limit_of_open_files_is_raised_as_far_as_needed_and_allowed() -> None:
    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = soft
    less = min(soft, hard) - 10
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (less, before[1]))
        assert open_files(less - 100) == less - 100 - 256
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == less
        assert open_files(less + 5) == less + 5 - 256
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == less + 5
        if before[1] != resource.RLIM_INFINITY:
            assert open_files(hard + 1_000_000) == hard - 256
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == before[1:] * 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_one_reply_a_connection() -> None:
    async def scenario() -> None:
        async with a_door(DoorLimits()) as (_, _, address), raw_socket(address) as (reader, writer):
            writer.write(get("/small"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"\r\nConnection: close\r\n" in head
            writer.write(get("/big") + handshake(address))
            assert await reader.read(-1) == b"x" * 10

    run(scenario())
