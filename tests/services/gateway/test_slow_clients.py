"""Clients that are too slow: conflated and told so, right in the end, or closed; nobody else notices anything."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from lfmesh.types import Channel, Position, StreamKey
from tests.aio import eventually, run
from tests.core.model_publisher import ModelStream
from tests.services.gateway.holder import Holder, Json
from tests.services.gateway.kit import BOOK, TICKER, TRADES, World, configured, world
from tests.services.gateway.raw import CLOSE, TEXT, RawClient, raw_client
from tests.services.gateway.test_joins import flowing

KEYS = (TICKER, TRADES, BOOK)
FILLER = StreamKey("ETH-USD", Channel.TICKER)
SOFT_BYTES = 65536
KERNEL_BYTES = 8192
ROUNDS = 2_000
"""More than any of these tests needs."""


class Reader:
    """A client that reads when it is told to, and holds what it has read."""

    def __init__(self, here: World, raw: RawClient) -> None:
        self.here = here
        self.raw = raw
        self.holder = Holder()

    def ask(self, **request: object) -> None:
        self.raw.send(TEXT, json.dumps(request).encode())

    async def read(self) -> Json:
        frame = await self.raw.frame()
        assert frame is not None
        assert (frame.fin, frame.reserved, frame.opcode) == (True, 0, TEXT)
        return self.holder.take(frame.payload.decode())

    async def until(self, done: Callable[[], object]) -> None:
        while not done():
            await self.read()

    async def right(self) -> None:
        """Read until it holds what was published last on each of its streams."""
        await self.until(lambda: self.holder.agrees(self.here.normalizer.model.streams))

    async def follow(self, *keys: StreamKey, **more: object) -> None:
        """Subscribe, and read on until it is live."""
        products, channels = list(dict.fromkeys(k.product for k in keys)), list(dict.fromkeys(k.channel for k in keys))
        self.ask(op="subscribe", products=products, channels=channels, **more)
        await self.until(lambda: set(keys) <= self.holder.streams.keys())
        await eventually(lambda: not self.here.gateway.statistics().joining)

    def turns(self, key: StreamKey) -> list[str]:
        return self.holder.streams[key].turns()


@asynccontextmanager
async def reading(here: World, *keys: StreamKey, buffer: int = 0) -> AsyncIterator[Reader]:
    """A client that follows these; `buffer`: what its kernel takes unread."""
    async with raw_client(here.address, rcvbuf=buffer) as raw:
        reader = Reader(here, raw)
        if keys:
            await reader.follow(*keys)
        yield reader


@asynccontextmanager
async def a_mesh(*keys: StreamKey, **gateway: object) -> AsyncIterator[World]:
    """A gateway with small buffers, and data on these streams."""
    settings: dict[str, Any] = {"outbox_soft_bytes": SOFT_BYTES, "outbox_soft_age_s": 20.0, "join_snapshot_age_s": 0.0}
    async with world(configured(**settings | gateway)) as here:
        # Connections inherit it: what the kernel would take of them by itself varies.
        here.gateway._front._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)  # type: ignore[union-attr]
        for key in keys or KEYS:
            await flowing(here, key)
        yield here


async def publish(here: World, keys: Sequence[StreamKey] = KEYS, count: int = 40, *others: Reader) -> None:
    """One round of increments; the gateway has passed them on, and `others` have read them."""
    for key in keys:
        here.normalizer.publish(key, list(range(count)))
    for other in others:
        await other.right()
    hub, model = here.gateway._hub, here.normalizer.model
    await eventually(lambda: all(hub.stream(key).position == model.streams[key].position for key in keys), 10, 0.001)


async def publish_until(
    here: World, done: Callable[[], object], keys: Sequence[StreamKey] = KEYS, *others: Reader
) -> None:
    for _ in range(ROUNDS):
        if done():
            return
        await publish(here, keys, 40, *others)
    raise AssertionError("it never came to that")


def conflated(here: World, why: str) -> int:
    return here.gateway.statistics().conflations_total[why]


def pings(here: World) -> int:
    return here.gateway.statistics().requests_total.get("ping", 0)


def closed(here: World) -> int:
    return sum(here.gateway.statistics().slow_closed_total.values())


def test_past_the_soft_bound_a_client_is_conflated_and_told_and_the_others_notice_nothing() -> None:
    async def scenario() -> None:
        async with a_mesh() as here, reading(here, *KEYS) as other, reading(here, *KEYS, buffer=4096) as slow:
            here.snapshotter.part_bytes = 1000
            await publish_until(here, lambda: conflated(here, "bytes"), KEYS, other)
            held = here.gateway.statistics().outbox_bytes
            assert 0 < held < SOFT_BYTES
            for _ in range(20):
                await publish(here, KEYS, 40, other)
                assert here.gateway.statistics().outbox_bytes <= held, "what is published does not wait in memory"
            statistics = here.gateway.statistics()
            assert (statistics.clients, statistics.conflating, closed(here)) == (2, 1, 0)
            assert [other.turns(key) for key in KEYS] == [["subscribe", "incr"]] * 3

            await slow.right()
            assert slow.turns(TICKER) == slow.turns(BOOK) == ["subscribe", "incr", "conflated"]
            assert slow.turns(TRADES) == ["subscribe", "incr"], "trades go on from the ring, each one"
            assert not slow.holder.streams[TRADES].missing
            await eventually(lambda: here.gateway.statistics().conflating == 0)
            await publish(here, KEYS, 40, other, slow)
            assert slow.turns(TICKER) == slow.turns(BOOK) == ["subscribe", "incr", "conflated", "incr"]
            assert slow.holder.messages < other.holder.messages
            assert sum(here.gateway.statistics().conflations_total.values()) == 1
            assert here.gateway.statistics().outbox_bytes == 0

    run(scenario())


def test_a_client_whose_socket_takes_nothing_for_some_time_is_conflated_though_little_waits() -> None:
    async def scenario() -> None:
        bounds = {"outbox_soft_bytes": 8 * 1024 * 1024, "outbox_soft_age_s": 0.05}
        async with a_mesh(**bounds) as here, reading(here, *KEYS, buffer=4096) as slow:
            slow.ask(op="subscribe", products=["SOL-USD"])  # which has no data
            await publish_until(here, lambda: here.gateway.statistics().outbox_bytes)
            await eventually(lambda: conflated(here, "age"))
            assert [client.conflating for client in here.gateway.slowest()] == [True]
            await publish(here)
            await slow.right()
            assert slow.turns(TICKER) == slow.turns(BOOK) == ["subscribe", "incr", "conflated"]
            assert slow.turns(TRADES) == ["subscribe", "incr"]
            assert (conflated(here, "bytes"), closed(here)) == (0, 0)
            await eventually(lambda: here.gateway.statistics().conflating == 0)
            assert here.gateway.statistics().joining == 1
            assert here.gateway.slowest() == []

    run(scenario())


@pytest.mark.parametrize("retained", [True, False], ids=["publisher's ring", "no ring"])
def test_trades_that_our_ring_has_lost_come_from_the_publishers_or_are_declared_missing(retained: bool) -> None:
    async def scenario() -> None:
        async with a_mesh(ring_bytes=65536) as here, reading(here, TRADES, TICKER, buffer=4096) as slow:
            await publish_until(here, lambda: conflated(here, "bytes"))
            for _ in range(8):
                await publish(here)
            if not retained:
                here.normalizer.model.forget(TRADES)
            await slow.right()
            trades = slow.holder.streams[TRADES]
            assert slow.turns(TRADES)[:3] == ["subscribe", "incr"] + ["conflated"] * (not retained)
            assert bool(trades.missing) == (not retained)
            assert slow.turns(TICKER) == ["subscribe", "incr", "conflated"]
            await publish(here, KEYS, 5, slow)

    run(scenario())


def test_a_client_that_takes_nothing_for_too_long_is_closed_with_4001_and_gets_nothing_after_that() -> None:
    async def scenario() -> None:
        ages = {"outbox_soft_age_s": 0.05, "outbox_age_s": 0.3}
        async with a_mesh(**ages) as here, reading(here, *KEYS) as other, reading(here, *KEYS, buffer=4096) as slow:
            await publish_until(here, lambda: closed(here), KEYS, other)
            assert here.gateway.statistics().slow_closed_total["slow_stalled"] == 1
            await publish(here, KEYS, 40, other)
            while (frame := await slow.raw.frame()) is not None and frame.opcode == TEXT:
                slow.holder.take(frame.payload.decode())
            assert frame is not None
            assert (frame.opcode, frame.payload) == (CLOSE, b"\x0f\xa1slow consumer")
            slow.raw.send(CLOSE, frame.payload[:2])
            assert await slow.raw.frame() is None, "nothing comes after a close frame"
            slow.raw.writer.close()
            assert not any("conflated" in slow.turns(key) for key in KEYS), "it has not read on in time"
            await eventually(lambda: here.gateway.statistics().closes_total == {"4001": 1})
            assert (here.gateway.statistics().clients, here.gateway.statistics().outbox_bytes) == (1, 0)
            assert [other.turns(key) for key in KEYS] == [["subscribe", "incr"]] * 3

    run(scenario())


def test_a_conflated_client_that_asks_and_asks_without_reading_is_closed_and_cut_off() -> None:
    async def scenario() -> None:
        bounds = {"outbox_bytes": 512 * 1024, "request_burst": 100_000}
        async with a_mesh(**bounds) as here, reading(here, *KEYS) as other, reading(here, *KEYS, buffer=4096) as slow:
            await publish_until(here, lambda: conflated(here, "bytes"), KEYS, other)
            most = asked = 0
            while not closed(here):
                for _ in range(200):
                    slow.ask(op="ping", t=1, id="x" * 100)
                asked += 200
                await eventually(lambda: closed(here) or pings(here) == asked, 10, 0.001)  # noqa: B023 - it ends here
                most = max(most, here.gateway.statistics().outbox_bytes)
            assert here.gateway.statistics().slow_closed_total["slow_outbox"] == 1
            assert SOFT_BYTES < most <= 512 * 1024
            await publish(here, KEYS, 40, other)
            assert [other.turns(key) for key in KEYS] == [["subscribe", "incr"]] * 3
            # It never takes the close frame, either.
            await eventually(lambda: here.gateway.statistics().closes_total == {"4001": 1})
            assert here.gateway.statistics().clients == 1

    run(scenario())


def test_a_client_that_would_get_more_than_its_rate_is_conflated() -> None:
    async def scenario(rate: float, of: Callable[[Holder], int], **limit: float) -> None:
        async with a_mesh(**limit) as here, reading(here, *KEYS) as client:
            began = asyncio.get_running_loop().time()
            holder, streams = client.holder, here.normalizer.model.streams
            over = asyncio.Event()
            taking = asyncio.ensure_future(client.until(lambda: over.is_set() and holder.agrees(streams)))
            for _ in range(100):
                await publish(here, (TICKER, BOOK), 20)
                await publish(here, (TRADES,), 1)
            await publish_until(here, lambda: conflated(here, "rate"), (TICKER, BOOK))
            over.set()
            await publish(here, KEYS, 1)
            await taking
            elapsed = asyncio.get_running_loop().time() - began
            # A second's worth at once, and what comes in the 0.1 s in which nobody looks.
            assert of(holder) <= rate * (elapsed + 1.5)
            assert holder.messages < sum(streams[key].position.seq for key in KEYS)
            assert client.turns(TICKER)[:3] == client.turns(BOOK)[:3] == ["subscribe", "incr", "conflated"]
            assert set(client.turns(TRADES)) == {"subscribe", "incr"}, "each trade, later"
            assert closed(here) == 0

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(scenario(1000.0, lambda holder: holder.messages, client_messages_per_s=1000.0))
            group.create_task(scenario(280_000.0, lambda holder: holder.bytes, client_bytes_per_s=280_000.0))

    run(both())


def test_a_client_that_reads_a_tenth_is_conflated_again_and_again_and_right_in_the_end() -> None:
    async def scenario() -> None:
        async with a_mesh() as here, reading(here, *KEYS, buffer=4096) as slow:
            slow.holder.strict = False
            published = 0
            most = 0
            for _ in range(110):
                await publish(here, (TICKER, BOOK), 100)
                await publish(here, (TRADES,), 10)
                published += 210
                for _ in range(21):
                    await slow.read()
                most = max(most, here.gateway.statistics().outbox_bytes)
            assert most < 2 * SOFT_BYTES
            await slow.right()
            for key in (TICKER, BOOK):
                assert slow.turns(key).count("conflated") >= 2
            assert set(slow.turns(TRADES)) == {"subscribe", "incr"}
            assert slow.holder.messages < published / 2
            await eventually(lambda: here.gateway.statistics().conflating == 0)
            await publish(here, KEYS, 40, slow)

    run(scenario())


def test_who_falls_behind_while_its_snapshot_is_under_way_gets_a_newer_one() -> None:
    async def scenario() -> None:
        async with a_mesh(TICKER) as here:
            bids = {Decimal(f"1.{at:05d}"): (f"1.{at:05d}", "3.5") for at in range(1, 20_000)}
            model = here.normalizer.model
            model.known[BOOK] = ModelStream(Position(0, 0), bids=bids)
            await flowing(here, BOOK)
            async with reading(here, TICKER, BOOK, buffer=4096) as slow:
                slow.holder.strict = False
                held = slow.holder.streams[BOOK]
                for _ in range(400):
                    await publish(here, (TICKER, BOOK), 100)
                    enough = slow.holder.bytes + 100 * (240 + 330) // 10
                    await slow.until(lambda: slow.holder.bytes >= enough)  # noqa: B023 - it ends here
                    if conflated(here, "behind") and held.turns().count("conflated") > 1:
                        break
                assert conflated(here, "behind")
                assert held.position is not None
                assert model.streams[BOOK].position.seq - held.position.seq < 10_000
                await slow.right()

    run(scenario())


def test_a_client_that_wishes_fewer_messages_and_is_slow_nevertheless() -> None:
    async def scenario() -> None:
        wished = (TICKER, BOOK)
        async with a_mesh(*KEYS, FILLER) as here, reading(here, FILLER, buffer=4096) as slow:
            await slow.follow(*wished, conflate_ms=20)
            await publish(here, wished, 40, slow)
            await publish_until(here, lambda: conflated(here, "bytes"), (*wished, FILLER))
            before = [slow.holder.streams[key].merged for key in wished]
            for _ in range(5):
                await publish(here, (*wished, FILLER))
            await slow.right()
            assert slow.turns(FILLER) == ["subscribe", "incr", "conflated"]
            for key in wished:
                assert slow.turns(key)[:2] == ["subscribe", "incr"]
                assert slow.turns(key).count("conflated") <= 1
            await eventually(lambda: here.gateway.statistics().conflating == 0)
            await publish(here, (*wished, FILLER), 40, slow)
            assert all(slow.holder.streams[key].merged > merged for key, merged in zip(wished, before, strict=True))
            assert closed(here) == 0

    run(scenario())
