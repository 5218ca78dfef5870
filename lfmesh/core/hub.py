"""The gateway's heart: streams in, clients out, as plain functions. No await, no clock, no socket.

    increments, opened, based, healed, voided ──► ring + open turn ──flush──► one write per client   (hub_streams)
                                                   └─► conflaters ──emit──┘                          (hub_lanes)
    subscribe, or too slow ──► snapshots, tails, positions ──pull──► live                            (hub_joins)
    what a socket does not take ──► its outbox, within bounds                                        (hub_outboxes)

Calls come in the order of events. A turn is: any number of the publisher's calls, then `flush`. Everything else may
come between turns; what changes who gets what ends an open turn first. Requests to others collect in `take_wants`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Literal, NamedTuple

from lfmesh.core import hub_history
from lfmesh.core.hub_archive import ArchiveCounters
from lfmesh.core.hub_clients import Client, Join, Sink
from lfmesh.core.hub_frames import text_frame, text_frames
from lfmesh.core.hub_history import ENTRY_OVERHEAD_BYTES, Unit
from lfmesh.core.hub_joins import JoinCounters, JoinLimits, Joins, Start, Want
from lfmesh.core.hub_lanes import Lanes, interval_ns
from lfmesh.core.hub_outboxes import OutboxCounters, Outboxes, OutboxLimits
from lfmesh.core.hub_pace import Pace
from lfmesh.core.hub_snapshots import Cached, State, TradeIds, state_of
from lfmesh.core.hub_streams import Fanout, Stream
from lfmesh.core.ring import ReplayRing, RingStatistics
from lfmesh.types import Position, StreamKey

_ATTEMPTS = 2
"""A snapshot that was asked for more often than this will not come soon."""
_PUBLISHED_NS = 1_000_000_000
"""A snapshot that is being published is not asked for before so long."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """What may wait for one client, in its outbox and its socket's buffer: past `soft_bytes`, or when it has waited
    for `soft_age_ns`, the client is conflated; past `outbox_bytes`, or when its socket has taken nothing for
    `stall_ns`, it is closed. Who gets more than `client_messages_per_s` or `client_bytes_per_s` (0: no limit) is
    conflated, too.
    """

    ring_bytes: int
    ring_age_ns: int
    outbox_bytes: int
    soft_bytes: int = 1 << 62
    soft_age_ns: int = 1 << 62
    stall_ns: int = 40_000_000_000
    client_messages_per_s: float = 0.0
    client_bytes_per_s: float = 0.0
    heartbeat_ticks: int = 4
    heartbeat_slices: int = 1
    joins: JoinLimits = field(default_factory=JoinLimits)


@dataclass(slots=True)
class HubCounters:
    """What has happened since the start. Deliveries are messages times clients."""

    messages: int = 0
    control: int = 0
    heartbeats: int = 0


class HubStatistics(NamedTuple):
    """What the hub holds now, and its counters."""

    clients: int
    subscriptions: int
    joining: int
    groups: int
    lanes_emitted: int
    lanes_merged: int
    streams: int
    paused: int
    conflating: int
    outbox_bytes: int
    deliveries: int
    delivered_bytes: int
    ring: RingStatistics


class Waiting(NamedTuple):
    """One client that is slow: how long its socket has taken nothing more, what waits for it, how often it has been
    conflated, and whether it is now."""

    name: str
    lag_ns: int
    bytes: int
    conflations: int
    conflating: bool
    subscriptions: int


class Hub:
    """See the module's docstring. Streams begin to exist when they are first named.

    `archives` tells how many archives can be asked for a stream, now; 0: none.
    """

    def __init__(self, limits: HubLimits, archives: Callable[[StreamKey], int] = lambda _: 0) -> None:
        self.counters = HubCounters()
        self._limits = limits
        self._ring: hub_history.Ring = ReplayRing(limits.ring_bytes, limits.ring_age_ns)
        self._streams: dict[StreamKey, Stream] = {}
        self._clients: dict[Client, None] = {}
        self._slices: list[dict[Client, None]] = [{} for _ in range(limits.heartbeat_slices)]
        self._slice = 0
        self._next_number = 0
        metered = limits.client_messages_per_s > 0 or limits.client_bytes_per_s > 0
        bounds = OutboxLimits(limits.soft_bytes, limits.soft_age_ns, limits.outbox_bytes, limits.stall_ns)
        self._outboxes = Outboxes(bounds, lambda client: self._joins.conflate(client), self.disconnect)
        self._fanout = Fanout(self._outboxes.hold, metered=metered)
        self._lanes = Lanes(self._fanout, self._ring)
        self._pace = Pace(limits.client_messages_per_s, limits.client_bytes_per_s) if metered else None
        self._joins = Joins(self._fanout, self._lanes, self._ring, limits.joins, archives, self._pace)

    # What is published ------------------------------------------------------------------------------------------

    def stream(self, key: StreamKey) -> Stream:
        """The hub's own record of a stream, for calls that name it often."""
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Stream(key)
        return stream

    def increments(self, stream: Stream, position: Position, messages: Sequence[bytes], now: int) -> None:
        """The next increments of the stream, in order and without a hole; `position` is that of the last one."""
        # The path of every message: no call here that is not needed.
        count = len(messages)
        if count == 1:
            frame = text_frame(messages[0])
            frames = [frame]
            size = len(frame) + ENTRY_OVERHEAD_BYTES
        else:
            frames = text_frames(messages)
            size = sum(map(len, frames)) + ENTRY_OVERHEAD_BYTES
        self._ring.extend(stream.key, position, count, frames, size, now)
        stream.position = position
        self.counters.messages += count
        if stream.trades is not None:
            stream.trades.newest = frames[-1]
        if stream.cached is not None:
            self._joins.extended(stream, frames)
        self._fanout.publish(stream, frames)
        if stream.lanes:
            self._lanes.extended(stream, messages)
        if stream.joins:
            self._joins.advanced(stream, now)

    def opened(self, stream: Stream, position: Position, term: int, messages: Sequence[bytes], now: int) -> None:
        """The publisher's snapshot that opens an epoch (its parts): clients get it in its place."""
        self._fanout.flush()  # whoever does not keep up with that stands where the stream stood before
        self.counters.messages += len(messages)
        self._snapshot_in_place(stream, position, text_frames(messages), now)
        if self._joins.wanting(stream):  # those who wait for a snapshot need none from elsewhere
            self._joins.offered(stream, state_of(position, term, messages), now)
        if stream.joins:
            self._joins.advanced(stream, now)

    def based(self, stream: Stream, position: Position, now: int) -> None:
        """The stream stands at `position`; what was before it never came here."""
        stream.position = position
        if stream.joins:
            stream.ask_at = 0
            self._joins.advanced(stream, now)
            self._joins.due(stream, now)

    def healed(self, stream: Stream, state: State, now: int) -> None:
        """What is missing after the stream's position can't be had: it goes on from this state."""
        assert stream.position is not None
        self._fanout.flush()
        frames = Cached(stream.key, state).frames("gap", stream.holding(stream.position))
        self._snapshot_in_place(stream, state.position, frames, now)
        if self._joins.wanting(stream):
            self._joins.offered(stream, state, now)
        if stream.joins:
            self._joins.advanced(stream, now)

    def voided(self, stream: Stream, term: int, now: int) -> None:
        """What the stream's replaced publisher said last is void; states of terms below `term` are, too."""
        held = stream.position
        if held is None:
            return
        self._fanout.flush()
        self._ring.forget(stream.key)
        self._joins.uncache(stream)
        holding = stream.holding(held)
        if stream.trades is not None:
            stream.trades.end_epoch(held)
            stream.trades.newest = b""
        stream.position = stream.ahead = None
        stream.min_term = term
        self._joins.restart(stream, holding, now)

    def rewound(self, stream: Stream, term: int, now: int) -> None:
        """The stream goes on from another moment of its history, under this term: nothing published before counts.

        Everyone who follows it gets the snapshot that is published next, as of a stream that they never had.
        """
        self._fanout.flush()
        self._ring.forget(stream.key)
        self._joins.uncache(stream)
        if stream.trades is not None:
            stream.trades = TradeIds()
        stream.position = stream.ahead = None
        stream.min_term = term
        stream.ask_at = now + _PUBLISHED_NS
        self._joins.restart(stream, None, now, "resync")

    def status(self, stream: Stream, message: bytes) -> None:
        """A status of the stream, to everyone who follows or joins it."""
        frame = text_frame(message)
        for lane in (stream, *stream.lanes.values()):
            self._fanout.publish(lane, (frame,))
        for client in tuple(stream.joins):
            self._outboxes.give(client, frame)

    @property
    def conflates(self) -> bool:
        """True while somebody wants to be sent less than everything."""
        return self._lanes.any

    def emit_at(self, now: int) -> int | None:
        """When to call `emit`; None while nobody wants to be sent less than everything."""
        return self._lanes.next_at(now)

    def emit(self, now: int) -> None:
        """What has been held back for `conflate_ms` until now goes out."""
        self._joins.lane_moved(self._lanes.emit(now))
        self._fanout.flush()

    def flush(self) -> None:
        """End the turn: what was published goes out."""
        self._fanout.flush()

    # Clients ----------------------------------------------------------------------------------------------------

    def connect(self, sink: Sink, name: str = "", *, deflate: bool = False) -> Client:
        """A new client, that follows nothing yet; `deflate`: it takes compressed messages."""
        self._next_number += 1
        client = Client(sink, self._next_number, name, deflate)
        self._clients[client] = self._slice_of(client)[client] = None
        return client

    def disconnect(self, client: Client) -> None:
        """The client is gone; idempotent."""
        if self._clients.pop(client, self) is self:
            return
        del self._slice_of(client)[client]
        self._fanout.flush()
        client.closed = True
        self._joins.forget(client)
        self._outboxes.forget(client)

    def finish(self, client: Client) -> None:
        """The client follows nothing any more; what waits for it already is still sent."""
        self._fanout.flush()
        client.leaving = True
        self._joins.forget(client)

    def subscribe(self, client: Client, key: StreamKey, start: Start, now: int, conflate_ms: int = 0) -> None:
        """Follow a stream, from now on or anew; with at most one message in `conflate_ms`, if it can be conflated."""
        if not client.closed and not client.leaving:
            self._joins.begin(client, self.stream(key), start, now, interval_ns(key.channel, conflate_ms))

    def unsubscribe(self, client: Client, key: StreamKey) -> None:
        """Follow a stream no more; nothing of it is sent after this call."""
        self._joins.drop(client, self.stream(key))

    def is_behind(self, max_bytes: int, patience_ns: int, now: int) -> bool:
        """True while more than this waits for a client, or it is not live yet on a stream that it joins.

        One whose socket has taken nothing for `patience_ns` does not count.
        """
        return any(
            (client.pending_bytes > max_bytes or client.pulls or any(map(_is_awaited, client.joins.values())))
            and not (client.paused and now - client.paused_at > patience_ns)
            for client in self._clients
        )

    @staticmethod
    def subscriptions(client: Client) -> set[StreamKey]:
        """The streams that the client follows or is joining."""
        return {stream.key for stream in (*client.live, *client.joins)}

    def send(self, client: Client, message: bytes) -> None:
        """A message for one client, after everything that was published before it."""
        self._fanout.flush()
        self.counters.control += 1
        self._outboxes.give(client, text_frame(message))

    def broadcast(self, message: bytes) -> None:
        """A message for all clients."""
        self._fanout.flush()
        frame = text_frame(message)
        self.counters.control += len(self._clients)
        for client in tuple(self._clients):
            self._outboxes.give(client, frame)

    def heartbeat(self, message: bytes) -> None:
        """Whoever got nothing for a whole interval gets the heartbeat. One slice of all clients is looked at after the
        other, so that ten thousand don't hold up the loop: call it `heartbeat_ticks * heartbeat_slices` times per
        interval."""
        frame = text_frame(message)
        self._slice = (self._slice + 1) % len(self._slices)
        for client in tuple(self._slices[self._slice]):
            client.quiet += 1
            if client.quiet >= self._limits.heartbeat_ticks and not client.paused:
                self.counters.heartbeats += 1
                self._outboxes.give(client, frame)

    def paused(self, client: Client, now: int) -> None:
        """The client's socket takes no more for now."""
        self._outboxes.pause(client, now)

    def drained(self, client: Client) -> None:
        """The client's socket takes bytes again."""
        self._outboxes.drain(client)
        if not client.paused:
            self._joins.pulls.wake(client)

    def silent(self, client: Client) -> None:
        """The client answers no ping: it is dead, or too far behind to have read it."""
        self._outboxes.close(client, "slow_silent")

    @property
    def ready(self) -> bool:
        """True if `pull` has something to do."""
        return self._joins.pulls.ready or self._outboxes.late

    def pull(self, now: int) -> bool:
        """Conflate some of the slow, serve some of those who are joining; call it once a turn of the loop while it
        returns True."""
        self._outboxes.conflate_some()
        self._joins.pulls.pull(now)
        return self.ready

    # Answers and time -------------------------------------------------------------------------------------------

    def take_wants(self) -> list[Want]:
        """Requests to send, each once; each is to be answered by one of the next calls, up to `not_archived`."""
        wants = self._joins.wants
        if wants:
            self._joins.wants = []
        return wants

    def snapshot(self, key: StreamKey, state: State, now: int) -> None:
        """The answer to a WantSnapshot."""
        self._joins.snapshot(self.stream(key), state, now)

    def no_snapshot(self, key: StreamKey, now: int) -> None:
        """Nobody has the state that was wanted, or nobody answered."""
        self._joins.no_snapshot(self.stream(key), now)

    def older(self, key: StreamKey, units: Sequence[Unit], more: bool, now: int) -> None:
        """The answer to a WantOlder: units as published, their frames made by `text_frames`."""
        self._joins.older(self.stream(key), units, more, now)

    def no_older(self, key: StreamKey, now: int) -> None:
        """The publisher has nothing of what was wanted."""
        self._joins.no_older(self.stream(key), now)

    def unanswered_older(self, key: StreamKey, now: int) -> None:
        """Nobody answered, or somebody who has been replaced since."""
        self._joins.unanswered_older(self.stream(key), now)

    def archived(self, key: StreamKey, units: Sequence[Unit], more: bool, now: int) -> None:
        """The answer to a WantArchive: units as they were published, their frames made by `text_frames`."""
        self._joins.archive.answered(self.stream(key), units, more, now)

    def not_archived(self, key: StreamKey, why: Literal["none", "busy", "silent"], now: int) -> None:
        """The archive that was asked has not got it, can't tell now, or did not answer."""
        self._joins.archive.failed(self.stream(key), why, now)

    def tick(self, now: int) -> None:
        """What time has come for; call it several times a second."""
        self._ring.expire(now)
        for stream in self._streams.values():
            if stream.joins:
                self._joins.due(stream, now)
        self._outboxes.look(now)
        if self._pace is not None:
            self._keep_pace(self._pace, now)

    def _keep_pace(self, pace: Pace, now: int) -> None:
        pace.advance(now)
        for client in tuple(self._clients):
            self._fanout.settle(client)
            throttled = pace.throttles(client)
            if throttled and client.live:
                self._outboxes.conflate(client, "rate")
            if throttled != client.throttled:
                client.throttled = throttled
                self._joins.pulls.wake(client)

    def slowest(self, count: int, now: int) -> list[Waiting]:
        """The clients that take least of what they are sent, the worst first."""
        waiting = [
            Waiting(
                client.name,
                now - client.paused_at if client.paused else 0,
                client.pending_bytes + client.sink.buffered(),
                client.conflations,
                client.conflating,
                client.subscriptions,
            )
            for client in self._clients
            if client.paused or client.conflating
        ]
        return nlargest(count, waiting, key=lambda one: (one.lag_ns, one.bytes))

    @property
    def streams(self) -> Sequence[Stream]:
        """All streams that were ever named."""
        return tuple(self._streams.values())

    @property
    def deliveries(self) -> int:
        """Published messages sent so far, counted once for each client."""
        return self._fanout.deliveries

    @property
    def slow(self) -> OutboxCounters:
        """Clients closed and conflated because they did not keep up."""
        return self._outboxes.counters

    @property
    def join_counters(self) -> JoinCounters:
        """What joins and resumes have come to."""
        return self._joins.counters

    @property
    def archive_counters(self) -> ArchiveCounters:
        """What archives have answered."""
        return self._joins.archive.counters

    def statistics(self) -> HubStatistics:
        """What the hub holds now."""
        joining = sum(len(client.joins) for client in self._clients)
        return HubStatistics(
            clients=len(self._clients),
            subscriptions=joining + sum(len(client.live) for client in self._clients),
            joining=joining,
            groups=self._fanout.groups,
            lanes_emitted=self._lanes.emitted_total,
            lanes_merged=self._lanes.merged_total,
            paused=self._outboxes.paused,
            conflating=sum(client.conflating for client in self._clients),
            streams=len(self._streams),
            outbox_bytes=self._outboxes.bytes,
            deliveries=self._fanout.deliveries,
            delivered_bytes=self._fanout.bytes + self._joins.pulls.bytes,
            ring=self._ring.statistics(),
        )

    # Inside -----------------------------------------------------------------------------------------------------

    def _slice_of(self, client: Client) -> dict[Client, None]:
        return self._slices[client.number % len(self._slices)]

    def _snapshot_in_place(self, stream: Stream, position: Position, frames: Sequence[bytes], now: int) -> None:
        size = sum(map(len, frames)) + ENTRY_OVERHEAD_BYTES
        self._ring.append(
            stream.key, position.epoch, position.seq, 1, frames,
            size=size, now=now, snapshot=True, previous=stream.position,
        )  # fmt: skip
        if stream.trades is not None:
            if stream.position is not None and stream.position.epoch != position.epoch:
                stream.trades.end_epoch(stream.position)
            stream.trades.newest = frames[-1]
        stream.position = position
        self._joins.uncache(stream)
        waiting = self._lanes.replaced(stream, position) if stream.lanes else ()
        if len(frames) == 1:
            for lane in (stream, *stream.lanes.values()):
                self._fanout.publish(lane, frames)
        else:
            self._joins.detach(stream, frames, position)
        self._joins.lane_moved(waiting, frames, position)


def _is_awaited(join: Join) -> bool:
    """True while what a join waits for is under way, and not for something that is still to be published."""
    stream = join.stream
    if join.waits == "snapshot":
        return stream.position is not None and stream.ask_attempt <= _ATTEMPTS
    return join.waits in ("retransmission", "archive")
