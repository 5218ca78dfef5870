"""Gateways that run as several worker processes, each a row of its own: one more row says what they do together."""

from collections.abc import Callable, Sequence

import msgspec

from lfmesh.top.state import Row, State
from lfmesh.types import Role

_WORST_FIRST: tuple[State, ...] = ("gone", "silent", "announced", "not ready", "ready")


def gateway_of(row: Row) -> str:
    """Name of the gateway of which this process is a worker (`gateway-0` of `gateway-0.1`); empty: it is none."""
    name, dot, number = row.instance.rpartition(".")
    return name if dot and number.isdecimal() and row.role is Role.GATEWAY else ""


def with_sums(rows: Sequence[Row]) -> list[Row]:
    """The rows, and after the workers of one gateway (there are two at least) one of all of them, without a pid.

    What they receive is not added up, since each of them receives everything.
    """
    workers: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if name := gateway_of(row):
            workers.setdefault((name, row.host, row.http), []).append(row)
    sums = {id(crew[-1]): _sum(key[0], crew) for key, crew in workers.items() if len(crew) > 1}
    shown = []
    for row in rows:
        shown.append(row)
        if id(row) in sums:
            shown.append(sums[id(row)])
    return shown


def _sum(name: str, crew: Sequence[Row]) -> Row:
    def of[T: (int, float)](how: Callable[[list[T]], T], values: list[T | None]) -> T | None:
        known = [value for value in values if value is not None]
        return how(known) if known else None

    return msgspec.structs.replace(
        crew[0],
        instance=f"{name} ×{len(crew)}",
        state=min((row.state for row in crew), key=_WORST_FIRST.index),
        reasons=[],
        pid=0,
        age_s=max(row.age_s for row in crew),
        restarts=sum(row.restarts for row in crew),
        messages_in_per_s=of(max, [row.messages_in_per_s for row in crew]),
        messages_out_per_s=of(sum, [row.messages_out_per_s for row in crew]),
        messages_in_total=of(max, [row.messages_in_total for row in crew]),
        messages_out_total=of(sum, [row.messages_out_total for row in crew]),
        lag_ms=of(max, [row.lag_ms for row in crew]),
        queue_messages=of(sum, [row.queue_messages for row in crew]),
        gaps=of(sum, [row.gaps for row in crew]),
        clients=of(sum, [row.clients for row in crew]),
        cpu_percent=of(sum, [row.cpu_percent for row in crew]),
        rss_bytes=of(sum, [row.rss_bytes for row in crew]),
        open_gaps=of(sum, [row.open_gaps for row in crew]),
        links_lost=of(sum, [row.links_lost for row in crew]),
        rungs={},
        draining=any(row.draining for row in crew),
    )
