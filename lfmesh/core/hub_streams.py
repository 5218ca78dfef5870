"""Streams, and the groups of clients that follow the same ones: what one turn of the fan-out is made of.

Messages of a turn are collected per lane (`publish`); `flush` makes one run of bytes per lane, one batch per group, and
writes once per client. A lane is a stream as it is published, or the same conflated (hub_lanes). Clients with the same
set of lanes are one group, so a batch that a thousand clients get is built once. Who comes and goes is noted and
regrouped when the next turn begins: never while one is open, or a client could miss or repeat what is in it (`flush`
first, then change).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from lfmesh.core.hub_clients import AWAITED, Awaited, Client, Join
from lfmesh.core.hub_frames import deflated
from lfmesh.core.hub_snapshots import Cached, Holding, State, TradeIds
from lfmesh.types import Channel, Position, StreamKey

if TYPE_CHECKING:
    from lfmesh.core.hub_lanes import ConflatedLane

_DENSE = 4
"""A turn that touches more than one in so many of all (group, lane) pairs builds its batches group by group."""


@dataclass(slots=True, eq=False)
class Lane:
    """What some clients get of a stream; `turn` are the frames of the open turn, `run` these joined while it ends."""

    turn: list[bytes] = field(default_factory=list, init=False)
    run: bytes = field(default=b"", init=False)
    deflated_run: bytes = field(default=b"", init=False)
    messages: int = field(default=0, init=False)
    """How many messages `run` holds."""
    groups: "dict[Group, None]" = field(default_factory=dict, init=False)
    followers: int = field(default=0, init=False)
    """Live clients, as of the last regrouping."""
    members: int = field(default=0, init=False)
    """Live clients."""


@dataclass(slots=True, eq=False)
class Stream(Lane):
    """One (product, channel) as the gateway knows it; `position` is that of the newest message published to clients."""

    key: StreamKey
    position: Position | None = None
    joins: dict[Client, Join] = field(default_factory=dict)
    lanes: "dict[int, ConflatedLane]" = field(default_factory=dict)
    """The same conflated, by interval (ns)."""
    cached: Cached | None = None
    ahead: State | None = None
    """A snapshot that is newer than our own position: it is used when we get there."""
    ahead_at: int = 0
    min_term: int = 0
    """States of older terms are void."""
    trades: TradeIds | None = None
    """Of a trades stream: which trades its positions stand for."""
    asking: bool = False
    ask_at: int = 0
    """When to ask for a snapshot again; 0: as soon as one is needed."""
    ask_attempt: int = 0
    older_after: Position | None = None
    """The position after which the publisher has been asked for older units."""
    older_at: int = 0
    """When to ask it again, if nobody answered."""
    older_since: int = 0
    """Since when it has not answered; 0: it does."""
    waiting: dict[Awaited, dict[Join, None]] = field(default_factory=lambda: {what: {} for what in AWAITED})
    """Its joins that wait, by what they wait for."""

    def __post_init__(self) -> None:
        if self.key.channel is Channel.TRADES:
            self.trades = TradeIds()

    def holding(self, position: Position) -> Holding:
        """What a client holds at a position."""
        return Holding(position, self.trades.at(position, self.position) if self.trades is not None else None)


@dataclass(slots=True, eq=False)
class Group:
    """Clients that follow the same lanes, and take (or don't take) compressed messages.

    `messages` and `bytes` count what each member has been sent since the group began, where that is metered.
    """

    lanes: tuple[Lane, ...]
    key: "tuple[frozenset[Lane], bool]"
    deflate: bool
    members: dict[Client, None] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    messages: int = 0
    bytes: int = 0


_run = attrgetter("run")
_deflated_run = attrgetter("deflated_run")


class Fanout:
    """See the module's docstring. `hold` gets what can't be written to a client now.

    `metered`: count for each client what it is sent (`Client.used_messages`, `used_bytes`; `settle` first).
    """

    def __init__(self, hold: Callable[[Client, bytes], None], *, metered: bool = False) -> None:
        self.deliveries = 0
        self.bytes = 0
        self._hold = hold
        self._metered = metered
        self._groups: dict[tuple[frozenset[Lane], bool], Group] = {}
        self._pairs = 0
        self._deflating = 0
        self._moving: dict[Client, None] = {}
        self._touched: list[Lane] = []

    @property
    def groups(self) -> int:
        """How many different sets of live streams clients have."""
        return len(self._groups)

    def publish(self, lane: Lane, frames: Sequence[bytes]) -> None:
        """These frames go to every live client of the lane with the next `flush`."""
        if not lane.turn:
            self._touched.append(lane)
        lane.turn.extend(frames)

    def enter(self, client: Client, stream: Stream, lane: Lane) -> None:
        """The client is live on the stream from the next turn on, and gets it as this lane of it."""
        self.flush()
        client.live[stream] = lane
        lane.members += 1
        self._moving[client] = None

    def leave(self, client: Client, streams: Iterable[Stream]) -> None:
        """The client is not live on these any more; what was published before this call has been sent to it."""
        self.flush()
        for stream in streams:
            lane = client.live.pop(stream, None)
            if lane is not None:
                lane.members -= 1
        self._moving[client] = None

    def remove(self, client: Client) -> None:
        """The client is gone; it needs no more of an open turn."""
        for lane in client.live.values():
            lane.members -= 1
        client.live.clear()
        self._moving.pop(client, None)
        self._regroup_one(client)

    def members(self, stream: Stream) -> list[Client]:
        """Every live client of the stream, on whatever lane."""
        self.flush()
        self._regroup()
        lanes: tuple[Lane, ...] = (stream, *stream.lanes.values())
        return [client for lane in lanes for group in lane.groups for client in group.members]

    def settle(self, client: Client) -> None:
        """Bring what is counted for a client up to date (`metered`)."""
        group = client.group
        if group is not None:
            client.used_messages += group.messages - client.base_messages
            client.used_bytes += group.bytes - client.base_bytes
            client.base_messages, client.base_bytes = group.messages, group.bytes

    def flush(self) -> None:
        """End the turn: one write to each client that has something coming."""
        touched = self._touched
        if not touched:
            return
        if self._moving:
            self._regroup()
        self._touched = []
        deliveries = reach = 0
        for lane in touched:
            frames, lane.turn = lane.turn, []
            groups = lane.groups
            if groups:
                lane.messages = count = len(frames)
                lane.run = frames[0] if count == 1 else b"".join(frames)
                deliveries += count * lane.followers
                reach += len(groups)
                if self._deflating and any(group.deflate for group in groups):
                    lane.deflated_run = deflated(lane.run)
        if reach:
            self.deliveries += deliveries
            if reach * _DENSE > self._pairs:
                self._write_groups()
            else:
                self._write_touched(touched)
            for lane in touched:
                lane.run = lane.deflated_run = b""
                lane.messages = 0

    def _write_groups(self) -> None:
        """Most groups have something of many of their lanes: build the batches group by group."""
        # A copy, since holding back may close a client, which takes it out of its group, and an empty group away.
        for group in tuple(self._groups.values()):
            batch = b"".join(map(_deflated_run if group.deflate else _run, group.lanes))
            if batch:
                self._write(group, batch)

    def _write_touched(self, touched: Iterable[Lane]) -> None:
        """Few have anything: build the batches lane by lane."""
        busy: list[Group] = []
        for lane in touched:
            run, deflated_run = lane.run, lane.deflated_run
            for group in lane.groups:
                parts = group.parts
                if not parts:
                    busy.append(group)
                parts.append(deflated_run if group.deflate else run)
        for group in busy:
            parts = group.parts
            group.parts = []
            self._write(group, parts[0] if len(parts) == 1 else b"".join(parts))

    def _write(self, group: Group, batch: bytes) -> None:
        members = group.members
        size = len(batch)
        self.bytes += size * len(members)
        if self._metered:
            group.bytes += size
            group.messages += sum(lane.messages for lane in group.lanes)
        for client in tuple(members):
            client.quiet = 0
            if client.paused:
                self._hold(client, batch)
            else:
                client.sink.write(batch)

    def _regroup(self) -> None:
        moving, self._moving = self._moving, {}
        for client in moving:
            self._regroup_one(client)

    def _regroup_one(self, client: Client) -> None:
        old = client.group
        lanes = frozenset(client.live.values())
        if old is not None:
            if old.key[0] == lanes:
                return
            self.settle(client)
            del old.members[client]
            for lane in old.lanes:
                lane.followers -= 1
            if not old.members:
                self._end(old)
        client.group = group = self._group((lanes, client.deflate), client) if lanes else None
        if group is not None:
            group.members[client] = None
            client.base_messages, client.base_bytes = group.messages, group.bytes
            for lane in group.lanes:
                lane.followers += 1

    def _end(self, group: Group) -> None:
        del self._groups[group.key]
        self._pairs -= len(group.lanes)
        self._deflating -= group.deflate
        for lane in group.lanes:
            del lane.groups[group]

    def _group(self, key: tuple[frozenset[Lane], bool], first: Client) -> Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(tuple(first.live.values()), key, key[1])
            self._pairs += len(group.lanes)
            self._deflating += group.deflate
            for lane in group.lanes:
                lane.groups[group] = None
        return group
