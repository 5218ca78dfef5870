"""Network namespaces, where they are allowed: a cut link swallows every packet, and nothing is left behind."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.chaos.netns import Namespaces, unavailable
from tests.aio import run

WHY_NOT = unavailable()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"no network namespaces: {WHY_NOT}")

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).close()"


async def connects(namespaces: Namespaces, unit: str, host: str, port: int, timeout_s: float) -> bool:
    process = await asyncio.create_subprocess_exec(
        *namespaces.command(unit), sys.executable, "-c", CONNECT, host, str(port), str(timeout_s),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    return await process.wait() == 0


def links() -> list[str]:
    listed = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line for line in (listed + spaces).splitlines() if "lfm" in line]


def test_a_cut_link_swallows_everything_and_no_other_does() -> None:
    async def scenario() -> None:
        async with Namespaces(["a", "b"], ["a=b", "a=c"]) as namespaces:
            cut, other = namespaces.host_of_link("a=b"), namespaces.host_of_link("a=c")
            server = await asyncio.start_server(lambda _, writer: writer.close(), "0.0.0.0", 0)
            port = server.sockets[0].getsockname()[1]
            assert await connects(namespaces, "a", cut, port, 5)
            await namespaces.swallow({"a=b": ["a", "b"]}, cut=True)
            assert not await connects(namespaces, "a", cut, port, 0.3)
            assert await connects(namespaces, "a", other, port, 5)
            await namespaces.swallow({"a=b": ["a", "b"]}, cut=False)
            assert await connects(namespaces, "a", cut, port, 5)
            server.close()
            await server.wait_closed()
            mark = Path(namespaces.command("a")[3]).name.partition("-")[0]
            assert any(mark in line for line in links())
        assert not any(mark in line for line in links())

    run(scenario(), 60)
