"""One shard with several normalizers and a snapshotter, all real, an exchange's truth, and a consumer as a gateway is
one. Normalizers can be killed, and nobody need hear what they publish."""

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from structlog.testing import LogCapture

from lfmesh import messages
from lfmesh.config import Config
from lfmesh.core import topics
from lfmesh.core.codec import Flags, RawKind, pack_raw, unpack
from lfmesh.core.feed import Feed, Replaced, StreamFacts
from lfmesh.core.recovery import Accepted, Based, Opened, Wanted
from lfmesh.messages import Reply, RetransmitRequest, ServiceRecord, SnapshotReply, SnapshotRequest
from lfmesh.ports import Context
from lfmesh.services.links import Links
from lfmesh.services.normalizer import NormalizerService
from lfmesh.services.snapshotter import SnapshotterService
from lfmesh.transport import Pusher, Requester, Subscriber, Transport
from lfmesh.types import Channel, Position, Role, StreamKey
from tests.aio import eventually
from tests.services.normalizer.kit import Ingestor, heartbeat, logger, match, snapshot, ticker, update

PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")


class Exchange:
    """What the venue says, and what is true of it."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.trade_ids = dict.fromkeys(PRODUCTS, 1000)
        self.sequence = 0
        self.books: dict[str, tuple[dict[int, str], dict[int, str]]] = {
            product: ({100 + level: "1" for level in range(50)}, {200 + level: "1" for level in range(50)})
            for product in PRODUCTS
        }

    def opening(self) -> list[bytes]:
        """Each product's book and last trade."""
        frames = []
        for product, (bids, asks) in self.books.items():
            sides = [[(str(px), qty) for px, qty in side.items()] for side in (bids, asks)]
            frames += [snapshot(product, *sides), match(self.trade_ids[product], product, kind="last_match")]
        return frames

    def say(self, count: int) -> list[bytes]:
        """The next frames."""
        return [self._next() for _ in range(count)]

    def _next(self) -> bytes:
        product = self.random.choice(PRODUCTS)
        self.sequence += 1
        kind = self.random.random()
        if kind < 0.3:
            self.trade_ids[product] += 1
        trade_id = self.trade_ids[product]
        px = f"15{trade_id % 10}.50" if trade_id > 1000 else "100.10"
        if kind < 0.3:
            return match(trade_id, product, px=px)
        if kind < 0.4:
            return ticker(self.sequence, trade_id, product, px=px)
        if kind < 0.45:
            return heartbeat(self.sequence, trade_id, product)
        bids, asks = self.books[product]
        side, name = (bids, "buy") if self.random.random() < 0.5 else (asks, "sell")
        level = self.random.randrange(100, 150) if side is bids else self.random.randrange(200, 250)
        qty = f"{self.random.randrange(4)}.5" if self.random.random() < 0.7 else "0"
        if qty == "0":
            side.pop(level, None)
        else:
            side[level] = qty
        return update((name, str(level), qty), product=product)

    def book(self, product: str) -> dict[str, list[list[str]]]:
        """The whole book, best first, as texts."""
        bids, asks = self.books[product]
        return {
            "bids": [[str(px), bids[px]] for px in sorted(bids, reverse=True)],
            "asks": [[str(px), asks[px]] for px in sorted(asks)],
        }


class Feeder(Ingestor):
    """An ingestor that pushes to several normalizers, and sends what the exchange says."""

    def __init__(self, transport: Transport, **options: Any) -> None:  # noqa: ANN401 - an Ingestor's
        super().__init__(transport, **options)
        self.exchange = Exchange()
        self.pushers: dict[str, Pusher] = {}
        self.replay_frames = 5000

    async def feed(self, instance: str, endpoint: str) -> None:
        """Push to this one too, instead of to an earlier process of that name."""
        if instance in self.pushers:
            self.pushers.pop(instance).close()
        pusher = Pusher(self.transport, endpoint, hwm=10_000)
        beacon = pack_raw(self.header(RawKind.BEACON, len(self.records) + 1))
        await eventually(lambda: pusher.push(beacon))
        self.pushers[instance] = pusher
        if self._beating is None:
            self._beat()

    def say(self, count: int, *, turn: int = 20) -> None:
        """So many frames of the exchange, in batches."""
        for start in range(0, count, turn):
            frames = self.exchange.say(min(turn, count - start))
            self.push(*frames)

    def _send(self, raw: bytes) -> None:
        for pusher in self.pushers.values():
            pusher.push(raw)


class Consumer:
    """A gateway's view: every stream from the moment it joined; `breaks` are where it had to skip something."""

    def __init__(self, transport: Transport) -> None:
        self.feed = Feed(0, join="anywhere")
        self.said: dict[StreamKey, list[dict[str, Any]]] = defaultdict(list)
        self.raw: dict[tuple[StreamKey, int, int], bytes] = {}
        self.terms: list[int] = []
        self.breaks: list[object] = []
        self.dropped = 0
        self._subscriber = Subscriber(
            transport, [topics.market_data_prefix(0), topics.beacon(0)], self._on_frames, hwm=100_000
        )
        self.links = Links(transport, self._subscriber, (Role.NORMALIZER, Role.SNAPSHOTTER), (0,))
        self._prefix = topics.beacon(0) + b"\0"

    def _on_frames(self, frames: list[bytes]) -> None:
        now = time.time_ns()
        for frame in frames:
            if frame.startswith(self._prefix):
                found = self.feed.beacon(messages.decode_beacon(frame[len(self._prefix) :]), now)
            else:
                found = [self.feed.frame(unpack(frame), now)]
            for stream in found:
                self._apply(stream)
            if self.feed.term not in self.terms[-1:]:
                self.terms.append(self.feed.term)

    def tick(self) -> None:
        for stream in self.feed.tick(time.time_ns()):
            self._apply(stream)

    def _apply(self, stream: StreamFacts) -> None:
        key, facts = stream
        for fact in facts:
            match fact:
                case Accepted() | Opened():
                    for header, message in fact.items:
                        if not header.flags & Flags.STATUS:
                            body = json.loads(message, parse_int=str, parse_float=str)["data"]
                            self.said[key].append(body)
                            self.raw[key, int(body["epoch"]), int(body["seq"])] = message
                case Based() if self.said[key]:
                    self.breaks.append((key, fact))
                case Replaced():
                    self.breaks.append((key, fact))
                case Wanted():
                    self._ask(key, fact)
                case _:
                    pass

    def _ask(self, key: StreamKey, wanted: Wanted) -> None:
        if wanted.rung != "retransmit" or wanted.after is None:
            requester = self.links.snapshotter(0)
            request = messages.encode(SnapshotRequest(*key))
        else:
            requester = self.links.normalizer(0, self.feed.publisher)
            request = messages.encode(RetransmitRequest(*key, *wanted.after))
        if requester is not None:
            requester.ask(request, partial(self._answered, key, wanted, self.feed.term), 1.0)

    def _answered(self, key: StreamKey, wanted: Wanted, term: int, parts: Sequence[bytes] | None) -> None:
        if parts is None or term != self.feed.term:
            return
        now = time.time_ns()
        header = messages.decode_reply(parts[0])
        match header:
            case Reply():
                for frame in parts[1:]:
                    self._apply(self.feed.retransmitted(unpack(frame), now))
                self._apply(self.feed.answered(key, now, wanted))
            case SnapshotReply():
                self._apply(self.feed.based(key, Position(header.epoch, header.seq), header.term, now))
            case _:
                self._apply(self.feed.unavailable(key, now, wanted))

    # What it has seen -------------------------------------------------------------------------------------------

    def trade_ids(self, product: str) -> list[int]:
        return [int(body["fields"]["trade_id"]) for body in self.of(product, Channel.TRADES) if body["type"] == "trade"]

    def of(self, product: str, channel: Channel) -> list[dict[str, Any]]:
        return self.said[StreamKey(product, channel)]

    def epochs(self, product: str, channel: Channel) -> list[int]:
        seen: list[int] = []
        for body in self.of(product, channel):
            if not seen or seen[-1] != int(body["epoch"]):
                seen.append(int(body["epoch"]))
        return seen

    def all_epochs(self) -> dict[tuple[str, Channel], list[int]]:
        return {(product, channel): self.epochs(product, channel) for product in PRODUCTS for channel in Channel}

    def check_order(self) -> None:
        """Within an epoch each number once, in order; an epoch begins with its snapshot."""
        for key, bodies in self.said.items():
            at: tuple[int, int] | None = None
            for body in bodies:
                here = int(body["epoch"]), int(body["seq"])
                if body["type"] == "snapshot":
                    assert at is None or here > at or body.get("part"), (key, at, here)
                elif at is not None:
                    assert here == (at[0], at[1] + 1), (key, at, here)
                at = here

    def book(self, product: str) -> dict[str, list[list[str]]]:
        """What the messages make of the book."""
        sides: dict[str, dict[float, list[str]]] = {"bids": {}, "asks": {}}
        for body in self.of(product, Channel.BOOK):
            changes = body["state"] if body["type"] == "snapshot" else body["fields"]
            if body["type"] == "snapshot":
                sides = {"bids": {}, "asks": {}}
            for name, side in sides.items():
                for px, qty in changes[name]:
                    if float(qty) == 0:
                        side.pop(float(px), None)
                    else:
                        side[float(px)] = [px, qty]
        return {
            "bids": [sides["bids"][px] for px in sorted(sides["bids"], reverse=True)],
            "asks": [sides["asks"][px] for px in sorted(sides["asks"])],
        }


class Shard:
    """Everything of a shard; `normalizers` by name, `logs` of each."""

    def __init__(self, folder: Path, transport: Transport, **normalizer: object) -> None:
        self.folder = folder
        self.transport = transport
        self.options = normalizer
        self.products: tuple[str, ...] = PRODUCTS
        self.tasks: set[asyncio.Task[None]] = set()
        self.ingestor = Feeder(transport)
        self.normalizers: dict[str, NormalizerService] = {}
        self.snapshotters: dict[str, SnapshotterService] = {}
        self.logs: dict[str, LogCapture] = {}
        self.consumer = Consumer(transport)
        self._ears: dict[str, Callable[[list[bytes]], None]] = {}
        self.incarnations: dict[str, int] = {}
        self._ticker: asyncio.TimerHandle | None = None

    def config(self, role: Role, name: str) -> Config:
        section = self.options if role is Role.NORMALIZER else {"write_interval_ms": 20, "book_write_interval_s": 0.2}
        return Config().override(
            {
                "mesh": {"products": self.products, "shards": 1, "data_dir": self.folder},
                str(role): {"instance": name, **section},
            }
        )

    def context(self, name: str) -> Context:
        incarnation = self.incarnations[name] = self.incarnations.get(name, 100) + 1
        log = self.logs[name] = LogCapture()
        return Context(incarnation=incarnation, clock=time.time_ns, log=logger(log), spawn=self.spawn)

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.tasks.discard(task)

    async def add(self, name: str) -> NormalizerService:
        """A normalizer that everybody learns of."""
        service = self.normalizers[name] = NormalizerService(self.config(Role.NORMALIZER, name), self.context(name), 0)
        await service.start()
        await self.ingestor.feed(name, service.endpoints()["raw"])
        self.tell()
        return service

    async def add_snapshotter(self, name: str = "snapshotter-0") -> SnapshotterService:
        service = self.snapshotters[name] = SnapshotterService(
            self.config(Role.SNAPSHOTTER, name), self.context(name), 0
        )
        await service.start()
        self.tell()
        return service

    def record(self, role: Role, name: str, endpoints: dict[str, str]) -> ServiceRecord:
        return ServiceRecord(role, name, self.incarnations[name], endpoints, "0", 1, "here", 0)

    def tell(self) -> None:
        """Everybody learns of everybody."""
        snapshotters = [self.record(Role.SNAPSHOTTER, name, one.endpoints()) for name, one in self.snapshotters.items()]
        normalizers = [self.record(Role.NORMALIZER, name, one.endpoints()) for name, one in self.normalizers.items()]
        everybody: list[NormalizerService | SnapshotterService]
        everybody = [*self.normalizers.values(), *self.snapshotters.values()]
        for one in everybody:
            one.on_peers([self.ingestor.service, *snapshotters, *normalizers])
        self.consumer.links.update([*normalizers, *snapshotters])

    def deafen(self, name: str) -> None:
        """Nothing that normalizers publish reaches this one any more."""
        subscriber = (self.normalizers.get(name) or self.snapshotters[name])._subscriber
        self._ears[name] = subscriber._on_frames
        subscriber._on_frames = lambda _: None

    def cure(self, name: str) -> None:
        """It hears again; what it has missed is lost."""
        (self.normalizers.get(name) or self.snapshotters[name])._subscriber._on_frames = self._ears.pop(name)

    def kill(self, name: str) -> None:
        """What a kill -9 leaves: closed sockets, no farewell."""
        service = self.normalizers.pop(name)
        crash(service)
        self.ingestor.pushers.pop(name).close()

    def tick(self) -> None:
        self.consumer.tick()
        self._ticker = asyncio.get_running_loop().call_later(0.05, self.tick)

    async def active(self) -> str:
        """Name of the one that publishes, once exactly one does."""
        await eventually(lambda: sum(one.active for one in self.normalizers.values()) == 1)
        return next(name for name, one in self.normalizers.items() if one.active)

    async def opened(self) -> None:
        """The exchange has opened, and the consumer has it."""
        self.ingestor.push(*self.ingestor.exchange.opening())
        await eventually(lambda: all(self.consumer.of(product, Channel.BOOK) for product in PRODUCTS))

    async def run(self, seconds: float, *, rate: int = 2000) -> None:
        """The exchange talks for so long."""
        loop = asyncio.get_running_loop()
        began, said = loop.time(), 0
        while (passed := loop.time() - began) < seconds:
            due = int(passed * rate) - said
            self.ingestor.say(due)
            said += due
            await asyncio.sleep(0.01)

    async def quiet(self) -> None:
        """Everything that was said has come to the consumer."""
        ids = self.ingestor.exchange.trade_ids
        await eventually(lambda: all(max(self.consumer.trade_ids(one), default=0) >= ids[one] for one in PRODUCTS))
        await eventually(lambda: all(self.consumer.book(one) == self.ingestor.exchange.book(one) for one in PRODUCTS))

    def check(self) -> None:
        """No trade lost or seen twice, every number once, books right."""
        self.consumer.check_order()
        for product in PRODUCTS:
            ids = self.consumer.trade_ids(product)
            assert ids == list(range(ids[0], self.ingestor.exchange.trade_ids[product] + 1))
            assert not [body for body in self.consumer.of(product, Channel.TRADES) if "missing" in body]
            assert self.consumer.book(product) == self.ingestor.exchange.book(product)

    async def snapshot(self, endpoint: str, product: str, channel: Channel) -> tuple[Position, dict[str, Any]] | None:
        """What a snapshotter or normalizer answers."""
        requester = Requester(self.transport, endpoint)
        header, *parts = await requester.request(messages.encode(SnapshotRequest(product, channel)), 5)
        requester.close()
        reply = messages.decode_reply(header)
        if not isinstance(reply, SnapshotReply):
            return None
        return Position(reply.epoch, reply.seq), json.loads(parts[0], parse_int=str, parse_float=str)

    async def snapshotters_agree(self) -> None:
        """Every snapshotter answers what is true."""
        await self.snapshotters_agree_of(*self.snapshotters)

    async def snapshotters_agree_of(self, *names: str) -> None:
        """These snapshotters answer what is true."""
        for one in (self.snapshotters[name] for name in names):
            for product in PRODUCTS:
                async with asyncio.timeout(10):
                    while True:
                        answer = await self.snapshot(one.endpoints()["requests"], product, Channel.BOOK)
                        if answer is not None and answer[1] == self.ingestor.exchange.book(product):
                            break
                        await asyncio.sleep(0.05)

    def events(self, name: str) -> list[str]:
        return [str(entry["event"]) for entry in self.logs[name].entries]


def crash(service: NormalizerService) -> None:
    """End a service without any of the words that it would say."""
    service._stopped = True
    if service._tick_handle is not None:
        service._tick_handle.cancel()
    if service._active is not None:
        service._active.end(farewell=False)
    if service._standby is not None:
        service._standby.end()
    assert service._transport is not None
    service._transport.close()


@asynccontextmanager
async def shard(folder: Path, **normalizer: object) -> AsyncIterator[Shard]:
    with Transport() as transport:
        made = Shard(folder, transport, **normalizer)
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        made.tick()
        try:
            yield made
        finally:
            if made._ticker is not None:
                made._ticker.cancel()
            made.ingestor.fall_silent()
            for standing in made.normalizers.values():
                await standing.stop()
            for snapshotter in made.snapshotters.values():
                await snapshotter.stop()
            await asyncio.gather(*made.tasks)
        assert failures == []


def without_time(message: bytes) -> bytes:
    """A message but for when it was published."""
    data = msgspec.json.decode(message)["data"]
    name = b'"ts_snapshot":%d' if data["type"] == "snapshot" else b'"ts_publish":%d'
    stamp = name % data["ts_snapshot" if data["type"] == "snapshot" else "ts_publish"]
    assert stamp in message
    return message.replace(stamp, b"")
