"""The gateway: WebSocket clients on one side, the mesh on the other, the hub between.

    normalizers' PUB ──► Intake ──► Hub ──► clients (FrontDoor)
    normalizers', snapshotters' ROUTER ◄── Asks ◄──┘   (snapshotters' archives, too; Moments asks them for HTTP)

This module is the shell of the mesh's side: sockets, timers, log. A turn of the loop brings a list of frames, of which
the hub makes one write a client; joins are served in turns of their own (`Hub.pull`).
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from lfmesh.config import Config
from lfmesh.core import topics
from lfmesh.core.feed import Feed
from lfmesh.core.hub import Hub, HubLimits
from lfmesh.core.hub_joins import JoinLimits
from lfmesh.core.hub_snapshots import State
from lfmesh.core.hub_status import StatusBoard
from lfmesh.core.repeat import Repeats
from lfmesh.core.sharding import shard_of, stable_id
from lfmesh.core.trouble import BadInput, GapFound, GapHealed
from lfmesh.messages import ServiceRecord, SlowClient
from lfmesh.observe.metrics import MetricsText
from lfmesh.ports import Context, Figures, Replay
from lfmesh.services.gateway import answers, pages
from lfmesh.services.gateway.asks import Ask, request
from lfmesh.services.gateway.crew_member import Member
from lfmesh.services.gateway.frontdoor import FrontDoor
from lfmesh.services.gateway.intake import Intake, TermRaised, Voided
from lfmesh.services.gateway.moments import Moments, NoState
from lfmesh.services.gateway.replay import ReplayDesk
from lfmesh.services.gateway.statistics import GatewayStatistics, Rate
from lfmesh.services.links import Links
from lfmesh.services.trouble import log_bad_input, log_gaps, name_of
from lfmesh.transport import Requester, Subscriber, Transport
from lfmesh.types import CHANNELS, Role, StreamKey

_BEAT_S = 0.1
_ASK_TIMEOUT_S = 1.0
_ARCHIVE_TIMEOUT_S = 5.0
"""An archive may have to fetch what it is asked for."""
_HEARTBEAT_TICKS = 4
_HEARTBEAT_SLICES = 10
_SLOWEST = 10
_TURN_FRAMES = 2048
"""Under load a client is written to once for so many frames: a longer turn, of up to about 10 ms, but fewer writes."""


class GatewayService:
    """See the module's docstring. `replay` is what it serves if that is no live mesh, `member` the line to the other
    worker processes of its port if there are such."""

    role = Role.GATEWAY
    shard: int | None = None

    def __init__(
        self, config: Config, context: Context, replay: Replay | None = None, member: Member | None = None
    ) -> None:
        section = config.gateway
        shards = config.mesh.shards
        self.instance = section.instance
        self.products = {product: shard_of(product, shards) for product in config.mesh.products}
        self._config = config
        self._section = section
        self._context = context
        self._member = member
        self._log = context.log
        self._hub = Hub(_limits(config), lambda key: len(self._archives(key)))
        streams: dict[int, list[StreamKey]] = {shard: [] for shard in range(shards)}
        for product, shard in self.products.items():
            streams[shard].extend(StreamKey(product, channel) for channel in CHANNELS)
        self._shards_with_products = [shard for shard, keys in streams.items() if keys]
        self._stale_after_ns = round(config.normalizer.stale_after_s * 1e9)
        self._board = StatusBoard(streams, self._stale_after_ns, context.clock())
        self._intake = Intake(shards, self._hub, self._board)
        self._replay = (
            None if replay is None else ReplayDesk(replay, self._hub, self._intake, context.clock, self._settle)
        )
        self._moments = Moments(self._archives, self._intake.bad, enabled=config.archive.enabled)
        self._front: FrontDoor | None = None
        self._transport: Transport | None = None
        self._peers: Sequence[ServiceRecord] = ()
        self._waiting: dict[StreamKey, list[asyncio.Future[State | None]]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._pull_due = False
        self._emit_at: int | None = None
        self._rate = Rate()
        self._repeats = Repeats()
        self._attached: dict[int, bool] = {}

    async def start(self) -> None:
        """Subscribe to every shard, listen."""
        self._loop = asyncio.get_running_loop()
        shards = range(self._config.mesh.shards)
        self._transport = Transport()
        self._subscriber = Subscriber(
            self._transport,
            [topic for shard in shards for topic in (topics.market_data_prefix(shard), topics.beacon(shard))],
            self._on_frames,
            hwm=self._section.subscribe_hwm_messages,
            turn_frames=_TURN_FRAMES,
        )
        self._links = Links(self._transport, self._subscriber, (Role.NORMALIZER, Role.SNAPSHOTTER), shards)
        self._front = FrontDoor(
            self._section,
            self._context,
            self._hub,
            self._board,
            self.products,
            self._settle,
            self._replay,
            self._member,
        )
        metrics = MetricsText(self, self._context.vitals)
        try:
            listener = None
            if self._member is not None:
                await self._member.open(self.readiness, lambda: metrics.render().decode())
                listener = self._member.listener
            await self._front.open(pages.routes(self, metrics, self._member), pages.prefixes(self), listener)
        except BaseException:
            self._transport.close()
            self._transport = None
            raise
        self.on_peers(self._peers)
        self._beat()
        self._heartbeat()

    def endpoints(self) -> dict[str, str]:
        """None beside what the runtime adds."""
        return {}

    def http_url(self) -> str:
        """Base URL of the clients' port; /health, /ready and /metrics are there, too."""
        assert self._front is not None
        return self._front.url

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        """Follow normalizers and snapshotters."""
        self._peers = peers
        if self._transport is None:
            return
        attached, faults = self._links.update(peers)
        for record in attached:
            self._log.info("following", peer=record.instance, **record.endpoints)
        for fault in faults:
            self._log.error("a peer's address cannot be used", error=str(fault))
        self._leave_unlisted(self._context.clock())
        self._settle()

    def readiness(self) -> list[str]:
        """Shards that are not heard, and data that does not flow."""
        if self._transport is None:
            return ["not started"]
        if self._front is not None and self._front.draining:
            return ["draining"]
        now = self._context.clock()
        return [reason for shard in self._shards_with_products if (reason := self._not_ready(shard, now))]

    def _not_ready(self, shard: int, now: int) -> str:
        """Why a shard's data does not flow; empty: it does. (Of products that are quiet, their streams tell.)"""
        feed = self._intake.feeds[shard]
        if self._board.shard_down(shard):
            return self._silence(shard, feed, now)
        if self._replay is not None:
            return ""  # it may wait for its first client, or stand
        if feed.streams == feed.waiting:
            return f"no data yet from shard {shard}"
        flowed_at = self._intake.flowed_at(shard)
        if flowed_at is None:
            return f"nothing has come from the venue to shard {shard} yet"
        if now - flowed_at > self._stale_after_ns:
            return f"nothing from the venue to shard {shard} for {(now - flowed_at) / 1e9:.1f} s"
        why = self._board.none_live(shard)
        return f"no stream of shard {shard} is live: {why}" if why else ""

    def statistics(self) -> GatewayStatistics:
        """Its figures."""
        hub, joins, seen = self._hub.statistics(), self._hub.join_counters, self._intake.counters
        archives = self._hub.archive_counters
        came = self._front.counters if self._front is not None else None
        now = self._context.clock()
        feeds = self._intake.feeds
        return GatewayStatistics(
            clients=hub.clients,
            subscriptions=hub.subscriptions,
            joining=hub.joining,
            groups=hub.groups,
            streams=self._board.counts(),
            connections_total=came.connections_total if came else 0,
            refused_total=dict(came.refused_total) if came else {},
            closes_total=dict(came.closes_total) if came else {},
            policy_closed_total=dict(came.policy_closed_total) if came else {},
            slow_closed_total=dict(self._hub.slow.closes),
            slow_clients=hub.paused,
            conflating=hub.conflating,
            conflations_total=self._hub.slow.conflations | {"behind": joins.behind},
            conflated_messages_total=hub.lanes_emitted,
            merged_messages_total=hub.lanes_merged,
            requests_total=dict(came.requests_total) if came else {},
            errors_total=dict(came.errors_total) if came else {},
            rate_limited_total=came.rate_limited_total if came else 0,
            deliveries_total=hub.deliveries,
            deliveries_per_s=self._rate.per_s,
            delivered_bytes_total=hub.delivered_bytes,
            control_messages_total=self._hub.counters.control,
            heartbeats_total=self._hub.counters.heartbeats,
            outbox_bytes=hub.outbox_bytes,
            joins_total=joins.joins,
            resumes_total=dict(joins.resumes),
            caught_up_total=joins.caught_up,
            archived_bytes_total=archives.bytes,
            archive_answers_total=archives.outcomes,
            moments_total=dict(self._moments.counters),
            snapshots_asked_total=joins.snapshots_asked,
            draining=self._front is not None and self._front.draining,
            goaways_total=came.goaways_total if came else 0,
            frames_received_total=seen.frames_total,
            messages_received_total=seen.messages_total,
            beacons_received_total=seen.beacons_total,
            bad_frames_total=seen.bad_frames_total,
            messages_dropped_total=dict(seen.messages_dropped_total),
            gaps_total=seen.gaps_total,
            recoveries_total=dict(seen.recoveries_total),
            streams_gapped=sum(feed.gapped for feed in feeds),
            voided_total=seen.voided_total,
            asks_total=dict(seen.asks_total),
            ask_timeouts_total=seen.ask_timeouts_total,
            asks_waiting=self._intake.asks.waiting,
            shards_attached=sum(not self._intake.silent(shard, now) for shard in range(len(feeds))),
            shards_flowing=sum(
                at is not None and now - at <= self._stale_after_ns
                for at in map(self._intake.flowed_at, range(len(feeds)))
            ),
            links_rebuilt_total=self._links.rebuilt_total if self._transport is not None else 0,
            ring_entries=hub.ring.entries,
            ring_bytes=hub.ring.bytes,
            ring_evicted_total=hub.ring.evicted_total,
            lag_ms=seen.lag_ms,
        )

    def figures(self) -> Figures:
        """Messages of the mesh in, deliveries out."""
        counters, hub = self._intake.counters, self._hub.statistics()
        return Figures(
            messages_in_total=counters.messages_total,
            messages_out_total=hub.deliveries + self._hub.counters.control,
            gaps_total=counters.gaps_total,
            queue_messages=sum(feed.held_items for feed in self._intake.feeds),
            lag_ms=counters.lag_ms,
            clients=hub.clients,
        )

    def slowest(self) -> list[SlowClient]:
        """The clients for which most waits."""
        return [
            SlowClient(one.name, one.lag_ns / 1e6, one.bytes, one.conflations, one.conflating, one.subscriptions)
            for one in self._hub.slowest(_SLOWEST, self._context.clock())
        ]

    async def stop(self) -> None:
        """Send clients away while data still flows, then let go of the mesh; idempotent."""
        self._moments.close()
        if self._front is not None:
            await self._front.shut()
        if self._member is not None:
            self._member.close()
        for timer in self._timers.values():
            timer.cancel()
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    async def state_of(self, key: StreamKey) -> State | None:
        """The current state of a stream from a snapshotter or normalizer; None if nobody has it (in time)."""
        future: asyncio.Future[State | None] = self._loop.create_future()
        self._waiting.setdefault(key, []).append(future)
        self._intake.asks.add(Ask("snapshot", key), "http")
        self._settle()
        return await future

    async def state_at(self, key: StreamKey, at: int) -> State | NoState:
        """The state of a stream as of a moment (ns, the venue's time) from a snapshotter's archive, or why not."""
        return await self._moments.state_at(key, at)

    # The mesh's side --------------------------------------------------------------------------------------------

    def _on_frames(self, frames: list[bytes]) -> None:
        self._intake.frames(frames, self._context.clock())
        self._settle()

    def _on_reply(self, ask: Ask, term: int, parts: Sequence[bytes] | None) -> None:
        if self._transport is None:
            return
        state = self._intake.answer(ask, term, parts, self._context.clock())
        if ask.kind == "snapshot":
            for future in self._waiting.pop(ask.key, ()):
                if not future.done():
                    future.set_result(state)
        self._settle()

    def _settle(self) -> None:
        """After anything that may have had consequences: ask what is wanted, serve who is joining, log."""
        if self._transport is None:
            return
        self._intake.collect()
        for ask in self._intake.asks.take():
            self._send(ask)
        if self._hub.ready and not self._pull_due:
            self._pull_due = True
            self._loop.call_soon(self._pull)
        if self._replay is not None:
            self._replay.settled()
        if self._hub.conflates:
            self._arm(self._context.clock())
        self._report()

    def _emit(self) -> None:
        self._emit_at = None
        self._hub.emit(self._context.clock())
        self._settle()

    def _arm(self, now: int) -> None:
        """Be called when what is conflated is due: a shorter interval may have come."""
        at = self._hub.emit_at(now)
        if at is None or (self._emit_at is not None and self._emit_at <= at):
            return
        if (timer := self._timers.get("emit")) is not None:
            timer.cancel()
        self._emit_at = at
        self._timers["emit"] = self._loop.call_later(max(0, at - now) / 1e9, self._emit)

    def _send(self, ask: Ask) -> None:
        shard = shard_of(ask.key.product, self._config.mesh.shards)
        feed = self._intake.feeds[shard]
        answered = partial(self._on_reply, ask, feed.term)
        requester = self._archive(ask) if ask.kind == "archive" else self._requester(ask, shard, feed.publisher)
        if requester is None:
            self._loop.call_soon(answered, None)
            return
        self._intake.counters.asks_total[ask.kind] += 1
        requester.ask(request(ask), answered, _ARCHIVE_TIMEOUT_S if ask.kind == "archive" else _ASK_TIMEOUT_S)

    def _archives(self, key: StreamKey) -> Sequence[Requester]:
        """Who can be asked for what is archived of a stream."""
        if self._transport is None or not self._config.archive.enabled:
            return ()
        return self._links.snapshotters(shard_of(key.product, self._config.mesh.shards))

    def _archive(self, ask: Ask) -> Requester | None:
        """They take turns, in the order of their names."""
        archives = self._archives(ask.key)
        return archives[(ask.attempt - 1) % len(archives)] if archives else None

    def _requester(self, ask: Ask, shard: int, publisher: int) -> Requester | None:
        normalizer = self._links.normalizer(shard, publisher)
        if ask.kind != "snapshot":
            return normalizer
        snapshotter = self._links.snapshotter(shard)
        first, second = (snapshotter, normalizer) if ask.attempt % 2 else (normalizer, snapshotter)
        return first or second

    def _pull(self) -> None:
        self._pull_due = False
        if self._transport is not None:
            self._hub.pull(self._context.clock())
            self._settle()

    # Timers -----------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._timers["beat"] = self._loop.call_later(_BEAT_S, self._beat)
        now = self._context.clock()
        for shard, feed in enumerate(self._intake.feeds):
            self._links.watch(shard, feed.heard_at, now)
        self._intake.tick(now, self._links.awake_since)
        self._rate.observe(self._hub.deliveries, now)
        self._leave_unlisted(now)
        self._note_attachment(now)
        self._settle()

    def _heartbeat(self) -> None:
        interval = self._section.heartbeat_interval_s / (_HEARTBEAT_TICKS * _HEARTBEAT_SLICES)
        self._timers["heartbeat"] = self._loop.call_later(interval, self._heartbeat)
        self._hub.heartbeat(answers.heartbeat(self._context.clock()))

    def _leave_unlisted(self, now: int) -> None:
        for record in self._links.leave_unlisted(partial(self._is_heard, now), now):
            self._log.info("no longer following", peer=record.instance)

    def _is_heard(self, now: int, record: ServiceRecord) -> bool:
        if record.role is not Role.NORMALIZER or record.shard is None:
            return False
        feed = self._intake.feeds[record.shard]
        return feed.publisher == stable_id(record.instance) and not self._intake.silent(record.shard, now)

    # What is said -----------------------------------------------------------------------------------------------

    def _silence(self, shard: int, feed: Feed, now: int) -> str:
        names = ", ".join(self._links.names(Role.NORMALIZER, shard))
        if not names:
            return f"no normalizer of shard {shard} is known"
        if feed.heard_at is None:
            return f"no beacon from {names} yet"
        return f"no beacon from {names} for {(now - feed.heard_at) / 1e9:.1f} s"

    def _note_attachment(self, now: int) -> None:
        for shard in self._shards_with_products:
            feed = self._intake.feeds[shard]
            attached = not self._board.shard_down(shard)
            if attached == self._attached.get(shard, False):
                continue
            self._attached[shard] = attached
            if attached:
                self._log.info("beacons come", shard=shard, term=feed.term, links_rebuilt=self._links.rebuilt_total)
            else:
                self._log.warning("beacons have stopped; links are made anew", reason=self._silence(shard, feed, now))

    def _report(self) -> None:
        events = self._intake.take_events()
        if not events:
            return
        gaps: list[GapFound | GapHealed] = []
        for event in events:
            match event:
                case GapFound() | GapHealed():
                    gaps.append(event)
                case TermRaised():
                    self._log.info("new publisher", shard=event.shard, term=event.term, before=event.before)
                case Voided():
                    self._log.warning(
                        "stream taken anew, its publisher had been replaced", stream=name_of(event.stream)
                    )
                case BadInput():
                    log_bad_input(self._log, self._repeats, event, self._context.clock())
        log_gaps(self._log, gaps)


def _limits(config: Config) -> HubLimits:
    section = config.gateway
    return HubLimits(
        ring_bytes=section.ring_bytes,
        ring_age_ns=round(section.ring_age_s * 1e9),
        outbox_bytes=section.outbox_bytes,
        soft_bytes=section.outbox_soft_bytes,
        soft_age_ns=round(section.outbox_soft_age_s * 1e9),
        stall_ns=round(section.outbox_age_s * 1e9),
        client_messages_per_s=section.client_messages_per_s,
        client_bytes_per_s=section.client_bytes_per_s,
        heartbeat_ticks=_HEARTBEAT_TICKS,
        heartbeat_slices=_HEARTBEAT_SLICES,
        joins=JoinLimits(
            tail_bytes=section.join_tail_bytes,
            wait_ns=round(section.resume_wait_s * 1e9),
            age_ns=round(section.join_snapshot_age_s * 1e9),
            soft_bytes=section.outbox_soft_bytes,
            resume_bytes=config.archive.resume_max_bytes if config.archive.enabled else 0,
        ),
    )
