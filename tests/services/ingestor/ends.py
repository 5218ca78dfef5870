"""What an ingestor stands between: a small venue that does as it is told, and a normalizer's sockets."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from structlog.testing import LogCapture
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from lfmesh.config import Config
from lfmesh.core.codec import RawHeader, RawKind, RawRecord, RecordKind, unpack_raw
from lfmesh.messages import (
    BackfillPage,
    ReplayRequest,
    Reply,
    ReplyHeader,
    Request,
    ServiceRecord,
    decode_reply,
    encode,
)
from lfmesh.ports import Context
from lfmesh.services.ingestor import IngestorService
from lfmesh.transport import Puller, Requester, Transport
from lfmesh.types import Role
from tests.aio import eventually

_UPDATE = re.compile(rb'.*"product_id": "[^"]+", "changes": \[\["buy", "(\d+)", .*').fullmatch
ECHOED = {"level2_batch": "level2_50"}


class Venue:
    """Serves on a port of the system's choice. `requests` are the clients' messages, in order of arrival."""

    def __init__(self, port: int = 0) -> None:
        self.refused: set[str] = set()
        self.left_out: set[tuple[str, str]] = set()
        self.mute = False
        self.snapshots = True
        self.requests: list[dict[str, Any]] = []
        self.connections: list[ServerConnection] = []
        self.connected_total = 0
        self._port = port
        self._server: Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> "Venue":
        self._server = await serve(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        for connection in self.connections:
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        self.connected_total += 1
        held: dict[tuple[str, str], None] = {}
        try:
            async for message in connection:
                request = json.loads(message)
                self.requests.append(request)
                if not self.mute:
                    await self._answer(connection, request, held)
        except ConnectionClosed:
            pass
        finally:
            self.connections.remove(connection)

    async def _answer(
        self, connection: ServerConnection, request: dict[str, Any], held: dict[tuple[str, str], None]
    ) -> None:
        products = request["product_ids"]
        subscribing = request["type"] == "subscribe"
        bad = sorted(self.refused.intersection(products))
        if bad and subscribing:
            reason = f"{bad[0]} is not a valid product"
            await connection.send(json.dumps({"type": "error", "message": "Failed to subscribe", "reason": reason}))
            return
        came = []
        for channel in request["channels"]:
            for product in products:
                stream = (channel, product)
                if not subscribing:
                    held.pop(stream, None)
                elif stream not in held and stream not in self.left_out:
                    held[stream] = None
                    came.append(stream)
        channels: dict[str, list[str]] = {}
        for channel, product in held:
            channels.setdefault(ECHOED.get(channel, channel), []).append(product)
        listed = [{"name": name, "product_ids": ids, "account_ids": None} for name, ids in channels.items()]
        await connection.send(json.dumps({"type": "subscriptions", "channels": listed}))
        for channel, product in came:
            if channel == "level2_batch" and self.snapshots:
                await connection.send(snapshot(product))

    async def say(self, *frames: str) -> None:
        """Send to every connection."""
        for connection in tuple(self.connections):
            for frame in frames:
                await connection.send(frame)

    def cut(self) -> None:
        """Break every connection."""
        for connection in tuple(self.connections):
            connection.transport.abort()

    def subscribes(self) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["type"] == "subscribe"]


def snapshot(product: str) -> str:
    return json.dumps({"type": "snapshot", "product_id": product, "bids": [["1", "1"]], "asks": [["2", "1"]]})


def update(product: str, number: int) -> str:
    """A small frame that tells its number."""
    changes = [["buy", str(number + 1), "1"]]
    time = "2021-04-17T16:43:37.075687Z"
    return json.dumps({"type": "l2update", "product_id": product, "changes": changes, "time": time})


class Normalizer:
    """The sockets of one normalizer: takes what is pushed, checks the numbers, asks for replay."""

    def __init__(
        self, transport: Transport, shard: int, instance: str = "", endpoint: str = "tcp://127.0.0.1:0"
    ) -> None:
        self.shard = shard
        self.instance = instance or f"normalizer-{shard}"
        self.batches: list[tuple[RawHeader, list[RawRecord]]] = []
        self.beacons: list[RawHeader] = []
        self.puller = Puller(transport, endpoint, self._take, hwm=1000)

    def _take(self, frames: list[bytes]) -> None:
        for frame in frames:
            header, records = unpack_raw(frame)
            assert header.shard == self.shard
            if header.kind == RawKind.BATCH:
                assert records
                self.batches.append((header, records))
            else:
                assert header.kind == RawKind.BEACON
                assert not records
                self.beacons.append(header)

    def record(self, incarnation: int = 1) -> ServiceRecord:
        return service_record(self.instance, self.shard, self.puller.endpoint, incarnation)

    def numbered(self, incarnation: int | None = None) -> dict[int, RawRecord]:
        """Every record by its number."""
        found: dict[int, RawRecord] = {}
        for header, records in self.batches:
            if incarnation is None or header.incarnation == incarnation:
                for number, record in enumerate(records, header.first_number):
                    assert number not in found
                    found[number] = record
        return found

    def bodies(self, kind: RecordKind = RecordKind.FRAME) -> list[bytes]:
        return [record.body for _, records in self.batches for record in records if record.kind == kind]

    def links(self) -> list[tuple[str, list[str], str]]:
        """(down or up, products, reason), in order."""
        found = []
        for _, records in self.batches:
            for record in records:
                if record.kind in (RecordKind.LINK_DOWN, RecordKind.LINK_UP):
                    change = json.loads(record.body)
                    word = "down" if record.kind == RecordKind.LINK_DOWN else "up"
                    found.append((word, change["products"], change["reason"]))
        return found

    def pages(self) -> list[BackfillPage]:
        """Every page of trades fetched over REST, in order."""
        return [msgspec.json.decode(body, type=BackfillPage) for body in self.bodies(RecordKind.BACKFILL)]

    def updates(self) -> list[int]:
        """The numbers of all whole `update` frames, in order."""
        return [int(found[1]) - 1 for body in self.bodies() if (found := _UPDATE(body))]


def service_record(
    instance: str, shard: int | None, raw: str, incarnation: int = 1, role: Role = Role.NORMALIZER
) -> ServiceRecord:
    return ServiceRecord(
        role=role,
        instance=instance,
        incarnation=incarnation,
        endpoints={"raw": raw},
        version="test",
        pid=1,
        host="test",
        shard=shard,
    )


def config(url: str, products: Sequence[str], shards: int = 1, **sections: dict[str, Any]) -> Config:
    venue = {
        "ws_url": url,
        "rest_url": "http://127.0.0.1:1",
        "backoff_max_s": 0.2,
        "refused_max_s": 0.2,
        "channels": ("ticker", "level2_batch"),
        **sections.pop("venue", {}),
    }
    return Config().override({"mesh": {"products": tuple(products), "shards": shards}, "venue": venue, **sections})


class Running:
    """A started ingestor with its log and its own clock of tasks."""

    def __init__(self, service: IngestorService, log: LogCapture, tasks: list[asyncio.Task[None]]) -> None:
        self.service = service
        self.log = log
        self.tasks = tasks

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [dict(entry) for entry in self.log.entries if entry["event"] == event]

    async def ready(self) -> None:
        await eventually(lambda: not self.service.readiness())


def context(log: LogCapture, tasks: list[asyncio.Task[None]], incarnation: int = 1_000) -> Context:
    """What the runtime would give; the clock is the loop's."""
    loop = asyncio.get_running_loop()
    logger = structlog.wrap_logger(None, processors=[log], wrapper_class=structlog.make_filtering_bound_logger(0))
    return Context(
        incarnation=incarnation,
        clock=lambda: int(loop.time() * 1e9),
        log=logger,
        spawn=lambda coro: tasks.append(loop.create_task(coro)),
    )


@asynccontextmanager
async def ingestor(settings: Config) -> AsyncIterator[Running]:
    """A running ingestor; at the end it is stopped, and what failed in its tasks is raised."""
    tasks: list[asyncio.Task[None]] = []
    log = LogCapture()
    service = IngestorService(settings, context(log, tasks))
    await service.start()
    try:
        yield Running(service, log, tasks)
    finally:
        await service.stop()
        for task in tasks:
            await task


async def ask(requester: Requester, request: Request) -> tuple[ReplyHeader, list[bytes]]:
    header, *frames = await requester.request(encode(request), 5.0)
    return decode_reply(header), list(frames)


async def replayed(requester: Requester, shard: int, incarnation: int, first: int = 1) -> dict[int, RawRecord]:
    """All records that the ring gives from `first` on, by their numbers."""
    found: dict[int, RawRecord] = {}
    while True:
        header, frames = await ask(requester, ReplayRequest(shard, incarnation, first, 0))
        assert isinstance(header, Reply), header
        for frame in frames:
            raw, records = unpack_raw(frame)
            found.update(enumerate(records, raw.first_number))
        if not header.more:
            return found
        first = max(found) + 1


def contiguous(numbers: Iterable[int]) -> bool:
    listed = sorted(numbers)
    return listed == list(range(1, len(listed) + 1))
