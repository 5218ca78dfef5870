"""What a normalizer stands between: an ingestor that does as it is told, a subscriber, a snapshotter."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from structlog.testing import LogCapture
from structlog.typing import FilteringBoundLogger

from lfmesh import messages
from lfmesh.config import Config
from lfmesh.core import topics
from lfmesh.core.codec import (
    Flags,
    MarketFrame,
    RawHeader,
    RawKind,
    RawRecord,
    RecordKind,
    pack_raw,
    split_topic,
    unpack,
)
from lfmesh.core.sharding import stable_id
from lfmesh.messages import (
    BackfillRequest,
    Beacon,
    LinkChange,
    ReplayRequest,
    Reply,
    Request,
    ResyncRequest,
    ServiceRecord,
    StatesReply,
    StatesRequest,
    StreamSummary,
    Unavailable,
)
from lfmesh.ports import Context
from lfmesh.services.normalizer import NormalizerService
from lfmesh.services.normalizer.journal import Journal
from lfmesh.services.normalizer.pipelines import Pipelines
from lfmesh.services.normalizer.restore import NO_HISTORY, History
from lfmesh.services.normalizer.resyncs import Resyncs
from lfmesh.transport import Pusher, Requester, Responder, Server, Subscriber, Transport
from lfmesh.types import Channel, InputPosition, Role, StreamKey
from tests.aio import eventually

BTC, ETH = "BTC-USD", "ETH-USD"
INGESTOR = "ingestor-A"
T0 = 1_700_000_000_000_000_000
TIME = "2025-11-23T12:00:00.123456Z"
TIME_NS = 1763899200123456000

# The venue's frames ---------------------------------------------------------------------------------------------------


def frame(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def match(
    trade_id: int, product: str = BTC, *, px: str = "100.10", qty: str = "0.50000000", kind: str = "match"
) -> bytes:
    return frame(
        type=kind, trade_id=trade_id, maker_order_id="m", taker_order_id="t", side="sell", size=qty, price=px,
        product_id=product, sequence=1000 + trade_id, time=TIME,
    )  # fmt: skip


def ticker(
    sequence: int, trade_id: int, product: str = BTC, *, px: str = "100.10", bid: str = "99.9", ask: str = "100.2"
) -> bytes:
    return frame(
        type="ticker", sequence=sequence, product_id=product, price=px, best_bid=bid, best_bid_size="1", best_ask=ask,
        best_ask_size="2", side="buy", time=TIME, trade_id=trade_id, last_size="0.50000000",
    )  # fmt: skip


def snapshot(
    product: str = BTC,
    bids: Sequence[tuple[str, str]] = (("99.50", "2"),),
    asks: Sequence[tuple[str, str]] = (("101.0", "1"),),
) -> bytes:
    return frame(type="snapshot", product_id=product, bids=bids, asks=asks)


def update(*changes: tuple[str, str, str], product: str = BTC) -> bytes:
    return frame(type="l2update", product_id=product, changes=changes, time=TIME)


def heartbeat(sequence: int, last_trade_id: int = 0, product: str = BTC) -> bytes:
    return frame(type="heartbeat", last_trade_id=last_trade_id, product_id=product, sequence=sequence, time=TIME)


def record(body: bytes, kind: RecordKind = RecordKind.FRAME) -> RawRecord:
    return RawRecord(kind, T0, body)


def link(kind: RecordKind, *products: str) -> RawRecord:
    return record(msgspec.json.encode(LinkChange(0, list(products), "connection reset")), kind)


# The pipelines without sockets ----------------------------------------------------------------------------------------


class Desk:
    """Pipelines of some products; every message that they have said, in order, by stream."""

    def __init__(self, *products: str, has_books: bool = True, history: History = NO_HISTORY) -> None:
        self.log = LogCapture()
        self.resyncs = Resyncs()
        self.journal = Journal(logger(self.log), self.resyncs)
        self.pipelines = Pipelines(self.journal, has_books=has_books)
        self.pipelines.turn.begin(T0)
        self.pipelines.open(products, history, T0, 10_000_000_000)
        self.said: dict[StreamKey, list[tuple[int, bytes]]] = {}
        self.number = 0

    def take(self, *frames: bytes | RawRecord, ingestor: int = 1, now: int = T0) -> None:
        """One turn."""
        records = [one if isinstance(one, RawRecord) else record(one) for one in frames]
        self.pipelines.turn.begin(now)
        self.pipelines.intake.take(ingestor, 1, self.number + 1, records)
        self.number += len(records)
        self.settle(now)

    def settle(self, now: int = T0) -> None:
        self.journal.write(now)
        for outlet in self.pipelines.turn.touched:
            for run in outlet.take():
                self.said.setdefault(outlet.stream, []).extend((run.flags, message) for message in run.messages)
        self.pipelines.turn.touched.clear()

    def bodies(self, product: str, channel: Channel) -> list[dict[str, Any]]:
        """What snapshots and increments say."""
        said = self.said.get(StreamKey(product, channel), [])
        return [json.loads(message)["data"] for flags, message in said if flags != Flags.STATUS]

    def statuses(self, product: str, channel: Channel) -> list[str]:
        said = self.said.get(StreamKey(product, channel), [])
        return [json.loads(message)["state"] for flags, message in said if flags == Flags.STATUS]


# The service with sockets ---------------------------------------------------------------------------------------------


def logger(capture: LogCapture) -> FilteringBoundLogger:
    made: FilteringBoundLogger = structlog.wrap_logger(
        None,
        processors=[structlog.processors.add_log_level, capture],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    return made


class Ingestor:
    """Pushes numbered records, keeps all of them for replay, and remembers what it is asked."""

    def __init__(self, transport: Transport, shard: int = 0, instance: str = INGESTOR, incarnation: int = 10) -> None:
        self.transport = transport
        self.shard = shard
        self.instance = instance
        self.incarnation = incarnation
        self.records: list[RawRecord] = []
        self.requests: list[Request] = []
        self.oldest = 1
        self.replay_frames = 1000
        self.refuses = False
        self.refuses_backfills = False
        self.server = Server(transport, "tcp://127.0.0.1:0", self._answer)
        self.pusher: Pusher | None = None
        self._beating: asyncio.TimerHandle | None = None

    @property
    def service(self) -> ServiceRecord:
        return ServiceRecord(
            Role.INGESTOR, self.instance, self.incarnation, {"requests": self.server.endpoint}, "0", 1, "here"
        )

    def header(self, kind: RawKind, first: int) -> RawHeader:
        return RawHeader(kind, "A", self.shard, stable_id(self.instance), self.incarnation, first, self.oldest, T0)

    async def connect(self, endpoint: str) -> None:
        self.pusher = Pusher(self.transport, endpoint, hwm=10_000)
        pusher = self.pusher
        beacon = pack_raw(self.header(RawKind.BEACON, len(self.records) + 1))
        await eventually(lambda: pusher.push(beacon))
        self._beat()

    def _beat(self) -> None:
        self.beacon()
        self._beating = asyncio.get_running_loop().call_later(0.05, self._beat)

    def fall_silent(self) -> None:
        """Send no beacons any more."""
        if self._beating is not None:
            self._beating.cancel()

    def push(self, *frames: bytes | RawRecord, lose: bool = False) -> None:
        records = [one if isinstance(one, RawRecord) else record(one) for one in frames]
        first = len(self.records) + 1
        self.records += records
        if not lose:
            self._send(pack_raw(self.header(RawKind.BATCH, first), records))

    def beacon(self) -> None:
        self._send(pack_raw(self.header(RawKind.BEACON, len(self.records) + 1)))

    def _send(self, raw: bytes) -> None:
        assert self.pusher is not None
        assert self.pusher.push(raw)

    def _answer(self, payload: bytes, responder: Responder) -> None:
        request = messages.decode_request(payload)
        self.requests.append(request)
        if isinstance(request, BackfillRequest) and self.refuses_backfills:
            responder.reply(messages.encode(Unavailable("the queue is full")))
        elif not isinstance(request, ReplayRequest):
            responder.reply(messages.encode(Reply()))
        elif self.refuses or request.first_number < self.oldest or request.incarnation != self.incarnation:
            responder.reply(messages.encode(Unavailable("gone")))
        else:
            first = request.first_number
            records = self.records[first - 1 :][: self.replay_frames]
            frames = [
                pack_raw(self.header(RawKind.BATCH, first + at), records[at : at + 3])
                for at in range(0, len(records), 3)
            ]
            more = first - 1 + len(records) < len(self.records)
            responder.reply(messages.encode(Reply(more)), frames)

    def asked(self, kind: type[Request]) -> list[Any]:
        return [request for request in self.requests if isinstance(request, kind)]

    @property
    def resyncs(self) -> list[str]:
        return [product for request in self.asked(ResyncRequest) for product in request.products]


class Listener:
    """Subscribes to a shard; frames by stream and beacons, in order of arrival."""

    def __init__(self, transport: Transport, endpoint: str, shard: int = 0) -> None:
        self.frames: list[MarketFrame] = []
        self.beacons: list[Beacon] = []
        self.order: list[MarketFrame | Beacon] = []
        self._shard = shard
        self._subscriber = Subscriber(
            transport, [topics.market_data_prefix(shard), topics.beacon(shard)], self._on_frames, hwm=100_000
        )
        self._subscriber.connect(endpoint)

    def _on_frames(self, frames: list[bytes]) -> None:
        for one in frames:
            topic, offset = split_topic(one)
            if topic == topics.beacon(self._shard):
                beacon = messages.decode_beacon(one[offset:])
                self.beacons.append(beacon)
                self.order.append(beacon)
            else:
                unpacked = unpack(one)
                self.frames.append(unpacked)
                self.order.append(unpacked)

    def of(self, product: str, channel: Channel) -> list[MarketFrame]:
        topic = topics.market_data(self._shard, StreamKey(product, channel))
        return [one for one in self.frames if one.topic == topic]

    def bodies(self, product: str, channel: Channel) -> list[dict[str, Any]]:
        return [
            json.loads(message)["data"]
            for one in self.of(product, channel)
            if not one.header.flags & Flags.STATUS
            for message in one.messages
        ]

    def statuses(self, product: str, channel: Channel) -> list[dict[str, Any]]:
        return [
            json.loads(message)
            for one in self.of(product, channel)
            if one.header.flags & Flags.STATUS
            for message in one.messages
        ]

    def trade_ids(self, product: str = BTC) -> list[int]:
        return [body["fields"]["trade_id"] for body in self.bodies(product, Channel.TRADES) if body["type"] == "trade"]


class Snapshotter:
    """Answers StatesRequest with what it was given; None: not at all."""

    def __init__(self, transport: Transport, summaries: Iterable[StreamSummary] | None, shard: int = 0) -> None:
        self.shard = shard
        self.summaries = None if summaries is None else list(summaries)
        self.inputs: list[InputPosition] = []
        self.server = Server(transport, "tcp://127.0.0.1:0", self._answer)

    @property
    def service(self) -> ServiceRecord:
        endpoints = {"requests": self.server.endpoint}
        return ServiceRecord(Role.SNAPSHOTTER, "snapshotter-0", 5, endpoints, "0", 2, "here", self.shard)

    def _answer(self, payload: bytes, responder: Responder) -> None:
        assert isinstance(messages.decode_request(payload), StatesRequest)
        if self.summaries is not None:
            header = StatesReply(max((one.term for one in self.summaries), default=0), self.inputs)
            responder.reply(messages.encode(header), [messages.encode(summary) for summary in self.summaries])


class Mesh:
    """One normalizer and what is around it."""

    def __init__(self, service: NormalizerService, transport: Transport, log: LogCapture) -> None:
        self.service = service
        self.transport = transport
        self.log = log
        self.ingestors: list[Ingestor] = []
        self.ingestor = self.new_ingestor()
        self.listener = Listener(transport, service.endpoints()["market_data"])

    def new_ingestor(self, incarnation: int = 10, instance: str = INGESTOR) -> Ingestor:
        self.ingestors.append(Ingestor(self.transport, instance=instance, incarnation=incarnation))
        return self.ingestors[-1]

    async def join(self) -> None:
        """The ingestor is known and pushes; the listener has heard a beacon."""
        self.service.on_peers([self.ingestor.service])
        await self.ingestor.connect(self.service.endpoints()["raw"])
        await eventually(lambda: self.listener.beacons)

    async def ask(self, request: Request) -> tuple[Any, list[bytes]]:
        requester = Requester(self.transport, self.service.endpoints()["requests"])
        header, *frames = await requester.request(messages.encode(request), 5)
        requester.close()
        return messages.decode_reply(header), frames

    def events(self) -> list[str]:
        return [str(entry["event"]) for entry in self.log.entries]


def config(**normalizer: object) -> Config:
    return Config().override(
        {
            "mesh": {"products": (BTC, ETH), "shards": 1},
            "normalizer": {"restore_timeout_s": 0.0, **normalizer},
        }
    )


@asynccontextmanager
async def mesh(configuration: Config | None = None, peers: Sequence[ServiceRecord] = ()) -> AsyncIterator[Mesh]:
    tasks: set[asyncio.Task[None]] = set()

    def spawn(coro: Coroutine[Any, Any, None]) -> None:
        tasks.add(asyncio.ensure_future(coro))

    log = LogCapture()
    context = Context(incarnation=1, clock=time.time_ns, log=logger(log), spawn=spawn)
    service = NormalizerService(configuration or config(), context, 0)
    with Transport() as transport:
        try:
            await service.start()
            if peers:
                service.on_peers(peers)
            made = Mesh(service, transport, log)
            yield made
            for ingestor in made.ingestors:
                ingestor.fall_silent()
        finally:
            await service.stop()
            await asyncio.gather(*tasks)
