"""Streams, and the groups of clients that follow the same ones: what one turn of the fan-out is made of.

Messages of a turn are collected per stream (`publish`); `flush` makes one run of bytes per stream, one batch per group,
and writes once per client. Clients with the same set of live streams are one group, so a batch that a thousand clients
get is built once. Who comes and goes is noted and regrouped when the next turn begins: never while one is open, or a
client could miss or repeat what is in it (`flush` first, then change).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from lfmesh.core.hub_clients import Client, Join
from lfmesh.core.hub_snapshots import Cached, Holding, State, TradeIds
from lfmesh.types import Channel, Position, StreamKey


@dataclass(slots=True, eq=False)
class Stream:
    """One (product, channel) as the gateway knows it; `position` is that of the newest message published to clients."""

    key: StreamKey
    position: Position | None = None
    turn: list[bytes] = field(default_factory=list)
    groups: "dict[Group, None]" = field(default_factory=dict)
    followers: int = 0
    """Live clients, as of the last regrouping."""
    joins: dict[Client, Join] = field(default_factory=dict)
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
    awaiting: int = 0
    """Joins that wait for a position ahead of ours."""

    def __post_init__(self) -> None:
        if self.key.channel is Channel.TRADES:
            self.trades = TradeIds()

    def holding(self, position: Position) -> Holding:
        """What a client holds at a position."""
        return Holding(position, self.trades.at(position, self.position) if self.trades is not None else None)


@dataclass(slots=True, eq=False)
class Group:
    """Clients whose live streams are the same."""

    streams: frozenset[Stream]
    members: dict[Client, None] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)


class Fanout:
    """See the module's docstring. `hold` gets what can't be written to a client now."""

    def __init__(self, hold: Callable[[Client, bytes], None]) -> None:
        self.deliveries = 0
        self.bytes = 0
        self._hold = hold
        self._groups: dict[frozenset[Stream], Group] = {}
        self._moving: dict[Client, None] = {}
        self._touched: list[Stream] = []

    @property
    def groups(self) -> int:
        """How many different sets of live streams clients have."""
        return len(self._groups)

    def publish(self, stream: Stream, frames: Sequence[bytes]) -> None:
        """These frames go to every live client of the stream with the next `flush`."""
        if not stream.turn:
            self._touched.append(stream)
        stream.turn.extend(frames)

    def enter(self, client: Client, stream: Stream) -> None:
        """The client is live on the stream from the next turn on."""
        self.flush()
        client.live.add(stream)
        self._moving[client] = None

    def leave(self, client: Client, streams: Iterable[Stream]) -> None:
        """The client is not live on these any more; what was published before this call has been sent to it."""
        self.flush()
        client.live.difference_update(streams)
        self._moving[client] = None

    def remove(self, client: Client) -> None:
        """The client is gone; it needs no more of an open turn."""
        client.live.clear()
        self._moving.pop(client, None)
        self._regroup_one(client)

    def members(self, stream: Stream) -> list[Client]:
        """Every live client of the stream."""
        self.flush()
        self._regroup()
        return [client for group in stream.groups for client in group.members]

    def flush(self) -> None:
        """End the turn: one write to each client that has something coming."""
        touched = self._touched
        if not touched:
            return
        if self._moving:
            self._regroup()
        self._touched = []
        busy: list[Group] = []
        deliveries = 0
        for stream in touched:
            frames, stream.turn = stream.turn, []
            if not stream.groups:
                continue
            run = frames[0] if len(frames) == 1 else b"".join(frames)
            deliveries += len(frames) * stream.followers
            for group in stream.groups:
                parts = group.parts
                if not parts:
                    busy.append(group)
                parts.append(run)
        self.deliveries += deliveries
        for group in busy:
            parts = group.parts
            batch = parts[0] if len(parts) == 1 else b"".join(parts)
            group.parts = []
            self.bytes += len(batch) * len(group.members)
            # A copy, since holding back may close a client, which takes it out of its group.
            for client in tuple(group.members):
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
        key = frozenset(client.live)
        if old is not None:
            if old.streams == key:
                return
            del old.members[client]
            for stream in old.streams:
                stream.followers -= 1
            if not old.members:
                del self._groups[old.streams]
                for stream in old.streams:
                    del stream.groups[old]
        client.group = self._group(key) if key else None
        if client.group is not None:
            client.group.members[client] = None
            for stream in key:
                stream.followers += 1

    def _group(self, key: frozenset[Stream]) -> Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
            for stream in key:
                stream.groups[group] = None
        return group
