"""A gateway as a process finds its mesh: replicas that are gone, empty, or differ. Data flows on (DESIGN, registry)."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from websockets.asyncio.client import connect

from lfmesh.config import Config
from lfmesh.services.gateway import GatewayService
from lfmesh.services.registry import RegistryService
from lfmesh.services.runtime import Running, running
from lfmesh.transport import Transport
from lfmesh.types import Role
from tests.aio import eventually, run
from tests.services.gateway.kit import TICKER, TRADES, Client, FakeSnapshotter, configured, place
from tests.services.gateway.test_resume import at
from tests.services.registry.mesh import Watcher, replica, started, watcher_config, watching
from tests.services.snapshotter.world import FakeNormalizer
from tests.transport.proxy import proxied

TTL_S = 0.6


class Mesh:
    """A normalizer and a snapshotter that announce themselves, and as many gateways as a test starts."""

    def __init__(self, folder: Path, names: tuple[str, ...], transport: Transport) -> None:
        self._transport = transport
        self.normalizer = FakeNormalizer(transport, 1, None, "normalizer-0", 0)
        self.normalizer.model.clock = lambda: time.time_ns() // 1000
        self.snapshotter = FakeSnapshotter(transport, self.normalizer)
        self._registry = watcher_config(folder, *names, ttl_s=TTL_S).registry
        self._announcers = [Watcher(self._registry) for _ in range(2)]
        for announcer, record in zip(self._announcers, (self.normalizer.record, self.snapshotter.record), strict=True):
            announcer.discovery.start()
            announcer.discovery.announce(record)
        for key in (TICKER, TRADES):
            self.normalizer.open(key)
        self.normalizer.start_beacons()

    def config(self, instance: str, names: tuple[str, ...] = (), folder: Path | None = None) -> Config:
        registry = self._registry if folder is None else watcher_config(folder, *names, ttl_s=TTL_S).registry
        changed = {"instance": instance, "drain_s": 0.0}
        return configured().override({"gateway": changed, "registry": registry.model_dump(), "log": {"level": "error"}})

    @asynccontextmanager
    async def gateway(self, instance: str = "gateway-0") -> AsyncIterator[Running]:
        async with running(GatewayService, self.config(instance), Role.GATEWAY) as life:
            yield life

    def move_normalizer(self) -> None:
        """It ends and starts anew, at other addresses and in new epochs."""
        known = self.normalizer.model.streams
        self.normalizer.close()
        moved = FakeNormalizer(self._transport, 2, known, "normalizer-0", 0, incarnation=2)
        moved.model.clock = lambda: time.time_ns() // 1000
        self.normalizer = self.snapshotter.normalizer = moved
        self._announcers[0].discovery.announce(moved.record)
        for key in (TICKER, TRADES):
            moved.open(key)
        moved.start_beacons()

    def tick(self) -> None:
        for key in (TICKER, TRADES):
            self.normalizer.publish(key, [1])

    def close(self) -> None:
        self.normalizer.stop_beacons()
        for announcer in self._announcers:
            announcer.close()


@asynccontextmanager
async def meshed(folder: Path, *names: str) -> AsyncIterator[Mesh]:
    with Transport() as transport:
        mesh = Mesh(folder, names, transport)
        try:
            yield mesh
        finally:
            mesh.close()


async def ready(mesh: Mesh, life: Running) -> None:
    """It serves data: what is published now gets through."""

    def flows() -> bool:
        mesh.tick()
        return not life.readiness()

    await eventually(flows, interval=0.05)


@asynccontextmanager
async def client_of(life: Running) -> AsyncIterator[Client]:
    assert life.record is not None
    url = life.record.http.replace("http", "ws", 1) + "/ws"
    async with connect(url, compression=None, ping_interval=None) as connection:
        yield Client(connection)


async def gets(mesh: Mesh, client: Client, count: int = 3) -> None:
    """The client gets what is published from now on, in order, and has got all before it."""
    start = len(client.messages)
    for number in range(count):
        mesh.normalizer.publish(TICKER, [number])
    newest = mesh.normalizer.model.streams[TICKER].position
    await client.until(lambda m: m["op"] == "incr" and place(m)[1:] == newest)
    data = [m for m in client.messages[start:] if m["op"] in ("incr", "snapshot")]
    assert [place(m) for m in data] == [
        ("incr", newest.epoch, newest.seq + 1 - back) for back in range(len(data), 0, -1)
    ]


async def follows(mesh: Mesh, life: Running, client: Client) -> None:
    await ready(mesh, life)
    await client.subscribe(TICKER)
    await client.until(lambda m: m["op"] == "snapshot")
    await client.rest()


def test_the_loss_of_all_replicas_stops_nothing_and_their_empty_return_neither(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            replicas = [await started(tmp_path, name, TTL_S) for name in ("a", "b")]
            mesh = await stack.enter_async_context(meshed(tmp_path, "a", "b"))
            life = await stack.enter_async_context(mesh.gateway())
            client = await stack.enter_async_context(client_of(life))
            await follows(mesh, life, client)
            await replicas[0].stop()
            await gets(mesh, client)
            await replicas[1].stop()
            await gets(mesh, client)
            discovery = life._discovery
            assert discovery is not None
            await eventually(lambda: discovery.replicas()[0] == 0)
            await gets(mesh, client)
            assert life.readiness() == []
            # Both come back, empty: everybody announces itself anew, and nobody is left meanwhile.
            for name in ("a", "b"):
                await stack.enter_async_context(replica(tmp_path, name, TTL_S))
            await eventually(lambda: discovery.replicas()[0] == 2)
            await gets(mesh, client)
            await eventually(lambda: len([peer for peer in life.peers if peer.role is Role.NORMALIZER]) == 1)
            await gets(mesh, client)
            assert life.readiness() == []

    run(scenario())


def test_a_gateway_joins_while_one_replica_is_dead_and_the_other_one_has_started_empty(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            replicas = [await started(tmp_path, name, TTL_S) for name in ("a", "b")]
            mesh = await stack.enter_async_context(meshed(tmp_path, "a", "b"))
            first = await stack.enter_async_context(mesh.gateway())
            client = await stack.enter_async_context(client_of(first))
            await follows(mesh, first, client)
            for one in replicas:
                await one.stop()
            await stack.enter_async_context(replica(tmp_path, "b", TTL_S))
            second = await stack.enter_async_context(mesh.gateway("gateway-1"))
            other = await stack.enter_async_context(client_of(second))
            position = mesh.normalizer.model.streams[TRADES].position
            await ready(mesh, second)
            await other.subscribe(TRADES, from_seq=at(TRADES, *position))
            resumed = await other.until(lambda m: m["op"] in ("incr", "snapshot"))
            assert place(resumed) == ("incr", position.epoch, position.seq + 1)
            await client.rest()
            await gets(mesh, client)
            assert first.readiness() == []

    run(scenario())


def test_a_gateway_that_starts_before_any_replica_is_there_serves_when_one_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(meshed(tmp_path, "a", "b"))
            life = await stack.enter_async_context(mesh.gateway())
            assert life.readiness() == ["no normalizer of shard 0 is known"]
            client = await stack.enter_async_context(client_of(life))
            await stack.enter_async_context(replica(tmp_path, "b", TTL_S))
            await follows(mesh, life, client)
            await gets(mesh, client)

    run(scenario())


def test_a_normalizer_that_only_one_replica_knows_is_followed_and_kept_without_it(tmp_path: Path) -> None:
    """The replicas differ: the normalizer reaches only one of them, and that one dies."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            only = await started(tmp_path, "a", TTL_S)
            await stack.enter_async_context(replica(tmp_path, "b", TTL_S))
            mesh = await stack.enter_async_context(meshed(tmp_path, "a"))
            config = mesh.config("gateway-0", ("a", "b"), tmp_path)
            life = await stack.enter_async_context(running(GatewayService, config, Role.GATEWAY))
            client = await stack.enter_async_context(client_of(life))
            await follows(mesh, life, client)
            await only.stop()
            # The replica that is left is warm and does not know it: the registry's view is without it …
            await eventually(lambda: not any(peer.role is Role.NORMALIZER for peer in life.peers))
            # … but its socket talks.
            await gets(mesh, client)
            assert life.readiness() == []
            # One that stands by has nothing to say: it is kept for a while, and heard when it takes over.
            mesh.normalizer.stop_beacons()
            await eventually(lambda: life.readiness() != [])
            mesh.normalizer.start_beacons()
            await ready(mesh, life)
            await client.rest()
            await gets(mesh, client)

    run(scenario())


def test_a_registry_behind_a_link_that_swallows_everything_is_followed_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            changed = {"registry": {"bind_requests": "tcp://127.0.0.1:0", "bind_changes": "tcp://127.0.0.1:0"}}
            config = watcher_config(tmp_path, "a", ttl_s=TTL_S).override(changed)
            registry = await stack.enter_async_context(running(RegistryService, config, Role.REGISTRY))
            assert registry.record is not None
            proxy = await stack.enter_async_context(proxied(registry.record.endpoints["requests"]))
            watcher = Watcher(config.registry.model_copy(update={"endpoints": (proxy.endpoint,)}))
            stack.callback(watcher.close)
            watcher.discovery.start()
            await eventually(lambda: watcher.discovery.replicas() == (1, 1))
            proxy.swallow()
            await eventually(lambda: proxy.ended >= 2)
            proxy.heal()
            other = Watcher(config.registry.model_copy(update={"endpoints": (registry.record.endpoints["requests"],)}))
            stack.callback(other.close)
            other.discovery.start()
            with Transport() as transport:
                normalizer = FakeNormalizer(transport, 1)
                other.discovery.announce(normalizer.record)
                await eventually(lambda: watcher.names() == [("normalizer-0", 1)])

    run(scenario())


def test_while_it_drains_a_gateway_still_follows_the_mesh_and_says_what_it_does(tmp_path: Path) -> None:
    """It has left the registry, and serves those who are not gone yet: a normalizer that moves is followed."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(replica(tmp_path, "a", TTL_S))
            mesh = await stack.enter_async_context(meshed(tmp_path, "a"))
            watcher = await stack.enter_async_context(watching(tmp_path, "a", ttl_s=TTL_S))
            config = mesh.config("gateway-0").override({"gateway": {"drain_s": 60.0}})
            life = await stack.enter_async_context(running(GatewayService, config, Role.GATEWAY))
            client = await stack.enter_async_context(client_of(life))
            await follows(mesh, life, client)
            await eventually(lambda: any(name == "gateway-0" for name, _ in watcher.names()))
            stopping = asyncio.ensure_future(life.stop())
            await client.until(lambda m: m["op"] == "goaway")
            await eventually(lambda: not any(name == "gateway-0" for name, _ in watcher.names()))
            telemetry = life._measure()
            assert "stopping" in telemetry.reasons
            assert telemetry.statistics["draining"] is True
            assert telemetry.statistics["goaways_total"] == 1
            mesh.move_normalizer()
            # Its new epoch comes: the client is served to the end.
            await client.until(lambda m: m["op"] == "snapshot" and m["data"]["reason"] == "epoch")
            await gets(mesh, client)
            await client.connection.close()
            await stopping

    run(scenario())
