"""Stores that are gone for a while, under load: clients notice nothing and nothing is lost ("Shown by" 3)."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lfmesh.types import Role
from loadgen.client.checker import Checker
from loadgen.sim import SimConfig, serve
from tests import stores
from tests.aio import run
from tests.integration.clients import assert_clean, assert_holds_truth, client, quiet, started
from tests.integration.durable import Durable, durable
from tests.integration.mesh import LiveMesh, wait_for


@dataclass(frozen=True, slots=True)
class Outage:
    """How hard the mesh works, and for how long the stores are gone."""

    rate: int
    products: int
    seconds: float


OUTAGES = [
    pytest.param(Outage(rate=800, products=6, seconds=3), id="short"),
    pytest.param(Outage(rate=5000, products=20, seconds=60), id="long", marks=[pytest.mark.soak]),
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("outage", OUTAGES)
def test_clients_notice_nothing_of_an_outage_and_nothing_is_lost(tmp_path: Path, outage: Outage) -> None:
    async def scenario() -> None:
        with stores.dynamodb(private=True) as dynamodb, stores.s3(private=True) as s3:
            keys = {
                "store": {
                    **dynamodb.store(), **s3.store(), "create": True,
                    "request_timeout_s": 2.0, "connect_timeout_s": 1.0,
                },
                "archive": {"segment_max_age_s": 1.0, "snapshot_interval_s": 1.0},
                "snapshotter": {"book_write_interval_s": 1.0},
            }  # fmt: skip
            config = SimConfig(product_count=outage.products, rate_msgs_s=outage.rate)
            async with serve(config) as sim:
                mesh = Durable.on(tmp_path, sim, keys, {**dynamodb.environment, **s3.environment}, shards=1)
                async with durable(mesh):
                    live = await mesh.up()
                    checker = Checker()
                    async with client(live, checker) as session:
                        await started(session, checker)
                        before = await _figures(live)
                        dynamodb.kill()
                        s3.kill()
                        await wait_for(lambda: _not_ready(live, ("state store", "object store")), 60, "readiness")
                        # The outage itself is what is waited for here.
                        await asyncio.sleep(outage.seconds)
                        during = await _figures(live)
                        told = len(checker.statuses)
                        await asyncio.to_thread(_start, (dynamodb, s3))
                        await wait_for(lambda: live.is_ready("snapshotter-0"), 60, "the snapshotter is ready again")
                        await session.until(_has_more(checker), 30)
                        sim.pause()
                        await quiet([(session, checker)])
                    assert_clean([checker])
                    assert all(status.state == "live" for status in list(checker.statuses)[told:])
                    assert_holds_truth(checker, await live.truth())
                    await wait_for(lambda: _spool_is_empty(live), 60, "everything uploaded")
                    after = await _figures(live)
                    held = {
                        product: [trade.trade_id for trade in trades.held]
                        for product in sim.products
                        if (trades := checker.trades(product)) is not None
                    }
                    await mesh.end()
                    await mesh.command("store", "verify")
                    archived = await _archived_trades(mesh)
                    for product, ids in held.items():
                        missing = sorted(set(ids) - set(archived[product]))
                        assert missing == [], f"{product}: {len(missing)} trades are not in the archive"
                    spool, memory = "lfmesh_snapshotter_spool_bytes", "lfmesh_snapshotter_process_resident_memory_bytes"
                    assert during[spool] < 64 * 1024 * 1024
                    assert max(during[memory], after[memory]) < before[memory] + 128 * 1024 * 1024
                    sys.stdout.write(f"\nbefore {before}\nduring {during}\nafter  {after}\n")

    run(scenario(), 380)


def _has_more(checker: Checker) -> Callable[[], bool]:
    seen = checker.increments
    return lambda: checker.increments > seen + 500


def _start(servers: Sequence[stores.Endpoint]) -> None:
    for server in servers:
        server.start()


async def _not_ready(mesh: LiveMesh, words: Sequence[str]) -> bool:
    """Whether the snapshotter says of each of these that it can't be used."""
    record = next(record for record in await mesh.services() if record.role is Role.SNAPSHOTTER)
    text = await asyncio.to_thread(_body, f"{record.http.rstrip('/')}/ready")
    return all(word in text for word in words)


def _body(url: str) -> str:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


async def _figures(mesh: LiveMesh) -> dict[str, float]:
    """What the snapshotter says of its spool, and what memory it needs."""
    metrics = await mesh.metrics(Role.SNAPSHOTTER)
    return {
        name.partition("{")[0]: value
        for name, value in metrics.items()
        if any(part in name for part in ("spool", "resident", "rss", "dropped_tape", "journal_bytes"))
    }


async def _spool_is_empty(mesh: LiveMesh) -> bool:
    metrics = await mesh.metrics(Role.SNAPSHOTTER)
    spooled = [value for name, value in metrics.items() if "spool_objects" in name]
    assert spooled, "the snapshotter has no such figure"
    return not any(spooled)


async def _archived_trades(mesh: Durable) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in (await mesh.command("replay", "--channels", "trades", "--speed", "max")).splitlines():
        message = json.loads(line)
        if message["op"] == "incr":
            data = message["data"]
            found.setdefault(data["product"], []).append(data["fields"]["trade_id"])
        else:
            data = message["data"]
            trades = found.setdefault(data["product"], [])
            known = set(trades)
            trades += [trade["trade_id"] for trade in data["state"]["trades"] if trade["trade_id"] not in known]
    return found
