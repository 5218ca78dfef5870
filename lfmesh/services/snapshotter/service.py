"""The snapshotter of one shard.

    normalizer's PUB ──► Intake: feed, state ──► Answers ──► ROUTER `requests`: SnapshotRequest, StatesRequest,
                           ▲      │        │        ▲        RetransmitRequest
    normalizer's ROUTER ───┘      │        │        └── Archiving: journal, segments, checkpoints ──► object store
     retransmissions, snapshots   │        └───────────────▲
                                  └──► StateKeeper ──► state store

This module is the shell: sockets, timers, log. What things mean is decided in `intake`, `answers`, `schedule` and
`restore`. A stream in a gap answers with its last consistent state; a restored one at once with what was kept of it.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from lfmesh.config import Config, endpoint
from lfmesh.core import topics
from lfmesh.core.repeat import Repeats
from lfmesh.core.replica import Asked, StateDiscarded, TermRaised, request_of
from lfmesh.core.sharding import products_of, stable_id
from lfmesh.core.trouble import BadInput, GapFound, GapHealed
from lfmesh.messages import ServiceRecord
from lfmesh.ports import Context, Figures, ObjectStore, StateStore, StoredState
from lfmesh.services.links import Links
from lfmesh.services.snapshotter.answers import Answer, Answers
from lfmesh.services.snapshotter.archiving import Archiving
from lfmesh.services.snapshotter.intake import Intake
from lfmesh.services.snapshotter.keeper import StateKeeper
from lfmesh.services.snapshotter.primary import Pair
from lfmesh.services.snapshotter.restore import Restoration
from lfmesh.services.snapshotter.retaining import Retaining
from lfmesh.services.snapshotter.statistics import SnapshotterStatistics
from lfmesh.services.trouble import log_bad_input, log_gaps, name_of
from lfmesh.store.opening import open_objects, open_state, shared_objects, shared_state
from lfmesh.transport import Responder, Server, Subscriber, Transport
from lfmesh.types import Role, StreamKey

_BEAT_S = 0.1
_REQUEST_TIMEOUT_S = 2.0
_FLUSH_S = 0.2
_STOP_S = 2.0
"""What the last write of the states may take."""


class SnapshotterService:
    """See the module's docstring. `open_store` and `open_archive` open the stores, by default those configured."""

    role = Role.SNAPSHOTTER

    def __init__(
        self, config: Config, context: Context, shard: int,
        open_store: Callable[[], StateStore] | None = None,
        open_archive: Callable[[], ObjectStore] | None = None,
    ) -> None:  # fmt: skip
        section = config.snapshotter
        self.shard: int | None = shard
        self.instance = endpoint(section.instance, shard=shard)
        self._config = config
        self._section = section
        self._context = context
        self._log = context.log
        self._number = shard
        self._products = frozenset(products_of(shard, config.mesh.products, config.mesh.shards))
        self._intake = Intake(shard, round(section.book_write_interval_s * 1e9))
        self._answers = Answers(self._intake, shard, self._products, archive=config.archive.enabled)
        if open_store is None:
            default = endpoint(type(section)().instance, shard=shard)
            open_store = partial(open_state, config, shard, "" if self.instance == default else self.instance)
        self._open_store = open_store
        now, here = context.clock(), socket.gethostname()
        self._pair = Pair(shard, self.instance, now, None if shared_objects(config) else here)
        # Where nobody says who is gone, both write states: they never go back.
        self._shares_states = shared_state(config) and not config.registry.static_peers
        self._state_pair = Pair(shard, self.instance, now)
        self._archiving: Archiving | None = None
        self._retaining = Retaining(config, context, shard, self.instance, None if shared_objects(config) else here)
        if config.archive.enabled:
            self._archiving = Archiving(
                config, context, self._intake, self._pair, self.instance, shard,
                open_archive or partial(open_objects, config), self._retaining,
            )  # fmt: skip
        self._keeper: StateKeeper | None = None
        self._restoration: Restoration | None = None
        self._stopping = False
        self._transport: Transport | None = None
        self._peers: Sequence[ServiceRecord] = ()
        self._repeats = Repeats()
        self._attached = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def start(self) -> None:
        """Restore what was kept, bind, subscribe. StoreMisconfigured, PortInUse, BadEndpoint."""
        self._loop = asyncio.get_running_loop()
        self._keeper = StateKeeper(
            self._open_store, self._intake, self._context, self._adopt, self._flush, self._writes_states
        )
        await self._restore(self._keeper)
        shard, section = self._number, self._section
        self._transport = Transport()
        self._subscriber = Subscriber(
            self._transport,
            [topics.market_data_prefix(shard), topics.beacon(shard)],
            self._on_frames,
            hwm=section.subscribe_hwm_messages,
        )
        self._links = Links(self._transport, self._subscriber, (Role.NORMALIZER,), (shard,))
        self._server = Server(
            self._transport,
            endpoint(section.bind_requests, shard=shard, instance=self.instance),
            self._on_request,
        )
        self.on_peers(self._peers)
        self._beat()
        self._write()

    def endpoints(self) -> dict[str, str]:
        """`requests`."""
        return {"requests": self._server.endpoint}

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        """Follow the shard's normalizers."""
        self._peers = peers
        now = self._context.clock()
        self._pair.see(peers, now)
        self._state_pair.see(peers, now)
        self._retaining.see(peers)
        if self._transport is None:
            return
        attached, faults = self._links.update(peers)
        for record in attached:
            self._log.info("following", normalizer=record.instance, endpoint=record.endpoints["market_data"])
        for fault in faults:
            self._log.error("a normalizer's address cannot be used", error=str(fault))
        self._leave_silent(now)
        self._ask()

    def readiness(self) -> list[str]:
        """No publisher heard, streams without a state, a store down."""
        if self._transport is None or self._keeper is None:
            return ["not started"]
        reasons = []
        now = self._context.clock()
        feed = self._intake.feed
        if feed.silent(now):
            reasons.append(self._silence(now))
        if feed.waiting:
            reasons.append(f"{feed.waiting} of {feed.streams} streams wait for a snapshot")
        if self._keeper.fault:
            reasons.append(f"state store: {self._keeper.fault}")
        if self._archiving is not None:
            reasons += self._archiving.reasons()
        return reasons

    def statistics(self) -> SnapshotterStatistics:
        """Its figures."""
        keeper, now = self._keeper, self._context.clock()
        return self._intake.statistics(
            now,
            store_up=keeper is not None and not keeper.fault,
            links_rebuilt=self._links.rebuilt_total if self._transport is not None else 0,
            archive=None if self._archiving is None else self._archiving.figures(now),
        )

    def figures(self) -> Figures:
        """Messages of the mesh in, answers out."""
        counters = self._intake.counters
        return Figures(
            messages_in_total=counters.messages_received_total,
            messages_out_total=sum(counters.requests_total.values()),
            gaps_total=counters.gaps_total,
            queue_messages=self._intake.feed.held_items,
            lag_ms=counters.input_lag_ms,
        )

    async def stop(self) -> None:
        """Take nothing more, write and archive everything, answer until then; bounded in time; idempotent."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        if self._transport is not None:
            self._subscriber.close()
        ends = [] if self._keeper is None else [self._keeper.close(_STOP_S)]
        if self._archiving is not None:
            ends.append(self._archiving.close(self._config.archive.drain_s))
        await asyncio.gather(*ends)
        if self._transport is not None:
            self._transport.close(_FLUSH_S)
            self._transport = None

    # Input ------------------------------------------------------------------------------------------------------

    def _on_frames(self, frames: list[bytes]) -> None:
        now = self._context.clock()
        self._intake.frames(frames, now)
        self._settle(now)

    def _on_reply(self, key: StreamKey, asked: Asked, parts: Sequence[bytes] | None) -> None:
        if self._transport is None:
            return
        now = self._context.clock()
        self._intake.answer(key, asked, parts, now)
        self._settle(now)

    def _settle(self, now: int) -> None:
        """After anything that may have had consequences: ask what is wanted, log what happened."""
        self._ask()
        self._report(now)
        if self._archiving is not None:
            self._archiving.settled()

    def _ask(self) -> None:
        wants = self._intake.wants
        if not wants.waiting:
            return
        term = self._intake.feed.term
        requester = self._links.normalizer(self._number, self._intake.feed.publisher)
        if requester is None:
            return
        for key, wanted in wants.take():
            self._intake.counters.recovery_requests_total[wanted.rung] += 1
            requester.ask(
                request_of(key, wanted), partial(self._on_reply, key, Asked(wanted, term)), _REQUEST_TIMEOUT_S
            )

    # What was kept ----------------------------------------------------------------------------------------------

    async def _restore(self, keeper: StateKeeper) -> None:
        """Go on from the newest of the state store and the archive, where the journal ends."""
        archiving = self._archiving
        restoration = self._restoration = Restoration(self._products)
        if archiving is None:
            await keeper.open()
        else:
            await asyncio.gather(keeper.open(), archiving.open(restoration))
            await archiving.replay(restoration)
        self._restoration = None
        restored = restoration.streams()
        now = self._context.clock()
        for one in restored:
            self._intake.adopt(one.state)
            if not one.written:
                self._intake.schedule.changed(one.state.key, now)
        if archiving is not None:
            archiving.begin(restored)
        self._log.info("restored", streams=len(restored), unreadable=restoration.unreadable)
        self._report(now)

    def _adopt(self, stored: Iterable[StoredState]) -> None:
        """What the state store holds of this shard's products; others belong to an earlier configuration."""
        if self._restoration is not None:
            self._restoration.stored(stored)
            return
        own = [one for one in stored if one.stream.product in self._products]
        restored = [one.stream for one in own if self._intake.restore(one)]
        if self._archiving is not None:
            for key in restored:
                self._archiving.adopted(key)
        self._log.info("restored from the state store, which could not be read before", streams=len(restored))
        self._report(self._context.clock())

    async def _flush(self) -> None:
        if self._archiving is not None:
            await self._archiving.flush()

    def _writes_states(self) -> bool:
        """False while another one of the pair writes them to the store that they share."""
        if not self._shares_states:
            return True
        return self._state_pair.primary(self._context.clock()) or (self._stopping and self._state_pair.alone)

    # Output -----------------------------------------------------------------------------------------------------

    def _on_request(self, payload: bytes, responder: Responder) -> None:
        now = self._context.clock()
        answer = self._answers.answer(payload, now)
        if isinstance(answer, Answer):
            responder.reply(answer.header, answer.frames)
        elif self._archiving is not None:
            self._archiving.answer(answer, responder)
        self._report(now)

    # Timers -----------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._timers["beat"] = self._loop.call_later(_BEAT_S, self._beat)
        now = self._context.clock()
        self._intake.tick(now)
        self._links.watch(self._number, self._intake.feed.heard_at, now)
        self._leave_silent(now)
        self._note_attachment(now)
        self._settle(now)
        if self._archiving is not None:
            self._archiving.beat(now)

    def _write(self) -> None:
        self._timers["write"] = self._loop.call_later(self._section.write_interval_ms / 1000, self._write)
        if self._keeper is not None:
            self._keeper.beat(self._context.clock())

    def _leave_silent(self, now: int) -> None:
        feed = self._intake.feed
        heard = None if feed.silent(now) else feed.publisher
        for record in self._links.leave_unlisted(lambda record: stable_id(record.instance) == heard):
            self._log.info("no longer following", normalizer=record.instance)

    # What is said -----------------------------------------------------------------------------------------------

    def _note_attachment(self, now: int) -> None:
        attached = not self._intake.feed.silent(now)
        if attached == self._attached:
            return
        self._attached = attached
        if attached:
            self._log.info("beacons come", term=self._intake.feed.term)
        else:
            self._log.warning("beacons have stopped", reason=self._silence(now))

    def _silence(self, now: int) -> str:
        feed = self._intake.feed
        names = ", ".join(self._links.names(Role.NORMALIZER, self._number))
        if not names:
            return f"no normalizer of shard {self._number} is known"
        if feed.stale_beacons and feed.heard_at is None:
            return f"{names} publishes under a term below {feed.term}, which was seen before: restart it"
        if feed.heard_at is None:
            return f"no beacon from {names} yet"
        return f"no beacon from {names} for {(now - feed.heard_at) / 1e9:.1f} s"

    def _report(self, now: int) -> None:
        events = self._intake.take_events()
        if not events:
            return
        gaps: list[GapFound | GapHealed] = []
        for event in events:
            match event:
                case GapFound() | GapHealed():
                    gaps.append(event)
                case TermRaised():
                    self._log.info("a publisher with a higher term", term=event.term, before=event.before)
                case StateDiscarded():
                    self._log.warning("state discarded", stream=name_of(event.stream), reason=event.why)
                case BadInput():
                    log_bad_input(self._log, self._repeats, event, now)
        log_gaps(self._log, gaps)
