"""Which clients of all gateways are the slowest, as the gateways tell. Pure."""

from collections.abc import Iterable

import msgspec

from lfmesh.messages import SlowClient, Telemetry

SHOWN = 10


class SlowRow(msgspec.Struct, frozen=True):
    """One slow client, as `lfmesh top --json` prints it; see `lfmesh.messages.SlowClient`.

    `gateway` is the instance that serves it. `lag_ms` is how long the oldest of what waits for it has waited.
    """

    gateway: str
    client: str
    lag_ms: float
    waiting_bytes: int
    conflated: int
    conflating: bool
    subscriptions: int


def slowest_of(telemetry: Iterable[Telemetry]) -> list[SlowRow]:
    """The slowest clients of these processes, the worst first, at most ten."""
    found = [_row(told.instance, client) for told in telemetry for client in told.slowest]
    found.sort(key=lambda row: (-row.lag_ms, -row.waiting_bytes, row.gateway, row.client))
    return found[:SHOWN]


def _row(gateway: str, told: SlowClient) -> SlowRow:
    return SlowRow(
        gateway, told.client, told.lag_ms, told.waiting_bytes, told.conflated, told.conflating, told.subscriptions
    )
