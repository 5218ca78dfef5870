"""`lfmesh gateway --workers 2` as a user runs it: real processes, one port, clients that come and go."""

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from lfmesh.transport import Transport
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, TRADES, Client, Json, place
from tests.services.snapshotter.world import FakeNormalizer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares connections out between sockets")

CONFIG = """
[mesh]
products = ["BTC-USD"]
shards = 1
[gateway]
port = {port}
workers = {workers}
drain_s = {drain_s}
max_clients = 42
max_clients_per_address = 40
bind_telemetry = "{bind_telemetry}"
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
WORKERS = ("gateway-0.1", "gateway-0.2")


class Crew:
    """A gateway with workers, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self.pids: dict[str, int] = {}
        self.url = ""

    async def hears(self, event: str, instance: str = "gateway-0") -> dict[str, Any]:
        """Read on until this is said."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while True:
                line = await self.process.stderr.readline()
                assert line, f"it ended before {event}: {self.said}"
                told: dict[str, Any] = json.loads(line)
                self.said.append(told)
                if told["event"] == "started":
                    self.pids[told["instance"]] = told["pid"]
                if (told["event"], told["instance"]) == (event, instance):
                    return told

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/ws"

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body, over a connection of its own: whichever worker gets that."""
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head, _, body = (await reader.read(-1)).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body

    async def figures(self, name: str) -> dict[str, float]:
        """A metric of each worker, or of the supervisor; of a worker, as the supervisor has it."""
        status, text = await self.get("/metrics")
        assert status == 200
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return {one.labels.get("worker", one.labels["instance"]): one.value for one in samples if one.name == name}


@asynccontextmanager
async def crew(
    folder: Path, normalizer: FakeNormalizer | None = None, *, workers: int = 2, port: int = 0, drain_s: float = 0.4,
    bind_telemetry: str = "tcp://127.0.0.1:0", starts: bool = True,
) -> AsyncIterator[Crew]:  # fmt: skip
    endpoints = {"market_data": "tcp://127.0.0.1:1", "requests": "tcp://127.0.0.1:1"}
    if normalizer is not None:
        endpoints = normalizer.record.endpoints
    path = folder / "gateway.toml"
    path.write_text(
        CONFIG.format(port=port, workers=workers, drain_s=drain_s, bind_telemetry=bind_telemetry, **endpoints)
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lfmesh.cli", "gateway", "--config", str(path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    here = Crew(process)
    try:
        if starts:
            here.url = (await here.hears("started"))["http"]
        yield here
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()  # the pipe ends with the last worker
        await eventually(lambda: not any(alive(pid) for pid in here.pids.values()))


@asynccontextmanager
async def normalizing() -> AsyncIterator[FakeNormalizer]:
    with Transport() as transport:
        normalizer = FakeNormalizer(transport, 1)
        normalizer.model.clock = lambda: time.time_ns() // 1000  # epochs are below 2**53
        normalizer.start_beacons()
        yield normalizer
        normalizer.stop_beacons()


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_two_workers_are_one_gateway(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with normalizing() as normalizer, crew(tmp_path, normalizer) as gateway:
            normalizer.open(TICKER)
            normalizer.publish(TICKER, [1, 2, 3])
            async with AsyncExitStack() as stack:
                clients = [await admitted(stack, gateway) for _ in range(40)]
                await both_have_their_share(gateway)
                await bounds_hold_over_both(stack, gateway)
                for client in clients:
                    await client.subscribe(TICKER)
                    await client.until(lambda message: message["op"] == "snapshot")
                normalizer.publish(TICKER, [4])
                for client in clients:
                    await client.until(at(4))
                await ready_speaks_for_both(gateway, normalizer)
                clients = await one_dies_and_its_clients_resume(stack, gateway, normalizer, clients)
                await sigterm_drains_both(gateway, clients)

    run(scenario(), 60)


def at(seq: int) -> Callable[[Json], bool]:
    return lambda message: message["op"] == "incr" and message["data"]["seq"] == seq


async def enter(stack: AsyncExitStack, gateway: Crew, local: str = "127.0.0.1") -> Client:
    connection = await connect(gateway.ws_url, compression=None, ping_interval=None, local_addr=(local, 0))
    stack.push_async_callback(connection.close)
    return Client(connection)


async def admitted(stack: AsyncExitStack, gateway: Crew, local: str = "127.0.0.1") -> Client:
    client = await enter(stack, gateway, local)
    await client.rest()
    return client


async def both_have_their_share(gateway: Crew) -> None:
    clients = await gateway.figures("lfmesh_gateway_clients")
    assert set(clients) == set(WORKERS)
    assert sum(clients.values()) == 40
    assert min(clients.values()) > 0, "the kernel shares connections out"
    assert await gateway.figures("lfmesh_gateway_workers_running") == {"gateway-0": 2}
    assert await gateway.figures("lfmesh_gateway_admitted_connections") == {"gateway-0": 40}


async def bounds_hold_over_both(stack: AsyncExitStack, gateway: Crew) -> None:
    for _ in range(4):
        code, reason = await (await enter(stack, gateway)).closed()
        assert (code, "this address" in str(reason)) == (1013, True)
    for _ in range(2):
        await admitted(stack, gateway, "127.0.0.2")
    for _ in range(4):
        assert await (await enter(stack, gateway, "127.0.0.3")).closed() == (1013, "full, try later")
    assert await gateway.figures("lfmesh_gateway_admitted_connections") == {"gateway-0": 42}


async def ready_speaks_for_both(gateway: Crew, normalizer: FakeNormalizer) -> None:
    answered: set[str] = set()
    for _ in range(100):
        _, body = await gateway.get("/health")
        answered.add(json.loads(body)["instance"])
    assert answered == set(WORKERS)
    normalizer.open(TRADES)  # which nobody follows
    async with asyncio.timeout(20):
        for number in itertools.count(1):
            normalizer.publish(TRADES, [number])
            if await gateway.get("/ready") == (200, '{"ready":true,"reasons":[]}'):
                break
    os.kill(gateway.pids[WORKERS[1]], signal.SIGSTOP)
    asked = [asyncio.create_task(gateway.get("/ready")) for _ in range(16)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    os.kill(gateway.pids[WORKERS[1]], signal.SIGCONT)
    status, body = done.pop().result()
    assert (status, json.loads(body)["reasons"]) == (503, ["gateway-0.2: no answer within 1 s"])
    await asyncio.wait(asked)


async def one_dies_and_its_clients_resume(
    stack: AsyncExitStack, gateway: Crew, normalizer: FakeNormalizer, clients: list[Client]
) -> list[Client]:
    before = await gateway.figures("lfmesh_gateway_clients")
    totals = await gateway.figures("lfmesh_gateway_connections_total")
    victim = gateway.pids[WORKERS[0]]
    os.kill(victim, signal.SIGKILL)
    told = await gateway.hears("worker died; it is started again")
    assert (told["worker"], told["why"]) == (WORKERS[0], f"killed by SIGKILL (pid {victim})")
    normalizer.publish(TICKER, [5, 6, 7])
    followed = [await client_at_7(stack, gateway, client) for client in clients]
    returned = sum(now is not then for now, then in zip(followed, clients, strict=True))
    assert 0 <= before[WORKERS[0]] - returned <= 2, "and those of the other address"
    await gateway.hears("started", WORKERS[0])
    assert gateway.pids[WORKERS[0]] != victim
    again = await gateway.figures("lfmesh_gateway_connections_total")
    assert again[WORKERS[0]] < totals[WORKERS[0]], "a process's totals begin with it"
    assert again[WORKERS[1]] >= totals[WORKERS[1]]
    restarts = await gateway.figures("lfmesh_gateway_worker_restarts_total")
    assert restarts == {WORKERS[0]: 1.0, WORKERS[1]: 0.0}
    admitted = await gateway.figures("lfmesh_gateway_admitted_connections")
    assert 40 <= admitted["gateway-0"] <= 42, "those of the dead worker count no longer"
    return followed


async def client_at_7(stack: AsyncExitStack, gateway: Crew, client: Client) -> Client:
    """The client once it has 5, 6 and 7; another one, that goes on where it was, if its connection has broken."""
    epoch = next(message for message in client.messages if message["op"] == "incr")["data"]["epoch"]
    try:
        await client.until(at(7))
    except ConnectionClosed:
        client = await enter(stack, gateway)
        await client.subscribe(TICKER, from_seq={"BTC-USD": {"ticker": {"epoch": epoch, "seq": 4}}})
        await client.until(at(7))
        assert next(place(message) for message in client.messages if "data" in message) == ("incr", epoch, 5)
    assert [place(message) for message in client.messages if "data" in message][-3:] == [
        ("incr", epoch, seq) for seq in (5, 6, 7)
    ]
    return client


async def sigterm_drains_both(gateway: Crew, clients: list[Client]) -> None:
    assert min((await gateway.figures("lfmesh_gateway_clients")).values()) > 0
    gateway.process.send_signal(signal.SIGTERM)
    for client in clients:
        assert await client.closed() == (1001, "draining")
    assert await gateway.process.wait() == 0
    assert not any(alive(pid) for pid in gateway.pids.values()), "none is left behind"


def test_a_second_sigterm_ends_all_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with crew(tmp_path, drain_s=200.0) as gateway, AsyncExitStack() as stack:
            client = await admitted(stack, gateway)
            gateway.process.send_signal(signal.SIGTERM)
            assert (await client.until(lambda message: message["op"] != "heartbeat"))["op"] == "goaway"
            await eventually(lambda: not listens(gateway.url))  # it takes the other one a moment, too
            gateway.process.send_signal(signal.SIGTERM)
            assert await gateway.process.wait() == 128 + signal.SIGTERM
            await eventually(lambda: not any(alive(pid) for pid in gateway.pids.values()))

    run(scenario(), 60)


def listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((str(parts.hostname), parts.port or 0), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_workers_end_in_order_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with crew(tmp_path) as gateway, AsyncExitStack() as stack:
            clients = [await admitted(stack, gateway) for _ in range(8)]
            gateway.process.kill()
            for client in clients:
                assert await client.closed() == (1001, "draining")
            await eventually(lambda: not any(alive(pid) for pid in gateway.pids.values()))

    run(scenario(), 60)


def test_a_port_in_use_and_a_worker_that_cannot_start_are_one_line_and_code_1(tmp_path: Path) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with crew(tmp_path, port=port, starts=False) as gateway:
                assert f"http://127.0.0.1:{port} is in use" in (await gateway.hears("cannot start"))["error"]
                assert await gateway.process.wait() == 1
                assert len(gateway.said) == 1
            async with crew(tmp_path, bind_telemetry=f"tcp://127.0.0.1:{port}", starts=False) as gateway:
                assert str(port) in (await gateway.hears("cannot start", WORKERS[0]))["error"]
                assert (await gateway.hears("stopping"))["reason"] == "gateway-0.1 cannot be started"
                assert await gateway.process.wait() == 1

    run(scenario(), 60)
