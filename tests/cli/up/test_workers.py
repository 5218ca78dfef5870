"""`lfmesh up --workers 2`: a gateway of several processes is one unit, however they die."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from lfmesh.client import Disconnected, Event, Feed, Missing, TradeEvent, Violation, connect
from lfmesh.client.meshfile import MeshFile
from tests.cli.up.mesh import DEADLINE_S, Up, an_up, first_updates, until
from tests.cli.up.test_topologies import rows_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")

WORKERS = ("gateway-0.1", "gateway-0.2")


def test_a_gateway_of_two_workers_loses_nothing_whoever_of_it_is_killed() -> None:
    with an_up() as up:
        up.start("--shards", "1", "--products", "1", "--rate", "2000", "--workers", "2")
        before = up.mesh("gateway-0")
        workers = until(lambda: workers_of(up) or None, "both workers run")
        asyncio.run(a_worker_dies_under_its_clients(before.gateway_url, workers[WORKERS[0]]))
        rows = until(lambda: both_rows(up), "both workers are listed")
        assert rows[WORKERS[0]]["pid"] == workers_of(up)[WORKERS[0]] != workers[WORKERS[0]]
        assert rows[WORKERS[1]]["pid"] == workers[WORKERS[1]]
        os.kill(before.pids["gateway-0"], signal.SIGKILL)

        def started_anew() -> MeshFile | None:
            mesh = up.mesh("gateway-0")
            return mesh if mesh.pids["gateway-0"] != before.pids["gateway-0"] else None

        assert until(started_anew, "another supervisor").gateway_url == before.gateway_url, "the port stays"
        first_updates(before.gateway_url, ["BTC-USD"], 3)
        assert up.interrupt() == 0
        up.gone()
        assert "1 gateway of 2 workers" in up.said()
        assert "Traceback" not in up.said()


def workers_of(up: Up) -> dict[str, int]:
    """Their ids, by the names that the system has; empty before both run."""
    names = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in up.processes()}
    found = {name: names[name] for name in WORKERS if name in names}
    return found if len(found) == len(WORKERS) else {}


def both_rows(up: Up) -> dict[str, dict[str, object]] | None:
    rows = rows_of(up)
    return rows if all(rows.get(name, {}).get("state") == "ready" for name in WORKERS) else None


async def a_worker_dies_under_its_clients(url: str, pid: int) -> None:
    """Twenty clients follow trades; the worker of about half of them is killed; each has every trade once, in order."""
    async with asyncio.timeout(DEADLINE_S):
        clients = [asyncio.create_task(trades(url)) for _ in range(20)]
        await asyncio.sleep(0)
        async with connect(url) as feed:  # one more, to know when trades come
            await feed.subscribe(["BTC-USD"], channels=["trades"])
            await take(feed, 5)
        os.kill(pid, signal.SIGKILL)
        broken = [client for client in clients if await client]
        assert 0 < len(broken) < len(clients)


async def trades(url: str) -> bool:
    """Follow 60 trades; whether the connection broke meanwhile."""
    async with connect(url) as feed:
        await feed.subscribe(["BTC-USD"], channels=["trades"])
        events = await take(feed, 60)
    assert not [event for event in events if isinstance(event, Missing | Violation)]
    ids = [event.trade.trade_id for event in events if isinstance(event, TradeEvent)]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    return any(isinstance(event, Disconnected) for event in events)


async def take(feed: Feed, count: int) -> list[Event]:
    """Events up to so many trades."""
    events: list[Event] = []
    seen = 0
    async for event in feed:
        events.append(event)
        seen += isinstance(event, TradeEvent)
        if seen == count:
            return events
    raise AssertionError("the feed has ended")
