"""How fast the gateway hands out, measured; not a test. Clients are bare sockets in a process of their own.

    python -m tests.services.gateway.measure [--seconds 3]

Fan-out is fed in process with packed mesh frames, as fast as the slowest client takes them, so that the whole path from
frame to socket is in it. `websockets.broadcast` is measured in the same run with messages of the same size. CPU figures
are those of the gateway's process: on a busy machine they say more than the clock.
"""

import asyncio
import json
import multiprocessing
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import batched
from typing import Any

import click
import structlog
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from lfmesh.core import codec, encode, topics
from lfmesh.core.codec import Header
from lfmesh.messages import Beacon, StreamPosition
from lfmesh.messages import encode as encode_message
from lfmesh.ports import Context
from lfmesh.services.gateway import GatewayService
from lfmesh.types import NO_INPUT, Channel, StreamKey, Trade
from tests.services.gateway.kit import configured, world

EPOCH = 1_700_000_000_000_000
SEED = 1
_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

Products = Sequence[str]


def request(products: Products, *, want_snapshot: bool) -> bytes:
    """A masked text frame (with a mask of zeros, which is one) that subscribes."""
    text = json.dumps({"op": "subscribe", "products": [*products], "want_snapshot": want_snapshot}).encode()
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
    return b"\x81" + length + bytes(4) + text


def connected(port: int, count: int) -> list[socket.socket]:
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for one in sockets:
        one.sendall(_HANDSHAKE)
    for one in sockets:
        response = b""
        while not response.endswith(b"\r\n\r\n"):
            response += one.recv(1)
    return sockets


def read_on(port: int, subscriptions: Sequence[Products], ready: Any, stop: Any) -> None:  # noqa: ANN401 - events
    """Clients that take everything and look at nothing."""
    poll = select.epoll()
    sockets = {one.fileno(): one for one in connected(port, len(subscriptions))}
    for one, products in zip(sockets.values(), subscriptions, strict=True):
        if products:
            one.sendall(request(products, want_snapshot=False))
        one.setblocking(False)
        poll.register(one, select.EPOLLIN)
    ready.set()
    buffer = bytearray(1 << 20)
    while not stop.is_set():
        for number, _ in poll.poll(0.2):
            if not sockets[number].recv_into(buffer):
                poll.unregister(number)


def join_all(port: int, count: int, products: Products, ready: Any, go: Any, results: Any) -> None:  # noqa: ANN401
    """Clients that subscribe at once; when each had its first snapshot, and all of them."""
    sockets = connected(port, count)
    ready.set()
    go.wait()
    poll, begun, asked = select.epoll(), time.perf_counter(), request(products, want_snapshot=True)
    waiting = {one.fileno(): one for one in sockets}
    counts = dict.fromkeys(waiting, 0)
    for one in sockets:
        one.sendall(asked)
        poll.register(one, select.EPOLLIN)
    first: list[float] = []
    complete: list[float] = []
    while len(complete) < count:
        for number, _ in poll.poll(1):
            before = counts[number]
            after = counts[number] = before + waiting[number].recv(1 << 18).count(b'"op":"snapshot"')
            now = time.perf_counter() - begun
            if after and not before:
                first.append(now)
            if before < len(products) <= after:
                complete.append(now)
    results.put((sorted(first), sorted(complete)))


@contextmanager
def in_a_process(target: Callable[..., None], *args: object) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


async def event_set(event: Any) -> None:  # noqa: ANN401
    while not event.is_set():
        await asyncio.sleep(0.02)


def packed(products: Products, count: int, per_frame: int) -> Iterator[tuple[bytes, int]]:
    """Endless mesh frames of ticks, products at random, and the size of their messages."""
    draw = random.Random(SEED)
    trade = encode.trade_fields(Trade("", 1234567890, "60123.45", "0.01000000", "buy", 1))
    fields = encode.ticker_fields(trade, encode.level(("60123.44", "1.50000000")), encode.level(("60123.46", "2.1")))
    keys = [StreamKey(product, Channel.TICKER) for product in products]
    prefixes = {key: encode.increment_prefix("tick", *key, EPOCH) for key in keys}
    seqs = dict.fromkeys(keys, 0)
    for _ in range(count):
        key = draw.choice(keys)
        first = seqs[key] + 1
        seqs[key] += per_frame
        messages = [
            encode.increment(prefixes[key], seq, (EPOCH * 1000,) * 3, "verified", fields)
            for seq in range(first, first + per_frame)
        ]
        header = Header(0, 1, 9, NO_INPUT, EPOCH, first, 0, 0, 1, time.time_ns())
        yield codec.pack(topics.market_data(0, key), header, messages), len(messages[0])


async def fan_out(name: str, clients: int, each: int, products: Products, per_turn: int, per_frame: int) -> None:
    def spawn(coro: Any) -> None:  # noqa: ANN401
        tasks.append(asyncio.ensure_future(coro))

    tasks: list[asyncio.Future[None]] = []
    quiet = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))
    gateway = GatewayService(configured(products=tuple(products)), Context(1, time.time_ns, quiet, spawn))
    await gateway.start()
    draw = random.Random(SEED)
    subscriptions = [draw.sample(products, each) for _ in range(clients)]
    spawned = multiprocessing.get_context("spawn")
    ready, stop = spawned.Event(), spawned.Event()
    positions = [StreamPosition(product, Channel.TICKER, EPOCH, 0) for product in products]
    beacon = encode_message(Beacon(0, 1, 9, NO_INPUT, 1, True, positions))
    gateway._on_frames([topics.beacon(0) + b"\0" + beacon])
    made = list(packed(products, 200_000 // per_frame, per_frame))
    with in_a_process(read_on, int(gateway.http_url().rpartition(":")[2]), subscriptions, ready, stop):
        await event_set(ready)
        while gateway.statistics().subscriptions < clients * each:
            await asyncio.sleep(0.02)
        followers = list(gateway._hub._clients)
        before, cpu, begun = gateway._hub.deliveries, time.process_time(), time.perf_counter()
        for turn in batched([frame for frame, _ in made], per_turn):
            while any(client.paused for client in followers):
                await asyncio.sleep(0)
            gateway._on_frames([*turn])
            await asyncio.sleep(0)
        while any(client.pending or client.sink.buffered() for client in followers):
            await asyncio.sleep(0)
        report(
            name, gateway._hub.deliveries - before, time.perf_counter() - begun, time.process_time() - cpu, made[0][1]
        )
        stop.set()
    await gateway.stop()
    await asyncio.gather(*tasks)


async def baseline(clients: int, seconds: float, size: int) -> None:
    connections: set[ServerConnection] = set()

    async def keep(connection: ServerConnection) -> None:
        connections.add(connection)
        await connection.wait_closed()

    spawned = multiprocessing.get_context("spawn")
    ready, stop = spawned.Event(), spawned.Event()
    async with serve(keep, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = server.sockets[0].getsockname()[1]
        with in_a_process(read_on, port, [()] * clients, ready, stop):
            await event_set(ready)
            message, sent = "x" * size, 0
            cpu, begun = time.process_time(), time.perf_counter()
            while time.perf_counter() - begun < seconds:
                broadcast(connections, message)
                sent += clients
                await asyncio.sleep(0)
            report("websockets.broadcast", sent, time.perf_counter() - begun, time.process_time() - cpu, size)
            stop.set()
        for connection in connections:
            connection.transport.abort()


async def storm(clients: int) -> None:
    products = tuple(f"P{number}-USD" for number in range(10))
    spawned = multiprocessing.get_context("spawn")
    ready, go, results = spawned.Event(), spawned.Event(), spawned.Queue()
    async with world(configured(products=products)) as here:
        keys = [StreamKey(product, Channel.TICKER) for product in products]
        for key in keys:
            here.normalizer.open(key)
        await here.caught_up(*keys)
        with in_a_process(join_all, here.address[1], clients, products, ready, go, results):
            await event_set(ready)
            cpu = time.process_time()
            go.set()
            number = 0
            while results.empty():
                number += 1
                for key in keys:
                    here.normalizer.publish(key, [number])
                await asyncio.sleep(0.01)
            first, complete = results.get()
            cpu = time.process_time() - cpu
    say(
        f"{clients} clients join {len(products)} products: first snapshot p50 {first[clients // 2] * 1e3:.0f} ms, "
        f"all snapshots within {complete[-1] * 1e3:.0f} ms; {cpu * 1e3:.0f} ms CPU, the publisher's included"
    )


def report(name: str, deliveries: int, seconds: float, cpu_s: float, size: int) -> None:
    say(
        f"{name:45} {deliveries / cpu_s / 1e6:6.2f} M/s of CPU time {deliveries / seconds / 1e6:6.2f} M/s by the clock "
        f"({size} bytes each)"
    )


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@click.command()
@click.option("--seconds", default=3.0, help="How long the baseline runs.")
def main(seconds: float) -> None:
    """Print deliveries per second of the gateway and of `websockets.broadcast`, and a join storm."""
    many = [f"P{number}-USD" for number in range(500)]
    uvloop.run(baseline(100, seconds, 380))
    for per_turn in (1, 8, 64, 512):
        uvloop.run(fan_out(f"100 clients, one product, {per_turn} a turn", 100, 1, many[:1], per_turn, 1))
    for per_frame in (1, 4):
        name = f"200 clients, 20 of 500 products, {per_frame} a frame"
        uvloop.run(fan_out(name, 200, 20, many, 512, per_frame))
    uvloop.run(storm(1000))


if __name__ == "__main__":
    main()
