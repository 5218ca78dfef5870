"""A gateway as a process of its own: SIGTERM sends its clients away, a second one ends it at once."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from lfmesh.transport import Transport
from tests.aio import run
from tests.services.gateway.kit import Client
from tests.services.snapshotter.world import FakeNormalizer

CONFIG = """
[mesh]
products = ["BTC-USD"]
shards = 1
[gateway]
port = 0
drain_s = {drain_s}
[[registry.static_peers]]
role = "normalizer"
instance = "normalizer-0"
shard = 0
[registry.static_peers.endpoints]
market_data = "{market_data}"
requests = "{requests}"
[log]
format = "json"
"""


@asynccontextmanager
async def gateway(folder: Path, drain_s: float) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The process, and the URL of its clients' port."""
    with Transport() as transport:
        normalizer = FakeNormalizer(transport, 1)
        normalizer.start_beacons()
        path = folder / "gateway.toml"
        path.write_text(CONFIG.format(drain_s=drain_s, **normalizer.record.endpoints))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lfmesh.cli", "gateway", "--config", str(path),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ),
        )  # fmt: skip
        try:
            assert process.stderr is not None
            while True:
                line = await process.stderr.readline()
                assert line, "it ended before it had started"
                told = json.loads(line)
                if told["event"] == "started":
                    break
            yield process, told["http"].rstrip("/").replace("http", "ws", 1) + "/ws"
        finally:
            normalizer.stop_beacons()
            if process.returncode is None:
                process.kill()
            await process.communicate()


def test_sigterm_sends_clients_away_and_ends_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path, 0.4) as (process, url):
            async with connect(url, compression=None) as connection:
                client = Client(connection)
                process.send_signal(signal.SIGTERM)
                assert (await client.until(lambda m: m["op"] != "heartbeat"))["op"] == "goaway"
                assert await client.closed() == (1001, "draining")
            assert await process.wait() == 0

    run(scenario(), 60)


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path, 200.0) as (process, url), connect(url, compression=None) as connection:
            client = Client(connection)
            process.send_signal(signal.SIGTERM)
            assert (await client.until(lambda m: m["op"] != "heartbeat"))["op"] == "goaway"
            with pytest.raises(OSError, match="Connect call failed"):
                await connect(url)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 128 + signal.SIGTERM

    run(scenario(), 60)
