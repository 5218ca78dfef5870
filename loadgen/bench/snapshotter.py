"""What a snapshotter costs at 5,000 venue messages a second, and how soon a tick is stored, in a whole mesh.

The same mesh runs with the archive and without it; CPU time is the snapshotter process's own, per message that it took.
Where DynamoDB Local and an S3 server can be had it runs once more on those.
"""

import asyncio
import os
import re
import signal
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lfmesh.client import meshfile
from lfmesh.client.meshfile import MeshFile
from lfmesh.messages import LookupRequest, ServiceRecord, View, decode_reply, encode
from lfmesh.transport import Requester, Transport
from lfmesh.types import Role
from loadgen.bench.process import cpu_seconds, rss_bytes
from loadgen.bench.table import Goal, Row, skipped
from loadgen.stores import pair as stores
from loadgen.stores.server import ENVIRONMENT, ServerFailed

RATE = 5000
PRODUCTS = 20
_START_S = 30.0
_WARM_S = 3.0

_sample = re.compile(r"^lfmesh_snapshotter_(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)


class Cost(NamedTuple):
    """Of one run: CPU µs per message, share of one core, messages a second, and tick to stored (ms)."""

    cpu_us: float
    core: float
    messages_per_s: float
    p50_ms: float
    p99_ms: float
    rss_mb: float


def _figures(record: ServiceRecord) -> dict[str, float]:
    with urllib.request.urlopen(f"{record.http.rstrip('/')}/metrics", timeout=5) as answer:  # noqa: S310 - our own address
        return {name: float(value) for name, value in _sample.findall(answer.read().decode())}


async def _snapshotter(mesh: MeshFile) -> ServiceRecord | None:
    with Transport() as transport:
        header, *_ = await Requester(transport, mesh.registry_endpoints[0]).request(encode(LookupRequest()), 5.0)
    view = decode_reply(header)
    assert isinstance(view, View)
    return next((record for record in view.services if record.role is Role.SNAPSHOTTER and record.http), None)


async def _once(seconds: float, env: Mapping[str, str]) -> Cost:
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as folder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lfmesh.cli", "up", "--gateway-port", "0", "--data-dir", folder,
            "--rate", str(RATE), "--products", str(PRODUCTS), "--shards", "1",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, env={**os.environ, **env},
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_S):
                record = None
                while record is None:
                    mesh = meshfile.read(Path(folder))
                    record = await _snapshotter(mesh) if mesh is not None else None
                    await asyncio.sleep(0.05)
            await asyncio.sleep(_WARM_S)
            before, cpu = _figures(record), cpu_seconds(record.pid)
            await asyncio.sleep(seconds)
            after, spent = _figures(record), cpu_seconds(record.pid) - cpu
            rss = rss_bytes(record.pid) / 1e6
        finally:
            process.send_signal(signal.SIGINT)
            await process.wait()
    taken = after["messages_received_total"] - before["messages_received_total"]
    return Cost(
        spent / taken * 1e6, spent / seconds, taken / seconds,
        after["store_latency_p50_ms"], after["store_latency_p99_ms"], rss,
    )  # fmt: skip


def run(seconds: float = 6.0) -> list[Row]:
    """With the archive against without it, on files and on servers of our own."""
    without = asyncio.run(_once(seconds, {"LFMESH_ARCHIVE__ENABLED": "false"}))
    rows = _rows("files", asyncio.run(_once(seconds, {})), without)
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as folder:
        try:
            servers = stores.up(Path(folder), memory=True)
        except ServerFailed as error:
            return [*rows, skipped("snapshotter.dynamodb", "the same on DynamoDB and S3", str(error))]
        try:
            rows += _rows("DynamoDB and S3", asyncio.run(_once(seconds, _variables(servers))), without)
        finally:
            stores.down(Path(folder))
    return rows


def _variables(servers: stores.Pair) -> dict[str, str]:
    """What leads a mesh to these servers."""
    keys = {
        "state": "dynamodb",
        "dynamodb_endpoint": servers.dynamodb.url,
        "objects": "s3",
        "s3_endpoint": servers.s3.url,
        "path_style": "true",
        "create": "true",
    }
    return ENVIRONMENT | {f"LFMESH_STORE__{key.upper()}": value for key, value in keys.items()}


def _rows(where: str, cost: Cost, without: Cost) -> list[Row]:
    key = f"snapshotter.{where.partition(' ')[0].lower()}"
    return [
        Row(
            key, f"snapshotter at {RATE} venue messages/s, {where}: CPU a message taken", cost.cpu_us, "µs",
            cost.cpu_us / without.cpu_us, f"no archive, {without.cpu_us:.1f} µs", better="less",
        ),
        Row(
            f"{key}.core", "… of one core", cost.core * 100, "%", cost.core / without.core,
            f"no archive, {without.core:.1%}", Goal(50.0, better="less"), "less",
            f"{cost.messages_per_s:,.0f} messages/s",
        ),
        Row(f"{key}.rss", "… memory", cost.rss_mb, "MB", goal=Goal(512.0, better="less"), better="less"),
        Row(
            f"{key}.stored", f"tick to stored, {where}, p50", cost.p50_ms, "ms", goal=Goal(250.0, better="less"),
            better="less", note=f"p99 {cost.p99_ms:.0f} ms",
        ),
    ]  # fmt: skip
