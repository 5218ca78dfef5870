"""The client library's examples, run as a user runs them, on a real mesh."""

import asyncio
import csv
import json
import os
import signal
import sys
from pathlib import Path

from tests.aio import run
from tests.integration.mesh import LiveMesh, mesh_up


async def _example(mesh: LiveMesh, name: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"lfmesh.client.examples.{name}", "--url", mesh.ws_url, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def _ids(path: Path, product: str) -> list[int]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert all(row[2] in ("buy", "sell") for row in rows)
    return [int(row[1]) for row in rows if row[0] == product]


def test_the_examples_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mesh_up(tmp_path, "--products", "3", "--rate", "1000") as mesh:
            prices = await _example(mesh, "best_prices", "BTC-USD", "ETH-USD", "--lines", "20")
            assert len([line for line in prices.splitlines() if " / " in line]) == 20
            look = await _example(mesh, "look", "BTC-USD", "--trades", "3")
            assert "spread" in look
            assert len([line for line in look.splitlines() if line.split()[0] in ("buy", "sell")]) == 3

            log = tmp_path / "trades.csv"
            await _example(mesh, "trade_log", str(log), "BTC-USD", "ETH-USD", "--trades", "100")
            first = _ids(log, "BTC-USD")
            os.kill(mesh.pid("gateway-0"), signal.SIGKILL)  # the next one resumes through a gateway that has just begun
            await _example(mesh, "trade_log", str(log), "BTC-USD", "ETH-USD", "--trades", "300")
            for product in ("BTC-USD", "ETH-USD"):
                seen = _ids(log, product)
                assert seen == list(range(seen[0], seen[-1] + 1))
            assert len(_ids(log, "BTC-USD")) > len(first)
            assert set(json.loads(log.with_suffix(".positions.json").read_text())) == {"BTC-USD", "ETH-USD"}

    run(scenario(), 100)
