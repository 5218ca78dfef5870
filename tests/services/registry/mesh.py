"""Registry replicas and watchers for tests. Addresses are files, to which a replica can come back."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import structlog
from structlog.testing import LogCapture

from lfmesh.config import Config, RegistrySection
from lfmesh.messages import ServiceRecord
from lfmesh.observe.log import logger
from lfmesh.services.discovery import Discovery
from lfmesh.services.registry import RegistryService
from lfmesh.services.runtime import Running, running
from lfmesh.transport import Transport
from lfmesh.types import Role

TTL_S = 0.6


def replica_config(folder: Path, name: str, ttl_s: float = TTL_S) -> Config:
    return Config().override(
        {
            "registry": {
                "instance": f"registry-{name}",
                "bind_requests": f"ipc://{folder}/{name}.r",
                "bind_changes": f"ipc://{folder}/{name}.c",
                "lease_ttl_s": ttl_s,
                "announce_interval_s": ttl_s / 4,
            },
            "log": {"level": "error"},
        }
    )


def watcher_config(folder: Path, *names: str, ttl_s: float = TTL_S) -> Config:
    endpoints = tuple(f"ipc://{folder}/{name}.r" for name in names)
    return replica_config(folder, "-", ttl_s).override({"registry": {"endpoints": endpoints}})


def replica(folder: Path, name: str, ttl_s: float = TTL_S) -> AbstractAsyncContextManager[Running]:
    return running(RegistryService, replica_config(folder, name, ttl_s), Role.REGISTRY)


async def started(folder: Path, name: str, ttl_s: float = TTL_S) -> Running:
    """A replica that the test ends by itself."""
    config = replica_config(folder, name, ttl_s)
    life = Running(RegistryService, config, Role.REGISTRY, None, logger(config.log))
    await life.start()
    return life


def record(instance: str, incarnation: int = 1, pid: int = 1) -> ServiceRecord:
    return ServiceRecord(
        role=Role.GATEWAY,
        instance=instance,
        incarnation=incarnation,
        endpoints={"telemetry": "tcp://127.0.0.1:7500"},
        version="1",
        pid=pid,
        host="h",
    )


class Watcher:
    """A discovery with everything that it said, in order."""

    def __init__(self, section: RegistrySection) -> None:
        self.views: list[Sequence[ServiceRecord]] = []
        self.then: Callable[[], None] = lambda: None
        self.log = LogCapture()
        self.transport = Transport()
        self.discovery = Discovery(
            section,
            self.transport,
            log=structlog.wrap_logger(
                None,
                processors=[self.log],
                wrapper_class=structlog.make_filtering_bound_logger(0),
                cache_logger_on_first_use=False,
            ),
            on_peers=self.on_peers,
        )

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        self.views.append(peers)
        self.then()

    def close(self) -> None:
        self.discovery.close()
        self.transport.close()

    def names(self) -> list[tuple[str, int]]:
        """(instance, incarnation) of everybody but the replicas."""
        return [(peer.instance, peer.incarnation) for peer in self.discovery.peers if peer.role is not Role.REGISTRY]

    def replicas(self) -> list[str]:
        return [peer.instance for peer in self.discovery.peers if peer.role is Role.REGISTRY]

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.log.entries]


@asynccontextmanager
async def watching(folder: Path, *names: str, ttl_s: float = TTL_S) -> AsyncIterator[Watcher]:
    watcher = Watcher(watcher_config(folder, *names, ttl_s=ttl_s).registry)
    watcher.discovery.start()
    try:
        yield watcher
    finally:
        watcher.close()
