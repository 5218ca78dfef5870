"""What everybody who follows a publisher may have to tell of: gaps that open and close, and what can't be read."""

from dataclasses import dataclass

from lfmesh.types import Position, StreamKey


@dataclass(frozen=True, slots=True)
class GapFound:
    """A stream misses what comes after `last`."""

    stream: StreamKey
    last: Position | None
    seen: Position


@dataclass(frozen=True, slots=True)
class GapHealed:
    """A stream is whole again; at a gateway by "snapshot" if its clients could not be given what was missing."""

    stream: StreamKey
    rung: str
    open_ms: float


@dataclass(frozen=True, slots=True)
class BadInput:
    """Something that cannot be read; it was ignored."""

    what: str
    why: str
