"""`lfmesh up` and what works on it: first tick, the registry killed, `lfmesh top`, the checking client."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from lfmesh.types import Role
from loadgen.client.checker import Checker
from tests.aio import run
from tests.integration.clients import assert_clean, client, started
from tests.integration.mesh import LiveMesh, mesh_up, wait_for


async def _command(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def test_the_first_tick_comes_soon_and_every_tool_works(tmp_path: Path) -> None:
    async def scenario() -> None:
        began = time.monotonic()
        async with mesh_up(tmp_path, "--products", "5") as mesh:
            announced = time.monotonic()
            checker = Checker()
            async with client(mesh, checker, channels=["ticker"]) as session:
                await session.until(lambda: checker.increments, 30)
                first = time.monotonic()
                print(  # noqa: T201 - a figure for people, never asserted
                    f"\nfirst tick {first - began:.2f} s after `lfmesh up` (mesh.json after {announced - began:.2f} s)"
                )
                await started(session, checker)
            assert_clean([checker])
            await _top_lists_every_role(mesh)
            await _the_checking_client_is_content(mesh)

    run(scenario(), 100)


async def _top_lists_every_role(mesh: LiveMesh) -> None:
    registries = [argument for endpoint in mesh.registry_endpoints for argument in ("--registry", endpoint)]
    code, out, err = await _command("lfmesh.cli", "top", "--once", "--json", *registries)
    assert (code, err) == (0, "")
    text = json.dumps(json.loads(out))
    for role in Role:
        assert role in text


async def _the_checking_client_is_content(mesh: LiveMesh) -> None:
    code, out, err = await _command(
        "loadgen.client", "--gateway-url", mesh.ws_url, "--duration", "2", "--clients", "2", "--validate", "--json"
    )
    report = json.loads(out)
    assert (code, err, report["violations"]) == (0, "", {})
    assert set(report["increments"]) == {"ticker", "trades", "book"}
    assert report["streams_waiting"] == 0


def test_killing_the_registry_while_data_flows_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mesh_up(tmp_path, "--rate", "2000", "--products", "5") as mesh:
            checker = Checker()
            async with client(mesh, checker) as session:
                await started(session, checker)
                told = len(checker.statuses)
                (registry,) = [record for record in await mesh.services() if record.role is Role.REGISTRY]
                os.kill(registry.pid, signal.SIGKILL)
                seen = checker.increments
                await session.until(lambda: checker.increments > seen + 1500, 30)

                async def all_back() -> bool:
                    roles = {record.role for record in await mesh.services()}
                    return roles == set(Role)

                await wait_for(all_back, 30, "a registry that lists every role again")
                seen = checker.increments
                await session.until(lambda: checker.increments > seen + 300, 30)
            assert_clean([checker])
            assert len(checker.statuses) == told

    run(scenario(), 100)
