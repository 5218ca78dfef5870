"""How a client gets from "subscribed" to live, on each stream, with nothing twice and nothing missing.

    subscribe ──► snapshot wanted ──► snapshot at S, then what came after S ──────────────┐
    from_seq ───► (ahead of us: awaited) ──► own ring ──► publisher's ring ──► its frames ┼─► queue ──► live
                                                 └── archive ─────► its frames ──────────┘
                                                      └── none has it: a snapshot (resume_failed)

Queues are pulled as the sockets drain (hub_pulls), so what a slow client waits for costs nothing but its place in the
ring. If our ring has lost that, the publisher's is asked (hub_older), then an archive (hub_archive); if nobody has it
any more, there is a snapshot. Who wants at most one message per interval goes live on a lane of the stream (hub_lanes),
and is never given older messages: a snapshot, or one message, says as much.

A client that is too slow for what it follows is conflated: all of it becomes joins. Trades go on from where they were;
of the others there is a snapshot of the state of then, when the socket has drained.

However many clients wait for a stream's snapshot, it is asked for once (`WantSnapshot`), and kept for those who come
later while it is young and what was published after it is short. If no newer one is to be had, an old one serves.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lfmesh.core import hub_history
from lfmesh.core.contents import KEPT_TRADES
from lfmesh.core.hub_archive import Archive, WantArchive
from lfmesh.core.hub_clients import Awaited, Client, Join
from lfmesh.core.hub_history import Ring, Run, Unit
from lfmesh.core.hub_lanes import ConflatedLane, Lanes
from lfmesh.core.hub_older import Older, OlderLimits, WantOlder
from lfmesh.core.hub_pace import Pace
from lfmesh.core.hub_pulls import SLICE_BYTES, Pulls
from lfmesh.core.hub_snapshots import SOMETHING, Cached, Holding, State
from lfmesh.core.hub_streams import Fanout, Lane, Stream
from lfmesh.types import Position, SnapshotReason, StreamKey

_AHEAD_NS = 2_000_000_000
_RETRY_NS = 50_000_000
_RETRY_MAX_NS = 5_000_000_000
_NEVER = 1 << 63
_LATEST_NS = 100_000_000
"""A state that is older than this is not the latest."""

RUNGS = ("ring", "retransmission", "archive", "snapshot")
"""What can serve a resume."""


class Fresh(NamedTuple):
    """Begin with a snapshot."""


class Next(NamedTuple):
    """Begin with the next increment."""


class After(NamedTuple):
    """Go on after this position."""

    position: Position


class AfterSeq(NamedTuple):
    """Go on after this seq, of whatever epoch is the only one retained."""

    seq: int


Start = Fresh | Next | After | AfterSeq


class WantSnapshot(NamedTuple):
    """Ask for a stream's state; `attempt` counts from 1 and lets the asker take turns between those who may know."""

    key: StreamKey
    attempt: int


Want = WantSnapshot | WantOlder | WantArchive


class JoinLimits(NamedTuple):
    """`tail_bytes`: longest tail of a kept snapshot. `cache_bytes`: all kept snapshots together.

    `wait_ns`: how long a position ahead of ours is awaited. `older_bytes`: what may be kept of answers from the
    publisher's ring, for all clients together, `archive_bytes` the same of archives'; `resume_bytes`: what one
    subscription may get of an archive (0: nothing). `age_ns`: a kept snapshot older than this is asked for anew.
    `trades`: how many a trades snapshot lists. `soft_bytes`: how far a client may be behind on all that it joins.
    """

    tail_bytes: int = 256 * 1024
    cache_bytes: int = 64 * 1024 * 1024
    wait_ns: int = 2_000_000_000
    older_bytes: int = 64 * 1024 * 1024
    age_ns: int = 1_000_000_000
    trades: int = KEPT_TRADES
    soft_bytes: int = 1 << 62
    archive_bytes: int = 32 * 1024 * 1024
    resume_bytes: int = 0


@dataclass(slots=True)
class JoinCounters:
    """What has happened since the start; `resumes` by where the increments came from.

    `caught_up` are joins that our ring had lost and that went on from the publisher's, or from an archive. `behind` are
    those that were conflated, since more had been published during their snapshot than the client may be behind.
    """

    joins: int = 0
    snapshots_asked: int = 0
    caught_up: int = 0
    behind: int = 0
    resumes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RUNGS, 0))


class Joins:
    """See the module's docstring. `wants` fills with requests; who drives the hub takes them out and sends them.

    `archives` tells how many archives can be asked for a stream, now.
    """

    def __init__(
        self,
        fanout: Fanout,
        lanes: Lanes,
        ring: Ring,
        limits: JoinLimits,
        archives: Callable[[StreamKey], int],
        pace: Pace | None = None,
    ) -> None:
        self.wants: list[Want] = []
        self.counters = JoinCounters()
        self._fanout = fanout
        self._lanes = lanes
        self._ring = ring
        self._limits = limits
        older = OlderLimits(limits.older_bytes, limits.archive_bytes, limits.resume_bytes, limits.trades)
        self._older = Older(self, ring, older, archives)
        self._now = 0
        self._pace = pace
        self.pulls = Pulls(
            fanout, self._follow_on, self._enter, self._lost, self._emptied, self._want, self._behind, pace
        )
        self._cached: OrderedDict[Stream, Cached] = OrderedDict()
        self._cached_bytes = 0

    # Begin and end ----------------------------------------------------------------------------------------------

    def begin(self, client: Client, stream: Stream, start: Start, now: int, interval_ns: int = 0) -> None:
        """Follow a stream, or follow it anew from this start; with at most one message per interval (`hub_lanes`)."""
        lane = client.live.get(stream)
        if isinstance(start, Next) and lane is not None and _interval_of(lane) == interval_ns:
            return
        held = self._held(client, stream)
        self.drop(client, stream)
        self._now = now
        self.counters.joins += 1
        match start:
            case Next() if not interval_ns:
                self._fanout.enter(client, stream, stream)
            case Next() if stream.position is not None:
                self.send(self._join(client, stream, interval_ns=interval_ns), (), stream.position)
            case Fresh() | Next():
                join = self._join(client, stream, interval_ns=interval_ns)
                join.holding = held  # what it gave up of trades is to be declared
                self._want(join, now)
            case After(position):
                self._resume(self._join(client, stream, position, interval_ns), now)
            case AfterSeq(seq):
                found = self._ring.from_seq(stream.key, seq)
                join = self._join(client, stream, found or Position(0, seq), interval_ns)
                if found is None:
                    self.fail(join, now)
                else:
                    self._resume(join, now)

    def drop(self, client: Client, stream: Stream) -> None:
        """Follow it no more."""
        if stream in client.live:
            self._fanout.leave(client, (stream,))
        join = client.joins.pop(stream, None)
        if join is not None:
            self._set(join, None)
            del stream.joins[client]
            self._clear(join)

    def forget(self, client: Client) -> None:
        """The client is gone."""
        for stream in tuple(client.joins):
            self.drop(client, stream)
        self.pulls.forget(client)
        self._fanout.remove(client)

    def detach(self, stream: Stream, frames: Sequence[bytes], position: Position) -> None:
        """Live clients get these frames as their sockets drain, then what comes after `position`, then are live."""
        for client in self._fanout.members(stream):
            join = self._moved(client, stream)
            join.holding, join.sent = SOMETHING, True
            self.send(join, frames, position)

    def conflate(self, client: Client) -> bool:
        """The client does not keep up: it gets what it follows as its socket drains, and of ticker and book only the
        state of then. False: there is nothing that it could be spared."""
        self._fanout.flush()
        moved = False
        for stream, lane in tuple(client.live.items()):
            at = lane.position if isinstance(lane, ConflatedLane) else stream.position
            if at is None:
                continue  # of this nothing has been sent yet
            join = self._moved(client, stream)
            join.reason, join.sent = "conflated", True
            join.skips = stream.trades is None
            join.holding, join.whole = stream.holding(at), True
            self.send(join, (), at)
            moved = True
        return moved

    def lane_moved(self, joins: Iterable[Join], frames: Sequence[bytes] = (), position: Position | None = None) -> None:
        """What these joins waited for has come to their lane: they follow on; with a snapshot, from it."""
        for join in joins:
            assert join.cursor is not None
            self.send(join, frames, position or join.cursor)

    def restart(self, stream: Stream, holding: Holding | None, now: int, reason: SnapshotReason = "gap") -> None:
        """What clients hold of the stream is void: all get a snapshot when there is one; live ones hold `holding`.

        `holding` None: it is to be as if they had held nothing, so that nothing is declared missing.
        """
        for client in self._fanout.members(stream):
            join = self._moved(client, stream)
            join.reason, join.holding, join.sent = reason, holding, True
            self._want(join, now)
        self._lanes.voided(stream)
        for join in tuple(stream.joins.values()):
            if join.waits in (None, "lane"):  # how much of its queue was sent is not known: at least what it began with
                join.begin_anew(None)
                if holding is None:
                    join.reason, join.holding = reason if join.sent else join.reason, None
                self._want(join, now)

    # What comes in ----------------------------------------------------------------------------------------------

    def extended(self, stream: Stream, frames: Sequence[bytes]) -> None:
        """Frames were published on a stream whose snapshot is kept."""
        cached = stream.cached
        assert cached is not None
        cached.extend(frames)
        if cached.tail_bytes > self._limits.tail_bytes:
            self.uncache(stream)

    def advanced(self, stream: Stream, now: int) -> None:
        """The stream's position has changed, and somebody is joining it."""
        at = stream.position
        assert at is not None
        if stream.ahead is not None and stream.ahead.position <= at:
            state, stream.ahead = stream.ahead, None
            self.offered(stream, state, now)
        for join in tuple(stream.waiting["position"]):
            self._resume(join, now)

    def snapshot(self, stream: Stream, state: State, now: int) -> None:
        """The state that was asked for."""
        stream.asking = False
        self.offered(stream, state, now)

    def offered(self, stream: Stream, state: State, now: int) -> None:
        """A state of the stream, wherever it comes from."""
        at = stream.position
        if state.term < stream.min_term:
            self._again(stream, now)
        elif at is None or state.position > at:
            stream.ahead, stream.ahead_at = state, now
        else:
            run = Run([], at) if state.position == at else hub_history.after(self._ring, stream.key, state.position)
            if run is None:  # whoever answered is behind all that we retain
                self._again(stream, now)
            else:
                self._adopt(stream, Cached(stream.key, state, run.frames, now))

    def no_snapshot(self, stream: Stream, now: int) -> None:
        """Nobody has the state (yet), or nobody answered."""
        stream.asking = False
        self._again(stream, now)

    def older(self, stream: Stream, units: Sequence[Unit], more: bool, now: int) -> None:
        """The answer to a WantOlder; `more`: it goes on after the last of them."""
        self._older.answered(stream, units, more, now)

    def no_older(self, stream: Stream, now: int) -> None:
        """The publisher has nothing of it any more."""
        self._older.none(stream, now)

    def unanswered_older(self, stream: Stream, now: int) -> None:
        """Nobody answered."""
        self._older.unanswered(stream, now)

    @property
    def archive(self) -> Archive:
        """What is asked of archives; it is to be told what they answer."""
        return self._older.archive

    def due(self, stream: Stream, now: int) -> None:
        """Give up and ask again what time has come for; call it often for a stream that somebody is joining."""
        self._now = now
        if stream.ahead is not None and now - stream.ahead_at >= _AHEAD_NS:
            stream.ahead = None
            self._again(stream, now)
        for join in tuple(stream.waiting["position"]):
            if stream.position is not None and now >= join.deadline:
                self.fail(join, now)
        self._older.due(stream, now)
        if self.wanting(stream):
            self._ask(stream, now)

    @staticmethod
    def wanting(stream: Stream) -> bool:
        """True if somebody waits for a snapshot of the stream."""
        return bool(stream.waiting["snapshot"])

    def uncache(self, stream: Stream) -> None:
        """Keep the stream's snapshot no longer."""
        if stream.cached is not None:
            stream.cached = None
            self._cached_bytes -= self._cached.pop(stream).size

    # Inside -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _held(client: Client, stream: Stream) -> Holding | None:
        """What a client that begins a trades stream anew has had of it."""
        if stream.trades is None:
            return None
        if stream in client.live:
            return None if stream.position is None else stream.holding(stream.position)
        join = client.joins.get(stream)
        return join.holding if join is not None and join.sent else None

    def _moved(self, client: Client, stream: Stream) -> Join:
        """A live client is joining again."""
        interval_ns = _interval_of(client.live[stream])
        self._fanout.leave(client, (stream,))
        return self._join(client, stream, interval_ns=interval_ns)

    def _join(self, client: Client, stream: Stream, target: Position | None = None, interval_ns: int = 0) -> Join:
        join = Join(client, stream, "subscribe", None, interval_ns=interval_ns)
        if target is not None:
            join.reason, join.target, join.holding = "resume_failed", target, stream.holding(target)
            join.whole = True
        client.joins[stream] = stream.joins[client] = join
        return join

    @staticmethod
    def _set(join: Join, waits: Awaited | None) -> None:
        waiting = join.stream.waiting
        if join.waits is not None:
            del waiting[join.waits][join]
        if waits is not None:
            waiting[waits][join] = None
        join.waits = waits

    def _resume(self, join: Join, now: int) -> None:
        stream, target = join.stream, join.target
        assert target is not None
        if stream.position is None or target > stream.position:
            # What is not known at all can't be ahead of us: then the time runs from the first position on.
            if join.waits != "position" or join.deadline == _NEVER:
                join.deadline = _NEVER if stream.position is None else now + self._limits.wait_ns
                self._set(join, "position")
            return
        run = self.own(join, target)
        if run is not None:
            self.count(join, "ring")
            if join.interval_ns:  # which makes one message of it
                run = Run([], target)
            self.send(join, run.frames, run.end)
        elif join.interval_ns:
            self.fail(join, now)
        else:
            self._older.wait(join, now)

    def _lost(self, join: Join, now: int) -> None:
        """The ring has lost what comes next; where the client stands is known."""
        assert join.cursor is not None
        if join.interval_ns:
            join.reason = "conflated" if join.sent else join.reason
            self.uncache(join.stream)  # so old that what follows it is lost
            self._want(join, now)
            return
        self.counters.caught_up += not join.served
        join.target, join.served = join.cursor, True
        join.begin_anew(join.stream.holding(join.cursor))
        join.whole = join.holding is not None and join.holding.position == join.cursor
        self._older.wait(join, now)

    def _emptied(self, join: Join) -> None:
        self._older.release(join, self._now)

    def _clear(self, join: Join) -> None:
        join.queue.clear()
        join.gives = None
        self._older.release(join, self._now)

    # What `Older` and `Archive` call ----------------------------------------------------------------------------

    def want(self, want: Want) -> None:
        """A request to be sent."""
        self.wants.append(want)

    def wait(self, join: Join, awaited: Awaited) -> None:
        """The join waits for this."""
        self._set(join, awaited)

    def fail(self, join: Join, now: int) -> None:
        """It can't be gone on from `target`: the stream begins anew with the state of now."""
        self.count(join, "snapshot")
        self._want(join, now)

    def count(self, join: Join, rung: str) -> None:
        """This serves a resume, and is counted once."""
        if not join.served:
            join.served = True
            self.counters.resumes[rung] += 1

    def send(self, join: Join, frames: Iterable[bytes], cursor: Position) -> None:
        """The client gets these, then what came after `cursor`."""
        self._set(join, None)
        self.pulls.add(join, frames, cursor)

    def own(self, join: Join, position: Position) -> Run | None:
        """What our own ring has for it after a position; None: it has not got all of that.

        A resume does not begin with the snapshot that healed a gap of ours: the publisher may have what was missing.
        """
        stream = join.stream
        if not join.sent and hub_history.over_gap(self._ring, stream.key, position):
            return None
        return self._tail(stream, position)

    def _follow_on(self, join: Join) -> Run | None:
        if join.interval_ns:
            return self._lanes.follow_on(join)
        assert join.cursor is not None
        return self.own(join, join.cursor) if join.target is not None else self._tail(join.stream, join.cursor)

    def _enter(self, join: Join) -> bool:
        if not join.interval_ns:
            self._fanout.enter(join.client, join.stream, join.stream)
            return True
        entered, waits = self._lanes.enter(join)
        if waits:
            self._set(join, "lane")
        return entered

    def _tail(self, stream: Stream, position: Position) -> Run | None:
        if position == stream.position:
            return Run([], position)
        return hub_history.after(self._ring, stream.key, position, SLICE_BYTES)

    # Snapshots --------------------------------------------------------------------------------------------------

    def _want(self, join: Join, now: int) -> None:
        self._set(join, "snapshot")
        self._clear(join)
        stream, cached = join.stream, join.stream.cached
        # An old one serves only between a request for a newer one that came to nothing and the next.
        if cached is not None and (self._serves(join, cached, now) or now < stream.ask_at):
            self._cached.move_to_end(stream)
            self._serve(join, cached)
        else:
            self._ask(stream, now)

    def _serves(self, join: Join, cached: Cached, now: int) -> bool:
        """True if a kept state is young enough. Who is conflated is to get the latest, and not what it has had."""
        age_ns = self._limits.age_ns
        if join.reason == "conflated":
            if join.cursor is not None and cached.state.position <= join.cursor:
                return False
            age_ns = min(age_ns, _LATEST_NS)
        return now - cached.came_at <= age_ns

    def _behind(self, join: Join, run: Run) -> bool:
        """True if the client does not keep up with a stream that it is joining: sending this would take longer than
        sending the state, and it is more than its share of what a client may be behind."""
        stream, cursor, client = join.stream, join.cursor, join.client
        if stream.trades is not None or join.interval_ns:
            return False  # of trades it is to get all; on a lane this is one message already
        assert cursor is not None
        bound = max(join.state_bytes, self._limits.soft_bytes // max(1, len(client.joins)))
        size = sum(map(len, run.frames))
        if run.end != stream.position and size <= bound:
            longer = hub_history.after(self._ring, stream.key, cursor, 3 * bound)  # which counts the ring's overhead
            if longer is not None:
                run, size = longer, sum(map(len, longer.frames))
        spared = self._pace is not None and self._pace.spares(run.frames, size, join.state_bytes)
        if run.end == stream.position and size <= bound and not spared:
            return False
        self.counters.behind += 1
        client.conflations += 1
        join.reason, join.holding, join.whole = "conflated", stream.holding(cursor), True
        return True

    def _adopt(self, stream: Stream, cached: Cached) -> None:
        stream.ask_attempt = stream.ask_at = 0
        self.uncache(stream)
        self._serve_waiting(stream, cached)
        if cached.tail_bytes <= self._limits.tail_bytes and cached.size <= self._limits.cache_bytes:
            stream.cached = self._cached[stream] = cached
            self._cached_bytes += cached.size
            while self._cached_bytes > self._limits.cache_bytes:
                self.uncache(next(iter(self._cached)))

    def _serve_waiting(self, stream: Stream, cached: Cached) -> None:
        for join in tuple(stream.waiting["snapshot"]):
            self._serve(join, cached)

    def _serve(self, join: Join, cached: Cached) -> None:
        at = join.stream.position
        assert at is not None
        holding = join.holding
        if holding is not None and join.whole:
            later = cached.after(holding.position, at)
            if later is not None:  # it has all of the state, and is not to be taken back
                self.send(join, () if join.interval_ns else later, holding.position if join.interval_ns else at)
                return
        join.whole = False
        if holding is not None and holding.trade_id is None:
            holding = join.stream.holding(holding.position)
        frames = cached.frames(join.reason, holding, deflate=join.client.deflate)
        join.gives = cached.held
        join.state_bytes = cached.size
        if join.interval_ns:
            self.send(join, frames, cached.state.position)
        elif self._pace is not None:  # each message is counted
            tail_frames = cached.tail_frames
            if join.stream.trades is None and self._pace.spares(tail_frames, cached.tail_bytes, cached.size):
                self.send(join, frames, cached.state.position)  # then there will be a newer state
            else:
                self.send(join, (*frames, *tail_frames), at)
        else:
            tail = cached.tail()
            self.send(join, (*frames, tail) if tail else frames, at)

    def _ask(self, stream: Stream, now: int) -> None:
        if not stream.asking and stream.ahead is None and now >= stream.ask_at:
            stream.asking = True
            stream.ask_attempt += 1
            self.counters.snapshots_asked += 1
            self.wants.append(WantSnapshot(stream.key, stream.ask_attempt))

    def _again(self, stream: Stream, now: int) -> None:
        stream.ask_at = now + min(_RETRY_NS << min(stream.ask_attempt, 8), _RETRY_MAX_NS)
        if stream.cached is not None:
            self._serve_waiting(stream, stream.cached)


def _interval_of(lane: Lane) -> int:
    return lane.interval_ns if isinstance(lane, ConflatedLane) else 0
