"""When each client of a gateway that ends is told to go, and when it is closed: one after the other, not all at once.

    0 ──────────────── drain/2 ─────────────── drain
    goaway, first … last
                       close, first … last

Each has half of the drain time to come to another gateway while this one still serves it. `reconnect_ms` spreads those
out who are told at nearly the same time, so that the others are not overrun.
"""

from typing import NamedTuple

_JOINS_PER_S = 1000
"""What other gateways can be expected to take in at once."""
_LEAST_SPREAD_S = 0.1
_GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole part, lie evenly however many are taken."""


class Departure(NamedTuple):
    """One client's: times in seconds since the drain began."""

    goaway_at_s: float
    close_at_s: float
    reconnect_ms: int


def departures(clients: int, drain_s: float) -> list[Departure]:
    """For so many clients, in the order in which they go."""
    half = drain_s / 2
    spread_s = max(drain_s / 4, clients / _JOINS_PER_S, _LEAST_SPREAD_S)
    found = []
    for number in range(clients):
        goaway_at_s = number / clients * half
        found.append(Departure(goaway_at_s, goaway_at_s + half, round(number * _GOLDEN % 1 * spread_s * 1000)))
    return found
