"""What was published after a position, put together from retained units: the increments that make a join gapless."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lfmesh.core.ring import ReplayRing
from lfmesh.types import Position, StreamKey

Ring = ReplayRing[StreamKey, Sequence[bytes]]
"""A unit's payload is its messages as WebSocket frames."""

ENTRY_OVERHEAD_BYTES = 400
"""What a retained unit costs beside its messages."""


class Unit(NamedTuple):
    """Increments first_seq, first_seq + 1, … of an epoch, or (snapshot) the parts of the state at (epoch, first_seq).

    `previous` is where the stream stood before a snapshot, None where that is unknown.
    """

    epoch: int
    first_seq: int
    snapshot: bool
    previous: Position | None
    frames: Sequence[bytes]


class Run(NamedTuple):
    """Frames in order, and where the stream stands after the last of them."""

    frames: list[bytes]
    end: Position


def link(units: Iterable[Unit], after: Position, until: Position | None = None, max_bytes: int = 0) -> Run | None:
    """The frames that follow on `after`, without a hole, and not past `until`; None if there is a hole.

    Ends after the unit with which `max_bytes` are reached (0: no bound). Units at or before the position are skipped.
    """
    frames: list[bytes] = []
    at = after
    size = 0
    for unit in units:
        here = Position(unit.epoch, unit.first_seq)
        if until is not None and here > until:
            break
        if unit.snapshot:
            if here <= at:
                continue
            if unit.previous != at:
                return None
            fresh: Sequence[bytes] = unit.frames
            at = here
        else:
            last = Position(unit.epoch, unit.first_seq + len(unit.frames) - 1)
            if last <= at:
                continue
            if unit.epoch != at.epoch or unit.first_seq > at.seq + 1:
                return None
            if until is not None and last > until:
                last = until
            fresh = unit.frames[at.seq + 1 - unit.first_seq : last.seq + 1 - unit.first_seq]
            at = last
        frames.extend(fresh)
        if max_bytes:
            size += sum(map(len, fresh))
            if size >= max_bytes:
                break
    return Run(frames, at)


def after(ring: Ring, key: StreamKey, position: Position, max_bytes: int = 0) -> Run | None:
    """What the ring has after a position (not the newest one of the stream), or None where it can't serve that."""
    entries = ring.since(key, position)
    if entries is None:
        return None
    return link(
        (Unit(entry.epoch, entry.first_seq, entry.snapshot, entry.previous, entry.payload) for entry in entries),
        position,
        max_bytes=max_bytes,
    )
