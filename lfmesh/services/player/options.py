"""How a player plays."""

from dataclasses import dataclass

TURN_LINES = 1024
TURN_BYTES = 512 * 1024
"""A turn of the loop plays no more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayOptions:
    """`speed` None: as fast as it is taken. `waits`: until a client has subscribed. `loop`: from the start again after
    the end. `skip_gaps_ns`: longer pauses in the data are cut to this (the archive's time); None: they are waited out.
    `retry_s`: after this an archive that could not be read is tried again. `turn_lines`: most that a turn plays.
    """

    speed: float | None = 1.0
    waits: bool = True
    loop: bool = False
    skip_gaps_ns: int | None = None
    retry_s: float = 1.0
    turn_lines: int = TURN_LINES
