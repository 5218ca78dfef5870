"""The normalizer that stands by: it follows what the active one publishes, and says when to take its place.

    the active one's XPUB ─► Followed: replica of every stream's state, ring of what was published
    PULL raw ─► held, from the record on to which the replica has come

It answers nothing: its state and ring are of use once it publishes itself. It takes over when the active one has said
that it ends, or when its beacons have been missing for `SILENT_S`; that this process was late itself proves nothing, so
then it waits anew. A normalizer that has just started stands by too, until it is clear whether somebody is active.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import assert_never

import msgspec

from lfmesh.core.codec import Header
from lfmesh.core.repeat import Repeats
from lfmesh.core.replica import (
    Asked,
    Replica,
    StateDiscarded,
    TermRaised,
    request_of,
)
from lfmesh.core.sharding import stable_id
from lfmesh.core.trouble import BadInput, GapFound, GapHealed
from lfmesh.messages import ServiceRecord
from lfmesh.ports import Figures
from lfmesh.services.normalizer.outflow import Ring, retain
from lfmesh.services.normalizer.post import HeldFrames, Post
from lfmesh.services.normalizer.restore import History, Told, history_of_replica
from lfmesh.services.normalizer.statistics import NormalizerStatistics, plain
from lfmesh.services.trouble import log_bad_input, log_gaps, name_of
from lfmesh.types import Role, StreamKey

SILENT_S = 0.6
"""A publisher whose beacons (one each 100 ms) are missing for so long is taken to be gone."""
LATE_S = 0.15
TICK_S = 0.05
_TICKS_BETWEEN_CHORES = 2
_REQUEST_TIMEOUT_S = 1.0
_EVERYTHING = 1 << 62


class Followed(Replica):
    """The replica, and everything that was published in the ring."""

    def __init__(self, shard: int, ring: Ring) -> None:
        super().__init__(shard)
        self._ring = ring

    def _published(self, key: StreamKey, header: Header, count: int, frame: bytes, now: int) -> None:
        retain(self._ring, key, header, count, frame, now)

    def _forgotten(self, key: StreamKey) -> None:
        self._ring.forget(key)


class Standby:
    """See the module's docstring. `raw` gets the frames of ingestors; call `tick` each `TICK_S`."""

    def __init__(self, post: Post, raw: HeldFrames) -> None:
        self._post = post
        self._raw = raw
        self._log = post.context.log
        self._clock = post.context.clock
        self._loop = asyncio.get_running_loop()
        self.replica = Followed(post.shard, post.ring)
        self._repeats = Repeats()
        self._heard: int | None = None
        self._heard_s = self._ticked_s = self._loop.time()
        self._ticks = 0
        self._ended = False

    @property
    def follows(self) -> bool:
        """True once a publisher was heard."""
        return self._heard is not None

    @property
    def active(self) -> str:
        """Name of the publisher, as far as it is known."""
        publisher = self.replica.feed.publisher
        names = self._post.links.names(Role.NORMALIZER, self._post.shard)
        return next((name for name in names if stable_id(name) == publisher), f"{publisher:016x}")

    @property
    def heard_publisher(self) -> int:
        """Instance id of the publisher that is heard, 0 if none is."""
        feed = self.replica.feed
        return 0 if feed.silent(self._clock()) else feed.publisher

    def told(self) -> Told:
        """What was followed, as a snapshotter would tell it."""
        summaries, _ = self.replica.page("", _EVERYTHING)
        return Told(self.replica.feed.term, self.replica.inputs, summaries)

    def history(self, term: int) -> History:
        """What was followed, for whoever publishes from now on; `term` is the highest known otherwise."""
        return history_of_replica(self.replica, term)

    def end(self) -> None:
        """Follow no more; answers that are still under way mean nothing."""
        self._ended = True

    # Input ------------------------------------------------------------------------------------------------------

    def on_frames(self, frames: list[bytes]) -> None:
        """What the subscription to the other normalizers has brought."""
        now = self._clock()
        self.replica.frames(frames, now)
        heard_at = self.replica.feed.heard_at
        if heard_at != self._heard:
            self._heard, self._heard_s = heard_at, self._loop.time()
        self._ask()

    def _on_reply(self, key: StreamKey, asked: Asked, parts: Sequence[bytes] | None) -> None:
        if not self._ended:
            now = self._clock()
            self.replica.answer(key, asked, parts, now)
            self._ask()

    def _ask(self) -> None:
        replica = self.replica
        if not replica.wants.waiting:
            return
        feed = replica.feed
        requester = self._post.links.normalizer(self._post.shard, feed.publisher)
        if requester is None:
            return
        for key, wanted in replica.wants.take():
            replica.counts.recovery_requests_total[wanted.rung] += 1
            requester.ask(
                request_of(key, wanted), partial(self._on_reply, key, Asked(wanted, feed.term)), _REQUEST_TIMEOUT_S
            )

    # Time -------------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Time has passed; True if the publisher that was followed is gone."""
        at = self._loop.time()
        late = at - self._ticked_s > TICK_S + LATE_S
        if late:
            self._heard_s = at
        self._ticked_s = at
        self._ticks += 1
        if self._ticks % _TICKS_BETWEEN_CHORES == 0:
            now = self._clock()
            self.replica.tick(now)
            if not late:
                self._post.links.watch(self._post.shard, self.replica.feed.heard_at, now)
            self._raw.forget(self.replica.inputs)
            self._post.ring.expire(now)
            self._ask()
            self._report(now)
        return self.follows and (self.replica.left or at - self._heard_s > SILENT_S)

    # What is said -----------------------------------------------------------------------------------------------

    def readiness(self) -> list[str]:
        """Why it could not take over well now."""
        if not self.follows:
            return ["looking for who publishes, and where the streams stood"]
        feed = self.replica.feed
        reasons = []
        if feed.silent(self._clock()):
            reasons.append(f"no beacon from {self.active}")
        if feed.waiting:
            reasons.append(f"{feed.waiting} of {feed.streams} streams wait for a snapshot")
        return reasons

    def figures_in(self, statistics: NormalizerStatistics) -> NormalizerStatistics:
        """These figures with those of following."""
        feed, counts = self.replica.feed, self.replica.counts
        return msgspec.structs.replace(
            statistics,
            term=feed.term,
            followed_streams=len(self.replica.state),
            followed_streams_gapped=feed.gapped,
            followed_messages_total=counts.messages_received_total,
            followed_gaps_total=counts.gaps_total,
            followed_recoveries_total=plain(counts.recoveries_total),
        )

    def figures(self) -> Figures:
        """Messages followed; the lag is from their publication to here."""
        feed, counts = self.replica.feed, self.replica.counts
        return Figures(
            messages_in_total=counts.messages_received_total,
            gaps_total=counts.gaps_total,
            queue_messages=feed.held_items + len(self._raw),
            lag_ms=counts.input_lag_ms,
        )

    def _report(self, now: int) -> None:
        gaps: list[GapFound | GapHealed] = []
        for event in self.replica.take_events():
            match event:
                case GapFound() | GapHealed():
                    gaps.append(event)
                case TermRaised():
                    self._log.info("following", normalizer=self.active, term=event.term, before=event.before)
                case StateDiscarded():
                    self._log.warning("state discarded", stream=name_of(event.stream), reason=event.why)
                case BadInput():
                    log_bad_input(self._log, self._repeats, event, now)
                case _:
                    assert_never(event)
        log_gaps(self._log, gaps)


def others(peers: Sequence[ServiceRecord], shard: int, instance: str, incarnation: int) -> list[ServiceRecord]:
    """The shard's other normalizers; one of the same name that is newer has taken this process's place."""
    return [
        peer
        for peer in peers
        if peer.role is Role.NORMALIZER
        and peer.shard == shard
        and (peer.instance != instance or peer.incarnation > incarnation)
    ]
