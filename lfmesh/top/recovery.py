"""What a role's statistics say of its recovery: what is missing now, what mended it, which of a pair is at work. Pure.

Telemetry carries each role's `statistics()` as a plain dict. A role of another version may name or lack anything, so
figures are read by name, and what is not there, or is of another kind, is None or left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

_OPEN = ("streams_gapped", "streams_recovering", "followed_streams_gapped")
_BACKFILLS = ("backfills_waiting",)
_LINKS_LOST = ("links_lost_total", "links_rebuilt_total")
_RUNGS: Mapping[str, str] = {
    "replay_requests_total": "replay",
    "resync_requests_total": "resync",
    "resyncs_total": "resync",
    "rest_requests_total": "rest",
    "line_changes_total": "line change",
}
"""Counters that are one rung each, and its name."""
_RUNG_DICTS = ("recoveries_total", "followed_recoveries_total", "trades_recovered_total")
"""Counters that are divided by rung."""
_PUBLISHED, _TAKEOVERS, _ACTIVE, _DRAINING = "books_published", "takeovers_total", "active", "draining"
NAMES = frozenset(
    (*_OPEN, *_BACKFILLS, *_LINKS_LOST, *_RUNGS, *_RUNG_DICTS, _PUBLISHED, _TAKEOVERS, _ACTIVE, _DRAINING)
)
"""Every name that is looked for."""


class Recovery(msgspec.Struct, frozen=True):
    """One process's recovery; None: it says nothing of that kind.

    `active` tells which of a pair publishes. `open_gaps` are streams that miss something now, `backfills` are fetches
    from the venue under way, `links_lost` counts links that broke since the start, `takeovers` how often it took over
    from its peer. `published` are the products whose book is published now, by the ingestor that brings it. `rungs`
    counts what mended gaps since the start, by name. `draining` is true while clients are being sent away.
    """

    active: bool | None = None
    open_gaps: int | None = None
    backfills: int | None = None
    links_lost: int | None = None
    takeovers: int | None = None
    published: dict[str, int] = {}
    rungs: dict[str, int] = {}
    draining: bool | None = None


def recovery_of(statistics: Mapping[str, Any]) -> Recovery:
    """What a telemetry message's `statistics` say."""
    active, draining = _number(statistics.get(_ACTIVE)), _number(statistics.get(_DRAINING))
    return Recovery(
        active=None if active is None else bool(active),
        open_gaps=_sum(statistics, _OPEN),
        backfills=_sum(statistics, _BACKFILLS),
        links_lost=_sum(statistics, _LINKS_LOST),
        takeovers=_sum(statistics, (_TAKEOVERS,)),
        published=dict(_counts(statistics.get(_PUBLISHED))),
        rungs=_rungs(statistics),
        draining=None if draining is None else bool(draining),
    )


def _rungs(statistics: Mapping[str, Any]) -> dict[str, int]:
    """Only those that were needed."""
    found: dict[str, int] = {}
    for name, rung in _RUNGS.items():
        count = _number(statistics.get(name))
        if count:
            found[rung] = found.get(rung, 0) + count
    for name in _RUNG_DICTS:
        for rung, count in _counts(statistics.get(name)):
            found[rung] = found.get(rung, 0) + count
    return found


def _counts(value: object) -> Iterator[tuple[str, int]]:
    """The entries of a counter by label that are not 0."""
    if isinstance(value, Mapping):
        for label, count in value.items():
            if number := _number(count):
                yield str(label), number


def _sum(statistics: Mapping[str, Any], names: Sequence[str]) -> int | None:
    known = [number for name in names if (number := _number(statistics.get(name))) is not None]
    return sum(known) if known else None


def _number(value: object) -> int | None:
    """A whole number; a counter by label counts as its sum."""
    match value:
        case bool() | int() | float():
            return int(value)
        case Mapping():
            return sum(count for _, count in _counts(value))
        case _:
            return None
