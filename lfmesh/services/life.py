"""One service's life, from its start to its end: what every role has alike.

started     service.start → ops port → announced to the registry → on_peers → telemetry
ended       not ready → leaves the registry, service.stop → its tasks → telemetry, ops port

A gateway that ends still serves its clients for a while: it goes on hearing of its peers, and being heard of.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from lfmesh import __version__
from lfmesh.config import Config, endpoint, is_loopback
from lfmesh.core.addresses import host_of, reachable
from lfmesh.errors import LfmeshError
from lfmesh.messages import ServiceRecord, Telemetry
from lfmesh.observe import process
from lfmesh.observe.http import HttpServer, health_routes, serve_http
from lfmesh.observe.metrics import MetricsText
from lfmesh.ports import Context, Figures, MayStandBy, ServesClients, ServesHttp, Service, Vitals
from lfmesh.services.discovery import Discovery, static_peers
from lfmesh.services.tasks import Tasks
from lfmesh.services.telemetry import TelemetryPublisher
from lfmesh.transport import Transport
from lfmesh.types import Role

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

Make = Callable[[Config, Context], Service]
"""Builds a service; for sharded roles `lambda config, context: NormalizerService(config, context, shard)`."""


def instance_name(config: Config, role: Role, shard: int | None = None) -> str:
    """The stable name of a role's process, from its section of the configuration."""
    return endpoint(getattr(config, role).instance, shard=shard)


class Running:
    """A service under way. `record` is what is announced, `peers` the merged view of the mesh."""

    def __init__(
        self,
        make: Make,
        config: Config,
        role: Role,
        shard: int | None,
        log: "FilteringBoundLogger",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.config = config
        self.role = role
        self.instance = instance_name(config, role, shard)
        self.shard = shard
        self.tasks = Tasks(log)
        self.record: ServiceRecord | None = None
        self._log = log
        self._clock = clock
        self._incarnation = time.time_ns() // 1000
        self._stopping = False
        self._drains = role is Role.GATEWAY
        self._measured: Telemetry | None = None
        self._static_peers = static_peers(config.registry)
        self.service = make(config, Context(self._incarnation, clock, log, self.tasks.spawn, self.vitals))
        self._lag = process.LoopLag()
        self._transport = Transport()
        self._telemetry: TelemetryPublisher | None = None
        self._ops: HttpServer | None = None
        self._discovery: Discovery | None = None
        self._release_callbacks = self.tasks.watch_callbacks()

    @property
    def peers(self) -> Sequence[ServiceRecord]:
        """The mesh as the service is told of it; to a registry replica that is itself alone."""
        if self._discovery is not None:
            return self._discovery.peers
        if self.role is Role.REGISTRY:
            return () if self.record is None else (self.record,)
        return self._static_peers

    def vitals(self) -> Vitals:
        """The process's figures."""
        return process.vitals(self._lag)

    def readiness(self) -> list[str]:
        """The service's, and that it ends."""
        return ["stopping"] if self._stopping else self.service.readiness()

    def render(self) -> bytes:
        """Text for /metrics; a service that ends has nothing to say any more."""
        if self._stopping:
            raise LfmeshError("the service is stopping")
        return self._metrics.render()

    async def start(self) -> None:
        """Start the service and make it known; LfmeshError if that is impossible."""
        section = self.config.registry
        discovery: Discovery | None = None
        if self.role is not Role.REGISTRY and not section.static_peers:
            discovery = Discovery(section, self._transport, log=self._log, on_peers=self._on_peers)
            self._discovery = discovery
            discovery.start()  # the first view comes while the service starts
        bind = endpoint(getattr(self.config, self.role).bind_telemetry, shard=self.shard, instance=self.instance)
        self._telemetry = TelemetryPublisher(self._transport, bind, self._measure)
        await self.service.start()
        if not isinstance(self.service, ServesHttp):
            self._metrics = MetricsText(self.service, self.vitals)
            ops = self.config.ops
            self._ops = await serve_http(ops.host, ops.port, health_routes(self, self))
        self.record = self._current_record()
        self._warn_of_open_addresses()
        if discovery is not None:
            discovery.announce(self.record)
        self.service.on_peers(self.peers)
        self._telemetry.start()
        self._log.info("started", pid=os.getpid(), http=self.record.http, **self.record.endpoints)

    async def stop(self) -> None:
        """End in order: out of the registry, the service, its tasks, its sockets. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        try:
            leaving = None if self._discovery is None else asyncio.ensure_future(self._discovery.leave())
            try:
                await self.service.stop()
            finally:
                self._drains = False
                if leaving is not None:
                    await leaving
        finally:
            await self.tasks.close()
            if self._telemetry is not None:
                self._telemetry.close()
            if self._discovery is not None:
                self._discovery.close()
            if self._ops is not None:
                await self._ops.close()
            self._lag.close()
            self._transport.close()
            self._release_callbacks()

    def _on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        # Until the service has started, the view is kept for it; while it ends, it is not bothered.
        if self.record is not None and (self._drains or not self._stopping):
            self.service.on_peers(peers)

    def _bound(self) -> dict[str, str]:
        assert self._telemetry is not None
        return {**self.service.endpoints(), "telemetry": self._telemetry.endpoint}

    def _http(self) -> str:
        if isinstance(self.service, ServesHttp):
            return self.service.http_url()
        return self._ops.url if self._ops is not None else ""

    def _current_record(self) -> ServiceRecord:
        host = self.config.mesh.advertise_host or socket.gethostname()
        ingestor = self.config.ingestor if self.role is Role.INGESTOR else None
        return ServiceRecord(
            role=self.role,
            instance=self.instance,
            incarnation=self._incarnation,
            endpoints={name: reachable(address, host) for name, address in self._bound().items()},
            version=__version__,
            pid=os.getpid(),
            host=socket.gethostname(),
            shard=self.shard,
            line=ingestor.line if ingestor else None,
            http=reachable(self._http(), host),
            products=list(ingestor.products or self.config.mesh.products) if ingestor else [],
            active=self.service.active if isinstance(self.service, MayStandBy) else None,
        )

    def _measure(self) -> Telemetry:
        if self._stopping and not self._drains and self._measured is not None:
            return msgspec.structs.replace(self._measured, reasons=self.readiness(), ts=self._clock())
        self._measured = self._measured_now()
        return self._measured

    def _measured_now(self) -> Telemetry:
        started = self.record is not None
        if started and not self._stopping:
            self._announce_changes()
        figures = self.service.figures() if started else Figures()
        statistics = msgspec.to_builtins(self.service.statistics()) if started else {}
        vitals = self.vitals()
        return Telemetry(
            role=self.role,
            instance=self.instance,
            incarnation=self._incarnation,
            pid=os.getpid(),
            ts=self._clock(),
            reasons=self.readiness() if started else ["starting"],
            shard=self.shard,
            messages_in_total=figures.messages_in_total,
            messages_out_total=figures.messages_out_total,
            gaps_total=figures.gaps_total,
            queue_messages=figures.queue_messages,
            lag_ms=figures.lag_ms,
            clients=figures.clients,
            cpu_s=vitals.cpu_s or 0.0,
            rss_bytes=vitals.rss_bytes or 0,
            statistics={**statistics, "loop_lag_s": vitals.loop_lag_s},
            slowest=self.service.slowest() if started and isinstance(self.service, ServesClients) else [],
        )

    def _announce_changes(self) -> None:
        current = self._current_record()
        if current == self.record:
            return
        self.record = current
        if self._discovery is not None:
            self._discovery.announce(current)
        elif self.role is Role.REGISTRY:
            self.service.on_peers((current,))

    def _warn_of_open_addresses(self) -> None:
        addresses = {**self._bound(), "http": self._http()}
        beyond = [name for name, address in addresses.items() if (host := host_of(address)) and not is_loopback(host)]
        if beyond:
            self._log.warning("reachable from other machines, without authentication", sockets=beyond)
