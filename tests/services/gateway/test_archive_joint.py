"""A gateway and the snapshotters' real archive, on a folder of this machine: what one answers the other can use."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lfmesh.config import Config
from lfmesh.messages import ServiceRecord
from lfmesh.services.snapshotter import SnapshotterService
from lfmesh.types import Channel, Role, StreamKey
from tests.aio import eventually, run
from tests.services.gateway.kit import BOOK, TICKER, TRADES, World, configured, place, world
from tests.services.gateway.test_http import get
from tests.services.gateway.test_joins import flowing
from tests.services.gateway.test_resume import resume, whole


def config(folder: Path) -> Config:
    return configured(ring_bytes=65536).override(
        {"mesh": {"data_dir": folder}, "archive": {"flush_interval_s": 0.05, "segment_max_age_s": 1.0}}
    )


@asynccontextmanager
async def archived(
    folder: Path, before: Callable[[World], Awaitable[object]] | None = None
) -> AsyncIterator[tuple[World, SnapshotterService]]:
    """A mesh whose snapshotter is a real one, that starts after `before`; the normalizer's ring is small."""
    async with world(config(folder), snapshotters=False) as here:
        here.normalizer.model._ring._max_bytes = 20_000
        if before is not None:
            await before(here)
        service = SnapshotterService(here.config, here.supervisor.context(), 0)
        await service.start()
        record = ServiceRecord(
            Role.SNAPSHOTTER, service.instance, 1, service.endpoints(), "0", 1, "localhost", service.shard
        )
        try:
            service.on_peers([*here.peers(), record])
            here.gateway.on_peers([*here.peers(), record])
            await eventually(lambda: here.normalizer.subscribed == 2 and not service.readiness())
            if before is not None:
                await eventually(lambda: service.statistics().streams > 0)
            yield here, service
        finally:
            await service.stop()


def _healed(service: SnapshotterService) -> bool:
    figures = service.statistics()
    return figures.gaps_total > 0 and not figures.streams_gapped


@pytest.mark.parametrize("key", [TICKER, TRADES, BOOK])
def test_a_resume_past_every_ring_over_epochs(tmp_path: Path, key: StreamKey) -> None:
    async def scenario() -> None:
        async with archived(tmp_path) as (here, _), here.client() as client:
            client.checks = False
            first = await flowing(here, key, 1)
            for number in range(400):
                here.normalizer.publish(key, [number, number + 1])
            here.normalizer.open(key)
            second = here.normalizer.model.streams[key].position.epoch
            for number in range(400):
                here.normalizer.publish(key, [number, number + 1])
            await here.caught_up(key)
            await resume(client, key, first, 5)
            here.normalizer.publish(key, [7])
            await client.until(lambda m: m["data"]["epoch"] == second and m["data"]["seq"] == 801)
            assert [place(m) for m in client.messages[1:] if m["op"] == "incr"] == [
                *(("incr", first, seq) for seq in range(6, 802)),
                *(("incr", second, seq) for seq in range(1, 802)),
            ]
            opening = [m for m in client.messages[1:] if m["op"] == "snapshot"]
            assert {place(m) for m in opening} == {("snapshot", second, 0)}
            assert len(opening) == opening[0]["data"].get("parts", 1)
            assert {m["data"]["reason"] for m in opening} == {"epoch"}
            figures = here.gateway.statistics()
            assert (figures.resumes_total["archive"], figures.resumes_total["snapshot"]) == (1, 0)

    run(scenario(), timeout=40)


def test_trades_from_before_the_archive_are_declared_and_all_later_ones_come(tmp_path: Path) -> None:
    async def before(here: World) -> None:
        await flowing(here, TRADES, 200)

    async def scenario() -> None:
        async with archived(tmp_path, before) as (here, _), here.client() as client:
            epoch = here.normalizer.model.streams[TRADES].position.epoch
            for number in range(400):
                here.normalizer.publish(TRADES, [number])
            await here.caught_up(TRADES)
            await resume(client, TRADES, epoch, 1)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 600)
            whole(client.messages[1:], held=1, newest=600)
            assert client.messages[1]["data"]["missing"] == {"from_trade_id": 2, "to_trade_id": 150}
            assert len(client.messages) == 2 + 400

    run(scenario(), timeout=40)


@pytest.mark.parametrize("key", [TICKER, TRADES])
def test_over_what_was_lost_for_good_by_the_snapshot_in_its_place(tmp_path: Path, key: StreamKey) -> None:
    async def scenario() -> None:
        async with archived(tmp_path) as (here, service), here.client() as client:
            epoch = await flowing(here, key, 300)
            for number in range(100):
                here.normalizer.publish(key, [number], lost=True)
            here.normalizer.model.forget(key)
            await here.caught_up(key)
            await eventually(lambda: not here.gateway.statistics().streams_gapped and _healed(service))
            for number in range(300):
                here.normalizer.publish(key, [number])
            await here.caught_up(key)
            await resume(client, key, epoch, 1)
            await client.until(lambda m: m["op"] == "incr" and m["data"]["seq"] == 700)
            came = [place(m) for m in client.messages[1:]]
            assert came == [
                *(("incr", epoch, seq) for seq in range(2, 301)),
                ("snapshot", epoch, 400),
                *(("incr", epoch, seq) for seq in range(401, 701)),
            ]
            snapshot = client.messages[300]["data"]
            assert snapshot["reason"] == "gap"
            if key is TRADES:
                assert snapshot["missing"] == {"from_trade_id": 301, "to_trade_id": 350}

    run(scenario(), timeout=40)


def test_the_state_as_of_a_moment(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with archived(tmp_path) as (here, service):
            started = time.time_ns()
            key = StreamKey("BTC-USD", Channel.BOOK)
            here.normalizer.open(key)
            here.normalizer.model.clock = time.time_ns  # times of the archive are ns
            states = {}
            for number in range(1, 60):
                here.normalizer.publish(key, [started + number])  # which is its time, too
                states[started + number] = here.normalizer.model.streams[key].state(key.channel)
            await here.caught_up(key)
            await eventually(lambda: service.statistics().state_updates_total == 59)
            for at in (started + 7, started + 59):
                found = ""

                async def archived_by_now(at: int = at) -> bool:
                    nonlocal found
                    reply = await get(here, f"/v1/snapshot/BTC-USD?channel=book&at={at}")
                    found = reply.body.decode()
                    return reply.status == 200

                deadline = time.monotonic() + 10
                while not await archived_by_now():
                    assert time.monotonic() < deadline, found
                assert found.partition('"state":')[2][:-1] == states[at]
                assert f'"ts_snapshot":{at},' in found
            reply = await get(here, "/v1/snapshot/BTC-USD?channel=book&at=2001-01-01T00:00:00Z")
            assert reply.status == 404

    run(scenario(), timeout=40)
