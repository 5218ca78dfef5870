"""From `lfmesh up` to the first tick at a client, as a user sees it: a fresh process, nothing warmed."""

import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

import websockets
from websockets.asyncio.client import connect

from lfmesh.client import meshfile
from loadgen.bench.table import Goal, Row

LIMIT = Goal(3.0, better="less")
_DEADLINE_S = 30.0
_SUBSCRIBE = '{"op":"subscribe","products":["BTC-USD"],"channels":["ticker"]}'


async def _first_tick(url: str) -> None:
    """Return when a client of this gateway has got a price; the gateway may not listen yet."""
    while True:
        try:
            async with connect(url, compression=None, proxy=None) as client:
                await client.send(_SUBSCRIBE)
                async for message in client:
                    if '"op":"snapshot"' in message or '"op":"incr"' in message:
                        return
        except (OSError, websockets.WebSocketException):
            await asyncio.sleep(0.005)


async def _gateway_url(folder: Path) -> str:
    while True:
        mesh = meshfile.read(folder)
        if mesh is not None:
            return mesh.gateway_url
        await asyncio.sleep(0.005)


async def _once() -> tuple[float, float]:
    """Seconds from the start of the process to the first tick, and from SIGINT to its end."""
    with tempfile.TemporaryDirectory(prefix="lfmesh-bench-") as folder:
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lfmesh.cli", "up", "--gateway-port", "0", "--data-dir", folder,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await _first_tick(await _gateway_url(Path(folder)))
            first = time.perf_counter() - began
        finally:
            ending = time.perf_counter()
            process.send_signal(signal.SIGINT)
            await process.wait()
        return first, time.perf_counter() - ending


def run(runs: int = 3) -> list[Row]:
    """The median of `runs` starts."""
    figures = sorted(asyncio.run(_once()) for _ in range(runs))
    first, end = figures[len(figures) // 2][0], max(end for _, end in figures)
    return [
        Row("startup.first_tick", "`lfmesh up` to the first tick at a client", first, "s", goal=LIMIT, better="less"),
        Row("startup.end", "Ctrl-C to the end of all processes", end, "s", goal=LIMIT, better="less"),
    ]
