"""The normalizers of one shard: one publishes (`active`), any others follow it and stand by (`standby`).

                     nobody was heard, or the one that was heard is gone: with a higher term
    start ─► standby ───────────────────────────────────────────────────────────────────────► active
                ▲                                                                               │
                └───────────────────────────────────────────────────────────────────────────────┘
                     another one speaks under a higher term (or the same, with the higher instance id)

Who is active is decided on the links between them alone, by beacons and terms, never by the registry. In a partition
each side may have an active one; consumers heed the higher term, and so does the other one as soon as it hears it.

At the start the shard's snapshotters are asked where the streams stood; who takes over knows that from having followed.
Until then raw frames are held. This module has the sockets and switches; what either state does is in its module.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from lfmesh import config, messages
from lfmesh.config import Config
from lfmesh.core import topics
from lfmesh.core.ring import ReplayRing
from lfmesh.core.sharding import products_of, stable_id
from lfmesh.errors import BadMeshFrame
from lfmesh.messages import ServiceRecord
from lfmesh.ports import Context, Figures
from lfmesh.services.links import Links
from lfmesh.services.normalizer.active import TURN_BYTES, Active
from lfmesh.services.normalizer.answers import refusal
from lfmesh.services.normalizer.outflow import Ring
from lfmesh.services.normalizer.post import HeldFrames, Post
from lfmesh.services.normalizer.restore import NO_HISTORY, History, Told, ask_all, history_of, merged
from lfmesh.services.normalizer.standby import TICK_S, Standby, others
from lfmesh.services.normalizer.statistics import NormalizerStatistics, added
from lfmesh.transport import Publisher, Puller, Responder, Server, Subscriber, Transport
from lfmesh.types import Role

FLUSH_S = 0.2
_TURN_OF_EACH_S = 0.3
"""Of normalizers that start together each waits so much longer than the one before it, in the order of their names."""
_HELP_S = 0.5
"""A standby that takes over without having followed everything waits this long for what the snapshotters know."""


class NormalizerService:
    """See the module's docstring, and `lfmesh.ports.Service`."""

    role = Role.NORMALIZER

    def __init__(self, config_: Config, context: Context, shard: int) -> None:
        self.shard: int | None = shard
        self._shard = shard
        self._section = section = config_.normalizer
        self.instance = config.endpoint(section.instance, shard=shard)
        self._products = tuple(products_of(shard, config_.mesh.products, config_.mesh.shards))
        self._has_books = any(channel.startswith("level2") for channel in config_.venue.channels)
        self._context = context
        self._log = context.log
        self._clock = context.clock
        self._peers: tuple[ServiceRecord, ...] = ()
        self._snapshotters: dict[str, str] = {}
        self._peers_changed = asyncio.Event()
        self._heard = asyncio.Event()
        self._transport: Transport | None = None
        self._active: Active | None = None
        self._standby: Standby | None = None
        self._past: NormalizerStatistics | None = None
        self._past_figures = Figures()
        self._took_over = self._stepped_down = 0
        self._term = 0
        self._stopped = False
        self._tick_handle: asyncio.TimerHandle | None = None

    # Start and end ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind; the streams begin once it is known where they stood. PortInUse or BadEndpoint."""
        section, shard = self._section, self._shard
        self._loop = asyncio.get_running_loop()
        self._transport = transport = Transport()
        self._publisher = Publisher(
            transport,
            config.endpoint(section.bind_market_data, shard=shard),
            hwm=section.publish_hwm_messages,
            on_subscription=self._on_subscription,
        )
        self._subscriber = Subscriber(
            transport, [topics.beacon(shard)], self._on_frames, hwm=section.subscribe_hwm_messages
        )
        self._raw = HeldFrames(section.standby_raw_bytes)
        self._post = self._new_post(Links(transport, self._subscriber, (Role.NORMALIZER,), (shard,)))
        self._stand_by()
        self._server = Server(transport, config.endpoint(section.bind_requests, shard=shard), self._on_request)
        self._puller = Puller(
            transport,
            config.endpoint(section.bind_raw, shard=shard),
            self._on_raw,
            hwm=section.raw_hwm_messages,
            turn_bytes=TURN_BYTES,
        )
        self._context.spawn(self._settle_in(transport))

    def _new_post(self, links: Links) -> Post:
        section = self._section
        assert self._transport is not None
        ring: Ring = ReplayRing(section.retransmit_ring_bytes, round(section.retransmit_ring_age_s * 1e9))
        return Post(
            self._shard, self.instance, self._products, self._has_books, section, self._context, self._transport,
            self._publisher, links, ring,
        )  # fmt: skip

    async def _settle_in(self, transport: Transport) -> None:
        """Find out whether somebody publishes already; if nobody does, learn where the streams stood, and publish."""
        began = self._loop.time()
        timeout_s = self._section.restore_timeout_s
        history = await self._restored(transport, began + timeout_s)
        rivals = self._others()
        if rivals and timeout_s:
            rank = sorted([self.instance, *(peer.instance for peer in rivals)]).index(self.instance)
            await _wait(self._heard, began + timeout_s + rank * _TURN_OF_EACH_S - self._loop.time())
        if self._stopped or self._standby is None:
            return
        if self._standby.follows:
            self._term = max(self._term, history.term)
            self._log.info("standing by", active=self._standby.active, term=self._standby.replica.feed.term)
        else:
            self._publish(history)

    def _others(self) -> list[ServiceRecord]:
        return others(self._peers, self._shard, self.instance, self._context.incarnation)

    async def _restored(self, transport: Transport, until: float) -> History:
        """What the snapshotters know; nothing, and a line in the log, if there is none or none answers."""
        while not self._snapshotters and not self._heard.is_set():
            self._peers_changed.clear()
            if not await _wait(self._peers_changed, until - self._loop.time()):
                break
        if self._stopped or self._heard.is_set():
            return NO_HISTORY
        if not self._snapshotters:
            self._log.info("no snapshotter known; starting without", after_s=self._section.restore_timeout_s)
            return NO_HISTORY
        patience_s = max(0.01, until - self._loop.time())
        told, failed = await ask_all(transport, self._snapshotters.values(), self._shard, patience_s)
        for error in failed:
            self._log.warning("a snapshotter does not tell where the streams stood", reason=str(error))
        if told is None:
            self._log.warning("starting without the streams' history")
            return NO_HISTORY
        return self._history_of(told)

    def _history_of(self, told: Told) -> History:
        try:
            return history_of(told)
        except BadMeshFrame as error:
            self._log.warning("starting without the streams' history", reason=str(error))
            return NO_HISTORY

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
        self._peers_changed.set()
        self._heard.set()
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        if self._transport is not None:
            if self._standby is not None:
                self._standby.end()
            if self._active is not None:
                self._active.end(farewell=True)
            self._transport.close(FLUSH_S)

    # From one to the other --------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """True while it publishes."""
        return self._active is not None

    def _stand_by(self) -> None:
        self._subscriber.subscribe(topics.market_data_prefix(self._shard))
        self._standby = Standby(self._post, self._raw)
        self._tick()

    def _tick(self) -> None:
        standby = self._standby
        if standby is None or self._stopped:
            return
        if not standby.tick():
            self._tick_handle = self._loop.call_later(TICK_S, self._tick)
        elif standby.replica.feed.waiting and self._snapshotters:
            self._context.spawn(self._take_over_with_help(standby))
        else:
            self._take_over(standby, standby.history(self._term))

    async def _take_over_with_help(self, standby: Standby) -> None:
        """Not all streams have been followed from a state on: the snapshotters may know them."""
        assert self._transport is not None
        told, _ = await ask_all(self._transport, self._snapshotters.values(), self._shard, _HELP_S)
        if self._stopped or self._standby is not standby:
            return
        if not standby.tick():
            self._tick()  # it was heard again
            return
        own = standby.told()
        self._take_over(standby, self._history_of(own if told is None else merged([own, told])))

    def _take_over(self, standby: Standby, history: History) -> None:
        self._took_over += 1
        why = "it ends" if standby.replica.left else "its beacons are missing"
        self._log.warning(f"taking over: {why}", active=standby.active)
        self._publish(history)

    def _publish(self, history: History) -> None:
        self._fold()
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        if self._standby is not None:
            self._standby.end()
            self._standby = None
        self._subscriber.unsubscribe(topics.market_data_prefix(self._shard))
        self._term = max(self._clock() // 1000, history.term + 1, self._term + 1)
        self._active = Active(self._post, history, self._term, self._raw)
        self._active.begin(self._peers)

    def _step_down(self, active: Active, term: int, instance: int) -> None:
        """Another one speaks for the shard: what was published here since is void, and its own is followed anew."""
        self._stepped_down += 1
        self._log.warning(
            "stepping down: another one publishes under a higher term",
            term=term, own_term=active.term, instance=f"{instance:016x}",
        )  # fmt: skip
        active.end(farewell=False)
        self._fold()
        self._active = None
        self._term = max(self._term, term)
        self._post = self._new_post(self._post.links)
        self._stand_by()

    def _fold(self) -> None:
        """Keep the totals of the state that ends."""
        self._past, self._past_figures = self._totals(), self.figures()

    # What arrives -----------------------------------------------------------------------------------------------

    def _on_raw(self, frames: list[bytes]) -> None:
        if self._active is not None:
            self._active.on_raw(frames)
        else:
            self._raw.extend(frames)

    def _on_frames(self, frames: list[bytes]) -> None:
        """The other normalizers' market data and beacons, or (while this one publishes) beacons."""
        if self._standby is not None:
            self._standby.on_frames(frames)
            if self._standby.follows:
                self._heard.set()
            return
        prefix = topics.beacon(self._shard) + b"\0"
        for frame in frames:
            if self._active is not None and frame.startswith(prefix):
                self._heed(self._active, frame[len(prefix) :])

    def _heed(self, active: Active, payload: bytes) -> None:
        try:
            beacon = messages.decode_beacon(payload)
        except BadMeshFrame as error:
            self._log.warning("another normalizer's beacon can't be read", error=str(error))
            return
        if (beacon.term, beacon.instance) > (active.term, stable_id(self.instance)) and beacon.shard == self._shard:
            self._step_down(active, beacon.term, beacon.instance)

    def _on_request(self, payload: bytes, responder: Responder) -> None:
        if self._active is not None:
            self._active.on_request(payload, responder)
        else:
            responder.reply(refusal(payload))

    def _on_subscription(self, topic: bytes, subscribed: bool) -> None:
        if self._active is not None:
            self._active.on_subscription(topic, subscribed)

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        """Ingestors to ask, the shard's other normalizers, and at the start its snapshotters."""
        self._peers = tuple(peers)
        for peer in peers:
            if peer.role is Role.SNAPSHOTTER and peer.shard == self._shard and "requests" in peer.endpoints:
                self._snapshotters[peer.instance] = peer.endpoints["requests"]
        self._peers_changed.set()
        if self._stopped or self._transport is None:
            return
        links = self._post.links
        attached, faults = links.update(self._others())
        for record in attached:
            self._log.info("another normalizer of the shard", normalizer=record.instance)
        for fault in faults:
            self._log.error("a normalizer's address cannot be used", error=str(fault))
        heard = self._standby.heard_publisher if self._standby is not None else 0
        for record in links.leave_unlisted(lambda record: stable_id(record.instance) == heard):
            self._log.info("a normalizer of the shard is gone", normalizer=record.instance)
        if self._active is not None:
            self._active.on_peers(peers)

    # What the runtime asks --------------------------------------------------------------------------------------

    def readiness(self) -> list[str]:
        """Why it can't do its work now: publish, or follow who does."""
        if self._active is not None:
            return self._active.readiness()
        return ["not started"] if self._standby is None else self._standby.readiness()

    def statistics(self) -> NormalizerStatistics:
        """See `NormalizerStatistics`."""
        raw = self._puller.counters
        return msgspec.structs.replace(
            self._totals(),
            raw_frames_total=raw.messages,
            raw_bytes_total=raw.bytes,
            publish_dropped_total=self._publisher.counters.dropped,
            active=int(self.active),
            takeovers_total=self._took_over,
            stepdowns_total=self._stepped_down,
            raw_waiting_bytes=self._raw.size,
            raw_waiting_dropped_total=self._raw.dropped,
        )

    def _totals(self) -> NormalizerStatistics:
        """Of what it is now, with the totals of what it was before."""
        if self._active is not None:
            now = self._active.statistics()
        else:
            now = Active(self._post, NO_HISTORY, 0, self._raw).statistics()
        if self._standby is not None:
            now = self._standby.figures_in(now)
        return now if self._past is None else added(self._past, now)

    def figures(self) -> Figures:
        """While it stands by: what it follows."""
        now = self._active or self._standby
        figures = now.figures() if now is not None else Figures()
        past = self._past_figures
        return msgspec.structs.replace(
            figures,
            messages_in_total=past.messages_in_total + figures.messages_in_total,
            messages_out_total=past.messages_out_total + figures.messages_out_total,
            gaps_total=past.gaps_total + figures.gaps_total,
        )


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    """True if it was set in time."""
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        return False
    return True
