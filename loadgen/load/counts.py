"""What one process saw, in a form that can be sent and added up."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from loadgen.client.latency import Histogram
from loadgen.load.sampler import Latencies


class Spread(msgspec.Struct):
    """A histogram (`loadgen.client.latency`) on its way between processes; ns."""

    buckets: dict[int, int] = {}
    count: int = 0
    max: int = 0

    @classmethod
    def of(cls, histogram: Histogram) -> "Spread":
        """What a histogram holds."""
        return cls(dict(histogram.buckets), histogram.count, histogram.max)

    def histogram(self) -> Histogram:
        """The histogram again."""
        found = Histogram()
        found.buckets = dict(self.buckets)
        found.count, found.max = self.count, self.max
        return found


class GroupCounts(msgspec.Struct):
    """Clients of one behaviour; `deliveries` (increments) and `bytes` while it was measured.

    `refused`: connections, by HTTP status or why; `closes`: connections that the gateway ended, by code; `outcomes`: of
    slow and stalled clients, what became of each.
    """

    clients: int = 0
    joined: int = 0
    connections: int = 0
    deliveries: int = 0
    bytes: int = 0
    refused: dict[str, int] = {}
    closes: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    ingest: Spread = msgspec.field(default_factory=Spread)
    publish: Spread = msgspec.field(default_factory=Spread)


class Counts(msgspec.Struct):
    """A process's part of a run. Spreads in ns; `snapshots`, `violations` and the rest are of checked clients.

    `connect`: to the end of the handshake; `first`: from the request to the first data; `join`: to when all streams had
    begun; `rejoin`: from a loss (or `drop_all_after_s`) to when what was followed came again. `refused_by`: the first
    refusals in words.
    """

    groups: dict[str, GroupCounts] = {}
    duration_s: float = 0.0
    checked: int = 0
    checked_messages: int = 0
    connect: Spread = msgspec.field(default_factory=Spread)
    first: Spread = msgspec.field(default_factory=Spread)
    join: Spread = msgspec.field(default_factory=Spread)
    rejoin: Spread = msgspec.field(default_factory=Spread)
    dropped: int = 0
    rejoined: int = 0
    snapshots: dict[str, int] = {}
    statuses: dict[str, int] = {}
    merged: int = 0
    trades_missing: int = 0
    violations: dict[str, int] = {}
    first_violations: list[str] = []
    errors: dict[str, int] = {}
    refused_by: list[str] = []
    compared: int = 0
    differing: int = 0
    differences: list[str] = []
    told: dict[str, int] = {}
    cpu_s: float = 0.0
    rss_bytes: int = 0


def add(into: dict[str, int], counts: Mapping[str, int]) -> None:
    """Add counts by name."""
    for name, count in counts.items():
        if count:
            into[name] = into.get(name, 0) + count


def merged(parts: Iterable[Spread]) -> Histogram:
    """Several histograms as one."""
    total = Histogram()
    for part in parts:
        total.add(part.histogram())
    return total


class Group:
    """Clients of one behaviour, while they run."""

    __slots__ = ("closes", "connections", "joining", "latencies", "refused")

    def __init__(self) -> None:
        self.connections = 0
        self.refused: Counter[str] = Counter()
        self.closes: Counter[str] = Counter()
        self.joining = Latencies()
        """Before it is measured."""
        self.latencies = Latencies()
