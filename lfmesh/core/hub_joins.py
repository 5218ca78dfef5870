"""How a client gets from "subscribed" to live, on each stream, with nothing twice and nothing missing.

    subscribe ──► snapshot wanted ──► snapshot at S, then what came after S ──────────────┐
    from_seq ───► (ahead of us: awaited) ──► own ring ──► publisher's ring ──► its frames ┼─► queue ──► live
                                                 └── none has it: a snapshot (resume_failed)

Queues are pulled as the sockets drain (hub_pulls), so what a slow client waits for costs nothing but its place in the
ring; if the ring has lost that, it gets a snapshot.

However many clients wait for a stream's snapshot, it is asked for once (`WantSnapshot`), and kept for those who come
later while it is young and what was published after it is short. If no newer one is to be had, an old one serves.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lfmesh.core import hub_history
from lfmesh.core.hub_clients import Awaited, Client, Join
from lfmesh.core.hub_history import Ring, Run, Unit
from lfmesh.core.hub_pulls import PULL_BYTES, Pulls
from lfmesh.core.hub_snapshots import SOMETHING, Cached, Holding, State
from lfmesh.core.hub_streams import Fanout, Stream
from lfmesh.types import Position, StreamKey

_AHEAD_NS = 2_000_000_000
_RETRY_NS = 50_000_000
_RETRY_MAX_NS = 5_000_000_000


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


class WantOlder(NamedTuple):
    """Ask the stream's publisher for everything after a position that we don't have (any more)."""

    key: StreamKey
    after: Position


Want = WantSnapshot | WantOlder


class JoinLimits(NamedTuple):
    """`tail_bytes`: longest tail of a kept snapshot. `cache_bytes`: all kept snapshots together.

    `wait_ns`: how long a position ahead of ours is awaited. `owed_bytes`: what one client may be given from before our
    ring, at a time. `age_ns`: a kept snapshot older than this is asked for anew.
    """

    tail_bytes: int = 256 * 1024
    cache_bytes: int = 64 * 1024 * 1024
    wait_ns: int = 2_000_000_000
    owed_bytes: int = 16 * 1024 * 1024
    age_ns: int = 1_000_000_000


@dataclass(slots=True)
class JoinCounters:
    """What has happened since the start; `resumes` by where the increments came from."""

    joins: int = 0
    snapshots_asked: int = 0
    resumes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("ring", "retransmission", "snapshot"), 0))


class Joins:
    """See the module's docstring. `wants` fills with requests; who drives the hub takes them out and sends them."""

    def __init__(self, fanout: Fanout, ring: Ring, limits: JoinLimits) -> None:
        self.wants: list[Want] = []
        self.counters = JoinCounters()
        self._fanout = fanout
        self._ring = ring
        self._limits = limits
        self.pulls = Pulls(fanout, self._tail, self._too_slow)
        self._cached: OrderedDict[Stream, Cached] = OrderedDict()
        self._cached_bytes = 0

    # Begin and end ----------------------------------------------------------------------------------------------

    def begin(self, client: Client, stream: Stream, start: Start, now: int) -> None:
        """Follow a stream, or follow it anew from this start."""
        if isinstance(start, Next) and stream in client.live:
            return
        self.drop(client, stream)
        self.counters.joins += 1
        match start:
            case Next():
                self._fanout.enter(client, stream)
            case Fresh():
                self._want(self._join(client, stream), now)
            case After(position):
                self._resume(self._join(client, stream, position), now)
            case AfterSeq(seq):
                found = self._ring.from_seq(stream.key, seq)
                join = self._join(client, stream, found or Position(0, seq))
                if found is None:
                    self._fail(join, now)
                else:
                    self._resume(join, now)

    def drop(self, client: Client, stream: Stream) -> None:
        """Follow it no more."""
        if stream in client.live:
            self._fanout.leave(client, (stream,))
        join = client.joins.pop(stream, None)
        if join is not None:
            self._set(join, None)
            _clear(join)
            del stream.joins[client]

    def forget(self, client: Client) -> None:
        """The client is gone."""
        for stream in tuple(client.joins):
            self.drop(client, stream)
        self.pulls.forget(client)
        self._fanout.remove(client)

    def detach(self, stream: Stream, frames: Sequence[bytes], position: Position) -> None:
        """Live clients get these frames as their sockets drain, then what comes after `position`, then are live."""
        for client in self._fanout.members(stream):
            self._fanout.leave(client, (stream,))
            join = self._join(client, stream)
            join.holding = SOMETHING
            self._send(join, frames, position)

    def restart(self, stream: Stream, holding: Holding, now: int) -> None:
        """What clients hold of the stream is void: all get a snapshot when there is one; live ones hold `holding`."""
        for client in self._fanout.members(stream):
            self._fanout.leave(client, (stream,))
            join = self._join(client, stream)
            join.reason, join.holding = "gap", holding
            self._want(join, now)
        for join in stream.joins.values():
            if join.waits is None:  # how much of its queue was sent is not known
                self._begin_anew(join, SOMETHING, now)

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
        if stream.awaiting:
            for join in [join for join in stream.joins.values() if join.waits == "position"]:
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
        at = stream.position
        for join in self._end_older(stream):
            assert join.target is not None
            run = hub_history.link(units, join.target, until=at)
            if run is None or not self._owe(join, run):
                self._fail(join, now)
            elif run.end == at or self._tail(stream, run.end) is not None:
                self.counters.resumes["retransmission"] += 1
                self._send(join, join.queue, run.end)
            elif not more or not run.frames:
                self._fail(join, now)
        self._ask_older(stream)

    def no_older(self, stream: Stream, now: int) -> None:
        """The publisher has not got it any more, or nobody answered."""
        for join in self._end_older(stream):
            self._fail(join, now)
        self._ask_older(stream)

    def due(self, stream: Stream, now: int) -> None:
        """Give up and ask again what time has come for; call it often for a stream that somebody is joining."""
        if stream.ahead is not None and now - stream.ahead_at >= _AHEAD_NS:
            stream.ahead = None
            self._again(stream, now)
        for join in tuple(stream.joins.values()):
            if join.waits == "position" and now >= join.deadline:
                self._fail(join, now)
        if self.wanting(stream):
            self._ask(stream, now)

    @staticmethod
    def wanting(stream: Stream) -> bool:
        """True if somebody waits for a snapshot of the stream."""
        return any(join.waits == "snapshot" for join in stream.joins.values())

    def uncache(self, stream: Stream) -> None:
        """Keep the stream's snapshot no longer."""
        if stream.cached is not None:
            stream.cached = None
            self._cached_bytes -= self._cached.pop(stream).size

    # Inside -----------------------------------------------------------------------------------------------------

    def _join(self, client: Client, stream: Stream, target: Position | None = None) -> Join:
        join = Join(client, stream, "subscribe", None)
        if target is not None:
            join.reason, join.target, join.holding = "resume_failed", target, Holding(target)
        client.joins[stream] = stream.joins[client] = join
        return join

    @staticmethod
    def _set(join: Join, waits: Awaited | None) -> None:
        join.stream.awaiting += (waits == "position") - (join.waits == "position")
        join.waits = waits

    def _resume(self, join: Join, now: int) -> None:
        stream, target = join.stream, join.target
        assert target is not None
        if stream.position is None or target > stream.position:
            if join.waits != "position":
                join.deadline = now + self._limits.wait_ns
                self._set(join, "position")
            return
        run = self._tail(stream, target)
        if run is not None:
            self.counters.resumes["ring"] += 1
            self._send(join, run.frames, run.end)
        else:
            self._set(join, "retransmission")
            self._ask_older(stream)

    def _owe(self, join: Join, run: Run) -> bool:
        """Queue an answer's frames; False if the client would have more of such than is good."""
        size = sum(map(len, run.frames))
        join.queue.extend(run.frames)
        join.target = run.end
        join.owed += size
        join.client.owed += size
        return join.client.owed <= self._limits.owed_bytes

    def _too_slow(self, join: Join, now: int) -> None:
        self._begin_anew(join, Holding(join.cursor) if join.cursor else SOMETHING, now)

    def _fail(self, join: Join, now: int) -> None:
        self.counters.resumes["snapshot"] += 1
        self._want(join, now)

    def _begin_anew(self, join: Join, holding: Holding, now: int) -> None:
        """What was on its way can't be ended as it was begun; `holding` is what the client has of it, if anything."""
        if join.holding is not None:
            join.holding = holding
            if join.reason == "subscribe":
                join.reason = "gap"
        self._want(join, now)

    def _want(self, join: Join, now: int) -> None:
        self._set(join, "snapshot")
        _clear(join)
        stream, cached = join.stream, join.stream.cached
        # An old one serves only between a request for a newer one that came to nothing and the next.
        if cached is not None and (now - cached.came_at <= self._limits.age_ns or now < stream.ask_at):
            self._cached.move_to_end(stream)
            self._serve(join, cached)
        else:
            self._ask(stream, now)

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
        for join in stream.joins.values():
            if join.waits == "snapshot":
                self._serve(join, cached)

    def _serve(self, join: Join, cached: Cached) -> None:
        at = join.stream.position
        assert at is not None
        tail = cached.tail()
        frames = cached.frames(join.reason, join.holding)
        self._send(join, (*frames, tail) if tail else frames, at)

    def _send(self, join: Join, frames: Iterable[bytes], cursor: Position) -> None:
        self._set(join, None)
        self.pulls.add(join, frames, cursor)

    def _tail(self, stream: Stream, position: Position) -> Run | None:
        if position == stream.position:
            return Run([], position)
        return hub_history.after(self._ring, stream.key, position, PULL_BYTES)

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

    def _ask_older(self, stream: Stream) -> None:
        if stream.older_after is not None:
            return
        targets = [join.target for join in stream.joins.values() if join.waits == "retransmission" and join.target]
        if targets:
            stream.older_after = min(targets)
            self.wants.append(WantOlder(stream.key, stream.older_after))

    @staticmethod
    def _end_older(stream: Stream) -> list[Join]:
        """Those whom the answer is for; who came later and wants still older ones is asked for next."""
        asked, stream.older_after = stream.older_after, None
        return [
            join
            for join in stream.joins.values()
            if join.waits == "retransmission" and join.target is not None and asked is not None and join.target >= asked
        ]


def _clear(join: Join) -> None:
    join.queue.clear()
    join.client.owed -= join.owed
    join.owed = 0
