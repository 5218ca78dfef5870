"""What was published after a position, put together from retained units: the increments that make a join gapless.

And where nobody has all of that any more: the trades from the oldest on that is still to be had (`oldest_trades`).
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lfmesh.core import encode
from lfmesh.core.hub_frames import payload
from lfmesh.core.hub_snapshots import Holding, State, last_trade_id, state_of
from lfmesh.core.ring import Entry, ReplayRing
from lfmesh.types import Position, StreamKey

Ring = ReplayRing[StreamKey, Sequence[bytes]]
"""A unit's payload is its messages as WebSocket frames."""

_TS_PUBLISH = re.compile(rb'"ts_publish":([0-9]+)')

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


def link(units: Iterable[Unit], after: Position, until: Position) -> Run | None:
    """The frames that follow on `after`, without a hole, and not past `until`; None if there is a hole.

    Units at or before the position are skipped.
    """
    frames: list[bytes] = []
    at = after
    for unit in units:
        if (unit.epoch, unit.first_seq) > until:
            break
        step = _step(unit, at, until)
        if step is None:
            return None
        fresh, at = step
        frames.extend(fresh)
    return Run(frames, at)


def link_archived(units: Iterable[Unit], after: Holding, until: Position, *, trades: bool) -> Run:
    """The frames that follow on what a client holds as far as there is no hole, and not past `until`.

    Beside what was published an archive holds what a replaced publisher has said, which leads nowhere, and snapshots
    that took the place of lost messages. A run ends before the latter, and (of `trades`) before an epoch whose trades
    are older than those before it.
    """
    frames: list[bytes] = []
    at, held = after
    for unit in units:
        if (unit.epoch, unit.first_seq) > until:
            break
        step = _step(unit, at, until)
        if step is None:
            break
        fresh, then = step
        if fresh and unit.snapshot:
            if frames and trades:
                held = last_trade_id(payload(frames[-1]))
            newest = last_trade_id(payload(fresh[-1])) if trades else None
            if unit.first_seq or (held is not None and newest is not None and newest < held):
                break
        frames.extend(fresh)
        at = then
    return Run(frames, at)


def _step(unit: Unit, at: Position, until: Position) -> tuple[Sequence[bytes], Position] | None:
    """What of a unit comes after a position, and where the stream stands then; None if there is a hole before it."""
    here = Position(unit.epoch, unit.first_seq)
    if unit.snapshot:
        if here <= at:
            return (), at
        return (unit.frames, here) if _follows(unit, at) else None
    last = Position(unit.epoch, unit.first_seq + len(unit.frames) - 1)
    if last <= at:
        return (), at
    if unit.epoch != at.epoch or unit.first_seq > at.seq + 1:
        return None
    last = min(last, until)
    return unit.frames[at.seq + 1 - unit.first_seq : last.seq + 1 - unit.first_seq], last


def _follows(unit: Unit, at: Position) -> bool:
    """True if a snapshot comes next at a position: there the stream stood before it, or it opens an epoch, and stood
    in that of the position, short of it (who went on from there had heard less of it)."""
    before = unit.previous
    return before is not None and (before == at or (before.epoch == at.epoch < unit.epoch and before < at))


def after(ring: Ring, key: StreamKey, position: Position, max_bytes: int = 0) -> Run | None:
    """What the ring has after a position (not the newest one of the stream), or None where it can't serve that."""
    entries = ring.since(key, position, max_bytes)
    if entries is None:
        return None
    # What the ring gives has no hole; what overlaps, it may.
    frames: list[bytes] = []
    epoch, seq = position
    for entry in entries:
        payload = entry.payload
        known = seq + 1 - entry.first_seq if entry.epoch == epoch and not entry.snapshot else 0
        frames.extend(payload[known:] if known > 0 else payload)
        epoch, seq = entry.epoch, entry.last_seq
    return Run(frames, Position(epoch, seq))


def over_gap(ring: Ring, key: StreamKey, position: Position) -> bool:
    """True if what the ring has after a position begins with a snapshot of its epoch, which healed a gap."""
    entries = ring.since(key, position, 1)
    return any(entry.snapshot and entry.epoch == position.epoch for entry in entries or ())


def retained(ring: Ring, key: StreamKey, position: Position) -> Iterable[Unit]:
    """All that the ring has of a stream after a position, or, where it has not got all of that, all that it has."""
    return map(_unit, ring.since(key, position) or ring.retained(key))


def oldest_trades(units: Iterable[Unit], after: Position, count: int) -> State | None:
    """The first trades snapshot that can be made of units that begin some time after a position.

    Its state holds the first `count` trades of the units, the latest at that time, or is that of the snapshot with
    which they begin. None where they do not begin after the position, or are too few: then a later state has more.
    """
    fields: list[str] = []
    epoch = 0
    for unit in units:
        if not fields:
            epoch = unit.epoch
            if Position(epoch, unit.first_seq) <= after:
                return None
            if unit.snapshot:
                return _state(unit)
        elif unit.snapshot:
            return None
        for seq, frame in enumerate(unit.frames, unit.first_seq):
            fields.append(encode.fields_of(payload(frame)).decode())
            if len(fields) == count:
                return State(Position(epoch, seq), 0, _ts_publish(frame), (encode.trades_state(fields).encode(),))
    return None


def first_snapshot(units: Iterable[Unit], after: Position) -> State | None:
    """The state of the snapshot with which units begin, some time after a position; None if they don't."""
    for unit in units:
        here = Position(unit.epoch, unit.first_seq if unit.snapshot else unit.first_seq + len(unit.frames) - 1)
        if here > after:
            return _state(unit) if unit.snapshot else None
    return None


def _state(unit: Unit) -> State:
    return state_of(Position(unit.epoch, unit.first_seq), 0, [payload(frame) for frame in unit.frames])


def _ts_publish(frame: bytes) -> int:
    found = _TS_PUBLISH.search(frame)
    assert found is not None
    return int(found[1])


def _unit(entry: Entry[Sequence[bytes]]) -> Unit:
    return Unit(entry.epoch, entry.first_seq, entry.snapshot, entry.previous, entry.payload)
