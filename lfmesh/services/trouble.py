"""How those who follow a publisher log its gaps and what can't be read: snapshotter, gateway, standby normalizer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lfmesh.core.repeat import Repeats
from lfmesh.core.trouble import BadInput, GapFound, GapHealed
from lfmesh.types import StreamKey

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_NAMED_STREAMS = 3


def log_gaps(log: "FilteringBoundLogger", gaps: Sequence[GapFound | GapHealed]) -> None:
    """What opened in one line, and what closed in one: the loss of a connection opens a gap in every stream."""
    found = [gap for gap in gaps if isinstance(gap, GapFound)]
    healed = [gap for gap in gaps if isinstance(gap, GapHealed)]
    if found:
        names = [f"{name_of(gap.stream)} after {gap.last}" for gap in found[:_NAMED_STREAMS]]
        log.warning("gap opened", streams=len(found), first=names)
    if healed:
        names = [f"{name_of(gap.stream)} by {gap.rung}" for gap in healed[:_NAMED_STREAMS]]
        longest = max(gap.open_ms for gap in healed)
        log.info("gap closed", streams=len(healed), first=names, longest_ms=round(longest, 1))


def log_bad_input(log: "FilteringBoundLogger", repeats: Repeats, bad: BadInput, now: int) -> None:
    """One line of a kind and minute."""
    held_back = repeats.admit(bad.what, now)
    if held_back is not None:
        log.warning(f"unreadable {bad.what}", error=bad.why, held_back=held_back)


def name_of(stream: StreamKey) -> str:
    """A stream as log lines name it."""
    return f"{stream.product}.{stream.channel}"
