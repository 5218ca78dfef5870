"""Snapshots as the gateway hands them to clients: framed once per reason, with the increments that came after them.

State comes from a snapshotter or a published epoch as JSON texts (one a part) and goes into messages unparsed. Only of
trades the ids of the first and the last one are read, to declare what a client can't have any more (PROTOCOL, 4).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lfmesh.core import encode
from lfmesh.core.hub_frames import text_frames
from lfmesh.types import Channel, Position, SnapshotReason, StreamKey

_TRADE_ID = b'"trade_id":'
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


def last_trade_id(text: bytes) -> int | None:
    """The last trade's id in a message or state of the trades channel."""
    at = text.rfind(_TRADE_ID)
    return None if at < 0 else _number(text, at + len(_TRADE_ID))


def first_trade_id(text: bytes) -> int | None:
    """The first trade's id in a message or state of the trades channel."""
    at = text.find(_TRADE_ID)
    return None if at < 0 else _number(text, at + len(_TRADE_ID))


def _number(text: bytes, start: int) -> int:
    end = start
    while text[end : end + 1].isdigit():
        end += 1
    return int(text[start:end])


def state_of(position: Position, term: int, messages: Sequence[bytes]) -> State:
    """The state inside a published snapshot's messages (made by `encode.snapshot`)."""
    stamp = _TS.search(messages[0])
    assert stamp is not None
    return State(position, term, int(stamp[1]), tuple(map(encode.state_of, messages)))


def missing_after(holding: Holding, state: State) -> Missing | None:
    """Which trades lie between what a client holds and the first trade of `state`; None if there are none.

    Within an epoch each trade has the id and the seq after those before it, so ids follow from positions. Of a
    position in another epoch nothing is known: then everything before the snapshot's first trade is declared.
    """
    first = first_trade_id(state.parts[0])
    last = last_trade_id(state.parts[-1])
    if first is None or last is None:
        return None
    held = holding.trade_id
    if held is None and holding.position.epoch == state.position.epoch:
        held = last - (state.position.seq - holding.position.seq)
    if held is None:
        held = 0
    return (held + 1, first - 1) if held + 1 < first else None


class Cached:
    """A state with what was published after it, up to the stream's newest position: what a joining client gets.

    `came_at`: when the state came to us, by the clock of whoever drives the hub.
    """

    __slots__ = ("_frames", "_joined", "_key", "_tail", "came_at", "size", "state", "tail_bytes")

    def __init__(self, key: StreamKey, state: State, tail: Sequence[bytes] = (), came_at: int = 0) -> None:
        self.state = state
        self.came_at = came_at
        self.size = sum(map(len, state.parts))
        self.tail_bytes = 0
        self._key = key
        self._frames: dict[tuple[SnapshotReason, Missing | None], tuple[bytes, ...]] = {}
        self._tail: list[bytes] = []
        self._joined: bytes | None = None
        self.extend(tail)

    def extend(self, frames: Sequence[bytes]) -> None:
        """These frames were published after all of the others."""
        if frames:
            self._tail.extend(frames)
            self.tail_bytes += sum(map(len, frames))
            self._joined = None

    def frames(self, reason: SnapshotReason, holding: Holding | None = None) -> tuple[bytes, ...]:
        """The snapshot's parts as frames, shared by all who get it for the same reason and miss the same."""
        missing = None
        if holding is not None and self._key.channel is Channel.TRADES:
            missing = missing_after(holding, self.state)
        known = self._frames.get((reason, missing))
        if known is None:
            product, channel = self._key
            position, _, ts, parts = self.state
            known = tuple(text_frames(encode.snapshot(product, channel, position, ts, reason, parts, missing)))
            if missing is None:  # the others are as many as clients; those are not kept
                self._frames[reason, missing] = known
        return known

    def tail(self) -> bytes:
        """The frames after the snapshot as one run of bytes, empty if there are none."""
        if self._joined is None:
            self._joined = b"".join(self._tail)
        return self._joined
