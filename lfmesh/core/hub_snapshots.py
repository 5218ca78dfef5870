"""Snapshots as the gateway hands them to clients: framed once per reason, with the increments that came after them.

State comes from a snapshotter or a published epoch as JSON texts (one a part) and goes into messages unparsed. Only of
trades the ids are read, to declare what a client can't have any more (PROTOCOL, 4).

Which trades a client has follows from its position: within an epoch each trade has the id and the seq after those
before it. `TradeIds` remembers one pair of both for each epoch that was seen to end, or that an archive told of.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lfmesh.core import encode
from lfmesh.core.hub_frames import deflated_frames, text_frames
from lfmesh.types import Channel, Position, SnapshotReason, StreamKey

_TRADE_ID = b'"trade_id":'
_LAST_TRADE_ID = b'"last_trade_id":'
_TRADE_IDS = re.compile(rb'"trade_id":([0-9]+)')
_TS = re.compile(rb'"ts_snapshot":([0-9]+)')

Missing = tuple[int, int]
"""First and last trade id that can't be had any more."""


class State(NamedTuple):
    """State of one stream at `position`: `parts` are complete JSON objects, whose lists make up one state."""

    position: Position
    term: int
    ts: int
    parts: tuple[bytes, ...]


class Holding(NamedTuple):
    """What a client that gets a snapshot holds already: its position and, where known, its last trade's id."""

    position: Position
    trade_id: int | None = None


SOMETHING = Holding(Position(0, 0))
"""What a client holds to which something was sent, where it is not worth knowing what exactly."""

_REMEMBERED_EPOCHS = 64


def last_trade_id(text: bytes) -> int | None:
    """The id up to which no more trades come after a message or state of the trades channel; None: it does not tell."""
    at = text.rfind(_LAST_TRADE_ID)
    if at >= 0:
        return _number(text, at + len(_LAST_TRADE_ID))
    at = text.rfind(_TRADE_ID)
    return None if at < 0 else _number(text, at + len(_TRADE_ID))


def trade_ids(parts: Sequence[bytes]) -> list[int]:
    """Ids of the trades in a state, in their order."""
    return [int(found) for part in parts for found in _TRADE_IDS.findall(part)]


def _number(text: bytes, start: int) -> int:
    end = start
    while text[end : end + 1].isdigit():
        end += 1
    return int(text[start:end])


class TradeIds:
    """What is known of the ids of a trades stream's positions. `newest` is the message, or state, at its position."""

    __slots__ = ("_ends", "newest")

    def __init__(self) -> None:
        self.newest = b""
        self._ends: dict[int, tuple[int, int]] = {}

    def end_epoch(self, at: Position) -> None:
        """The stream stands at `at`, and leaves that epoch."""
        last = last_trade_id(self.newest)
        if last is not None:
            self._ends.pop(at.epoch, None)
            self._remember(at, last)

    def learn(self, position: Position, text: bytes) -> None:
        """A message, or state, that was published at a position of any epoch."""
        last = last_trade_id(text)
        if last is not None and position.epoch not in self._ends:
            self._remember(position, last)

    def at(self, position: Position, stands: Position | None) -> int | None:
        """The id of the last trade at a position, of the epoch in which the stream `stands` or of an earlier one."""
        known = self._ends.get(position.epoch)
        if stands is not None and position.epoch == stands.epoch:
            last = last_trade_id(self.newest)
            known = known if last is None else (stands.seq, last)
        return None if known is None else known[1] - (known[0] - position.seq)

    def _remember(self, at: Position, last: int) -> None:
        self._ends[at.epoch] = (at.seq, last)
        if len(self._ends) > _REMEMBERED_EPOCHS:
            del self._ends[next(iter(self._ends))]


def state_of(position: Position, term: int, messages: Sequence[bytes]) -> State:
    """The state inside a published snapshot's messages (made by `encode.snapshot`)."""
    stamp = _TS.search(messages[0])
    assert stamp is not None
    return State(position, term, int(stamp[1]), tuple(map(encode.state_of, messages)))


def missing_after(holding: Holding, state: State, listed: Sequence[int]) -> Missing | None:
    """Which trades after those that a client holds are not `listed` in a state; None if it lists them all.

    One range says it: where there are several holes, those in between are in it. Of a client whose epoch nobody knows
    any more one thing is certain: each seq was a trade, so its last one's id is at least its seq. More than that it
    may hold; clients know their own ids.
    """
    last = last_trade_id(state.parts[-1])
    if last is None:
        return None
    held = holding.trade_id
    if held is None:
        at, stands = holding.position, state.position
        held = at.seq if at.epoch != stands.epoch else max(at.seq, last - (stands.seq - at.seq))
    first = end = 0
    expected = held + 1
    for trade_id in listed:
        if trade_id >= expected:
            if trade_id > expected:
                first, end = first or expected, trade_id - 1
            expected = trade_id + 1
    if expected <= last:
        first, end = first or expected, last
    return (first, end) if first else None


class Cached:
    """A state with what was published after it, up to the stream's newest position: what a joining client gets.

    `came_at`: when the state came to us, by the clock of whoever drives the hub.
    """

    __slots__ = ("_frames", "_ids", "_joined", "_key", "_tail", "came_at", "size", "state", "tail_bytes")

    def __init__(self, key: StreamKey, state: State, tail: Sequence[bytes] = (), came_at: int = 0) -> None:
        self.state = state
        self.came_at = came_at
        self.size = sum(map(len, state.parts))
        self.tail_bytes = 0
        self._key = key
        self._frames: dict[tuple[SnapshotReason, Missing | None, bool], tuple[bytes, ...]] = {}
        self._tail: list[bytes] = []
        self._joined: bytes | None = None
        self._ids: list[int] | None = None
        self.extend(tail)

    def extend(self, frames: Sequence[bytes]) -> None:
        """These frames were published after all of the others."""
        if frames:
            self._tail.extend(frames)
            self.tail_bytes += sum(map(len, frames))
            self._joined = None

    def frames(
        self, reason: SnapshotReason, holding: Holding | None = None, *, deflate: bool = False
    ) -> tuple[bytes, ...]:
        """The snapshot's parts as frames, shared by all who get it for the same reason and miss the same.

        `deflate`: compressed, but for snapshots of several parts: a big book would hold up everybody else for a tenth
        of a second.
        """
        missing = None
        if holding is not None and self._key.channel is Channel.TRADES:
            if self._ids is None:
                self._ids = trade_ids(self.state.parts)
            missing = missing_after(holding, self.state, self._ids)
        position, _, ts, parts = self.state
        deflate = deflate and len(parts) == 1
        known = self._frames.get((reason, missing, deflate))
        if known is None:
            product, channel = self._key
            messages = encode.snapshot(product, channel, position, ts, reason, parts, missing)
            known = tuple(deflated_frames(messages) if deflate else text_frames(messages))
            if missing is None:  # the others are as many as clients; those are not kept
                self._frames[reason, missing, deflate] = known
        return known

    @property
    def held(self) -> Holding:
        """What a client holds at least when it has been given the beginning of this."""
        last = last_trade_id(self.state.parts[-1]) if self._key.channel is Channel.TRADES else None
        return Holding(self.state.position, last)

    def after(self, position: Position, until: Position) -> list[bytes] | None:
        """The frames after a position of the state's epoch that is ahead of the state, up to where the stream stands;
        None for any other position."""
        (epoch, seq), stands = position, self.state.position
        if epoch != stands.epoch or epoch != until.epoch or not stands.seq < seq <= until.seq:
            return None
        if len(self._tail) != until.seq - stands.seq:
            return None  # a snapshot is among them
        return self._tail[seq - stands.seq :]

    @property
    def tail_frames(self) -> Sequence[bytes]:
        """The frames after the snapshot, one by one."""
        return self._tail

    def tail(self) -> bytes:
        """The frames after the snapshot as one run of bytes, empty if there are none."""
        if self._joined is None:
            self._joined = b"".join(self._tail)
        return self._joined
