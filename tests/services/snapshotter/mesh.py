"""A snapshotter with real sockets, a normalizer whose sockets are real too, and somebody who asks."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from lfmesh.config import Config
from lfmesh.messages import (
    ServiceRecord,
    SnapshotReply,
    SnapshotRequest,
    decode_reply,
    encode,
)
from lfmesh.ports import ObjectStore
from lfmesh.services.snapshotter import SnapshotterService
from lfmesh.transport import Requester, Transport
from lfmesh.types import CHANNELS, Channel, Position, Role, StreamKey
from tests.aio import eventually, run
from tests.services.snapshotter.world import FakeNormalizer, Supervisor, supervised

PRODUCTS = ("BTC-USD", "ETH-USD")
STREAMS = [StreamKey(product, channel) for product in PRODUCTS for channel in CHANNELS]
BOOK = StreamKey("BTC-USD", Channel.BOOK)
TICKER = StreamKey("BTC-USD", Channel.TICKER)


class Mesh:
    """A snapshotter, a normalizer, and somebody who asks."""

    def __init__(
        self,
        folder: Path,
        transport: Transport,
        supervisor: Supervisor,
        archive: Mapping[str, object],
        **section: float,
    ) -> None:
        self.folder = folder
        self.transport = transport
        self.supervisor = supervisor
        self.section = section
        self.archive = archive
        self.open_archive: Callable[[], ObjectStore] | None = None
        self.frozen: int | None = None
        self.ahead_ns = 0
        self.normalizer = FakeNormalizer(transport, term=3)
        self.service = self.new_service()
        self.asker: Requester | None = None

    def clock(self) -> int:
        """The service's clock, which a test may stop and set."""
        return time.time_ns() + self.ahead_ns if self.frozen is None else self.frozen

    def config(self, instance: str = "snapshotter-0") -> Config:
        return Config().override(
            {
                "mesh": {"products": PRODUCTS, "shards": 1, "data_dir": self.folder},
                "snapshotter": {
                    "instance": instance, "write_interval_ms": 20, "book_write_interval_s": 0.2, **self.section
                },
                "archive": {"flush_interval_s": 0.02, **self.archive},
            }
        )  # fmt: skip

    def new_service(self, instance: str = "snapshotter-0") -> SnapshotterService:
        context = self.supervisor.context(self.clock)
        return SnapshotterService(self.config(instance), context, 0, open_archive=self.open_archive)

    async def start(self, *, attach: bool = True) -> None:
        await self.service.start()
        self.asker = Requester(self.transport, self.service.endpoints()["requests"])
        if attach:
            await self.attach()

    async def attach(self) -> None:
        subscribed = self.normalizer.subscribed
        self.service.on_peers([self.normalizer.record])
        await eventually(lambda: self.normalizer.subscribed > subscribed)
        self.normalizer.stop_beacons()
        self.normalizer.start_beacons()

    async def crash(self) -> None:
        """As if the process was killed: nothing more is written, its files are free."""
        if self.asker is not None:
            self.asker.close()
        service = self.service
        for timer in service._timers.values():
            timer.cancel()
        service._subscriber.close()
        service._server.close()
        archiving = service._archiving
        assert archiving is not None
        await archiving.flush()
        archiving._closed = True
        if archiving._journaling is not None:
            archiving._journaling.end()
        await asyncio.gather(*self.supervisor.tasks)
        if archiving._local is not None:
            archiving._local.close()
        assert service._keeper is not None
        await service._keeper._close_store()
        assert service._transport is not None
        service._transport.close(0)

    async def start_again(self, *, attach: bool = True) -> None:
        """A new process, with what the one that crashed has left."""
        self.service = self.new_service()
        await self.start(attach=attach)

    def record_of(self, service: SnapshotterService) -> ServiceRecord:
        """As the registry lists it."""
        endpoints = service.endpoints()
        return ServiceRecord(
            Role.SNAPSHOTTER, service.instance, 1, endpoints, "0", 1, socket.gethostname(), service.shard
        )

    async def restart(self) -> None:
        await self.stop()
        self.service = self.new_service()
        await self.start(attach=False)

    async def stop(self) -> None:
        if self.asker is not None:
            self.asker.close()
        await self.service.stop()

    async def ask(self, request: msgspec.Struct) -> tuple[object, list[bytes]]:
        assert self.asker is not None
        header, *frames = await self.asker.request(encode(request), timeout_s=5)
        return decode_reply(header), list(frames)

    async def snapshot(self, key: StreamKey) -> tuple[Position, str] | None:
        """Position and whole state, parts put together."""
        reply, parts = await self.ask(SnapshotRequest(*key))
        if not isinstance(reply, SnapshotReply):
            return None
        return Position(reply.epoch, reply.seq), join(key.channel, parts)

    async def follows(self, key: StreamKey) -> None:
        """Wait until the service answers with what the normalizer holds."""
        stream = self.normalizer.model.streams[key]
        async with asyncio.timeout(10):
            while await self.snapshot(key) != (stream.position, stream.state(key.channel)):
                await asyncio.sleep(0.01)

    def open_all(self) -> None:
        for number, key in enumerate(STREAMS):
            self.normalizer.open(key)
            self.normalizer.publish(key, [number, number + 1])


def join(channel: Channel, parts: Sequence[bytes]) -> str:
    if channel is not Channel.BOOK or len(parts) == 1:
        return b"".join(parts).decode()
    sides: dict[str, list[str]] = {"bids": [], "asks": []}
    for part in parts:
        for name, levels in msgspec.json.decode(part, type=dict[str, list[msgspec.Raw]]).items():
            sides[name] += [bytes(level).decode() for level in levels]
    return f'{{"bids":[{",".join(sides["bids"])}],"asks":[{",".join(sides["asks"])}]}}'


@asynccontextmanager
async def mesh(folder: Path, archive: Mapping[str, object], **section: float) -> AsyncIterator[Mesh]:
    with Transport() as transport:
        async with supervised() as supervisor:
            made = Mesh(folder, transport, supervisor, archive, **section)
            try:
                yield made
            finally:
                await made.stop()
                made.normalizer.close()


def play(
    folder: Path,
    scenario: Callable[[Mesh], Coroutine[object, object, None]],
    archive: Mapping[str, object] | None = None,
    **section: float,
) -> None:
    async def body() -> None:
        async with mesh(folder, archive or {}, **section) as made:
            await scenario(made)

    run(body(), timeout=60)
