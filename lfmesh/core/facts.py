"""What following a stream brings to light: the facts that a `Follower` (`core/recovery.py`) and a `Feed` return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lfmesh.types import Position

Rung = Literal["retransmit", "snapshot"]
Healer = Literal["late", "retransmit", "snapshot", "takeover"]
"""What closed a gap. late: the units came by themselves; retransmit: an answer brought them; snapshot: a state took
their place; takeover: the publisher was replaced, and its successor has nothing that we miss."""


@dataclass(frozen=True, slots=True)
class Accepted[T]:
    """Units first_seq, first_seq + 1, … of the epoch, next in order."""

    epoch: int
    first_seq: int
    items: Sequence[T]


@dataclass(frozen=True, slots=True)
class Opened[T]:
    """A published snapshot: the state is now what `items` (its parts) say, at `position`."""

    position: Position
    items: Sequence[T]


@dataclass(frozen=True, slots=True)
class Based:
    """The position was set from outside (a snapshotter's answer, a ring's start): state at `position` holds."""

    position: Position


@dataclass(frozen=True, slots=True)
class Dropped:
    """`count` units at or below our position (duplicate), of an older epoch or a replaced publisher (stale), or past
    a bound (overflow)."""

    count: int
    why: Literal["duplicate", "stale", "overflow"]


@dataclass(frozen=True, slots=True)
class GapOpened:
    """Units after `last` are missing; `seen` is the newest position known."""

    last: Position | None
    seen: Position


@dataclass(frozen=True, slots=True)
class GapClosed:
    """The gap is healed, by this rung, after `open_ns`.

    Without a `GapOpened` before it: a stream that was joined has its first state.
    """

    rung: Healer
    open_ns: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ask for everything after `after` (retransmit), or for a snapshot."""

    rung: Rung
    after: Position | None


type Fact[T] = Accepted[T] | Opened[T] | Based | Dropped | GapOpened | GapClosed | Wanted


@dataclass(frozen=True, slots=True)
class StaleTerm:
    """Of a `Feed`: `count` messages of a publisher that has been replaced; ignored."""

    term: int
    count: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """Of a `Feed`: what we hold of the stream, up to `position`, was published by a replaced publisher and is void.

    A snapshot follows, in this call or later; until then the stream has no state.
    """

    position: Position


@dataclass(frozen=True, slots=True)
class Told:
    """Of a `Feed`: the stream's status has changed; `message` as clients receive it.

    Repeats of the same are not told.
    """

    message: bytes
