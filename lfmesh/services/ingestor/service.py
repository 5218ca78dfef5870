"""The ingestor as a service: venue connections in, numbered batches out; replay, resync and backfill on request.

What one turn of the loop brought is numbered and pushed in the next one; under load a batch that reaches its bound
goes at once. Nothing here awaits a normalizer: a push that is not taken is counted and left to replay.
"""

import asyncio
from collections.abc import Sequence
from itertools import batched
from random import SystemRandom
from typing import TYPE_CHECKING

import msgspec

from lfmesh.config import Config, endpoint
from lfmesh.core.codec import RawRecord, RecordKind
from lfmesh.core.repeat import Repeats
from lfmesh.core.ring import ReplayRing
from lfmesh.core.sharding import shard_of, stable_id
from lfmesh.errors import LfmeshError
from lfmesh.messages import BackfillPage, LinkChange, ServiceRecord
from lfmesh.ports import Context, Figures
from lfmesh.services.ingestor.answers import Answers
from lfmesh.services.ingestor.backfills import Backfills
from lfmesh.services.ingestor.namesakes import Namesakes
from lfmesh.services.ingestor.normalizers import Normalizers
from lfmesh.services.ingestor.shard_stream import ShardStream
from lfmesh.services.ingestor.statistics import IngestorStatistics, backfill_figures, venue_figures
from lfmesh.transport import Server, Transport
from lfmesh.types import Role
from lfmesh.venues.coinbase.connection import FeedConnection, ws_schedule
from lfmesh.venues.coinbase.protocol import BOOK_CHANNELS, Stray
from lfmesh.venues.coinbase.rest import RestClient

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

BEACON_INTERVAL_S = 0.1

_STOP_FLUSH_S = 0.2
_SAMPLE_BYTES = 200
_NOT_WORTH_A_LINE = frozenset((Stray.SUBSCRIPTIONS, Stray.ERROR))
"""Expected, or logged in words where they are read."""

_encode_json = msgspec.json.Encoder().encode


class IngestorService:
    """Role `ingestor`; see `lfmesh.ports.Service`."""

    role = Role.INGESTOR
    shard: int | None = None

    def __init__(self, config: Config, context: Context) -> None:
        self.instance = endpoint(config.ingestor.instance)
        self._config = config
        self._context = context
        self._log: FilteringBoundLogger = context.log
        self._streams: list[ShardStream] = []
        self._connections: list[FeedConnection] = []
        self._connection_of: dict[str, FeedConnection] = {}
        self._gathering: list[ShardStream] = []
        self._unrouted: dict[str, int] = {str(why): 0 for why in Stray}
        self._repeats = Repeats()
        self._random = SystemRandom().random
        self._products = config.ingestor.products or config.mesh.products
        self._namesakes = Namesakes(
            self.instance, config.ingestor.line, self._products, context.incarnation, context.log
        )
        self._batches = 0
        self._batch_delay_ns = 0
        self._began_at = 0
        self._started = False
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    # Service ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, and begin to connect to the venue."""
        self._loop = asyncio.get_running_loop()
        ingestor, venue, shards = self._config.ingestor, self._config.venue, self._config.mesh.shards
        self._schedule = ws_schedule(venue)
        self._backfills = Backfills(
            venue, ingestor, RestClient(venue), self._publish_page, random=self._random, log=self._log
        )
        self._streams = [self._new_stream(shard) for shard in range(shards)]
        for number, share in enumerate(batched(self._products, venue.products_per_connection)):
            self._connections.append(self._new_connection(number, share))
        books = not BOOK_CHANNELS.isdisjoint(venue.channels)
        self._transport = Transport()
        self._normalizers = Normalizers(self._transport, shards, ingestor.push_hwm_messages, self._log)
        self._answers = Answers(
            self._streams, self._connection_of, self._backfills, self._normalizers.relink, books=books
        )
        try:
            address = endpoint(ingestor.bind_requests, instance=self.instance)
            self._server = Server(self._transport, address, self._answers.on_request)
        except LfmeshError:
            self._transport.close()
            raise
        self._started = True
        self._context.spawn(self._run())

    def endpoints(self) -> dict[str, str]:
        """`requests`: replay, resync and backfill."""
        return {"requests": self._server.endpoint} if self._started else {}

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        """Push to every normalizer of every shard; notice who passes for us."""
        self._namesakes.observe(peers)
        if self._started:
            self._normalizers.follow(peers)

    def readiness(self) -> list[str]:
        """Every product flows from the venue, and somebody takes it as ours."""
        if not self._started:
            return ["not started"]
        reasons = self._namesakes.problems()
        reasons += [problem for connection in self._connections for problem in connection.problems()]
        reasons.extend(
            f"no normalizer for shard {stream.shard} is attached"
            for stream in self._streams
            if stream.products and not self._normalizers.attached(stream.shard)
        )
        return reasons

    def statistics(self) -> IngestorStatistics:
        """The figures now."""
        started = self._started
        rings = [stream.ring_statistics() for stream in self._streams]
        return IngestorStatistics(
            **venue_figures(self._connections),
            **backfill_figures(self._backfills if started else None),
            frames_unrouted_total=dict(self._unrouted),
            records_published_total=self._published(),
            batches_published_total=self._batches,
            pushes_total=self._normalizers.pushes if started else 0,
            pushes_dropped_total=self._normalizers.dropped if started else 0,
            namesakes=self._namesakes.conflicts,
            replay_requests_total=self._answers.replay_requests if started else 0,
            replay_frames_total=self._answers.replay_frames if started else 0,
            replay_unavailable_total=self._answers.replay_unavailable if started else 0,
            ring_bytes=sum(ring.bytes for ring in rings),
            ring_batches=sum(ring.entries for ring in rings),
            ring_evicted_total=sum(ring.evicted_total for ring in rings),
            links_rebuilt_total=self._normalizers.relinked if self._started else 0,
            normalizers_attached=self._normalizers.attached() if started else 0,
            batch_delay_ms=self._batch_delay_ns / 1e6,
        )

    def figures(self) -> Figures:
        """The figures that every role has; a gap is a loss of a subscribed venue connection."""
        counters = [connection.counters for connection in self._connections]
        return Figures(
            messages_in_total=sum(each.frames for each in counters),
            messages_out_total=self._published(),
            gaps_total=sum(each.losses for each in counters),
            queue_messages=sum(stream.pending for stream in self._streams),
            lag_ms=self._batch_delay_ns / 1e6 if self._batches else None,
        )

    async def stop(self) -> None:
        """Leave the venue, push what is left, close."""
        if not self._started:
            return
        self._stopping.set()
        await self._ended.wait()
        self._flush()
        self._started = False
        self._transport.close(_STOP_FLUSH_S)

    # Building -----------------------------------------------------------------------------------------------------

    def _new_stream(self, shard: int) -> ShardStream:
        ingestor = self._config.ingestor
        identity = (stable_id(self.instance), self._context.incarnation, ingestor.line)
        ring: ReplayRing[int, bytes] = ReplayRing(
            ingestor.replay_ring_bytes, int(ingestor.replay_ring_age_s * 1_000_000_000)
        )
        return ShardStream(shard, identity, ring, ingestor.batch_max_frames, self._gather, self._publish)

    def _new_connection(self, number: int, products: Sequence[str]) -> FeedConnection:
        lanes = {}
        for product in products:
            stream = self._streams[shard_of(product, self._config.mesh.shards)]
            stream.products.append(product)
            lanes[product.encode()] = stream
        connection = FeedConnection(
            number,
            lanes,
            self._config.venue,
            self,
            schedule=self._schedule,
            clock=self._context.clock,
            random=self._random,
            log=self._log,
        )
        for product in products:
            self._connection_of[product] = connection
        return connection

    async def _run(self) -> None:
        """Connections, backfills and beacons, until `stop`; anything unexpected in one of them ends the service."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks: list[asyncio.Task[None]] = [
                    group.create_task(self._beat()),
                    group.create_task(self._backfills.run()),
                ]
                tasks.extend(group.create_task(connection.run()) for connection in self._connections)
                await self._stopping.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self._ended.set()

    # Out ----------------------------------------------------------------------------------------------------------

    def _gather(self, stream: ShardStream) -> None:
        """A stream has got the first record of a batch: publish it in the next turn, with all that this turn brings."""
        if not self._gathering:
            self._began_at = self._context.clock()
            self._loop.call_soon(self._flush)
        self._gathering.append(stream)

    def _flush(self) -> None:
        gathering, self._gathering = self._gathering, []
        for stream in gathering:
            self._publish(stream)

    def _publish(self, stream: ShardStream) -> None:
        now = self._context.clock()
        batch = stream.take(now)
        if batch is not None:
            self._normalizers.push(stream.shard, batch, now)
            self._batches += 1
            self._batch_delay_ns = now - self._began_at

    def _publish_page(self, page: BackfillPage) -> None:
        shard = shard_of(page.product, self._config.mesh.shards)
        self._streams[shard].add_record(RawRecord(int(RecordKind.BACKFILL), self._context.clock(), _encode_json(page)))

    async def _beat(self) -> None:
        while True:
            now = self._context.clock()
            self._normalizers.beat({stream.shard: stream.beacon(now) for stream in self._streams}, now)
            await asyncio.sleep(BEACON_INTERVAL_S)

    def _published(self) -> int:
        return sum(stream.next_number - 1 for stream in self._streams)

    # What connections tell ----------------------------------------------------------------------------------------

    def link_up(self, connection: int, products: tuple[str, ...], reason: str) -> None:
        """The venue has confirmed these products; see `FeedOwner`."""
        self._record_link(RecordKind.LINK_UP, connection, products, reason)

    def link_down(self, connection: int, products: tuple[str, ...], reason: str) -> None:
        """Nothing more comes for these products; see `FeedOwner`."""
        self._backfills.prepare()  # what is lost meanwhile will be asked for
        self._record_link(RecordKind.LINK_DOWN, connection, products, reason)

    def strayed(self, connection: int, why: Stray, frame: bytes) -> None:
        """Count a frame without a lane, and show one of a kind a minute; see `FeedOwner`."""
        self._unrouted[why] += 1
        if why in _NOT_WORTH_A_LINE:
            return
        held_back = self._repeats.admit(why, self._context.clock())
        if held_back is not None:
            sample = frame[:_SAMPLE_BYTES].decode(errors="backslashreplace")
            self._log.warning(
                "frame without a product of ours",
                reason=str(why),
                connection=connection,
                sample=sample,
                held_back=held_back,
            )

    def _record_link(self, kind: RecordKind, connection: int, products: tuple[str, ...], reason: str) -> None:
        now = self._context.clock()
        by_shard: dict[int, list[str]] = {}
        for product in products:
            by_shard.setdefault(shard_of(product, self._config.mesh.shards), []).append(product)
        for shard, affected in by_shard.items():
            body = _encode_json(LinkChange(connection, affected, reason))
            self._streams[shard].add_record(RawRecord(int(kind), now, body))
