"""The normalizer of one shard: raw records in, validated and numbered market data out.

    PULL raw ─► Upstreams (numbers, replay) ─► Intake (parse, route) ─► Product … ─► Outflow (frames, ring) ─► XPUB
                                                                                          ROUTER ◄─ retransmit, snapshot

One turn: what the raw socket handed over (or one slice of a replay) is applied, and everything that it brought is
published at its end, under one reading of the clock. A turn is bounded in bytes, so that beacons and requests are not
kept waiting. This module only wires and times; what is decided, is decided in the modules above.

At the start the shard's snapshotter is asked where the streams stood. Until that is known, or the time for it is
over, raw frames are held (bounded; what does not fit is replayed).
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence

from lfmesh import config
from lfmesh.config import Config
from lfmesh.core.feed import BEACON_INTERVAL_NS
from lfmesh.core.ring import ReplayRing
from lfmesh.core.sharding import products_of, stable_id
from lfmesh.errors import BadMeshFrame, RequestFailed, RequestTimeout
from lfmesh.messages import ServiceRecord
from lfmesh.ports import Context, Figures
from lfmesh.services.normalizer.answers import Answers
from lfmesh.services.normalizer.journal import Journal, some
from lfmesh.services.normalizer.outflow import Outflow
from lfmesh.services.normalizer.pipelines import Pipelines
from lfmesh.services.normalizer.restore import NO_HISTORY, History, ask
from lfmesh.services.normalizer.resyncs import Resyncs
from lfmesh.services.normalizer.statistics import NormalizerStatistics, plain
from lfmesh.services.normalizer.upstream import Events, Upstreams
from lfmesh.transport import Publisher, Puller, Server, Transport
from lfmesh.types import Channel, Role, StreamKey

TURN_BYTES = 256 * 1024
"""Raw bytes that one turn takes: about a thousand messages, some milliseconds."""

STATUS_INTERVAL_NS = 1_000_000_000
FULL_BEACON_INTERVAL_NS = 1_000_000_000
AT_RISK_INTERVAL_NS = 10_000_000_000
"""All books of an ingestor are asked anew at most this often, when a frame could not be read that may be any book's."""
FLUSH_S = 0.2

_BEACON_S = BEACON_INTERVAL_NS / 1e9


class NormalizerService:
    """See the module's docstring, and `lfmesh.ports.Service`."""

    role = Role.NORMALIZER

    def __init__(self, config_: Config, context: Context, shard: int) -> None:
        self.shard: int | None = shard
        self._shard = shard
        self._section = section = config_.normalizer
        self.instance = config.endpoint(section.instance, shard=shard)
        self._product_names = products_of(shard, config_.mesh.products, config_.mesh.shards)
        self._context = context
        self._log = context.log
        self._clock = context.clock
        self._resyncs = Resyncs()
        self._journal = Journal(context.log, self._resyncs)
        self._pipelines = Pipelines(
            self._journal, has_books=any(channel.startswith("level2") for channel in config_.venue.channels)
        )
        self._turn = self._pipelines.turn
        self._transport: Transport | None = None
        self._peers: tuple[ServiceRecord, ...] = ()
        self._snapshotter = ""
        self._snapshotter_found = asyncio.Event()
        self._running = False
        self._stopped = False
        self._held: deque[bytes] = deque()
        self._held_overflow = 0
        self._full_beacon_due = False
        self._full_beacon_at = self._statuses_at = self._books_at_risk_at = 0
        self._tick_at = 0.0
        self._tick_handle: asyncio.TimerHandle | None = None

    # Start and end ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind; the streams begin once it is known where they stood. PortInUse or BadEndpoint."""
        section, shard = self._section, self._shard
        self._loop = asyncio.get_running_loop()
        self._transport = transport = Transport()
        intake = self._pipelines.intake
        self._upstreams = Upstreams(
            shard,
            transport,
            self._context,
            Events(intake.take, intake.lost, intake.replaced, intake.behind, intake.heard, self._begin, self._flush),
        )
        self._publisher = Publisher(
            transport,
            config.endpoint(section.bind_market_data, shard=shard),
            hwm=section.publish_hwm_messages,
            on_subscription=self._on_subscription,
        )
        ring: ReplayRing[StreamKey, bytes] = ReplayRing(
            section.retransmit_ring_bytes, round(section.retransmit_ring_age_s * 1e9)
        )
        self._outflow = Outflow(shard, stable_id(self.instance), self._publisher, ring, self._turn)
        self._answers = Answers(self._pipelines, self._outflow, self._clock)
        self._server = Server(transport, config.endpoint(section.bind_requests, shard=shard), self._answers.on_request)
        self._puller = Puller(
            transport,
            config.endpoint(section.bind_raw, shard=shard),
            self._on_raw,
            hwm=section.raw_hwm_messages,
            turn_bytes=TURN_BYTES,
        )
        self._context.spawn(self._restore(transport))

    async def _restore(self, transport: Transport) -> None:
        """Learn where the streams stood, then run."""
        history = NO_HISTORY
        timeout_s = self._section.restore_timeout_s
        deadline = self._loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._snapshotter_found.wait()
            if not self._stopped:
                history = await ask(transport, self._snapshotter, self._shard, deadline - self._loop.time())
        except TimeoutError:
            self._log.info("no snapshotter known; starting without", after_s=timeout_s)
        except (RequestTimeout, RequestFailed, BadMeshFrame) as error:
            self._log.warning("starting without the streams' history", reason=str(error))
        if not self._stopped:
            self._run(history)

    def _run(self, history: History) -> None:
        now = self._begin()
        self._pipelines.open(self._product_names, history, now, round(self._section.stale_after_s * 1e9))
        self._outflow.term = max(now // 1000, history.term + 1)
        self._running = True
        self._log.info(
            "running", term=self._outflow.term, products=len(self._product_names), restored=len(history.products)
        )
        self._upstreams.on_peers(self._peers, now)
        self._tick_at = self._loop.time()
        self._on_tick()
        self._work_off_held()

    def endpoints(self) -> dict[str, str]:
        """raw, market_data, requests."""
        return {
            "raw": self._puller.endpoint,
            "market_data": self._publisher.endpoint,
            "requests": self._server.endpoint,
        }

    async def stop(self) -> None:
        """Say a last time where the streams stand, and close."""
        if self._stopped:
            return
        self._stopped = True
        self._snapshotter_found.set()
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        if self._running:
            self._outflow.beacon(self._clock(), self._turn.input, self._pipelines.outlets.values())
        if self._transport is not None:
            self._transport.close(FLUSH_S)

    # Turns ------------------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        now = self._clock()
        self._turn.begin(now)
        return now

    def _flush(self) -> None:
        self._journal.write(self._turn.ts_publish)
        self._outflow.flush()

    def _on_raw(self, frames: list[bytes]) -> None:
        if not self._running or self._held:
            self._hold(frames)
            return
        now = self._begin()
        for frame in frames:
            self._upstreams.frame(frame, now)
        self._flush()

    def _hold(self, frames: list[bytes]) -> None:
        """Keep order while starting; what is past the bound will be asked for by its number."""
        room = max(0, self._section.raw_hwm_messages - len(self._held))
        self._held_overflow += max(0, len(frames) - room)
        self._held.extend(frames[:room])

    def _work_off_held(self) -> None:
        if self._stopped or not self._held:
            return
        now = self._begin()
        size = 0
        while self._held and size < TURN_BYTES:
            frame = self._held.popleft()
            size += len(frame)
            self._upstreams.frame(frame, now)
        self._flush()
        self._loop.call_soon(self._work_off_held)

    def _on_tick(self) -> None:
        """Every 100 ms; a loop that comes late does it once, not as often as it missed it."""
        now = self._begin()
        self._upstreams.tick(now)
        if silent := self._pipelines.watch(now):
            self._log.warning("the venue says nothing", products=some(silent), after_s=self._section.stale_after_s)
        if now - self._statuses_at >= STATUS_INTERVAL_NS:
            self._statuses_at = now
            self._pipelines.repeat_statuses(now)
        self._flush()
        self._ask_resyncs(now)
        self._send_beacon(now)
        self._outflow.expire(now)
        self._tick_at = max(self._tick_at + _BEACON_S, self._loop.time())
        self._tick_handle = self._loop.call_at(self._tick_at, self._on_tick)

    def _ask_resyncs(self, now: int) -> None:
        names = self._resyncs.due(now)
        at_risk = self._journal.books_at_risk
        if at_risk and now - self._books_at_risk_at >= AT_RISK_INTERVAL_NS:
            names += self._pipelines.books_of(at_risk)
            at_risk.clear()
            self._books_at_risk_at = now
        if names:
            products = self._pipelines.products
            self._upstreams.ask_resync([(name, products[name].source) for name in names])

    # Beacons ----------------------------------------------------------------------------------------------------

    def _send_beacon(self, now: int) -> None:
        full = self._full_beacon_due or now - self._full_beacon_at >= FULL_BEACON_INTERVAL_NS
        if full:
            self._full_beacon_due, self._full_beacon_at = False, now
        self._outflow.beacon(now, self._turn.input, self._pipelines.outlets.values() if full else None)

    def _on_subscription(self, topic: bytes, subscribed: bool) -> None:
        if subscribed and self._running and not self._full_beacon_due and self._outflow.reaches_beacons(topic):
            self._full_beacon_due = True
            self._loop.call_soon(self._greet)

    def _greet(self) -> None:
        """A full beacon for whoever has just subscribed, one for all of a turn."""
        if self._full_beacon_due and not self._stopped:
            self._send_beacon(self._clock())

    # What the runtime asks --------------------------------------------------------------------------------------

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        """Ingestors to ask, and at the start the shard's snapshotter."""
        self._peers = tuple(peers)
        if self._running and not self._stopped:
            self._upstreams.on_peers(peers, self._begin())
            self._flush()
        elif not self._snapshotter:
            for peer in peers:
                if peer.role is Role.SNAPSHOTTER and peer.shard == self._shard and "requests" in peer.endpoints:
                    self._snapshotter = peer.endpoints["requests"]
                    self._snapshotter_found.set()
                    break

    def readiness(self) -> list[str]:
        """Why it can't do its work now."""
        if not self._running:
            return ["asking the snapshotter where the streams stood"]
        reasons = []
        if not self._upstreams.attached:
            reasons.append("no ingestor attached")
        reasons += [f"records of {name} are missing, being replayed" for name in self._upstreams.gapped()]
        products = self._pipelines.products.values()
        if empty := [product.product for product in products if not product.has_data]:
            reasons.append(f"no data yet for {len(empty)} of {len(products)} products: {some(empty)}")
        for state, why in (("stale", "the venue says nothing about"), ("recovering", "recovering")):
            if troubled := [
                product.product
                for product in products
                if product.has_data and product.liveness.standings[Channel.BOOK].state == state
            ]:
                reasons.append(f"{why}: {some(troubled)}")
        return reasons

    def statistics(self) -> NormalizerStatistics:
        """See `NormalizerStatistics`."""
        intake, journal = self._pipelines.intake, self._journal
        upstreams, outflow = self._upstreams, self._outflow
        products = self._pipelines.products.values()
        bad = sum(intake.bad.values())
        valid = intake.accepted + sum(intake.dropped.values())
        raw, ring = self._puller.counters, outflow.ring_statistics()
        return NormalizerStatistics(
            shard_products=len(self._product_names),
            products_with_data=sum(product.has_data for product in products),
            products_stale=sum(product.liveness.is_stale for product in products),
            streams_recovering=sum(product.liveness.recovering for product in products),
            books_held=sum(product.book_held for product in products),
            ingestors_attached=upstreams.attached,
            accepted_total=intake.accepted,
            dropped_total=plain(intake.dropped),
            bad_frames_total=plain(intake.bad),
            ignored_total=plain(intake.ignored),
            validation_rate=valid / (valid + bad) if valid + bad else 1.0,
            raw_frames_total=raw.messages,
            raw_bytes_total=raw.bytes,
            raw_refused_total=plain(upstreams.refused + Counter({"held_overflow": self._held_overflow})),
            raw_held=upstreams.held,
            raw_gaps_total=upstreams.gaps,
            raw_records_dropped_total=plain(upstreams.dropped),
            raw_records_lost_total=upstreams.lost_records,
            replay_requests_total=upstreams.replay_requests,
            resync_requests_total=upstreams.resync_requests,
            links_lost_total=journal.links_lost,
            trade_gaps_total=journal.trade_gaps,
            trades_missing_total=journal.trades_missing,
            trades_behind=sum(product.trades_behind for product in products),
            trades_corrected_total=journal.trades_corrected,
            books_lost_total=plain(journal.books_lost),
            book_snapshots_total=journal.book_snapshots,
            published_total=plain(outflow.messages),
            published_frames_total=outflow.frames,
            published_bytes_total=outflow.bytes,
            publish_dropped_total=self._publisher.counters.dropped,
            status_messages_total=outflow.statuses,
            beacons_total=outflow.beacons,
            ring_bytes=ring.bytes,
            ring_frames=ring.entries,
            ring_evicted_total=ring.evicted_total,
            requests_total=plain(self._answers.counts),
            term=outflow.term,
        )

    def figures(self) -> Figures:
        """The lag is from the ingestor's receipt of the newest record to its turn here."""
        lag_ns = self._pipelines.intake.lag_ns
        return Figures(
            messages_in_total=self._pipelines.intake.records,
            messages_out_total=sum(self._outflow.messages.values()),
            gaps_total=self._journal.trade_gaps + self._upstreams.gaps,
            queue_messages=self._upstreams.held + self._upstreams.waiting + len(self._held),
            lag_ms=None if lag_ns is None else lag_ns / 1e6,
        )
