"""Short rounds in turns: every contender at saturation for a moment, again and again, and the middle of what came out.

These machines are shared: what slows one contender's round slows the next one's as well. So ratios are formed within a
turn, and of several turns the median is taken.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from loadgen.bench.counters import Counters
from loadgen.bench.process import BenchmarkFailed, median, until

RAMP_S = 0.4
"""From the start of a round until it is measured."""
_STILL_S = 0.05


class Contender(Protocol):
    """A server with clients that only waits for the word."""

    name: str
    slots: slice
    """Its clients' places in the counters."""
    each: int
    """Bytes that one message is at a client."""

    def start(self) -> None:
        """Send as fast as the clients take it."""

    def rest(self) -> None:
        """Stop that."""

    def cpu_s(self) -> float:
        """Processor time of the server (not of who publishes to it)."""


class Round(NamedTuple):
    """One contender's, once: deliveries a second by the clock, and a second of the server's processor time."""

    per_s: float
    per_cpu_s: float


class Rounds(NamedTuple):
    """All of a contender's. A ratio is the median of those to the other one's round of the same turn."""

    rounds: tuple[Round, ...]

    @property
    def per_s(self) -> float:
        """Median by the clock."""
        return median(one.per_s for one in self.rounds)

    @property
    def per_cpu_s(self) -> float:
        """Median by the server's processor time."""
        return median(one.per_cpu_s for one in self.rounds)

    def times(self, other: "Rounds") -> float:
        """How many times the other's deliveries by the clock."""
        return median(one.per_s / two.per_s for one, two in zip(self.rounds, other.rounds, strict=True))

    def times_by_cpu(self, other: "Rounds") -> float:
        """How many times the other's deliveries by processor time."""
        return median(one.per_cpu_s / two.per_cpu_s for one, two in zip(self.rounds, other.rounds, strict=True))


def one_round(contender: Contender, counters: Counters, seconds: float, ramp_s: float = RAMP_S) -> Round:
    """Start, wait until it runs steadily, measure, stop, wait until all has arrived."""
    received = counters.values[contender.slots]
    contender.start()
    try:
        time.sleep(ramp_s)
        began, cpu, got = time.perf_counter(), contender.cpu_s(), sum(received)
        time.sleep(seconds)
        took, cpu, got = time.perf_counter() - began, contender.cpu_s() - cpu, sum(received) - got
    finally:
        contender.rest()
    if not got or cpu <= 0:
        raise BenchmarkFailed(f"{contender.name} delivered nothing")
    still(received, contender.name)
    deliveries = got / contender.each
    return Round(deliveries / took, deliveries / cpu)


def still(received: memoryview, name: str) -> None:
    """Wait until nothing arrives any more."""
    seen = -1

    def arrived() -> bool:
        nonlocal seen
        before, seen = seen, sum(received)
        return before == seen

    until(arrived, f"what {name} had sent", every_s=_STILL_S)


def alternate(
    contenders: Sequence[Contender],
    counters: Counters,
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
) -> dict[str, Rounds]:
    """`rounds` of each, in turns, by name; `tell` hears of each."""
    seen: dict[str, list[Round]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            found = one_round(contender, counters, seconds)
            tell(f"{contender.name}: {found.per_s:,.0f}/s, {found.per_cpu_s:,.0f} a second of processor time")
            seen[contender.name].append(found)
    return {name: Rounds(tuple(found)) for name, found in seen.items()}
