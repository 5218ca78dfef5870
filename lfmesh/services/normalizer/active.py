"""The normalizer that publishes, from its start or take-over to its end: raw records in, numbered market data out.

    PULL raw ─► Upstreams (numbers, replay) ─► Intake (parse, route) ─► Product … ─► Outflow (frames, ring) ─► XPUB
                                                                                          ROUTER ◄─ retransmit, snapshot

One turn: what the raw socket handed over (or one slice of a replay) is applied, and everything that it brought is
published at its end, under one reading of the clock. A turn is bounded in bytes, so that beacons and requests are not
kept waiting.

It begins with what an earlier process has left (`History`). Books are work to restore: they are so in slices, while
beacons under the new term go out already, which end whoever published before. Raw frames are held until it is done.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

from lfmesh.core.feed import BEACON_INTERVAL_NS
from lfmesh.core.sharding import stable_id
from lfmesh.messages import ServiceRecord
from lfmesh.ports import Figures
from lfmesh.services.normalizer.answers import Answers
from lfmesh.services.normalizer.journal import Journal, some
from lfmesh.services.normalizer.outflow import Outflow
from lfmesh.services.normalizer.pipelines import Pipelines, patience_of
from lfmesh.services.normalizer.post import HeldFrames, Post
from lfmesh.services.normalizer.restore import History
from lfmesh.services.normalizer.resyncs import Resyncs
from lfmesh.services.normalizer.statistics import NormalizerStatistics, plain
from lfmesh.services.normalizer.upstream import Events, Upstreams
from lfmesh.transport import Responder
from lfmesh.types import Channel

TURN_BYTES = 256 * 1024
"""Raw bytes that one turn takes: about a thousand messages, some milliseconds."""

FULL_BEACON_INTERVAL_NS = 1_000_000_000
AT_RISK_INTERVAL_NS = 3_000_000_000
"""All books of an ingestor are asked anew at most this often, when a frame could not be read that may be any book's."""

_BEACON_S = BEACON_INTERVAL_NS / 1e9
_OPENING_S = 0.02
"""Products are restored for so long before others get their turn."""
_PAUSED_S = 0.5
_READ_FIRST_S = 0.05
"""A tick that comes so late is put off for a moment: a process that was paused may have been replaced meanwhile, which
what waits to be read says."""


class Active:
    """See the module's docstring. `raw`: frames that came before it could take them."""

    def __init__(self, post: Post, history: History, term: int, raw: HeldFrames) -> None:
        self._post = post
        self._history = history
        self._raw = raw
        context, section = post.context, post.section
        self._log = context.log
        self._clock = context.clock
        self._loop = asyncio.get_running_loop()
        self._stale_after_ns = round(section.stale_after_s * 1e9)
        self._resyncs = Resyncs()
        self._journal = Journal(context.log, self._resyncs)
        self._pipelines = Pipelines(self._journal, has_books=post.has_books, patience=patience_of(section))
        self._turn = self._pipelines.turn
        intake = self._pipelines.intake
        self._upstreams = Upstreams(
            post.shard,
            post.transport,
            context,
            Events(
                intake.take, intake.lost, intake.replaced, intake.broken, intake.behind, intake.heard, self._begin,
                self._flush,
            ),
            history.begins,
            post.instance,
        )  # fmt: skip
        self._journal.name_of = self._upstreams.name_of
        for begin in history.begins:
            self._turn.begin_at(begin)
        self._outflow = Outflow(post.shard, stable_id(post.instance), term, post.publisher, post.ring, self._turn)
        self._answers = Answers(self._pipelines, self._outflow, self._clock)
        self._peers: tuple[ServiceRecord, ...] = ()
        self._unopened = list(reversed(post.products))
        self._running = False
        self._ended = False
        self._full_beacon_due = True
        self._full_beacon_at = self._books_at_risk_at = 0
        self._tick_at = 0.0
        self._tick_handle: asyncio.TimerHandle | None = None

    # Start and end ----------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The term under which it publishes."""
        return self._outflow.term

    def begin(self, peers: Sequence[ServiceRecord]) -> None:
        """Speak for the shard from now on; the streams go on when they are restored."""
        self._peers = tuple(peers)
        self._tick_at = self._loop.time() + _BEACON_S
        self._tick_handle = self._loop.call_at(self._tick_at, self._on_tick)
        self._open_some()
        if not self._running:
            self._outflow.beacon(self._begin())

    def _open_some(self) -> None:
        if self._ended:
            return
        now = self._begin()
        until = self._loop.time() + _OPENING_S
        while self._unopened and self._loop.time() < until:
            self._pipelines.open([self._unopened.pop()], self._history, now, self._stale_after_ns)
        self._flush()
        if self._unopened:
            self._loop.call_soon(self._open_some)
        else:
            self._run(now)

    def _run(self, now: int) -> None:
        self._running = True
        history = self._history
        outlets = self._pipelines.outlets.values()
        self._log.info(
            "running", term=self._outflow.term, products=len(self._post.products), restored=len(history.products),
            streams_going_on=sum(outlet.is_open for outlet in outlets),
        )  # fmt: skip
        self._begin()
        self._upstreams.on_peers(self._peers, now)
        self._flush()
        self._send_beacon(now)
        self._work_off_held()

    def end(self, *, farewell: bool) -> None:
        """Speak no more; `farewell`: say a last time where the streams stand."""
        if self._ended:
            return
        self._ended = True
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        if farewell and self._running:
            self._outflow.beacon(self._clock(), self._pipelines.outlets.values(), leaving=True)
        self._upstreams.close()

    # Turns ------------------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        now = self._clock()
        self._turn.begin(now)
        return now

    def _flush(self) -> None:
        self._journal.write(self._turn.ts_publish)
        if self._ended:
            self._turn.touched.clear()
            return
        self._outflow.flush()

    def on_raw(self, frames: list[bytes]) -> None:
        """What the raw socket handed over."""
        if not self._running or len(self._raw):
            self._raw.extend(frames)
            return
        now = self._begin()
        for frame in frames:
            self._upstreams.frame(frame, now)
        self._flush()

    def _work_off_held(self) -> None:
        if self._ended or not len(self._raw):
            return
        now = self._begin()
        size = 0
        while len(self._raw) and size < TURN_BYTES:
            frame = self._raw.pop()
            size += len(frame)
            self._upstreams.frame(frame, now)
        self._flush()
        self._loop.call_soon(self._work_off_held)

    def _on_tick(self) -> None:
        """Every 100 ms; a loop that comes late does it once, not as often as it missed it."""
        at = self._loop.time()
        late_s = at - self._tick_at
        if late_s > _PAUSED_S:
            self._tick_at = at + _READ_FIRST_S
            self._tick_handle = self._loop.call_at(self._tick_at, self._on_tick)
            return
        if self._running:
            self._work()
        else:
            self._outflow.beacon(self._begin())
        self._tick_at = max(self._tick_at + _BEACON_S, self._loop.time())
        self._tick_handle = self._loop.call_at(self._tick_at, self._on_tick)

    def _work(self) -> None:
        now = self._begin()
        self._upstreams.tick(now)
        if silent := self._pipelines.watch(now):
            stale_after_s = self._post.section.stale_after_s
            self._log.warning("the venue says nothing", products=some(silent), after_s=stale_after_s)
        self._flush()
        self._ask_resyncs(now)
        self._ask_backfills(now)
        self._send_beacon(now)
        self._outflow.expire(now)

    def _ask_resyncs(self, now: int) -> None:
        books = self._resyncs.due(now)
        at_risk = self._journal.books_at_risk
        if at_risk and now - self._books_at_risk_at >= AT_RISK_INTERVAL_NS:
            books += self._pipelines.books_of(at_risk)
            at_risk.clear()
            self._books_at_risk_at = now
        if books:
            self._upstreams.ask_resync(books)

    def _ask_backfills(self, now: int) -> None:
        for product, first, last, ingestors in self._pipelines.backfills_due(now):
            self._upstreams.ask_backfill(product, ingestors, first, last)

    # Beacons ----------------------------------------------------------------------------------------------------

    def _send_beacon(self, now: int) -> None:
        """Before a full one every status that is not live is said again: it is not asked for when it gets lost."""
        full = self._full_beacon_due or now - self._full_beacon_at >= FULL_BEACON_INTERVAL_NS
        if full:
            self._full_beacon_due, self._full_beacon_at = False, now
            self._pipelines.repeat_statuses(now)
            self._flush()
        self._outflow.beacon(now, self._pipelines.outlets.values() if full else None)

    def on_subscription(self, topic: bytes, subscribed: bool) -> None:
        """Somebody has subscribed to this topic, or does no more."""
        if subscribed and self._running and not self._full_beacon_due and self._outflow.reaches_beacons(topic):
            self._full_beacon_due = True
            self._loop.call_soon(self._greet)

    def _greet(self) -> None:
        """A full beacon for whoever has just subscribed, one for all of a turn."""
        if self._full_beacon_due and not self._ended:
            self._send_beacon(self._begin())

    # What the service asks --------------------------------------------------------------------------------------

    def on_request(self, payload: bytes, responder: Responder) -> None:
        """Retransmission or a snapshot."""
        self._answers.on_request(payload, responder)

    def on_peers(self, peers: Sequence[ServiceRecord]) -> None:
        """The merged view of the mesh has changed."""
        self._peers = tuple(peers)
        if self._running:
            self._upstreams.on_peers(peers, self._begin())
            self._flush()

    def readiness(self) -> list[str]:
        """Why it can't do its work now."""
        if not self._running:
            return [f"restoring {len(self._unopened)} of {len(self._post.products)} products"]
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
        """See `NormalizerStatistics`; the service adds what is not of this time as active alone."""
        intake, journal = self._pipelines.intake, self._journal
        upstreams, outflow = self._upstreams, self._outflow
        products = self._pipelines.products.values()
        bad = sum(intake.bad.values())
        valid = intake.accepted + sum(intake.dropped.values())
        ring = outflow.ring_statistics()
        return NormalizerStatistics(
            shard_products=len(self._post.products),
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
            raw_refused_total=plain(upstreams.refused),
            raw_held=upstreams.held,
            raw_gaps_total=upstreams.gaps,
            raw_records_dropped_total=plain(upstreams.dropped),
            raw_records_lost_total=upstreams.lost_records,
            replay_requests_total=upstreams.replay_requests,
            resync_requests_total=upstreams.resync_requests,
            links_lost_total=journal.links_lost,
            trade_gaps_total=journal.trade_gaps,
            trades_missing_total=journal.trades_missing,
            trades_held=sum(product.trades_held for product in products),
            trades_recovered_total=plain(journal.trades_recovered),
            trades_discarded_total=journal.trades_discarded,
            backfill_requests_total=upstreams.backfill_requests,
            backfills_refused_total=upstreams.backfills_refused,
            backfills_failed_total=journal.backfills_failed,
            trades_behind=sum(product.trades_behind for product in products),
            trades_corrected_total=journal.trades_corrected,
            books_lost_total=plain(journal.books_lost),
            book_snapshots_total=journal.book_snapshots,
            line_changes_total=plain(journal.line_changes),
            books_published=dict(
                Counter(journal.name_of(line) for product in products if (line := product.line) is not None)
            ),
            published_total=plain(outflow.messages),
            published_frames_total=outflow.frames,
            published_bytes_total=outflow.bytes,
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
            queue_messages=self._upstreams.held + self._upstreams.waiting + len(self._raw),
            lag_ms=None if lag_ns is None else lag_ns / 1e6,
        )
