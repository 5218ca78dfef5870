"""A gateway between real sockets: model normalizers and snapshotters on one side, WebSocket clients on the other."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from lfmesh.config import Config
from lfmesh.core import encode
from lfmesh.core.hub_streams import Stream
from lfmesh.core.sharding import shard_of
from lfmesh.messages import (
    Reply,
    RetransmitRequest,
    ServiceRecord,
    SnapshotReply,
    SnapshotRequest,
    Unavailable,
    decode_request,
)
from lfmesh.messages import encode as encode_message
from lfmesh.models import parse_message, to_json
from lfmesh.services.gateway import GatewayService
from lfmesh.transport import Responder, Server, Transport
from lfmesh.types import NO_INPUT, Channel, Position, Role, StreamKey
from tests.aio import eventually
from tests.core.model_publisher import ModelStream
from tests.services.snapshotter.world import FakeNormalizer, Supervisor, supervised

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
Json = dict[str, Any]
TICKER = StreamKey("BTC-USD", Channel.TICKER)
TRADES = StreamKey("BTC-USD", Channel.TRADES)
BOOK = StreamKey("BTC-USD", Channel.BOOK)


def configured(shards: int = 1, products: tuple[str, ...] = PRODUCTS, **gateway: object) -> Config:
    return Config().override(
        {
            "mesh": {"products": products, "shards": shards},
            "gateway": {"port": 0, "heartbeat_interval_s": 30.0, "drain_s": 0.2, **gateway},
        }
    )


class FakeSnapshotter:
    """Answers from a normalizer's model, or from `frozen` states; `held` keeps requests until `release`.

    `archive`: what comes of requests for what is archived.
    """

    def __init__(self, transport: Transport, normalizer: FakeNormalizer, shard: int = 0, name: str = "") -> None:
        self.normalizer = normalizer
        self.asked: list[StreamKey] = []
        self.archived: list[RetransmitRequest | SnapshotRequest] = []
        self.archive: Literal["answers", "knows nothing", "is busy", "takes its time"] = "knows nothing"
        self.frozen: dict[StreamKey, ModelStream] = {}
        self.held = False
        self.deaf = False
        self.part_bytes = encode.PART_BYTES
        self._waiting: list[tuple[SnapshotRequest, Responder]] = []
        self._slow: list[tuple[RetransmitRequest | SnapshotRequest, Responder]] = []
        self.server = Server(transport, "tcp://127.0.0.1:0", self._on_request)
        self.record = ServiceRecord(
            Role.SNAPSHOTTER,
            f"snapshotter-{shard}{name}",
            1,
            {"requests": self.server.endpoint},
            "0",
            1,
            "localhost",
            shard,
        )

    def freeze(self, key: StreamKey) -> None:
        """Stay with what is now, whatever is published later."""
        self.frozen[key] = self.normalizer.model.streams[key].copy()

    def release(self) -> None:
        self.held = False
        waiting, self._waiting = self._waiting, []
        for request, responder in waiting:
            self._reply(request, responder)

    def _on_request(self, payload: bytes, responder: Responder) -> None:
        request = decode_request(payload)
        if isinstance(request, RetransmitRequest) or (isinstance(request, SnapshotRequest) and request.at):
            self._on_archive(request, responder)
            return
        assert isinstance(request, SnapshotRequest)
        self.asked.append(StreamKey(request.product, request.channel))
        if self.held:
            self._waiting.append((request, responder))
        elif not self.deaf:
            self._reply(request, responder)

    def answer_archived(self) -> None:
        """What has been waiting is answered, and what comes from now on."""
        self.archive = "answers"
        slow, self._slow = self._slow, []
        for request, responder in slow:
            self._on_archive(request, responder)

    def _on_archive(self, request: RetransmitRequest | SnapshotRequest, responder: Responder) -> None:
        self.archived.append(request)
        match (self.archive, request):
            case ("takes its time", _):
                self._slow.append((request, responder))
            case ("is busy", _):
                responder.reply(encode_message(Unavailable("busy", later=True)))
            case ("answers", SnapshotRequest()):
                self._reply(request, responder)
            case ("answers", RetransmitRequest()) if found := self.normalizer.model.archived_piece(request):
                frames, more = found
                responder.reply(encode_message(Reply(more=more)), frames)
            case _:
                responder.reply(encode_message(Unavailable("nothing is known of that")))

    def _reply(self, request: SnapshotRequest, responder: Responder) -> None:
        key = StreamKey(request.product, request.channel)
        stream = self.frozen.get(key) or self.normalizer.model.streams.get(key)
        if stream is None:
            responder.reply(encode_message(Unavailable("no data yet")))
            return
        ts = request.at or time.time_ns()
        header = SnapshotReply(*key, self.normalizer.model.term, *stream.position, ts, NO_INPUT)
        states = [stream.state(key.channel)]
        if key.channel is Channel.BOOK:
            states = encode.book_state_parts(*stream.sides(), part_bytes=self.part_bytes)
        responder.reply(encode_message(header), [state.encode() for state in states])


@dataclass
class World:
    """A running gateway with its neighbours, one of each a shard."""

    config: Config
    supervisor: Supervisor
    transport: Transport
    gateway: GatewayService
    normalizers: list[FakeNormalizer]
    snapshotters: list[FakeSnapshotter]
    clients: list["Client"] = field(default_factory=list)

    @property
    def normalizer(self) -> FakeNormalizer:
        return self.normalizers[0]

    @property
    def snapshotter(self) -> FakeSnapshotter:
        return self.snapshotters[0]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.gateway.http_url().removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def ws_url(self) -> str:
        return self.gateway.http_url().replace("http", "ws", 1) + "/ws"

    def peers(self) -> list[ServiceRecord]:
        return [*(one.record for one in self.normalizers), *(one.record for one in self.snapshotters)]

    def of(self, key: StreamKey) -> FakeNormalizer:
        return self.normalizers[shard_of(key.product, self.config.mesh.shards)]

    async def attached(self) -> None:
        """The gateway hears every shard."""
        await eventually(lambda: self.gateway.statistics().shards_attached == self.config.mesh.shards)

    async def caught_up(self, *keys: StreamKey) -> None:
        """The gateway has passed on all that was published on these streams."""
        for key in keys:
            position = self.of(key).model.streams[key].position
            stream = self.gateway._hub.stream(key)
            await eventually(partial(_stands_at, stream, position))

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        async with connect(self.ws_url, compression=None, ping_interval=None, max_size=None) as connection:
            yield Client(connection)


class Client:
    """A WebSocket client that checks every message against the public models, and back to the same bytes."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: list[Json] = []
        self.texts: list[str] = []
        self.checks = True

    async def send(self, **request: object) -> None:
        await self.connection.send(json.dumps(request))

    async def raw(self, text: str | bytes) -> None:
        await self.connection.send(text)

    async def next(self, timeout: float = 10.0) -> Json:
        async with asyncio.timeout(timeout):
            text = await self.connection.recv()
        assert isinstance(text, str)
        if self.checks:
            assert to_json(parse_message(text)).decode() == text
        message: Json = json.loads(text)
        self.messages.append(message)
        self.texts.append(text)
        return message

    async def take(self, count: int) -> list[Json]:
        return [await self.next() for _ in range(count)]

    async def until(self, wanted: Callable[[Json], object], timeout: float = 10.0) -> Json:
        """The next message for which `wanted` holds; the ones before it are in `messages`."""
        async with asyncio.timeout(timeout):
            while True:
                message = await self.next(timeout)
                if wanted(message):
                    return message

    async def subscribe(self, *keys: StreamKey, **more: object) -> None:
        products, channels = list(dict.fromkeys(k.product for k in keys)), list(dict.fromkeys(k.channel for k in keys))
        await self.send(op="subscribe", products=products, channels=channels, **more)

    async def rest(self) -> list[Json]:
        """What comes until a ping of ours is answered: everything that the gateway has for us now."""
        start = len(self.messages)
        await self.send(op="ping", t=start)
        await self.until(lambda message: message["op"] == "pong" and message["t"] == start)
        return self.messages[start:-1]

    async def closed(self, timeout: float = 10.0) -> tuple[int | None, str | None]:
        """Read until the connection is closed; code and reason."""
        async with asyncio.timeout(timeout):
            while True:
                try:
                    await self.connection.recv()
                except ConnectionClosed:
                    return self.connection.close_code, self.connection.close_reason


def _stands_at(stream: Stream, position: Position) -> bool:
    return stream.position == position


def place(message: Json) -> tuple[str, int, int]:
    """What a message is, and the position of an increment or snapshot."""
    return message["op"], message["data"]["epoch"], message["data"]["seq"]


@asynccontextmanager
async def world(
    config: Config | None = None, *, snapshotters: bool = True, beacons: bool = True, pair: bool = False
) -> AsyncIterator[World]:
    config = config or configured()
    async with supervised() as supervisor:
        with Transport() as transport:
            shards = range(config.mesh.shards)
            normalizers = [FakeNormalizer(transport, 1, None, f"normalizer-{shard}", shard) for shard in shards]
            for normalizer in normalizers:
                normalizer.model.clock = lambda: time.time_ns() // 1000  # epochs are below 2**53
            keepers = (
                [FakeSnapshotter(transport, normalizers[shard], shard) for shard in shards] if snapshotters else []
            )
            gateway = GatewayService(config, supervisor.context())
            await gateway.start()
            keepers += [FakeSnapshotter(transport, normalizers[0], 0, "b") for _ in range(pair)]
            here = World(config, supervisor, transport, gateway, normalizers, keepers)
            gateway.on_peers(here.peers())
            if beacons:
                for normalizer in normalizers:
                    normalizer.start_beacons()
                await here.attached()
            try:
                yield here
            finally:
                await gateway.stop()
                for normalizer in normalizers:
                    normalizer.stop_beacons()
