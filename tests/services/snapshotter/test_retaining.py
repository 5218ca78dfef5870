"""Retention as the snapshotters do it: one of them for all, as the configuration says."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog

from lfmesh.config import Config
from lfmesh.core.archive import SegmentName, checksum
from lfmesh.messages import ServiceRecord
from lfmesh.ports import Context
from lfmesh.services.snapshotter.retaining import PERIOD_NS, Retaining
from lfmesh.store.folder import FolderObjectStore
from lfmesh.types import Channel, Position, Role, StreamKey
from tests.aio import run

KEY = StreamKey("BTC-USD", Channel.TRADES)


def context(spawned: list[Coroutine[Any, Any, None]]) -> Context:
    return Context(1, time.time_ns, structlog.get_logger(), spawned.append)


def record(shard: int, instance: str, host: str = "here") -> ServiceRecord:
    return ServiceRecord(Role.SNAPSHOTTER, instance, 1, {}, "0", 1, host, shard)


def filled(folder: Path, count: int) -> FolderObjectStore:
    store = FolderObjectStore(folder)
    for number in range(count):
        body = bytes([number]) * 1000
        name = SegmentName("coinbase", KEY, number, number, 1, number, number, Position(0, 0), 1, checksum(body))
        assert store.put(name.key, body)
    return store


def retaining(spawned: list[Coroutine[Any, Any, None]], **archive: float) -> Retaining:
    config = Config().override({"archive": archive})
    return Retaining(config, context(spawned), 1, "snapshotter-1", "here", first_ns=0)


def test_what_is_too_much_goes_and_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        spawned: list[Coroutine[Any, Any, None]] = []
        store, one = filled(tmp_path, 5), retaining(spawned, retention_bytes=3500)
        one.see([record(1, "snapshotter-1"), record(0, "snapshotter-0", "elsewhere"), record(2, "snapshotter-2")])
        now = time.time_ns()
        one.beat(now, store)
        one.beat(now + 1, store)
        await asyncio.gather(*spawned)
        assert len(spawned) == 1, "once a period"
        assert one.deleted == (2, 2000)
        assert [stored.size for stored in store.list()] == [1000] * 3
        one.beat(now + PERIOD_NS, store)
        await spawned[1]
        assert one.deleted == (2, 2000)
        one.close()

    run(scenario())


def test_one_does_it_for_all_and_none_where_nothing_is_asked_for(tmp_path: Path) -> None:
    spawned: list[Coroutine[Any, Any, None]] = []
    store = filled(tmp_path, 2)
    retaining(spawned).beat(time.time_ns(), store)
    second = retaining(spawned, retention_age_s=1.0)
    second.see([record(0, "snapshotter-0")])
    second.beat(time.time_ns(), store)
    assert spawned == []
